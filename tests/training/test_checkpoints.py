"""When checkpoints are kept, which one a run goes on from, and who may ask it to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa import storage
from openjepa.errors import CheckpointError, ConfigError
from openjepa.training.checkpoints import SAVE_AND_GO_ON, SAVE_AND_STOP, Checkpoints, RunLock, Signals


def save(checkpoints: Checkpoints, step: int, *, is_milestone: bool = False) -> Path:
    tensors = {"method": {"x": torch.full((2,), step)}}
    return checkpoints.save(step, tensors, {"state": {"step": step}}, is_milestone=is_milestone)


def steps(checkpoints: Checkpoints) -> list[int]:
    """The steps that are there, every one of them whole."""
    for name in checkpoints.names():
        storage.verify(checkpoints.directory / name)
    return [int(name.removeprefix("step-")) for name in checkpoints.names()]


def everything(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# ------------------------------------------------------------------------------------------------------ what is kept


@given(st.integers(1, 3), st.lists(st.booleans(), max_size=7))
@settings(max_examples=12, deadline=None)
def test_the_last_and_the_milestones_are_kept(
    tmp_path_factory: pytest.TempPathFactory, keep_last: int, milestones: list[bool]
) -> None:
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run") / "checkpoints", keep_last)
    assert checkpoints.names() == []
    assert checkpoints.choose() is None
    for number, is_milestone in enumerate(milestones):
        path = save(checkpoints, 7 * number, is_milestone=is_milestone)
        assert storage.read_document(path, "state") == {"step": 7 * number}
        done = range(number + 1)
        expected = [7 * n for n in done if n > number - keep_last or milestones[n]]
        assert steps(checkpoints) == expected
        assert everything(checkpoints.directory) == checkpoints.names(), "nothing else is left there"


def test_names_are_in_the_order_of_steps(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 9)
    for step in (100, 9, 20_000_000):
        save(checkpoints, step)
    assert checkpoints.names() == ["step-000000009", "step-000000100", "step-020000000"]


def test_a_full_disk_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, 1)
    save(checkpoints, 1)

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", refuse)
        with pytest.raises(OSError, match="No space left"):
            save(checkpoints, 2)
    assert everything(tmp_path) == ["step-000000001"]
    assert steps(checkpoints) == [1]
    save(checkpoints, 3)
    assert steps(checkpoints) == [3]


def test_what_killed_processes_left_is_removed_before_it_fills_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, 1)
    for name in (".step-000000001.writing-77", ".step-000000001.old-77"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "method.safetensors").touch()
    (tmp_path / ".notes").mkdir()
    seen = []
    monkeypatch.setattr(storage, "save_file", lambda *args: seen.append(everything(tmp_path)) or args[1].touch())
    save(checkpoints, 2)
    assert seen == [[".notes", f".step-000000002.writing-{os.getpid()}"]]
    assert everything(tmp_path) == [".notes", "step-000000002"]


def test_a_kill_while_pruning_leaves_only_whole_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-removed checkpoint once kept its name, and ended every later run that wanted to prune it."""
    checkpoints = Checkpoints(tmp_path, 1)
    save(checkpoints, 1)

    class Killed(BaseException): ...

    def half(path: Path, ignore_errors: bool = False) -> None:
        for part in Path(path).glob("m*"):
            part.unlink()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(storage.shutil, "rmtree", half)
        with pytest.raises(Killed):
            save(checkpoints, 2)
    assert steps(checkpoints) == [2]
    save(checkpoints, 3)
    assert steps(checkpoints) == [3]
    assert everything(tmp_path) == ["step-000000003"]


def test_a_damaged_old_one_ends_no_run_and_is_left_alone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 1)
    damaged = save(checkpoints, 1)
    (damaged / "milestone.json").unlink()
    save(checkpoints, 2)
    assert checkpoints.names() == ["step-000000001", "step-000000002"]


# ---------------------------------------------------------------------------------------------- what a run goes on from


@pytest.fixture
def three(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "checkpoints", 3)
    for step in (10, 20, 30):
        save(checkpoints, step)
    return checkpoints


def tear(checkpoints: Checkpoints, name: str) -> None:
    os.truncate(checkpoints.directory / name / "method.safetensors", 50)


def test_the_newest_is_chosen(three: Checkpoints) -> None:
    assert three.choose() == three.directory / "step-000000030"
    assert steps(three) == [10, 20, 30]


def test_an_older_one_sets_the_later_ones_aside(three: Checkpoints) -> None:
    assert three.choose("step-000000010") == three.directory / "step-000000010"
    assert steps(three) == [10]
    assert everything(three.directory) == [
        "set-aside-step-000000020", "set-aside-step-000000030", "step-000000010",
    ]  # fmt: skip
    storage.verify(three.directory / "set-aside-step-000000030")
    assert three.choose() == three.directory / "step-000000010", "or the next resume would undo the choice"


