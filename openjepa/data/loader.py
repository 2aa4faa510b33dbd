"""Batches by step: which images, in what order, decoded by workers, bad ones replaced and written down."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from openjepa.data.images import BadImage, decode
from openjepa.data.source import Source
from openjepa.data.views import Views, center_crop
from openjepa.errors import DataError
from openjepa.randomness import generator


@dataclass
class Loaded:
    batch: Any
    names: list[str]
    bad: list[tuple[str, str]]
    num_read: int


def epoch_order(seed: int, num_images: int, epoch: int) -> np.ndarray:
    return generator(seed, "order", epoch).permutation(num_images)


class Steps(Dataset):
    def __init__(self, source: Source, views: Views, *, seed: int, batch_size: int, rank: int = 0, world_size: int = 1):
        self.source, self.views, self.seed, self.batch_size = source, views, seed, batch_size
        self.count = batch_size // world_size
        self.first = rank * self.count
        self._orders: dict[int, np.ndarray] = {}

    @property
    def num_images(self) -> int:
        return len(self.source)

    def __getitem__(self, step: int) -> Loaded:
        n = len(self.source)
        samples, names, bad = [], [], []
        for i in range(self.first, self.first + self.count):
            p = step * self.batch_size + i
            e = p // n
            if e not in self._orders:
                self._orders = {e: epoch_order(self.seed, n, e)}
            index = int(self._orders[e][p % n])
            attempt = 0
            while True:
                item = None
                try:
                    item = self.source[index]
                    image = decode(item.image, self.views.channels)
                    break
                except BadImage as error:
                    bad.append((error.name or (item.name if item else str(index)), error.reason))
                    attempt += 1
                    if attempt > 20:
                        raise DataError("20 bad images in a row") from None
                    index = int(generator(self.seed, "replacement", step, i, attempt).integers(n))
            names.append(item.name)
            samples.append(self.views.sample(image, generator(self.seed, "view", step, i)))
        return Loaded(self.views.collate(samples, self.seed, step, self.first), names, bad, self.count + len(bad))


def batches(steps: Steps, start: int, stop: int, *, workers: int, pin_memory: bool = False) -> Iterator[Loaded]:
    yield from DataLoader(
        steps, batch_size=None, sampler=range(start, stop), num_workers=workers,
        prefetch_factor=4 if workers else None,
    )


class BadImages:
    def __init__(self, path: Path, max_share: float, num_images: int | None) -> None:
        self.path, self.max_share, self.num_images = path, max_share, num_images
        self.listed: dict[str, str] = {}
        self.num_read = self.num_bad = 0

    def add(self, loaded: Loaded) -> None:
        self.num_read += loaded.num_read
        self.num_bad += len(loaded.bad)
        for name, reason in loaded.bad:
            if name not in self.listed:
                self.listed[name] = reason

    def state(self) -> dict[str, Any]:
        return {"num_read": self.num_read, "num_bad": self.num_bad, "listed": self.listed}

    def load(self, state: dict[str, Any]) -> None:
        self.num_read, self.num_bad, self.listed = state["num_read"], state["num_bad"], dict(state["listed"])


def check(source: Source, channels: int) -> None:
    decode(source[0].image, channels)


def labelled_images(source: Source, indices, size, channels):
    images, labels = [], []
    for i in indices:
        item = source[int(i)]
        images.append(center_crop(decode(item.image, channels), size)); labels.append(item.label)
    return np.stack(images), np.array(labels)
