"""From a path to an encoder or a method: run directories, checkpoints and exported encoders alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from openjepa.errors import CheckpointError, ConfigError, sentence
from openjepa.interchange.huggingface import is_huggingface
from openjepa.interchange.huggingface import read_encoder as read_huggingface
from openjepa.interchange.ijepa import is_released
from openjepa.interchange.ijepa import read_encoder as read_released
from openjepa.training.recipe import Recipe
from openjepa.training.saved import read_method as load_method
from openjepa.vision.encoder import Encoder
from openjepa.vision.saved import read_encoder
from openjepa.vision.vit import ViT


def load_encoder(path: str | Path, which: str = "target") -> Encoder:
    """The encoder of a run, in evaluation mode: `encoder(images)` gives `Features`.

    `path`: a run directory (its finished encoder, else its newest checkpoint), one of its checkpoints, an exported
    `encoder` directory, a released I-JEPA checkpoint (*.pth.tar), or a Hugging Face model: hf://NAME, or a directory
    that save_pretrained wrote. `which`: "target", which the paper evaluates, or "context". Raises CheckpointError
    when there is no such thing, or when it is torn or was changed. Nothing is executed that a file holds; released
    files are read by torch's restricted reader.
    """
    if is_huggingface(path):
        return read_huggingface(path, which)
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


def begun_with(recipe: Recipe, path: str | Path | None) -> tuple[Recipe, ViT | None]:
    """A recipe whose encoder has the shape of the one at `path`, and that one; as it is, and None, without a path.

    ConfigError when it is no encoder that can be trained here.
    """
    if path is None:
        return recipe, None
    encoder = load_encoder(path)
    if not isinstance(encoder, ViT):
        rule = "cannot be trained on: only encoders of openjepa and released I-JEPA weights can"
        raise ConfigError(sentence("start", str(path), rule))
    own = recipe.method.encoder  # the initialisation of what is new, and what stands for an image, stay the recipe's
    config = replace(encoder.config, init=own.init, pooling=own.pooling if encoder.config.has_cls else "mean")
    return replace(recipe, method=replace(recipe.method, encoder=config)), encoder


__all__ = ["begun_with", "load_encoder", "load_method"]
