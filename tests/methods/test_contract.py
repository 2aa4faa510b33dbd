"""What every method owes the loop, whichever it is."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from openjepa.masking import Masks
from openjepa.methods import METHODS, FineTuneConfig, IBOTConfig, IJEPAConfig, MAEConfig, Method, build
from openjepa.methods.mae import DecoderConfig
from openjepa.methods.prototypes import HeadConfig
from openjepa.vision.encoder import Encoder
from openjepa.vision.predictor import PredictorConfig
from openjepa.vision.vit import ViTConfig

ENCODER = ViTConfig((32, 32), 4, width=16, depth=2, heads=2)
TINY = {
    IJEPAConfig: IJEPAConfig(ENCODER, PredictorConfig(16, 2, 2), masks_per_image=2, regulariser="sigreg"),
    MAEConfig: MAEConfig(replace(ENCODER, init="xavier", has_cls=True), DecoderConfig(16, 2, 2)),
    IBOTConfig: IBOTConfig(
        replace(ENCODER, has_cls=True, pooling="cls"),
        HeadConfig(hidden=16, bottleneck=8, num_prototypes=12, norm_last_layer=False),
        shared_head=False,
        num_locals=2,
        local_size=(16, 16),
        momentum=(0.9, 1.0),
    ),
    FineTuneConfig: FineTuneConfig(ENCODER, num_classes=4, mixup=0.8, drop_path=0.1),
}
NUM_IMAGES = 4


@pytest.fixture(params=METHODS, ids=lambda kind: kind.__name__)
def config(request):
    assert request.param in TINY, "a new method needs a tiny configuration here"
    return TINY[request.param]


@pytest.fixture
def method(config):
    return build(config)


def drawn(views, first=0, count=NUM_IMAGES):
    rng = np.random.default_rng(first)
    images = [rng.integers(0, 256, (40, 36 + i, views.channels), dtype=np.uint8) for i in range(first, first + count)]
    samples = [views.sample(image, np.random.default_rng(i), i) for i, image in enumerate(images)]
    return views.collate(samples, seed=1, step=2, first=first)


def tensors(batch):
    """All that it holds, by name, those of its masks too."""
    masks = {
        name: value for part in vars(batch).values() if isinstance(part, Masks) for name, value in vars(part).items()
    }
    return {name: value for name, value in {**vars(batch), **masks}.items() if isinstance(value, torch.Tensor)}


def test_it_gives_a_finite_loss_that_trains(config, method):
    assert isinstance(method, METHODS[type(config)])
    assert isinstance(method, Method)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    for t in (0.0, 0.5, 1.0):
        outputs = method(drawn(method.views), t)
        assert all(value.shape == () and torch.isfinite(value) for value in outputs.values())
        assert [name for name, value in outputs.items() if value.requires_grad] == ["loss"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
    outputs["loss"].backward()
    trainable = [parameter for parameter in method.parameters() if parameter.requires_grad]
    assert all(torch.isfinite(parameter.grad).all() for parameter in trainable)
    assert sum(parameter.grad.abs().sum() for parameter in trainable) > 0


def test_energies_and_representations(method):
    batch = drawn(method.views)
    for energies in (method.energy(batch), method.energy(batch, batch.images.flip(0))):
        assert energies.ndim in (1, 2)
        assert len(energies) > 0
        assert len(energies) % NUM_IMAGES == 0
        assert torch.isfinite(energies).all()
        assert not energies.requires_grad
    pooled = method.representations(batch)
    assert set(pooled) == {"context", "target", "prediction"}
    for name, tensor in pooled.items():
        assert tensor.ndim == 2
        assert len(tensor) == NUM_IMAGES
        assert tensor.shape[1] == ENCODER.width or name == "prediction"  # of pixels, where those are predicted
        assert torch.isfinite(tensor).all()
        assert not tensor.requires_grad


def test_evaluation_and_gradients_each_get_an_encoder(method):
    batch = drawn(method.views)
    for encoder in (method.encoder, method.context_encoder):
        assert isinstance(encoder, Encoder)
        assert encoder.channels == method.views.channels
        assert encoder(batch.images).tokens.shape == (NUM_IMAGES, 64, ENCODER.width)
    assert all(parameter.requires_grad for parameter in method.context_encoder.parameters())


def test_its_state_is_all_there_is_to_it(config, method):
    batch, other = drawn(method.views), build(config)
    for parameter in method.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    method.after_step(0.3)
    assert not torch.equal(method(batch, 0.3)["loss"], other(batch, 0.3)["loss"])
    other.load_state_dict(method.state_dict())
    assert torch.equal(method(batch, 0.3)["loss"], other(batch, 0.3)["loss"])
    for one in (method, other):
        one.after_step(0.4)
    assert torch.equal(method.energy(batch), other.energy(batch))


def test_views_travel_to_workers_and_give_the_same_batch(method):
    here, there = drawn(method.views), drawn(pickle.loads(pickle.dumps(method.views)))
    assert tensors(here).keys() == tensors(there).keys()
    assert all(torch.equal(tensor, tensors(there)[name]) for name, tensor in tensors(here).items())
    assert here.images.dtype == torch.uint8
    assert here.images.shape == (NUM_IMAGES, 3, 32, 32)
