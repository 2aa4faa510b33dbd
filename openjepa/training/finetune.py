"""Fine-tuning an encoder on labelled images through the loop that pretrains, and what the classifier then says.

Paper appendices A.2 and D. A run of its own directory, so it resumes as pretraining does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from openjepa.data.answered import Answered
from openjepa.data.loader import centre_cropped, num_workers
from openjepa.data.source import Source
from openjepa.distributed import pick_device
from openjepa.errors import ConfigError, Interrupted, sentence
from openjepa.methods.finetune import FineTune, FineTuneConfig
from openjepa.training.recipe import Recipe
from openjepa.training.run import pretrain
from openjepa.vision.vit import ViT

CHUNK = 128  # images a pass


def finetune(
    encoder: ViT, data: Answered, recipe: Recipe, out: str | Path, *, names: Sequence[str] = (), is_quiet: bool = False
) -> FineTune:
    """Train all of `encoder` and a linear head on `data` as `recipe` says; goes on where an earlier call stopped.

    The encoder given stays as it is. `names`: of the classes, kept with the classifier. A batch of more images than
    there are is cut to those. Raises ConfigError for a recipe of another method, Interrupted when a signal stopped the
    run before its end, and what `pretrain` raises.
    """
    if not isinstance(recipe.method, FineTuneConfig):
        rule = "is no recipe of fine-tuning"
        raise ConfigError(sentence("recipe", recipe.name, rule, "`openjepa recipes` lists them."))
    num_classes = max(int(data.labels().max()) + 1, len(names))
    method = replace(recipe.method, encoder=encoder.config, num_classes=num_classes, class_names=tuple(names))
    recipe = replace(recipe, method=method, batch_size=min(recipe.batch_size, len(data)))
    result = pretrain(recipe, data, out, start=encoder, probe_data="none", is_quiet=is_quiet)
    if not result.is_finished:
        raise Interrupted(
            f"fine-tuning in {out} was stopped at step {result.step}; the same command goes on from there"
        )
    tuned = result.method
    assert isinstance(tuned, FineTune)
    return tuned


@torch.no_grad()
def classify(
    tuned: FineTune, source: Source, positions: Sequence[int], device: str = "auto", workers: int | None = None
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """(N,) int64 classes of centre crops of the images at `positions`, -1 for those that cannot be read, and the
    (name, reason) of each of those."""
    tuned = tuned.to(pick_device(device)).eval()
    size, channels = tuned.encoder.image_size, tuned.encoder.channels
    places = {int(position): place for place, position in enumerate(positions)}
    guess, bad = np.full(len(positions), -1, np.int64), []
    for indices, images, unread in centre_cropped(source, positions, size, channels, CHUNK, num_workers(workers)):
        bad += list(unread.values())
        if len(indices):
            classes = tuned.logits(images.to(pick_device(device))).argmax(dim=1).cpu().numpy()
            guess[[places[index] for index in indices]] = classes
    return guess, bad
