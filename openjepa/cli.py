"""The command line: `openjepa pretrain`, `evaluate`, `recipes`, `bench`, `demo`. Flags are the fields of the recipe."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import AvoidSubcommands, OmitArgPrefixes, Positional, arg

from openjepa import recipes
from openjepa.errors import ConfigError, OpenJepaError, nearest
from openjepa.evaluation.run import CACHE, RESULTS, evaluate
from openjepa.evaluation.table import show
from openjepa.evaluation.task import known
from openjepa.load import load_encoder
from openjepa.methods.ijepa import MASKINGS
from openjepa.training.recipe import Length, Recipe
from openjepa.training.run import pretrain
from openjepa.vision.vit import vit

DEFAULT_RECIPE = "ijepa_cifar10_cpu"


@dataclass(frozen=True)
class Pretrain:
    """Pretrain I-JEPA on a pile of unlabelled images.

    Without labels the run judges itself by effective rank and energies; with a few (class folders, a label
    column, or --probe-data) it also prints nearest-neighbour and linear accuracy while it trains.
    The same command goes on where an earlier one stopped. Many GPUs:
      torchrun --nproc-per-node 8 -m openjepa pretrain ...

    Examples:
      openjepa pretrain --data photos/ --minutes 30
      openjepa pretrain --data train.parquet --probe-test test.parquet --recipe ijepa_cifar10_cpu --minutes 10
      openjepa pretrain --data 'shards/{000..099}.tar' --recipe ijepa_in1k_vitb16 --out runs/b16
    """

    data: str
    """A folder of images, .parquet files or a folder of them, 'shard-{000..012}.tar', hf://name, or scenes."""
    out: Path = Path("runs/ijepa")
    """Directory of the run: encoder, checkpoints, metrics. If it holds this run already, the run goes on."""
    recipe: str = DEFAULT_RECIPE
    """Named run whose settings are the defaults below; `openjepa recipes` lists them."""
    encoder: str | None = None
    """Encoder size in place of the recipe's: pico, nano, micro, tiny, small, base, large, huge, giant."""
    masking: str | None = None
    """Mask kind in place of the recipe's: multiblock, official, rasterized, block, random."""
    probe_data: str | None = None
    """Labelled images for the probes alone; by default those of --data if it has labels; none: no probes."""
    probe_test: str | None = None
    """Labelled images to test the probes on; by default a part of --probe-data that is kept apart."""
    resume: bool = False
    """Fail unless there is a run to go on from."""
    resume_from: str | None = None
    """Checkpoint to go on from, by name, such as step-000000500; by default the newest."""
    epochs: float | None = None
    """Length in passes over the data. Give at most one of these four; by default the recipe's."""
    steps: int | None = None
    """Length in optimiser steps."""
    images: int | None = None
    """Length in images seen."""
    minutes: float | None = None
    """Length in minutes of wall time."""
    settings: Annotated[AvoidSubcommands[Recipe], arg(name="")] = field(default_factory=Recipe)


@dataclass(frozen=True)
class Recipes:
    """List the named runs: hardware, time, and the number to reach."""

    name: Positional[str | None] = None
    """Show one of them whole."""


@dataclass(frozen=True)
class Bench:
    """Measure on this machine: masks drawn, scenes rendered, images loaded, or training steps, per second."""

    what: Positional[Literal["masks", "scenes", "loader", "train"]]
    """What to measure."""
    data: str = "scenes?size=64"
    """For loader: the images to read."""
    recipe: str = DEFAULT_RECIPE
    """For train and masks: the run whose settings are used."""
    size: int = 64
    """For scenes and loader: side of an image in pixels."""
    workers: int = 1
    """For loader: worker processes."""
    seconds: float = 5.0
    """How long to measure."""


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
    """A run directory, one of its checkpoints, or an exported encoder."""
    data: tuple[str, ...]
    """Labelled images to learn from: a folder, .parquet files, tars, hf://name, clevr?root=..., or scenes."""
    test: tuple[str, ...] = ()
    """Labelled images to test on, one set for each of --data; by default a fifth of --data, held out."""
    tasks: tuple[str, ...] = ()
    """Which; by default all that the data has answers for."""
    which: str = "target"
    """target, which the paper evaluates, or context."""
    out: Path = Path("runs/evaluation")
    """Directory for results.json."""
    cache: Path = CACHE
    """Folder for features, by content of encoder and images; it may be deleted at any time."""
    seed: int = 0
    """Of held-out parts, few-shot draws and the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    workers: int | None = None
    """Loader processes; by default one a spare core, at most 8."""


@dataclass(frozen=True)
class Demo:
    """Pretrain on `scenes`, then compare frozen features: raw pixels, the untrained encoder, I-JEPA."""

    out: Path = Path("runs/demo")
    """Directory of the run, its table (demo.json) and its pictures."""
    minutes: float | None = None
    """Length of the pretraining; by default the recipe's."""
    seeds: int = 1
    """Repeat with this many seeds and print mean and spread."""


def main() -> None:
    """Entry point: parse, run, and turn our own errors into one plain message."""
    try:
        sys.exit(run(sys.argv[1:]))
    except OpenJepaError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {error}", style="bold red", markup=False)
        sys.exit(2)


