"""The predictor, against itself applied once a block, alone and without padding."""

from __future__ import annotations

import math

import pytest
import torch

from openjepa.vision.predictor import Predictor, PredictorConfig
from openjepa.vision.transformer import INIT_STD
from openjepa.vision.vit import SIZES

GRID, NUM_PATCHES = (4, 6), 24
ROWS, BLOCKS, IN, OUT = 3, 2, 20, 12
CONTEXT_LENGTHS = (4, 6, 3)
TARGET_LENGTHS = ((5, 2), (1, 4), (3, 5))
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def predictor(stirred):
    return stirred(Predictor(PredictorConfig(16, 2, 4, 3.0), GRID, IN, OUT)).requires_grad_(False)


@pytest.fixture
def drawn():
    """Context tokens, context and target indices, and which of them are valid."""
    context = torch.stack([torch.randperm(NUM_PATCHES)[:6] for _ in range(ROWS)])
    targets = torch.stack([torch.randperm(NUM_PATCHES)[:5] for _ in range(ROWS * BLOCKS)]).reshape(ROWS, BLOCKS, 5)
    context_valid = torch.arange(6) < torch.tensor(CONTEXT_LENGTHS)[:, None]
    target_valid = torch.arange(5) < torch.tensor(TARGET_LENGTHS)[:, :, None]
    return torch.randn(ROWS, 6, IN), context, targets, context_valid, target_valid


def slow_predict(predictor, tokens, context, targets):
    """One block: context tokens (K, D) at indices (K,), target indices (T,) -> (T, D_out)."""
    positions = torch.tensor([slow_position(16, index) for index in range(NUM_PATCHES)])
    seen = [predictor.embed(token) + positions[i] for token, i in zip(tokens, context, strict=True)]
    asked = [predictor.mask_token + positions[i] for i in targets]
    x = torch.stack(seen + asked)[None]
    for block in predictor.blocks:
        x = block(x)
    return torch.stack([predictor.proj(predictor.norm(token)) for token in x[0, len(tokens) :]])


def slow_position(width, index):
    row, column = divmod(index, GRID[1])
    waves = [10000 ** (-i / (width // 4)) for i in range(width // 4)]
    return [f(place * w) for place in (column, row) for f in (math.sin, math.cos) for w in waves]


@pytest.mark.parametrize("is_context_padded", [False, True])
@pytest.mark.parametrize("is_target_padded", [False, True])
def test_one_pass_a_block_alone_and_without_padding(predictor, drawn, is_context_padded, is_target_padded):
    tokens, context, targets, context_valid, target_valid = drawn
    together = predictor(
        tokens,
        context,
        targets,
        context_valid if is_context_padded else None,
        target_valid if is_target_padded else None,
    )
    assert together.shape == (ROWS, BLOCKS, 5, OUT)
    for row in range(ROWS):
        seen = CONTEXT_LENGTHS[row] if is_context_padded else 6
        for block in range(BLOCKS):
            length = TARGET_LENGTHS[row][block] if is_target_padded else 5
            expected = slow_predict(predictor, tokens[row, :seen], context[row, :seen], targets[row, block, :length])
            # positions are a float32 table
            torch.testing.assert_close(together[row, block, :length], expected, rtol=0, atol=1e-6)
            alone = predictor(
                tokens[row : row + 1, :seen], context[row : row + 1, :seen], targets[row, block, :length][None, None]
            )
            torch.testing.assert_close(together[row, block, :length], alone[0, 0], rtol=0, atol=1e-12)


def test_other_blocks_and_other_images_do_not_matter(predictor, drawn):
    tokens, context, targets, context_valid, target_valid = drawn
    before = predictor(*drawn)
    targets = targets.clone()
    targets[0, 1] = (targets[0, 1] + 1) % NUM_PATCHES
    after = predictor(tokens, context, targets, context_valid, target_valid)
    assert not torch.equal(after[0, 1], before[0, 1])
    assert torch.equal(after[0, 0], before[0, 0])
    assert torch.equal(after[1:], before[1:])
    tokens = tokens.clone()
    tokens[0] += 1
    moved = predictor(tokens, context, targets, context_valid, target_valid)
    assert not torch.equal(moved[0], after[0])
    assert torch.equal(moved[1:], after[1:])


def test_what_stands_in_the_padding_does_not_matter(predictor, drawn):
    tokens, context, targets, context_valid, target_valid = drawn
    before = predictor(*drawn)
    tokens = torch.where(context_valid[..., None], tokens, 1e3)
    context, targets = context.where(context_valid, 0), targets.where(target_valid, 0)
    after = predictor(tokens, context, targets, context_valid, target_valid)
    assert torch.equal(after[target_valid], before[target_valid])


def test_only_positions_tell_patches_apart(predictor, drawn):
    tokens, context, targets, *_ = drawn
    before = predictor(tokens, context, targets)
    shuffle, order = torch.randperm(6), torch.randperm(5)
    after = predictor(tokens[:, shuffle], context[:, shuffle], targets[:, :, order])
    torch.testing.assert_close(after, before[:, :, order], rtol=0, atol=1e-12)
    assert before[0, 0].std(0).min() > 1e-3


@pytest.mark.parametrize(
    ("size", "depth", "expected"),
    [
        ("tiny", 6, 10.8),
        ("small", 6, 10.9),
        ("base", 6, 11.2),
        ("large", 12, 22.1),
        ("huge", 12, 22.3),
        ("giant", 16, 29.5),
    ],
)
def test_the_papers_predictors_have_the_released_number_of_parameters(size, depth, expected):
    width = SIZES[size][0]
    with torch.device("meta"):
        predictor = Predictor(PredictorConfig(depth=depth), (14, 14), width, width)
    assert round(sum(p.numel() for p in predictor.parameters()) / 1e6, 1) == expected


@pytest.mark.parametrize(("init", "divisor"), [("official", 1), ("rescaled", 2)])
def test_it_is_initialised_like_the_encoder(init, divisor):
    predictor = Predictor(PredictorConfig(256, 2, 4), GRID, IN, OUT, init)
    assert predictor.mask_token.std().item() == pytest.approx(INIT_STD, rel=0.15)
    assert predictor.proj.weight.std().item() == pytest.approx(INIT_STD, rel=0.05)
    assert predictor.blocks[1].attn.proj.weight.std().item() == pytest.approx(INIT_STD / divisor, rel=0.05)
    assert not torch.equal(predictor.mask_token, torch.zeros(256))


def test_all_mistakes_are_told_at_once_by_field():
    assert PredictorConfig().mistakes() == []
    wrong = PredictorConfig(width=0, depth=0, heads=0, mlp_ratio=-1.0).mistakes()
    assert [mistake.split(" = ")[0] for mistake in wrong] == [
        f"predictor.{name}" for name in ("width", "depth", "heads", "mlp_ratio")
    ]
    for width, heads in ((16, 3), (18, 2)):
        (wrong,) = PredictorConfig(width=width, heads=heads).mistakes()
        assert wrong.startswith(f"predictor.width = {width}: must be a multiple of 4 and of predictor.heads = {heads}")
