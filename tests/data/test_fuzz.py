"""Damaged files end in BadImage or in an image: no other exception, and no warning."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from openjepa.data.images import BadImage, decode

CASES = 12  # a kind; a thousand times as many were run once (see images.py)


def kinds(picture: np.ndarray) -> dict[str, tuple[object, str, dict]]:
    image = Image.fromarray(picture)
    turned = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    exif = Image.Exif()
    exif[274] = 6
    return {
        "jpeg": (image, "JPEG", {"exif": exif}),
        "progressive": (image, "JPEG", {"progressive": True}),
        "cmyk": (image.convert("CMYK"), "JPEG", {}),
        "mpo": (image, "MPO", turned),
        "png": (image, "PNG", {"exif": exif}),
        "palette": (image.quantize(16), "PNG", {"transparency": 3}),
        "sixteen": (Image.fromarray(picture[..., 0].astype(np.uint16) * 257), "PNG", {}),
        "apng": (image, "PNG", turned),
        "webp": (image, "WEBP", {"exif": exif}),
        "lossless": (image.convert("RGBA"), "WEBP", {"lossless": True}),
        "animation": (image, "WEBP", turned),
        "gif": (image, "GIF", turned),
        "bmp": (image, "BMP", {}),
        "tiff": (image, "TIFF", {"exif": exif}),
        "deflate": (image, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "fax": (image.convert("1"), "TIFF", {"compression": "group4"}),
        "float": (Image.fromarray(picture[..., 0] / np.float32(255)), "TIFF", {}),
        "ppm": (image, "PPM", {}),
        "npy": (picture, "NPY", {}),
    }


def damaged(data: bytes, rng: np.random.Generator, kind: int) -> bytes:
    """Cut short; bytes changed anywhere; bytes changed in the header; a piece lost or doubled."""
    where = int(rng.integers(1, len(data)))
    if kind == 0:
        return data[:where]
    if kind == 3:
        length = int(rng.integers(1, 30))
        return data[:where] + (data[where + length :] if rng.random() < 0.5 else data[where - length :])
    changed = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(len(data) if kind == 1 else min(len(data), 120), size=3)
    changed[places] = rng.integers(256, size=3)
    return changed.tobytes()


@pytest.mark.parametrize("name", kinds(np.zeros((30, 40, 3), np.uint8)))
def test_damage(picture, encode, name):
    image, kind, options = kinds(picture)[name]
    data = encode(image, kind, **options)
    rng = np.random.default_rng(0)
    reasons = []
    for case in range(CASES):
        channels = (1, 3, 4)[case % 3]
        try:
            decoded = decode(damaged(data, rng, case % 4), channels, min_side=8 if case % 2 else None)
        except BadImage as error:
            reasons.append(error.reason)
        else:
            assert decoded.dtype == np.uint8
            assert decoded.shape[2] == channels
            assert decoded.flags.c_contiguous
    assert reasons, "the damage is too mild to test anything"
    assert all(reasons)
    assert "0x" not in str(reasons), "an address in memory: the reason would differ in every run"
