"""Resuming is exact to the bit, whatever stopped the run and however images are loaded."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openjepa.config import to_dict
from openjepa.errors import CheckpointError, ConfigError
from openjepa.methods import IJEPA, METHODS, IJEPAConfig, Method, MethodConfig
from openjepa.training.recipe import Keep, Length, Recipe, Speed, Watch
from openjepa.training.run import pretrain
from tests.methods.test_contract import TINY

WATCH = Watch(log_every=20, probes=1, health_images=16, probe_bank=40, probe_test=10)

SCRIPT = """
import json, sys
from openjepa.config import from_dict
from openjepa.training.recipe import Recipe
from openjepa.training.run import pretrain
for recipe, data, out in zip(*[iter(sys.argv[1:])] * 3):
    pretrain(from_dict(Recipe, json.loads(recipe)), data, out, is_quiet=True)
"""


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Everything the last checkpoint holds."""
    last = sorted((out / "checkpoints").glob("step-*"))[-1]
    return {**load_file(last / "method.safetensors"), **load_file(last / "optimizer.safetensors")}


def assert_same(one: Path, other: Path) -> None:
    """Bit for bit."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def start(recipe: Recipe, data: Path, out: Path, start_new_session: bool = False) -> subprocess.Popen[bytes]:
    """The run in a process of its own."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(to_dict(recipe)), str(data), str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, start_new_session=start_new_session)


def killed_and_resumed(recipe: Recipe, data: Path, out: Path, kills: int, seed: int) -> int:
    """SIGKILL at random moments, start-up included, then let it finish. Returns how many kills hit."""
    chance, hits = random.Random(seed), 0
    for number in range(kills):
        before = newest(out)
        process = start(recipe, data, out)
        if number > 0:  # the first kill may fall into start-up; later ones wait until the run has got further
            while process.poll() is None and newest(out) <= before:
                time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.4 if number else 4.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            hits += 1
        process.communicate()
    process = start(recipe, data, out)
    _, complaint = process.communicate()
    assert process.returncode == 0, complaint.decode()
    return hits


def newest(out: Path) -> str:
    """Name of the newest checkpoint, or nothing."""
    return max((path.name for path in (out / "checkpoints").glob("step-*")), default="")


@pytest.mark.parametrize(("workers", "kills"), [(0, 6), (2, 4)])
def test_ten_sigkills_change_no_bit(tiny: Recipe, images: Path, tmp_path: Path, workers: int, kills: int) -> None:
    # a checkpoint every quarter of a second or so: most kills throw a good many steps away
    recipe = replace(tiny, length=Length(steps=1200), keep=Keep(every_minutes=0.004), watch=WATCH)
    pretrain(recipe, str(images), tmp_path / "whole", is_quiet=True)
    recipe = replace(recipe, speed=replace(recipe.speed, workers=workers))
    hits = killed_and_resumed(recipe, images, tmp_path / "killed", kills, seed=workers)
    assert hits == kills
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_sigterm_to_the_whole_group_saves_although_there_are_workers(
    tiny: Recipe, images: Path, tmp_path: Path
) -> None:
    recipe = replace(tiny, length=Length(steps=3000), keep=Keep(every_minutes=60), watch=WATCH)
    recipe = replace(recipe, speed=replace(recipe.speed, workers=2))
    out = tmp_path / "run"
    process = start(recipe, images, out, start_new_session=True)
    while '"step": 20,' not in (out / "metrics.jsonl").read_text() if (out / "metrics.jsonl").exists() else True:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint.decode()
    assert newest(out) > "step-000000019"


