"""Encoders on disk: a directory of safetensors and JSON, read without running anything it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openjepa import storage
from openjepa.config import from_dict, to_dict
from openjepa.errors import CheckpointError, nearest, sentence
from openjepa.vision.vit import ViT, ViTConfig

DOCUMENT = "encoder"
FORMAT = "openjepa.encoder/1"


def write_encoders(directory: Path, encoders: dict[str, ViT], about: dict[str, Any]) -> None:
    """Write encoders of one shape by name ("target", "context"); the first is the one read by default."""
    config = to_dict(next(iter(encoders.values())).config)
    tensors = {name: encoder.state_dict() for name, encoder in encoders.items()}
    document = {"format": FORMAT, "encoders": list(encoders), "config": config}
    storage.write(directory, tensors, {DOCUMENT: {**document, "about": about}})


def read_encoder(directory: Path, which: str | None = None) -> ViT:
    """The encoder `which`, or the default one, in evaluation mode and without gradients."""
    storage.verify(directory)
    document = storage.read_document(directory, DOCUMENT)
    if (written := document.get("format")) != FORMAT:
        rule = f"this version of openjepa reads {FORMAT!r}"
        raise CheckpointError(sentence(f"format of {directory}", written, rule))
    names = document["encoders"]
    which = which or names[0]
    if which not in names:
        raise CheckpointError(f"which = {which!r}: not in {directory}. {nearest(which, names)}")
    encoder = ViT(from_dict(ViTConfig, document["config"]))
    storage.load_into(encoder, storage.read_tensors(directory, which), f"{directory}/{which}")
    return encoder.requires_grad_(False).eval()
