"""Some rows of features, by index: it stands where a copy would read a memory map of gigabytes into memory.

No section of the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Subset:
    """The rows of `whole` (N, ...) at `index` (M,), read when they are asked for."""

    whole: Tensor
    index: Tensor
    """(M,) int64, in any order."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> torch.Size:
        """(M, ...)."""
        return torch.Size((len(self.index), *self.whole.shape[1:]))

    @property
    def ndim(self) -> int:
        """As of a tensor."""
        return self.whole.ndim

    def numel(self) -> int:
        """As of a tensor."""
        return self.shape.numel()

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """These of the M rows, in memory."""
        return self.whole[self.index[rows]]

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows in order, `size` of them in memory at a time."""
        return (self.whole[some] for some in self.index.split(size))


Rows = Tensor | Subset
"""Features as a measure takes them: it indexes or splits them, and never needs all at once."""


def subset(rows: Rows, index: Tensor) -> Subset:
    """Rows (N, ...) at `index` (M,), without a copy."""
    if isinstance(rows, Subset):
        return Subset(rows.whole, rows.index[index])
    return Subset(rows, index)
