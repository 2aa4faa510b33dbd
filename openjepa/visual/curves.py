"""Curves of a comparison: accuracy against time and against arithmetic (paper figure 1), energies, scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MOST_LINES = 6  # controls in a panel

Line = Sequence[tuple[float, float]]
"""(x, y) of each point."""


def curves(path: Path, panels: Mapping[tuple[str, str], Mapping[str, Sequence[Line]]]) -> None:
    """A panel for each (x label, y label), with lines by name; several lines of a name are seeds, drawn in one colour.

    Panels of one y label stand side by side. The legend stands in the first panel, and in others with other names.
    """
    rows = list(dict.fromkeys(y for _, y in panels))
    columns = list(dict.fromkeys(x for x, _ in panels))
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    figure = Figure(figsize=(4.6 * len(columns) + 0.5, 3.2 * len(rows) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for (x, y), lines in panels.items():
        axis = axes[rows.index(y), columns.index(x)]
        for name, seeds in lines.items():
            for number, line in enumerate(seeds):
                colour = f"C{names.index(name) % 10}"
                label = name if number == 0 else None
                axis.plot(*zip(*line, strict=True), "o-", ms=3.5, lw=1.3, color=colour, label=label)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.grid(alpha=0.3)
    told: set[str] = set()
    for axis in axes[0]:
        if new := set(axis.get_legend_handles_labels()[1]) - told:
            axis.legend(fontsize=8)
            told |= new
    figure.savefig(path, dpi=130)


def rows(
    path: Path, values: Mapping[str, Mapping[str, Sequence[float]]], lines: Mapping[str, Mapping[str, float]]
) -> None:
    """A panel for each question: a row for each variant with a dot a seed and a bar at their mean, best mean of the
    first question on top; `lines` are upright lines by question and name, for controls."""
    first = next(iter(values.values()))
    order = sorted(
        {name for each in values.values() for name in each}, key=lambda name: np.mean(first.get(name, [0.0]))
    )
    figure = Figure(figsize=(3.4 * len(values) + 2.0, 0.26 * len(order) + 1.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axis, (question, by_name) in zip(axes, values.items(), strict=True):
        for number, (name, x) in enumerate(list(lines.get(question, {}).items())[:MOST_LINES]):
            axis.axvline(x, color="0.5", ls=("-", "--", ":", "-.")[number % 4], lw=1, label=name)
        for y, name in enumerate(order):
            seeds = by_name.get(name, [])
            axis.plot(seeds, [y] * len(seeds), "o", ms=4, color="C0", alpha=0.6)
            if seeds:
                axis.plot(np.mean(seeds), y, "|", ms=12, mew=2, color="C0")
        axis.set_yticks(range(len(order)), order, fontsize=8)
        axis.set_ylim(-0.6, len(order) - 0.4)
        axis.set_xlabel(question, fontsize=9)
        axis.grid(alpha=0.3)
    if axes[0].get_legend_handles_labels()[1]:
        figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=130)


def energies(path: Path, pairs: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> None:
    """By run, and "before" or "after" training: energies of pairs of the "same" image, and of "another" one's."""
    figure = Figure(figsize=(7.5, 2.1 * len(pairs) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(pairs), 2, squeeze=False)
    for row, (name, by_time) in zip(axes, pairs.items(), strict=True):
        for axis, (when, by_kind) in zip(row, by_time.items(), strict=True):
            both = np.concatenate(list(by_kind.values()))
            span = float(both.min()), float(np.quantile(both, 0.995))
            bins = 40 if span[1] > span[0] else 2
            for kind, values in by_kind.items():
                axis.hist(values, bins, range=span, alpha=0.6, density=True, label=f"{kind} image")
            axis.set_title(f"{name}, {when} training", fontsize=9)
            axis.set_yticks([])
            axis.set_xlabel("energy", fontsize=8)
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=130)
