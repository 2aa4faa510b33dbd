"""A look at a few images before anything is trained on them."""

from __future__ import annotations

import numpy as np

from openjepa.data.bad import examples
from openjepa.data.loader import read
from openjepa.data.source import Source
from openjepa.errors import DataError, sentence

CHECKED = 16
"""Images tried."""
CHECKED_OF_STREAM = 4


def check(source: Source, channels: int) -> tuple[list[tuple[str, str]], int]:
    """Before training: (name, reason) of those of a few images spread over the source that cannot be used, and how many
    were tried. DataError when none can be used, or each has one colour."""
    images, bad = _sample(source, channels)
    return bad, len(images) + len(bad)


def sides(source: Source, channels: int = 3) -> list[tuple[int, int]]:
    """(height, width) of a few images spread over the source; DataError as `check`."""
    return [image.shape[:2] for image in _sample(source, channels)[0]]


def _sample(source: Source, channels: int) -> tuple[list[np.ndarray], list[tuple[str, str]]]:
    """A few images spread over the source, decoded; (name, reason) of those among them that cannot be used.

    Of a stream, which is read from its start again, the first few that can be.
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
        if source.is_sequential and len(images) == CHECKED_OF_STREAM:
            break
    if len(images) > 1 and all((image == image[:1, :1]).all() for image in images):
        rule = f"each of {len(images)} images tried is of one colour: there is nothing to predict in them"
        raise DataError(sentence("data", source.identity, rule, "Look at some of them."))
    if images:
        return images, bad
    rule = f"none of {len(bad)} images tried can be used: {examples(bad)}"
    remedy = (
        "Arrays are (height, width, channels); other than 3 channels need --method.encoder.mean and "
        "--method.encoder.std, a number a channel."
    )
    raise DataError(sentence("data", source.identity, rule, remedy if any("channels" in why for _, why in bad) else ""))
