"""Multi-block masks: against a plain Python version, the paper's properties, and chance."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare

from openjepa.errors import ConfigError
from openjepa.masking import Masks, MultiBlock, Official
from openjepa.masking.base import area_range
from openjepa.randomness import uniforms

SQUARE = (14, 14)
CROWDED = MultiBlock(target_scale=(0.3, 0.5), context_scale=(0.3, 1.0), context_share=0.4)


def rectangle(grid, size, draws):
    """The patches of a block of `size` at the placement that two draws pick."""
    top = math.floor(draws[0] * (grid[0] - size[0] + 1))
    left = math.floor(draws[1] * (grid[1] - size[1] + 1))
    return {row * grid[1] + column for row in range(top, top + size[0]) for column in range(left, left + size[1])}


def size(grid, scale, aspect):
    """Height and width of a block, the other side growing where one does not fit."""
    area = scale * grid[0] * grid[1]
    tall, wide = math.sqrt(area * aspect), math.sqrt(area / aspect)
    if tall > grid[0]:
        tall, wide = grid[0], area / grid[0]
    elif wide > grid[1]:
        tall, wide = area / grid[1], grid[1]
    return max(1, round(tall)), max(1, round(wide))


def oracle(config, grid, seed, step, index):
    """(context, targets) of one image as sets and lists of patches, from the same uniform draws."""
    num_patches, m = grid[0] * grid[1], config.num_targets
    share = config.context_share if config.context == "fixed" else 0
    wanted = max(config.min_context, round(share * num_patches))

    def stretch(draw, ends):
        return ends[0] + draw * (ends[1] - ends[0])

    for purpose in ["masks", *(f"masks redraw {attempt}" for attempt in range(10))]:
        u = uniforms(seed, purpose, step, index, 1, 4 * m + 3)[0].tolist()
        targets = []
        for j in range(m):
            scale = stretch(u[j], config.target_scale)
            aspect = stretch(u[m + j], config.target_aspect)
            corner = u[2 * m + j], u[3 * m + j]
            targets.append(rectangle(grid, size(grid, scale, aspect), corner))
        scale = stretch(u[4 * m], config.context_scale)
        block = rectangle(grid, size(grid, scale, grid[0] / grid[1]), u[4 * m + 1 :])
        free = set(range(num_patches)).difference(*targets)
        if len(free) >= wanted:
            break
    else:
        targets = [targets[0]] * m
        free = set(range(num_patches)) - targets[0]
    candidates = block & free if len(block & free) >= wanted else free
    if config.context == "fixed":
        keys = uniforms(seed, "masks context", step, index, 1, num_patches)[0]
        candidates = sorted(candidates, key=lambda patch: keys[patch])[:wanted]
    return sorted(candidates), [sorted(target) for target in targets]


def rows_of(masks: Masks) -> list[tuple[list[int], list[list[int]]]]:
    """(context, targets) of each image as lists, without the padding, which must be zeros."""
    rows = []
    for i in range(len(masks.context)):
        context = masks.context[i]
        if masks.context_valid is not None:
            assert not context[~masks.context_valid[i]].any()
            context = context[masks.context_valid[i]]
        targets = list(masks.targets[i])
        if masks.target_valid is not None:
            assert not masks.targets[i][~masks.target_valid[i]].any()
            valid = masks.target_valid[i]
            targets = [t[v] for t, v in zip(targets, valid, strict=True)]
        rows.append((context.tolist(), [t.tolist() for t in targets]))
    return rows


grids = st.tuples(st.integers(4, 20), st.integers(4, 20))
addresses = st.fixed_dictionaries(
    {"seed": st.integers(0, 99), "step": st.integers(0, 10**6), "first": st.integers(0, 4096)}
)


@st.composite
def configs(draw):
    def pair(low, high):
        return tuple(sorted([draw(st.floats(low, high)), draw(st.floats(low, high))]))

    return MultiBlock(
        num_targets=draw(st.integers(1, 5)),
        target_scale=pair(0.02, 0.4),
        target_aspect=pair(0.25, 4),
        context_scale=pair(0.1, 1),
        context=draw(st.sampled_from(["fixed", "all"])),
        context_share=draw(st.floats(0.01, 0.6)),
        min_context=draw(st.integers(1, 6)),
    )


def fits(config, grid):
    """Whether one target of this configuration always leaves enough context."""
    largest = area_range(grid, config.target_scale, config.target_aspect)[1]
    share, num_patches = config.context_share * (config.context == "fixed"), grid[0] * grid[1]
    return max(config.min_context, round(share * num_patches)) + largest <= num_patches


@given(grids, configs(), addresses)
@settings(deadline=None, max_examples=100)
def test_masks_are_those_of_the_oracle(grid, config, address):
    assume(fits(config, grid))
    rows = rows_of(config.sample(grid, **address, count=3))
    for i, row in enumerate(rows):
        index = address["first"] + i
        assert row == oracle(config, grid, address["seed"], address["step"], index)


@pytest.mark.parametrize("context", ["fixed", "all"])
def test_crowded_masks_are_those_of_the_oracle(context):
    config = replace(CROWDED, context=context, min_context=25)
    rows = rows_of(config.sample((8, 8), seed=3, step=5, first=7, count=60))
    assert rows == [oracle(config, (8, 8), 3, 5, 7 + i) for i in range(60)]
    copies = [targets for _, targets in rows if all(t == targets[0] for t in targets)]
    assert 0 < len(copies) < 60  # so the last resort was met, and not by all


@given(grids, configs(), addresses, st.integers(1, 9))
@settings(deadline=None, max_examples=100)
def test_context_and_targets_are_sound(grid, config, address, count):
    assume(fits(config, grid))
    num_patches = grid[0] * grid[1]
    masks = config.sample(grid, **address, count=count)
    smallest, largest = area_range(grid, config.target_scale, config.target_aspect)
    assert masks.context.dtype == masks.targets.dtype == torch.int64
    assert masks.targets.shape == (count, config.num_targets, largest)
    assert (masks.target_valid is None) == (smallest == largest)
    if config.context == "fixed":
        wanted = max(config.min_context, round(config.context_share * num_patches))
        assert masks.context.shape == (count, wanted)
        assert masks.context_valid is None
    for context, targets in rows_of(masks):
        assert len(context) >= config.min_context
        for patches in (context, *targets):
            assert patches == sorted(set(patches))
            assert patches[0] >= 0
            assert patches[-1] < num_patches
        for target in targets:
            assert smallest <= len(target) <= largest
            assert not set(target) & set(context)
            height = target[-1] // grid[1] - target[0] // grid[1] + 1
            width = target[-1] % grid[1] - target[0] % grid[1] + 1
            assert len(target) == height * width


@given(grids, configs(), addresses, st.integers(1, 6), st.integers(1, 6))
@settings(deadline=None, max_examples=50)
def test_an_image_has_the_same_masks_however_the_batch_is_sliced(grid, config, address, a, b):
    assume(fits(config, grid))
    whole = rows_of(config.sample(grid, **address, count=a + b))
    assert whole == rows_of(config.sample(grid, **address, count=a + b))
    tail = {**address, "first": address["first"] + a}
    assert whole[:a] == rows_of(config.sample(grid, **address, count=a))
    assert whole[a:] == rows_of(config.sample(grid, **tail, count=b))


def test_other_seeds_steps_and_images_have_other_masks():
    def contexts(seed, step, first):
        masks = MultiBlock().sample(SQUARE, seed=seed, step=step, first=first, count=2)
        return set(map(tuple, masks.context.tolist()))

    distinct = contexts(0, 0, 0) | contexts(1, 0, 0) | contexts(0, 1, 0) | contexts(0, 0, 2)
    assert len(distinct) == 8


def test_both_kinds_of_context_see_the_same_targets_and_fixed_is_part_of_all():
    fixed = rows_of(MultiBlock().sample(SQUARE, seed=0, step=0, first=0, count=50))
    full = rows_of(MultiBlock(context="all").sample(SQUARE, seed=0, step=0, first=0, count=50))
    assert [targets for _, targets in fixed] == [targets for _, targets in full]
    inside = [set(a) <= set(b) for (a, _), (b, _) in zip(fixed, full, strict=True)]
    assert sum(inside) >= 49  # the rest were widened to the grid, which only fixed contexts need


def test_cut_contexts_are_as_long_as_the_shortest_and_drawn_from_all():
    one, other = (
        rows_of(MultiBlock(context=name).sample(SQUARE, seed=0, step=0, first=0, count=500)) for name in ("cut", "all")
    )
    assert [targets for _, targets in one] == [targets for _, targets in other]
    shortest = min(len(context) for context, _ in other)
    for (context, _), (whole, _) in zip(one, other, strict=True):
        assert len(set(context)) == len(context) == shortest
        assert set(context) <= set(whole)
    rows = np.array([context for context, _ in one]) // SQUARE[1]
    below = np.concatenate([whole for whole, _ in other]) // SQUARE[1]
    assert rows.mean() == pytest.approx(below.mean(), abs=0.25)  # not the topmost, as the released code takes


@pytest.mark.parametrize("grid", [(7, 7), (5, 9)])
def test_context_is_uniform_over_what_may_be_context(grid):
    """Given its targets, each free patch of an image is context with the same chance."""
    num_patches = grid[0] * grid[1]
    config = MultiBlock(num_targets=2, context_scale=(1.0, 1.0), context_share=0.2)
    masks = config.sample(grid, seed=1, step=0, first=0, count=10000)
    assert masks.target_valid is not None
    free = np.ones((10000, num_patches), bool)
    rows = np.arange(10000).repeat(masks.target_valid.sum((1, 2)))
    free[rows, masks.targets[masks.target_valid]] = False
    chance = free * (masks.context.shape[1] / free.sum(1, keepdims=True))
    counts = np.bincount(masks.context.flatten(), minlength=num_patches)
    variance = (chance * (1 - chance)).sum(0)
    statistic = ((counts - chance.sum(0)) ** 2 / variance).sum()
    assert 0.001 < chi2.sf(statistic * (num_patches - 1) / num_patches, num_patches - 1) < 0.999


@pytest.mark.parametrize("context", ["fixed", "all"])
@pytest.mark.parametrize("grid", [(4, 4), (4, 16), (7, 7), (14, 14)])
def test_every_patch_is_used_as_context_and_as_target(grid, context):
    masks = MultiBlock(context=context).sample(grid, seed=0, step=0, first=0, count=2000)
    rows = rows_of(masks)
    everything = set(range(grid[0] * grid[1]))
    assert set().union(*(context for context, _ in rows)) == everything
    assert set().union(*(target for _, targets in rows for target in targets)) == everything


def test_positions_of_targets_of_one_size_are_uniform_over_all_placements():
    config = MultiBlock(target_scale=(0.18, 0.18), target_aspect=(1.0, 1.0))
    masks = config.sample((8, 8), seed=2, step=0, first=0, count=5000)
    assert masks.target_valid is None
    corners = np.bincount(masks.targets[:, :, 0].flatten(), minlength=64).reshape(8, 8)
    assert (corners[6:] == 0).all()
    assert (corners[:, 6:] == 0).all()
    assert chisquare(corners[:6, :6].flatten()).pvalue > 0.001


def sizes(count):
    """Heights and widths of the targets of `count` images on a fine grid, (count, M) each."""
    masks = MultiBlock().sample((40, 40), seed=4, step=0, first=0, count=count)
    assert masks.target_valid is not None
    last = masks.target_valid.sum(-1, keepdim=True) - 1
    first, last = masks.targets[..., 0], masks.targets.gather(-1, last)[..., 0]
    return (last // 40 - first // 40 + 1).numpy(), (last % 40 - first % 40 + 1).numpy()


def test_scale_and_aspect_and_the_blocks_of_an_image_are_independent():
    height, width = sizes(4000)
    area, aspect = height * width / 1600, height / width
    assert abs(np.corrcoef(area.flatten(), aspect.flatten())[0, 1]) < 0.03
    for values in (area, aspect):
        between_blocks = np.corrcoef(values.T)[np.triu_indices(4, 1)]
        assert np.abs(between_blocks).max() < 0.06


def test_scale_and_aspect_are_uniform_over_their_ranges():
    height, width = sizes(4000)
    area, aspect = (height * width / 1600).flatten(), (height / width).flatten()
    assert area.mean() == pytest.approx(0.175, abs=0.001)
    assert aspect.mean() == pytest.approx(1.125, abs=0.01)
    assert np.quantile(aspect, [0.25, 0.75]) == pytest.approx([0.9375, 1.3125], abs=0.04)
    assert np.quantile(area, [0.25, 0.75]) == pytest.approx([0.1625, 0.1875], abs=0.004)


@pytest.mark.parametrize("context", ["fixed", "all", "cut"])
@pytest.mark.parametrize("rows", range(4, 21, 2))
@pytest.mark.parametrize("columns", [4, 7, 16])
def test_the_defaults_work_on_every_grid(rows, columns, context):
    assert MultiBlock(context=context).mistakes((rows, columns)) == []


def test_all_mistakes_are_named_at_once():
    wrong = {"num_targets": 0, "target_scale": (0.2, 0.1), "target_aspect": (0.0, 1.0)}
    wrong |= {"context_scale": (0.5, 1.5), "context_share": 0.0, "min_context": 0}
    config = MultiBlock(**wrong)
    text = "\n".join(config.mistakes((3, 14)))
    assert all(f"{name} = " in text for name in ("grid", *wrong))
    assert len(text.splitlines()) == 7


@given(grids, st.floats(0.2, 1), st.floats(0.2, 1))
@settings(deadline=None, max_examples=30)
def test_a_context_share_that_is_too_large_is_refused_with_one_that_works(grid, share, low):
    config = MultiBlock(context_share=share, context_scale=(low, 1.0))
    mistakes = config.mistakes(grid)
    if mistakes:
        (mistake,) = mistakes
        field, remedy = mistake.split(" = ")[0], float(mistake.split("Try ")[1].split(",")[0])
        field = field.removeprefix("masking.")
        better = replace(config, **{field: int(remedy) if field == "min_context" else remedy})
        assert not any(field in mistake for mistake in better.mistakes(grid))


def test_the_paper_s_smallest_context_blocks_do_not_hold_the_paper_s_context():
    mistakes = MultiBlock(context_scale=(0.4, 1.0)).mistakes(SQUARE)
    assert "context_share" in mistakes[0]
    assert MultiBlock(context_scale=(0.4, 1.0), context="all").mistakes(SQUARE) == []


def test_context_that_never_fits_is_an_error_and_not_an_overlap():
    with pytest.raises(ConfigError, match="context_share"):
        MultiBlock(context_share=0.9).sample(SQUARE, seed=0, step=0, first=0, count=1)


def test_official_masks_are_one_call_away():
    assert MultiBlock.official() == Official()
