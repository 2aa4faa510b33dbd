"""Few labels (paper section 5 and table 2): a linear probe on 1 %, 10 % or n images of each class.

Departs from the paper in drawing the labelled images class by class from a seed, three times, unless a list is
given; the paper uses one published list for 1 % of ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from pathlib import Path

import torch

from openjepa.evaluation.shots import drawn, listed
from openjepa.evaluation.task import ClassTask, Row, Score, at_least_one
from openjepa.measure.bootstrap import accuracy_interval
from openjepa.measure.logistic import STRENGTHS, probe_accuracy


@dataclass(frozen=True)
class FewShot(ClassTask):
    """A linear probe that sees few labels."""

    name = "few_shot"
    about = "linear probe on few labels a class, mean and spread over draws"

    shots: str = "1%"
    """Labels to learn from: a share such as 1% or 10%, or a number of images a class such as 5."""
    draws: int = 3
    """Independent draws of the labelled images."""
    list_file: Path | None = None
    """Text file that names the labelled images, one a line, in place of drawing them."""
    strengths: tuple[float, ...] = STRENGTHS
    """L2 strengths; for each draw the best on a held-out fifth of its labels."""

    def mistakes(self) -> list[str]:
        return at_least_one("few_shot.draws", (self.draws,)) + at_least_one("few_shot.strengths", self.strengths)

    def measure(self, row: Row, question: str) -> Score:
        num_classes = row.num_classes(question)
        train_x, train_y, test_x, test_y = row.labelled(question)
        if self.list_file:
            places = row.positions(question)
            subsets = [listed(row.train, places, self.list_file, "few_shot.list_file")]
        else:
            subsets = drawn(train_y, self.shots, self.draws, row.seed, "few_shot.shots")
        correct, strengths = [], []
        for number, subset in enumerate(subsets):
            x, y = train_x[subset], train_y[subset]
            found = probe_accuracy(x, y, test_x, test_y, num_classes, self.strengths, row.seed + number)
            correct.append(row.graded(found.correct, question))
            by = "with nothing held out" if isnan(found.held_out_accuracy) else "by a held-out fifth of those labels"
            strengths.append(f"{found.strength:g} {by}")
        accuracies = torch.stack(correct).mean(dim=1)
        low, high = accuracy_interval(torch.stack(correct).mean(dim=0), row.seed)
        spread = float(accuracies.std()) if len(subsets) > 1 else None
        source = f"listed in {self.list_file}" if self.list_file else f"drawn class by class, {len(subsets)} times"
        chosen = f"{len(subsets[0])} labels {source}; L2 {', '.join(strengths)}"
        pooling = row.encoder.pooling
        return Score("accuracy", float(accuracies.mean()), low, high, chosen, layers=1, pooling=pooling, spread=spread)
