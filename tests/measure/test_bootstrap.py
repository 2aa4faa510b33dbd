"""The bootstrap's intervals are as wide as theory says, and the same each time."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from openjepa.measure import bootstrap
from openjepa.measure.bootstrap import accuracy_interval, interval


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_an_accuracy_has_the_binomial_interval(share: float) -> None:
    count = 2000
    correct = torch.arange(count) < share * count
    low, high = accuracy_interval(correct, seed=0)
    half = 1.96 * (share * (1 - share) / count) ** 0.5
    assert abs((low + high) / 2 - share) < 0.2 * half
    assert 0.85 < (high - low) / (2 * half) < 1.15


def test_a_ratio_of_sums_is_resampled_as_a_whole() -> None:
    rng = np.random.default_rng(0)
    errors, pixels = rng.exponential(1.0, 300), rng.integers(5, 50, 300)
    rows = torch.from_numpy(np.stack([errors * pixels, pixels], axis=1))
    low, high = interval(rows, lambda sums: sums[:, 0] / sums[:, 1], seed=1)
    slow = []
    for _ in range(2000):  # image by image
        drawn = rng.integers(300, size=300)
        slow.append((errors * pixels)[drawn].sum() / pixels[drawn].sum())
    np.testing.assert_allclose([low, high], np.quantile(slow, [0.025, 0.975]), atol=0.03)


def test_the_seed_decides() -> None:
    correct = torch.rand(500, generator=torch.Generator().manual_seed(0)) < 0.4
    assert accuracy_interval(correct, 3) == accuracy_interval(correct, 3) != accuracy_interval(correct, 4)


def test_all_right_leaves_no_room() -> None:
    assert accuracy_interval(torch.ones(50, dtype=torch.bool), 0) == (1.0, 1.0)


def test_resamplings_come_a_few_at_a_time_where_there_are_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws are the same, and the counts in memory few."""
    rows = torch.rand(3000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    at_once: list[int] = []

    def ratio(sums: torch.Tensor) -> torch.Tensor:
        at_once.append(len(sums))
        return sums[:, 0] / sums[:, 1]

    whole = interval(rows, ratio, seed=2)
    monkeypatch.setattr(bootstrap, "_CELLS", 20_000)
    at_once.clear()
    assert interval(rows, ratio, seed=2) == pytest.approx(whole, rel=1e-12)
    assert max(at_once) * len(rows) <= 20_000
    monkeypatch.setattr(bootstrap, "_CELLS", 10)  # one at least
    assert interval(rows[:30], ratio, seed=2)


def test_a_million_images_take_seconds_and_have_the_binomial_interval() -> None:
    count, share = 1_000_000, 0.4
    started = time.perf_counter()
    low, high = accuracy_interval(torch.arange(count) < share * count, seed=0)
    assert time.perf_counter() - started < 30  # drawn one by one: two minutes
    half = 1.96 * (share * (1 - share) / count) ** 0.5
    assert abs((low + high) / 2 - share) < 0.2 * half
    assert 0.85 < (high - low) / (2 * half) < 1.15
