"""Crops: what they cover, and that nothing else shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from openjepa.data.views import Crop, center_crop, resize
from openjepa.randomness import generator

sides = st.integers(1, 300)


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.integers(0, 1 << 30))
def test_a_box_lies_in_the_image(width, height, seed):
    left, top, right, bottom = Crop().box(width, height, generator(seed, "test"))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@settings(max_examples=100, deadline=None)
@given(st.integers(100, 400), st.integers(100, 400), st.integers(0, 1 << 30))
def test_a_box_has_the_area_and_the_aspect_asked_for(width, height, seed):
    crop = Crop(scale=(0.2, 0.5), aspect=(0.5, 2.0))
    left, top, right, bottom = crop.box(width, height, generator(seed, "test"))
    w, h = right - left, bottom - top
    assert 0.5 * 0.97 <= w / h <= 2 * 1.03
    if max(width, height) <= 1.5 * min(width, height):  # else ten tries may fail
        assert 0.2 * 0.97 <= w * h / (width * height) <= 0.5 * 1.03


def test_boxes_are_spread_evenly():
    crop = Crop(scale=(0.25, 0.25), aspect=(1.0, 1.0))
    boxes = np.array([crop.box(100, 100, generator(0, "test", i)) for i in range(4000)])
    assert set(boxes[:, 2] - boxes[:, 0]) == {50}
    for start in (boxes[:, 0], boxes[:, 1]):
        assert (start.min(), start.max()) == (0, 50)
        assert abs(start.mean() - 25) < 5 * 14.7 / 4000**0.5
    scales = Crop(aspect=(1.0, 1.0))
    areas = [
        np.prod(np.subtract(b[2:], b[:2])) for b in (scales.box(500, 500, generator(1, "t", i)) for i in range(2000))
    ]
    assert abs(np.mean(areas) / 500**2 - 0.65) < 5 * 0.2 / 2000**0.5


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (1, 1), (1, 50)])
def test_the_fallback_is_the_largest_centred_crop(width, height):
    left, top, right, bottom = Crop(scale=(0.9, 1.0)).box(width, height, generator(0, "test"))
    w, h = right - left, bottom - top
    assert w == width or h == height
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1
    assert min(w, h) == 1 or 0.7 <= w / h <= 1.4


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(0, 1 << 30))
def test_the_smallest_side_holds_the_size_twice(height, width, seed):
    crop = Crop(scale=(0.3, 1.0), aspect=(3 / 4, 4 / 3))
    short = crop.min_side((height, width))
    rng = generator(seed, "test")
    for shape in ((short, short), (short, 3 * short), (5 * short, short)):
        left, top, right, bottom = crop.box(*shape, rng)
        assert right - left >= 2 * width - 1  # the box is rounded
        assert bottom - top >= 2 * height - 1


def test_a_crop_is_its_box_resized(picture):
    crop = Crop()
    for i in range(20):
        left, top, right, bottom = crop.box(40, 30, generator(0, "test", i))
        alone = Image.fromarray(picture[top:bottom, left:right].copy())
        expected = np.asarray(alone.resize((24, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        made = crop(picture, (16, 24), generator(0, "test", i))
        assert np.array_equal(made, expected)
        assert made.flags.c_contiguous
        assert made.flags.writeable


def test_flips(picture):
    plain, flipped = Crop(), Crop(flip=True)
    is_mirrored = []
    for i in range(200):
        one = plain(picture, (16, 16), generator(0, "test", i))
        other = flipped(picture, (16, 16), generator(0, "test", i))
        is_mirrored.append(np.array_equal(other, one[:, :, ::-1]))
        assert is_mirrored[-1] or np.array_equal(other, one)
    assert 60 < sum(is_mirrored) < 140


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_each_channel_is_resized_alone(channels):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, channels), dtype=np.uint8)
    together = resize(image, (8, 12), (3, 2, 25, 18))
    assert together.shape == (channels, 8, 12)
    for c in range(channels):
        triple = np.repeat(image[:, :, c : c + 1], 3, axis=2)
        assert np.array_equal(together[c], resize(triple, (8, 12), (3, 2, 25, 18))[1])


def test_nothing_outside_of_the_box_shows():
    image = np.full((40, 40, 3), 255, np.uint8)
    image[10:30, 10:30] = 7
    assert np.array_equal(resize(image, (5, 5), (10, 10, 30, 30)), np.full((3, 5, 5), 7))


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(4, 40), st.integers(4, 40))
def test_centre_crops(width, height, out_height, out_width):
    column, row = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = np.stack([column, row], axis=2).astype(np.uint8)
    made = center_crop(image, (out_height, out_width))
    assert made.shape == (2, out_height, out_width)
    for c, side in ((0, width), (1, height)):  # the ramp's middle stays in the middle
        assert side == 1 or abs(made[c].mean() - image[:, :, c].mean()) <= 128 / (side - 1) + 1


def test_a_centre_crop_is_as_large_as_it_can_be():
    image = np.zeros((20, 40, 1), np.uint8)
    image[:, 10:30] = 255
    assert (center_crop(image, (8, 8)) == 255).all()
    image[:, 29] = 0
    assert center_crop(image, (20, 20))[0, :, -1].max() == 0


@pytest.mark.parametrize(
    ("crop", "name"),
    [
        (Crop(scale=(0.0, 1.0)), "scale"),
        (Crop(scale=(0.5, 0.3)), "scale"),
        (Crop(scale=(0.5, 1.5)), "scale"),
        (Crop(aspect=(0.0, 1.0)), "aspect"),
        (Crop(aspect=(2.0, 1.0)), "aspect"),
    ],
)
def test_mistakes(crop, name):
    (mistake,) = crop.mistakes()
    assert f"crop.{name}" in mistake
    assert Crop().mistakes() == []
