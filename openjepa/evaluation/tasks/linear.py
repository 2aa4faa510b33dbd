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
from openjepa.measure.lars import LarsChoice, choose_lars, refit_lars
from openjepa.measure.lars_config import LarsConfig
from openjepa.measure.logistic import STRENGTHS, Choice, choose_strength, fit_logistic
from openjepa.measure.subset import Rows

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
        choices: dict[int, Choice | LarsChoice] = {}
        for layers in sorted({min(layers, row.encoder.depth) for layers in self.layers}):
            train_x, train_y, _, _ = row.labelled(question, layers)
            choices[layers] = self._choice(train_x, train_y, num_classes, row.seed)
        by_accuracy = {layers: choice.held_out_accuracy for layers, choice in choices.items()}
        best = max(choices, key=lambda layers: (not isnan(by_accuracy[layers]), by_accuracy[layers]))
        train_x, train_y, test_x, test_y = row.labelled(question, best)
        choice = choices[best]
        if isinstance(choice, LarsChoice):
            heads = refit_lars(train_x, train_y, num_classes, choice, self.lars, row.seed)
            correct = heads.correct(test_x, test_y)[0]
            what = f"LARS, lr {choice.lr:g}, weight decay {choice.weight_decay:g}"
        else:
            head = fit_logistic(train_x, train_y, num_classes, choice.strength)
            correct = head.predict(test_x) == test_y
            what = f"logistic regression, L2 {choice.strength:g}"
        correct = row.graded(correct, question)
        low, high = accuracy_interval(correct, row.seed)
        by = f"{100 * by_accuracy[best]:.1f} % on a held-out fifth of train"
        if isnan(by_accuracy[best]):
            by = "no class has an image to hold out"
        chosen = f"last {best} of layers {tuple(choices)}, {what}: {by}"
        return Score("accuracy", float(correct.mean()), low, high, chosen, layers=best, pooling=row.encoder.pooling)

    def _choice(self, features: Rows, labels: Tensor, num_classes: int, seed: int) -> Choice | LarsChoice:
        """Of the settings for some layers, by training images alone."""
        if self.solver == "lars" or (self.solver == "auto" and len(features) >= LARGE):
            return choose_lars(features, labels, num_classes, self.lars, seed)
        return choose_strength(features, labels, num_classes, self.strengths, seed)
