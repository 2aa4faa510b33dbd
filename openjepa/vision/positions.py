"""Frozen 2-D sine-cosine positions for any grid (paper section 4; MAE's table, as the released code has it).

Where it departs: a grid other than the one trained on gets the same field of view, sampled more finely or
coarsely (coordinates are scaled), so an encoder takes any image size without an interpolated table.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

WAVELENGTH = 10_000.0  # Vaswani et al. 2017, kept by MAE and I-JEPA


def coordinates(length: int, trained_length: int) -> Tensor:
    """Centres of `length` patches, in units of the patches of the grid trained on: (length,) float64."""
    return (torch.arange(length, dtype=torch.float64) + 0.5) * (trained_length / length) - 0.5


def sincos(width: int, grid: tuple[int, int], trained_grid: tuple[int, int] | None = None) -> Tensor:
    """Positions of a (rows, columns) grid in raster order: (N, width) float32.

    The first half of the channels encodes the column, the second half the row; each half is sines, then
    cosines. `width` must be a multiple of 4.
    """
    rows, columns = grid
    trained_rows, trained_columns = trained_grid or grid
    quarter = width // 4
    frequencies = WAVELENGTH ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    x = coordinates(columns, trained_columns)[:, None] * frequencies
    y = coordinates(rows, trained_rows)[:, None] * frequencies
    x, y = torch.cat([x.sin(), x.cos()], 1), torch.cat([y.sin(), y.cos()], 1)
    table = torch.cat([x[None].expand(rows, -1, -1), y[:, None].expand(-1, columns, -1)], dim=2)
    return table.reshape(rows * columns, width).float()


@lru_cache(maxsize=32)
def position_table(
    width: int,
    grid: tuple[int, int],
    trained_grid: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """`sincos` where it is needed, made once: it is a constant, so it is no part of any state."""
    return sincos(width, grid, trained_grid).to(device, dtype)
