"""A run on disk back to the method that it trains."""

from __future__ import annotations

from pathlib import Path

from openjepa import storage
from openjepa.config import from_dict
from openjepa.errors import CheckpointError
from openjepa.methods import Method, build
from openjepa.training.checkpoints import Checkpoints
from openjepa.training.recipe import Recipe


def read_method(path: str | Path) -> Method:
    """The whole method (encoders, predictor, heads) of a run directory or of one of its checkpoints.

    In evaluation mode, without gradients. CheckpointError when there is none, or when it is torn or was changed.
    """
    path = Path(path)
    checkpoint = path if (path / "method.safetensors").exists() else Checkpoints(path / "checkpoints", 1).choose()
    if checkpoint is None:
        raise CheckpointError(
            f"{path} is no run, checkpoint or encoder directory. Give the --out of `openjepa pretrain`, "
            "or a directory that holds encoder.json."
        )
    storage.verify(checkpoint)
    recipe = from_dict(Recipe, storage.read_document(checkpoint, "recipe")["recipe"])
    method = build(recipe.method)
    storage.load_into(method, storage.read_tensors(checkpoint, "method"), checkpoint)
    return method.requires_grad_(False).eval()
