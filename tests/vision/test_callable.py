"""Any function is an encoder: shapes, names, and what is wrong with what it gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from openjepa.errors import ConfigError
from openjepa.vision.callable import CallableEncoder

IMAGES = torch.randint(0, 255, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_tokens_and_vectors() -> None:
    tokens = CallableEncoder(lambda x: x.flatten(2).transpose(1, 2), (8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
    found = tokens(IMAGES)
    assert found.grid == (8, 8)
    torch.testing.assert_close(found.pooled, (IMAGES / 255).mean(dim=(2, 3)))
    vectors = CallableEncoder(lambda x: x.mean(dim=(2, 3)), (8, 8))(IMAGES)
    assert vectors.grid == (1, 1)
    assert vectors.pooled.shape == (3, 3)
    wide = CallableEncoder(lambda x: x[:, :, :4].flatten(2).transpose(1, 2), (8, 8), grid=(4, 8))(IMAGES)
    assert wide.grid == (4, 8)


@pytest.mark.parametrize("wrong", [lambda x: x, lambda x: [x], lambda x: x.mean(dim=(2, 3))[:1]])
def test_what_it_gives_must_be_features(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"must be a tensor \(B, N, D\) or \(B, D\) for B = 3"):
        CallableEncoder(wrong, (8, 8))(IMAGES)  # type: ignore[arg-type]


def test_a_grid_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"5 tokens that the callable gives.*drop class tokens"):
        CallableEncoder(lambda x: x.new_zeros(len(x), 5, 2), (8, 8))(IMAGES)


def test_names() -> None:
    def function(x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))

    one, other = CallableEncoder(function, (8, 8)), CallableEncoder(function, (8, 8))
    assert one.fingerprint() != other.fingerprint()  # nobody can tell whether two functions are the same
    assert not one.is_known
    named = [CallableEncoder(function, (8, 8), name="mine") for _ in range(2)]
    assert named[0].fingerprint() == named[1].fingerprint()
    layer = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    known = CallableEncoder(layer, (8, 8), name="mine")
    before = known.fingerprint()
    with torch.no_grad():
        layer[1].bias += 1
    assert known.is_known
    assert before != known.fingerprint()
