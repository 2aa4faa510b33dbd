"""The contract of a task: one small file in `tasks/`, found by being there.

A task is a frozen dataclass: its fields are its settings, and flags of `openjepa evaluate`.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from openjepa.errors import ConfigError, DataError, nearest, sentence
from openjepa.evaluation.features import Extractor, Pooled
from openjepa.evaluation.sets import ImageSet
from openjepa.measure.split import hold_out
from openjepa.measure.subset import Rows, Subset, subset
from openjepa.randomness import generator
from openjepa.vision.encoder import Encoder


@dataclass(frozen=True)
class Score:
    """One figure, with all that is needed to read it."""

    metric: str
    """"accuracy", "rmse", "mean IoU"."""
    value: float
    low: float
    """Of the 95 % bootstrap interval over test images."""
    high: float
    chosen: str
    """What was chosen (layers, strengths, ...) and on what; never on test images."""
    layers: int
    """Last layers whose features were read, concatenated."""
    pooling: str
    spread: float | None = None
    """Standard deviation over seeds, where there are several."""
    more: dict[str, float] = field(default_factory=dict)
    """Further figures by name."""


@dataclass(frozen=True)
class Row:
    """An encoder on a pair of sets, as a task sees it."""

    name: str
    encoder: Encoder
    train: ImageSet
    test: ImageSet
    extractor: Extractor
    seed: int
    out: Path | None = None
    """Directory for what a task leaves behind: runs, where it trains."""

    def labelled(self, question: str, num_layers: int = 1) -> tuple[Rows, Tensor, Rows, Tensor]:
        """Features and answers, (N, L * D), (N,), (Q, L * D), (Q,): of train, then of test; unlabelled and unreadable
        images left out, and test images of classes that train does not have: `graded` counts those as wrong.

        Features are the memory map itself, or some of its rows: nothing is copied. DataError when none are left.
        """
        return *self._usable(self.train, question, num_layers), *self._usable(self.test, question, num_layers)

    def positions(self, question: str) -> np.ndarray:
        """(N,) where in train the images lie whose features `labelled` gives."""
        keep = usable(self.train, self.extractor.pooled(self.encoder, self.train, self.name), question)
        return np.flatnonzero(keep.numpy())

    def _usable(self, images: ImageSet, question: str, num_layers: int) -> tuple[Rows, Tensor]:
        pooled = self.extractor.pooled(self.encoder, images, self.name)
        features, answers = pooled.concatenated(num_layers), images.answers[question]
        keep = usable(images, pooled, question) & (answers < self.num_classes(question))
        if not keep.any():
            rule = f"no image can be read and has, for {question!r}, a class that {self.train.spec} has"
            raise DataError(sentence(images.role, images.spec, rule))
        if keep.all():
            return features, answers
        index = keep.nonzero().flatten()
        return subset(features, index), answers[index]

    def graded(self, correct: Tensor, question: str) -> Tensor:
        """(Q,) shares or truths of `labelled` test images to float64 of all usable ones."""
        pooled = self.extractor.pooled(self.encoder, self.test, self.name)
        total = int(usable(self.test, pooled, question).sum())
        return torch.cat([correct.double(), torch.zeros(total - len(correct), dtype=torch.float64)])

    def num_classes(self, question: str) -> int:
        """Of train. DataError unless it shows two."""
        train = self.train.answers[question]
        present = train[train >= 0].unique()
        if len(present) < 2:
            rule = f"shows {len(present)} class for the question {question!r}; two are needed"
            raise DataError(sentence(self.train.role, self.train.spec, rule))
        return int(train.max()) + 1

    def dense(self, images: ImageSet, name: str, most: int) -> tuple[Subset, Tensor]:
        """Patch tokens of the last layer, (n, P, D), and maps, (n, *image_size), of n = min(len, most) images of a
        set, drawn by the seed; the larger of two samples has all that the smaller one has."""
        order = generator(self.seed, "dense-sample").permutation(len(images))[:most]
        tokens = self.extractor.tokens(self.encoder, images, order, self.name)
        maps = images.dense(name, self.encoder.image_size, np.sort(order))
        return subset(tokens, torch.from_numpy(order.argsort())), maps


def usable(images: ImageSet, pooled: Pooled, question: str) -> Tensor:
    """(N,) bool: read without an error, and with an answer."""
    keep = images.answers[question] >= 0
    keep[list(pooled.bad)] = False
    return keep


class Task(ABC):
    """Subclasses are frozen dataclasses in a module of `tasks/`, one a module."""

    name: ClassVar[str]
    about: ClassVar[str]
    """One line for `--help` and tables."""
    is_usual: ClassVar[bool] = True
    """Measured unless others are named; not for what takes hours."""

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        return []

    def fits(self, encoder: Encoder) -> bool:
        """Whether it can be measured on an encoder of this kind."""
        return True

    @abstractmethod
    def questions(self, train: ImageSet, test: ImageSet) -> list[str]:
        """What it can ask of these sets; empty when they lack what it needs."""

    @abstractmethod
    def measure(self, row: Row, question: str) -> Score:
        """One figure. Raises OpenJepaError where there is none to give."""


class ClassTask(Task):
    """A task about classes: every question that both sets answer."""

    def questions(self, train: ImageSet, test: ImageSet) -> list[str]:
        return [question for question in train.answers if question in test.answers]


class DenseTask(Task):
    """A task about maps of one name that lie beside the images."""

    needs: ClassVar[str]

    def questions(self, train: ImageSet, test: ImageSet) -> list[str]:
        return [self.needs] if train.has_dense(self.needs) and test.has_dense(self.needs) else []


@cache
def known() -> dict[str, type[Task]]:
    """Every task by name: the modules in `tasks/`, in order of their names."""
    from openjepa.evaluation import tasks

    found: dict[str, type[Task]] = {}
    for module in pkgutil.iter_modules(tasks.__path__):
        contents = vars(importlib.import_module(f"{tasks.__name__}.{module.name}"))
        for thing in contents.values():
            if (
                isinstance(thing, type)
                and issubclass(thing, Task)
                and thing.__module__.endswith(f"tasks.{module.name}")
            ):
                found[thing.name] = thing
    return found


def pick(names: list[str], settings: dict[str, Any] | None = None) -> list[Task]:
    """Tasks by name, with settings of their own by name. ConfigError for an unknown one."""
    given = settings or {}
    wrong = [f"task {name!r}: unknown. {nearest(name, known())}" for name in (*names, *given) if name not in known()]
    if wrong:
        raise ConfigError(wrong)
    wrong = [
        sentence(f"settings of {name}", task, f"must be a {known()[name].__name__}")
        for name, task in given.items()
        if type(task) is not known()[name]
    ]
    chosen = [given[name] if name in given else known()[name]() for name in names]
    wrong += [mistake for task in chosen for mistake in task.mistakes()]
    if wrong:
        raise ConfigError(wrong)
    return chosen


def at_least_one(what: str, given: tuple[float, ...], low: float = 0.0, high: float = float("inf")) -> list[str]:
    """A mistake unless there is one or more, each above 0 and between `low` and `high`."""
    if given and all(0 < x < float("inf") and low <= x <= high for x in given):
        return []
    rule = "needs one or more, above 0" if high == float("inf") else f"needs one or more, from {low:g} to {high:g}"
    return [sentence(what, given, rule)]


def patch_side(size: tuple[int, int], num_patches: int) -> int:
    """Side of a square patch in pixels. DataError when images of `size` are not cut into squares."""
    side = round((size[0] * size[1] / num_patches) ** 0.5)
    if side < 1 or (size[0] // side) * (size[1] // side) != num_patches or size[0] % side or size[1] % side:
        rule = f"{num_patches} tokens are no grid of square patches of it"
        raise DataError(sentence("image_size", size, rule, "Dense tasks need one token a square patch."))
    return side


def taken(images: ImageSet, count: int, what: str) -> str:
    """'2000 of 5000 test images drawn by the seed', or '5000 test images' where that is all of them."""
    if count == len(images):
        return f"{count} {what} images"
    return f"{count} of {len(images)} {what} images drawn by the seed"


def split_images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(held out, kept): a fifth of `count` images, drawn by `seed`, and the rest."""
    return hold_out(torch.zeros(count, dtype=torch.long), seed)
