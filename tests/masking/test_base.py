"""The geometry that maskings share, against slow obvious versions of it."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from openjepa.masking.base import (
    Masks,
    area_range,
    between,
    block,
    block_size,
    drawn,
    packed,
    placed,
)

grids = st.tuples(st.integers(4, 20), st.integers(4, 20))
shares = st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)).map(lambda pair: tuple(sorted(pair)))
aspects = st.tuples(st.floats(0.1, 8), st.floats(0.1, 8)).map(lambda pair: tuple(sorted(pair)))


@given(grids, st.floats(0.02, 1), st.floats(0.2, 5))
@settings(deadline=None, max_examples=100)
def test_a_block_that_fits_is_the_rounded_rectangle_and_others_keep_their_area(grid, scale, aspect):
    height, width = (int(side) for side in block_size(grid, scale, aspect))
    area = scale * grid[0] * grid[1]
    tall, wide = (area * aspect) ** 0.5, (area / aspect) ** 0.5
    if tall > grid[0]:
        tall, wide = grid[0], area / grid[0]
    elif wide > grid[1]:
        tall, wide = area / grid[1], grid[1]
    assert 1 <= height <= grid[0]
    assert 1 <= width <= grid[1]
    assert abs(height - max(tall, 1)) <= 0.5 + 1e-9
    assert abs(width - max(wide, 1)) <= 0.5 + 1e-9


def test_context_blocks_keep_the_shape_of_the_grid():
    assert [int(side) for side in block_size((4, 16), 1.0, 4 / 16)] == [4, 16]
    assert [int(side) for side in block_size((8, 16), 0.25, 8 / 16)] == [4, 8]


def areas(grid, scale, aspect):
    """Areas of blocks all over the two ranges, their ends included."""
    draws = np.concatenate(
        [
            np.random.default_rng(0).random((2, 2000)),
            np.array(list(itertools.product([0, 1 - 2**-53], np.linspace(0, 1 - 2**-53, 5000)))).T,
        ],
        axis=1,
    )
    height, width = block_size(grid, between(draws[0], scale), between(draws[1], aspect))
    return height * width


@given(grids, shares, aspects)
@settings(deadline=None, max_examples=60)
def test_no_block_lies_outside_the_range_of_areas(grid, scale, aspect):
    smallest, largest = area_range(grid, scale, aspect)
    found = areas(grid, scale, aspect)
    assert smallest <= found.min()
    assert found.max() <= largest


@pytest.mark.parametrize("grid", [*((side, side) for side in range(4, 29)), (4, 16), (7, 12)])
def test_both_ends_of_the_range_of_areas_occur_with_the_paper_s_targets(grid):
    found = areas(grid, (0.15, 0.2), (0.75, 1.5))
    assert area_range(grid, (0.15, 0.2), (0.75, 1.5)) == (found.min(), found.max())


@given(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=200)
def test_stretched_draws_stay_between_the_ends(low, length, draw):
    assert low <= between(np.float64(draw), (low, low + length)) <= low + length


@given(grids, st.data())
@settings(deadline=None, max_examples=50)
def test_a_block_is_where_its_rows_and_columns_cross(grid, data):
    rows, columns = grid
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    height, width = data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, columns - left))
    plane = block(grid, *(np.array([x]) for x in (height, width, top, left)))
    wanted = [
        top <= row < top + height and left <= column < left + width for row in range(rows) for column in range(columns)
    ]
    assert plane.tolist() == [wanted]


def test_every_placement_is_equally_likely_up_to_the_last_row_and_column():
    size = np.full(20000, 3), np.full(20000, 2)
    planes = placed((6, 5), *size, *np.random.default_rng(0).random((2, 20000)))
    counts = Counter(int(plane.argmax()) for plane in planes)
    assert set(counts) == {5 * top + left for top in range(4) for left in range(4)}
    assert chisquare(list(counts.values())).pvalue > 0.001
    assert planes[:, -1].any()


@given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 30), st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_packing_lists_what_is_true(seed, num_rows, length, share):
    chosen = np.random.default_rng(seed).random((2, num_rows, length)) < share
    width = int(chosen.sum(-1).max())
    indices, valid = packed(chosen, width)
    assert indices.dtype == np.int64
    for row in np.ndindex(2, num_rows):
        listed = [place for place in range(length) if chosen[row][place]]
        assert indices[row].tolist() == listed + [0] * (width - len(listed))
        assert valid[row].tolist() == [True] * len(listed) + [False] * (width - len(listed))


@given(st.integers(0, 99), st.integers(1, 400))
@settings(deadline=None, max_examples=50)
def test_drawing_takes_the_candidates_with_the_smallest_keys(seed, length):
    rng = np.random.default_rng(seed)
    candidates, keys = rng.random((3, length)) < 0.6, rng.random((3, length))
    num_drawn = int(candidates.sum(1).min())
    for row, taken in enumerate(drawn(candidates, keys.copy(), num_drawn).tolist()):
        ranked = sorted(np.flatnonzero(candidates[row]).tolist(), key=lambda i: keys[row, i])
        assert taken == sorted(ranked[:num_drawn])


def test_equal_keys_go_to_the_lower_index_and_never_lose_a_patch():
    candidates = np.array([[False, True, True, True]])
    assert drawn(candidates, np.full((1, 4), 1 - 2**-53), 2).tolist() == [[1, 2]]


def test_every_subset_is_equally_likely_to_be_drawn():
    candidates = np.tile([True, False, True, True, True, False, True], (20000, 1))
    taken = drawn(candidates, np.random.default_rng(1).random((20000, 7)), 3)
    counts = Counter(map(tuple, taken.tolist()))
    assert set(counts) == set(itertools.combinations([0, 2, 3, 4, 6], 3))
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_each_changes_every_tensor_and_leaves_none_alone():
    masks = Masks(torch.zeros(2, 3), torch.zeros(2, 4, 5), target_valid=torch.ones(2, 4, 5))
    rows = masks.each(lambda x: x[:1])
    assert rows.context.shape == (1, 3)
    assert rows.targets.shape == (1, 4, 5)
    assert rows.context_valid is None
    assert rows.target_valid is not None
    assert rows.target_valid.shape == (1, 4, 5)
