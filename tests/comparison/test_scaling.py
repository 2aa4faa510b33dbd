"""Accuracy against model size, data and compute."""

from __future__ import annotations

import json

import pytest

from openjepa.comparison.figures import scaling
from openjepa.comparison.outcome import Comparison, Course, Outcome
from openjepa.comparison.plan import plan
from openjepa.comparison.run import compare
from openjepa.comparison.terms import sets, share
from openjepa.training.recipe import Length
from tests.comparison.test_compare import PROBING, SMALL, entries
from tests.training.conftest import make_images


def test_shares_of_the_data_are_trained_on_and_lie_inside_each_other(tmp_path):
    images = str(make_images(tmp_path))
    runs = entries(("mae",), fractions=(0.5, 1.0), length=Length(epochs=4))
    found = compare(runs, images, None, tmp_path / "out", probing=PROBING, is_quiet=True)
    train, _ = sets(images, None)
    half = share(train, 0.5)
    assert len(half) == round(len(train) / 2)
    names = [[source.name(i) for i in range(len(source))] for source in (half, train)]
    assert set(names[0]) < set(names[1])
    for outcome, source in zip(found.outcomes, (half, train), strict=True):
        assert outcome.family == "mae"
        assert outcome.images == -(-4 * len(source) // SMALL.batch_size) * SMALL.batch_size
        document = json.loads((tmp_path / "out" / outcome.name / "recipe.json").read_text())
        assert document["data"] == source.identity
    panels = scaling(found)
    assert {x for x, _ in panels} == {"share of the images", "TFLOP of training"}
    (line,) = panels["share of the images", "20-NN, class (%)"]["mae"]
    assert [x for x, _ in line] == [0.5, 1.0]
    assert line[1][1] == pytest.approx(100 * found.outcomes[1].figures[0]["score"]["value"])


def test_lines_join_runs_that_differ_in_one_thing_and_average_seeds():
    found = Comparison("data", "test")
    for entry in plan(
        ("ijepa", "mae"), Length(steps=20), SMALL, encoders=("pico", "nano"), fractions=(0.1, 1.0), seeds=(0, 1)
    ):
        parameters = 1_000_000 if entry.size == "pico" else 3_000_000
        parameters += 128 if "mae" in entry.variant else 0  # a class token is no other size
        value = 0.2 + 0.1 * entry.fraction + parameters / 1e8 + 0.02 * entry.recipe.seed
        figure = {"task": "knn", "question": "class", "score": {"value": value}}
        found.outcomes.append(
            Outcome(
                entry.name,
                entry.variant,
                entry.family,
                entry.size,
                entry.recipe.seed,
                entry.fraction,
                8,
                parameters,
                1.0,
                Course("finished", step=20),
                figures=[figure],
            )
        )
    panels = scaling(found)
    by_size = panels["parameters (millions)", "20-NN, class (%)"]
    assert set(by_size) == {f"{m}, {s} of the images" for m in ("ijepa", "mae") for s in ("0.1", "1")}
    (line,) = by_size["mae, 0.1 of the images"]
    assert line == [
        pytest.approx((1, 100 * (0.2 + 0.01 + 0.01 + 0.01)), rel=1e-3),
        pytest.approx((3, 100 * (0.2 + 0.01 + 0.03 + 0.01)), rel=1e-3),
    ]
    by_share = panels["share of the images", "20-NN, class (%)"]
    assert set(by_share) == {f"{m}, {s}" for m in ("ijepa", "mae") for s in ("pico", "nano")}
    by_work = panels["TFLOP of training", "20-NN, class (%)"]
    assert set(by_work) == set(by_share)
    whole = [o for o in found.outcomes if o.fraction == 1]
    for number, outcome in enumerate(whole):  # a run in minutes sees another number of images with every seed
        outcome.course.step = 20 + number
    found.outcomes = whole
    panels = scaling(found)
    assert {x for x, _ in panels} == {"parameters (millions)", "TFLOP of training"}
    (line,) = panels["TFLOP of training", "20-NN, class (%)"]["mae"]
    steps = [[o.course.step for o in whole if o.size == size and o.family == "mae"] for size in ("pico", "nano")]
    assert [x for x, _ in line] == pytest.approx(sorted(8e-3 * sum(each) / 2 for each in steps))
    found.outcomes = [o for o in found.outcomes if o.size == "pico"]
    assert scaling(found) == {}
