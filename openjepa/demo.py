"""The demo: pretrain on `scenes`, then ask frozen features three questions that nobody trained them for.

Shape of the largest object, number of objects, distance of the closest; raw pixels, untrained encoder, I-JEPA.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from openjepa import recipes
from openjepa.data.scenes import Scenes
from openjepa.evaluation.run import evaluate
from openjepa.evaluation.task import Task
from openjepa.evaluation.tasks.linear import Linear
from openjepa.methods.ijepa import IJEPAConfig
from openjepa.training.recipe import Length
from openjepa.training.run import pretrain
from openjepa.visual.demo import COLUMNS, draw

RECIPE = "ijepa_scenes_demo"
NUM_PRETRAIN, NUM_TRAIN, NUM_TEST = 8_000, 5_000, 5_000
PRETRAIN_SEED, TRAIN_SEED, TEST_SEED = 0, 1, 2
SIZE, MAX_OBJECTS, SCALE = 64, 3, 1.5  # at the usual scale a solid is two or three patches, too few to tell its shape
QUESTIONS = {
    "shape_of_largest": "shape of the largest",
    "num_objects": "number of objects",
    "distance_bin": "distance of the closest",
}


ROWS = {"raw pixels": "raw pixels", "untrained": "untrained encoder", "encoder": "I-JEPA"}


@dataclass(frozen=True)
class DemoResult:
    """Accuracy (0..1) by row and task, a list entry a seed."""

    rows: dict[str, dict[str, list[float]]]
    seconds: float


def scenes(num_images: int, seed: int, cache: Path) -> Scenes:
    """Rendered once into `cache`."""
    return Scenes(num_images, (SIZE, SIZE), seed, MAX_OBJECTS, SCALE, cache=cache, workers=os.cpu_count() or 1)


def run(out: Path, minutes: float | None, num_seeds: int) -> DemoResult:
    """Pretrain once a seed, probe, print one table, and write demo.json and demo.png into `out`."""
    console, started = Console(highlight=False), time.perf_counter()
    cache = out / "scenes"
    console.print(f"rendering {NUM_PRETRAIN + NUM_TRAIN + NUM_TEST} scenes of {SIZE} x {SIZE} pixels ...")
    spec = (
        f"scenes?num_images={NUM_PRETRAIN}&size={SIZE}&seed={PRETRAIN_SEED}&max_objects={MAX_OBJECTS}"
        f"&scale={SCALE}&cache={cache}&workers={os.cpu_count() or 1}"
    )
    train, test = scenes(NUM_TRAIN, TRAIN_SEED, cache), scenes(NUM_TEST, TEST_SEED, cache)
    shown = np.stack([np.asarray(test[index].image) for index in range(COLUMNS)]).transpose(0, 3, 1, 2)
    probe: Task = Linear(layers=(1,))
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in range(num_seeds):
        recipe = replace(recipes.get(RECIPE), seed=seed)
        if minutes is not None:
            recipe = replace(recipe, length=Length(minutes=minutes))
        directory = out / f"seed-{seed}"
        console.print(f"pretraining without labels (seed {seed}), {_spoken(recipe.length)} ...")
        result = pretrain(recipe, spec, directory, probe_data="none")
        if not result.is_finished:
            console.print("stopped; the same command goes on from there")
            raise SystemExit(1)
        console.print("probing frozen features ...")
        scores = evaluate(
            result.encoder, train, test, tasks=[probe.name], settings={probe.name: probe}, seed=seed, cache=None
        )
        for row, label in ROWS.items():
            for question in QUESTIONS:
                accuracy = scores.score(probe.name, question, row).value
                rows.setdefault(label, {}).setdefault(question, []).append(accuracy)
        if seed == 0 and isinstance(recipe.method, IJEPAConfig):
            before = result.encoder.untrained(seed)
            draw(out / "demo.png", torch.from_numpy(shown), before, result.encoder, recipe.method, result.history)
    found = DemoResult(rows, time.perf_counter() - started)
    report(console, found, test, out)
    return found


def report(console: Console, found: DemoResult, test: Scenes, out: Path) -> None:
    """The table, on the terminal and in demo.json."""
    seeds = len(next(iter(next(iter(found.rows.values())).values())))
    spread = f", mean +- standard deviation of {seeds} seeds" if seeds > 1 else ""
    title = f"linear probe on frozen features, accuracy in %{spread}; {NUM_TRAIN} labels, {NUM_TEST} test scenes"
    table = Table(title=title, title_justify="left")
    table.add_column("features")
    for question in QUESTIONS.values():
        table.add_column(question, justify="right")
    for row, tasks in found.rows.items():
        table.add_row(row, *(_cell(tasks[task]) for task in QUESTIONS))
    answers = test.questions()
    chance = (float(np.bincount(answers[question]).max() / len(test)) for question in QUESTIONS)
    table.add_row("always the commonest class", *(f"{100 * share:.1f}" for share in chance))
    console.print(table)
    console.print(f"{found.seconds:.0f} s in all; pictures in {out / 'demo.png'}, numbers in {out / 'demo.json'}")
    document = {"accuracy": found.rows, "seconds": found.seconds, "threads": torch.get_num_threads()}
    (out / "demo.json").write_text(json.dumps(document, indent=1) + "\n")


def _spoken(length: Length) -> str:
    """'3 minutes'."""
    ((unit, count),) = length.given().items()
    return f"{count:g} {unit}"


def _cell(values: list[float]) -> str:
    mean = 100 * float(np.mean(values))
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} +- {100 * float(np.std(values, ddof=1)):.1f}"
