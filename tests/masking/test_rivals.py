"""The rivals of table 6, and what every masking promises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from openjepa.masking import Masks, Random, Rasterized, SingleBlock

grids = st.tuples(st.integers(4, 20), st.integers(4, 20))


def real(indices, valid):
    return indices.tolist() if valid is None else indices[valid].tolist()


def parts(masks: Masks, i: int) -> tuple[list[int], list[list[int]]]:
    """Context and targets of image i without the padding."""
    num_targets = masks.targets.shape[1]
    context = real(masks.context[i], None if masks.context_valid is None else masks.context_valid[i])
    valid = masks.target_valid
    return context, [real(masks.targets[i, m], None if valid is None else valid[i, m]) for m in range(num_targets)]


@pytest.mark.parametrize("masking", [Rasterized(), SingleBlock(), Random()])
@given(grids, st.integers(0, 99), st.integers(0, 99), st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_context_and_targets_split_the_grid(masking, grid, seed, first, count):
    assert masking.mistakes(grid) == []
    masks = masking.sample(grid, seed=seed, step=3, first=first, count=count)
    assert masks.context.dtype == masks.targets.dtype == torch.int64
    for i in range(count):
        context, targets = parts(masks, i)
        for patches in (context, *targets):
            assert patches == sorted(patches)
        assert sorted(itertools.chain(context, *targets)) == list(range(grid[0] * grid[1]))
    alone = masking.sample(grid, seed=seed, step=3, first=first + count - 1, count=1)
    assert torch.equal(alone.context[0], masks.context[-1])
    assert torch.equal(alone.targets[0], masks.targets[-1])


@given(grids)
@settings(deadline=None, max_examples=30)
def test_quadrants_are_quadrants(grid):
    masks = Rasterized().sample(grid, seed=0, step=0, first=0, count=6)
    assert (masks.context_valid is None) == (grid[0] % 2 == grid[1] % 2 == 0)
    for i in range(6):
        context, targets = parts(masks, i)
        assert len(targets) == 3
        quadrants = [
            {(p // grid[1] >= grid[0] // 2, p % grid[1] >= grid[1] // 2) for p in patches}
            for patches in (context, *targets)
        ]
        assert all(len(quadrant) == 1 for quadrant in quadrants)
        assert len(set().union(*quadrants)) == 4


def test_each_quadrant_is_context_equally_often():
    masks = Rasterized().sample((4, 4), seed=0, step=0, first=0, count=4000)
    counts = np.unique(masks.context[:, 0], return_counts=True)
    assert counts[0].tolist() == [0, 2, 8, 10]
    assert chisquare(counts[1]).pvalue > 0.001


def test_a_single_block_is_a_rectangle_of_the_scale_at_any_place():
    masks = SingleBlock().sample((14, 14), seed=0, step=0, first=0, count=2000)
    seen, areas = set(), []
    for i in range(2000):
        _, (target,) = parts(masks, i)
        height = target[-1] // 14 - target[0] // 14 + 1
        assert len(target) == height * (target[-1] % 14 - target[0] % 14 + 1)
        areas.append(len(target) / 196)
        seen.update(target)
    assert seen == set(range(196))
    assert np.mean(areas) == pytest.approx(0.6, abs=0.02)


def test_one_shape_needs_no_padding():
    masks = SingleBlock(aspect=(1.0, 1.0)).sample((10, 10), seed=0, step=0, first=0, count=3)
    assert masks.context_valid is None
    assert masks.target_valid is None
    assert masks.targets.shape == (3, 1, 64)


def test_random_targets_are_uniform_over_patches():
    masks = Random().sample((5, 6), seed=0, step=0, first=0, count=4000)
    assert masks.targets.shape == (4000, 1, 18)
    assert masks.context.shape == (4000, 12)
    assert masks.context_valid is None
    assert masks.target_valid is None
    assert chisquare(np.bincount(masks.context.flatten())).pvalue > 0.001


def test_mistakes_are_named():
    assert len(SingleBlock(scale=1.2, aspect=(2, 1)).mistakes((3, 3))) == 3
    assert "smaller scale" in SingleBlock(scale=0.97).mistakes((4, 4))[0]
    assert len(Random(scale=0.0).mistakes((3, 3))) == 2
    assert len(Random(scale=1.0).mistakes((4, 4))) == 1
    assert len(Rasterized().mistakes((3, 4))) == 1
