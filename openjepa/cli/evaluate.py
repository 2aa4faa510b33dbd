"""`openjepa evaluate`: its own flags, and those of every task."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional

from openjepa.errors import ConfigError, sentence
from openjepa.evaluation.run import CACHE, RESULTS, evaluate
from openjepa.evaluation.table import show
from openjepa.evaluation.task import known
from openjepa.load import load_encoder
from openjepa.vision.vit import ViT


@dataclass(frozen=True)
class Evaluate:
    """Measure what a frozen encoder knows, beside raw pixels and the same architecture untrained.

    Features are computed once and kept by content; every task reads them. All choices (layers, strengths, k)
    are made on a held-out part of --data, never on --test. Several sets make one table: give as many --test
    as --data.

    Examples:
      openjepa evaluate runs/ijepa --data train.parquet --test test.parquet
      openjepa evaluate runs/ijepa --data photos/train --test photos/test --tasks knn few_shot --few-shot.shots 5
      openjepa evaluate runs/demo/seed-0 --data 'scenes?seed=1&num_images=5000' --test 'scenes?seed=2&num_images=5000'
    """

    encoder: Positional[str]
    """A run directory, a checkpoint, an exported encoder, released weights (*.pth.tar), hf://NAME, or a directory that
    transformers wrote."""
    data: tuple[str, ...]
    """Labelled images to learn from: a folder, .parquet files, tars, hf://name, clevr?root=..., or scenes."""
    test: tuple[str, ...] = ()
    """Labelled images to test on, one set for each of --data; by default a fifth of --data, held out."""
    tasks: tuple[str, ...] = ()
    """Which; by default all that the data has answers for."""
    which: str = "target"
    """target, which the paper evaluates, or context."""
    pooling: Literal["mean", "cls"] | None = None
    """What stands for an image: the average of its patch tokens, or its class token; by default the encoder's own."""
    out: Path = Path("runs/evaluation")
    """Directory for results.json, and for the runs of fine-tuning."""
    cache: Path = CACHE
    """Folder for features, by content of encoder and images; it may be deleted at any time."""
    seed: int = 0
    """Of held-out parts, few-shot draws and the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    workers: int | None = None
    """Loader processes; by default one a spare core, at most 8."""


def run(argv: list[str]) -> int:
    """The flags of every task stand beside those of `Evaluate`; a new file in `tasks/` brings its own."""
    kinds = known()
    parts = [(name, kind, field(default_factory=kind)) for name, kind in kinds.items()]
    whole = make_dataclass("Evaluate", parts, bases=(Evaluate,), frozen=True, kw_only=True)
    whole.__doc__ = f"{inspect.getdoc(Evaluate)}\n\nTasks:\n" + "\n".join(
        f"  {name}: {kind.about}" for name, kind in kinds.items()
    )
    given: Any = tyro.cli(whole, args=argv, prog="openjepa evaluate")
    encoder = load_encoder(given.encoder, given.which)
    which = given.which if isinstance(encoder, ViT) else "only"  # foreign weights have one
    if given.pooling is not None:
        if not isinstance(encoder, ViT):
            rule = f"can be chosen for encoders of openjepa; this one gives its {encoder.pooling}"
            raise ConfigError(sentence("pooling", given.pooling, rule, "Leave out --pooling."))
        encoder = encoder.pooled_by(given.pooling)
    if idle := [
        name for name, kind in kinds.items() if getattr(given, name) != kind() and not is_asked(name, given.tasks)
    ]:
        rule = "have settings, and are not measured"
        raise ConfigError(sentence("tasks", " ".join(idle), rule, f"Add them: --tasks ... {' '.join(idle)}."))
    found = evaluate(
        encoder,
        given.data,
        given.test,
        tasks=given.tasks or None,
        settings={name: getattr(given, name) for name in kinds},
        name=f"{given.encoder} ({which} encoder)",
        which=which,
        seed=given.seed,
        cache=given.cache,
        device=given.device,
        workers=given.workers,
        out=given.out,
        is_quiet=False,
    )
    show(found, Console(highlight=False))
    Console(highlight=False).print(f"{found.seconds:.0f} s; everything in {given.out / RESULTS}", markup=False)
    return 1 if any(figure.error for figure in found.figures) else 0


def is_asked(name: str, tasks: tuple[str, ...]) -> bool:
    """Whether a task is measured: it was named, or none was and it is a usual one."""
    return name in tasks or (not tasks and known()[name].is_usual)
