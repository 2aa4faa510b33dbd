"""The released sampler's statistics, as measured on the released code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from openjepa.masking import Official

SQUARE = (14, 14)


def batches(grid, count, num_batches):
    return [Official().sample(grid, seed=0, step=step, first=0, count=count) for step in range(num_batches)]


def size(grid, target):
    return (
        int(target[-1] // grid[1] - target[0] // grid[1]) + 1,
        int(target[-1] % grid[1] - target[0] % grid[1]) + 1,
    )


@pytest.mark.parametrize(
    ("grid", "sizes"),
    [
        (SQUARE, {(5, 6), (6, 5), (6, 6), (7, 5), (8, 5)}),
        ((16, 16), {(5, 7), (6, 6), (6, 7), (7, 6), (8, 6), (9, 6)}),
        ((12, 12), {(4, 5), (5, 5), (6, 4), (6, 5)}),
        ((8, 8), {(3, 3), (4, 3)}),
    ],
)
def test_targets_have_the_sizes_of_the_released_sampler_one_for_each_batch(grid, sizes):
    found = set()
    for masks in batches(grid, 3, 300):
        in_batch = {size(grid, target) for target in masks.targets.flatten(0, 1)}
        assert len(in_batch) == 1
        found |= in_batch
    assert found == sizes


def test_larger_grids_have_nine_sizes():
    assert len({size((28, 28), m.targets[0, 0]) for m in batches((28, 28), 1, 500)}) == 9


@pytest.mark.parametrize(("count", "lowest", "highest"), [(1, 80, 90), (16, 57, 63), (64, 50, 57), (128, 45, 53)])
def test_context_shrinks_as_the_batch_grows(count, lowest, highest):
    lengths = [masks.context.shape[1] for masks in batches(SQUARE, count, 30 + 200 // count)]
    assert lowest <= np.mean(lengths) <= highest


def test_the_last_row_and_column_are_never_used_and_the_bottom_starves():
    counts = {"context": np.zeros(196), "targets": np.zeros(196)}
    for masks in batches(SQUARE, 128, 20):
        for name, total in counts.items():
            total += np.bincount(getattr(masks, name).flatten(), minlength=196)
    for total in counts.values():
        assert (total.reshape(14, 14)[-1] == 0).all()
        assert (total.reshape(14, 14)[:, -1] == 0).all()
    rows = counts["context"].reshape(14, 14).mean(1) / (128 * 20)
    assert rows[:6] == pytest.approx([0.76, 0.62, 0.47, 0.33, 0.23, 0.15], abs=0.08)
    assert (np.diff(rows[:6]) < 0).all()
    assert rows[11] < 0.1
    assert rows[12] < 0.05


def test_context_is_the_top_left_block_without_the_targets():
    (masks,) = batches(SQUARE, 1, 1)
    block = {14 * row + column for row in range(13) for column in range(13)}
    assert masks.context[0].tolist() == sorted(block - set(masks.targets.flatten().tolist()))
    assert masks.context_valid is None
    assert masks.target_valid is None


def test_contexts_are_cut_in_raster_order_to_the_shortest():
    (masks,) = batches(SQUARE, 16, 1)
    shortest = 0
    for index in range(16):
        alone = Official().sample(SQUARE, seed=0, step=0, first=index, count=1)
        assert torch.equal(alone.targets[0], masks.targets[index])
        length = min(masks.context.shape[1], alone.context.shape[1])
        assert torch.equal(alone.context[0, :length], masks.context[index])
        shortest = min(shortest or alone.context.shape[1], alone.context.shape[1])
    assert masks.context.shape[1] == shortest


def test_large_blocks_are_tall():
    sizes = [size((28, 28), masks.targets[0, 0]) for masks in batches((28, 28), 1, 200)]
    area = [height * width for height, width in sizes]
    aspect = [height / width for height, width in sizes]
    assert np.corrcoef(area, aspect)[0, 1] > 0.8


@pytest.mark.parametrize("grid", [*itertools.product(range(4, 9), repeat=2), (4, 16)])
def test_small_grids_do_not_hang(grid):
    for masks in batches(grid, 8, 20):
        assert masks.context.shape[1] > 0
        for patches in (masks.context, masks.targets):
            assert patches.min() >= 0
            assert patches.max() < grid[0] * grid[1]
            assert (patches.diff(dim=-1) > 0).all()


def test_a_context_overlaps_targets_only_where_it_would_be_too_small():
    """6 x 6 patches: the context block is always the 5 x 5 at the top left."""
    block = {6 * row + column for row in range(5) for column in range(5)}
    overlaps = 0
    for step in range(200):
        masks = Official().sample((6, 6), seed=0, step=step, first=0, count=1)
        context, targets = set(masks.context[0].tolist()), masks.targets[0].tolist()
        avoided = max(m for m in range(5) if context == block.difference(*targets[:m]))
        assert len(context) > 10
        if avoided < 4:
            assert len(context.difference(targets[avoided])) <= 10
            overlaps += 1
    assert 0 < overlaps < 200


def test_mistakes_are_named():
    wrong = Official(num_targets=0, target_scale=(0.3, 0.2), target_aspect=(0, 1)).mistakes((3, 3))
    assert len(wrong) == 4
    assert Official().mistakes((4, 16)) == []
