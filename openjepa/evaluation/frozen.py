"""Frozen features on labelled tasks, beside two controls: raw pixels and the same architecture untrained.

Linear probes on average-pooled patch tokens (paper appendix A.2), their strength chosen on a held-out fifth of train.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from openjepa.measure.logistic import probe_accuracy
from openjepa.vision.controls import pixels, pooled
from openjepa.vision.encoder import Encoder


@dataclass(frozen=True)
class Labelled:
    """Images with a class for each of several tasks."""

    images: Tensor
    """(N, C, H, W) uint8."""
    labels: dict[str, Tensor]
    """(N,) int64 by task."""


def frozen_accuracy(train: Labelled, test: Labelled, features: tuple[Tensor, Tensor], seed: int) -> dict[str, float]:
    """Linear-probe accuracy (0..1) by task, of features (N, D) of the train and of the test images."""
    return {
        task: probe_accuracy(
            features[0], train.labels[task], features[1], test.labels[task],
            int(max(train.labels[task].max(), test.labels[task].max())) + 1, seed=seed,
        ).accuracy
        for task in train.labels
    }  # fmt: skip


def compare(encoders: dict[str, Encoder], train: Labelled, test: Labelled, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy by row and task: raw pixels first, then each encoder."""
    rows = {"raw pixels": frozen_accuracy(train, test, (pixels(train.images), pixels(test.images)), seed)}
    for name, encoder in encoders.items():
        features = (pooled(encoder, train.images), pooled(encoder, test.images))
        rows[name] = frozen_accuracy(train, test, features, seed)
    return rows
