"""Blockwise masks: how much they hide, in what shapes, and that a row is its address."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.masking import Blockwise
from openjepa.randomness import generator

grids = st.tuples(st.integers(4, 20), st.integers(4, 20))
ratios = st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)).map(sorted).map(tuple)


@given(grids, ratios, st.integers(0, 99), st.integers(0, 99), st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_no_more_than_the_ratio_is_hidden_and_a_row_is_its_address(grid, ratio, seed, first, count):
    masking = Blockwise(chance=1.0, ratio=ratio)
    assert masking.mistakes(grid) == []
    masks = masking.sample(grid, seed=seed, step=3, first=first, count=count)
    assert masks.shape == (count, grid[0] * grid[1])
    assert masks.dtype == torch.bool
    assert (masks.sum(1) <= ratio[1] * grid[0] * grid[1]).all()
    for split in range(count + 1):
        parts = [(first, split), (first + split, count - split)]
        parts = [masking.sample(grid, seed=seed, step=3, first=f, count=c) for f, c in parts if c]
        assert torch.equal(torch.cat(parts), masks)


@given(grids, st.integers(0, 10_000), st.floats(0.01, 1))
@settings(deadline=None, max_examples=200)
def test_a_block_keeps_to_area_aspect_and_grid(grid, seed, share):
    masking, rng, left = Blockwise(), generator(seed, "test"), share * grid[0] * grid[1]
    smallest = (min(grid) // 3) ** 2
    low, high = min(smallest, left), max(smallest, left)
    height, width = masking._size(grid, left, rng)
    # each side is rounded, by half a patch at most
    assert max(0, height - 0.5) * max(0, width - 0.5) <= high + 1e-9
    assert (height + 0.5) * (width + 0.5) >= low - 1e-9
    assert (height - 0.5) / (width + 0.5) <= 1 / 0.3 + 1e-9
    assert (height + 0.5) / max(width - 0.5, 1e-9) >= 0.3 - 1e-9
    hidden = rng.random(grid) < 0.3
    place = masking._place(hidden, left, rng)
    if place is not None:
        rows, columns = place
        assert 0 <= rows.start < rows.stop <= grid[0]
        assert 0 <= columns.start < columns.stop <= grid[1]
        assert rows.stop - rows.start < grid[0]
        assert columns.stop - columns.start < grid[1]
        assert 0 < np.count_nonzero(~hidden[place]) <= left


def test_the_first_block_is_a_whole_one():
    masking, smallest = Blockwise(), (14 // 3) ** 2
    for i in range(200):
        rows, columns = masking._place(np.zeros((14, 14), bool), 98.0, generator(0, "test", i))
        height, width = rows.stop - rows.start, columns.stop - columns.start
        assert (height + 0.5) * (width + 0.5) >= smallest
        assert height * width <= 98


def test_half_of_the_views_are_masked_and_shares_spread_evenly():
    masks = Blockwise().sample((14, 14), seed=0, step=0, first=0, count=4000)
    shares = masks.float().mean(1)
    some = shares[shares > 0]
    assert abs(len(some) / 4000 - 0.5) < 4 * 0.5 / 4000**0.5
    assert abs(some.mean() - 0.3) < 0.02  # blocks stop a little short
    assert (some.min(), some.max()) > (0.06, 0.48)
    counts = np.histogram(some, bins=4, range=(0.1, 0.5))[0]
    assert counts.min() > 0.8 * len(some) / 4
    often = masks.float().mean(0).reshape(14, 14)
    assert often.min() > 0.008  # corners, which few blocks reach
    assert often[4:10, 4:10].min() > 0.15


@pytest.mark.parametrize("grid", [(4, 4), (4, 9), (8, 8)])
def test_small_grids_are_masked_too(grid):
    masks = Blockwise(chance=1.0).sample(grid, seed=0, step=0, first=0, count=500)
    assert (masks.sum(1) > 0).float().mean() > 0.95
    assert abs(masks.float().mean() - 0.3) < 0.05


def test_other_seeds_steps_and_rows_are_other_masks():
    masking = Blockwise(chance=1.0)
    drawn = {
        masking.sample((14, 14), seed=seed, step=step, first=first, count=1).numpy().tobytes()
        for seed in range(3)
        for step in range(3)
        for first in range(3)
    }
    assert len(drawn) == 27


def test_never_and_always():
    assert not Blockwise(chance=0.0).sample((8, 8), seed=0, step=0, first=0, count=50).any()
    assert Blockwise(chance=1.0).sample((8, 8), seed=0, step=0, first=0, count=50).any(1).all()


def test_mistakes_are_named():
    wrong = Blockwise(chance=1.5, ratio=(0.5, 0.2), aspect=(0.0, 1.0)).mistakes((3, 8))
    assert [mistake.split(" = ")[0] for mistake in wrong] == [
        "grid", "masking.ratio", "masking.aspect", "masking.chance",
    ]  # fmt: skip
    assert "less than one of 4 x 4" in Blockwise(ratio=(0.01, 0.5)).mistakes((4, 4))[0]
