"""A run so small that a test can afford it: 16 x 16 images of which a folder holds a few dozen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openjepa.masking.multiblock import MultiBlock
from openjepa.methods.ijepa import IJEPAConfig
from openjepa.optim import OptimConfig
from openjepa.training.recipe import Keep, Length, Recipe, Speed, Watch
from openjepa.vision.predictor import PredictorConfig
from openjepa.vision.vit import ViTConfig


def tiny_recipe() -> Recipe:
    """Twelve steps of 8 images, on the CPU, in this process."""
    return Recipe(
        name="tiny",
        method=IJEPAConfig(
            encoder=ViTConfig(image_size=(16, 16), patch=4, width=16, depth=2, heads=2),
            predictor=PredictorConfig(width=8, depth=1, heads=2),
            masking=MultiBlock(),
            regulariser="variance_covariance",
        ),
        optim=OptimConfig(lr=1e-3),
        length=Length(steps=12),
        batch_size=8,
        watch=Watch(log_every=4, probes=2, health_images=16, probe_bank=40, probe_test=10),
        keep=Keep(every_minutes=0, last=2),
        speed=Speed(device="cpu", workers=0),
    )


def make_images(parent: Path) -> Path:
    """Two classes, told apart by their mean colour, 30 images of each."""
    rng = np.random.default_rng(0)
    for name, centre in (("dark", 70), ("light", 180)):
        folder = parent / "images" / name
        folder.mkdir(parents=True)
        for number in range(30):
            noise = rng.normal(centre, 40, (20, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(folder / f"{number:02d}.png")
    return parent / "images"


@pytest.fixture(autouse=True)
def no_patience_with_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openjepa.training.checkpoints.LOCK_PATIENCE_S", 0.0)


@pytest.fixture
def tiny() -> Recipe:
    return tiny_recipe()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path)
