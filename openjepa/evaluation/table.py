"""An evaluation as a table for people."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openjepa.evaluation.run import Evaluation, Figure
from openjepa.evaluation.task import Score


def show(found: Evaluation, console: Console) -> None:
    """One table over all sets, then a line a figure with what was chosen and on what, then the warnings."""
    rows = list(dict.fromkeys(figure.row for figure in found.figures))
    pairs = list(dict.fromkeys((figure.data, figure.test) for figure in found.figures))
    table = Table(title=escape(f"{found.encoder}; 95 % intervals over test images"), title_justify="left")
    for column in (["test"] if len(pairs) > 1 else []) + ["task", "question"]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_column(row, justify="right")
    for line in dict.fromkeys((f.data, f.test, f.task, f.question) for f in found.figures):
        figures = {f.row: f for f in found.figures if (f.data, f.test, f.task, f.question) == line}
        metric = next((f.score.metric for f in figures.values() if f.score), "")
        first = [escape(line[1])] if len(pairs) > 1 else []
        table.add_row(*first, f"{line[2]} ({metric})", line[3], *(cell(figures.get(row)) for row in rows))
    console.print(table)
    for figure in found.figures:
        where = f"  {figure.task}, {figure.question}, {figure.row}"
        if figure.error is not None:
            console.print(escape(f"{where}: no figure: {figure.error}"), style="red")
        elif figure.score is not None and figure.row == rows[-1]:
            more = "".join(f"; {name} {value:.3f}" for name, value in figure.score.more.items())
            console.print(escape(f"{where}: {figure.score.chosen}{more}"))
    for warning in found.warnings:
        console.print(escape(f"warning: {warning}"), style="yellow")


def cell(figure: Figure | None) -> str:
    """'54.2 (53.1-55.3)', in per cent but for lengths."""
    if figure is None:
        return ""
    if figure.score is None:
        return "none"
    return number(figure.score)


def number(score: Score) -> str:
    """The value, its spread where there is one, and its interval."""
    scale, digits = (1, 3) if score.metric == "RMSE" else (100, 1)
    value, low, high = (f"{scale * x:.{digits}f}" for x in (score.value, score.low, score.high))
    spread = "" if score.spread is None else f" +- {scale * score.spread:.{digits}f}"
    return f"{value}{spread} ({low}-{high})"
