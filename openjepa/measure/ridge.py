"""Least squares with an L2 penalty, from sums alone: a linear head on millions of patch tokens in bounded memory.

No section of the paper; the dense probes of `evaluation` stand on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openjepa.errors import DataError, sentence
from openjepa.measure import as_features, float64


@dataclass
class Sums:
    """What a ridge fit needs to know of inputs (M, D) and outputs (M, E): products summed over the M rows."""

    gram: Tensor
    """(D + 1, D + 1) float64; the last input is the constant one."""
    moment: Tensor
    """(D + 1, E) float64."""

    @classmethod
    def zero(cls, width: int, outputs: int) -> Sums:
        """Of no rows."""
        gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        return cls(gram, torch.zeros(width + 1, outputs, dtype=torch.float64))

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Rows (M, D) and (M, E). DataError for NaN."""
        x = with_one(as_features(inputs))
        self.gram += x.T @ x
        self.moment += x.T @ float64(outputs)

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.gram + other.gram, self.moment + other.moment)

    def solve(self, l2: float) -> Tensor:
        """(D + 1, E): minimises the squared error + l2 * M * sum over inputs of variance * weight^2; the constant is
        free. The penalty follows the scale of each input, so that rescaling features changes nothing."""
        count = self.gram[-1, -1]
        if not count > 0:
            raise DataError(sentence("rows to fit", int(count), "needs one at least"))
        mean = self.gram[-1] / count
        variance = (self.gram.diagonal() / count - mean**2).clamp(min=0)
        penalty = l2 * count * (variance + 1e-12 * variance.max())
        penalty[-1] = 0
        return torch.linalg.lstsq(self.gram + penalty.diag(), self.moment, driver="gelsd").solution


def with_one(x: Tensor) -> Tensor:
    """(M, D) to (M, D + 1): a constant input of 1 at the end."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def predict(weights: Tensor, inputs: Tensor) -> Tensor:
    """(D + 1, E) and (M, D) to (M, E) float64."""
    return with_one(float64(inputs)) @ weights
