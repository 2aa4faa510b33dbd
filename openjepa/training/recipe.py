"""A recipe: everything a pretraining run is, as one frozen dataclass that is default, type, help text and flag.

What changes the result stands first; what changes only speed, what is watched and what is kept stand apart, and
may change when a run is resumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from tyro.conf import Suppress

from openjepa.config import type_mistakes
from openjepa.errors import ConfigError, sentence
from openjepa.methods.finetune import FineTuneConfig
from openjepa.methods.ibot import IBOTConfig
from openjepa.methods.ijepa import IJEPAConfig
from openjepa.methods.mae import MAEConfig
from openjepa.optim import OptimConfig


@dataclass(frozen=True)
class Length:
    """How long to train; exactly one of the four."""

    epochs: float | None = None
    """Passes over the data."""
    steps: int | None = None
    """Optimiser steps."""
    images: int | None = None
    """Images seen, counting repeats."""
    minutes: float | None = None
    """Wall time, probes and checkpoints included; schedules follow the clock."""

    def given(self) -> dict[str, float]:
        """The lengths that are set: one, unless there is a mistake."""
        values = {name: getattr(self, name) for name in UNITS}
        return {name: value for name, value in values.items() if value is not None}

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        if wrong := type_mistakes(self):
            return wrong
        given = self.given()
        if len(given) != 1:
            rule = "give exactly one of --epochs, --steps, --images, --minutes"
            return [sentence("length", given or None, rule)]
        ((name, value),) = given.items()
        return [] if 0 < value < math.inf else [sentence(name, value, "must be above 0 and finite")]


UNITS = tuple(field.name for field in fields(Length))
"""What a length can be given in."""


@dataclass(frozen=True)
class Watch:
    """What is measured while training, and what follows from it."""

    log_every: int = 20
    """Steps between two lines of metrics; the device is waited for only then."""
    probes: int = 10
    """How many times over the run the representation is judged, evenly spaced, the end included; 0: without labels, at
    the start and the end."""
    probe_bank: int = 5_000
    """Labelled images the probes learn from, at most."""
    probe_test: int = 2_000
    """Labelled images the probes are tested on, at most."""
    max_probe_share: float = 0.1
    """Share of a run given in minutes that labelled probes may take; past it they wait, but for the last one."""
    health_images: int = 256
    """Unlabelled images for rank, spread and energies; 0: the run is not judged."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What to do when the representation has collapsed."""
    max_skipped: int = 20
    """Steps in a row with a non-finite loss or gradient after which the run stops."""
    max_bad_share: float = 0.1
    """Share of unreadable images past which the run stops."""
    wandb: str | None = None
    """Weights & Biases project to log to as well; nothing is sent without it."""

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        wrong = []
        lowest = {
            "log_every": 1, "probes": 0, "probe_bank": 40, "probe_test": 10,
            "health_images": 8, "max_skipped": 1,
        }  # fmt: skip
        for name, low in lowest.items():
            if getattr(self, name) < low and not (name == "health_images" and self.health_images == 0):
                wrong.append(sentence(f"watch.{name}", getattr(self, name), f"must be from {low}"))
        for name in ("max_bad_share", "max_probe_share"):
            if not 0 <= getattr(self, name) <= 1:
                wrong.append(sentence(f"watch.{name}", getattr(self, name), "is a share, in 0..1"))
        return wrong


@dataclass(frozen=True)
class Keep:
    """Which checkpoints are written and kept."""

    every_minutes: float = 5.0
    """Minutes between two checkpoints; one is also written at the end and on SIGTERM, SIGINT, SIGUSR1."""
    last: int = 2
    """How many of the newest to keep."""
    milestones: int = 0
    """Checkpoints spread evenly over the run that are never removed."""

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        wrong = []
        if self.every_minutes < 0:
            wrong.append(sentence("keep.every_minutes", self.every_minutes, "must be from 0"))
        if self.last < 1:
            wrong.append(sentence("keep.last", self.last, "must be at least 1"))
        if self.milestones < 0:
            wrong.append(sentence("keep.milestones", self.milestones, "must be from 0"))
        return wrong


@dataclass(frozen=True)
class Speed:
    """What changes how fast a run goes, never where it goes."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    workers: int | None = None
    """Loader processes; by default one a spare core, at most 8. The batches do not depend on it."""
    compile: bool = False
    """Compile the model with torch.compile."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass instead of keeping them."""

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        if self.workers is not None and self.workers < 0:
            return [sentence("speed.workers", self.workers, "must be from 0")]
        return []


@dataclass(frozen=True)
class Recipe:
    """One pretraining run."""

    name: str = "custom"
    """What the run is called."""
    method: IJEPAConfig | MAEConfig | IBOTConfig | FineTuneConfig = field(default_factory=IJEPAConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    length: Annotated[Length, Suppress] = field(default_factory=Length)  # the command line has flags of its own
    batch_size: int = 256
    """Images a step, over all processes."""
    micro_batch: int | None = None
    """Images a forward pass on each process; gradients add up to the batch. Statistics of a batch
    (a regulariser's, Sinkhorn's) are then those of the micro-batch."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Arithmetic of the forward pass; auto is bfloat16 on CUDA devices that have it, else float32."""
    seed: int = 0
    """Address of every random draw of the run."""
    watch: Watch = field(default_factory=Watch)
    keep: Keep = field(default_factory=Keep)
    speed: Speed = field(default_factory=Speed)

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        if wrong := type_mistakes(self):  # the checks below may take the types for granted
            return wrong
        parts = (self.method, self.optim, self.length, self.watch, self.keep, self.speed)
        wrong = [mistake for part in parts for mistake in part.mistakes()]
        if self.batch_size < 1:
            wrong.append(sentence("batch_size", self.batch_size, "must be at least 1"))
        wrong += self.method.batch_mistakes(min(self.batch_size, self.micro_batch or self.batch_size))
        if self.micro_batch is not None and self.micro_batch < 1:
            wrong.append(sentence("micro_batch", self.micro_batch, "must be at least 1"))
        return wrong

    def check(self) -> None:
        """ConfigError with every mistake of the recipe, if there is any."""
        if wrong := self.mistakes():
            raise ConfigError(wrong)


RESUMABLE = ("name", "watch", "keep", "speed")
"""Fields that may differ between a run and its resumption: none moves a weight by more than another device rounds."""
