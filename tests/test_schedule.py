"""Schedules: their values where they can be named, and their course between."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openjepa.schedule import cosine, linear, warmup_cosine

values = st.floats(-10, 10)
shares = st.floats(0, 1)
WARMUP = {"warmup": 0.2, "start": 1.0, "peak": 5.0, "end": 0.5}


@pytest.mark.parametrize(("t", "expected"), [(-1, 2), (0, 2), (0.25, 3), (0.5, 4), (1, 6), (2, 6)])
def test_linear(t, expected):
    assert linear(t, 2.0, 6.0) == expected


@pytest.mark.parametrize(
    ("t", "expected"), [(-1, 2), (0, 2), (1 / 3, 3), (0.5, 4), (2 / 3, 5), (0.25, 4 - math.sqrt(2)), (1, 6), (2, 6)]
)
def test_cosine(t, expected):
    assert cosine(t, 2.0, 6.0) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("t", "expected"), [(0, 1), (0.05, 2), (0.1, 3), (0.2, 5), (0.2 + 0.8 / 3, 3.875), (0.6, 2.75), (1, 0.5), (2, 0.5)]
)
def test_warmup_cosine(t, expected):
    assert warmup_cosine(t, **WARMUP) == pytest.approx(expected, abs=1e-12)


def test_without_warmup_it_starts_at_the_peak_and_meets_it_from_both_sides():
    assert warmup_cosine(0.0, 0.0, 1.0, 5.0, 0.5) == 5
    assert warmup_cosine(0.2 - 1e-9, **WARMUP) == pytest.approx(5, abs=1e-6)
    assert warmup_cosine(0.2 + 1e-9, **WARMUP) == pytest.approx(5, abs=1e-6)
    assert warmup_cosine(1.0, 1.0, 1.0, 5.0, 0.5) == 5


@given(values, values, shares, shares)
@settings(deadline=None, max_examples=100)
def test_linear_and_cosine_run_from_one_end_to_the_other(start, end, t, later):
    assume(t <= later)
    for course in (linear, cosine):
        path = [course(at, start, end) for at in (0.0, t, later, 1.0)]
        rising = path if end >= start else path[::-1]
        assert all(a <= b + 1e-12 for a, b in itertools.pairwise(rising))
        assert path[0] == pytest.approx(start, abs=1e-12)
        assert path[-1] == pytest.approx(end, abs=1e-12)


@given(shares, shares, st.floats(0, 0.99))
@settings(deadline=None, max_examples=100)
def test_warmup_cosine_rises_to_its_peak_then_falls(t, later, warmup):
    assume(t <= later)
    at, after = (warmup_cosine(x, warmup, 1.0, 5.0, 0.5) for x in (t, later))
    if later < warmup:
        assert 1 <= at <= after + 1e-12
    elif t >= warmup:
        assert at + 1e-12 >= after >= 0.5


def test_the_order_of_asking_does_not_matter():
    places = [i / 50 for i in range(51)]
    forwards = {t: warmup_cosine(t, **WARMUP) for t in places}
    random.Random(0).shuffle(places)
    assert all(warmup_cosine(t, **WARMUP) == forwards[t] for t in places)
