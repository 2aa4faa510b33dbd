"""Images of a source with answers of one's own in the place of its labels: what a classifier learns from."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from openjepa.data.part import Part
from openjepa.data.source import Item, Source


class Answered(Part):
    """The images of `whole` at `positions` (N,), with the classes `answers` (N,), from 0."""

    def __init__(self, whole: Source, positions: np.ndarray, answers: np.ndarray, question: str) -> None:
        digest = hashlib.blake2b(positions.astype(np.int64).tobytes() + answers.astype(np.int64).tobytes())
        super().__init__(whole, positions, f"answers to {question} ({digest.hexdigest()[:12]})")
        self.answers, self.question = answers, question

    def __getitem__(self, index: int) -> Item:
        return replace(super().__getitem__(index), label=int(self.answers[index]))

    def labels(self) -> np.ndarray:
        return self.answers

    def questions(self) -> dict[str, np.ndarray]:
        return {self.question: self.answers}
