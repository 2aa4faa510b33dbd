"""How far a run is, from its step alone or from a clock that is simulated here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.errors import ConfigError
from openjepa.training.loop import CALIBRATION_STEPS
from openjepa.training.progress import MIN_STEPS, Progress, plan
from openjepa.training.recipe import Length, Watch


@dataclass
class Pile:
    """All that `plan` asks of a source."""

    num_images: int = 1000

    def __len__(self) -> int:
        return self.num_images


def planned(batch_size: int = 8, num_images: int = 1000, **length: Any) -> Progress:
    return plan(Length(**length), batch_size, Pile(num_images))  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------- by the step


@given(st.integers(MIN_STEPS, 5000))
@settings(max_examples=200, deadline=None)
def test_a_run_of_n_steps_ends_after_n(num_steps: int) -> None:
    progress = planned(steps=num_steps)
    assert progress.total_steps() == num_steps
    assert not any(progress.is_over(step) for step in range(num_steps))
    assert all(progress.is_over(step) for step in range(num_steps, num_steps + 50))


def test_every_number_of_steps_ends_exactly() -> None:
    """The rounding of 1 / n * n is different for each n; both sides of the end, for all of them."""
    for num_steps in range(MIN_STEPS, 5001):
        progress = Progress(rate=1 / num_steps)
        assert not progress.is_over(num_steps - 1)
        assert progress.is_over(num_steps)
        assert progress.total_steps() == num_steps


@given(st.integers(MIN_STEPS, 5000), st.data())
@settings(max_examples=50, deadline=None)
def test_t_is_a_pure_function_of_the_step(num_steps: int, data: st.DataObject) -> None:
    progress = planned(steps=num_steps)
    asked = data.draw(st.lists(st.integers(0, num_steps), max_size=20))
    for step in asked:  # in any order, with what a run does in between
        assert progress.t(step) == pytest.approx(step / num_steps, abs=1e-12)
        assert progress.t(step) == Progress(rate=1 / num_steps).t(step)
        progress.is_over(step), progress.total_steps(), progress.state()
        progress.follow_clock(step, elapsed_s=1e9, seconds_per_step=1.0)  # there is no clock to follow
    assert progress == planned(steps=num_steps)
    assert progress.t(0) == 0
    assert progress.t(num_steps) == pytest.approx(1)
    assert progress.t(10 * num_steps) == 1


@pytest.mark.parametrize(
    ("length", "batch_size", "num_images", "expected"),
    [
        ({"steps": 123}, 8, 1000, 123),
        ({"images": 80}, 8, 1000, 10),
        ({"images": 81}, 8, 1000, 11),
        ({"epochs": 2}, 8, 1000, 250),
        ({"epochs": 1}, 7, 100, 15),
        ({"epochs": 0.5}, 8, 1000, 63),
    ],
)
def test_every_length_becomes_steps(length: dict, batch_size: int, num_images: int, expected: int) -> None:
    assert planned(batch_size, num_images, **length).total_steps() == expected


lengths = st.one_of(
    st.fixed_dictionaries({"steps": st.integers(1, 30)}),
    st.fixed_dictionaries({"images": st.integers(1, 2000)}),
    st.fixed_dictionaries({"epochs": st.floats(0.01, 12)}),
)


@given(lengths, st.integers(1, 300), st.integers(1, 2000))
@settings(max_examples=150, deadline=None)
def test_too_little_is_refused_and_what_is_offered_is_enough(length: dict, batch_size: int, num_images: int) -> None:
    ((name, value),) = length.items()
    images = {"steps": value * batch_size, "images": value, "epochs": value * num_images}[name]
    if math.ceil(images / batch_size) >= MIN_STEPS:
        assert planned(batch_size, num_images, **length).total_steps() == math.ceil(images / batch_size)
        return
    with pytest.raises(ConfigError) as caught:
        planned(batch_size, num_images, **length)
    text = str(caught.value)
    assert text.startswith(f"{name} = {value!r}: is {math.ceil(images / batch_size)} steps of {batch_size} images")
    assert text.endswith(", or a smaller --batch-size.")
    flag, offered = text.split("Try ")[1].split(",")[0].split()
    assert flag == f"--{name}"
    total = planned(batch_size, num_images, **{name: int(offered)}).total_steps()
    assert total is not None
    assert total >= MIN_STEPS


# ---------------------------------------------------------------------------------------------------- by the clock


@dataclass
class Simulated:
    """What came of a run whose steps take the time that they are told to."""

    elapsed_s: float
    step: int
    ts: list[float]
    progress: Progress


def simulate(
    minutes: float,
    seconds_of: Callable[[int, float], float],
    startup_s: float = 0.0,
    log_every: int = Watch().log_every,
    stop_at: int | None = None,
    resumed: Simulated | None = None,
) -> Simulated:
    """The part of the training loop that has to do with time."""
    progress, step, elapsed_s = planned(minutes=minutes), 0, startup_s
    if resumed is not None:
        progress = Progress(**json.loads(json.dumps(resumed.progress.state())))
        step, elapsed_s = resumed.step, resumed.elapsed_s
    ts = []
    while not progress.is_over(step) and step != stop_at:
        ts.append(progress.t(step))
        elapsed_s += seconds_of(step, elapsed_s)
        step += 1
        is_first_look = progress.rate == 0 and step == CALIBRATION_STEPS
        if step % log_every == 0 or progress.is_over(step) or is_first_look:
            progress.follow_clock(step, elapsed_s, (elapsed_s - startup_s) / step)
        assert step < 100_000, "it never ends"
    return Simulated(elapsed_s, step, ts, progress)


SPEEDS: dict[str, Callable[[int, float], float]] = {
    "even": lambda step, now: 0.1,
    "slow first steps": lambda step, now: 3.0 if step < 5 else 0.1,
    "slower and slower": lambda step, now: 0.05 + 0.0002 * now,
    "faster and faster": lambda step, now: 0.02 + 5 / (now + 20),
    "half speed half way": lambda step, now: 0.1 if now < 300 else 0.2,
    "twice as fast late": lambda step, now: 0.1 if now < 540 else 0.05,
    "half speed late": lambda step, now: 0.1 if now < 540 else 0.2,
    "uneven": lambda step, now: 0.1 * (1 + 0.8 * math.sin(step)),
    "a probe now and then": lambda step, now: 5.0 if step % 500 == 499 else 0.1,
    "few slow steps": lambda step, now: 0.5 + 0.0005 * now,
}


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("startup_s", [0.0, 20.0])
def test_a_run_in_minutes_ends_when_they_are_over(speed: str, startup_s: float) -> None:
    run = simulate(10, SPEEDS[speed], startup_s)
    assert run.elapsed_s == pytest.approx(600, rel=0.02)
    assert run.ts == sorted(run.ts), "progress never goes back"
    assert run.ts[0] == 0
    assert 0.98 < run.ts[-1] <= 1, "the schedules reach their end"
    steepest = max(after - before for before, after in pairwise(run.ts[CALIBRATION_STEPS:]))
    assert steepest < 0.05, "without a jump"


@given(st.integers(100, 2000), st.floats(-0.5, 2))
@settings(max_examples=40, deadline=None)
def test_drift_of_any_size_is_followed(num_steps: int, drift: float) -> None:
    """Steps that are up to three times as long, or half as long, at the end as at the start."""
    budget_s = 600
    first_s = budget_s / num_steps
    run = simulate(budget_s / 60, lambda step, now: first_s * (1 + drift * now / budget_s))
    # what lies between two looks at the clock is done at the old aim; in runs of few steps that is more than 2 %
    between_s = Watch().log_every * first_s * (1 + max(drift, 0))
    assert abs(run.elapsed_s - budget_s) <= max(0.02 * budget_s, 0.5 * between_s)


def test_speed_is_not_believed_at_first() -> None:
    progress = planned(minutes=10)
    assert progress.total_steps() is None
    assert [progress.t(step) for step in (0, 5, 1000)] == [0, 0, 0]
    assert not progress.is_over(1000)
    progress.follow_clock(CALIBRATION_STEPS, elapsed_s=6, seconds_per_step=0.5)
    assert progress.total_steps() == CALIBRATION_STEPS + (600 - 6) / 0.5
    assert progress.t(CALIBRATION_STEPS) == 0


def test_time_that_is_up_is_up() -> None:
    progress = planned(minutes=1)
    progress.follow_clock(CALIBRATION_STEPS, elapsed_s=3, seconds_per_step=1)
    progress.follow_clock(20, elapsed_s=61, seconds_per_step=3)
    assert progress.is_over(20)
    assert progress.t(20) == 1
    assert progress.total_steps() == 20


def test_minutes_too_few_for_ten_steps_are_refused() -> None:
    progress = planned(minutes=1)
    with pytest.raises(ConfigError, match=r"time for 8 steps here; at least 10 are needed\. Try --minutes 1\.2"):
        progress.follow_clock(CALIBRATION_STEPS, elapsed_s=22, seconds_per_step=7)


def test_what_is_over_stays_over() -> None:
    """With a second left the run once went on at t = 1, without an end in sight, until the next look at the clock."""
    progress = Progress(rate=0.01, minutes=10)
    assert progress.is_over(100)
    progress.follow_clock(100, elapsed_s=599, seconds_per_step=0.1)
    assert progress.is_over(100)
    assert progress.total_steps() == 100


# ------------------------------------------------------------------------------------------------------- its state


@given(
    st.floats(1e-6, 1), st.integers(0, 10**6), st.floats(0, 1), st.none() | st.floats(0.1, 1e4), st.integers(0, 10**7)
)
@settings(max_examples=50, deadline=None)
def test_state_survives_json(rate: float, step: int, t: float, minutes: float | None, later: int) -> None:
    progress = Progress(rate, step, t, minutes)
    back = Progress(**json.loads(json.dumps(progress.state())))
    assert back == progress
    assert back.t(later) == progress.t(later)
    assert back.is_over(later) == progress.is_over(later)


@given(st.integers(1, 3000))
@settings(max_examples=15, deadline=None)
def test_a_resumed_run_in_minutes_goes_on_as_if_never_stopped(stop_at: int) -> None:
    speed = SPEEDS["slower and slower"]
    whole = simulate(10, speed)
    first = simulate(10, speed, stop_at=stop_at)
    second = simulate(10, speed, resumed=first)
    assert first.ts + second.ts == whole.ts
    assert (second.step, second.elapsed_s) == (whole.step, whole.elapsed_s)
