"""A part of a source, chosen by position: what a set without test images of its own is split into."""

from __future__ import annotations

import numpy as np

from openjepa.data.source import Item, Source
from openjepa.randomness import generator


class Part(Source):
    """The images of `whole` at `positions`, in that order."""

    def __init__(self, whole: Source, positions: np.ndarray, what: str) -> None:
        """`what`: a word or two for the identity."""
        self.whole, self.positions = whole, positions
        self.classes, self.dense_names = whole.classes, whole.dense_names
        self.identity = f"{what} of {whole.identity}: {len(positions)} images"

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Item:
        return self.whole[int(self.positions[index])]

    def name(self, index: int) -> str:
        return self.whole.name(int(self.positions[index]))

    def labels(self) -> np.ndarray | None:
        labels = self.whole.labels()
        return None if labels is None else labels[self.positions]

    def questions(self) -> dict[str, np.ndarray]:
        return {name: answers[self.positions] for name, answers in self.whole.questions().items()}

    def class_names(self, question: str) -> list[str] | None:
        return self.whole.class_names(question)

    def fingerprint(self, index: int) -> bytes:
        return self.whole.fingerprint(int(self.positions[index]))

    def dense(self, index: int) -> dict[str, np.ndarray]:
        return self.whole.dense(int(self.positions[index]))


def split(whole: Source, seed: int, folds: int = 5) -> tuple[Part, Part]:
    """Train and test: one image in `folds`, drawn by `seed`, is for testing."""
    order = generator(seed, "test-part").permutation(len(whole))
    num_test = -(-len(order) // folds)
    return Part(whole, np.sort(order[num_test:]), "train part"), Part(whole, np.sort(order[:num_test]), "test part")
