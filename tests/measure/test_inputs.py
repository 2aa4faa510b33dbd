"""What every measure accepts, and what it says to the rest."""

from __future__ import annotations

import pytest
import torch

from openjepa.errors import DataError
from openjepa.measure import as_features, as_labels, check_features, unit_rows


def test_bad_rows_are_counted_across_chunks(monkeypatch):
    monkeypatch.setattr("openjepa.measure._ROWS_PER_CHECK", 3)
    features = torch.ones(10, 4)
    features[1, 0] = features[1, 2] = features[9, 3] = torch.nan
    features[5, 1] = -torch.inf
    with pytest.raises(DataError, match=r"rows of bank with a NaN or an infinity = 3: must be 0 of"):
        check_features(features, "bank")


@pytest.mark.parametrize("shape", [(3,), (0, 4), (4, 0), (2, 3, 4)])
def test_features_are_a_filled_matrix(shape):
    with pytest.raises(DataError, match=r"features\.shape = "):
        check_features(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int32])
def test_any_dtype_becomes_float64_without_a_gradient(dtype):
    features = torch.arange(6).reshape(2, 3).to(dtype)
    if dtype.is_floating_point:
        features.requires_grad_()
    out = as_features(features)
    assert out.dtype == torch.float64
    assert not out.requires_grad
    assert out.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), "needs 3 integers"),
        (torch.tensor([0.0, 1.0, 1.0]), "needs 3 integers"),
        (torch.tensor([[0], [1], [1]]), "needs 3 integers"),
        (torch.tensor([0, 1, 2]), r"labels = '0 to 2': 1 of them lie outside 0 to 1"),
        (torch.tensor([-1, -1, 1]), r"labels = '-1 to 1': 2 of them lie outside 0 to 1"),
    ],
)
def test_labels_that_cannot_be_used(labels, message):
    with pytest.raises(DataError, match=message):
        as_labels(labels, torch.zeros(3, 2), num_classes=2)


def test_labels_of_any_integer_dtype():
    labels = as_labels(torch.tensor([0, 255], dtype=torch.uint8), torch.zeros(2, 1), 256)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 255]


def test_unit_rows_at_any_scale():
    rows = torch.tensor([[3e-20, 4e-20], [3e18, 4e18], [0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(unit_rows(rows), expected, atol=1e-6)
