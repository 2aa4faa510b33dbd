"""Small sets of scenes and an encoder small enough to be asked everything about them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openjepa.data.scenes import Scenes
from openjepa.evaluation.features import Extractor
from openjepa.evaluation.sets import ImageSet
from openjepa.evaluation.task import Row
from openjepa.vision.vit import ViT, ViTConfig

CONFIG = ViTConfig(image_size=(32, 32), patch=8, width=16, depth=4, heads=2)


@pytest.fixture(scope="session")
def encoder() -> ViT:
    return ViT(CONFIG).untrained(1)


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageSet, ImageSet]:
    cache = tmp_path_factory.mktemp("scenes")
    train, test = (Scenes(count, (32, 32), seed, 3, cache=cache) for count, seed in ((150, 1), (80, 2)))
    return ImageSet(train, "data"), ImageSet(test, "test")


@pytest.fixture
def row(encoder: ViT, sets: tuple[ImageSet, ImageSet]) -> Row:
    return Row("encoder", encoder, *sets, Extractor(None, torch.device("cpu"), 0), 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Dark and light images, thirty of each, in class folders."""
    from tests.training.conftest import make_images

    return make_images(tmp_path)
