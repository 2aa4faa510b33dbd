"""An evaluation as a table for people."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openjepa.evaluation.run import Evaluation, Figure
from openjepa.evaluation.task import Score


def show(found: Evaluation, console: Console) -> None:
    """One table a pair of sets, a line a task with what was chosen and on what, then the warnings."""
    rows = list(dict.fromkeys(figure.row for figure in found.figures))
    for data in dict.fromkeys(figure.data for figure in found.figures):
        table = Table(title=escape(f"{found.encoder} on {data}; 95 % intervals over test images"), title_justify="left")
        table.add_column("task")
        table.add_column("question")
        for row in rows:
            table.add_column(row, justify="right")
        figures = {(f.task, f.question, f.row): f for f in found.figures if f.data == data}
        for task, question in dict.fromkeys((t, q) for t, q, _ in figures):
            cells = [cell(figures.get((task, question, row))) for row in rows]
            metric = next((f.score.metric for f in figures.values() if f.task == task and f.score), "")
            table.add_row(f"{task} ({metric})", question, *cells)
        console.print(table)
        for figure in figures.values():
            if figure.row == rows[-1] and figure.score is not None:
                console.print(escape(f"  {figure.task}, {figure.question}: {figure.score.chosen}"))
            if figure.error is not None:
                console.print(
                    escape(f"  {figure.task}, {figure.question}, {figure.row}: no figure: {figure.error}"), style="red"
                )
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
