"""RandAugment: every operation on colour and grey images, nothing at strength 0, and all chance from the generator."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from openjepa.data.randaugment import OPERATIONS, rand_augment

ALWAYS = {"autocontrast", "equalize", "invert"}
"""Operations without a strength."""


def picture(channels):
    rng = np.random.default_rng(0)
    return rng.integers(20, 230, (channels, 24, 20), dtype=np.uint8)


def applied(name, image, strength, sign=1.0):
    plain = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    return np.asarray(OPERATIONS[name](plain, strength, sign), dtype=np.int64)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_more_strength_is_more_change(name, channels):
    image = picture(channels)
    same = np.asarray(image[0] if channels == 1 else image.transpose(1, 2, 0), dtype=np.int64)
    change = [np.abs(applied(name, image, strength) - same).mean() for strength in (0.0, 0.5, 1.0)]
    if name in ALWAYS:
        assert change[0] > 0 or name == "autocontrast"
        return
    if name == "posterize":
        assert 0 < change[0] <= change[1] < change[2], "four bits of eight are what is left at strength 0"
        return
    assert change[0] <= 1, "nothing happens at strength 0"
    is_grey_saturation = name == "color" and channels == 1
    assert is_grey_saturation or change[0] < change[1] <= change[2] * 1.2


def test_all_chance_comes_from_the_generator_and_most_images_change():
    image = picture(3)
    changed = [rand_augment(image, 9.0, 2, np.random.default_rng(i)) for i in range(60)]
    assert all(view.shape == image.shape and view.dtype == np.uint8 for view in changed)
    assert np.array_equal(changed[3], rand_augment(image, 9.0, 2, np.random.default_rng(3)))
    share = np.mean([not np.array_equal(view, image) for view in changed])
    assert 0.6 < share < 0.95, "three in four: each of two operations is carried out half of the time"


def test_solarize_add_brightens_the_dark_half_only():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    found = applied("solarize add", ramp, 1.0).ravel()
    assert all(found[value] == min(255, value + 110) if value < 128 else found[value] == value for value in range(256))
