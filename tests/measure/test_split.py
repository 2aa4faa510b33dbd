"""The held-out fifth: a partition, by the seed, that leaves every class an image."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.measure.split import hold_out


@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_a_fifth_and_the_rest_which_has_every_class(labels, seed):
    labels = torch.tensor(labels)
    held_out, kept = hold_out(labels, seed)
    assert sorted(held_out.tolist() + kept.tolist()) == list(range(len(labels)))
    assert set(labels[kept].tolist()) == set(labels.tolist())
    to_spare = len(labels) - len(labels.unique())
    assert len(held_out) == min(-(-len(labels) // 5), to_spare)


def test_the_seed_draws_it():
    labels = torch.arange(60) % 3
    first, again, other = (hold_out(labels, seed)[0].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_labels_of_any_integer_dtype():
    labels = torch.arange(60) % 3
    assert hold_out(labels.to(torch.uint8), 0)[0].tolist() == hold_out(labels, 0)[0].tolist()


def test_the_shares_of_the_classes_stay():
    labels = torch.tensor([0] * 8000 + [1] * 2000)
    held_out, _ = hold_out(labels, 0)
    assert abs(float((labels[held_out] == 1).double().mean()) - 0.2) < 0.03  # 3 standard deviations
