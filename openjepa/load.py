"""From a path to an encoder or a method: run directories, checkpoints and exported encoders alike."""

from __future__ import annotations

from pathlib import Path

from openjepa import storage
from openjepa.config import from_dict
from openjepa.errors import CheckpointError
from openjepa.interchange.ijepa import is_released
from openjepa.interchange.ijepa import read_encoder as read_released
from openjepa.methods import Method
from openjepa.methods import build as build_method
from openjepa.training.checkpoints import Checkpoints
from openjepa.training.recipe import Recipe
from openjepa.vision.saved import read_encoder
from openjepa.vision.vit import ViT


def load_encoder(path: str | Path, which: str = "target") -> ViT:
    """The encoder of a run, in evaluation mode: `encoder(images)` gives `Features`.

    `path`: a run directory (its finished encoder, else its newest checkpoint), one of its checkpoints, an exported
    `encoder` directory, or a released I-JEPA checkpoint (*.pth.tar). `which`: "target", which the paper evaluates,
    or "context". Raises CheckpointError when there is no such thing, or when it is torn or was changed. Nothing is
    executed that a file holds; released files are read by torch's restricted reader.
    """
    path = Path(path)
    if is_released(path):
        return read_released(path, which)
    for directory in (path, path / "encoder"):
        if (directory / "encoder.json").exists():
            return read_encoder(directory, which)
    method = load_method(path)
    encoders = {"target": method.encoder, "context": method.context_encoder}
    if which not in encoders:
        raise CheckpointError(f"which = {which!r}: must be target or context")
    encoder = encoders[which]
    assert isinstance(encoder, ViT)
    return encoder


def load_method(path: str | Path) -> Method:
    """The whole method (encoders and predictor) of a run directory or of one of its checkpoints."""
    path = Path(path)
    checkpoint = path if (path / "method.safetensors").exists() else Checkpoints(path / "checkpoints", 1).choose()
    if checkpoint is None:
        raise CheckpointError(
            f"{path} is no run, checkpoint or encoder directory. Give the --out of `openjepa pretrain`, "
            "or a directory that holds encoder.json."
        )
    storage.verify(checkpoint)
    recipe = from_dict(Recipe, storage.read_document(checkpoint, "recipe")["recipe"])
    method = build_method(recipe.method)
    storage.load_into(method, storage.read_tensors(checkpoint, "method"), checkpoint)
    return method.requires_grad_(False).eval()
