"""The labelled probe: its images, its shares, and what it says when labels are not what they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openjepa.data.source import open_source
from openjepa.errors import DataError
from openjepa.training.probe import Probe, open_probe
from openjepa.training.recipe import Recipe
from openjepa.vision.vit import ViT
from tests.training.conftest import make_images


def opened(tiny: Recipe, images: Path, probe_data: str | None = None, probe_test: str | None = None) -> Probe | None:
    return open_probe(open_source(str(images)), probe_data, probe_test, ViT(tiny.method.encoder), 40, 10, seed=0)


def test_bank_and_test_share_no_image(tiny: Recipe, images: Path) -> None:
    probe = opened(tiny, images)
    assert probe is not None
    assert (len(probe.bank), len(probe.test)) == (40, 10)
    bank = {image.numpy().tobytes() for image in probe.bank}
    assert not any(image.numpy().tobytes() in bank for image in probe.test)


def test_a_small_set_is_shared_four_to_one(tiny: Recipe, images: Path) -> None:
    for folder in ("dark", "light"):
        for path in sorted((images / folder).iterdir())[5:]:
            path.unlink()
    probe = opened(tiny, images)
    assert probe is not None
    assert (len(probe.bank), len(probe.test)) == (8, 2)
    assert probe.neighbours == 8


def test_no_labels_and_no_wish_is_no_probe(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        path.rename(flat / f"{number}.png")
    assert opened(tiny, flat) is None
    with pytest.raises(DataError, match="--probe-data none"):
        opened(tiny, flat, probe_data=str(flat))


def test_none_is_none(tiny: Recipe, images: Path) -> None:
    assert opened(tiny, images, probe_data="none") is None


def test_test_classes_of_other_names_are_refused(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    other = make_images(tmp_path / "other")
    assert opened(tiny, images, probe_test=str(other)) is not None
    (other / "light").rename(other / "bright")
    with pytest.raises(DataError, match="other classes"):
        opened(tiny, images, probe_test=str(other))


def test_bad_images_are_left_out_and_told(tiny: Recipe, images: Path) -> None:
    for path in sorted((images / "dark").iterdir())[:3]:
        path.write_bytes(b"no image")
    probe = opened(tiny, images)
    assert probe is not None
    assert len(probe.bank) + len(probe.test) + len(probe.bad) == 50
    assert 1 <= len(probe.bad) <= 3


def test_labels_may_be_any_numbers() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16), dtype=np.uint8)
    probe = Probe((images, np.array([7, 10**9] * 4)), (images[:2], np.array([7, 10**9])), "x", 0, [])
    assert probe.num_classes == 2
    assert probe.bank_labels.tolist() == [0, 1] * 4
    assert probe.test_labels.tolist() == [0, 1]


def test_one_class_is_too_few(tiny: Recipe, tmp_path: Path) -> None:
    for name in ("only", "empty"):
        (tmp_path / "images" / name).mkdir(parents=True)
    for number in range(10):
        Image.fromarray(np.full((20, 20, 3), number, np.uint8)).save(tmp_path / "images" / "only" / f"{number}.png")
    assert opened(tiny, tmp_path / "images") is None
