"""The pictures of a comparison: paper figure 1 on the user's data, energies before and after, and scaling."""

from __future__ import annotations

import statistics
from pathlib import Path

from openjepa.comparison.outcome import Comparison
from openjepa.comparison.table import LABELS
from openjepa.comparison.terms import CURVE_TASKS
from openjepa.visual import curves

MOST_ENERGIES = 6  # runs whose energies are drawn


def draw(found: Comparison, out: Path) -> None:
    """curves.png, figures.png, energies.png and, where sizes or shares differ, scaling.png in `out`."""
    panels = courses(found)
    if panels:
        curves.curves(out / "curves.png", panels)
    if panels := scaling(found):
        curves.curves(out / "scaling.png", panels)
    if rows := standings(found):
        curves.rows(out / "figures.png", *rows)
    pairs = {outcome.variant: outcome.energies for outcome in reversed(found.outcomes) if outcome.energies}
    if pairs:
        curves.energies(out / "energies.png", dict(list(reversed(pairs.items()))[:MOST_ENERGIES]))


def standings(found: Comparison) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, float]]] | None:
    """Accuracies in % by question and variant, one a seed, and the controls' means; None where nothing has any."""
    values: dict[str, dict[str, list[float]]] = {}
    controls: dict[str, dict[str, list[float]]] = {}
    pairs = [(o.variant, figure, values) for o in found.outcomes for figure in o.figures]
    for row, figure, place in [*pairs, *((c["row"], c, controls) for c in found.controls)]:
        if figure["score"] is not None and figure["score"]["metric"] == "accuracy":
            label = _label(figure["task"], figure["question"])
            place.setdefault(label, {}).setdefault(row, []).append(100 * figure["score"]["value"])
    means = {label: {row: statistics.mean(each) for row, each in rows.items()} for label, rows in controls.items()}
    return (values, means) if values else None


def courses(found: Comparison) -> dict[tuple[str, str], dict[str, list[curves.Line]]]:
    """Panels of accuracy against seconds and against arithmetic, a row a probe and question."""
    panels: dict[tuple[str, str], dict[str, list[curves.Line]]] = {}
    for outcome in found.outcomes:
        names = dict.fromkeys(name for point in outcome.points for name in point if name.startswith(CURVE_TASKS))
        for name in names:
            task, question = name.split(" ", 1)
            label = _label(task, question)
            points = [point for point in outcome.points if name in point]
            for x, key, scale in (("minutes of training", "seconds", 1 / 60), ("TFLOP of training", "gflops", 1e-3)):
                line = [(point[key] * scale, 100 * point[name]) for point in points]
                panels.setdefault((x, label), {}).setdefault(outcome.variant, []).append(line)
    return panels


def scaling(found: Comparison) -> dict[tuple[str, str], dict[str, list[curves.Line]]]:
    """Panels of final accuracy against parameters, images at hand and arithmetic; empty when sizes are all the same.

    A line joins the runs that differ in what its panel shows, each a mean over seeds. Where sizes and shares differ,
    the lines of arithmetic join shares.
    """
    finished = [outcome for outcome in found.outcomes if outcome.figures]
    has_sizes, has_shares = len({o.size for o in finished}) > 1, len({o.fraction for o in finished}) > 1
    if not (has_sizes or has_shares):
        return {}
    points: dict[tuple[str, str], dict[str, dict[str, list[tuple[float, float]]]]] = {}
    for o in finished:
        size = f", {o.size}" if has_sizes else ""
        share = f", {o.fraction:g} of the images" if has_shares else ""
        places = {"TFLOP of training": (o.gflops_per_image * o.images / 1e3, size if has_shares else "")}
        places |= {"parameters (millions)": (o.parameters / 1e6, share)} if has_sizes else {}
        places |= {"share of the images": (o.fraction, size)} if has_shares else {}
        for figure in o.figures:
            if figure["task"] not in CURVE_TASKS or figure["score"] is None:
                continue
            label = _label(figure["task"], figure["question"])
            for x, (value, rest) in places.items():
                line = points.setdefault((x, label), {}).setdefault(o.family + rest, {})
                line.setdefault(o.variant, []).append((value, 100 * figure["score"]["value"]))
    return {
        panel: {name: [sorted(_middle(seeds) for seeds in line.values())] for name, line in lines.items()}
        for panel, lines in points.items()
    }


def _label(task: str, question: str) -> str:
    return f"{LABELS.get(task, task)}, {question} (%)"


def _middle(points: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.mean(x for x, _ in points), statistics.mean(y for _, y in points)
