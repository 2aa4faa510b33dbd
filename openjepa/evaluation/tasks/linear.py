"""The linear probe on frozen features (paper appendix A.2): the better of the last layer and the last four.

Small sets: logistic regression to convergence. Large ones: the paper's recipe, LARS in batches of 16,384.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan
from typing import Literal

from torch import Tensor

from openjepa.evaluation.features import MOST_LAYERS
from openjepa.evaluation.task import ClassTask, Row, Score, at_least_one
from openjepa.measure.bootstrap import accuracy_interval
from openjepa.measure.lars import LarsConfig, lars_probe
from openjepa.measure.logistic import STRENGTHS, probe_accuracy

LARGE = 100_000
"""Training images from which on the paper's recipe is the cheaper one."""


@dataclass(frozen=True)
class Linear(ClassTask):
    """A linear classifier; layers and settings chosen on a held-out fifth of train."""

    name = "linear"
    about = "linear probe on average-pooled features of the last layer, or of the last four"

    solver: Literal["auto", "logistic", "lars"] = "auto"
    """Logistic regression, or the paper's recipe; auto takes the latter for large sets."""
    layers: tuple[int, ...] = (1, 4)
    """How many last layers to concatenate; the choice among them is made on the held-out fifth."""
    strengths: tuple[float, ...] = STRENGTHS
    """L2 strengths of the logistic regression."""
    lars: LarsConfig = field(default_factory=LarsConfig)

    def mistakes(self) -> list[str]:
        layers = at_least_one("linear.layers", self.layers, 1, MOST_LAYERS)
        return layers + at_least_one("linear.strengths", self.strengths) + self.lars.mistakes()

    def measure(self, row: Row, question: str) -> Score:
        num_classes = row.num_classes(question)
        found: dict[int, tuple[float, Tensor, str]] = {}
        for layers in sorted({min(layers, row.encoder.depth) for layers in self.layers}):
            parts = row.labelled(question, layers)
            is_large = self.solver == "lars" or (self.solver == "auto" and len(parts[0]) >= LARGE)
            if is_large:
                swept = lars_probe(*parts, num_classes, self.lars, row.seed)
                what = f"LARS, lr {swept.lr:g}, weight decay {swept.weight_decay:g}"
                found[layers] = swept.held_out_accuracy, swept.correct, what
            else:
                fitted = probe_accuracy(*parts, num_classes, self.strengths, row.seed)
                found[layers] = fitted.held_out_accuracy, fitted.correct, f"logistic regression, L2 {fitted.strength:g}"
        best = max(found, key=lambda layers: found[layers][0])
        held_out, correct, what = found[best]
        correct = row.graded(correct, question)
        low, high = accuracy_interval(correct, row.seed)
        by = (
            "no class has an image to hold out"
            if isnan(held_out)
            else f"{100 * held_out:.1f} % on a held-out fifth of train"
        )
        chosen = f"last {best} of layers {tuple(found)}, {what}: {by}"
        return Score("accuracy", float(correct.mean()), low, high, chosen, layers=best, pooling=row.encoder.pooling)
