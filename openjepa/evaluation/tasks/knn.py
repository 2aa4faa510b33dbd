"""Nearest neighbours: what features say with no training at all (DINO's protocol; not in the paper)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from openjepa.errors import ConfigError, sentence
from openjepa.evaluation.task import ClassTask, Row, Score, at_least_one
from openjepa.measure.bootstrap import accuracy_interval
from openjepa.measure.knn import TEMPERATURE, K, knn_predict
from openjepa.measure.split import hold_out
from openjepa.measure.subset import Rows, subset


@dataclass(frozen=True)
class KNN(ClassTask):
    """Weighted k nearest neighbours by cosine similarity, exact."""

    name = "knn"
    about = "k nearest neighbours on average-pooled features"

    k: tuple[int, ...] = (K,)
    """Neighbours; of several the best on a held-out fifth of train."""
    temperature: float = TEMPERATURE
    """Similarity that multiplies a vote by e."""

    def mistakes(self) -> list[str]:
        return at_least_one("knn.k", self.k) + at_least_one("knn.temperature", (self.temperature,))

    def measure(self, row: Row, question: str) -> Score:
        num_classes = row.num_classes(question)
        bank, answers, queries, truth = row.labelled(question)
        if max(self.k) > len(bank):
            remedy = f"Try --knn.k {max(1, min(20, len(bank)))}."
            raise ConfigError(
                sentence("knn.k", self.k, f"must be 1 to the {len(bank)} labelled images of train", remedy)
            )
        k, chosen = self.k[0], f"k = {self.k[0]}, given"
        if len(self.k) > 1:
            k, held_out = self._choose(bank, answers, num_classes, row.seed)
            chosen = f"k = {k} of {self.k}, by {100 * held_out:.1f} % on a held-out fifth of train"
        correct = knn_predict(bank, answers, queries, num_classes, k, self.temperature) == truth
        correct = row.graded(correct, question)
        low, high = accuracy_interval(correct, row.seed)
        return Score("accuracy", float(correct.mean()), low, high, chosen, layers=1, pooling=row.encoder.pooling)

    def _choose(self, bank: Rows, answers: Tensor, num_classes: int, seed: int) -> tuple[int, float]:
        held_out, kept = (part.sort().values for part in hold_out(answers, seed))  # in the order of the disk
        queries, rest = subset(bank, held_out), subset(bank, kept)
        scores = {}
        for k in self.k:
            few = min(k, len(kept))
            guess = knn_predict(rest, answers[kept], queries, num_classes, few, self.temperature)
            scores[k] = float((guess == answers[held_out]).double().mean())
        best = max(self.k, key=lambda k: scores[k])
        return best, scores[best]
