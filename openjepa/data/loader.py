"""Batches by step: which images, in which order, decoded in workers.

No section of the paper. Position p of the endless stream of images is image p mod N of epoch p div N, in
that epoch's order; step s of the run holds positions s * B to (s + 1) * B. So a batch is a function of
(data, seed, step) alone: not of the workers, not of the number of processes, not of what was read before.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.pin_memory import pin_memory as pinned

from openjepa.data.bad import BadImages, examples
from openjepa.data.images import BadImage, decode
from openjepa.data.source import Item, Source
from openjepa.data.views import Views, center_crop
from openjepa.errors import ConfigError, DataError, OpenJepaError, sentence
from openjepa.randomness import generator

__all__ = [
    "BadImages",
    "Loaded",
    "Steps",
    "batches",
    "centre_cropped",
    "epoch_order",
    "labelled_images",
    "num_workers",
    "read",
]

REPLACEMENTS = 32
"""Bad images in the place of one, after which the run stops."""


MAX_WORKERS = 8
"""Loader processes at most, unless told otherwise."""


@dataclass
class Loaded:
    """A batch and what happened while it was made."""

    batch: Any
    """What the views' `collate` made."""
    names: list[str]
    """Where each image of it lies."""
    bad: list[tuple[str, str]]
    """(name, reason) of each image that could not be used, and was replaced."""
    num_read: int
    """Images tried, the bad ones included."""

    def pin_memory(self) -> Loaded:
        """The same with the batch in pinned memory (called by the DataLoader)."""
        return replace(self, batch=pinned(self.batch))


@lru_cache(maxsize=2)  # a batch seldom reaches over more than two epochs
def epoch_order(seed: int, num_images: int, epoch: int) -> np.ndarray:
    """(num_images,) the images of an epoch, each once; read-only."""
    order = generator(seed, "order", epoch).permutation(num_images)
    order.flags.writeable = False
    return order


class Steps(Dataset[Loaded]):
    """Item `step` is the part of that step's global batch that belongs to this rank.

    A bad image is replaced by one drawn at random, or in a stream by the next one. DataError when
    `REPLACEMENTS` in a row are bad; ConfigError when the ranks cannot share the batch evenly.
    """

    def __init__(
        self,
        source: Source,
        views: Views,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        min_side: int | None = None,
    ) -> None:
        """`batch_size` is over all ranks. `min_side` (see `decode`) is for speed on large JPEGs."""
        if batch_size % world_size:
            rule = f"must divide evenly over {world_size} processes"
            remedy = f"Try {-(-batch_size // world_size) * world_size}."
            raise ConfigError(sentence("batch_size", batch_size, rule, remedy))
        self.source, self.views, self.seed, self.batch_size = source, views, seed, batch_size
        self.count = batch_size // world_size
        self.first = rank * self.count
        self.min_side = min_side

    @property
    def num_images(self) -> int:
        """Images of an epoch. DataError for a stream."""
        return len(self.source)

    def __getitem__(self, step: int) -> Loaded:
        samples: list[Any] = []
        names: list[str] = []
        bad: list[tuple[str, str]] = []
        for i in range(self.first, self.first + self.count):
            item, image = self._image(step, i, bad)
            names.append(item.name)
            samples.append(self.views.sample(image, generator(self.seed, "view", step, i), item.label))
        batch = self.views.collate(samples, self.seed, step, self.first)
        return Loaded(batch, names, bad, num_read=len(names) + len(bad))

    def _image(self, step: int, i: int, bad: list[tuple[str, str]]) -> tuple[Item, np.ndarray]:
        """Image i of the global batch of `step`, or the first sound one in its place."""
        for attempt in range(1 + REPLACEMENTS):
            index = self._index(step, i, attempt)
            found = read(self.source, index, self.views.channels, self.min_side, bad)
            if found is not None:
                return found
        rule = f"{1 + REPLACEMENTS} images in a row cannot be used, among them {examples(bad)}"
        remedy = "Is the disk that they lie on still there?"
        raise DataError(sentence("data", self.source.identity, rule, remedy))

    def _index(self, step: int, i: int, attempt: int) -> int:
        position = step * self.batch_size + i
        if self.source.is_sequential:
            return position + attempt
        num_images = len(self.source)
        if attempt:
            rng = generator(self.seed, "replacement", step, i, attempt)
            return int(rng.integers(num_images))
        epoch, place = divmod(position, num_images)
        return int(epoch_order(self.seed, num_images, epoch)[place])


