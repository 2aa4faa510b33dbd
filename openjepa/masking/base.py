"""Which patches are context and which are targets (paper section 3), and the geometry of blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from torch import Tensor

from openjepa.errors import sentence

Grid = tuple[int, int]  # rows and columns of patches

_SMALLEST_SIDE = 4  # on less, a target of the paper's scale is a single patch or a quarter of the grid
_KEY_BITS = 40  # of a random key; with the index of a patch behind them they fit in 63
_ASPECT_STEPS = 4097  # so fine that height and width hardly ever change within the same step


@dataclass(frozen=True)
class Masks:
    """Patch indices for B images: row by row in the grid, rising within an entry, padding last."""

    context: Tensor
    """(B, K) int64; padded entries are 0."""
    targets: Tensor
    """(B, M, T) int64; padded entries are 0."""
    context_valid: Tensor | None = None
    """(B, K) bool, False where padded; None when this masking never pads its context."""
    target_valid: Tensor | None = None
    """(B, M, T) bool, False where padded; None when this masking never pads its targets."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Masks:
        """The same masks with every tensor changed: moved, pinned or sliced."""
        return replace(self, **{k: change(x) for k, x in vars(self).items() if x is not None})


class Masking(ABC):
    """Draws masks. The subclasses are frozen dataclasses: their fields are the configuration."""

    @property
    def is_even(self) -> bool:
        """True when K, the length of contexts, is the same for every step and process."""
        return True

    @abstractmethod
    def mistakes(self, grid: Grid) -> list[str]:
        """Every setting that cannot work on this grid (rows, columns), as sentences."""

    @abstractmethod
    def sample(self, grid: Grid, *, seed: int, step: int, first: int, count: int) -> Masks:
        """Masks for images `first` to `first + count` of the global batch of `step`.

        An image's masks depend on its address (seed, step, position in the global batch) alone, and
        K and T on configuration and grid alone, unless the subclass says otherwise.
        """


def grid_mistakes(grid: Grid) -> list[str]:
    """What is wrong with the grid itself."""
    if min(grid) >= _SMALLEST_SIDE:
        return []
    rule = f"masks need at least {_SMALLEST_SIDE} x {_SMALLEST_SIDE} patches"
    return [sentence("grid", grid, rule, "Take smaller patches or larger images.")]


def range_mistakes(name: str, given: tuple[float, float], highest: float = np.inf) -> list[str]:
    """What is wrong with a (low, high) pair that must lie above 0 and not above `highest`."""
    if 0 < given[0] <= given[1] <= highest and np.isfinite(given[1]):
        return []
    rule = "needs 0 < low <= high" + (f" <= {highest:g}" if np.isfinite(highest) else "")
    return [sentence(f"masking.{name}", given, rule)]


def between(draws: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Draws from [0, 1) stretched to [low, high]; rounding never takes one above high."""
    low, high = ends
    return np.minimum(low + draws * (high - low), high)


def block_size(grid: Grid, scale: np.ndarray | float, aspect: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """(height, width) in patches of blocks that cover `scale` of the grid, aspect = height / width.

    A side that does not fit is cut to the grid, and the other grows to keep the area. Every
    operation here is monotone, in floating point too: `area_range` rests on that.
    """
    rows, columns = grid
    area = scale * np.float64(rows * columns)
    height = np.clip(np.sqrt(area * aspect), area / columns, rows)
    width = np.clip(np.sqrt(area / aspect), area / rows, columns)
    return (
        np.maximum(np.rint(height), 1).astype(np.int64),
        np.maximum(np.rint(width), 1).astype(np.int64),
    )


@lru_cache(maxsize=64)
def area_range(grid: Grid, scale: tuple[float, float], aspect: tuple[float, float]) -> tuple[int, int]:
    """Bounds on the patches in a block whose scale and aspect may be anything in these ranges.

    Height never falls and width never rises with aspect. So between two neighbouring aspects the
    area is at least smaller height times smaller width, at most larger height times larger width.
    """
    aspects = between(np.linspace(0, 1, _ASPECT_STEPS), aspect)
    height, width = block_size(grid, scale[0], aspects)
    smallest = (height[:-1] * width[1:]).min()
    height, width = block_size(grid, scale[1], aspects)
    return int(smallest), int((height[1:] * width[:-1]).max())


@lru_cache(maxsize=8)
def _bands(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Bands of rows and bands of columns, [start, size] to (N,) bool; a block is where two cross.

    Looking them up is six times as fast as comparing. 28 x 28 patches: 1.3 MB.
    """

    def bands(length: int) -> np.ndarray:
        start, size, place = np.ogrid[:length, : length + 1, :length]
        return (place >= start) & (place < start + size)

    return np.repeat(bands(grid[0]), grid[1], axis=2), np.tile(bands(grid[1]), grid[0])


def block(grid: Grid, height: np.ndarray, width: np.ndarray, top: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Blocks by size and corner, int64 arrays (...), as (..., N) bool: True inside."""
    rows, columns = _bands(grid)
    return rows[top, height] & columns[left, width]


def placed(grid: Grid, height: np.ndarray, width: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Blocks by size and two draws from [0, 1), uniform over every placement, as (..., N) bool."""
    top = (down * (grid[0] - height + 1)).astype(np.int64)
    left = (across * (grid[1] - width + 1)).astype(np.int64)
    return block(grid, height, width, top, left)


def packed(chosen: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(..., N) bool to indices of what is True, (..., width) int64, and their validity, bool."""
    valid = np.arange(width) < np.count_nonzero(chosen, axis=-1)[..., None]
    indices = np.zeros(valid.shape, np.int64)
    places = np.flatnonzero(chosen)
    places %= chosen.shape[-1]
    indices[valid] = places
    return indices, valid


def drawn(candidates: np.ndarray, keys: np.ndarray, num_drawn: int) -> np.ndarray:
    """The `num_drawn` candidates with the smallest keys, rising, of each row of (B, N) bool.

    Each row needs that many. Keys are draws from [0, 1), float64 (B, N), and are overwritten. Their
    first bits count, then the patch's own index, so that no two are equal. Returns (B, num_drawn) int64.
    """
    index_bits = candidates.shape[1].bit_length()
    keys += ~candidates  # in place, all of it: fresh memory costs more than the sums
    keys *= 2.0**_KEY_BITS
    order = keys.astype(np.int64)
    order <<= index_bits
    order |= np.arange(candidates.shape[1])
    order.sort(axis=1)
    return np.sort(order[:, :num_drawn] & ((1 << index_bits) - 1), axis=1)
