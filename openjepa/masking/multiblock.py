"""Multi-block masking (paper section 3): several target blocks, and a large context without them.

Departs from the released sampler, whose biases `Official` keeps: each block of each image has a
scale, an aspect and a position of its own, all independent; no row or column is left out; no
context is cut to the shortest of the batch, unless asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from openjepa.errors import ConfigError, sentence
from openjepa.masking.base import (
    Grid,
    Masking,
    Masks,
    area_range,
    between,
    block_size,
    drawn,
    grid_mistakes,
    packed,
    placed,
    range_mistakes,
)
from openjepa.masking.official import Official
from openjepa.randomness import uniforms

_REDRAWS = 10  # then the last resort, which settings without `mistakes` practically never reach
_TRIAL_IMAGES = 1000  # drawn by `mistakes` to see how much context these settings leave
_MOST_SHORT = 0.1  # share of images whose context block may hold fewer patches than are wanted


@dataclass(frozen=True)
class MultiBlock(Masking):
    """The paper's masks: targets may overlap each other, the context overlaps none of them.

    Where the targets leave fewer patches of the context block than are wanted, that image's context
    block is the whole grid. Where that is not enough either, all blocks of the image are drawn
    again, ten times at most; then its targets all become copies of the first, which leaves enough.
    """

    num_targets: int = 4
    """Target blocks for each image."""
    target_scale: tuple[float, float] = (0.15, 0.2)
    """Share of the grid that a target block covers."""
    target_aspect: tuple[float, float] = (0.75, 1.5)
    """Height over width of a target block."""
    context_scale: tuple[float, float] = (0.85, 1.0)
    """Share of the grid that the context block covers before the targets are cut out of it."""
    context: Literal["fixed", "all", "cut"] = "fixed"
    """fixed: equally many context patches for every image, drawn uniformly from what the targets
    leave of the context block. all: everything that they leave, padded to the batch's longest. cut:
    as many as they leave of the shortest of a process's images, drawn uniformly (the released code
    cuts too, and takes the topmost)."""
    context_share: float = 0.25
    """Context patches as a share of the grid, for context = fixed (0.25: paper table 6)."""
    min_context: int = 4
    """Fewest context patches that an image may be left with."""

    @property
    def is_even(self) -> bool:
        """See `Masking.is_even`."""
        return self.context == "fixed"

    @classmethod
    def official(cls) -> Official:
        """The released sampler, biases and all, for whoever must match the released weights."""
        return Official()

    def mistakes(self, grid: Grid) -> list[str]:
        """See `Masking.mistakes`."""
        wrong = grid_mistakes(grid)
        wrong += range_mistakes("target_scale", self.target_scale, 1)
        wrong += range_mistakes("target_aspect", self.target_aspect)
        wrong += range_mistakes("context_scale", self.context_scale, 1)
        for name in ("num_targets", "min_context"):
            if getattr(self, name) < 1:
                wrong.append(sentence(f"masking.{name}", getattr(self, name), "needs at least 1"))
        if not 0 < self.context_share <= 1:
            wrong.append(sentence("masking.context_share", self.context_share, "needs 0 < share <= 1"))
        return wrong or self._too_little_context(grid)

    def sample(self, grid: Grid, *, seed: int, step: int, first: int, count: int) -> Masks:
        """See `Masking.sample`. K is the longest of these `count` with context = all, the shortest with cut."""
        smallest, largest = area_range(grid, self.target_scale, self.target_aspect)
        wanted = self._num_wanted(grid)
        if wanted + largest > grid[0] * grid[1]:
            raise ConfigError(self.mistakes(grid))
        left, targets = self._blocks_apart(grid, seed, step, first, count)
        numbers = np.count_nonzero(left, axis=1)
        if self.context == "all":
            context, context_valid = packed(left, int(numbers.max()))
        else:
            keys = uniforms(seed, "masks context", step, first, count, left.shape[1])
            context = drawn(left, keys, wanted if self.context == "fixed" else int(numbers.min()))
            context_valid = None
        indices, target_valid = packed(targets, largest)
        return Masks(
            torch.from_numpy(context),
            torch.from_numpy(indices),
            None if context_valid is None else torch.from_numpy(context_valid),
            None if smallest == largest else torch.from_numpy(target_valid),
        )

    def _num_wanted(self, grid: Grid) -> int:
        """Context patches that an image needs: all of a fixed context, else the fewest allowed."""
        share = self.context_share if self.context == "fixed" else 0
        return max(self.min_context, round(share * (grid[0] * grid[1])))

    def _blocks_apart(self, grid: Grid, seed: int, step: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """What may be context, (count, N) bool and enough of it, and targets, (count, M, N)."""
        wanted = self._num_wanted(grid)
        width = 4 * self.num_targets + 3
        context, targets = self._blocks(grid, uniforms(seed, "masks", step, first, count, width))
        free = ~np.any(targets, axis=1)
        again = _short(free, wanted)
        for attempt in range(_REDRAWS):
            if not again.size:
                break
            purpose = f"masks redraw {attempt}"
            rows = [uniforms(seed, purpose, step, first + int(i), 1, width) for i in again]
            context[again], targets[again] = self._blocks(grid, np.concatenate(rows))
            free[again] = ~np.any(targets[again], axis=1)
            again = again[_short(free[again], wanted)]
        targets[again] = targets[again, :1]
        free[again] = ~targets[again, 0]
        left = context & free
        widened = _short(left, wanted)
        left[widened] = free[widened]
        return left, targets

    def _blocks(self, grid: Grid, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws (B, 4 M + 3) to context blocks (B, N) and targets (B, M, N), as they fall."""
        split = 4 * self.num_targets
        scale, aspect, top, left = np.moveaxis(draws[:, :split].reshape(len(draws), 4, -1), 1, 0)
        height, width = block_size(grid, between(scale, self.target_scale), between(aspect, self.target_aspect))
        targets = placed(grid, height, width, top, left)
        scale, top, left = draws[:, split:].T
        height, width = block_size(grid, between(scale, self.context_scale), grid[0] / grid[1])
        return placed(grid, height, width, top, left), targets

    def _too_little_context(self, grid: Grid) -> list[str]:
        """Whether these settings ask for more context than the targets leave on this grid."""
        num_patches = grid[0] * grid[1]
        _, largest = area_range(grid, self.target_scale, self.target_aspect)
        draws = uniforms(0, "masks", 0, 0, _TRIAL_IMAGES, 4 * self.num_targets + 3)
        context, targets = self._blocks(grid, draws)
        left = np.count_nonzero(context & ~np.any(targets, axis=1), axis=1)
        usual = int(np.quantile(left, _MOST_SHORT, method="lower"))
        possible = min(usual, num_patches - largest)
        wanted = self._num_wanted(grid)
        if wanted <= possible:
            return []
        if wanted > self.min_context:
            name, highest = "context_share", np.floor(1000 * possible / num_patches) / 1000
        else:
            name, highest = "min_context", possible
        rule = (
            f"asks for {wanted} context patches, where the targets leave no more than {possible} "
            f"of {num_patches} to {_MOST_SHORT:.0%} of images"
        )
        remedy = f"Try {highest:g}" if highest else "Try fewer targets"
        remedy += ", or a smaller target_scale."
        return [sentence(f"masking.{name}", getattr(self, name), rule, remedy)]


def _short(left: np.ndarray, wanted: int) -> np.ndarray:
    """Which rows of (B, N) bool hold fewer than `wanted` True."""
    return np.flatnonzero(np.count_nonzero(left, axis=1) < wanted)
