"""Pictures to decode, and files of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


@pytest.fixture
def picture() -> np.ndarray:
    """(30, 40, 3) uint8, smooth, and unlike itself in every mirror and rotation."""
    y, x = np.mgrid[0:30, 0:40]
    return np.stack([6 * x, 8 * y, 255 - 3 * x - 4 * y], axis=2).clip(0, 255).astype(np.uint8)


@pytest.fixture
def encode() -> Encode:
    """An array or a Pillow image to the bytes of a file."""

    def write(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
        file = io.BytesIO()
        if kind == "NPY":
            np.save(file, np.asarray(image))
        else:
            image = image if isinstance(image, Image.Image) else Image.fromarray(image)
            image.save(file, kind, **options)
        return file.getvalue()

    return write


@pytest.fixture
def images(tmp_path: Path, picture: np.ndarray, encode: Encode) -> Callable[..., Path]:
    """Writes pictures under a folder, by relative name; each is the picture with its number in the first pixel."""

    def write(*names: str, root: Path = tmp_path / "images") -> Path:
        for number, name in enumerate(names):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            numbered = picture.copy()
            numbered[0, 0] = number
            path.write_bytes(encode(numbered))  # what the name says is not what is inside: bytes decide
        return root

    return write
