"""A subset is the rows that it names, wherever they are read; moments are those of all rows at once."""

from __future__ import annotations

import pytest
import torch

from openjepa.measure import as_features
from openjepa.measure.knn import knn_predict
from openjepa.measure.lars import LarsConfig, lars_probe
from openjepa.measure.logistic import probe_accuracy
from openjepa.measure.moments import moments
from openjepa.measure.subset import subset


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(300, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 7


def test_of_a_subset_again_and_in_parts(rows: torch.Tensor) -> None:
    index = torch.randperm(300)[:70]
    part = subset(rows, index)
    assert (part.shape, part.ndim, len(part), part.numel()) == ((70, 5), 2, 70, 350)
    assert torch.equal(torch.cat(list(part.split(16))), rows[index])
    assert torch.equal(part[3:9], rows[index[3:9]])
    deeper = subset(part, torch.tensor([5, 2]))
    assert deeper.whole is rows
    assert torch.equal(as_features(deeper), rows[index[[5, 2]]])


def test_every_measure_takes_one_for_its_copy(rows: torch.Tensor) -> None:
    labels = torch.arange(300) % 3
    rows[:, 0] += labels
    index, others = torch.arange(200), torch.arange(200, 300)
    train, test = subset(rows, index), subset(rows, others)
    copies = rows[index], labels[index], rows[others], labels[others]
    assert torch.equal(knn_predict(train, labels[index], test, 3, 5), knn_predict(*copies[:3], 3, 5))
    assert probe_accuracy(train, labels[index], test, labels[others], 3) == probe_accuracy(*copies, 3)
    small = LarsConfig(lrs=(0.1, 1.0), batch_size=64, epochs=3)
    found, expected = (lars_probe(*each, 3, small) for each in ((train, labels[index], test, labels[others]), copies))
    assert (found.accuracy, found.scores) == (expected.accuracy, expected.scores)


@pytest.mark.parametrize("count", [1, 300, 5000])
def test_moments_are_those_of_all_rows_at_once(count: int) -> None:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1e4
    mean, variance = moments(x)
    torch.testing.assert_close(mean, x.mean(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(variance, x.var(dim=0, correction=0), rtol=1e-9, atol=1e-18)
