"""From the bytes of an image file to (H, W, C) uint8, or the reason why not.

No section of the paper. The aim is that whatever lies in a pile of images either decodes to what a
viewer would show or is named as bad; nothing is decoded half.
"""

from __future__ import annotations

import io
import struct
import tokenize
import warnings
import zlib

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose

from openjepa.errors import DataError

MAX_PIXELS = 89_478_485
"""Larger images are taken for decompression bombs: the threshold at which Pillow starts to warn."""
MIN_SIDE = 4
"""Narrower images are bad: no crop of them shows anything."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # EPS, say, would run ghostscript
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_NPY_MAGIC = b"\x93NUMPY"
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # what undoes each value of the EXIF orientation tag

# What Pillow and numpy raise on damaged files. Seen in 200,000 fuzzed files (tests/data/test_fuzz.py is
# a small share of them): OSError, SyntaxError, ValueError, TypeError, and tokenize.TokenError from .npy headers.
# Raised in Pillow's plugins or by what they call, though never seen: the others.
_RAISED_BY_DECODERS = (
    *(OSError, SyntaxError, ValueError, TypeError, tokenize.TokenError),
    *(AssertionError, EOFError, IndexError, KeyError, MemoryError, NotImplementedError, OverflowError),
    *(RuntimeError, ZeroDivisionError, struct.error, zlib.error),
)


class BadImage(DataError):
    """This one image cannot be used; `reason` says why and `name` which, where that is known."""

    def __init__(self, reason: str, name: str = "") -> None:
        self.reason, self.name = reason, name
        super().__init__(reason)


def decode(image: bytes | np.ndarray, channels: int, min_side: int | None = None) -> np.ndarray:
    """An encoded image, .npy bytes or an array to (H, W, channels) uint8, C-contiguous, maybe read-only.

    1 channel is luminance, 3 are RGB with transparency over white, 4 are RGBA; other numbers come
    from arrays only. EXIF rotation is applied, animations give their first frame, 16 bits are scaled
    to 8. With `min_side` a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which is several times
    faster, while its shorter side stays at least that long.

    Raises BadImage for everything that does not decode completely.
    """
    if isinstance(image, np.ndarray):
        return _checked(image, channels)
    if not image:
        raise BadImage("empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about metadata; pixels are what counts here
        try:
            if image.startswith(_NPY_MAGIC):
                return _checked(_read_npy(image), channels)
            return _decode_file(image, channels, min_side)
        except UnidentifiedImageError as error:
            raise BadImage("not an image of a known format, or its header is damaged") from error
        except Image.DecompressionBombError as error:
            raise BadImage(_TOO_LARGE) from error
        except _RAISED_BY_DECODERS as error:
            raise BadImage(f"damaged: {type(error).__name__}: {error}") from error


_TOO_LARGE = f"more than {MAX_PIXELS} pixels, which may be a decompression bomb"


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage(_TOO_LARGE)
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"{width} x {height} pixels; the shorter side needs {MIN_SIDE}")


def _checked(image: np.ndarray, channels: int) -> np.ndarray:
    """An array that already is what `decode` returns, or BadImage."""
    if image.dtype != np.uint8:
        raise BadImage(f"array of {image.dtype}; needs uint8")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3:
        raise BadImage(f"array of shape {image.shape}; needs (H, W, C)")
    _check_size(image.shape[1], image.shape[0])
    if image.shape[2] != channels:
        raise BadImage(f"has {image.shape[2]} channels; the run takes {channels}")
    return np.ascontiguousarray(image)


def _read_npy(data: bytes) -> np.ndarray:
    """An .npy file as a view of its bytes, so that a lying header cannot allocate anything."""
    file = io.BytesIO(data)
    is_first_version = np.lib.format.read_magic(file) == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if is_first_version else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    if dtype != np.uint8:
        raise BadImage(f"array of {dtype}; needs uint8")
    pixels = np.frombuffer(data, np.uint8, offset=file.tell())
    return pixels.reshape(shape, order="F" if is_fortran else "C")


def _decode_file(data: bytes, channels: int, min_side: int | None) -> np.ndarray:
    if channels not in _MODES:
        raise BadImage(f"an image file has no {channels} channels; use .npy arrays (H, W, C)")
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        _check_size(*image.size)
        if min_side is not None:
            image.draft(None, (min_side, min_side))
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        pixels = _convert(image, _MODES[channels])
        return _rows(pixels if turn is None else pixels.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where Pillow has turned the image already (TIFF)."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except _RAISED_BY_DECODERS:  # damaged metadata of a sound image: shown as it lies, as viewers do
        return 1


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_eight_bits(image)
    if mode != "RGBA" and image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 bits or of floats in [0, 1] to 8 bits; Pillow itself would clip at 255."""
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):  # also true of NaN
            raise BadImage(f"floats from {values.min():g} to {values.max():g}; needs [0, 1]")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if values.min() < 0 or values.max() > 65535:
        raise BadImage(f"integers from {values.min()} to {values.max()}; needs 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _rows(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]
