"""openjepa: train I-JEPA (arXiv 2301.08243), MAE and iBOT on images without labels, and know what they learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openjepa import recipes
from openjepa.errors import CheckpointError, ConfigError, DataError, OpenJepaError, TrainingError, sentence
from openjepa.evaluation.run import Evaluation
from openjepa.evaluation.run import evaluate as _evaluate
from openjepa.load import begun_with, load_encoder, load_method
from openjepa.recipes import auto
from openjepa.training.recipe import UNITS, Length, Recipe
from openjepa.training.run import Result
from openjepa.training.run import pretrain as _run
from openjepa.vision.callable import CallableEncoder
from openjepa.vision.encoder import Encoder, Features

__version__ = "0.1.0.dev0"


def pretrain(
    data: str,
    recipe: str | Recipe = auto.NAME,
    out: str | Path = "runs/ijepa",
    *,
    start: str | Path | None = None,
    probe_data: str | None = None,
    probe_test: str | None = None,
    resume: bool = False,
    resume_from: str | None = None,
    is_quiet: bool = False,
    **settings: Any,
) -> Result:
    """Pretrain on the images of `data` into the directory `out`, or go on where it stopped.

    `recipe`: a name of `openjepa recipes`, a `Recipe`, or "auto": chosen for the data, the machine and the length.
    `settings` change it: a length (`epochs`, `steps`, `images` or `minutes`), or any field, with a double underscore
    for the dot: `optim__lr=1e-3`, `method__encoder__depth=4`. `start`: a run or released weights to begin with; the
    encoder then has their shape. The other arguments are those of `openjepa pretrain --help`. Raises ConfigError,
    DataError, CheckpointError or TrainingError; each says what to do.
    """
    changes = {name.replace("__", "."): value for name, value in settings.items()}
    choice = None
    if recipe == auto.NAME:
        choice = _chosen(data, out, start, changes)
        recipe = choice.recipe
    chosen = recipes.with_settings(recipes.get(recipe) if isinstance(recipe, str) else recipe, changes)
    if choice and not is_quiet:
        choice.tell(chosen)
    chosen, first = begun_with(chosen, start)
    return _run(
        chosen,
        data,
        out,
        start=first,
        probe_data=probe_data,
        probe_test=probe_test,
        resume=resume,
        resume_from=resume_from,
        is_quiet=is_quiet,
    )


def _chosen(data: str, out: str | Path, start: str | Path | None, changes: dict[str, Any]) -> auto.Choice:
    """What `auto` chooses, with regard to the settings that are given."""
    lengths = {unit: changes[unit] for unit in UNITS if unit in changes}
    mean = changes.get("method.encoder.mean", (0, 0, 0))
    if not isinstance(mean, Sequence):
        raise ConfigError(sentence("method.encoder.mean", mean, "must be a list", "Such as (0.5, 0.5, 0.5)."))
    wish = auto.Wish(
        Length(**lengths) if lengths else None,
        changes.get("speed.device", "auto"),
        start=None if start is None else begun_with(recipes.get("ijepa_cifar10_cpu"), start)[0].method.encoder,
        batch_size=changes.get("batch_size"),
        channels=len(mean),
        workers=changes.get("speed.workers"),
    )
    return auto.auto_for(data, out, wish, changes.get("name", auto.NAME))


def evaluate(
    encoder: str | Path | Encoder,
    data: str | Sequence[str],
    test: str | Sequence[str] | None = None,
    **settings: Any,
) -> Evaluation:
    """Measure what a frozen encoder knows, beside raw pixels and the same architecture untrained.

    `encoder`: a run directory, a checkpoint, an exported encoder, or any `Encoder` (`CallableEncoder` makes one of a
    function). `data`, `test`: a labelled set each, or several in pairs. `settings`: `tasks`, `seed`, `cache`, `out`
    and the rest, as `openjepa.evaluation.run.evaluate` has them. Raises ConfigError, DataError or CheckpointError.
    """
    chosen = encoder if isinstance(encoder, Encoder) else load_encoder(encoder)
    return _evaluate(chosen, data, test, **{"name": "" if chosen is encoder else str(encoder), **settings})


__all__ = [
    "CallableEncoder",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Encoder",
    "Evaluation",
    "Features",
    "OpenJepaError",
    "Recipe",
    "Result",
    "TrainingError",
    "__version__",
    "evaluate",
    "load_encoder",
    "load_method",
    "pretrain",
    "recipes",
]
