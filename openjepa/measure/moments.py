"""Mean and variance of features in one pass that reads a few rows at a time (Chan et al. 1979).

No section of the paper; what probes standardise features by.
"""

from __future__ import annotations

from torch import Tensor

from openjepa.measure import float64
from openjepa.measure.subset import Rows

_ROWS = 2048  # in float64 at a time


def moments(rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean and variance, with divisor N, of (N, D): each (D,) float64."""
    mean = float64(rows[:0]).new_zeros(rows.shape[1])
    count, spread = 0, mean.clone()
    for some in rows.split(_ROWS):
        part = float64(some)
        part_mean = part.mean(dim=0)
        shift, num_before = part_mean - mean, count
        count += len(part)
        mean += shift * len(part) / count
        spread += (part - part_mean).square().sum(dim=0) + shift.square() * num_before * len(part) / count
    return mean, spread / count
