"""The book of images that could not be used: counted, each listed once, and a stop when they are too many."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from openjepa.errors import DataError

if TYPE_CHECKING:
    from openjepa.data.loader import Loaded

ENOUGH = 200
"""Images read before a share means anything, unless there are fewer."""
_SHOWN = 5


def examples(bad: list[tuple[str, str]]) -> str:
    """The first few (name, reason) pairs as text."""
    return "; ".join(f"{name} ({reason})" for name, reason in bad[:_SHOWN])


class BadImages:
    """Counts and lists bad images; DataError once their share is past `max_share`.

    Several processes, and a run that goes on, may share the file: it is looked into before anything is
    added to it. `num_images` is None for a stream.
    """

    def __init__(self, path: str | Path, max_share: float, num_images: int | None = None) -> None:
        self.path, self.max_share = Path(path), max_share
        self.num_read = self.num_bad = 0
        self._enough = ENOUGH if num_images is None else min(ENOUGH, num_images)
        self._first: list[tuple[str, str]] = []
        self._listed: set[str] = set()
        self._place = 0  # how far into the file the names are in `_listed`

    @property
    def num_listed(self) -> int:
        """Different images that could not be used, those of other processes and of the run's earlier parts too."""
        with (
            contextlib.suppress(OSError),
            open(self.path, newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            self._look(file)
        return len(self._listed - {"name"})

    def add(self, loaded: Loaded) -> None:
        """Take note of what happened while a batch was made. DataError when too many are bad."""
        self.num_read += loaded.num_read
        self.num_bad += len(loaded.bad)
        self._first = (self._first + [pair for pair in loaded.bad if pair not in self._first])[:_SHOWN]
        if any(name not in self._listed for name, _ in loaded.bad):
            with contextlib.suppress(OSError):  # a full disk must not end the run; they are met again, and are counted
                self._list(loaded.bad)
        if self.num_read >= self._enough and self.num_bad > self.max_share * self.num_read:
            raise DataError(
                f"{self.num_bad} of {self.num_read} images read cannot be used "
                f"({self.num_bad / self.num_read:.1%}; at most {self.max_share:.1%} are allowed): "
                f"{examples(self._first)}. All are listed in {self.path}. "
                "Repair or remove them, or allow more with --watch.max-bad-share."
            )

    def _list(self, bad: list[tuple[str, str]]) -> None:
        with open(self.path, "a+", newline="", encoding="utf-8", errors="surrogateescape") as file:
            self._look(file)
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(["name", "reason"])
            new = dict(pair for pair in reversed(bad) if pair[0] not in self._listed)
            writer.writerows(reversed(new.items()))
            file.flush()
            self._listed.update(new)
            self._place = file.tell()

    def _look(self, file: TextIO) -> None:
        """Learn the names that are new in the file."""
        file.seek(self._place)
        self._listed.update(row[0] for row in csv.reader(file) if row)
        self._place = file.tell()

    def state(self) -> dict[str, Any]:
        """For the checkpoint, as JSON."""
        return {"num_read": self.num_read, "num_bad": self.num_bad, "first": self._first}

    def load(self, state: dict[str, Any]) -> None:
        """Go on counting from a `state`."""
        self.num_read, self.num_bad = state["num_read"], state["num_bad"]
        self._first = [(name, reason) for name, reason in state["first"]]
