"""I-JEPA, against one image and one block at a time, in float64."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from openjepa.data.views import Crop
from openjepa.errors import ConfigError
from openjepa.masking import MultiBlock, Official, Random, Rasterized, SingleBlock
from openjepa.methods import IJEPA, IJEPAConfig
from openjepa.methods.ijepa import patch_mean
from openjepa.methods.regularisers import sigreg, variance_covariance
from openjepa.vision.predictor import PredictorConfig
from openjepa.vision.vit import ViTConfig

PATCH, GRID, NUM_IMAGES = 4, (4, 8), 2
TINY = IJEPAConfig(
    encoder=ViTConfig((GRID[0] * PATCH, GRID[1] * PATCH), PATCH, width=16, depth=3, heads=2),
    predictor=PredictorConfig(width=16, depth=2, heads=2),
    masking=MultiBlock(num_targets=3, min_context=2),
)
DISTANCES = {"l2": lambda d: d * d, "l1": abs, "smooth_l1": lambda d: d * d / 2 if abs(d) < 1 else abs(d) - 0.5}
pytestmark = pytest.mark.usefixtures("float64")


def images_of(config, count=NUM_IMAGES, seed=0):
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, config.encoder.channels, *config.encoder.image_size), dtype=np.uint8))


def made(config, stir, count=NUM_IMAGES):
    """A method whose teacher is no longer its student, and a batch."""
    method = stir(IJEPA(config))
    return method, method.views.collate(images_of(config, count), seed=1, step=2, first=0)


def kept(index, valid):
    return index if valid is None else index[valid]


def slow_norm(x):
    return (x - x.mean()) / (((x - x.mean()) ** 2).mean() + 1e-5).sqrt()


def slow_targets(method, image, index):
    """Normalised (1, C, H, W) and the patches of one block, to a list of vectors."""
    config = method.config
    if config.target == "pixels":
        corners = [(PATCH * (i // GRID[1]), PATCH * (i % GRID[1])) for i in index.tolist()]
        vectors = [image[0, :, y : y + PATCH, x : x + PATCH].flatten() for y, x in corners]
    else:
        if config.target == "output":
            layers = [x[0, index] for x in method.teacher.encode(image, num_layers=config.target_layers)]
        else:
            layers = [x[0] for x in method.teacher.encode(image, index[None], num_layers=config.target_layers)]
        if len(layers) > 1:
            layers = [torch.stack([slow_norm(vector) for vector in x]) for x in layers]
        vectors = list(sum(layers) / len(layers))
    return [slow_norm(vector) for vector in vectors] if config.target_norm else vectors


@torch.no_grad()
def slow_energies(method, batch, target_images):
    """(R, M) floats: mean over a block's patches and features of the distance."""
    masks, distance = batch.masks, DISTANCES[method.config.loss]
    draws = len(masks.context) // len(batch.images)
    energies = []
    for row in range(len(masks.context)):
        image, other = (
            (pixels[row // draws][None].double() / 255 - method.student.mean) / method.student.std
            for pixels in (batch.images, target_images)
        )
        context = kept(masks.context[row], None if masks.context_valid is None else masks.context_valid[row])
        (tokens,) = method.student.encode(image, context[None])
        energies.append([])
        for block in range(masks.targets.shape[1]):
            valid = None if masks.target_valid is None else masks.target_valid[row, block]
            index = kept(masks.targets[row, block], valid)
            predictions = method.predictor(tokens, context[None], index[None, None])[0, 0]
            targets = slow_targets(method, other, index)
            pairs = zip(predictions.flatten().tolist(), torch.cat(targets).tolist(), strict=True)
            distances = [distance(p - y) for p, y in pairs]
            energies[-1].append(sum(distances) / len(distances))
    return torch.tensor(energies)


TARGETS = [("output", 1), ("output", 3), ("input", 1), ("input", 3), ("pixels", 1)]


@pytest.mark.parametrize(("context", "draws"), [("fixed", 1), ("all", 3)])
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])
@pytest.mark.parametrize(("target", "layers"), TARGETS)
@pytest.mark.parametrize("loss", DISTANCES)
def test_the_loss_is_the_mean_over_images_and_blocks(stirred, loss, target, layers, norm, context, draws):
    masking = replace(TINY.masking, context=context)
    config = replace(TINY, loss=loss, target=target, target_layers=layers, target_norm=norm, masking=masking)
    method, batch = made(replace(config, masks_per_image=draws), stirred)
    assert batch.masks.target_valid is not None
    assert not batch.masks.target_valid.all()
    assert (batch.masks.context_valid is not None) == (context == "all")
    expected = slow_energies(method, batch, batch.images)
    outputs = method(batch, 0.5)
    assert set(outputs) == {"loss", "energy"}
    assert outputs["loss"].item() == pytest.approx(expected.mean().item(), rel=1e-10)
    assert outputs["energy"] == outputs["loss"]
    torch.testing.assert_close(method.energy(batch), expected, rtol=1e-10, atol=0)
    others = batch.images.flip(0)
    crossed = method.energy(batch, others)
    torch.testing.assert_close(crossed, slow_energies(method, batch, others), rtol=1e-10, atol=0)
    assert not torch.isclose(crossed, expected).any()


