"""The released I-JEPA sampler, written from a description of what it does and measurements of it.

What it does besides paper section 3: scale and aspect of a block come from one draw, so that tall
blocks are the large ones; all images and targets of a batch share one size; the last row and column
are never used; all contexts of a batch are cut to its shortest in raster order, so that the bottom
rows starve and the context shrinks as the batch grows. The one departure: a block that is too small
by its size alone (grids below 10 x 10) is taken; the released code looks for a larger one for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from openjepa.errors import sentence
from openjepa.masking.base import Grid, Masking, Masks, block, grid_mistakes, packed, range_mistakes
from openjepa.randomness import generator, uniforms

_TRIES = 20  # failures after which a context may overlap one target more


@dataclass(frozen=True)
class Official(Masking):
    """Masks as the released code draws them; sizes and cut belong to the batch, not to the image.

    Where twenty context blocks in a row keep `min_keep` patches or fewer, the last target no longer
    counts, after twenty more the one before it, and so on: on small grids contexts overlap targets.
    """

    num_targets: int = 4
    """Target blocks for each image."""
    target_scale: tuple[float, float] = (0.15, 0.2)
    """Share of the grid that a target block covers."""
    target_aspect: tuple[float, float] = (0.75, 1.5)
    """Height over width of a target block."""
    context_scale: tuple[float, float] = (0.85, 1.0)
    """Share of the grid that the context block covers before the targets are cut out of it."""
    min_keep: int = 10
    """A context has more patches than this, where the grid allows it."""

    @property
    def is_even(self) -> bool:
        """See `Masking.is_even`."""
        return False

    def mistakes(self, grid: Grid) -> list[str]:
        """See `Masking.mistakes`."""
        wrong = grid_mistakes(grid)
        wrong += range_mistakes("target_scale", self.target_scale, 1)
        wrong += range_mistakes("target_aspect", self.target_aspect)
        wrong += range_mistakes("context_scale", self.context_scale, 1)
        if self.num_targets < 1:
            wrong.append(sentence("masking.num_targets", self.num_targets, "needs at least 1"))
        return wrong

    def sample(self, grid: Grid, *, seed: int, step: int, first: int, count: int) -> Masks:
        """See `Masking.sample`; but sizes depend on (seed, step), and K on these `count` images."""
        target_draw, context_draw = generator(seed, "masks sizes", step).random(2)
        target_size = _size(grid, target_draw, self.target_scale, self.target_aspect)
        context_size = _size(grid, context_draw, self.context_scale, (1.0, 1.0))
        attempts = _TRIES * (self.num_targets + 1)
        draws = uniforms(seed, "masks", step, first, count, 2 * (self.num_targets + attempts))
        draws = draws.reshape(count, -1, 2)
        targets = _placed(grid, target_size, draws[:, : self.num_targets])
        corners = draws[:, self.num_targets :]
        context = np.empty((count, grid[0] * grid[1]), bool)
        left = np.arange(count)
        for attempt in range(attempts):
            avoided = np.any(targets[left, : self.num_targets - attempt // _TRIES], axis=1)
            context[left] = _placed(grid, context_size, corners[left, attempt]) & ~avoided
            left = left[np.count_nonzero(context[left], axis=1) <= self.min_keep]
            if not left.size:
                break
        shortest = int(np.count_nonzero(context, axis=1).min())
        cut = context & (np.cumsum(context, axis=1) <= shortest)
        return Masks(
            torch.from_numpy(packed(cut, shortest)[0]),
            torch.from_numpy(packed(targets, target_size[0] * target_size[1])[0]),
        )


def _size(grid: Grid, draw: float, scale: tuple[float, float], aspect: tuple[float, float]) -> tuple[int, int]:
    """(height, width) with scale and aspect from the one draw, always short of the whole grid."""
    area = int(grid[0] * grid[1] * (scale[0] + draw * (scale[1] - scale[0])))
    ratio = aspect[0] + draw * (aspect[1] - aspect[0])
    height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
    return min(height, grid[0] - 1), min(width, grid[1] - 1)


def _placed(grid: Grid, size: tuple[int, int], draws: np.ndarray) -> np.ndarray:
    """Blocks of one size by draws (..., 2), off the last row and column, as (..., N) bool."""
    corners = (draws * (grid[0] - size[0], grid[1] - size[1])).astype(np.int64)
    shape = corners.shape[:-1]
    return block(grid, np.full(shape, size[0]), np.full(shape, size[1]), corners[..., 0], corners[..., 1])
