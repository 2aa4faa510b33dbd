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

_CHUNK = 50  # resamplings at a time, so that a million test images take megabytes and not gigabytes


def interval(per_image: Tensor, statistic: Callable[[Tensor], Tensor], seed: int) -> tuple[float, float]:
    """The 95 % interval of a figure that is a function of sums over images.

    `per_image`: (N, S) what each image adds to S sums. `statistic`: sums (R, S) to figures (R,).
    """
    rows = per_image.double()
    rng = generator(seed, "bootstrap")
    figures = []
    for start in range(0, DRAWS, _CHUNK):
        count = min(_CHUNK, DRAWS - start)
        draws = torch.from_numpy(rng.multinomial(len(rows), [1 / len(rows)] * len(rows), size=count))
        figures.append(statistic(draws.double() @ rows))
    tail = (1 - LEVEL) / 2
    low, high = torch.cat(figures).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def accuracy_interval(correct: Tensor, seed: int) -> tuple[float, float]:
    """Of the mean of (N,) shares or truths, one an image."""
    return interval(correct.double().unsqueeze(1), lambda sums: sums[:, 0] / len(correct), seed)
