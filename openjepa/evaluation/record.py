"""The record of an evaluation: every figure, and what is needed to know what was measured."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import torch

from openjepa.evaluation.task import Score
from openjepa.vision.encoder import Encoder


@dataclass(frozen=True)
class Figure:
    """A score and where it belongs; or why there is none."""

    data: str
    test: str
    row: str
    task: str
    question: str
    score: Score | None
    error: str | None
    seconds: float


@dataclass
class Evaluation:
    """Every figure of an evaluation, and what to know when reading them."""

    encoder: str
    figures: list[Figure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sets: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def score(self, task: str, question: str | None = None, row: str = "encoder", data: str | None = None) -> Score:
        """The first score that fits. KeyError when there is none."""
        for figure in self.figures:
            is_asked = figure.task == task and figure.row == row and question in (None, figure.question)
            if is_asked and data in (None, figure.data) and figure.score is not None:
                return figure.score
        raise KeyError(f"no {task} of {row} (question {question}, data {data})")

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def identity(encoder: Encoder) -> dict[str, Any]:
    """What tells this encoder from others: its kind, its weights, what it takes and gives."""
    return {
        "kind": type(encoder).__name__, "fingerprint": encoder.fingerprint(), "image_size": list(encoder.image_size),
        "width": encoder.width, "depth": encoder.depth, "mean": encoder.mean.flatten().tolist(),
        "std": encoder.std.flatten().tolist(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Of what computed the figures."""
    try:
        ours = metadata.version("openjepa")
    except metadata.PackageNotFoundError:
        ours = "not installed"  # but found on the path
    return {"openjepa": ours, "torch": torch.__version__, "python": platform.python_version()}


def device_name(device: torch.device) -> str:
    """'cpu', 'cuda:0 (NVIDIA H100 80GB HBM3)'."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
