"""The command line: `openjepa pretrain`, `evaluate`, `compare`, `recipes`, `bench`, `demo`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional

from openjepa import recipes
from openjepa.cli import compare, evaluate, pretrain
from openjepa.cli.pretrain import SHOWN_RECIPE, parse_pretrain
from openjepa.errors import ConfigError, OpenJepaError, nearest
from openjepa.methods.ijepa import IJEPAConfig
from openjepa.methods.mae import MAEConfig
from openjepa.recipes import auto


@dataclass(frozen=True)
class Recipes:
    """List the named runs: hardware, time, and the number to reach."""

    name: Positional[str | None] = None
    """Show one of them whole."""


@dataclass(frozen=True)
class Bench:
    """Measure on this machine: masks drawn, scenes rendered, images loaded or trained on, per second; or what probes of
    many features cost."""

    what: Positional[Literal["masks", "scenes", "loader", "train", "probes"]]
    """What to measure."""
    data: str = "scenes?size=64"
    """For loader: the images to read."""
    recipe: str = SHOWN_RECIPE
    """For train and masks: the run whose settings are used."""
    size: int = 64
    """For scenes and loader: side of an image in pixels."""
    workers: int = 1
    """For loader: worker processes."""
    seconds: float = 5.0
    """How long to measure."""
    images: int = 1_000_000
    """For probes: rows of 384 features to learn from."""


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
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; what was saved is kept, and the same command goes on from there")
        sys.exit(130)
    except OpenJepaError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {error}", style="bold red", markup=False)
        sys.exit(2)


def run(argv: list[str]) -> int:
    """Carry out a command line; the exit status."""
    command = argv[0] if argv else "--help"
    if command == "--version":
        Console(highlight=False).print(f"openjepa {metadata.version('openjepa')}")
        return 0
    if command == "pretrain":
        return pretrain.run(parse_pretrain(argv[1:]))
    if command in ("evaluate", "compare"):
        return {"evaluate": evaluate, "compare": compare}[command].run(argv[1:])
    kinds: dict[str, Callable[..., object]] = {
        "pretrain": pretrain.Pretrain, "evaluate": evaluate.Evaluate, "compare": compare.Compare,
        "recipes": Recipes, "bench": Bench, "demo": Demo,
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
    return "Train I-JEPA on images without labels, know whether it learns, and compare it fairly."


def _recipes(given: Recipes) -> int:
    console = Console(highlight=False)
    if given.name == auto.NAME:
        console.print(inspect.getdoc(auto.auto), markup=False)
        console.print(auto.limits(), markup=False)
        return 0
    if given.name is not None:
        recipe = recipes.get(given.name)
        console.print(inspect.getdoc(recipes.RECIPES[given.name]), markup=False)
        console.print(recipe)
        return 0
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("recipe", "what, hardware, time, number to reach"):
        table.add_column(column)
    for name, function in ((auto.NAME, auto.auto), *recipes.RECIPES.items()):
        table.add_row(name, inspect.getdoc(function))
    console.print(table)
    return 0


def _bench(given: Bench) -> int:
    # each measures one room, and none is needed for training
    from openjepa.benchmark import loader, masks, probes, scenes, training

    if given.what == "probes":
        for name, (accuracy, spent_s, mib) in probes.measure(given.images).items():
            about = f"{given.images:,} x {probes.WIDTH} features on disk; accuracy {accuracy:.1%}"
            Console(highlight=False).print(f"probes: {name}: {spent_s:.1f} s, {mib:.0f} MiB beside the map; {about}")
        return 0
    recipe, side = recipes.get(given.recipe), (given.size, given.size)
    method, grid = recipe.method, recipe.method.encoder.grid
    if given.what == "masks":
        if not isinstance(method, (IJEPAConfig, MAEConfig)):
            raise ConfigError(f"recipe = {given.recipe!r}: has no masks to draw. Take one of I-JEPA or MAE.")
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


__all__ = ["main", "parse_pretrain", "run"]
