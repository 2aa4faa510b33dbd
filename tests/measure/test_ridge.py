"""Ridge regression from sums is scikit-learn's on standardised features, dead columns included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from openjepa.errors import DataError
from openjepa.measure.ridge import Sums, predict


def rows(seed: int, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=draw, dtype=torch.float64) * torch.tensor([1, 9, 0.1, 1, 2, 3]) + 4
    outputs = inputs @ torch.randn(6, 2, generator=draw, dtype=torch.float64)
    return inputs, outputs + torch.randn(count, 2, generator=draw, dtype=torch.float64) + 7


@pytest.mark.parametrize("l2", [1e-6, 1e-2, 1.0])
def test_agrees_with_scikit_learn(l2: float) -> None:
    inputs, outputs = rows(0)
    sums = Sums.zero(6, 2)
    for part in range(0, 200, 64):
        sums.add(inputs[part : part + 64], outputs[part : part + 64])
    weights = sums.solve(l2)
    scaled = (inputs - inputs.mean(0)) / inputs.std(0, correction=0)
    oracle = Ridge(alpha=l2 * 200).fit(scaled.numpy(), outputs.numpy())
    np.testing.assert_allclose(predict(weights, inputs).numpy(), oracle.predict(scaled.numpy()), atol=1e-6)


def test_halves_add_up() -> None:
    inputs, outputs = rows(1)
    first, second = Sums.zero(6, 2), Sums.zero(6, 2)
    first.add(inputs[:90], outputs[:90])
    second.add(inputs[90:], outputs[90:])
    whole = Sums.zero(6, 2)
    whole.add(inputs, outputs)
    torch.testing.assert_close((first + second).moment, whole.moment)
    torch.testing.assert_close((first + second).gram, whole.gram)


def test_a_dead_column_and_a_repeated_one_do_no_harm() -> None:
    inputs, outputs = rows(2)
    odd = torch.cat([inputs, inputs[:, :1], torch.full((200, 1), 3.0)], dim=1)
    sums = Sums.zero(8, 2)
    sums.add(odd, outputs)
    guess = predict(sums.solve(1e-6), odd)
    assert torch.isfinite(guess).all()
    assert (guess - outputs).square().mean() < 1.2


def test_nan_is_refused() -> None:
    inputs, outputs = rows(3)
    inputs[5, 2] = float("nan")
    with pytest.raises(DataError, match="1: must be 0 of 200"):
        Sums.zero(6, 2).add(inputs, outputs)
