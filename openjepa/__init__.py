"""openjepa: train I-JEPA on images without labels, and know whether it learns (arXiv 2301.08243)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openjepa import recipes
from openjepa.errors import CheckpointError, ConfigError, DataError, OpenJepaError, TrainingError
from openjepa.load import load_encoder, load_method
from openjepa.training.recipe import Recipe
from openjepa.training.run import Result
from openjepa.training.run import pretrain as _run
from openjepa.vision.encoder import Encoder, Features

__version__ = "0.1.0.dev0"


def pretrain(
    data: str,
    recipe: str | Recipe,
    out: str | Path,
    *,
    probe_data: str | None = None,
    probe_test: str | None = None,
    resume: bool = False,
    resume_from: str | None = None,
    is_quiet: bool = False,
    **settings: Any,
) -> Result:
    """Pretrain on the images of `data` into the directory `out`, or go on where it stopped.

    `recipe`: a name of `openjepa recipes`, or a `Recipe`. `settings` change it: a length (`epochs`, `steps`,
    `images` or `minutes`), or any field, with a double underscore for the dot: `optim__lr=1e-3`,
    `method__encoder__depth=4`. The other arguments are those of `openjepa pretrain --help`.
    Raises ConfigError, DataError, CheckpointError or TrainingError; each says what to do.
    """
    chosen = recipes.get(recipe) if isinstance(recipe, str) else recipe
    chosen = recipes.with_settings(chosen, {name.replace("__", "."): value for name, value in settings.items()})
    return _run(
        chosen,
        data,
        out,
        probe_data=probe_data,
        probe_test=probe_test,
        resume=resume,
        resume_from=resume_from,
        is_quiet=is_quiet,
    )


__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Encoder",
    "Features",
    "OpenJepaError",
    "Recipe",
    "Result",
    "TrainingError",
    "__version__",
    "load_encoder",
    "load_method",
    "pretrain",
    "recipes",
]
