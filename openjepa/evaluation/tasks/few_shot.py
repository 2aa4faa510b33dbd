"""Few labels (paper section 5 and table 2): a linear probe on 1 %, 10 % or n images of each class.

Departs from the paper in drawing the labelled images class by class from a seed, three times, unless a list is
given; the paper uses one published list for 1 % of ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from openjepa.errors import ConfigError, DataError, sentence
from openjepa.evaluation.sets import ImageSet
from openjepa.evaluation.task import ClassTask, Row, Score, at_least_one, usable
from openjepa.measure.bootstrap import accuracy_interval
from openjepa.measure.logistic import STRENGTHS, probe_accuracy
from openjepa.randomness import generator

NAMES_SHOWN = 3


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
        subsets = [self._listed(row, question)] if self.list_file else self._drawn(train_y, row)
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

    def _drawn(self, labels: Tensor, row: Row) -> list[Tensor]:
        """Positions of the labelled images, one tensor a draw; every class gives as many, if it has them."""
        classes = labels.unique()
        a_class = self._images_a_class(len(labels), len(classes))
        if a_class * len(classes) > len(labels) * 0.9:
            rule = f"is {a_class} images of each of {len(classes)} classes; train has {len(labels)}"
            raise ConfigError(sentence("few_shot.shots", self.shots, rule, "Ask for fewer, or use the linear task."))
        draws = []
        for draw in range(self.draws):
            rng = generator(row.seed, "few-shot", draw)
            positions = [torch.nonzero(labels == label).flatten() for label in classes]
            draws.append(torch.cat([some[rng.permutation(len(some))[:a_class]] for some in positions]))
        return draws

    def _images_a_class(self, num_images: int, num_classes: int) -> int:
        text = self.shots.strip()
        try:
            wanted = float(text.removesuffix("%")) / 100 * num_images / num_classes if text.endswith("%") else int(text)
        except ValueError:
            wanted = -1
        if wanted <= 0:
            raise ConfigError(sentence("few_shot.shots", self.shots, "is a share or a number", "Try 1%, 10% or 5."))
        return max(1, round(wanted))

    def _listed(self, row: Row, question: str) -> Tensor:
        """Positions, among the usable images of train, of those that the list names."""
        assert self.list_file is not None
        try:
            names = {line.strip() for line in self.list_file.read_text().splitlines() if line.strip()}
        except OSError as error:
            raise ConfigError(
                sentence("few_shot.list_file", str(self.list_file), f"cannot be read: {error.strerror}")
            ) from None
        keep = usable(row.train, row.extractor.pooled(row.encoder, row.train, row.name), question)
        positions = np.flatnonzero(keep.numpy())
        named = named_images(row.train, positions)
        if missing := sorted(names - named.keys()):
            shown = ", ".join(missing[:NAMES_SHOWN])
            rule = f"names {len(missing)} images that train does not have, or has more than once: {shown}"
            raise DataError(sentence("few_shot.list_file", str(self.list_file), rule))
        return torch.tensor(sorted(named[name] for name in names))


def named_images(images: ImageSet, positions: np.ndarray) -> dict[str, int]:
    """File name to place among `positions`, with the name's folder and without, as lists have both."""
    found: dict[str, int] = {}
    ambiguous = set()
    for place, position in enumerate(positions):
        path = PurePosixPath(images.source[int(position)].name)
        for name in {path.name, "/".join(path.parts[-2:])}:
            if name in found:
                ambiguous.add(name)
            found[name] = place
    return {name: place for name, place in found.items() if name not in ambiguous}
