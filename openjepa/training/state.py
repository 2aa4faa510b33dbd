"""What a run is made of, and what a checkpoint remembers of it besides tensors."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from openjepa.data.loader import BadImages, Steps
from openjepa.distributed import World
from openjepa.journal import Journal
from openjepa.measure.verdict import Verdict
from openjepa.methods.base import Method
from openjepa.optim import Optimizer
from openjepa.training.checkpoints import Checkpoints
from openjepa.training.health import Health
from openjepa.training.probe import Probe
from openjepa.training.progress import Progress
from openjepa.training.recipe import Recipe


@dataclass
class Run:
    """Everything a run is made of; `state` is what a checkpoint remembers besides tensors."""

    recipe: Recipe
    world: World
    method: Method
    optimizer: Optimizer
    progress: Progress
    steps: Steps
    journal: Journal
    checkpoints: Checkpoints
    bad: BadImages
    health: Health | None
    """On the first process, which alone judges."""
    probe: Probe | None
    workers: int
    document: dict[str, Any]
    """Recipe and identity of the data, as JSON; a checkpoint carries it, so that it loads wherever it is moved."""
    step: int = 0
    elapsed_s: float = 0.0
    startup_s: float = 0.0
    """Of elapsed_s, what went by before the first step."""
    skipped_in_row: int = 0
    probe_s: list[float] = field(default_factory=list)
    """Seconds that each labelled probe took."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Every judgement so far, the untrained one first."""
    controls: dict[str, dict[str, float]] = field(default_factory=dict)
    """Probe figures of raw pixels and of the untrained encoder."""
    verdict: Verdict | None = None
    is_signalled: bool = False
    """It was stopped by a signal, and not by the end of a slice."""

    def starts_up(self, seconds: float) -> None:
        """Time that went by without a step: it counts, but says nothing of how long a step takes."""
        self.elapsed_s += seconds
        self.startup_s += seconds

    def state(self) -> dict[str, Any]:
        """What the checkpoint's state.json holds."""
        return {
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "startup_s": self.startup_s,
            "skipped_in_row": self.skipped_in_row,
            "probe_s": self.probe_s,
            "progress": self.progress.state(),
            "device": self.world.device.type,
            "probe": self.probe.identity if self.probe else None,
            "history": self.history,
            "controls": self.controls,
            "bad": self.bad.state(),
        }


@dataclass
class Interval:
    """What happened since the last line of metrics; tensors stay on the device until it is read."""

    logs: list[dict[str, Tensor]] = field(default_factory=list)
    is_skipped: list[Tensor] = field(default_factory=list)
    names: list[list[str]] = field(default_factory=list)
    data_s: float = 0.0
    probe_s: float = 0.0
    save_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)
