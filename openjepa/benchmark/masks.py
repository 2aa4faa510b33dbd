"""How many images a second a masking draws masks for, on one core."""

from __future__ import annotations

import itertools
import time

from openjepa.masking import Grid, Masking


def images_per_second(masking: Masking, grid: Grid, batch_size: int, seconds: float) -> float:
    """Draws batch after batch for about `seconds`, after one untimed batch."""
    masking.sample(grid, seed=0, step=0, first=0, count=batch_size)
    start = time.perf_counter()
    for step in itertools.count(1):
        masking.sample(grid, seed=0, step=step, first=0, count=batch_size)
        spent_s = time.perf_counter() - start
        if spent_s >= seconds:
            break
    return step * batch_size / spent_s