def test_they_can_be_set_aside_again_and_again(three: Checkpoints) -> None:
    for number in range(1, 4):
        three.choose("step-000000010")
        assert len(everything(three.directory)) == 1 + 2 * number
        for step in (20, 30):
            save(three, step)
    assert steps(three) == [10, 20, 30]
    assert "set-aside-step-000000020-3" in everything(three.directory)


def test_two_processes_of_a_run_may_choose_at_once(three: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank chooses; here another one is quicker, each time between our look and our rename."""
    rename = Path.rename

    def beaten(path: Path, target: Path) -> Path:
        rename(path, target)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", beaten)
    assert three.choose("step-000000010") == three.directory / "step-000000010"
    assert steps(three) == [10]


def test_a_torn_newest_is_named_and_the_one_before_offered(three: Checkpoints) -> None:
    tear(three, "step-000000030")
    with pytest.raises(CheckpointError) as caught:
        three.choose()
    text = str(caught.value)
    assert "step-000000030 is torn or was changed: method.safetensors is not what was written" in text
    assert text.endswith("To go on from the one before it, add --resume-from step-000000020")
    assert three.choose("step-000000020") == three.directory / "step-000000020"
    assert steps(three) == [10, 20]


def test_a_torn_one_is_never_set_aside_for(three: Checkpoints) -> None:
    """A choice that fails changes nothing."""
    tear(three, "step-000000010")
    with pytest.raises(CheckpointError, match=r"There is none before it: start anew in another --out\."):
        three.choose("step-000000010")
    assert everything(three.directory) == ["step-000000010", "step-000000020", "step-000000030"]


def test_an_unknown_name_names_the_nearest(three: Checkpoints, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no 'step-00000020' in .* Did you mean 'step-000000020'\?"):
        three.choose("step-00000020")
    with pytest.raises(CheckpointError, match=r"there is no 'step-000000001' in .* There is none\."):
        Checkpoints(tmp_path / "empty", 1).choose("step-000000001")


# --------------------------------------------------------------------------------------------------------- signals


@pytest.fixture
def handlers() -> Iterator[dict[int, int]]:
    """Counts signals that reach the handlers that were there before."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    reached = dict.fromkeys(numbers, 0)

    def note(number: int, _: object) -> None:
        reached[number] += 1

    before = {number: signal.signal(number, note) for number in numbers}
    yield reached
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
def test_once_to_stop_and_twice_to_die(handlers: dict[int, int], number: int, again: int) -> None:
    with Signals() as signals:
        assert signals.asked == 0
        send(number)
        assert signals.asked == SAVE_AND_STOP
        assert sum(handlers.values()) == 0
        send(again)
        assert handlers[again] == 1
    send(number)
    assert handlers[number] == (2 if number == again else 1)


def test_usr1_saves_and_goes_on(handlers: dict[int, int]) -> None:
    with Signals() as signals:
        send(signal.SIGUSR1)
        assert signals.asked == SAVE_AND_GO_ON
        signals.asked = 0
        send(signal.SIGUSR1)
        assert signals.asked == SAVE_AND_GO_ON
        send(signal.SIGTERM)
        send(signal.SIGUSR1)
        assert signals.asked == SAVE_AND_STOP, "a stop is not forgotten"
    assert sum(handlers.values()) == 0
    send(signal.SIGUSR1)
    assert handlers[signal.SIGUSR1] == 1


def test_handlers_come_back_after_an_error(handlers: dict[int, int]) -> None:
    with pytest.raises(KeyError), Signals():
        raise KeyError
    for number in handlers:
        send(number)
    assert set(handlers.values()) == {1}


def test_outside_the_main_thread_signals_are_left_alone(handlers: dict[int, int]) -> None:
    seen = []

    def run() -> None:
        with Signals() as signals:
            seen.append(signals.asked)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [0]
    send(signal.SIGTERM)
    assert handlers[signal.SIGTERM] == 1


# ------------------------------------------------------------------------------------------------------------ the lock

HOLD = """
import fcntl, os, sys
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    command = [sys.executable, "-S", "-c", HOLD, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=r"run is being trained by another process\. Wait for it, or take"):
            RunLock(run)
        other.kill()  # a lock dies with its holder, however it dies
        other.wait()
    RunLock(run).release()


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"out = .*cannot be written to: Not a directory.* another --out"):
        RunLock(tmp_path / "file" / "run")


def test_a_lock_is_taken_and_released(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "new" / "run")
    with pytest.raises(CheckpointError, match="being trained"):
        RunLock(tmp_path / "new" / "run")
    lock.release()
    RunLock(tmp_path / "new" / "run").release()


def test_a_released_lock_is_free_though_a_worker_lives_on(tmp_path: Path) -> None:
    """Loader processes are forked, and have a copy of every open file."""
    lock = RunLock(tmp_path)
    command = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[lock.handle]) as worker:
        lock.release()
        RunLock(tmp_path).release()
        worker.kill()