def test_a_run_in_minutes_resumes_past_its_first_estimate(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    recipe = replace(tiny, length=Length(minutes=0.08), keep=Keep(every_minutes=0, last=9999), watch=WATCH)
    out = tmp_path / "run"
    pretrain(recipe, str(images), out, is_quiet=True)
    early = sorted((out / "checkpoints").iterdir())[5]
    state = json.loads((early / "state.json").read_text())
    assert state["progress"]["rate"] > 0
    for later in sorted((out / "checkpoints").iterdir())[6:]:
        shutil.rmtree(later)
    # as if the machine had been slow: the estimate at this checkpoint is seven steps in all
    state["progress"] = {**state["progress"], "anchor_t": 0.9, "anchor_step": state["step"], "rate": 0.05}
    (early / "state.json").write_text(json.dumps(state))
    seal(early)
    result = pretrain(recipe, str(images), out, is_quiet=True)
    assert result.is_finished
    assert result.elapsed_s < 8


def seal(checkpoint: Path) -> None:
    """Make the manifest agree with the files again."""
    files = [path for path in sorted(checkpoint.iterdir()) if path.name != "manifest.json"]
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (checkpoint / "manifest.json").write_text(json.dumps(sums))


def test_labels_that_come_later_have_true_controls(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain(tiny, str(images), tmp_path / "labelled", is_quiet=True)
    first = replace(tiny, keep=Keep(every_minutes=60))
    with pytest.MonkeyPatch.context() as patch:
        stop_after(5, signal.SIGTERM, patch)
        assert pretrain(first, str(images), out, probe_data="none", is_quiet=True).controls == {}
    late = pretrain(first, str(images), out, is_quiet=True)
    labelled = pretrain(tiny, str(images), tmp_path / "labelled", is_quiet=True)
    assert late.controls == labelled.controls


@pytest.mark.parametrize(("kind", "number"), [*((kind, signal.SIGTERM) for kind in TINY), (IJEPAConfig, signal.SIGINT)])
def test_a_signal_saves_and_stops_and_the_rest_is_exact(
    tiny: Recipe,
    images: Path,
    tmp_path: Path,
    kind: type[MethodConfig],
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = replace(tiny, keep=Keep(every_minutes=60), method=TINY[kind])
    pretrain(recipe, str(images), tmp_path / "whole", is_quiet=True)
    stop_after(5, number, monkeypatch, METHODS[kind])
    result = pretrain(recipe, str(images), tmp_path / "cut", is_quiet=True)
    assert not result.is_finished
    assert result.step == 5
    monkeypatch.undo()
    assert pretrain(recipe, str(images), tmp_path / "cut", is_quiet=True).is_finished
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_sigusr1_saves_and_goes_on(tiny: Recipe, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(5, signal.SIGUSR1, monkeypatch)
    recipe = replace(tiny, keep=Keep(every_minutes=60))
    assert pretrain(recipe, str(images), tmp_path / "run", is_quiet=True).is_finished
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000000005", "step-000000012"]


def stop_after(
    step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch, method: type[Method] = IJEPA
) -> None:
    """Send this process a signal in the middle of that step."""
    done, original = [0], method.after_step

    def after_step(self: Method, t: float) -> None:
        original(self, t)
        done[0] += 1
        if done[0] == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(method, "after_step", after_step)


def test_metrics_have_no_gap_and_no_repeat(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    recipe = replace(tiny, length=Length(steps=60))
    killed_and_resumed(recipe, images, tmp_path / "run", kills=2, seed=1)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 60


def test_other_settings_are_refused_and_listed(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    pretrain(tiny, str(images), tmp_path / "run", is_quiet=True)
    other = replace(tiny, seed=1, batch_size=4, speed=Speed(device="cpu", workers=1))
    with pytest.raises(ConfigError) as caught:
        pretrain(other, str(images), tmp_path / "run", is_quiet=True)
    assert "recipe.seed: 0 -> 1" in str(caught.value)
    assert "recipe.batch_size: 8 -> 4" in str(caught.value)
    assert "workers" not in str(caught.value)


def test_other_data_is_refused(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    pretrain(tiny, str(images), tmp_path / "run", is_quiet=True)
    (images / "dark" / "00.png").unlink()
    with pytest.raises(ConfigError, match="data"):
        pretrain(tiny, str(images), tmp_path / "run", is_quiet=True)


def test_a_finished_run_is_not_done_again(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    pretrain(tiny, str(images), tmp_path / "run", is_quiet=True)
    before = (tmp_path / "run" / "checkpoints" / "step-000000012" / "manifest.json").stat().st_mtime_ns
    result = pretrain(tiny, str(images), tmp_path / "run", resume=True, is_quiet=True)
    assert result.is_finished
    assert result.step == 12
    after = (tmp_path / "run" / "checkpoints" / "step-000000012" / "manifest.json").stat().st_mtime_ns
    assert before == after


def test_resume_insists_on_a_run(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run to resume"):
        pretrain(tiny, str(images), tmp_path / "run", resume=True, is_quiet=True)


def test_a_tampered_newest_is_refused_and_the_one_before_works(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    pretrain(tiny, str(images), tmp_path / "run", is_quiet=True)
    newest = tmp_path / "run" / "checkpoints" / "step-000000012" / "method.safetensors"
    whole = newest.read_bytes()
    newest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError) as caught:
        pretrain(tiny, str(images), tmp_path / "run", is_quiet=True)
    assert "step-000000012" in str(caught.value)
    assert "--resume-from step-000000011" in str(caught.value)
    pretrain(tiny, str(images), tmp_path / "run", resume_from="step-000000011", is_quiet=True)
    assert newest.read_bytes() == whole  # done again, to the bit


def test_two_at_once_are_refused(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    from openjepa.training.checkpoints import RunLock

    lock = RunLock(tmp_path / "run")
    with pytest.raises(CheckpointError, match="another process"):
        pretrain(tiny, str(images), tmp_path / "run", is_quiet=True)
    lock.release()


def test_slices_speak_of_bad_images_once(
    tiny: Recipe, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next(images.rglob("*.png")).write_bytes(b"rubbish")
    out, num_slices = tmp_path / "run", 0
    while not pretrain(tiny, str(images), out, probe_data="none", slice_minutes=1e-9, is_quiet=True).is_finished:
        num_slices += 1
    assert num_slices > 1
    said = capsys.readouterr().err
    assert said.count("could not be used and were replaced") == 1
