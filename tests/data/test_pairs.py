"""Images with masks: who belongs to whom, what a mask may be, and what is said when it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openjepa.data.source import Source, open_source
from openjepa.errors import DataError


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(12):
        for role in ("images", "masks"):
            (tmp_path / role / "part").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (10, 14, 3), np.uint8)).save(tmp_path / f"images/part/{number:02d}.jpg")
        Image.fromarray(np.full((10, 14), number % 3, np.uint8)).save(tmp_path / f"masks/part/{number:02d}.png")
    return tmp_path


def opened(folders: Path) -> Source:
    return open_source(f"masks?images={folders / 'images'}&masks={folders / 'masks'}")


def test_the_mask_has_the_name_of_its_image(folders: Path) -> None:
    source = opened(folders)
    assert len(source) == 12
    assert source.labels() is None
    for number in range(12):
        assert source[number].name.endswith(f"{number:02d}.jpg")
        assert (source.dense(number)["mask"] == number % 3).all()


def test_palettes_are_positions_and_16_bit_numbers_will_do(folders: Path) -> None:
    palette = Image.fromarray(np.full((10, 14), 7, np.uint8)).convert("L")
    palette.putpalette([value for value in range(256) for _ in range(3)])
    palette.save(folders / "masks/part/03.png")
    Image.fromarray(np.full((10, 14), 255, np.uint16)).save(folders / "masks/part/04.png")
    source = opened(folders)
    assert (source.dense(3)["mask"] == 7).all()
    assert (source.dense(4)["mask"] == 255).all()


def test_a_mask_that_is_missing(folders: Path) -> None:
    (folders / "masks/part/05.png").unlink()
    with pytest.raises(DataError, match=r"has no mask for 1 of 12 images: part/05\.jpg"):
        opened(folders)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((10, 13), np.uint8), r"\(10, 13\): must be one channel of the size of its image, \(10, 14\)"),
        (np.zeros((10, 14, 3), np.uint8), "must be one channel"),
        (np.full((10, 14), 700, np.uint16), "class numbers are 0 to 254"),
    ],
)
def test_masks_that_cannot_be_used(folders: Path, mask: np.ndarray, message: str) -> None:
    Image.fromarray(mask).save(folders / "masks/part/02.png")
    with pytest.raises(DataError, match=message):
        opened(folders).dense(2)


def test_masks_are_upright_as_images_are(folders: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter: 10 x 14 becomes 14 x 10
    with Image.open(folders / "images/part/02.jpg") as image:
        image.save(folders / "images/part/02.jpg", exif=exif)
    with pytest.raises(DataError, match=r"of the size of its image, \(14, 10\)"):
        opened(folders).dense(2)
    Image.fromarray(np.full((14, 10), 4, np.uint8)).save(folders / "masks/part/02.png")
    assert (opened(folders).dense(2)["mask"] == 4).all()


def test_a_torn_mask(folders: Path) -> None:
    (folders / "masks/part/02.png").write_bytes(b"no png")
    with pytest.raises(DataError, match="cannot be read"):
        opened(folders).dense(2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("masks?images=.", "masks not given"),
        ("masks?image=.&masks=.", "Did you mean 'images'"),
        ("masks?images=/nowhere&masks=.", "is no folder"),
    ],
)
def test_specs_that_cannot_be_read(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(spec)
