"""What a run says: lines or a progress bar for people, a JSON line per interval and TensorBoard for programs.

Nothing leaves the machine unless a Weights & Biases project is named.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from openjepa.errors import DataError, sentence

METRICS = "metrics.jsonl"


class Journal:
    """The record of one run. A silent journal (on other ranks than the first) does nothing."""

    def __init__(
        self,
        directory: Path,
        *,
        is_silent: bool = False,
        is_quiet: bool = False,
        on_progress: Callable[[float], None] | None = None,
        resumed_at: int | None = None,
        wandb_project: str | None = None,
    ) -> None:
        """`resumed_at`: forget what was recorded past this step, since it will be done again; None: forget all.
        `is_quiet`: write the files but say nothing except warnings, which then name the run by its directory.
        `on_progress`: told how far the run is, in 0..1, by whoever shows that elsewhere."""
        self.is_silent, self.is_quiet, self.on_progress = is_silent, is_quiet, on_progress
        self.whose = f"{directory.name}: " if is_quiet else ""
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        if is_silent:
            return
        directory.mkdir(parents=True, exist_ok=True)
        is_new = resumed_at is None
        self.wandb = None if wandb_project is None else _wandb(wandb_project, directory, is_new)
        self.path = directory / METRICS
        last_kept = -1 if resumed_at is None else resumed_at
        _forget_after(self.path, last_kept)
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115  held for the run
        from torch.utils.tensorboard import SummaryWriter  # a second to import: only where used

        self.tensorboard: SummaryWriter | None = SummaryWriter(str(directory / "tensorboard"), purge_step=last_kept + 1)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        if not self.is_silent:
            with self._outliving_tensorboard():
                if self.tensorboard is not None:
                    self.tensorboard.close()
            self.file.close()
            if self.wandb is not None:
                self.wandb.finish(exit_code=0 if kind is None else 1)

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        if not (self.is_silent or self.is_quiet):
            self._print(text)

    def warn(self, text: str) -> None:
        """A line that must not be missed; also kept among the metrics."""
        if not self.is_silent:
            self._print(f"{self.whose}warning: {text}", style="yellow")
            self._write({"kind": "warning", "text": text})

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One JSON line; its numbers also go to TensorBoard, under `kind`."""
        if self.is_silent:
            return
        self._write({"kind": kind, "step": step, **values})
        numbers = {k: v for k, v in values.items() if isinstance(v, (int, float))}
        with self._outliving_tensorboard():
            for name, value in numbers.items():
                if self.tensorboard is not None:
                    self.tensorboard.add_scalar(f"{kind}/{name}", value, step)
        if self.wandb is not None:
            self.wandb.log({f"{kind}/{name}": value for name, value in numbers.items()}, step=step)

    def _write(self, line: dict[str, Any]) -> None:
        text = (json.dumps({**line, "time": round(time.time(), 3)}) + "\n").encode()
        end = self.file.seek(0, os.SEEK_END)
        try:
            if self.file.write(text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:  # a full disk must not end the run; the weights matter more
            self._print(f"warning: {self.path} not written: {error}", style="yellow")
            with contextlib.suppress(OSError):
                self.file.truncate(end)  # whole lines or none

    @contextlib.contextmanager
    def _outliving_tensorboard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # its thread died and cannot be revived
            self.tensorboard = None
            self.warn(f"TensorBoard files are not written any more: {error}")

    def _print(self, text: str, style: str | None = None) -> None:
        with contextlib.suppress(OSError):  # standard error may be a file on that full disk
            self.console.print(text, style=style)

    def show(self, t: float, status: str) -> None:
        """Where the run is: moves the bar on a terminal, prints a line elsewhere."""
        if self.on_progress is not None and not self.is_silent:
            self.on_progress(t)
        if self.is_silent or self.is_quiet:
            return
        if not sys.stderr.isatty():
            self._print(f"{100 * t:5.1f} %  {status}")
            return
        if self.bar is None:
            columns = (BarColumn(bar_width=24), TextColumn("{task.percentage:5.1f} %"))
            self.bar = Progress(
                *columns, TimeElapsedColumn(), TextColumn("{task.fields[status]}", markup=False),
                console=self.console, transient=False,
            )  # fmt: skip
            self.bar.start()
            self.task = self.bar.add_task("", total=1.0, status=status)
        assert self.task is not None
        self.bar.update(self.task, completed=t, status=status)


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines after the last record of `step` or earlier: the resumed run writes them anew."""
    if not path.exists():
        return
    kept = 0
    with open(path, "rb") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:  # the last line of a killed run may be cut short
                break
            if line.get("step", 0) > step or not text.endswith(b"\n"):
                break
            kept += len(text)
    os.truncate(path, kept)  # a shorter file needs no room, and no moment without one


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _wandb(project: str, directory: Path, is_new: bool) -> Any:
    """The run there; its name on the service is kept in the directory, so that a resumed run goes on in it."""
    try:
        import wandb
    except ImportError:
        rule = "the wandb package is not installed"
        remedy = "pip install 'openjepa[wandb]', or leave --watch.wandb out."
        raise DataError(sentence("watch.wandb", project, rule, remedy)) from None
    path = directory / "wandb-id"
    if is_new or not path.exists():
        path.write_text(uuid.uuid4().hex[:12] + "\n")
    name = path.read_text().strip()
    return wandb.init(project=project, dir=str(directory), name=directory.name, id=name, resume="allow")


def duration(seconds: float) -> str:
    """'2 h 05 min', '3 min 20 s', '8 s'.

    >>> duration(200)
    '3 min 20 s'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
