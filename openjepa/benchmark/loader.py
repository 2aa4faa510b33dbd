"""How many images a second come out of the loader: to be compared with what the training step takes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from openjepa.data.loader import Steps, batches
from openjepa.data.source import open_source
from openjepa.data.views import Crop

BATCH_SIZE = 64
_ENDLESS = 1 << 40


@dataclass(frozen=True)
class _Crops:
    """Random resized crops and nothing else."""

    size: tuple[int, int]
    crop: Crop = Crop()
    channels: int = 3

    def sample(self, image: np.ndarray, rng: np.random.Generator, label: int | None) -> np.ndarray:
        return self.crop(image, self.size, rng)

    def collate(self, samples: list[np.ndarray], seed: int, step: int, first: int) -> np.ndarray:
        return np.stack(samples)


def images_per_second(spec: str, size: tuple[int, int], workers: int, seconds: float) -> float:
    """RGB images of `--data spec` read, decoded and cropped to `size` (height, width) a second.

    Counts over about `seconds`, after one batch for each worker that is not counted.
    """
    views = _Crops(size)
    min_side = views.crop.min_side(size)
    steps = Steps(open_source(spec), views, seed=0, batch_size=BATCH_SIZE, min_side=min_side)
    stream = batches(steps, 0, _ENDLESS, workers=workers)
    for _ in range(max(1, workers)):
        next(stream)
    num_images, start = 0, time.perf_counter()
    while (spent_s := time.perf_counter() - start) < seconds or num_images == 0:
        num_images += len(next(stream).names)
    return num_images / spent_s
