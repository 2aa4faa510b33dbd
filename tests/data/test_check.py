"""What is told of the images before training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from openjepa.data.check import check, sides
from openjepa.errors import DataError
from tests.data.test_loader import Numbered, Stream


class Drawn(Numbered):
    """With something in every image."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        if not isinstance(item.image, bytes):
            item.image[1:3, 1:3] += 1
        return item


class DrawnStream(Drawn):
    is_sequential = True


def test_one_sound_image_among_those_tried_is_enough():
    assert check(Drawn(1), 3) == ([], 1)
    assert check(Drawn(1000), 3) == ([], 16)
    bad, num_tried = check(Drawn(1000, unreadable=tuple(range(900))), 3)
    assert (len(bad), num_tried) == (14, 16)
    assert bad[0] == ("name 0", "unreadable")
    assert check(DrawnStream(100), 3) == ([], 4)
    with pytest.raises(DataError, match="each of 4 images"):
        check(Stream(100), 3)


def test_why_nothing_can_be_used():
    with pytest.raises(DataError, match=r"none of 16 images.*name 0 \(has 3 channels; the run takes 1\); name 66 "):
        check(Numbered(1000), 1)
    with pytest.raises(DataError, match=r"none of 3 images tried can be used: name 0 \(unreadable\); name 1 "):
        check(Numbered(3, (0, 1, 2)), 3)
    with pytest.raises(DataError, match="none of 3 images"):
        sides(Numbered(3, (0, 1, 2)))
    with pytest.raises(DataError, match="none of 16"):
        check(Stream(100, tuple(range(16))), 3)
    with pytest.raises(DataError, match="no image"):
        check(Numbered(0), 3)


def test_images_of_one_colour_each_are_refused_and_one_with_something_in_it_is_not():
    with pytest.raises(DataError, match="each of 16 images tried is of one colour: there is nothing to predict"):
        check(Numbered(100), 3)

    class Mixed(Numbered):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return replace(item, image=np.eye(8, dtype=np.uint8)[:, :, None].repeat(3, 2)) if index == 0 else item

    assert check(Mixed(100), 3) == ([], 16)


def drawn(height):
    image = np.zeros((height, 20, 3), np.uint8)
    image[1:3] = 200
    return image


def test_sides_are_those_of_images_spread_over_the_source():
    class Sized(Numbered):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), image=drawn(8 + index))

    assert sides(Sized(31)) == [(8 + 2 * i, 20) for i in range(16)]
