"""Percentile bootstrap over test images: how far a figure would move had other images been drawn.

No section of the paper, which gives no intervals. Efron & Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from openjepa.randomness import generator

DRAWS = 1000
"""Resamplings; enough for the second digit of a 95 % interval."""
LEVEL = 0.95

_CELLS = 1 << 22  # counts, one an image and resampling, at a time: 32 MiB
_MANY = 100_000  # images from which on those that add the same are drawn together: one by one takes minutes


def interval(per_image: Tensor, statistic: Callable[[Tensor], Tensor], seed: int) -> tuple[float, float]:
    """The 95 % interval of a figure that is a function of sums over images.

    `per_image`: (N, S) what each image adds to S sums. `statistic`: sums (R, S) to figures (R,).
    """
    rows, counts = per_image.double(), torch.ones(len(per_image), dtype=torch.float64)
    if len(rows) > _MANY:  # images that add the same need no telling apart: the sums are distributed alike
        rows, alike = rows.unique(dim=0, return_counts=True)
        counts = alike.double()
    rng, shares = generator(seed, "bootstrap"), (counts / len(per_image)).numpy()
    figures, chunk = [], max(1, _CELLS // len(rows))
    for start in range(0, DRAWS, chunk):
        count = min(chunk, DRAWS - start)
        draws = torch.from_numpy(rng.multinomial(len(per_image), shares, size=count))
        figures.append(statistic(draws.double() @ rows))
    tail = (1 - LEVEL) / 2
    low, high = torch.cat(figures).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def accuracy_interval(correct: Tensor, seed: int) -> tuple[float, float]:
    """Of the mean of (N,) shares or truths, one an image."""
    return interval(correct.double().unsqueeze(1), lambda sums: sums[:, 0] / len(correct), seed)