def read(
    source: Source, index: int, channels: int, min_side: int | None, bad: list[tuple[str, str]]
) -> tuple[Item, np.ndarray] | None:
    """An image as it lies and decoded; or None, with its name and what is wrong added to `bad`."""
    name = f"image {index}"
    try:
        item = source[index]
        name = item.name
        return item, decode(item.image, channels, min_side)
    except BadImage as error:
        bad.append((error.name or name, error.reason))
        return None


class _Carrier(Dataset[Loaded | OpenJepaError]):
    """Carries our errors out of a worker as values: raised there, they come wrapped in its traceback."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __getitem__(self, step: int) -> Loaded | OpenJepaError:
        try:
            return self.steps[step]
        except OpenJepaError as error:
            return error


def _leave_signals_to_the_run(worker: int) -> None:
    """A signal to the whole process group must not end the workers before the run has saved."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def batches(steps: Steps, start: int, stop: int, *, workers: int, pin_memory: bool = False) -> Generator[Loaded]:
    """Steps `start` to `stop` in order, made ahead in `workers` processes of one thread (0: in this one).

    Raises what `steps` raises, as it was raised there. Close it: an exception may hold it, and its workers, alive.
    """
    loader = DataLoader(
        _Carrier(steps),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_run,
        generator=torch.Generator(),  # else it draws from the global one, which is not ours
    )
    for loaded in loader:
        if isinstance(loaded, OpenJepaError):
            raise loaded
        yield loaded


def num_workers(wanted: int | None) -> int:
    """What was asked for, else one a core that the training processes leave, at least 1."""
    if wanted is not None:
        return wanted
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # on this machine, as torchrun says
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_WORKERS, cores // num_processes - 1))


@dataclass
class _Crops(Dataset[tuple[int, np.ndarray | tuple[str, str]]]):
    """Item i: the centre crop of the i-th of `indices`, or (name, reason) of an image that cannot be read."""

    source: Source
    indices: Sequence[int]
    size: tuple[int, int]
    channels: int

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[int, np.ndarray | tuple[str, str]]:
        index, bad = self.indices[i], []  # type: tuple[int, list[tuple[str, str]]]
        found = read(self.source, index, self.channels, 2 * max(self.size), bad)
        return index, bad[0] if found is None else center_crop(found[1], self.size)


def centre_cropped(
    source: Source, indices: Sequence[int], size: tuple[int, int], channels: int, batch_size: int, workers: int
) -> Iterator[tuple[list[int], torch.Tensor, dict[int, tuple[str, str]]]]:
    """Batches of positions, images (n, channels, *size) uint8, and position to (name, reason) of those left out."""
    loader = DataLoader(
        _Crops(source, indices, size, channels),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=list,
        generator=torch.Generator(),  # else it draws from the global one, which is not ours
    )
    for items in loader:
        good = [(index, item) for index, item in items if isinstance(item, np.ndarray)]
        bad = {index: item for index, item in items if not isinstance(item, np.ndarray)}
        pixels = np.stack([item for _, item in good]) if good else np.empty((0, channels, *size), np.uint8)
        yield [index for index, _ in good], torch.from_numpy(pixels), bad


def labelled_images(
    source: Source,
    indices: Sequence[int] | np.ndarray,
    size: tuple[int, int],
    channels: int,
    bad: list[tuple[str, str]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(N, channels, *size) uint8 centre crops and (N,) int64 labels of images of a source, for probes.

    Images that are bad or have no label (None or below 0) are left out; `bad` gets (name, reason) of the former.
    """
    images, labels = [], []
    bad = [] if bad is None else bad
    for index in indices:
        found = read(source, int(index), channels, 2 * max(size), bad)
        if found is not None and found[0].label is not None and found[0].label >= 0:
            images.append(center_crop(found[1], size))
            labels.append(found[0].label)
    stacked = np.stack(images) if images else np.empty((0, channels, *size), np.uint8)
    return stacked, np.array(labels, dtype=np.int64)
