"""Nearest neighbours and the paper's linear recipe on a set of features as large as one likes: seconds and memory.

Features are a map on the disk, as evaluation keeps them; what counts as memory is what a process cannot give back, so
not the pages of that map.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openjepa.benchmark.memory import status_mib
from openjepa.measure.knn import knn_accuracy
from openjepa.measure.lars import LarsConfig, lars_probe
from openjepa.randomness import generator

WIDTH, NUM_CLASSES, NUM_QUERIES = 384, 100, 2_000
SIGNAL = 0.15  # length of a class's centre in units of the noise
ROWS = 10_000  # written at a time


def measure(num_images: int) -> dict[str, tuple[float, float, float]]:
    """By probe: accuracy, seconds, and the most memory beside the map in MiB (NaN but on Linux)."""
    rng = generator(0, "bench probes")
    centres = SIGNAL * rng.standard_normal((NUM_CLASSES, WIDTH), dtype=np.float32)

    def drawn(labels: Tensor) -> np.ndarray:
        return centres[labels.numpy()] + rng.standard_normal((len(labels), WIDTH), dtype=np.float32)

    labels, asked = torch.arange(num_images) % NUM_CLASSES, torch.arange(NUM_QUERIES) % NUM_CLASSES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        room = np.lib.format.open_memmap(path, "w+", np.float32, (num_images, WIDTH))
        for start in range(0, num_images, ROWS):
            room[start : start + ROWS] = drawn(labels[start : start + ROWS])
        del room
        bank, queries = torch.from_numpy(np.load(path, mmap_mode="c")), torch.from_numpy(drawn(asked))
        probes: dict[str, Callable[[], float]] = {
            "20-NN": lambda: knn_accuracy(bank, labels, queries, asked, NUM_CLASSES),
            "LARS, six heads, one epoch and a refit": lambda: (
                lars_probe(bank, labels, queries, asked, NUM_CLASSES, LarsConfig(epochs=1)).accuracy
            ),
        }
        found = {}
        for name, probe in probes.items():
            started = time.perf_counter()
            with watched() as peak:
                accuracy = probe()
            found[name] = accuracy, time.perf_counter() - started, peak[0]
    return found


@contextlib.contextmanager
def watched() -> Iterator[list[float]]:
    """A list whose one entry becomes the most memory that was added meanwhile, in MiB."""
    peak, is_over, before = [0.0], threading.Event(), anonymous_mib()

    def watch() -> None:
        while not is_over.wait(0.2):
            peak[0] = max(peak[0], anonymous_mib() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        peak[0] = max(peak[0], anonymous_mib() - before)
        is_over.set()
        thread.join()


def anonymous_mib() -> float:
    """Memory of this process that no file stands behind; NaN where there is no way to ask."""
    found = status_mib("RssAnon")
    return float("nan") if found is None else found
