"""The demo's picture: what the method is shown, what its features see, and how they fare while it trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from openjepa.methods.ijepa import IJEPAConfig
from openjepa.vision.encoder import Encoder

COLUMNS = 6
TARGET_COLOURS = np.array([[230, 80, 60], [240, 190, 40], [60, 160, 230], [120, 200, 90]], np.float32)


def draw(
    path: Path,
    images: Tensor,
    before: Encoder,
    after: Encoder,
    config: IJEPAConfig,
    history: list[dict[str, float]],
) -> None:
    """Rows: images (N, C, H, W) uint8, context and targets, features before and after; below, the course of the run."""
    shown = images[:COLUMNS]
    pictures = shown.permute(0, 2, 3, 1).numpy()
    rows = {
        "image": pictures,
        "context (bright)\nand targets": masked(pictures, config),
        "features,\nuntrained": principal_colours(before, shown),
        "features,\nI-JEPA": principal_colours(after, shown),
    }
    figure = Figure(figsize=(1.35 * COLUMNS + 1.2, 8.6), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subfigures(2, 1, height_ratios=[len(rows) * 1.35, 2.6])
    axes = top.subplots(len(rows), COLUMNS)
    for row, (label, tiles) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        for axis, tile in zip(row, tiles, strict=True):
            axis.imshow(tile, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
    course(bottom.subplots(1, 2), history)
    figure.savefig(path, dpi=130)


def masked(pictures: np.ndarray, config: IJEPAConfig) -> np.ndarray:
    """(B, H, W, 3): context patches as they are, targets tinted one colour each, the rest dark."""
    grid, patch = config.encoder.grid, config.encoder.patch
    masks = config.masking.sample(grid, seed=0, step=0, first=0, count=len(pictures))
    out = pictures.astype(np.float32) * 0.25
    for number in range(len(pictures)):
        valid = None if masks.context_valid is None else masks.context_valid[number]
        seen = _patches(masks.context[number], valid, grid, patch)
        out[number][seen] = pictures[number][seen]
        for block in range(masks.targets.shape[1]):
            valid = None if masks.target_valid is None else masks.target_valid[number, block]
            inside = _patches(masks.targets[number, block], valid, grid, patch)
            tint = TARGET_COLOURS[block % len(TARGET_COLOURS)]
            out[number][inside] = 0.45 * pictures[number][inside] + 0.55 * tint
    return out.astype(np.uint8)


def _patches(index: Tensor, valid: Tensor | None, grid: tuple[int, int], patch: int) -> np.ndarray:
    flat = np.zeros(grid[0] * grid[1], bool)
    flat[(index if valid is None else index[valid]).numpy()] = True
    return flat.reshape(grid).repeat(patch, 0).repeat(patch, 1)


@torch.no_grad()
def principal_colours(encoder: Encoder, images: Tensor) -> np.ndarray:
    """(B, rows, columns, 3) in 0..1: the first three principal components of the patch tokens as colours."""
    found = encoder(images)
    tokens = found.tokens.double()
    flat = tokens.flatten(0, 1)
    flat = flat - flat.mean(0)
    _, _, directions = torch.linalg.svd(flat, full_matrices=False)
    colours = flat @ directions[:3].T
    low, high = colours.quantile(0.02, dim=0), colours.quantile(0.98, dim=0)
    colours = ((colours - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
    return colours.reshape(len(images), *found.grid, 3).numpy()


def course(axes: np.ndarray, history: list[dict[str, float]]) -> None:
    """What a run without labels says of itself, against the step."""
    steps = [judged["step"] for judged in history]
    left, right = axes
    left.plot(steps, [judged["energy_auroc"] for judged in history], color="C3")
    left.set_ylabel("energy tells true from false pairs\n(AUROC; 0.5 is chance)", fontsize=8)
    for name in ("context", "target", "prediction"):
        right.plot(steps, [judged[f"rank_{name}"] for judged in history], label=name)
    right.set_ylabel("effective rank of features", fontsize=8)
    right.legend(fontsize=8)
    for axis in axes:
        axis.set_xlabel("step")
