"""How far a run is: from the step alone, or from the clock for runs given in minutes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from openjepa.data.source import Source
from openjepa.errors import ConfigError, sentence
from openjepa.training.recipe import Length

MIN_STEPS = 10  # below this neither warm-up nor EMA means anything


@dataclass
class Progress:
    """t = anchor_t + rate * (step - anchor_step), and the run ends at t = 1.

    For a length in steps, images or epochs the anchor never moves, so t is a function of the step. For
    minutes it is moved now and then to where the clock is; the anchor is saved with the checkpoint.
    """

    rate: float
    """Progress a step; 0 while the speed of a run given in minutes is not known yet."""
    anchor_step: int = 0
    anchor_t: float = 0.0
    minutes: float | None = None

    def t(self, step: int) -> float:
        """Progress at a step, in 0..1."""
        return min(1.0, self.anchor_t + self.rate * (step - self.anchor_step))

    def is_over(self, step: int) -> bool:
        """True when no step is left to do."""
        # half a step of tolerance: 1 / n * n may round to just below 1
        return self.anchor_t + self.rate * (step - self.anchor_step) > 1 - 0.5 * self.rate

    def total_steps(self) -> int | None:
        """Steps of the whole run, where that is known."""
        if self.rate == 0:
            return None
        return self.anchor_step + round((1 - self.anchor_t) / self.rate)

    def follow_clock(self, step: int, elapsed_s: float, seconds_per_step: float) -> None:
        """For a run in minutes: aim at t = 1 when the time is up, from here on.

        ConfigError, the first time, when the time is not enough for ten steps.
        """
        if self.minutes is None:
            return
        t = self.t(step)
        steps_left = (self.minutes * 60 - elapsed_s) / seconds_per_step
        if self.rate == 0 and step + steps_left < MIN_STEPS:
            needed = math.ceil((elapsed_s + (MIN_STEPS - step) * seconds_per_step) / 6) / 10
            rule = f"is time for {max(step, int(step + steps_left))} steps here; at least {MIN_STEPS} are needed"
            remedy = f"Try --minutes {needed:g}, a smaller --batch-size or a smaller --encoder."
            raise ConfigError(sentence("minutes", self.minutes, rule, remedy))
        if steps_left < 1 or self.is_over(step):
            self.anchor_t, self.rate = 1.0, 1.0
        else:
            self.anchor_t, self.rate = t, (1 - t) / steps_left
        self.anchor_step = step

    def state(self) -> dict[str, float | None]:
        """For the checkpoint: `Progress(**state)` goes on from there."""
        return asdict(self)


def plan(length: Length, batch_size: int, source: Source) -> Progress:
    """The course of a run of this length on this data. ConfigError when it is under ten steps."""
    ((name, value),) = length.given().items()
    if name == "minutes":
        return Progress(rate=0.0, minutes=value)
    if name == "epochs":
        steps = math.ceil(value * len(source) / batch_size)
    elif name == "images":
        steps = math.ceil(value / batch_size)
    else:
        steps = int(value)
    if steps < MIN_STEPS:
        rule = f"is {steps} steps of {batch_size} images; at least {MIN_STEPS} are needed"
        remedy = f"Try --{name} {_enough(name, batch_size, source)}, or a smaller --batch-size."
        raise ConfigError(sentence(name, value, rule, remedy))
    return Progress(rate=1.0 / steps)


def _enough(name: str, batch_size: int, source: Source) -> int:
    if name == "epochs":
        return math.ceil(MIN_STEPS * batch_size / len(source))
    return MIN_STEPS * (batch_size if name == "images" else 1)
