"""Pretraining that begins with weights, by the command line and from Python, and what cannot be trained on."""

from __future__ import annotations

import pytest
import torch

import openjepa
from openjepa import cli, recipes
from openjepa.errors import ConfigError
from openjepa.load import begun_with
from openjepa.vision.saved import write_encoders
from openjepa.vision.vit import ViT, ViTConfig
from tests.training.conftest import make_images

OLD = ViT(ViTConfig(image_size=(16, 16), patch=4, width=24, depth=2, heads=2)).untrained(7)
STILL = {"optim__lr": 0.0, "optim__lr_start": 0.0, "optim__lr_end": 0.0}


def test_a_run_begins_with_the_weights_and_the_shape_it_is_given(tmp_path):
    images = str(make_images(tmp_path))
    write_encoders(tmp_path / "old", {"target": OLD}, {})
    result = openjepa.pretrain(
        images, "ijepa_cifar10_cpu", tmp_path / "new", start=tmp_path / "old", steps=10, batch_size=4,
        probe_data="none", is_quiet=True, **STILL,
    )  # fmt: skip
    assert result.encoder.config.width == 24
    assert torch.equal(result.encoder.embed.weight, OLD.embed.weight)
    line = ["pretrain", "--data", images, "--out", str(tmp_path / "cli"), "--start", str(tmp_path / "old")]
    still = ["--optim.lr", "0", "--optim.lr-start", "0", "--optim.lr-end", "0", "--steps", "10", "--batch-size", "4"]
    assert cli.run([*line, *still, "--probe-data", "none", "--speed.workers", "0"]) == 0
    assert torch.equal(openjepa.load_encoder(tmp_path / "cli").embed.weight, OLD.embed.weight)


def test_without_a_start_nothing_changes_and_foreign_encoders_are_refused(monkeypatch):
    recipe = recipes.get("ijepa_cifar10_cpu")
    assert begun_with(recipe, None) == (recipe, None)
    foreign = openjepa.CallableEncoder(lambda images: images.flatten(1), (16, 16))
    monkeypatch.setattr("openjepa.load.load_encoder", lambda path: foreign)
    with pytest.raises(ConfigError, match="cannot be trained on"):
        begun_with(recipe, "hf://somebody/model")
