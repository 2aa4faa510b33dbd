"""Batches: moved and split without losing a row."""

from __future__ import annotations

import pytest
import torch

from openjepa.masking import Masks
from openjepa.methods import MaskedBatch

DRAWS = 3


def batch(num_images, *, is_padded):
    rows = num_images * DRAWS
    masks = Masks(
        torch.arange(rows * 4).reshape(rows, 4),
        torch.arange(rows * 10).reshape(rows, 2, 5),
        torch.rand(rows, 4) < 0.5 if is_padded else None,
        torch.rand(rows, 2, 5) < 0.5 if is_padded else None,
    )
    return MaskedBatch(torch.arange(num_images * 12).reshape(num_images, 3, 2, 2).byte(), 5, 6, masks)


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize(("size", "lengths"), [(1, [1] * 5), (2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (9, [5])])
def test_parts_put_together_are_the_batch(size, lengths, is_padded):
    whole = batch(5, is_padded=is_padded)
    parts = whole.split(size)
    assert [len(part.images) for part in parts] == lengths
    assert {(part.seed, part.step) for part in parts} == {(5, 6)}
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    for name, tensor in vars(whole.masks).items():
        pieces = [getattr(part.masks, name) for part in parts]
        if tensor is None:
            assert pieces == [None] * len(parts)
        else:
            assert [len(piece) for piece in pieces] == [length * DRAWS for length in lengths]
            assert torch.equal(torch.cat(pieces), tensor)


@pytest.mark.parametrize("is_padded", [False, True])
def test_every_tensor_moves(is_padded):
    moved = batch(2, is_padded=is_padded).to(torch.device("meta"))
    tensors = [moved.images, *(tensor for tensor in vars(moved.masks).values() if tensor is not None)]
    assert [tensor.device.type for tensor in tensors] == ["meta"] * (5 if is_padded else 3)
