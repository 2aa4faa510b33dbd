"""The journal's files can be read by programs, its words by people, and no full disk ends a run."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import threading
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from openjepa import journal
from openjepa.errors import DataError
from openjepa.journal import METRICS, Journal, duration, read


def records(directory: Path) -> list[dict[str, Any]]:
    """What is in the file, the time taken off."""
    return [{name: value for name, value in line.items() if name != "time"} for line in read(directory / METRICS)]


def scalars(directory: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard would show."""
    events = EventAccumulator(str(directory / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


class Deaf:
    """Stands for TensorBoard where it is not what is tested: it takes a tenth of a second to close."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def add_scalar(self, *args: object) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.utils.tensorboard

    monkeypatch.setattr(torch.utils.tensorboard, "SummaryWriter", Deaf)


# ---------------------------------------------------------------------------------------------------------- the files


def test_a_record_is_a_line_and_its_numbers_are_in_tensorboard(tmp_path: Path) -> None:
    with Journal(tmp_path / "run") as log:
        log.record("train", 1, {"loss": 0.5, "names": ["a"], "is_fine": True})
        log.record("probe", 1, {"knn": 0.25, "verdict": "learning"})
        log.record("train", 2, {"loss": 0.25})
        log.warn("something [odd]")
    assert records(tmp_path / "run") == [
        {"kind": "train", "step": 1, "loss": 0.5, "names": ["a"], "is_fine": True},
        {"kind": "probe", "step": 1, "knn": 0.25, "verdict": "learning"},
        {"kind": "train", "step": 2, "loss": 0.25},
        {"kind": "warning", "text": "something [odd]"},
    ]
    assert scalars(tmp_path / "run", "train/loss") == [(1, 0.5), (2, 0.25)]
    assert scalars(tmp_path / "run", "probe/knn") == [(1, 0.25)]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_lines_are_there_at_once(tmp_path: Path, no_tensorboard: None) -> None:
    """What was said before a kill is kept."""
    with Journal(tmp_path) as log:
        log.record("train", 1, {"loss": 0.5})
        assert records(tmp_path) == [{"kind": "train", "step": 1, "loss": 0.5}]


def test_a_resumed_run_shows_each_step_once_in_tensorboard(tmp_path: Path) -> None:
    for resumed_at, steps in ((None, (1, 2, 3)), (1, (2, 3, 4))):
        with Journal(tmp_path, resumed_at=resumed_at) as log:
            for step in steps:
                log.record("train", step, {"loss": float(step)})
    assert scalars(tmp_path, "train/loss") == [(step, float(step)) for step in (1, 2, 3, 4)]
    assert [line["step"] for line in records(tmp_path)] == [1, 2, 3, 4]


steps = st.lists(st.integers(1, 9), max_size=6).map(sorted)


@given(steps, st.integers(0, 10), st.integers(0, 40), st.booleans())
@settings(max_examples=60, deadline=None)
def test_resuming_forgets_what_will_be_done_again(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], resumed_at: int, cut: int, has_warning: bool
) -> None:
    """Also where the last line was cut short at any byte."""
    path = tmp_path_factory.mktemp("run") / METRICS
    lines = [json.dumps({"kind": "train", "step": step, "loss": step / 7}) + "\n" for step in steps]
    if has_warning:
        lines.insert(len(lines) // 2, json.dumps({"kind": "warning", "text": "x"}) + "\n")
    whole = "".join(lines)
    left = whole[: max(0, len(whole) - cut)]
    path.write_text(left)
    journal._forget_after(path, resumed_at)
    expected = []
    for line in left.splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line).get("step", 0) > resumed_at:
            break
        expected.append(line)
    assert path.read_text() == "".join(expected)


def test_a_run_that_starts_over_starts_its_record_over(tmp_path: Path, no_tensorboard: None) -> None:
    """Killed before its first checkpoint, in the middle of a line: step 0 comes again."""
    (tmp_path / METRICS).write_text('{"kind": "probe", "step": 0}\n{"kind": "warning", "text": "x"}\n{"kind": "tr')
    with Journal(tmp_path) as log:
        log.record("probe", 0, {})
    assert records(tmp_path) == [{"kind": "probe", "step": 0}]


def test_a_silent_journal_does_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Journal(tmp_path / "run", is_silent=True, resumed_at=3) as log:
        log.say("a")
        log.warn("b")
        log.record("train", 1, {"loss": 0.5})
        log.show(0.5, "c")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------------------------------------- the words


def test_plain_lines_where_there_is_no_terminal(
    tmp_path: Path, no_tensorboard: None, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a line of [bold]more[/bold] than a terminal's width [/] :cat: " * 4
    with Journal(tmp_path) as log:
        log.say(long)
        log.warn("careful [/red]")
        log.show(0.123, "step 12  loss [0.5]")
    out, err = capsys.readouterr()
    assert out == "", "standard output is for results"
    assert err == f"{long}\nwarning: careful [/red]\n 12.3 %  step 12  loss [0.5]\n"


def test_quiet_says_only_warnings(tmp_path: Path, no_tensorboard: None, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[float] = []
    with Journal(tmp_path, is_quiet=True, on_progress=seen.append) as log:
        log.say("a")
        log.show(0.5, "b")
        log.record("train", 1, {})
        log.warn("c")
    assert capsys.readouterr().err == f"{tmp_path.name}: warning: c\n"
    assert seen == [0.5]
    assert [line["kind"] for line in records(tmp_path)] == ["train", "warning"]


def test_one_bar_on_a_terminal(tmp_path: Path, no_tensorboard: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Journal(tmp_path) as log:
            for step in range(5):
                log.show(step / 4, f"step {step} [/]")
        monkeypatch.undo()
        os.set_blocking(ours, False)
        shown = ""
        with contextlib.suppress(BlockingIOError):
            while True:
                shown += os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "━" in shown
    assert "100.0 %" in shown
    assert "step 4 [/]" in shown
    assert shown.count("\n") == 1, "a bar is one line"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (8, "8 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3600, "1 h 00 min"), (7530, "2 h 05 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ------------------------------------------------------------------------------------------------ disks that are full


@pytest.fixture
def full_disk() -> Iterator[Any]:
    """Set to a size in bytes past which no file may grow; what is written past it is refused."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_does_not_end_the_run(
    tmp_path: Path, no_tensorboard: None, full_disk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal(tmp_path / "run[/1]") as log:
        log.record("train", 1, {"loss": 0.5})
        full_disk((tmp_path / "run[/1]" / METRICS).stat().st_size + 20)  # room for a part of the next line
        log.record("train", 2, {"loss": 0.5})
        log.warn("still here")
        full_disk(resource.RLIM_INFINITY)
        log.record("train", 3, {"loss": 0.5})
    assert [line["step"] for line in records(tmp_path / "run[/1]")] == [1, 3], "whole lines or none"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "run[/1]/metrics.jsonl not written: " in lines[0]
    assert lines[1] == "warning: still here"


def wait_for_writers() -> None:
    """TensorBoard writes from a thread, and leaves it by an exception when it cannot."""
    for thread in threading.enumerate():
        if "AsyncWriter" in type(thread).__name__:
            thread.join(timeout=10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("flush_secs", [0, 120])
def test_tensorboard_on_a_full_disk_does_not_end_the_run(
    tmp_path: Path,
    full_disk: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flush_secs: int,
) -> None:
    """It notices when it flushes: now and then, or at the very end."""
    import torch.utils.tensorboard as module

    monkeypatch.setattr(module, "SummaryWriter", partial(module.SummaryWriter, flush_secs=flush_secs))
    with Journal(tmp_path) as log:
        log.record("train", 0, {"loss": 0.5})
        assert log.tensorboard is not None
        log.tensorboard.flush()
        (events,) = (tmp_path / "tensorboard").iterdir()
        full_disk(events.stat().st_size + 1)
        log.record("train", 1, {"loss": 0.5})
        if flush_secs == 0:
            wait_for_writers()
            log.record("train", 2, {"loss": 0.5})
            assert log.tensorboard is None
            full_disk(resource.RLIM_INFINITY)
            log.record("train", 3, {"loss": 0.5})
    wait_for_writers()
    full_disk(resource.RLIM_INFINITY)
    assert "warning: TensorBoard files are not written any more" in capsys.readouterr().err
    last = 3 if flush_secs == 0 else 1
    assert [line["step"] for line in records(tmp_path) if line["kind"] == "train"] == list(range(last + 1))


def test_standard_error_on_a_full_disk_does_not_end_the_run(
    tmp_path: Path, no_tensorboard: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full = open("/dev/full", "w", buffering=1)  # noqa: SIM115  closing it refuses too
    monkeypatch.setattr(sys, "stderr", full)
    with Journal(tmp_path) as log:
        log.say("a")
        log.warn("b")
        log.show(0.5, "c")
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space left"):
        full.close()
    assert records(tmp_path) == [{"kind": "warning", "text": "b"}]


def test_wandb_is_asked_for_by_name(tmp_path: Path, no_tensorboard: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if not installed
    with Journal(tmp_path):
        pass
    with pytest.raises(DataError, match=r"watch\.wandb = 'mine': the wandb package is not installed\. pip install"):
        Journal(tmp_path, wandb_project="mine")


def test_a_resumed_run_goes_on_in_its_own_wandb_run(
    tmp_path: Path, no_tensorboard: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    class Service(types.ModuleType):
        def init(self, **settings: object) -> Service:
            asked.append(settings)
            return self

        def finish(self, exit_code: int) -> None:
            pass

    monkeypatch.setitem(sys.modules, "wandb", Service("wandb"))
    for resumed_at in (None, 5, None):
        with Journal(tmp_path, wandb_project="mine", resumed_at=resumed_at):
            pass
    assert asked[0]["id"] == asked[1]["id"] != asked[2]["id"]
    assert all(settings["project"] == "mine" and settings["resume"] == "allow" for settings in asked)
