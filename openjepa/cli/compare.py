"""`openjepa compare`: methods and settings on equal terms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console

from openjepa.comparison.figures import draw
from openjepa.comparison.outcome import RESULTS
from openjepa.comparison.plan import METHODS, Backbone, plan, values_from
from openjepa.comparison.run import compare
from openjepa.comparison.table import show, write
from openjepa.comparison.terms import TASKS, Probing
from openjepa.evaluation.run import CACHE
from openjepa.training.recipe import UNITS, Length


@dataclass(frozen=True)
class Compare:
    """Train several methods or settings on equal terms, probe them alike, and print one table.

    Same backbone, data, budget and probes; the runs take turns in slices, so that a busy hour hits all alike. The same
    command goes on where it was stopped. Beside the table: results.json, table.csv (a row a run and figure), runs.csv
    (what each cost), curves.csv, curves.png (accuracy against time and against arithmetic), figures.png (every run's
    figures beside the controls), energies.png.

    Examples:
      openjepa compare --methods ijepa mae ibot --data train.parquet --test test.parquet --minutes 20
      openjepa compare --methods ijepa --masking multiblock random block rasterized --data photos/ --images 200000
      openjepa compare --methods ijepa --set predictor.depth=2,4,6 optim.lr=1e-3,2e-3 --data photos/ --epochs 10
      openjepa compare --methods ijepa --runs "base:" "wide: predictor.width=192" --data photos/ --minutes 5 \\
          --seeds 0 1 2
      openjepa compare --methods ijepa --encoders tiny small base --data-fractions 0.1 0.3 1 --data photos/ --epochs 50
    """

    data: str
    """Images to train on, labelled for the probes: a folder, .parquet files, hf://name, or scenes."""
    test: str | None = None
    """Labelled images to test on; by default a fifth of --data, which no run then sees."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which: ijepa, mae, ibot."""
    masking: tuple[str, ...] = ()
    """Mask kinds of I-JEPA to try: multiblock, official, rasterized, block, random."""
    set: tuple[str, ...] = ()
    """Settings to try, all combinations: name=value,value such as predictor.depth=2,4 or optim.lr=1e-3,2e-3."""
    runs: tuple[str, ...] = ()
    """Or a list of runs: "name: setting=value setting=value"; masking=KIND gives one its kind of masks."""
    encoders: tuple[str, ...] = ()
    """Encoder sizes to try."""
    data_fractions: tuple[float, ...] = ()
    """Shares of the training images to try."""
    seeds: tuple[int, ...] = (0,)
    """A run for each; the table gives mean and spread over them."""
    epochs: float | None = None
    """Length of every run in passes over the data. Give exactly one of these four."""
    steps: int | None = None
    """Length in optimiser steps."""
    images: int | None = None
    """Length in images seen."""
    minutes: float | None = None
    """Length in minutes of training."""
    encoder: str = Backbone.encoder
    """Encoder size that all share, unless --encoders."""
    image_size: int = Backbone.image_size
    """Side of the crops in pixels."""
    patch: int = Backbone.patch
    """Side of a patch in pixels."""
    batch_size: int = Backbone.batch_size
    """Images a step. Learning rates stay those of the recipes; try others with --set optim.lr=..."""
    tasks: tuple[str, ...] = TASKS
    """Probes; depth is added where the data has it. Given without a name: none, for images without labels."""
    probe_images: int = Probing.most_train
    """Labelled images that the probes learn from, at most."""
    test_images: int = Probing.most_test
    """Labelled images that the probes are tested on, at most."""
    points: int = 4
    """Points of a run's curve, besides the untrained one; 0: no curves."""
    slice_minutes: float = 2.0
    """Minutes that a run trains before the next one has its turn."""
    out: Path = Path("runs/compare")
    """Directory for a folder a run, the tables and the pictures."""
    cache: Path = CACHE
    """Folder for features."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    workers: int | None = None
    """Loader processes; by default one a spare core, at most 8."""


def run(argv: list[str]) -> int:
    """Carry out a command line; the exit status."""
    given = tyro.cli(Compare, args=argv, prog="openjepa compare")
    entries = plan(
        given.methods,
        Length(**{unit: getattr(given, unit) for unit in UNITS}),
        Backbone(given.encoder, given.image_size, given.patch, given.batch_size),
        maskings=given.masking,
        settings=values_from(given.set),
        runs=given.runs,
        encoders=given.encoders,
        fractions=given.data_fractions,
        seeds=given.seeds,
        points=given.points,
    )
    speed = replace(entries[0].recipe.speed, device=given.device, workers=given.workers)
    entries = [replace(entry, recipe=replace(entry.recipe, speed=speed)) for entry in entries]
    console = Console(highlight=False)
    console.print(f"{len(entries)} runs: {', '.join(entry.name for entry in entries)}", markup=False)
    probing = Probing(
        given.tasks, given.probe_images, given.test_images, given.cache, device=given.device, workers=given.workers
    )
    found = compare(
        entries, given.data, given.test, given.out, probing=probing, slice_minutes=given.slice_minutes, is_quiet=False
    )
    if found is None:
        console.print("stopped; the same command goes on from there")
        return 1
    write(found, given.out)
    draw(found, given.out)
    show(found, console)
    console.print(
        f"everything in {given.out / RESULTS}, table.csv, runs.csv, curves.csv and the pictures beside them",
        markup=False,
    )
    return 1 if any(outcome.course.status == "failed" for outcome in found.outcomes) else 0
