"""The table of positions, against the formula entry by entry."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.vision.positions import coordinates, position_table, sincos


def slow_table(width, grid, trained_grid):
    quarter, table = width // 4, []
    for row in range(grid[0]):
        for column in range(grid[1]):
            entry = []
            for place, length, trained in ((column, grid[1], trained_grid[1]), (row, grid[0], trained_grid[0])):
                # the patch's centre as a share of the image's side, in patches of the trained grid
                at = (place + 0.5) / length * trained - 0.5
                for wave in (math.sin, math.cos):
                    entry += [wave(at * 10000 ** (-i / quarter)) for i in range(quarter)]
            table.append(entry)
    return torch.tensor(table, dtype=torch.float64)


@pytest.mark.parametrize(
    ("width", "grid", "trained_grid"),
    [(4, (2, 3), (2, 3)), (16, (5, 3), (5, 3)), (16, (4, 8), (8, 8)), (24, (7, 5), (3, 4)), (8, (1, 1), (4, 4))],
)
def test_the_table_is_the_formula(width, grid, trained_grid):
    table = sincos(width, grid, trained_grid)
    assert table.dtype == torch.float32
    torch.testing.assert_close(table.double(), slow_table(width, grid, trained_grid), rtol=0, atol=1e-7)


def test_the_grid_trained_on_has_whole_coordinates():
    assert coordinates(7, 7).tolist() == list(range(7))
    assert torch.equal(sincos(16, (3, 5)), sincos(16, (3, 5), (3, 5)))
    first_half, second_half = sincos(16, (3, 5)).reshape(3, 5, 2, 8).unbind(2)
    assert (first_half == first_half[:1]).all()  # the column: the same in every row
    assert (second_half == second_half[:, :1]).all()
    assert not torch.equal(first_half[:, 0], first_half[:, 1])


@given(st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None, max_examples=50)
def test_another_grid_sees_the_same_field_of_view(length, trained):
    places = coordinates(length, trained)
    edge = 0.5 * trained / length
    assert places[0] - edge == pytest.approx(-0.5)
    assert places[-1] + edge == pytest.approx(trained - 0.5)
    finer = coordinates(3 * length, trained).reshape(length, 3)
    torch.testing.assert_close(finer.mean(1), places)
    torch.testing.assert_close(finer[:, 1], places)


def test_the_kept_table_is_the_same_in_the_wanted_type():
    table = position_table(16, (3, 5), (6, 5), torch.device("cpu"), torch.float64)
    assert table.dtype == torch.float64
    assert torch.equal(table.float(), sincos(16, (3, 5), (6, 5)))
