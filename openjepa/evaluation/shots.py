"""Which images of train are labelled when few are (paper section 5): drawn class by class, or named in a list."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from openjepa.errors import ConfigError, DataError, sentence
from openjepa.evaluation.sets import ImageSet
from openjepa.randomness import generator

NAMES_SHOWN = 3


def drawn(labels: Tensor, shots: str, num_draws: int, seed: int, setting: str) -> list[Tensor]:
    """Places among `labels` (N,), one tensor a draw; every class gives as many, if it has them.

    `shots`: a share such as 1%, or a number a class; `setting` is its name. ConfigError for nonsense, or for all.
    """
    classes = labels.unique()
    a_class = _images_a_class(shots, len(labels), len(classes), setting)
    if a_class * len(classes) > len(labels) * 0.9:
        rule = f"is {a_class} images of each of {len(classes)} classes; train has {len(labels)}"
        raise ConfigError(sentence(setting, shots, rule, "Ask for fewer, or use all labels."))
    draws = []
    for draw in range(num_draws):
        rng = generator(seed, "few-shot", draw)
        places = [torch.nonzero(labels == label).flatten() for label in classes]
        draws.append(torch.cat([some[rng.permutation(len(some))[:a_class]] for some in places]))
    return draws


def _images_a_class(shots: str, num_images: int, num_classes: int, setting: str) -> int:
    text = shots.strip()
    try:
        wanted = float(text.removesuffix("%")) / 100 * num_images / num_classes if text.endswith("%") else int(text)
    except ValueError:
        wanted = -1
    if not 0 < wanted < float("inf"):
        raise ConfigError(sentence(setting, shots, "is a share or a number", "Try 1%, 10% or 5."))
    return max(1, round(wanted))


def listed(images: ImageSet, positions: np.ndarray, list_file: Path, setting: str) -> Tensor:
    """Places among `positions` (N,) of the images that a file names, one a line, as the 1 % ImageNet lists do."""
    try:
        names = {line.strip() for line in list_file.read_text().splitlines() if line.strip()}
    except OSError as error:
        raise ConfigError(sentence(setting, str(list_file), f"cannot be read: {error.strerror}")) from None
    named = named_images(images, positions)
    if missing := sorted(names - named.keys()):
        shown = ", ".join(missing[:NAMES_SHOWN])
        rule = f"names {len(missing)} images that train does not have, or has more than once: {shown}"
        raise DataError(sentence(setting, str(list_file), rule))
    return torch.tensor(sorted(named[name] for name in names))


def named_images(images: ImageSet, positions: np.ndarray) -> dict[str, int]:
    """File name to place among `positions`, with the name's folder and without, as lists have both."""
    found: dict[str, int] = {}
    ambiguous = set()
    for place, position in enumerate(positions):
        path = PurePosixPath(images.source.name(int(position)))
        for name in {path.name, "/".join(path.parts[-2:])}:
            if name in found:
                ambiguous.add(name)
            found[name] = place
    return {name: place for name, place in found.items() if name not in ambiguous}
