"""Patches hidden in blocks until a share of the grid is covered (BEiT, arXiv 2106.08254; iBOT, arXiv 2111.07832).

As released, but for the source of chance: a mask belongs to its address, as the others' do. It makes no context and
targets (`Masks`): the student sees every patch, the hidden ones as a learned token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openjepa.errors import sentence
from openjepa.masking.base import Grid, grid_mistakes, range_mistakes
from openjepa.randomness import generator

TRIES = 10  # at a block that fits, before the mask is left as it is


@dataclass(frozen=True)
class Blockwise:
    """Some views keep all their patches, the others lose a random share of them, block by block."""

    chance: float = 0.5
    """Share of views that are masked at all (published: as many as not)."""
    ratio: tuple[float, float] = (0.1, 0.5)
    """Share of the grid that is hidden, uniform between the two; blocks stop short of it rather than go over."""
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Height over width of a block, log-uniform between the two."""

    def mistakes(self, grid: Grid) -> list[str]:
        """Every setting that cannot work on this grid (rows, columns), as sentences."""
        wrong = grid_mistakes(grid) + range_mistakes("ratio", self.ratio, 1.0) + range_mistakes("aspect", self.aspect)
        if not 0 <= self.chance <= 1:
            wrong.append(sentence("masking.chance", self.chance, "is a share of the views, in 0..1"))
        if not wrong and self.ratio[0] * grid[0] * grid[1] < 1:
            rule = f"is less than one of {grid[0]} x {grid[1]} patches"
            wrong.append(sentence("masking.ratio", self.ratio, rule, "Take a larger low end."))
        return wrong

    def sample(self, grid: Grid, *, seed: int, step: int, first: int, count: int) -> Tensor:
        """(count, N) bool, True where hidden, for rows `first` to `first + count` of the step.

        A row depends on its address (seed, step, row) alone. Rows are views: those of an image are adjacent.
        """
        rows = [self._row(grid, generator(seed, "masks", step, row)) for row in range(first, first + count)]
        return torch.from_numpy(np.stack(rows).reshape(count, -1))

    def _row(self, grid: Grid, rng: np.random.Generator) -> np.ndarray:
        hidden = np.zeros(grid, bool)
        if rng.random() >= self.chance:
            return hidden
        left = rng.uniform(*self.ratio) * hidden.size
        while left > 0:
            place = self._place(hidden, left, rng)
            if place is None:
                break
            left -= np.count_nonzero(~hidden[place])
            hidden[place] = True
        return hidden

    def _place(self, hidden: np.ndarray, left: float, rng: np.random.Generator) -> tuple[slice, slice] | None:
        """A block that hides at least one patch more, and at most `left` more; None when ten tries find none."""
        for _ in range(TRIES):
            height, width = self._size(hidden.shape, left, rng)
            if height >= hidden.shape[0] or width >= hidden.shape[1]:
                continue
            top, start = rng.integers(hidden.shape[0] - height + 1), rng.integers(hidden.shape[1] - width + 1)
            place = slice(top, top + height), slice(start, start + width)
            if 0 < np.count_nonzero(~hidden[place]) <= left:
                return place
        return None

    def _size(self, grid: tuple[int, ...], left: float, rng: np.random.Generator) -> tuple[int, int]:
        """(height, width) of a block between the smallest, a third of the shorter side squared, and what is left.

        What is left may be less than the smallest: such a block has to overlap others, and the mask grows at its rim.
        """
        smallest = (min(grid) // 3) ** 2
        area = rng.uniform(min(smallest, left), max(smallest, left))
        aspect = math.exp(rng.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
        return round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
