"""A comparison from end to end: in slices, stopped and gone on with, with a run that diverges."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import statistics
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from openjepa import cli
from openjepa.comparison import run
from openjepa.comparison.cost import gflops_per_image
from openjepa.comparison.figures import draw
from openjepa.comparison.plan import Backbone, on, plan
from openjepa.comparison.run import compare
from openjepa.comparison.table import cells, show
from openjepa.comparison.terms import Probing
from openjepa.data.scenes import Scenes
from openjepa.errors import ConfigError, DataError
from openjepa.training import loop
from openjepa.training.recipe import Length, Speed, Watch
from openjepa.training.saved import read_method
from openjepa.vision.vit import ViTConfig
from tests.training.conftest import make_images

SMALL = Backbone("pico", 16, 4, 8)
NO_PROBES = Probing((), cache=None, device="cpu", workers=0)
PROBING = Probing(("knn", "linear"), cache=None, device="cpu", workers=0)


@pytest.fixture(autouse=True)
def no_patience_with_locks(monkeypatch):
    monkeypatch.setattr("openjepa.training.checkpoints.LOCK_PATIENCE_S", 0.0)


def entries(methods=("ijepa", "mae"), steps=10, length=None, points=2, **more):
    found = plan(methods, length or Length(steps=steps), SMALL, points=points, **more)
    quick = Speed(device="cpu", workers=0)
    watch = Watch(probes=2, health_images=16, log_every=4)
    shape = ViTConfig(image_size=(16, 16), patch=4, width=16, depth=2, heads=2)
    return [
        replace(entry, recipe=replace(entry.recipe, method=on(entry.recipe.method, shape), speed=quick, watch=watch))
        for entry in found
    ]


def test_every_run_gets_figures_a_curve_and_costs_and_slices_change_nothing(tmp_path):
    images = make_images(tmp_path)
    whole = compare(entries(), str(images), None, tmp_path / "whole", probing=PROBING, is_quiet=True)
    sliced = compare(
        entries(), str(images), None, tmp_path / "sliced", probing=PROBING, slice_minutes=1e-9, is_quiet=True
    )
    for outcome, again in zip(whole.outcomes, sliced.outcomes, strict=True):
        assert outcome.course.status == "finished"
        assert outcome.images == 80
        assert outcome.course.seconds > 0
        assert {(figure["task"], figure["question"]) for figure in outcome.figures} == {
            ("knn", "class"), ("linear", "class"),
        }  # fmt: skip
        assert [point["step"] for point in outcome.points] == [0, 5, 10]
        assert outcome.points[-1]["gflops"] == pytest.approx(80 * outcome.gflops_per_image)
        for when, kinds in outcome.energies.items():
            pairs = [(s < a) + 0.5 * (s == a) for s in kinds["same"] for a in kinds["another"]]
            assert len(pairs) == len(kinds["same"]) ** 2 >= 100
            assert outcome.auroc[when] == pytest.approx(statistics.mean(pairs), abs=1e-3)
        assert set(outcome.auroc) == {"before", "after"}
        assert outcome.energies["before"] != outcome.energies["after"]
        for one, other in zip(outcome.figures, again.figures, strict=True):
            assert one["score"]["value"] == other["score"]["value"]
    one, other = (read_method(tmp_path / name / "mae-seed0").state_dict() for name in ("whole", "sliced"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows = {control["row"] for control in whole.controls}
    assert "raw pixels" in rows
    assert any(row.startswith("untrained") for row in rows)
    written = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert [outcome["name"] for outcome in written["outcomes"]] == ["ijepa-seed0", "mae-seed0"]


def test_a_run_that_diverges_is_an_outcome(tmp_path):
    settings = {"optim.lr": [1e-3, 1e30], "optim.lr_start": [1e-3]}
    found = compare(
        [
            replace(entry, recipe=replace(entry.recipe, watch=replace(entry.recipe.watch, max_skipped=2)))
            for entry in entries(("mae",), settings=settings)
        ],
        str(make_images(tmp_path)), None, tmp_path / "out", probing=PROBING, is_quiet=True,
    )  # fmt: skip
    fine, bad = found.outcomes
    assert fine.figures
    assert bad.course.status == "failed"
    assert "not finite" in bad.course.reason
    (verdict,) = [line for line in cells(found) if line[0] == "verdict"]
    assert verdict[-1] == "diverged (1 of 1 failed)"
    assert bad.figures == []


def test_runs_take_turns(tmp_path, monkeypatch):
    real, order = run._slice, []

    def one_slice(entry, *args):
        order.append(entry.variant)
        return real(entry, *args)

    monkeypatch.setattr(run, "_slice", one_slice)
    compare(entries(), str(make_images(tmp_path)), None, tmp_path / "out", probing=NO_PROBES, slice_minutes=1e-9)
    assert order == ["ijepa", "mae"] * 10


def test_a_bar_moves_while_its_run_trains(tmp_path, monkeypatch):
    moves, real = [], run.pretrain

    class Watched(Progress):
        def update(self, task_id, **more):
            moves.append((int(task_id), more.get("completed")))
            super().update(task_id, **more)

    def pretrained(*args, **more):
        moves.append("trains")
        return real(*args, **more)

    monkeypatch.setattr(run, "_bars", lambda is_quiet: Watched(disable=True))
    monkeypatch.setattr(run, "pretrain", pretrained)
    compare(entries(points=0), str(make_images(tmp_path)), None, tmp_path / "out", probing=NO_PROBES)
    assert moves[2:6] == ["trains", (0, 0.4), (0, 0.8), (0, 1.0)]
    assert moves[7:11] == ["trains", (1, 0.4), (1, 0.8), (1, 1.0)]


@pytest.mark.parametrize(
    "error", [DataError("the disk is gone"), torch.OutOfMemoryError("too large"), MemoryError("no")]
)
def test_what_ends_one_run_leaves_the_others(tmp_path, monkeypatch, error):
    real = run.pretrain

    def pretrain(recipe, *args, **kwargs):
        if recipe.name == "mae":
            raise error
        return real(recipe, *args, **kwargs)

    monkeypatch.setattr(run, "pretrain", pretrain)
    images, probing = str(make_images(tmp_path)), replace(PROBING, tasks=("knn",))
    found = compare(entries(), images, None, tmp_path / "out", probing=probing, is_quiet=True)
    assert [outcome.course.status for outcome in found.outcomes] == ["finished", "failed"]
    assert found.outcomes[0].figures
    assert found.outcomes[1].course.reason == str(error)
    monkeypatch.setattr(run, "pretrain", real)
    found = compare(entries(), images, None, tmp_path / "out", probing=probing, is_quiet=True)
    assert [outcome.course.status for outcome in found.outcomes] == ["finished", "finished"]


def test_without_tasks_and_points_there_are_costs_and_energies(tmp_path):
    images = str(make_images(tmp_path) / "dark")  # no labels
    entry = replace(entries(("ijepa",))[0])
    entry = replace(entry, recipe=replace(entry.recipe, keep=replace(entry.recipe.keep, milestones=0)))
    found = compare([entry], images, None, tmp_path / "out", probing=NO_PROBES, is_quiet=True)
    (outcome,) = found.outcomes
    assert (outcome.figures, outcome.points, found.controls) == ([], [], [])
    assert outcome.auroc
    assert outcome.course.peak_mib
    draw(found, tmp_path / "out")
    assert (tmp_path / "out" / "energies.png").exists()
    assert not (tmp_path / "out" / "figures.png").exists()
    assert cells(found)[0] == ["", "ijepa"]


def test_probes_learn_from_as_many_images_as_asked(tmp_path):
    images = str(make_images(tmp_path))
    probing = replace(PROBING, tasks=("knn",), most_train=20, most_test=10)
    found = compare(entries(("mae",), points=0), images, None, tmp_path / "out", probing=probing, is_quiet=True)
    value = found.outcomes[0].figures[0]["score"]["value"]
    assert value * 10 == pytest.approx(round(value * 10))
    with pytest.raises(ConfigError, match="probe_images = 0: must be from 10"):
        compare(entries(), images, None, tmp_path / "two", probing=replace(PROBING, most_train=0), is_quiet=True)


def test_under_torchrun_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        compare(entries(), str(make_images(tmp_path)), None, tmp_path / "out", probing=PROBING, is_quiet=True)


def test_a_signal_stops_it_and_the_same_call_goes_on(tmp_path, monkeypatch):
    images, out = make_images(tmp_path), tmp_path / "out"
    real, calls = loop.save, []

    def save(*args, **kwargs):
        calls.append(args)
        os.kill(os.getpid(), signal.SIGTERM)
        real(*args, **kwargs)

    monkeypatch.setattr(loop, "save", save)
    assert compare(entries(), str(images), None, out, probing=PROBING, slice_minutes=1e-9, is_quiet=True) is None
    assert len(calls) == 1
    assert not (out / "mae-seed0").exists()
    monkeypatch.setattr(loop, "save", real)
    found = compare(entries(), str(images), None, out, probing=PROBING, is_quiet=True)
    assert [outcome.course.status for outcome in found.outcomes] == ["finished", "finished"]


def test_a_budget_of_fewer_than_ten_steps_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least 10"):
        compare(entries(steps=9), str(make_images(tmp_path)), None, tmp_path / "out", probing=PROBING, is_quiet=True)


def test_arithmetic_is_counted_as_by_hand():
    (entry,) = entries(("mae",))
    method = entry.recipe.method
    vit, decoder = method.encoder, method.decoder

    def block(length, width):
        return 2 * length * width * 12 * width + 4 * length * length * width

    patches, masked = 16, 12
    seen = patches - masked + vit.has_cls
    forward = 2 * (patches - masked) * 48 * vit.width + vit.depth * block(seen, vit.width)
    forward += 2 * seen * vit.width * decoder.width + decoder.depth * block(seen + masked, decoder.width)
    forward += 2 * masked * decoder.width * 48
    # a backward pass is twice the forward one, but the images need no gradient
    expected = 3 * forward - 2 * (patches - masked) * 48 * vit.width
    assert gflops_per_image(entry.recipe) == pytest.approx(expected / 1e9, rel=1e-6)


def test_the_command_line_writes_table_curves_and_pictures(tmp_path, capsys):
    cache = tmp_path / "scenes"
    Scenes(60, (16, 16), 0, 3, cache=cache)
    line = ["compare", "--methods", "ijepa", "--data", f"scenes?num_images=60&size=16&cache={cache}", "--steps", "10",
            "--encoder", "pico", "--image-size", "16", "--patch", "4", "--batch-size", "8", "--points", "1",
            "--tasks", "knn", "--workers", "0", "--encoders", "pico", "nano",
            "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]  # fmt: skip
    assert cli.run(line) == 0
    said = capsys.readouterr().out
    for words in ("20-NN", "num_objects", "depth", "images seen", "GFLOP an image", "energy AUROC"):
        assert words in said
    for name in ("results.json", "table.csv", "curves.csv", "curves.png", "figures.png", "energies.png", "scaling.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    with (tmp_path / "out" / "curves.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "10", "0", "10"]


def test_another_plan_or_data_in_the_same_folder_is_refused_before_anything_is_trained(tmp_path):
    images = make_images(tmp_path)
    compare(entries(("mae",)), str(images), None, tmp_path / "out", probing=PROBING, is_quiet=True)
    with pytest.raises(ConfigError, match=r"mae: .*other settings"):
        compare(entries(("mae",), steps=20), str(images), None, tmp_path / "out", probing=PROBING, is_quiet=True)
    (images / "dark" / "00.png").unlink()
    with pytest.raises(ConfigError, match=r"mae: .*other settings"):
        compare(entries(("mae",)), str(images), None, tmp_path / "out", probing=PROBING, is_quiet=True)


def test_fewer_runs_in_the_same_folder_are_refused_and_more_are_not(tmp_path):
    images = str(make_images(tmp_path))
    for methods in (("mae",), ("mae", "ijepa")):
        compare(entries(methods), images, None, tmp_path / "out", probing=NO_PROBES, is_quiet=True)
    with pytest.raises(ConfigError, match=r"more runs \(mae-seed0\).*another --out"):
        compare(entries(("ijepa",)), images, None, tmp_path / "out", probing=NO_PROBES, is_quiet=True)


def test_untrained_encoders_are_called_by_what_tells_them_apart():
    names = [list(run.control_names(found).values()) for found in (
        entries(("ijepa",), settings={"predictor.depth": [1, 2]}),
        plan(("ijepa", "mae"), Length(steps=10), SMALL, encoders=("pico", "nano"), fractions=(0.5, 1.0)),
        plan(("ijepa",), Length(steps=10), SMALL, settings={"encoder.init": ["rescaled", "xavier"]}),
        plan(("ijepa", "ibot"), Length(steps=10), SMALL),
    )]  # fmt: skip
    assert names[0] == ["untrained"]
    assert set(names[1]) == {f"untrained (ijepa, mae {size})" for size in ("pico", "nano")}
    assert names[2] == ["untrained (ijepa init=rescaled)", "untrained (ijepa init=xavier)"]
    assert names[3] == ["untrained (ijepa)", "untrained (ibot)"]


def test_what_cannot_be_measured_is_refused_before_anything_is_trained(tmp_path):
    images = str(make_images(tmp_path))
    with pytest.raises(ConfigError, match="Did you mean 'knn'"):
        compare(entries(), images, None, tmp_path / "out", probing=replace(PROBING, tasks=("kn",)), is_quiet=True)
    with pytest.raises(DataError, match="no answers for depth"):
        compare(entries(), images, None, tmp_path / "out", probing=replace(PROBING, tasks=("depth",)), is_quiet=True)
    dark, light = (str(tmp_path / "images" / name) for name in ("dark", "light"))
    with pytest.raises(DataError, match="no answers for knn, linear"):
        compare(entries(), dark, light, tmp_path / "out", probing=PROBING, is_quiet=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        compare(
            entries(), images, None, tmp_path / "out", probing=replace(PROBING, cache=tmp_path / "file"), is_quiet=True
        )
    assert not (tmp_path / "out").exists()


def test_seeds_have_controls_of_their_own_and_a_mean_and_spread(tmp_path):
    images = str(make_images(tmp_path))
    probing = replace(PROBING, tasks=("knn",))
    found = compare(entries(seeds=(0, 1)), images, None, tmp_path / "out", probing=probing, is_quiet=True)
    assert {(control["row"], control["seed"]) for control in found.controls} == {
        (row, seed) for row in ("raw pixels", "untrained") for seed in (0, 1)
    }
    with io.StringIO() as narrow:
        show(found, Console(file=narrow, width=60))
        assert all(cell in narrow.getvalue() for line in cells(found) for cell in line), "nothing is left out"
    table = cells(found)
    assert table[0] == ["", "raw pixels", "untrained", "ijepa", "mae"]  # which start alike
    (line,) = [line for line in table if line[0].startswith("20-NN")]
    for row, cell in zip(table[0][1:3], line[1:3], strict=True):
        values = [100 * c["score"]["value"] for c in found.controls if c["row"] == row]
        assert cell == f"{statistics.mean(values):.1f} +- {statistics.stdev(values):.1f}"
    values = [100 * o.figures[0]["score"]["value"] for o in found.outcomes if o.variant == "mae"]
    assert line[4] == f"{statistics.mean(values):.1f} +- {statistics.stdev(values):.1f}"


def test_a_run_in_minutes_alternates_and_ends_near_its_time(tmp_path):
    tuned = [
        replace(entry, recipe=replace(entry.recipe, length=Length(minutes=0.05)))
        for entry in entries(("ijepa", "ibot"))
    ]
    probing = replace(PROBING, tasks=("knn",))
    found = compare(
        tuned, str(make_images(tmp_path)), None, tmp_path / "out", probing=probing, slice_minutes=0.02, is_quiet=True
    )
    for outcome in found.outcomes:
        assert outcome.course.status == "finished"
        assert outcome.course.step >= 10
        assert 2 < outcome.course.seconds < 12
        assert [figure["row"] for figure in outcome.figures] == ["encoder"]
