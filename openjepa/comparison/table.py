"""A comparison as a table for people and as CSV for programs."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openjepa.comparison.outcome import Comparison, Outcome

LABELS = {"knn": "20-NN", "linear": "linear", "few_shot": "1 % of labels", "depth": "depth"}
LABEL_WIDTH = 20
WIDEST = 6  # variants that stand side by side; more stand below each other


def figures(found: Comparison) -> list[tuple[str, str]]:
    """(task, question) of every figure, in order."""
    everywhere = [*found.controls, *(figure for outcome in found.outcomes for figure in outcome.figures)]
    return list(dict.fromkeys((figure["task"], figure["question"]) for figure in everywhere))


def cells(found: Comparison) -> list[list[str]]:
    """The whole table: a line a figure or cost, a column a control or variant; the first line and column name them."""
    variants = list(dict.fromkeys(outcome.variant for outcome in found.outcomes))
    controls = list(dict.fromkeys(control["row"] for control in found.controls))
    lines = [["", *controls, *variants]]
    for task, question in figures(found):
        here = [f for f in found.controls if (f["task"], f["question"]) == (task, question)]
        unit = " (RMSE)" if any(f["score"] and f["score"]["metric"] == "RMSE" for f in here) else ""
        line = [f"{LABELS.get(task, task)}, {question}{unit}"]
        line += [_figure([f for f in here if f["row"] == control]) for control in controls]
        for variant in variants:
            own = [figure for outcome in _of(found, variant) for figure in outcome.figures]
            line.append(
                _figure([f for f in own if (f["task"], f["question"]) == (task, question)], len(_of(found, variant)))
            )
        lines.append(line)
    for name, say in COSTS.items():
        each = [_of(found, variant) for variant in variants]
        # what a run cost that did not get to its end says nothing, unless none of its seeds did
        done = [[o for o in outcomes if o.course.status == "finished"] or outcomes for outcomes in each]
        counted = each if name == "verdict" else done
        lines.append([name, *[""] * len(controls), *(say(outcomes) for outcomes in counted)])
    return lines


def show(found: Comparison, console: Console) -> None:
    """The table, what failed and the warnings."""
    lines = cells(found)
    if len(lines[0]) > WIDEST + 3:
        lines = [list(column) for column in zip(*lines, strict=True)]
    seeds = {outcome.seed for outcome in found.outcomes}
    spread = "standard deviation over seeds" if len(seeds) > 1 else "half of the 95 % interval over test images"
    title = f"{found.data}; tested on {found.test}; accuracy in %, +- {spread}"
    table = Table(title=escape(title), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for number, column in enumerate(lines[0]):
        table.add_column(escape(column), justify="right" if number else "left", min_width=0 if number else LABEL_WIDTH)
    for line in lines[1:]:
        table.add_row(*map(escape, line))
    # a terminal wraps what is too long for it; rich would leave out columns
    needed = sum(max(LABEL_WIDTH, *(len(cell) for cell in column)) + 2 for column in zip(*lines, strict=True))
    console.width = max(console.width, needed)
    console.print(table)
    for outcome in {outcome.variant: outcome for outcome in reversed(found.outcomes)}.values():
        console.print(escape(f"{outcome.variant}: {about(outcome)}"))
    for outcome in found.outcomes:
        if outcome.course.status == "failed":
            console.print(escape(f"{outcome.name} failed: {outcome.course.reason}"), style="red")
    for warning in found.warnings:
        console.print(escape(f"warning: {warning}"), style="yellow")


def about(outcome: Outcome) -> str:
    """The settings of a run that people ask for first; results.json has them all."""
    recipe = outcome.recipe
    method, optim = recipe["method"], recipe["optim"]
    words = [method["kind"].removesuffix("Config"), f"batch {recipe['batch_size']}", f"lr {optim['lr']:g}"]
    for part in ("predictor", "decoder"):
        if part in method:
            words.append(f"{part} {method[part]['width']} wide, {method[part]['depth']} deep")
    if method.get("regulariser", "none") != "none":
        start, end = method["regulariser_weight"]
        words.append(f"{method['regulariser']} {start:g} -> {end:g}")
    return ", ".join(words)


def write(found: Comparison, out: Path) -> None:
    """table.csv: a row a run and figure; runs.csv: a row a run and what it cost; curves.csv: a row a point."""
    rows = [{"run": o.name, **_plain(figure)} for o in found.outcomes for figure in o.figures]
    rows += [{"run": f"{c['row']}, seed {c['seed']}", **_plain(c)} for c in found.controls]
    _csv(out / "table.csv", rows)
    _csv(out / "runs.csv", [_cost(outcome) for outcome in found.outcomes])
    _csv(out / "curves.csv", [{"run": o.name, **point} for o in found.outcomes for point in o.points])


def _csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _cost(outcome: Outcome) -> dict[str, Any]:
    course = outcome.course
    return {
        "run": outcome.name, "status": course.status, "verdict": course.verdict, "reason": course.reason,
        "steps": course.step, "images": outcome.images, "seconds": course.seconds, "fraction": outcome.fraction,
        "parameters": outcome.parameters, "gflops_per_image": outcome.gflops_per_image, "peak_mib": course.peak_mib,
        **{f"auroc_{when}": value for when, value in outcome.auroc.items()},
    }  # fmt: skip


def _plain(figure: dict[str, Any]) -> dict[str, Any]:
    score = figure["score"] or {}
    return {
        "task": figure["task"], "question": figure["question"], "metric": score.get("metric"),
        "value": score.get("value"), "low": score.get("low"), "high": score.get("high"), "error": figure["error"],
    }  # fmt: skip


def _of(found: Comparison, variant: str) -> list[Outcome]:
    return [outcome for outcome in found.outcomes if outcome.variant == variant]


def _figure(same: Sequence[dict[str, Any]], num_seeds: int = 1) -> str:
    """One figure and half of its interval, or the mean and spread of several seeds; the one that is left of them."""
    scores = [figure["score"] for figure in same if figure["score"]]
    if not scores:
        return "none" if same else ""
    scale, digits = (1, 3) if scores[0]["metric"] == "RMSE" else (100, 1)
    values = [scale * score["value"] for score in scores]
    if len(values) > 1:
        return f"{statistics.mean(values):.{digits}f} +- {statistics.stdev(values):.{digits}f}"
    if num_seeds > 1:
        return f"{values[0]:.{digits}f} (1 of {num_seeds} seeds)"
    half = scale * (scores[0]["high"] - scores[0]["low"]) / 2
    return f"{values[0]:.{digits}f} +- {half:.{digits}f}"


def _mean(values: Sequence[float | None], digits: int = 0) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):,.{digits}f}" if known else "unknown"


def _energy(outcomes: Sequence[Outcome]) -> str:
    known = [outcome.auroc for outcome in outcomes if outcome.auroc]
    ends = [_mean([each[when] for each in known], 2) for when in ("before", "after")]
    return " -> ".join(ends) if known else ""


def _lost(outcomes: Sequence[Outcome]) -> str:
    """How many seeds the figures above are without."""
    failed = sum(outcome.course.status == "failed" for outcome in outcomes)
    return f" ({failed} of {len(outcomes)} failed)" if failed else ""


COSTS = {
    "images seen": lambda outcomes: _mean([o.images for o in outcomes]),
    "seconds": lambda outcomes: _mean([o.course.seconds for o in outcomes]),
    "GFLOP an image": lambda outcomes: _mean([o.gflops_per_image for o in outcomes], 2),
    "peak memory, MiB": lambda outcomes: _mean([o.course.peak_mib for o in outcomes]),
    "energy AUROC": _energy,
    "verdict": lambda outcomes: ", ".join(dict.fromkeys(o.course.verdict for o in outcomes)) + _lost(outcomes),
}
"""What a run cost, over its seeds."""
