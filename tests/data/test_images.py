"""Every odd kind of image file either decodes to what a viewer shows or is named as bad."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from openjepa.data.images import MAX_PIXELS, BadImage, decode

LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("PPM", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
    ("NPY", {}),
]
SHOWN = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}  # what a viewer does to the stored rows for each EXIF orientation (TIFF 6.0, tag 274)


def reason(data: Any, channels: int = 3) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, channels)
    return caught.value.reason


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_files_come_back_exactly(picture, encode, kind, options):
    decoded = decode(encode(picture, kind, **options), 3)
    assert np.array_equal(decoded, picture)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpegs_come_back_nearly(picture, encode, options):
    decoded = decode(encode(picture, "JPEG", quality=95, **options), 3).astype(int)
    assert np.abs(decoded - picture).mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_rotation_is_applied(picture, encode, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    decoded = decode(encode(picture, kind, exif=exif, **options), 3).astype(int)
    expected = SHOWN[orientation](picture)
    assert decoded.shape == expected.shape
    assert decoded.flags.c_contiguous
    assert np.abs(decoded - expected).mean() < (2 if kind == "JPEG" else 1e-9)


def test_damaged_exif_does_not_cost_the_image(picture, encode):
    exif = Image.Exif()
    exif[274] = 6
    data = encode(picture, "PNG", exif=exif)
    start = data.index(b"eXIf") + 4
    size = struct.unpack(">I", data[start - 8 : start - 4])[0]
    rubbish = b"Exif\0\0" + b"\xff" * (size - 6)
    crc = struct.pack(">I", zlib.crc32(b"eXIf" + rubbish))
    broken = data[:start] + rubbish + crc + data[start + size + 4 :]
    assert np.array_equal(decode(broken, 3), picture)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(picture, encode, kind):
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    decoded = decode(encode(Image.fromarray(picture).convert("CMYK"), kind, **options), 3)
    assert np.abs(decoded.astype(int) - picture).mean() < 3


def test_ycck(picture, encode):
    """An Adobe JPEG in YCCK, made by hand: Pillow writes none, but lets us choose the four planes."""
    y, cb, cr = Image.fromarray(255 - picture).convert("YCbCr").split()
    planes = [plane.point(lambda v: 255 - v) for plane in (y, cb, cr)]
    planes.append(Image.new("L", y.size, 0))
    data = bytearray(encode(Image.merge("CMYK", planes), "JPEG", quality=95, subsampling=0))
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2  # YCCK
    assert np.abs(decode(bytes(data), 3).astype(int) - picture).mean() < 3


def test_palette(picture, encode):
    few = Image.fromarray(picture).quantize(16)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert np.array_equal(decode(encode(few, kind), 3), np.asarray(few.convert("RGB")))


@pytest.mark.parametrize("transparency", [0, bytes([0, 128])])
def test_transparent_palette_lies_on_white(encode, transparency):
    image = Image.new("P", (8, 8))
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.paste(1, (0, 0, 8, 4))
    decoded = decode(encode(image, "PNG", transparency=transparency), 3)
    assert tuple(decoded[7, 0]) == (255, 255, 255)
    green = (0, 100, 0) if transparency == 0 else (127, 177, 127)
    assert np.abs(decoded[0, 0].astype(int) - green).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_lies_on_white(picture, encode, kind):
    alpha = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1))
    rgba = np.dstack([picture, alpha])
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    share = alpha[..., None] / 255
    expected = picture * share + 255 * (1 - share)
    assert np.abs(decode(encode(rgba, kind, **options), 3) - expected).max() <= 1
    assert np.array_equal(decode(encode(rgba, kind, **options), 4), rgba)


def test_grey_with_alpha_lies_on_white(encode):
    image = Image.new("LA", (8, 8), (100, 0))
    image.paste((100, 255), (0, 0, 4, 8))
    assert decode(encode(image), 1)[0, [0, 7], 0].tolist() == [100, 255]


def test_colour_key_lies_on_white(picture, encode):
    picture[5, 5] = (1, 2, 3)
    decoded = decode(encode(picture, "PNG", transparency=(1, 2, 3)), 3)
    assert tuple(decoded[5, 5]) == (255, 255, 255)
    picture[5, 5] = 255
    assert np.array_equal(decoded, picture)


def test_bilevel(encode):
    bits = np.indices((9, 11)).sum(0) % 2 == 0
    for kind, options in (("PNG", {}), ("TIFF", {"compression": "group4"}), ("PPM", {})):
        decoded = decode(encode(Image.fromarray(bits), kind, **options), 1)
        assert np.array_equal(decoded[:, :, 0], bits * 255)


def test_sixteen_bits_are_scaled_not_clipped(encode):
    values = np.array([0, 128, 129, 257, 300, 32768, 65534, 65535], dtype=np.uint16)
    grey = np.tile(values, (8, 1))
    expected = np.rint(grey / 257)
    ppm = b"P5 8 8 65535\n" + grey.astype(">u2").tobytes()
    for data in (encode(grey, "PNG"), encode(grey, "TIFF"), ppm):
        for channels in (1, 3):
            decoded = decode(data, channels)
            assert decoded.shape == (8, 8, channels)
            assert np.array_equal(decoded, np.repeat(expected[..., None], channels, 2)), data[:4]
    big_endian = Image.frombytes("I;16B", (8, 8), grey.astype(">u2").tobytes())
    assert np.array_equal(decode(encode(big_endian, "TIFF"), 1)[..., 0], expected)
    wide = Image.fromarray(grey.astype(np.int32))
    assert np.array_equal(decode(encode(wide, "TIFF"), 1)[..., 0], expected)


def test_integers_beyond_sixteen_bits_are_bad(encode):
    assert "70000" in reason(encode(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"))
    assert "-1" in reason(encode(Image.fromarray(np.full((8, 8), -1, np.int32)), "TIFF"))


def test_floats_in_the_unit_interval(encode):
    ramp = np.tile(np.linspace(0, 1, 16, dtype=np.float32), (8, 1))
    decoded = decode(encode(Image.fromarray(ramp), "TIFF"), 1)
    assert np.array_equal(decoded[..., 0], np.rint(ramp * 255))
    for wrong in (2.0, -0.5, np.nan):
        ramp[3, 3] = wrong
        assert "floats" in reason(encode(Image.fromarray(ramp), "TIFF"))


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_animations_give_their_first_frame(encode, kind, options):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(decode(data, 3), np.asarray(frames[0]))


def test_luminance(picture, encode):
    expected = picture @ [0.299, 0.587, 0.114]
    decoded = decode(encode(picture), 1)
    assert decoded.shape == (30, 40, 1)
    assert np.abs(decoded[..., 0] - expected).max() <= 1


def test_grey_becomes_any_number_of_channels(encode):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for channels in (1, 3):
        assert np.array_equal(decode(encode(grey), channels), np.repeat(grey[..., None], channels, 2))
    assert np.array_equal(decode(encode(grey), 4)[..., 3], np.full((8, 8), 255))


def test_arrays_of_any_number_of_channels(encode):
    array = np.arange(8 * 9 * 5, dtype=np.uint32).astype(np.uint8).reshape(8, 9, 5)
    for image in (array, encode(array, "NPY"), encode(np.asfortranarray(array), "NPY")):
        decoded = decode(image, 5)
        assert np.array_equal(decoded, array)
        assert decoded.flags.c_contiguous
        assert reason(image, 3) == "has 5 channels; the run takes 3"
    assert decode(array[..., 0], 1).shape == (8, 9, 1)


@pytest.mark.parametrize("array", [np.zeros((8, 8, 3)), np.zeros((2, 8, 8, 3), np.uint8), np.zeros(64, np.uint8)])
def test_other_arrays_are_bad(encode, array):
    assert "needs" in reason(array)
    assert "needs" in reason(encode(array, "NPY"))


def test_an_array_file_of_objects_is_never_unpickled(encode):
    assert "object" in reason(encode(np.array([{}], dtype=object), "NPY"))


def test_an_array_file_that_lies_about_its_size(encode):
    data = encode(np.zeros((8, 8, 3), np.uint8), "NPY")
    assert "damaged" in reason(data.replace(b"(8, 8, 3)", b"(8,99,3) "))
    assert "damaged" in reason(data[:-1])


def test_files_of_more_channels_than_a_file_can_hold(picture, encode):
    assert ".npy" in reason(encode(picture), 5)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (b"hello world, I am no image", "not an image"),
        (b"<!DOCTYPE html><html>404</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\xff\xd8\xff\xe0", "not an image"),
        (b"\0" * 5000, "not an image"),
    ],
)
def test_what_is_no_image(data, expected):
    assert expected in reason(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "NPY"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_files_are_bad(encode, kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    data = encode(noise, kind)
    decode(data, 3)
    assert reason(data[: int(len(data) * share)])


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(9500, 9500), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_seen_in_the_header(size):
    assert str(MAX_PIXELS) in reason(png_header(*size))


def test_large_arrays_are_bombs_too():
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (30_000, 3_000, 3), (0, 0, 0))
    assert str(MAX_PIXELS) in reason(huge)


@pytest.mark.parametrize("size", [(1, 30), (30, 1), (3, 30), (1, 1)])
def test_one_pixel_wide(encode, size):
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    for data in (image, encode(image), encode(image, "JPEG"), encode(image, "NPY")):
        assert reason(data).startswith(f"{width} x {height} pixels")


def test_long_strips_are_fine(encode):
    assert decode(encode(np.zeros((4, 3000, 3), np.uint8)), 3).shape == (4, 3000, 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 300), st.integers(4, 300), st.integers(4, 120), st.sampled_from([1, 6]))
def test_fast_jpegs_keep_their_aspect_and_the_side_asked_for(width, height, min_side, orientation):
    image = Image.new("RGB", (width, height), (90, 30, 200))
    exif = Image.Exif()
    exif[274] = orientation

    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    full = decode(file.getvalue(), 3)
    small = decode(file.getvalue(), 3, min_side=min_side)
    assert min(small.shape[:2]) >= min(min_side, width, height)
    possible = [r for r in (8, 4, 2, 1) if tuple(-(-side // r) for side in full.shape[:2]) == small.shape[:2]]
    assert possible
    assert possible[0] == 8 or min(width, height) < 2 * possible[0] * min_side  # as small as it may be


def test_fast_jpegs_look_the_same(picture, encode):
    large = np.asarray(Image.fromarray(picture).resize((400, 304), Image.Resampling.BICUBIC))
    data = encode(large, "JPEG", quality=95)
    small = decode(data, 3, min_side=70).astype(int)
    assert small.shape == (76, 100, 3)
    expected = large.reshape(76, 4, 100, 4, 3).mean((1, 3))
    assert np.abs(small - expected).mean() < 2


def test_bad_images_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(BadImage("too odd", "a.png")))
    assert (str(error), error.reason, error.name) == ("too odd", "too odd", "a.png")
