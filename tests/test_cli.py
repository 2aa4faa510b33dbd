"""The command line, as a user types it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openjepa import cli
from openjepa.errors import ConfigError, DataError
from openjepa.masking import MultiBlock, Random
from tests.training.conftest import make_images

SMALL = [
    "--batch-size", "8", "--watch.probes", "1", "--watch.health-images", "16", "--watch.probe-bank", "40",
    "--watch.probe-test", "10", "--speed.workers", "0", "--encoder", "pico", "--method.encoder.depth", "1",
]  # fmt: skip


def test_pretrain_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = make_images(tmp_path), tmp_path / "run"
    command = ["pretrain", "--data", str(images), "--out", str(out), "--steps", "12", *SMALL]
    assert cli.run(command) == 0
    said = capsys.readouterr().err
    assert "starting at step 0" in said
    assert "20-NN" in said
    assert "untrained" in said
    assert "pixels" in said
    assert cli.run(command) == 0
    assert "resuming from" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"recipe\.seed: 0 -> 3"):
        cli.run([*command, "--seed", "3"])


def test_a_folder_of_eight_or_of_one_colour_and_a_budget_of_three_steps_end_in_a_sentence(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    for folder, images in (("eight", noise[:8]), ("grey", np.full_like(noise, 90)), ("good", noise)):
        (tmp_path / folder).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / folder / f"{number}.png")
    out = tmp_path / "run"
    for folder, length, kind, says in (
        ("eight", ["--minutes", "1"], DataError, "8 images are too few to learn from; auto needs 32"),
        ("grey", ["--minutes", "1"], DataError, "each of 16 images tried is of one colour"),
        ("grey", ["--minutes", "1", "--recipe", "ijepa_cifar10_cpu"], DataError, "of one colour"),
        ("good", ["--steps", "3"], ConfigError, "at least 10 are needed"),
        ("good", ["--minutes", "0.0001"], ConfigError, "at least 10 are needed"),
    ):
        with pytest.raises(kind, match=says):
            cli.run(["pretrain", str(tmp_path / folder), *length, "--speed.workers", "0", "--out", str(out)])
        assert '"kind": "train"' not in "".join(file.read_text() for file in out.glob("metrics.jsonl"))
        shutil.rmtree(out, ignore_errors=True)


def test_flags_choose_defaults_and_change_them() -> None:
    given = cli.parse_pretrain(
        ["--data", "x", "--recipe", "ijepa_in1k_vitb16", "--encoder=small", "--masking", "random", "--minutes", "5",
         "--method.masking.scale", "0.5", "--method.predictor.depth", "3", "--optim.clip", "1"]
    )  # fmt: skip
    assert given.settings.method.encoder.width == 384
    assert given.settings.method.encoder.image_size == (224, 224)
    assert given.settings.method.masking == Random(scale=0.5)
    assert given.settings.method.predictor.depth == 3
    assert given.settings.optim.clip == 1
    assert given.minutes == 5


def test_the_images_come_first_or_last(capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--recipe", "ijepa_cifar10_cpu"]
    for argv in (
        ["x", *named, "--minutes", "5"],
        [*named, "--minutes", "5", "x"],
        [*named, "--minutes=5", "x"],
        ["--data", "x", *named, "--minutes", "5"],
        [*named, "--data=x", "--minutes", "5"],
    ):
        given = cli.parse_pretrain(argv)
        assert (given.data, given.minutes) == ("x", 5)
    with pytest.raises(SystemExit):
        cli.parse_pretrain([*named, "--minutes", "5"])
    assert "--data" in capsys.readouterr().err


def test_another_method_has_its_own_flags_and_keeps_what_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    start = ["--data", "x", "--recipe", "mae_in1k_vitb16"]
    method = cli.parse_pretrain([*start, "--encoder", "small", "--method.decoder.depth", "4"]).settings.method
    assert (method.encoder.width, method.encoder.init, method.encoder.has_cls) == (384, "xavier", True)
    assert (method.decoder.depth, method.masking) == (4, Random(scale=0.75))
    assert cli.parse_pretrain([*start, "--masking", "random"]).settings.method.masking == Random(scale=0.75)
    chosen = cli.parse_pretrain([*start, "--masking", "multiblock", "--method.masking.num-targets", "2"])
    assert chosen.settings.method.masking == MultiBlock(num_targets=2)
    with pytest.raises(SystemExit):
        cli.run(["pretrain", "--recipe", "mae_cifar10_cpu", "--help"])
    said = capsys.readouterr().out
    assert all(flag in said for flag in ("--method.decoder.width", "--method.norm-pixels", "--method.masking.scale"))
    assert "--method.predictor" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "Did you mean 'pretrain'"),
        (["pretrain", "--data", "scenes", "--recipe", "ijepa_cifar"], "Did you mean"),
        (["pretrain", "--data", "scenes", "--masking", "multi"], "Did you mean"),
        (["pretrain", "--data", "scenes", "--encoder", "smal"], "Did you mean 'small'"),
        (["pretrain", "--data", "scenes", "--epochs", "1", "--steps", "5"], "exactly one"),
        (
            ["pretrain", "--data", "scenes", "--recipe", "ijepa_cifar10_cpu", "--method.encoder.patch", "5"],
            r"Try 30 for 32",
        ),
    ],
)
def test_mistakes_say_what_to_type(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cli.run([*arguments, *(["--out", str(tmp_path / "run")] if len(arguments) > 1 else [])])


def test_no_image_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"no image in this folder; only 1 \.txt"):
        cli.run(["pretrain", "--data", str(tmp_path), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert "ijepa_scenes_demo" in listed
    assert "Hardware:" in listed
    assert cli.run(["recipes", "ijepa_in1k_vith14"]) == 0
    assert "To reach:" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["masks", "scenes", "loader", "train"])
def test_bench_measures(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", what, "--seconds", "0.1", "--workers", "0", "--recipe", "ijepa_scenes_demo"]) == 0
    assert "images/s" in capsys.readouterr().out


def test_the_process_prints_one_plain_error_and_exits_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "openjepa", "pretrain", "--data", str(tmp_path / "none"), "--out", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: data = ")
    assert "Traceback" not in done.stderr


def test_help_of_every_command_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("pretrain", "recipes", "bench", "demo"):
        with pytest.raises(SystemExit) as caught:
            cli.run([command, "--help"])
        assert caught.value.code == 0
        assert len(capsys.readouterr().out) > 200


def test_no_arguments_is_a_usage_error_and_the_version_is_told(capsys):
    with pytest.raises(SystemExit):
        cli.run(["pretrain"])
    assert cli.run(["--version"]) == 0
    assert "openjepa 0." in capsys.readouterr().out


def test_ctrl_c_is_one_plain_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "stopped; what was saved is kept, and the same command goes on from there\n"
