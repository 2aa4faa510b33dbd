"""What came of a comparison: how each run went, what it is worth, what stands beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

RESULTS = "results.json"
"""Where a comparison lies in its folder."""


@dataclass
class Course:
    """How a run went."""

    status: str = "going"
    """going, finished or failed."""
    reason: str = ""
    """Of a failure."""
    verdict: str = ""
    step: int = 0
    t: float = 0.0
    seconds: float = 0.0
    """Of training, its own start-up and saving included."""
    peak_mib: float | None = None

    @property
    def is_going(self) -> bool:
        """True while there is something left to do."""
        return self.status == "going"


@dataclass
class Outcome:
    """A run of the comparison: what it is, how it went, what it is worth."""

    name: str
    variant: str
    family: str
    size: str
    """Both as in `Entry`."""
    seed: int
    fraction: float
    batch_size: int
    parameters: int
    gflops_per_image: float
    course: Course
    figures: list[dict[str, Any]] = field(default_factory=list)
    """As in `Evaluation.figures`, of the run's encoder."""
    points: list[dict[str, float]] = field(default_factory=list)
    """Step, seconds, images, gflops, and accuracies by "task question", along the run."""
    energies: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Of images held out, "before" and "after" training: those of pairs of the "same" image, and with "another" one's
    target."""
    auroc: dict[str, float] = field(default_factory=dict)
    """"before" and "after": share of (same, another) that those energies tell apart; 0.5 is chance."""
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Seen in training, repeats counted."""
        return self.course.step * self.batch_size


@dataclass
class Comparison:
    """Every run, and the controls that stand beside them."""

    data: str
    test: str
    outcomes: list[Outcome] = field(default_factory=list)
    controls: list[dict[str, Any]] = field(default_factory=list)
    """Figures of raw pixels, and of each backbone untrained."""
    warnings: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)
