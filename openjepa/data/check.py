"""A look at a few images before anything is trained on them."""

from __future__ import annotations

import numpy as np

from openjepa.data.bad import examples
from openjepa.data.loader import read
from openjepa.data.source import Source
from openjepa.errors import DataError, sentence

CHECKED = 16
"""Images tried."""


def check(source: Source, channels: int) -> tuple[list[tuple[str, str]], int]:
    """Before training: DataError when of a few images spread over the source none can be used, or each has one colour.

    Returns (name, reason) of those that cannot, and how many were tried.
    """
    images, bad = _sample(source, channels)
    if not images:
        rule = f"none of {len(bad)} images tried can be used: {examples(bad)}"
        raise DataError(sentence("data", source.identity, rule))
    if len(images) > 1 and all((image == image[:1, :1]).all() for image in images):
        rule = f"each of {len(images)} images tried is of one colour: there is nothing to predict in them"
        raise DataError(sentence("data", source.identity, rule))
    return bad, len(images) + len(bad)


def sides(source: Source) -> list[tuple[int, int]]:
    """(height, width) of a few images spread over the source; DataError when none of them can be used."""
    images, bad = _sample(source, 3)
    if not images:
        rule = f"none of {len(bad)} images tried can be used: {examples(bad)}"
        raise DataError(sentence("data", source.identity, rule))
    return [image.shape[:2] for image in images]


def _sample(source: Source, channels: int) -> tuple[list[np.ndarray], list[tuple[str, str]]]:
    """A few images spread over the source, decoded; (name, reason) of those among them that cannot be used.

    Of a stream, which is read from its start again, the first that can be.
    """
    if source.is_sequential:
        indices = list(range(CHECKED))
    else:
        if len(source) == 0:
            raise DataError(sentence("data", source.identity, "no image"))
        indices = np.unique(np.linspace(0, len(source) - 1, CHECKED).astype(int)).tolist()
    images: list[np.ndarray] = []
    bad: list[tuple[str, str]] = []
    for index in indices:
        found = read(source, index, channels, None, bad)
        images += [] if found is None else [found[1]]
        if images and source.is_sequential:
            break
    return images, bad
