"""Fine-tuning as a task: all labels and few, on the rows that it fits, resumed, and never by test labels."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from openjepa import cli
from openjepa.errors import ConfigError, TrainingError
from openjepa.evaluation.run import evaluate
from openjepa.evaluation.tasks.finetune import FineTuned
from openjepa.training.saved import read_method
from openjepa.vision.callable import CallableEncoder
from openjepa.vision.saved import write_encoders
from openjepa.vision.vit import ViT, ViTConfig

QUICK = ("steps=24", "batch_size=16", "optim.lr=1e-2", "method.rand_magnitude=0.0")
ENCODER = ViT(ViTConfig(image_size=(16, 16), patch=4, width=16, depth=2, heads=2)).untrained(1)


@pytest.fixture(autouse=True)
def no_patience_with_locks(monkeypatch):
    monkeypatch.setattr("openjepa.training.checkpoints.LOCK_PATIENCE_S", 0.0)


def measured(folder, out, task, **more):
    encoder, tasks = more.pop("encoder", ENCODER), more.pop("tasks", ["finetune"])
    return evaluate(
        encoder, str(folder), tasks=tasks, settings={"finetune": task}, cache=None, device="cpu", workers=0, out=out,
        **more,
    )  # fmt: skip


def test_all_labels_on_the_encoder_and_from_scratch_and_pixels_left_out(folder, tmp_path):
    found = measured(folder, tmp_path / "out", FineTuned(change=QUICK))
    assert [figure.row for figure in found.figures] == ["untrained", "encoder"]
    for row in ("untrained", "encoder"):
        score = found.score("finetune", row=row)
        assert score.value > 0.9, "dark and light images are told apart in 24 steps"
        assert score.low <= score.value <= score.high
        assert "all 48 labels of 2 classes" in score.chosen
        assert "optim.lr=1e-2" in score.chosen
    (path,) = (tmp_path / "out" / "finetune").glob("encoder-class-*-0")
    tuned = read_method(path)
    assert not torch.equal(tuned.encoder.embed.weight, ENCODER.embed.weight)
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["settings"]["tasks"]["finetune"]["recipe"] == "finetune_small"


def test_few_labels_are_drawn_class_by_class_each_draw_a_run(folder, tmp_path):
    task = FineTuned(change=(*QUICK, "batch_size=4"), shots="3", draws=2)
    score = measured(folder, tmp_path / "out", task, has_controls=False).score("finetune")
    assert score.spread is not None
    assert "2 x 6 labels" in score.chosen
    data = {
        json.loads((path / "recipe.json").read_text())["data"] for path in (tmp_path / "out" / "finetune").iterdir()
    }
    assert len(data) == 2, "each draw has labels of its own"


def test_labels_from_a_list(folder, tmp_path):
    names = tmp_path / "list.txt"
    names.write_text("\n".join(f"{kind}/{number:02d}.png" for kind in ("dark", "light") for number in range(4)))
    task = FineTuned(change=(*QUICK, "batch_size=8"), list_file=names)
    found = evaluate(
        ENCODER, str(folder), str(folder), tasks=["finetune"], settings={"finetune": task}, cache=None, device="cpu",
        workers=0, has_controls=False,
    )  # fmt: skip
    assert "8 labels" in found.score("finetune").chosen


def test_test_labels_change_the_score_and_nothing_else(folder, tmp_path, monkeypatch):
    from openjepa.evaluation.tasks import finetune as module

    guesses = []
    real = module.classify

    def kept(*args):
        guesses.append(real(*args)[0])
        return guesses[-1], []

    monkeypatch.setattr(module, "classify", kept)
    task = FineTuned(change=QUICK)
    right = measured(folder, tmp_path / "a", task, has_controls=False).score("finetune")
    from openjepa.evaluation import run

    describe = run._describe

    def turned(found, train, test):
        describe(found, train, test)
        test.answers["class"] = 1 - test.answers["class"]

    monkeypatch.setattr(run, "_describe", turned)
    wrong = measured(folder, tmp_path / "b", task, has_controls=False).score("finetune")
    assert np.array_equal(guesses[0], guesses[1])
    assert wrong.value == pytest.approx(1 - right.value)
    assert wrong.chosen == right.chosen


def test_a_run_that_was_stopped_is_gone_on_with(folder, tmp_path, monkeypatch):
    from openjepa.evaluation.tasks import finetune as module

    task = FineTuned(change=QUICK)
    whole = measured(folder, tmp_path / "whole", task, has_controls=False).score("finetune")

    def stopped(*args, **kwargs):
        raise TrainingError("stopped")

    monkeypatch.setattr(module, "classify", stopped)
    measured(folder, tmp_path / "out", task, has_controls=False)
    monkeypatch.undo()
    (path,) = (tmp_path / "out" / "finetune").glob("encoder-class-*-0")
    trained = read_method(path).state_dict()
    again = measured(folder, tmp_path / "out", task, has_controls=False).score("finetune")
    assert again.value == whole.value
    after = read_method(path).state_dict()
    assert all(torch.equal(trained[name], after[name]) for name in trained)


def test_it_is_measured_only_when_named(folder, tmp_path):
    found = evaluate(ENCODER, str(folder), cache=None, device="cpu", workers=0, has_controls=False)
    assert "finetune" not in {figure.task for figure in found.figures}


def test_other_encoders_and_wrong_settings_are_refused(folder, tmp_path):
    foreign = CallableEncoder(lambda images: images.flatten(1)[:, :8], (16, 16))
    (figure,) = measured(folder, None, FineTuned(change=QUICK), encoder=foreign, has_controls=False).figures
    assert "cannot be fine-tuned" in figure.error
    with pytest.raises(ConfigError, match="Did you mean 'finetune_small'"):
        measured(folder, None, FineTuned(recipe="finetune_smal"))
    with pytest.raises(ConfigError, match="layer_decay"):
        measured(folder, None, FineTuned(change=("method.layer_decay=2.0",)))
    with pytest.raises(ConfigError, match="Did you mean 'mixup'"):
        measured(folder, None, FineTuned(change=("method.mixupp=1.0",)))
    with pytest.raises(ConfigError, match="no recipe of fine-tuning"):
        measured(folder, None, FineTuned(recipe="ijepa_scenes_demo"))
    task = replace(FineTuned(change=QUICK), shots="90")
    (figure,) = measured(folder, None, task, has_controls=False).figures
    assert "Ask for fewer" in figure.error


def test_unreadable_images_are_left_out_and_counted(folder, tmp_path):
    for kind in ("dark", "light"):
        for number in range(2):
            (folder / kind / f"{number:02d}.png").write_bytes(b"no image")
    found = measured(folder, tmp_path / "out", FineTuned(change=QUICK), has_controls=False, tasks=["finetune", "knn"])
    score = found.score("finetune")
    assert score.value > 0.9, "those that cannot be read are not wrong answers"
    said = " ".join(found.warnings)
    assert "could not be read" in said
    assert "labels of 2 classes" in score.chosen
    assert "all 45 labels" in score.chosen, "three of the four that cannot be read are in train"
    assert json.loads((tmp_path / "out" / "results.json").read_text())["warnings"] == found.warnings


def test_several_sets_and_encoders_train_side_by_side(folder, tmp_path):
    copy = tmp_path / "other" / "images"
    shutil.copytree(folder, copy)
    (copy / "dark" / "00.png").unlink()
    sets = [str(folder), str(copy)]
    for encoder in (ENCODER, ENCODER.untrained(5)):
        found = evaluate(
            encoder, sets, sets, tasks=["finetune"], settings={"finetune": FineTuned(change=QUICK)}, cache=None,
            device="cpu", workers=0, out=tmp_path / "out", has_controls=False,
        )  # fmt: skip
        assert [figure.error for figure in found.figures] == [None, None]
    runs = list((tmp_path / "out" / "finetune").iterdir())
    assert len(runs) == 4
    assert {read_method(run).config.class_names for run in runs} == {("dark", "light")}


def test_settings_that_are_not_its_own_are_refused(folder):
    for change in ("seed=3", "method.num_classes=7", "method.encoder.depth=1"):
        with pytest.raises(ConfigError, match="come from the encoder"):
            measured(folder, None, FineTuned(change=(change,)))
    for shots in ("nan%", "inf%", "0", "-3", "many"):
        (figure,) = measured(folder, None, FineTuned(change=QUICK, shots=shots), has_controls=False).figures
        assert "is a share or a number" in figure.error


def test_settings_of_a_task_that_is_not_measured_are_refused(folder, tmp_path):
    write_encoders(tmp_path / "encoder", {"target": ENCODER}, {})
    line = ["evaluate", str(tmp_path / "encoder"), "--data", str(folder), "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match=r"Add them: --tasks \.\.\. finetune"):
        cli.run([*line, "--finetune.shots", "5"])
    shots = ["--finetune.shots", "5", "--finetune.draws", "1", "--finetune.change", *QUICK]
    cached = ["--cache", str(tmp_path / "cache"), "--workers", "0", "--device", "cpu"]
    assert cli.run([*line, "--tasks", "finetune", *shots, *cached]) == 0
