"""The released I-JEPA checkpoints (`*.pth.tar`) as encoders of ours; no section of the paper, which evaluates them.

They are pickles. They are read by torch's restricted reader, which builds tensors and plain containers and calls
nothing else. The input statistics are ImageNet's, which the weights were trained with.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from openjepa import storage
from openjepa.errors import CheckpointError, sentence
from openjepa.vision.vit import SIZES, ViT, ViTConfig

ENCODERS = {"target": "target_encoder", "context": "encoder"}
"""Our names to the released ones."""
PREFIX = "module."  # the released code saves wrapped models
POSITIONS_AGREE = 1e-4  # their table is float32 of a float64 formula, as ours is


def is_released(path: Path) -> bool:
    """Whether a path looks like one of the released files."""
    return path.is_file() and path.name.endswith((".pth.tar", ".pth", ".pt"))


def read_encoder(path: Path, which: str = "target") -> ViT:
    """The target or the context encoder of a released checkpoint, in evaluation mode.

    CheckpointError for a file that is not one, or whose tensors do not fit one of the published sizes.
    """
    if which not in ENCODERS:
        raise CheckpointError(sentence("which", which, "must be target or context"))
    try:
        document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read as a released checkpoint: {error}") from None
    name = ENCODERS[which]
    if not isinstance(document, dict) or not isinstance(document.get(name), dict):
        has = sorted(map(str, document)) if isinstance(document, dict) else type(document).__name__
        raise CheckpointError(sentence(f"contents of {path}", has, f"no {name!r}, which released checkpoints have"))
    tensors = {key.removeprefix(PREFIX): value for key, value in document[name].items()}
    return from_tensors(tensors, str(path))


def from_tensors(tensors: dict[str, Any], origin: str) -> ViT:
    """An encoder from tensors by their released names: pos_embed, patch_embed.proj, blocks.i, norm."""
    try:
        kernel, positions = tensors["patch_embed.proj.weight"], tensors["pos_embed"]
        if kernel.ndim != 4 or positions.ndim != 3:
            raise ValueError("a patch embedding of 4 dimensions and positions of 3")
        depth = 1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("blocks."))
        hidden = len(tensors["blocks.0.mlp.fc1.bias"])
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{origin} holds no encoder of the released layout: {error} is missing") from None
    width, channels, patch, _ = kernel.shape
    sizes = [size for size in SIZES.values() if size[:2] == (width, depth)]
    if len(sizes) != 1 or channels != 3:
        rule = "is none of the published sizes"
        raise CheckpointError(sentence(f"width, depth, channels of {origin}", (width, depth, channels), rule))
    side = round(positions.shape[1] ** 0.5) * patch
    encoder = ViT(ViTConfig((side, side), patch, width, depth, sizes[0][2], hidden / width))
    table = encoder.positions(encoder.config.grid)
    if positions[0].shape != table.shape or (positions[0] - table).abs().max() > POSITIONS_AGREE:
        raise CheckpointError(f"{origin}: its positions are not the frozen sine-cosine table of a square grid")
    storage.load_into(encoder, translated(tensors, kernel), origin)
    return encoder.requires_grad_(False).eval()


def translated(tensors: dict[str, Any], kernel: Tensor) -> dict[str, Tensor]:
    """Released names and shapes to ours: the patch embedding is a convolution there and a matrix here."""
    ours = {key: value for key, value in tensors.items() if key.startswith(("blocks.", "norm."))}
    return {**ours, "embed.weight": kernel.flatten(1), "embed.bias": tensors["patch_embed.proj.bias"]}
