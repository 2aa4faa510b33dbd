"""Weighted k-NN against a slow loop and scikit-learn; its tie rule; independence of chunks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from openjepa.errors import ConfigError, DataError
from openjepa.measure.knn import knn_accuracy, knn_predict

quick = settings(max_examples=30, deadline=None)


def clusters(seed, num_images, num_queries, width, num_classes):
    """Overlapping clusters, so that neighbours disagree: bank, labels, queries, labels."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(num_classes, width, generator=draw)
    labels = torch.randint(num_classes, (num_images + num_queries,), generator=draw)
    images = centres[labels] + 1.5 * torch.randn(len(labels), width, generator=draw)
    return images[:num_images], labels[:num_images], images[num_images:], labels[num_images:]


def slow_predict(bank, labels, queries, num_classes, k, temperature):
    """One query at a time in Python floats; exact for features whose lengths are powers of two."""
    bank, queries, classes = bank.tolist(), queries.tolist(), []
    for query in queries:
        similarity = [
            math.fsum(a * b for a, b in zip(query, image, strict=True)) / math.hypot(*query) / math.hypot(*image)
            for image in bank
        ]
        nearest = sorted(range(len(bank)), key=lambda row: (-similarity[row], row))[:k]
        votes = [0.0] * num_classes
        for row in nearest:
            votes[labels[row]] += math.exp((similarity[row] - similarity[nearest[0]]) / temperature)
        classes.append(votes.index(max(votes)))
    return classes


@quick
@given(
    seed=st.integers(0, 999),
    num_images=st.integers(1, 40),
    k=st.integers(1, 40),
    temperature=st.sampled_from([0.01, 0.07, 1.0]),
    chunk_size=st.integers(1, 50),
)
def test_agrees_with_a_slow_loop(seed, num_images, k, temperature, chunk_size):
    bank, labels, queries, _ = clusters(seed, num_images, 15, 6, 4)
    k = min(k, num_images)
    expected = slow_predict(bank, labels, queries, 4, k, temperature)
    assert knn_predict(bank, labels, queries, 4, k, temperature, chunk_size).tolist() == expected


@quick
@given(seed=st.integers(0, 999), k=st.integers(1, 30), chunk_size=st.integers(1, 40))
def test_ties_go_to_the_first_in_the_bank_and_the_smallest_class(seed, k, chunk_size):
    # Corners of a cube in four dimensions: exact lengths, and only five similarities, all tied.
    draw = torch.Generator().manual_seed(seed)
    corners = torch.randint(2, (45, 4), generator=draw).float() * 2 - 1
    labels = torch.randint(3, (30,), generator=draw)
    expected = slow_predict(corners[:30], labels, corners[30:], 3, k, 0.5)
    assert knn_predict(corners[:30], labels, corners[30:], 3, k, 0.5, chunk_size).tolist() == expected


@pytest.mark.parametrize("k", [1, 20, 300])
def test_agrees_with_scikit_learn(k):
    bank, labels, queries, truth = clusters(0, 300, 200, 24, 10)
    oracle = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda far: np.exp((1 - far) / 0.07)
    ).fit(bank.double().numpy(), labels.numpy())
    predicted = knn_predict(bank, labels, queries, 10, k, chunk_size=64)
    assert predicted.dtype == torch.int64
    assert predicted.tolist() == oracle.predict(queries.double().numpy()).tolist()
    accuracy = knn_accuracy(bank, labels, queries, truth, 10, k)
    assert accuracy == oracle.score(queries.double().numpy(), truth.numpy())
    assert 0.2 < accuracy < 0.99, "the features should be neither noise nor trivial"


@quick
@given(seed=st.integers(0, 99), scale=st.sampled_from([1e-12, 1.0, 1e12]))
def test_lengths_do_not_matter(seed, scale):
    bank, labels, queries, _ = clusters(seed, 60, 20, 8, 3)
    lengths = torch.rand(60, 1, dtype=torch.float64) + 0.5
    expected = knn_predict(bank, labels, queries, 3, k=5)
    changed = knn_predict(bank.double() * lengths * scale, labels, queries * 7, 3, k=5)
    assert torch.equal(changed, expected)


def test_a_class_that_is_nearer_outvotes_a_larger_one():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    labels, query = torch.tensor([0, 1, 1, 1]), torch.tensor([[1.0, 0.1]])
    assert knn_predict(bank, labels, query, 2, k=4, temperature=0.07).tolist() == [0]
    assert knn_predict(bank, labels, query, 2, k=4, temperature=100.0).tolist() == [1]


def test_a_tiny_temperature_is_the_nearest_neighbour():
    bank, labels, queries, _ = clusters(3, 50, 20, 8, 4)
    sharp = knn_predict(bank, labels, queries, 4, k=50, temperature=1e-9)
    assert torch.equal(sharp, knn_predict(bank, labels, queries, 4, k=1))


def test_autocast_changes_nothing():
    bank, labels, queries, _ = clusters(4, 100, 50, 16, 5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = knn_predict(bank, labels, queries, 5)
    assert torch.equal(inside, knn_predict(bank, labels, queries, 5))


def test_every_wrong_setting_is_named():
    bank, labels = torch.randn(5, 3), torch.zeros(5, dtype=torch.long)
    with pytest.raises(ConfigError) as error:
        knn_predict(bank, labels, torch.randn(2, 4), 1, k=6, temperature=0.0, chunk_size=0)
    for what in ("width of queries = 4", "k = 6", "temperature = 0.0", "chunk_size = 0"):
        assert what in str(error.value)
    assert len(error.value.mistakes) == 4


@pytest.mark.parametrize("where", ["bank", "queries"])
def test_features_that_are_not_finite(where):
    bank, labels, queries, truth = clusters(5, 30, 10, 4, 2)
    {"bank": bank, "queries": queries}[where][3, 1] = torch.nan
    with pytest.raises(DataError, match=f"rows of {where} with a NaN or an infinity = 1"):
        knn_accuracy(bank, labels, queries, truth, 2)
