"""When checkpoints are written, which are kept, and which one a resumed run starts from."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from openjepa import storage
from openjepa.errors import CheckpointError, ConfigError, nearest, sentence

PREFIX = "step-"
SAVE_AND_GO_ON, SAVE_AND_STOP = 1, 2
LOCK_PATIENCE_S = 10.0  # after a SIGKILL, loader workers hold the lock until they notice that they are orphans


class Checkpoints:
    """The checkpoints of one run, in `<run>/checkpoints/step-<number>`."""

    def __init__(self, directory: Path, keep_last: int) -> None:
        self.directory, self.keep_last = Path(directory), keep_last

    def names(self) -> list[str]:
        """Oldest first. A directory of that name is whole: it was renamed into place."""
        if not self.directory.exists():
            return []
        return sorted(path.name for path in self.directory.iterdir() if path.name.startswith(PREFIX))

    def milestones(self) -> list[Path]:
        """Those that are kept for good, oldest first."""
        paths = [self.directory / name for name in self.names()]
        return [path for path in paths if _is_milestone(path)]

    def save(
        self,
        step: int,
        tensors: dict[str, dict[str, Tensor]],
        documents: dict[str, Any],
        *,
        is_milestone: bool = False,
    ) -> Path:
        """Write the checkpoint of a step, then remove the old ones. OSError leaves the others as they were."""
        storage.sweep(self.directory)  # first: what a killed process left may be what fills the disk
        path = self.directory / f"{PREFIX}{step:09d}"
        storage.write(path, tensors, {**documents, "milestone": is_milestone})
        old = [self.directory / name for name in self.names()[: -self.keep_last]]
        for directory in old:
            if not _is_milestone(directory):
                storage.remove(directory)
        return path

    def choose(self, name: str | None = None) -> Path | None:
        """The checkpoint to go on from: the one named, else the newest; None when there is none.

        CheckpointError when it is not whole, naming it and offering the one before.
        """
        names = self.names()
        if name is not None and name not in names:
            raise CheckpointError(f"there is no {name!r} in {self.directory}. {nearest(name, names)}")
        if not names:
            return None
        chosen = name or names[-1]
        try:
            storage.verify(self.directory / chosen)
        except CheckpointError as error:
            before = names[: names.index(chosen)]
            remedy = "There is none before it: start anew in another --out."
            if before:
                remedy = f"To go on from the one before it, add --resume-from {before[-1]}"
            raise CheckpointError(f"{error} {remedy}") from None
        for later in names[names.index(chosen) + 1 :]:  # or it would be the newest again
            _set_aside(self.directory / later)
        return self.directory / chosen


def _is_milestone(directory: Path) -> bool:
    try:
        return bool(storage.read_document(directory, "milestone"))
    except CheckpointError:  # damaged from outside; no reason to end a run, nor ours to remove
        return True


def _set_aside(directory: Path) -> None:
    for number in itertools.count(1):
        aside = directory.with_name(f"set-aside-{directory.name}" + (f"-{number}" if number > 1 else ""))
        if not aside.exists():
            with contextlib.suppress(FileNotFoundError):  # another process of this run was quicker
                directory.rename(aside)
            return


class Signals:
    """While active, SIGTERM and SIGINT ask to save and stop, SIGUSR1 to save and go on.

    A second SIGINT or SIGTERM ends the process the usual way.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: whoever runs us there handles signals
            self._before.clear()
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.asked = max(self.asked, SAVE_AND_GO_ON)
            return
        self.asked = SAVE_AND_STOP
        for stopping in (signal.SIGTERM, signal.SIGINT):
            signal.signal(stopping, self._before[stopping])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class RunLock:
    """Keeps a second process from training into the same directory."""

    def __init__(self, directory: Path) -> None:
        import fcntl

        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.handle = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            rule = f"cannot be written to: {error.strerror}"
            raise ConfigError(sentence("out", str(directory), rule, "Take another --out.")) from None
        give_up = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if time.monotonic() > give_up:
                    break
            time.sleep(0.1)
        os.close(self.handle)
        raise CheckpointError(f"{directory} is being trained by another process. Wait for it, or take another --out.")

    def release(self) -> None:
        """Let others in."""
        import fcntl

        fcntl.flock(self.handle, fcntl.LOCK_UN)  # closing is not enough: loader workers hold copies
        os.close(self.handle)
