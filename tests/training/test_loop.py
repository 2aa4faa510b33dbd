"""The loop: accumulation, many processes, skipped steps, full disks, minutes."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openjepa import storage
from openjepa.config import to_dict
from openjepa.errors import ConfigError, DataError, TrainingError
from openjepa.masking.multiblock import MultiBlock
from openjepa.methods.ibot import IBOTConfig
from openjepa.methods.ijepa import IJEPA, IJEPAConfig
from openjepa.training.probe import Probe
from openjepa.training.recipe import Keep, Length, Recipe, Watch
from openjepa.training.run import pretrain
from openjepa.vision.encoder import Encoder
from tests.methods.test_contract import TINY
from tests.training.test_resume import SCRIPT, weights


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    """Every tensor within an absolute tolerance."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=tolerance, msg=name)


def test_two_processes_equal_one(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    recipes = {
        kind: replace(tiny, precision="float64", method=replace(tiny.method, regulariser=kind, masks_per_image=2))
        for kind in ("none", "variance_covariance", "sigreg")
    }
    for rows in ("tokens", "predictions"):
        method = replace(tiny.method, regulariser="variance_covariance", regulariser_on=rows)
        recipes[rows] = replace(tiny, precision="float64", method=method)
    method = replace(method, regulariser_on="deviations", masking=MultiBlock(context="all"))  # rows that pad
    recipes["uneven"] = replace(tiny, precision="float64", method=method)
    others = {kind.__name__: method for kind, method in TINY.items() if kind is not IJEPAConfig}
    others["sinkhorn"] = replace(TINY[IBOTConfig], centring="sinkhorn")
    recipes |= {name: replace(tiny, precision="float64", method=method) for name, method in others.items()}
    for kind, recipe in recipes.items():
        pretrain(recipe, str(images), tmp_path / "one" / kind, is_quiet=True)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    for kind, recipe in recipes.items():
        command += [json.dumps(to_dict(recipe)), str(images), str(tmp_path / "two" / kind)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    for kind in recipes:
        # Adam divides by the root of tiny squares, so rounding of 1e-16 in a gradient grows by many orders
        close(weights(tmp_path / "one" / kind), weights(tmp_path / "two" / kind), tolerance=1e-9)


def test_a_batch_that_processes_cannot_share_is_refused(
    tiny: Recipe, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openjepa.distributed import World

    monkeypatch.setattr("openjepa.distributed.start", lambda device: World(0, 3, torch.device("cpu")))
    with pytest.raises(ConfigError, match="multiple of the number of processes, 3"):
        pretrain(tiny, str(images), tmp_path / "run", is_quiet=True)


def test_micro_batches_equal_the_batch(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    method = replace(tiny.method, regulariser="none")
    recipe = replace(tiny, method=method, precision="float64")
    pretrain(recipe, str(images), tmp_path / "whole", is_quiet=True)
    pretrain(replace(recipe, micro_batch=3), str(images), tmp_path / "parts", is_quiet=True)
    close(weights(tmp_path / "whole"), weights(tmp_path / "parts"), tolerance=1e-9)


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the loss of these steps (by the batch's step) NaN."""
    original = IJEPA.forward

    def forward(self: IJEPA, batch: object, t: float) -> dict[str, torch.Tensor]:
        outputs = original(self, batch, t)  # type: ignore[arg-type]
        if batch.step in steps:  # type: ignore[attr-defined]
            outputs["loss"] = outputs["loss"] * float("nan")
        return outputs

    monkeypatch.setattr(IJEPA, "forward", forward)


def test_a_nonfinite_loss_is_skipped_and_logged(
    tiny: Recipe, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {3, 4})
    pretrain(tiny, str(images), tmp_path / "run", is_quiet=True)
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    skipped = [line for line in lines if line["kind"] == "skipped"]
    assert [line["in_row"] for line in skipped] == [1, 2]
    assert all(name.endswith(".png") for line in skipped for name in line["names"])


def test_too_many_in_a_row_stop_the_run_and_name_the_images(
    tiny: Recipe, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, set(range(2, 12)))
    recipe = replace(tiny, watch=replace(tiny.watch, max_skipped=5))
    with pytest.raises(TrainingError, match=r"5 steps in a row.*\.png"):
        pretrain(recipe, str(images), tmp_path / "run", is_quiet=True)


def test_a_full_disk_keeps_the_previous_checkpoint_and_the_run(
    tiny: Recipe, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, calls = storage.save_file, [0]

    def save_file(tensors: dict[str, torch.Tensor], path: Path) -> None:
        calls[0] += 1
        if 7 <= calls[0] <= 10:
            raise OSError(28, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(storage, "save_file", save_file)
    assert pretrain(tiny, str(images), tmp_path / "run", is_quiet=True).is_finished
    said = " ".join(capsys.readouterr().err.split())
    assert "No space left on device" in said
    assert "newest good one is step-000000003" in said
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["step-000000011", "step-000000012"]


def test_minutes_are_kept(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    recipe = replace(tiny, length=Length(minutes=0.1), keep=Keep(every_minutes=60))
    result = pretrain(recipe, str(images), tmp_path / "run", is_quiet=True)
    assert result.is_finished
    assert 5 < result.elapsed_s < 8
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if line["kind"] == "train"]
    assert rates[-1] < 0.05 * max(rates)  # the schedule came to its end with the time


def test_milestones_and_last_are_kept(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    recipe = replace(tiny, keep=Keep(every_minutes=0, last=1, milestones=3))
    pretrain(recipe, str(images), tmp_path / "run", is_quiet=True)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000000004", "step-000000008", "step-000000012"]


def test_a_run_without_probes_measures_nothing_but_health(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    watch = Watch(log_every=5, probes=1, health_images=8)
    result = pretrain(replace(tiny, watch=watch), str(images), tmp_path / "run", probe_data="none", is_quiet=True)
    assert "knn" not in result.history[-1]
    assert {"rank_target", "rank_context", "rank_prediction", "energy_gap"} <= result.history[-1].keys()


def test_the_probe_learns_the_classes_and_has_its_controls(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    result = pretrain(tiny, str(images), tmp_path / "run", is_quiet=True)
    assert result.history[-1]["linear"] > 0.8  # dark against light: any encoder sees it
    assert result.controls.keys() == {"pixels", "untrained"}
    exported = load_file(tmp_path / "run" / "encoder" / "target.safetensors")
    trained = {k: v for k, v in weights(tmp_path / "run").items() if k.startswith("teacher.") and "/" not in k}
    assert {f"teacher.{k}": v for k, v in exported.items()}.keys() == trained.keys()
    assert all(torch.equal(exported[k.removeprefix("teacher.")], v) for k, v in trained.items())


def test_a_stream_trains(tiny: Recipe, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    result = pretrain(tiny, f"hf://{images}?streaming=1", tmp_path / "run", is_quiet=True)
    assert result.is_finished
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[1])
    assert "epoch" not in line
    with pytest.raises(DataError, match=r"--steps"):
        pretrain(
            replace(tiny, length=Length(epochs=2)), f"hf://{images}?streaming=1", tmp_path / "other", is_quiet=True
        )


def test_checkpointed_activations_change_nothing(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    recipe = replace(tiny, precision="float64")
    pretrain(recipe, str(images), tmp_path / "plain", is_quiet=True)
    recipe = replace(recipe, speed=replace(tiny.speed, checkpoint_activations=True))
    pretrain(recipe, str(images), tmp_path / "other", is_quiet=True)
    close(weights(tmp_path / "plain"), weights(tmp_path / "other"), tolerance=1e-12)


def test_bfloat16_trains(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    result = pretrain(replace(tiny, precision="bfloat16"), str(images), tmp_path / "run", is_quiet=True)
    assert result.is_finished
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())


def test_one_probe_and_no_more_than_were_asked_for(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    recipe = replace(
        tiny, length=Length(minutes=0.05), keep=Keep(every_minutes=60), watch=replace(tiny.watch, probes=3)
    )
    result = pretrain(recipe, str(images), tmp_path / "run", is_quiet=True)
    assert 4 <= len(result.history) <= 5  # the untrained one, three marks, and the end if the clock moved it
    assert result.history[1]["step"] > 3


def test_probes_of_a_run_in_minutes_take_no_more_than_their_share(
    tiny: Recipe, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Probe.measure

    def slowly(probe: Probe, encoder: Encoder) -> dict[str, float]:
        time.sleep(0.5)
        return measure(probe, encoder)

    monkeypatch.setattr(Probe, "measure", slowly)
    watch = replace(tiny.watch, probes=30, max_probe_share=0.2)
    recipe = replace(tiny, length=Length(minutes=0.12), keep=Keep(every_minutes=60), watch=watch)
    history = pretrain(recipe, str(images), tmp_path / "run", is_quiet=True).history
    probed = [judged["step"] for judged in history if "knn" in judged]
    assert len(history) > 20
    assert 3 <= len(probed) <= 5  # the untrained one, one or two of 1.4 s in all, the last
    assert probed[-1] == history[-1]["step"]


def test_an_image_that_failed_the_first_look_is_listed(tiny: Recipe, images: Path, tmp_path: Path) -> None:
    (images / "dark" / "00.png").write_bytes(b"")  # the first that is looked at
    watch = replace(tiny.watch, max_bad_share=0.5, health_images=8)
    pretrain(replace(tiny, watch=watch, length=Length(steps=10)), str(images), tmp_path / "run", is_quiet=True)
    assert "00.png,empty" in (tmp_path / "run" / "bad_images.csv").read_text()


def test_no_worker_outlives_an_error_that_is_kept(
    tiny: Recipe, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(multiprocessing.active_children())  # other tests may have left some to the garbage collector
    poison(monkeypatch, set(range(2, 12)))
    recipe = replace(tiny, watch=replace(tiny.watch, max_skipped=5), speed=replace(tiny.speed, workers=2))
    with pytest.raises(TrainingError) as kept:
        pretrain(recipe, str(images), tmp_path / "run", is_quiet=True)
    assert kept.value.__traceback__ is not None
    assert set(multiprocessing.active_children()) <= before