def run(argv: list[str]) -> int:
    """Carry out a command line; the exit status."""
    command = argv[0] if argv else "--help"
    if command == "pretrain":
        return _pretrain(parse_pretrain(argv[1:]))
    if command == "evaluate":
        return _evaluate(argv[1:])
    kinds: dict[str, Callable[..., object]] = {
        "pretrain": Pretrain, "evaluate": Evaluate, "recipes": Recipes, "bench": Bench, "demo": Demo,
    }  # fmt: skip
    if not command.startswith("-") and command not in kinds:
        raise ConfigError(f"{command!r} is no command. {nearest(command, kinds)}")
    chosen = tyro.extras.subcommand_cli_from_dict(
        kinds, prog="openjepa", args=argv or ["--help"], description=_about(), config=(OmitArgPrefixes,)
    )
    if isinstance(chosen, Recipes):
        return _recipes(chosen)
    if isinstance(chosen, Bench):
        return _bench(chosen)
    return _demo(chosen)


def _about() -> str:
    return "Train I-JEPA on images without labels, and know whether it learns."


def parse_pretrain(argv: list[str]) -> Pretrain:
    """Two passes: --recipe, --encoder and --masking choose the defaults that the other flags then change."""
    name = _given(argv, "--recipe") or DEFAULT_RECIPE
    settings = recipes.get(name)
    method = settings.method
    if (size := _given(argv, "--encoder")) is not None:
        old = method.encoder
        method = replace(method, encoder=vit(size, old.image_size, old.patch))
    if (kind := _given(argv, "--masking")) is not None:
        if kind not in MASKINGS:
            raise ConfigError(f"masking = {kind!r}: unknown. {nearest(kind, MASKINGS)}")
        method = replace(method, masking=MASKINGS[kind]())
    settings = replace(settings, method=method)
    default = Pretrain(data=tyro.MISSING, recipe=name, settings=settings)
    return tyro.cli(Pretrain, default=default, args=argv, prog="openjepa pretrain")


def _given(argv: list[str], flag: str) -> str | None:
    for here, after in zip(argv, [*argv[1:], None], strict=True):
        if here == flag:
            return after
        if here.startswith(flag + "="):
            return here[len(flag) + 1 :]
    return None


def _pretrain(given: Pretrain) -> int:
    units = {unit: getattr(given, unit) for unit in ("epochs", "steps", "images", "minutes")}
    lengths = {unit: value for unit, value in units.items() if value is not None}
    settings = replace(given.settings, length=Length(**lengths)) if lengths else given.settings
    result = pretrain(
        settings,
        given.data,
        given.out,
        probe_data=given.probe_data,
        probe_test=given.probe_test,
        resume=given.resume,
        resume_from=given.resume_from,
    )
    return 0 if result.is_finished else 1


def _evaluate(argv: list[str]) -> int:
    """The flags of every task stand beside those of `Evaluate`; a new file in `tasks/` brings its own."""
    kinds = known()
    parts = [(name, kind, field(default_factory=kind)) for name, kind in kinds.items()]
    whole = make_dataclass("Evaluate", parts, bases=(Evaluate,), frozen=True, kw_only=True)
    whole.__doc__ = f"{inspect.getdoc(Evaluate)}\n\nTasks:\n" + "\n".join(
        f"  {name}: {kind.about}" for name, kind in kinds.items()
    )
    given: Any = tyro.cli(whole, args=argv, prog="openjepa evaluate")
    found = evaluate(
        load_encoder(given.encoder, given.which),
        given.data,
        given.test,
        tasks=given.tasks or None,
        settings={name: getattr(given, name) for name in kinds},
        name=f"{given.encoder} ({given.which} encoder)",
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


def _recipes(given: Recipes) -> int:
    console = Console(highlight=False)
    if given.name is not None:
        recipe = recipes.get(given.name)
        console.print(inspect.getdoc(recipes.RECIPES[given.name]), markup=False)
        console.print(recipe)
        return 0
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("recipe", "what, hardware, time, number to reach"):
        table.add_column(column)
    for name, function in recipes.RECIPES.items():
        table.add_row(name, inspect.getdoc(function))
    console.print(table)
    return 0


def _bench(given: Bench) -> int:
    # each measures one room, and none is needed for training
    from openjepa.benchmark import loader, masks, scenes, training

    recipe, side = recipes.get(given.recipe), (given.size, given.size)
    method, grid = recipe.method, recipe.method.encoder.grid
    if given.what == "masks":
        speed = masks.images_per_second(method.masking, grid, recipe.batch_size, given.seconds)
        about = f"on one core, grid {grid[0]} x {grid[1]}, {method.masking}"
    elif given.what == "scenes":
        speed = scenes.images_per_second(side, given.seconds)
        about = f"on one core, {given.size} x {given.size} pixels"
    elif given.what == "loader":
        speed = loader.images_per_second(given.data, side, given.workers, given.seconds)
        about = f"{given.workers} workers, crops of {given.size} pixels, {given.data}"
    else:
        speed = training.images_per_second(method, recipe.optim, recipe.batch_size, given.seconds)
        about = f"{given.recipe}, batch {recipe.batch_size}, {torch.get_num_threads()} threads"
    Console(highlight=False).print(f"{given.what}: {speed:,.0f} images/s, {about}", markup=False)
    return 0


def _demo(given: Demo) -> int:
    from openjepa.demo import run as run_demo  # matplotlib takes a second to import

    run_demo(given.out, given.minutes, given.seeds)
    return 0
