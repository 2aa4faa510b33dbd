"""Addressed randomness: the same address gives the same draw, today, tomorrow, and in whatever slice it is read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.randomness import generator, key, torch_generator, uniforms

seeds = st.integers(0, 2**63)
purposes = st.text("ab:1", max_size=4)  # few letters and colons: what could be confused, will be
addresses = st.tuples(seeds, purposes, st.lists(st.integers(-2, 12), max_size=3))


def philox(key: int, counter: int) -> list[int]:
    """Philox-4x64-10 of Salmon et al. 2011, word by word: the four words of one counter value."""
    mask = 2**64 - 1
    x = [(counter >> 64 * i) & mask for i in range(4)]
    k0, k1 = key & mask, key >> 64
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * x[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * x[2], 2**64)
        x = [high1 ^ x[1] ^ k0, low1, high0 ^ x[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return x


@given(seeds, st.integers(0, 10**6), st.integers(0, 2**40), st.integers(1, 4), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_uniforms_are_philox(seed: int, step: int, first: int, count: int, width: int) -> None:
    rows = uniforms(seed, "masks", step, first, count, width)
    assert rows.shape == (count, width)
    assert rows.dtype == np.float64
    blocks = (width + 3) // 4
    for i, j in itertools.product(range(count), range(width)):
        # numpy counts up before it draws
        word = philox(key(seed, "masks", step), (first + i) * blocks + j // 4 + 1)[j % 4]
        assert rows[i, j] == (word >> 11) * 2.0**-53


@given(seeds, st.integers(0, 2**40), st.integers(0, 40), st.integers(1, 20), st.data())
@settings(max_examples=60, deadline=None)
def test_uniforms_do_not_depend_on_the_slice(seed: int, step: int, count: int, width: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, 1000))
    cut = data.draw(st.integers(0, count))
    whole = uniforms(seed, "masks", step, first, count, width)
    parts = [uniforms(seed, "masks", step, first, cut, width)]
    parts.append(uniforms(seed, "masks", step, first + cut, count - cut, width))
    assert np.array_equal(whole, np.concatenate(parts))


@given(addresses, addresses)
@settings(max_examples=300, deadline=None)
def test_only_the_same_address_has_the_same_key(a: tuple[int, str, list[int]], b: tuple[int, str, list[int]]) -> None:
    assert (key(a[0], a[1], *a[2]) == key(b[0], b[1], *b[2])) == (a == b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, "a", 2), (1, "a:2")),
        ((1, "a:", 2), (1, "a", 2)),
        ((1, "", 2), (1, ":2")),
        ((12, "a", 3), (1, "a", 23)),
        ((1, "a", 2, 3), (1, "a", 23)),
        ((1, "2a"), (12, "a")),
        ((0, "a", 1), (0, "a", 1, 0)),
    ],
)
def test_addresses_that_read_alike_differ(a: tuple, b: tuple) -> None:
    assert key(*a) != key(*b)
    assert generator(*a).random() != generator(*b).random()


@given(addresses)
@settings(max_examples=40, deadline=None)
def test_a_stream_is_its_address_alone(address: tuple[int, str, list[int]]) -> None:
    seed, purpose, rest = address
    np.random.default_rng().random(3), torch.rand(3)  # nobody else's draws matter
    first, second = (generator(seed, purpose, *rest) for _ in range(2))
    assert np.array_equal(first.random(5), second.random(5))
    first, second = (torch_generator(seed, purpose, *rest) for _ in range(2))
    assert torch.equal(torch.rand(5, generator=first), torch.rand(5, generator=second))


def test_numpy_integers_are_integers() -> None:
    assert key(np.int64(3), "a", np.int32(4)) == key(3, "a", 4)
    assert key(2**63, "a") not in (key(0, "a"), key(2**63 - 1, "a"), key(-(2**63), "a"))


def test_golden_values() -> None:
    """Whoever changes these changes every crop and mask of every run there was: no resumed run goes on as it would."""
    assert key(0, "masks") == 83980471150495100038958453229419069704
    assert key(2**63, "crop", 5, 7) == 23419670316095818178615949034833753022
    assert generator(7, "crop", 3, 11).random(2).tolist() == [0.5414043370989103, 0.8474465400405797]
    assert generator(7, "crop", 3, 11).integers(10**9, size=2).tolist() == [752379722, 541404336]
    assert generator(7, "order", 1).permutation(6).tolist() == [5, 1, 3, 2, 4, 0]
    assert uniforms(7, "masks", 3, 64, 2, 3).tolist() == [
        [0.09285420653345977, 0.7865394898157552, 0.8372150526267272],
        [0.4014631907509846, 0.7190454167743653, 0.34595534726706734],
    ]
    assert torch.rand(2, generator=torch_generator(7, "sigreg", 3), dtype=torch.float64).tolist() == [
        0.4414817816860749,
        0.971907421884002,
    ]


def chi_square(values: np.ndarray, num_bins: int = 100) -> float:
    """In standard deviations from its mean; under uniformity about normal(0, 1)."""
    found, _ = np.histogram(values, bins=num_bins, range=(0, 1))
    expected = len(values) / num_bins
    degrees = num_bins - 1
    return float(((found - expected) ** 2 / expected).sum() - degrees) / (2 * degrees) ** 0.5


def test_uniforms_are_uniform() -> None:
    by_row = uniforms(0, "masks", 0, 0, 20_000, 4)
    by_step = np.stack([uniforms(0, "masks", step, 0, 1, 4)[0] for step in range(5_000)])
    by_seed = np.array([generator(seed, "crop", 0, 0).random() for seed in range(5_000)])
    for table in (by_row, by_step, by_seed[:, None]):
        assert table.min() >= 0
        assert table.max() < 1
        for column in table.T:
            assert abs(chi_square(column)) < 4.5
        # neighbours in the table are as independent as two uniforms: 12 * covariance is a correlation
        centred = table - 0.5
        across = [12 * (centred[1:] * centred[:-1]).mean(axis=0)]
        across.append(12 * (centred[:, 1:] * centred[:, :-1]).mean(axis=0))
        assert np.abs(np.concatenate(across)).max() < 4.5 / np.sqrt(len(table))


def test_the_uniformity_test_can_fail() -> None:
    assert abs(chi_square(generator(0, "x").random(5_000) ** 1.2)) > 4.5
