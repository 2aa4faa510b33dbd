"""Fine-tuning: mixing, smoothing, drop path and layer decay against slow copies of what they say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from openjepa.data.views import Crop
from openjepa.errors import ConfigError, DataError
from openjepa.methods.finetune import FineTune, FineTuneConfig
from openjepa.optim import OptimConfig, Optimizer
from openjepa.vision.transformer import drop_path
from openjepa.vision.vit import ViTConfig

ENCODER = ViTConfig((16, 16), 4, width=16, depth=3, heads=2)
PLAIN = FineTuneConfig(ENCODER, num_classes=5, crop=Crop(scale=(1.0, 1.0), aspect=(1.0, 1.0)), rand_magnitude=0.0)


def batch_of(config, count=6, first=0, step=3):
    views = FineTune(config).views
    images = [np.full((16, 16, 3), 30 * i, np.uint8) for i in range(first, first + count)]
    samples = [views.sample(image, np.random.default_rng(first + i), (first + i) % 5) for i, image in enumerate(images)]
    return views.collate(samples, seed=7, step=step, first=first)


def test_the_loss_is_the_smoothed_cross_entropy_of_the_mixture():
    config = replace(PLAIN, mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    method = FineTune(config).double()
    method.head.weight.data.normal_()
    batch = batch_of(config)
    assert (batch.shares < 1).any()
    logs = method.logits(batch.images).log_softmax(dim=1).detach()
    total = 0.0
    for i in range(6):
        share_of_own = float(batch.shares[i])
        for label, share in ((int(batch.labels[i]), share_of_own), (int(batch.others[i]), 1 - share_of_own)):
            for c in range(5):
                target = (0.9 if c == label else 0.0) + 0.1 / 5
                total -= share * target * float(logs[i, c])
    assert method(batch, 0.5)["loss"].item() == pytest.approx(total / 6, abs=1e-7)


def test_mixup_blends_with_the_neighbour_and_cutmix_pastes_a_box_of_it():
    batch = batch_of(replace(PLAIN, mixup=0.8))
    for i in range(6):
        own, other, share = 30 * i, 30 * (i ^ 1), float(batch.shares[i])
        assert np.allclose(batch.images[i], share * own + (1 - share) * other, atol=0.51)
        assert int(batch.others[i]) == (i ^ 1) % 5
    batch = batch_of(replace(PLAIN, cutmix=1.0))
    for i in range(6):
        pixels = batch.images[i, 0].numpy()
        assert set(np.unique(pixels)) <= {30 * i, 30 * (i ^ 1)}
        assert float(batch.shares[i]) == pytest.approx((pixels == 30 * i).mean())
    assert (batch.shares < 1).any()


def test_a_batch_in_two_parts_is_mixed_as_the_whole():
    config = replace(PLAIN, mixup=0.8, cutmix=1.0, drop_path=0.4)
    whole, parts = batch_of(config, 8), [batch_of(config, 4, first) for first in (0, 4)]
    for name in ("images", "labels", "others", "shares", "branches"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))


def test_a_share_that_begins_with_an_odd_image_cannot_be_mixed_as_the_whole():
    with pytest.raises(ConfigError, match="even"):
        batch_of(replace(PLAIN, mixup=0.8), 3, first=3)
    batch_of(PLAIN, 3, first=3)


def test_drop_path_leaves_out_the_share_it_says_and_keeps_the_mean():
    scales = np.stack([drop_path(np.random.default_rng(i), 3, 0.5) for i in range(4000)])
    for block, rate in enumerate((0.0, 0.25, 0.5)):
        assert (scales[:, block] == 0).mean() == pytest.approx(rate, abs=0.02)
        assert scales[:, block].mean() == pytest.approx(1, abs=0.04)


def test_an_image_whose_branches_are_all_left_out_is_its_embedding():
    method = FineTune(replace(PLAIN, drop_path=0.4))
    images = method.student.normalise(batch_of(PLAIN).images)
    none = torch.zeros(6, 3, 2)
    embedded = method.student.embed(method.student.patches(images)) + method.student.positions((4, 4))
    (tokens,) = method.student.encode(images, branches=none)
    assert torch.allclose(tokens, method.student.norm(embedded))
    (usual,), (kept,) = method.student.encode(images), method.student.encode(images, branches=none + 1)
    assert torch.equal(usual, kept)


def test_layer_decay_reaches_every_parameter():
    method = FineTune(replace(PLAIN, layer_decay=0.5))
    optimizer = Optimizer(method, OptimConfig(lr=1.0, warmup=0.0, lr_end=1.0), method.lr_scale)
    method(batch_of(PLAIN), 0.0)["loss"].backward()
    optimizer.step(0.0, torch.tensor(0.0))
    rates = {id(p): group["lr"] for group in optimizer.adamw.param_groups for p in group["params"]}
    rate = {name: rates[id(p)] for name, p in method.named_parameters()}
    assert rate["head.weight"] == rate["student.norm.bias"] == 1.0
    assert [rate[f"student.blocks.{i}.mlp.fc1.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert rate["student.embed.weight"] == 0.0625


def test_it_learns_what_a_batch_shows():
    torch.manual_seed(0)
    config = replace(PLAIN, label_smoothing=0.0, layer_decay=1.0)
    method = FineTune(config)
    optimizer = Optimizer(method, OptimConfig(lr=1e-2, warmup=0.0, weight_decay=0.0), method.lr_scale)
    batch = batch_of(config, 5)
    losses = []
    for _ in range(150):
        outputs = method(batch, 0.0)
        outputs["loss"].backward()
        optimizer.step(0.0, outputs["loss"])
        losses.append(outputs["loss"].item())
    assert losses[0] == pytest.approx(math.log(5), abs=1e-3), "a head of nearly zero says nothing"
    assert losses[-1] < 0.3
    assert float(outputs["accuracy"]) == 1.0
    assert method.energy(batch, batch.images.roll(1, 0)).mean() > 3 * method.energy(batch).mean()


def test_bad_settings_are_all_named_at_once():
    config = replace(PLAIN, mixup=-1.0, label_smoothing=1.0, layer_decay=0.0, num_classes=1)
    with pytest.raises(ConfigError) as raised:
        FineTune(config)
    for name in ("mixup", "label_smoothing", "layer_decay", "num_classes"):
        assert name in str(raised.value)
    grey = replace(ENCODER, mean=(0.5, 0.5), std=(0.2, 0.2))
    assert "1 or 3 channels" in " ".join(replace(PLAIN, encoder=grey, rand_magnitude=5.0).mistakes())


def test_an_image_without_a_label_is_refused():
    with pytest.raises(DataError, match="label"):
        FineTune(PLAIN).views.sample(np.zeros((16, 16, 3), np.uint8), np.random.default_rng(0), None)
