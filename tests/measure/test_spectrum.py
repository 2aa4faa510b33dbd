"""Collapse numbers: properties of the effective rank; brute force for cosines and the rank test."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from openjepa.errors import ConfigError, DataError
from openjepa.measure.spectrum import auroc, effective_rank, feature_std, mean_cosine

quick = settings(max_examples=30, deadline=None)
seeds, counts, widths = st.integers(0, 999), st.integers(1, 40), st.integers(1, 12)


def gaussian(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed, width):
    return torch.linalg.qr(gaussian(seed, width, width))[0]


@quick
@given(seeds, counts, widths, st.booleans())
def test_rank_lies_between_1_and_the_smaller_side(seed, num_images, width, centred):
    rank = effective_rank(gaussian(seed, num_images, width), centred)
    assert 1 - 1e-9 <= rank <= min(num_images, width) + 1e-9


@quick
@given(seeds, st.integers(2, 40), widths, st.floats(-6, 6), st.booleans())
def test_rank_ignores_rotation_and_scale(seed, num_images, width, log_scale, centred):
    features = gaussian(seed, num_images, width) + 1
    turned = features @ rotation(seed + 1, width) * 10**log_scale
    assert effective_rank(turned, centred) == pytest.approx(effective_rank(features, centred))


@quick
@given(seeds, st.integers(2, 40), widths)
def test_centred_rank_ignores_the_mean_and_the_other_is_ruled_by_it(seed, num_images, width):
    features = gaussian(seed, num_images, width)
    moved = features + 1e4 * gaussian(seed + 1, 1, width)
    assert effective_rank(moved) == pytest.approx(effective_rank(features), rel=1e-6)
    assert effective_rank(moved, centred=False) < 1.1


def test_uncentred_rank_is_rankme():
    features = gaussian(0, 200, 16) @ gaussian(1, 16, 16) + 2
    singular = torch.linalg.eigvalsh(features.T @ features).sqrt()
    share = singular / singular.sum() + 1e-7  # as the paper writes it
    rankme = math.exp(-sum(p * math.log(p) for p in share.tolist()))
    assert effective_rank(features, centred=False) == pytest.approx(rankme, rel=1e-4)


def test_rank_of_isotropic_features_is_the_width():
    assert 31.5 < effective_rank(gaussian(0, 4000, 32)) <= 32


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_rank_of_equal_orthogonal_directions_is_their_number(dimensions, centred):
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=dimensions)))
    features = corners.double() @ rotation(0, 9)[:dimensions]
    assert effective_rank(features, centred) == pytest.approx(dimensions)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_features_equal_but_for_rounding_have_rank_1(dtype):
    mean = 3 * gaussian(0, 1, 64)
    noise = torch.finfo(dtype).eps / 10 * gaussian(1, 500, 64)
    collapsed = (mean * (1 + noise)).to(dtype)
    assert effective_rank(collapsed) == 1
    assert effective_rank(torch.zeros(5, 3, dtype=dtype)) == 1
    assert effective_rank((mean + 0.3 * gaussian(2, 500, 64)).to(dtype)) > 50


@quick
@given(seeds, counts, widths)
def test_feature_std_by_hand(seed, num_images, width):
    features = gaussian(seed, num_images, width)
    columns = features.T.tolist()
    expected = 0.0
    for column in columns:
        mean = sum(column) / num_images
        expected += math.sqrt(sum((value - mean) ** 2 for value in column) / num_images) / width
    assert feature_std(features) == pytest.approx(expected, abs=1e-12)


@quick
@given(seeds, st.integers(2, 25), widths, st.floats(0, 3))
def test_mean_cosine_is_that_of_all_pairs(seed, num_images, width, mean):
    features = gaussian(seed, num_images, width) + mean
    features[0] = 0
    cosines = [
        float(torch.nn.functional.cosine_similarity(a, b, dim=0)) for a, b in itertools.combinations(features, 2)
    ]
    assert mean_cosine(features) == pytest.approx(sum(cosines) / len(cosines), abs=1e-12)


def test_mean_cosine_at_its_extremes():
    assert mean_cosine(torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.5, 1.0]])) == pytest.approx(1)
    assert mean_cosine(torch.tensor([[1.0, 2.0], [-1.0, -2.0]])) == pytest.approx(-1)
    with pytest.raises(ConfigError, match="images = 1: a pair needs 2"):
        mean_cosine(torch.ones(1, 3))


values = st.lists(st.integers(-3, 3), min_size=1, max_size=20)


@quick
@given(values, values)
def test_auroc_is_that_of_all_pairs_with_ties_half(negative, positive):
    pairs = list(itertools.product(negative, positive))
    wins = sum((high > low) + (high == low) / 2 for low, high in pairs)
    found = auroc(torch.tensor(negative), torch.tensor(positive).float())
    assert found == pytest.approx(wins / len(pairs), abs=1e-12)
    assert found == pytest.approx(roc_auc_score([0] * len(negative) + [1] * len(positive), negative + positive))
    swapped = auroc(torch.tensor(positive), torch.tensor(negative))
    assert found + swapped == pytest.approx(1)


def test_auroc_of_energies_of_any_shape():
    assert auroc(torch.zeros(3, 4), torch.ones(5, 2)) == 1
    assert auroc(torch.ones(3, 4), torch.zeros(5)) == 0
    with pytest.raises(DataError, match="positive"):
        auroc(torch.zeros(3), torch.zeros(0))
    with pytest.raises(DataError, match="rows of negative with a NaN or an infinity = 2"):
        auroc(torch.tensor([0.0, torch.nan, torch.inf]), torch.zeros(2))


@pytest.mark.parametrize("measure", [effective_rank, feature_std, mean_cosine])
def test_features_that_are_not_finite(measure):
    features = torch.randn(6, 3)
    features[2, 1] = torch.nan
    with pytest.raises(DataError, match="rows of features with a NaN or an infinity = 1"):
        measure(features)
