"""A source as evaluation sees it: images by position, the questions that are asked of them, and what they are.

Paper appendix A.2 evaluates on labelled sets; a set of scenes has several labels an image, hence "questions".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from openjepa.data.source import Source, open_source
from openjepa.data.views import nearest_crop
from openjepa.errors import DataError, sentence

FEWEST = 10
"""Images below which no figure means anything."""


class ImageSet:
    """Images of a source with the answers to each question. DataError for a stream or a handful of images."""

    def __init__(self, spec: str | Source, role: str, name: str = "") -> None:
        """`role`: "data" or "test", and `name` in place of the spec, for messages."""
        self.source = open_source(spec) if isinstance(spec, str) else spec
        self.spec, self.role = name or (spec if isinstance(spec, str) else self.source.identity), role
        if self.source.is_sequential:
            rule = "is a stream; evaluation reads images by position"
            raise DataError(sentence(role, self.spec, rule, "Leave out streaming."))
        if len(self.source) < FEWEST:
            raise DataError(sentence(role, self.spec, f"has {len(self.source)} images; {FEWEST} are needed"))
        self.names: dict[str, list[str]] = {}
        """Of the classes of each question, once they are numbered."""
        self._dense: dict[tuple[str, tuple[int, int], bytes], Tensor] = {}

    def __len__(self) -> int:
        return len(self.source)

    @property
    def identity(self) -> str:
        """Short and stable."""
        return self.source.identity

    @cached_property
    def answers(self) -> dict[str, Tensor]:
        """(N,) int64 classes by question, -1 where there is no answer; empty for a set without labels."""
        return {name: torch.tensor(labels) for name, labels in self.source.questions().items()}

    @cached_property
    def fingerprints(self) -> np.ndarray:
        """(N, 16) uint8: equal for images of equal content. Every image is read, and none decoded."""
        return self._look(range(len(self)))

    @property
    def digest(self) -> str:
        """Of the content of all images: the same wherever and in whatever order they lie."""
        return hashlib.blake2b(b"".join(sorted(map(bytes, self.fingerprints))), digest_size=16).hexdigest()

    def look(self, progress: Progress) -> None:
        """Read `fingerprints` now, with a bar: a large set takes minutes."""
        line = progress.add_task(f"reading {self.spec}", total=len(self))
        self.fingerprints = self._look(progress.track(range(len(self)), task_id=line))
        progress.remove_task(line)

    def _look(self, indices: Iterable[int]) -> np.ndarray:
        found = np.empty((len(self), 16), np.uint8)
        for index in indices:
            found[index] = np.frombuffer(self.source.fingerprint(index), np.uint8)
        return found

    def has_dense(self, name: str) -> bool:
        """Whether every image comes with a map of this name ("depth" or "mask")."""
        return name in self.source.dense_names

    def dense(self, name: str, size: tuple[int, int], positions: np.ndarray) -> Tensor:
        """(n, *size): maps of the images at (n,) positions, cropped as the images are."""
        key = (name, size, positions.tobytes())
        if key not in self._dense:
            maps = [nearest_crop(self.source.dense(int(index))[name], size) for index in positions]
            self._dense[key] = torch.from_numpy(np.stack(maps))
        return self._dense[key]


def number_alike(train: ImageSet, test: ImageSet) -> dict[str, list[str]]:
    """Number the classes of both sets alike, in place: by name where both have names, those of train first.

    Folders and text columns number their own classes, so equal numbers may be different classes, and numbers may be
    any. Returns the names by question.
    """
    named: dict[str, list[str]] = {}
    for question in train.answers.keys() & test.answers.keys():
        names = [images.source.class_names(question) for images in (train, test)]
        keys = []
        for images, own in zip((train, test), names, strict=True):
            numbers = [int(number) for number in images.answers[question].unique() if number >= 0]
            keys.append({number: own[number] if own and all(names) else number for number in numbers})
        known = list(keys[0].values())
        known += [key for key in keys[1].values() if key not in known]
        for images, of_set in zip((train, test), keys, strict=True):
            old = images.answers[question]
            new = torch.full_like(old, -1)
            for number, key in of_set.items():
                new[old == number] = known.index(key)
            images.answers[question] = new
        some = names[0] or names[1]
        named[question] = [
            some[key] if isinstance(key, int) and some and key < len(some) else str(key) for key in known
        ]
        train.names[question] = test.names[question] = named[question]
    return named


def overlap(one: ImageSet, other: ImageSet) -> int:
    """How many images of `other` are in `one` as well, by content."""
    seen = {row.tobytes() for row in one.fingerprints}
    return sum(row.tobytes() in seen for row in other.fingerprints)