@pytest.mark.parametrize("masking", [Official(), Rasterized(), SingleBlock(), Random()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("target", ["output", "input"])
def test_the_loss_on_other_masks(stirred, masking, target):
    method, batch = made(replace(TINY, masking=masking, target=target), stirred)
    expected = slow_energies(method, batch, batch.images)
    torch.testing.assert_close(method.energy(batch), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("target", "layers"), TARGETS)
def test_gradients_reach_student_and_predictor_only(stirred, target, layers):
    method, batch = made(replace(TINY, target=target, target_layers=layers), stirred)
    method(batch, 0.5)["loss"].backward()
    for name, parameter in method.named_parameters():
        if name.startswith("teacher."):
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert parameter.grad.abs().max() > 1e-12, name
    assert method.encoder is method.teacher
    assert method.context_encoder is method.student


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("context", ["fixed", "all"])
def test_gradients_of_the_parts_add_up_to_those_of_the_batch(stirred, size, context):
    config = replace(TINY, masking=replace(TINY.masking, context=context), masks_per_image=2)
    method, batch = made(config, stirred, count=5)
    method(batch, 0.5)["loss"].backward()
    trainable = [parameter for parameter in method.parameters() if parameter.requires_grad]
    whole = [parameter.grad.clone() for parameter in trainable]
    method.zero_grad()
    for part in batch.split(size):
        (method(part, 0.5)["loss"] * len(part.images) / 5).backward()
    for expected, parameter in zip(whole, trainable, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-14)


def test_the_teacher_starts_as_a_copy_and_follows(stirred):
    method = IJEPA(replace(TINY, momentum=(0.9, 0.98)))
    pairs = list(zip(method.teacher.parameters(), method.student.parameters(), strict=True))
    assert all(torch.equal(teacher, student) for teacher, student in pairs)
    stirred(method)
    for t, momentum in ((0.0, 0.9), (0.25, 0.92), (0.5, 0.94), (1.0, 0.98)):
        before = [(teacher.clone(), student.clone()) for teacher, student in pairs]
        method.after_step(t)
        for (teacher, student), (old_teacher, old_student) in zip(pairs, before, strict=True):
            assert torch.equal(student, old_student)
            expected = momentum * old_teacher + (1 - momentum) * old_student
            torch.testing.assert_close(teacher, expected, rtol=0, atol=1e-14)


def test_at_momentum_one_the_teacher_stays(stirred):
    method = stirred(IJEPA(TINY))
    before = [parameter.clone() for parameter in method.teacher.parameters()]
    method.after_step(1.0)
    assert all(torch.equal(a, b) for a, b in zip(method.teacher.parameters(), before, strict=True))
    method.after_step(0.99)
    assert not any(torch.equal(a, b) for a, b in zip(method.teacher.parameters(), before, strict=True))


@pytest.mark.parametrize("context", ["fixed", "all"])
@pytest.mark.parametrize("regulariser", ["variance_covariance", "sigreg"])
def test_the_regulariser_acts_on_the_pooled_context(stirred, regulariser, context):
    masking = replace(TINY.masking, context=context)
    config = replace(TINY, masking=masking, regulariser=regulariser, regulariser_weight=(2.0, 4.0), masks_per_image=2)
    method, batch = made(config, stirred, count=4)
    images, masks = method.student.normalise(batch.images), batch.masks
    pooled = []
    for row, context in enumerate(masks.context):
        context = kept(context, None if masks.context_valid is None else masks.context_valid[row])
        (tokens,) = method.student.encode(images[row // 2][None], context[None])
        pooled.append(sum(tokens[0]) / len(context))
    pooled = torch.stack(pooled)
    expected = variance_covariance(pooled) if regulariser == "variance_covariance" else sigreg(pooled, 1, 2)
    for t, weight in ((0.0, 2.0), (0.25, 2.5), (1.0, 4.0)):
        outputs = method(batch, t)
        assert outputs["regulariser"].item() == pytest.approx(expected.item(), rel=1e-9)
        assert outputs["energy"].item() == pytest.approx(method.energy(batch).mean().item(), rel=1e-12)
        loss = (outputs["energy"] + weight * outputs["regulariser"]).item()
        assert outputs["loss"].item() == pytest.approx(loss, rel=1e-12)
    weights = method.student.embed.weight
    heavier, lighter = (torch.autograd.grad(method(batch, t)["loss"], weights)[0] for t in (1.0, 0.0))
    (gradient,) = torch.autograd.grad(expected, weights)
    torch.testing.assert_close(heavier - lighter, 2 * gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("draws", [1, 3])
def test_representations(stirred, draws):
    method, batch = made(replace(TINY, masks_per_image=draws), stirred)
    pooled = method.representations(batch)
    assert set(pooled) == {"context", "target", "prediction"}
    for i in range(NUM_IMAGES):
        image, row = method.student.normalise(batch.images[i : i + 1]), i * draws
        for name, encoder in (("context", method.student), ("target", method.teacher)):
            tokens = encoder.encode(image)[0][0]
            torch.testing.assert_close(pooled[name][i], sum(tokens) / len(tokens), rtol=0, atol=1e-12)
        context = batch.masks.context[row]
        (tokens,) = method.student.encode(image, context[None])
        blocks = []
        for index, valid in zip(batch.masks.targets[row], batch.masks.target_valid[row], strict=True):
            block = method.predictor(tokens, context[None], index[valid][None, None])[0, 0]
            blocks.append(sum(block) / len(block))
        torch.testing.assert_close(pooled["prediction"][i], sum(blocks) / len(blocks), rtol=0, atol=1e-12)


def test_patch_mean_leaves_out_what_is_not_valid():
    x = torch.randn(2, 3, 4, 5)
    valid = torch.tensor([[[1, 1, 0, 0]] * 3, [[1, 1, 1, 1]] * 3]).bool()
    expected = torch.stack([x[0, :, :2].mean(1), x[1].mean(1)])
    torch.testing.assert_close(patch_mean(x, valid, dim=-2), expected)
    torch.testing.assert_close(patch_mean(x[..., 0], valid, dim=-1), expected[..., 0])
    torch.testing.assert_close(patch_mean(x, None, dim=-2), x.mean(2))


def test_views_draw_masks_by_address_whatever_the_slice():
    config = replace(TINY, masks_per_image=3)
    views = pickle.loads(pickle.dumps(IJEPA(config).views))
    assert (views.image_size, views.grid, views.channels) == (config.encoder.image_size, GRID, 3)
    samples = images_of(config, 6)
    whole = views.collate(samples, seed=7, step=5, first=10)
    expected = config.masking.sample(GRID, seed=7, step=5, first=30, count=18)
    assert (whole.seed, whole.step) == (7, 5)
    assert torch.equal(whole.images, torch.from_numpy(np.stack(samples)))
    assert torch.equal(whole.masks.context, expected.context)
    assert torch.equal(whole.masks.targets, expected.targets)
    parts = [views.collate(samples[i : i + 2], seed=7, step=5, first=10 + i) for i in (0, 2, 4)]
    assert torch.equal(torch.cat([part.masks.targets for part in parts]), expected.targets)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_other_channel_counts_train(channels):
    encoder = replace(TINY.encoder, mean=(0.5,) * channels, std=(0.2,) * channels)
    for target in ("output", "pixels"):
        method = IJEPA(replace(TINY, encoder=encoder, target=target))
        image = np.random.default_rng(0).integers(0, 256, (30, 50, channels), dtype=np.uint8)
        sample = method.views.sample(image, np.random.default_rng(1), None)
        assert sample.shape == (channels, 16, 32)
        loss = method(method.views.collate([sample] * 2, 0, 0, 0), 0.0)["loss"]
        assert math.isfinite(loss.item())


def test_centred_targets_are_without_what_the_patches_of_an_image_share(stirred):
    for layers in (1, 2):
        method, batch = made(replace(TINY, target_centre=True, target_layers=layers), stirred)
        images = method.student.normalise(batch.images)
        targets = method.targets(images, batch)
        for i, index in enumerate(batch.masks.targets):
            whole = [tokens[0] for tokens in method.teacher.encode(images[i][None], num_layers=layers)]
            own = [tokens - sum(tokens) / len(tokens) for tokens in whole]
            for m, patch in ((0, 0), (1, 2)):
                vectors = [tokens[index[m, patch]] for tokens in own]
                if layers > 1:
                    vectors = [slow_norm(vector) for vector in vectors]
                expected = slow_norm(sum(vectors) / layers)
                torch.testing.assert_close(targets[i, m, patch], expected, rtol=1e-8, atol=1e-10)
    (mistake,) = replace(TINY, target_centre=True, target="pixels").mistakes()
    assert "target is pixels" in mistake


def test_a_context_of_one_patch_has_no_deviations():
    config = replace(TINY, regulariser="variance_covariance", regulariser_on="deviations")
    num_patches = math.prod(TINY.encoder.grid)
    one = Random(scale=1 - 1 / num_patches)
    (mistake,) = replace(config, masking=one).mistakes()
    assert "these masks leave it one" in mistake
    assert replace(config, masking=Random(scale=1 - 2 / num_patches)).mistakes() == []
    assert replace(config, masking=one, regulariser_on="context").mistakes() == []
    assert replace(config, masking=one, regulariser="none").mistakes() == []


def test_the_regulariser_acts_on_tokens_or_on_predictions_too(stirred):
    config = replace(TINY, regulariser="variance_covariance", masks_per_image=2)
    for rows in ("tokens", "deviations", "predictions"):
        method, batch = made(replace(config, regulariser_on=rows), stirred, count=4)
        images, masks = method.student.normalise(batch.images), batch.masks
        found = []
        for row, context in enumerate(masks.context):
            (tokens,) = method.student.encode(images[row // 2][None], context[None])
            if rows != "predictions":
                shared = sum(tokens[0]) / len(tokens[0]) if rows == "deviations" else 0
                found += [token - shared for token in tokens[0]]
                continue
            for block, target in enumerate(masks.targets[row]):
                target = kept(target, None if masks.target_valid is None else masks.target_valid[row, block])
                found.append(method.predictor(tokens, context[None], target[None, None])[0, 0].mean(0))
        expected = variance_covariance(torch.stack(found))
        assert method(batch, 0.5)["regulariser"].item() == pytest.approx(expected.item(), rel=1e-9)


def test_tokens_that_only_pad_are_no_rows_of_the_regulariser(stirred):
    for rows in ("tokens", "deviations"):
        config = replace(TINY, regulariser="variance_covariance", regulariser_on=rows)
        for masking in (replace(TINY.masking, context="all"), Official()):
            method, batch = made(replace(config, masking=masking), stirred, count=4)
            images, masks = method.student.normalise(batch.images), batch.masks
            assert (masks.context_valid is None) == isinstance(masking, Official)
            found = []
            for row, context in enumerate(masks.context):
                context = kept(context, None if masks.context_valid is None else masks.context_valid[row])
                (tokens,) = method.student.encode(images[row][None], context[None])
                found.append(tokens[0] - (tokens[0].mean(0) if rows == "deviations" else 0))
            expected = variance_covariance(torch.cat(found))
            assert method(batch, 0.5)["regulariser"].item() == pytest.approx(expected.item(), rel=1e-9)


def test_a_fresh_model_says_zero_to_a_normed_target():
    """Its predictions are next to nothing, and a normed target has mean square 1."""
    config = replace(TINY, loss="l2")
    method = IJEPA(config)
    batch = method.views.collate(images_of(config), 0, 0, 0)
    assert method(batch, 0.0)["loss"].item() == pytest.approx(1, abs=0.02)


def test_all_mistakes_are_told_at_once_by_field():
    config = IJEPAConfig(
        encoder=ViTConfig((30, 32), 4, width=18, heads=4, depth=2, std=(1.0,)),
        predictor=PredictorConfig(width=10, heads=3),
        crop=Crop(scale=(0.0, 2.0)),
        masks_per_image=0,
        target="pixels",
        target_layers=3,
        momentum=(2.0, 1.0),
        regulariser_weight=(float("nan"), 1.0),
    )
    fields = ["encoder.image_size", "encoder.width", "encoder.width", "encoder.std", "predictor.width", "crop.scale"]
    fields += ["masks_per_image", "target_layers", "target_layers", "momentum", "regulariser_weight"]
    assert [mistake.split(" = ")[0] for mistake in config.mistakes()] == fields
    assert "encoder.depth = 2" in config.mistakes()[7]
    (masking,) = replace(TINY, masking=MultiBlock(target_scale=(0.5, 0.2))).mistakes()
    assert masking.startswith("masking.target_scale = (0.5, 0.2)")
    assert TINY.mistakes() == IJEPAConfig().mistakes() == []
    with pytest.raises(ConfigError) as caught:
        IJEPA(config)
    assert caught.value.mistakes == config.mistakes()
