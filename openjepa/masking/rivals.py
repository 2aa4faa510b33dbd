"""The masks that multi-block is compared with in the paper's table 6, on the same interface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from openjepa.errors import sentence
from openjepa.masking.base import (
    Grid,
    Masking,
    Masks,
    area_range,
    between,
    block,
    block_size,
    grid_mistakes,
    packed,
    placed,
    range_mistakes,
)
from openjepa.randomness import uniforms


@dataclass(frozen=True)
class Rasterized(Masking):
    """The grid in four quadrants: a random one is the context, the other three are the targets.

    Odd sides are split into unequal halves, and the quadrants padded to the largest.
    """

    def mistakes(self, grid: Grid) -> list[str]:
        """See `Masking.mistakes`."""
        return grid_mistakes(grid)

    def sample(self, grid: Grid, *, seed: int, step: int, first: int, count: int) -> Masks:
        """See `Masking.sample`."""
        rows, columns = grid
        top = np.array([0, 0, rows // 2, rows // 2])
        left = np.array([0, columns // 2, 0, columns // 2])
        height = np.where(top, rows - rows // 2, rows // 2)
        width = np.where(left, columns - columns // 2, columns // 2)
        area = height * width
        indices, valid = packed(block(grid, height, width, top, left), int(area.max()))
        which = (4 * uniforms(seed, "masks", step, first, count, 1)[:, 0]).astype(np.int64)
        others = np.stack([np.delete(np.arange(4), quadrant) for quadrant in range(4)])[which]
        equal = area.min() == area.max()
        return Masks(
            torch.from_numpy(indices[which]),
            torch.from_numpy(indices[others]),
            None if equal else torch.from_numpy(valid[which]),
            None if equal else torch.from_numpy(valid[others]),
        )


@dataclass(frozen=True)
class SingleBlock(Masking):
    """One large target block at a random place; everything else is context."""

    scale: float = 0.6
    """Share of the grid that the target covers."""
    aspect: tuple[float, float] = (0.75, 1.5)
    """Height over width of the target. The paper gives none; these are the multi-block targets'."""

    def mistakes(self, grid: Grid) -> list[str]:
        """See `Masking.mistakes`."""
        wrong = grid_mistakes(grid) + range_mistakes("aspect", self.aspect)
        if not 0 < self.scale < 1:
            wrong.append(sentence("masking.scale", self.scale, "needs 0 < scale < 1"))
        if not wrong and self._areas(grid)[1] == grid[0] * grid[1]:
            rule = f"may cover the whole {grid[0]} x {grid[1]} grid and leave no context"
            wrong.append(sentence("masking.scale", self.scale, rule, "Take a smaller scale."))
        return wrong

    def _areas(self, grid: Grid) -> tuple[int, int]:
        return area_range(grid, (self.scale, self.scale), self.aspect)

    def sample(self, grid: Grid, *, seed: int, step: int, first: int, count: int) -> Masks:
        """See `Masking.sample`."""
        smallest, largest = self._areas(grid)
        aspect, top, left = uniforms(seed, "masks", step, first, count, 3).T
        height, width = block_size(grid, self.scale, between(aspect, self.aspect))
        target = placed(grid, height, width, top, left)
        context, context_valid = packed(~target, target.shape[1] - smallest)
        indices, target_valid = packed(target[:, None], largest)
        equal = smallest == largest
        return Masks(
            torch.from_numpy(context),
            torch.from_numpy(indices),
            None if equal else torch.from_numpy(context_valid),
            None if equal else torch.from_numpy(target_valid),
        )


@dataclass(frozen=True)
class Random(Masking):
    """One target of patches drawn one by one, like MAE's mask; everything else is context."""

    scale: float = 0.6
    """Share of the grid that the target covers."""

    def mistakes(self, grid: Grid) -> list[str]:
        """See `Masking.mistakes`."""
        num_patches = grid[0] * grid[1]
        wrong = grid_mistakes(grid)
        if not 0 < round(self.scale * num_patches) < num_patches:
            rule = f"must leave target and context at least one of {num_patches} patches each"
            wrong.append(sentence("masking.scale", self.scale, rule, "Take one between 0 and 1."))
        return wrong

    def sample(self, grid: Grid, *, seed: int, step: int, first: int, count: int) -> Masks:
        """See `Masking.sample`."""
        num_patches = grid[0] * grid[1]
        num_targets = round(self.scale * num_patches)
        order = np.argsort(uniforms(seed, "masks", step, first, count, num_patches), axis=1)
        target = np.sort(order[:, :num_targets], axis=1)
        context = np.sort(order[:, num_targets:], axis=1)
        return Masks(torch.from_numpy(context), torch.from_numpy(target[:, None]))
