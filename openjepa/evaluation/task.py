"""The contract of a task: one small file in `tasks/`, found by being there.

A task is a frozen dataclass: its fields are its settings, and flags of `openjepa evaluate`.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from openjepa.errors import ConfigError, DataError, nearest, sentence
from openjepa.evaluation.features import Extractor, Pooled
from openjepa.evaluation.sets import ImageSet
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
    pooling: str = "average of patch tokens"
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

    def labelled(self, question: str, num_layers: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features and answers, (N, L * D), (N,), (Q, L * D), (Q,): of train, then of test; unlabelled and unreadable
        images left out."""
        parts = []
        for images in (self.train, self.test):
            pooled = self.extractor.pooled(self.encoder, images, self.name)
            keep = usable(images, pooled, question)
            parts += [pooled.concatenated(num_layers)[keep], images.answers[question][keep]]
        return parts[0], parts[1], parts[2], parts[3]

    def num_classes(self, question: str) -> int:
        """Classes of train and test together. DataError unless train shows two of them."""
        train, test = self.train.answers[question], self.test.answers[question]
        present = train[train >= 0].unique()
        if len(present) < 2:
            rule = f"shows {len(present)} class for the question {question!r}; two are needed"
            raise DataError(sentence(self.train.role, self.train.spec, rule))
        return int(max(train.max(), test.max())) + 1

    def tokens(self, images: ImageSet, most: int) -> Tensor:
        """(n, P, D) patch tokens of the last layer of the first n = min(len, most) images of a set."""
        return self.extractor.tokens(self.encoder, images, min(len(images), most))


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
    wrong = [f"task {name!r}: unknown. {nearest(name, known())}" for name in names if name not in known()]
    if wrong:
        raise ConfigError(wrong)
    given = settings or {}
    return [given[name] if name in given else known()[name]() for name in names]


def split_images(count: int, order: Tensor) -> tuple[Tensor, Tensor]:
    """(held out, kept): a fifth of `count` images, and the rest, as an order (count,) has them."""
    num_held_out = max(1, count // 5)
    return order[:num_held_out], order[num_held_out:]


def permuted(count: int, seed: int) -> Tensor:
    """(count,) an order that belongs to this seed."""
    from openjepa.randomness import generator

    return torch.from_numpy(generator(seed, "probe-split").permutation(count))
