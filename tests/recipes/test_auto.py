"""What `auto` chooses, from images, device and budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import openjepa
from openjepa import cli, distributed
from openjepa.errors import ConfigError, DataError
from openjepa.masking import MultiBlock
from openjepa.recipes import auto
from openjepa.recipes.auto import Wish
from openjepa.training.recipe import Length
from openjepa.vision.vit import vit
from tests.data.test_check import Drawn
from tests.training.conftest import make_images


def drawn(shape):
    image = np.zeros(shape, np.uint8)
    image[1:3] = 200
    return image


class Sized(Drawn):
    """Images of a height and a width."""

    def __init__(self, count, height, width):
        super().__init__(count)
        self.shape = (height, width, 3)

    def __getitem__(self, index):
        return replace(super().__getitem__(index), image=drawn(self.shape))


@pytest.mark.parametrize(
    ("shape", "size", "patch"),
    [((32, 32), 32, 4), ((28, 28), 28, 4), ((64, 64), 64, 8), ((45, 60), 45, 5), ((480, 640), 96, 12), ((8, 9), 8, 1)],
)
def test_crops_follow_the_images_and_lose_few_of_their_pixels(shape, size, patch):
    choice = auto.auto(Sized(500, *shape), Wish(Length(images=50_000)))
    shown = choice.recipe.method.encoder
    assert (shown.image_size, shown.patch) == ((size, size), patch)
    assert choice.recipe.mistakes() == []
    assert choice.reasons[0].startswith(f"500 images, median {shape[1]} x {shape[0]}: crops of {size} pixels, ")
    assert choice.reasons[0].endswith(f" patches of {patch}")


def test_longer_runs_have_larger_encoders_and_batches():
    source = Sized(5_000, 32, 32)
    lengths = [Length(images=30_000), Length(images=100_000), Length(epochs=400), Length(images=6_000_000)]
    recipes = [auto.auto(source, Wish(length, "cpu")).recipe for length in lengths]
    widths = [recipe.method.encoder.width for recipe in recipes]
    assert widths == [128, 128, 192, 256]
    assert [recipe.batch_size for recipe in recipes] == [32, 32, 64, 256]
    rates = [recipe.optim.lr for recipe in recipes]
    assert rates == pytest.approx([2e-3, 2e-3, 2e-3, 4e-3])
    assert recipes[1].method.momentum == pytest.approx(
        (1 - 0.005 * (600 / 3125) ** 0.5, 1 - 0.001 * (600 / 3125) ** 0.5)
    )
    assert recipes[2].method.momentum[0] > recipes[1].method.momentum[0]
    assert [recipe.watch.probes for recipe in recipes] == [10, 10, 10, 10]
    short = [auto.auto(source, Wish(Length(images=images), "cpu")).recipe for images in (1_000, 2_000, 5_000)]
    assert [recipe.watch.probes for recipe in short] == [1, 3, 7]
    assert auto.auto(source, Wish(lengths[0], encoder="small")).recipe.method.encoder.width == 384


def test_masks_schedule_and_their_reasons_are_told():
    choice = auto.auto(Sized(5_000, 28, 28), Wish(Length(images=102_400), "cpu"))
    recipe = replace(choice.recipe, method=replace(choice.recipe.method, encoder=vit("pico", 28, 4)))
    _, encoder, batch, masks, course = replace(choice, recipe=recipe).told()
    assert encoder.startswith("encoder pico on cpu: about 102,400 images, 20.5 times each; nano would see 102,400, ")
    assert batch.startswith("batches of 32, 3,200 steps or so (few images a step, for many steps); learning rate 0.002")
    shown = recipe.method.masking.sample((7, 7), seed=0, step=0, first=0, count=1)
    assert masks.startswith(f"context of {shown.context.shape[1]} of the 49 patches, the others scattered targets (on ")
    first, last = recipe.method.momentum
    assert course == (
        f"learning rate up for 5% of the run, then down a cosine; target momentum {first:.4f} to {last:.4f}; "
        "anti-collapse term 0.1 to 0"
    )


def test_reasons_are_told_of_what_is_run_and_of_nothing_else():
    choice = auto.auto(Sized(5_000, 32, 32), Wish(Length(images=102_400), "cpu"))
    ours = choice.recipe

    def told(final):
        return "\n".join(choice.told(final))

    blocks = told(replace(ours, method=replace(ours.method, masking=MultiBlock())))
    assert "scattered" not in blocks
    assert f"as you set it: method.masking: {ours.method.masking} -> MultiBlock(" in blocks
    less = told(replace(ours, method=replace(ours.method, masking=replace(ours.method.masking, scale=0.5))))
    assert "context of 32 of the 64 patches, the others scattered targets\n" in less
    assert "as you set it: method.masking.scale: 0.75 -> 0.5" in less
    plain = told(replace(ours, method=replace(ours.method, regulariser="none", momentum=(0.9, 0.95))))
    assert "anti-collapse" not in plain.split("as you set it")[0]
    assert "target momentum 0.9000 to 0.9500" in plain
    fast = told(replace(ours, optim=replace(ours.optim, lr=0.5, warmup=0.2), batch_size=100))
    assert "batches of 100, 1,024 steps or so; learning rate 0.5\n" in fast
    assert "up for 20% of the run" in fast


def test_batch_and_rate_say_where_they_come_from():
    source = Sized(50, 32, 32)
    many, cpu = Sized(5_000, 32, 32), distributed.start("cpu")

    def batch(source, **wish):
        return auto.auto(source, Wish(device="cpu", **wish)).told()[2]

    assert "batches of 32, 100 steps or so (no more than there are images)" in batch(source, length=Length(steps=100))
    found = batch(many, length=Length(steps=100))
    assert "batches of 128, 100 steps or so (for a length in steps); learning rate 0.0028" in found
    assert "(ijepa_cifar10_cpu's, by the root of the batch from 32 to 64 on)" in found
    assert "batches of 40, 25 steps or so (as you set it); learning rate 0.002 (ijepa_cifar10_cpu's)" in batch(
        many, length=Length(images=1_000), batch_size=40
    )
    assert auto.batch_for(Length(minutes=5), auto.STEPS * 64, cpu) == (64, f"the most that leaves {auto.STEPS:,} steps")
    for limit in ("Batch: 32 on a CPU, 64 on a GPU", f"{auto.STEPS:,} steps", "Masks: 75% of the patches"):
        assert limit in auto.limits()


def test_minutes_are_counted_at_the_speed_of_the_machine(monkeypatch):
    speeds = {128: 1_000.0, 192: 900.0, 256: 100.0}
    asked = []

    def trained(shape, world, wish):
        asked.append(shape.width)
        return speeds[shape.width]

    monkeypatch.setattr(auto, "trained_per_second", trained)
    monkeypatch.setattr(auto, "loaded_per_second", lambda *args: 1e9)
    source = Sized(5_000, 32, 32)
    choice = auto.auto(source, Wish(Length(minutes=30), "cpu"))
    assert choice.recipe.method.encoder.width == 192  # 1,377,000 images; 153,000 are too few for the next
    assert asked == [128, 192, 256]
    said = "encoder nano on cpu: 900 images/s here, so about 1,377,000 images in 30 minutes, 275.4 times each"
    said += "; micro would see 153,000, and is taken from 4,000,000 on"
    assert said in choice.told()
    assert choice.recipe.length == Length(minutes=30)
    assert auto.auto(source, Wish(Length(minutes=1), "cpu")).recipe.method.encoder.width == 128
    assert auto.auto(source, Wish(device="cpu")).recipe.length == Length(minutes=30)


def test_the_speed_is_that_of_the_slower_of_training_and_loading_times_the_processes(monkeypatch):
    source, length = Sized(1_000, 32, 32), Length(minutes=10)
    shape, world, wish = vit("pico", 32, 4), distributed.start("cpu"), Wish(length, "cpu", workers=0)
    monkeypatch.setattr(auto, "trained_per_second", lambda *args: 50.0)
    for loading, size, speed in ((70.0, 1, 50), (20.0, 1, 20), (70.0, 3, 150)):
        monkeypatch.setattr(auto, "loaded_per_second", lambda *args, loading=loading: loading)
        _, seen, why = auto.chosen_encoder({"pico": shape}, source, length, replace(world, size=size), wish)
        assert seen == pytest.approx(speed * 0.85 * 600)
        assert f"encoder pico on {'3 x ' * (size == 3)}cpu: {speed} images/s here" in why


def test_training_and_loading_are_measured(monkeypatch):
    shape, world = vit("pico", 32, 4), distributed.start("cpu")
    monkeypatch.setattr(auto, "MEASURED_S", 0.1)
    assert 1 < auto.trained_per_second(shape, world, Wish()) < 1e5
    alone = auto.loaded_per_second(shape, Sized(100, 32, 32), Wish(workers=0))
    assert 10 < alone < 1e6
    monkeypatch.setattr(auto.time, "perf_counter", iter([0.0, 2.0, 0.0, 2.0]).__next__)
    assert auto.loaded_per_second(shape, Sized(100, 32, 32), Wish(workers=0)) == 8
    assert auto.loaded_per_second(shape, Sized(100, 32, 32), Wish(workers=3)) == 24


def test_batches_can_be_shared_by_the_processes():
    world = distributed.start("cpu")
    found = [auto.batch_for(Length(minutes=5), auto.STEPS * 64, replace(world, size=n))[0] for n in (1, 2, 3, 12)]
    assert found == [64, 64, 66, 72]
    assert [auto.batch_for(Length(steps=5), 640, world, count)[0] for count in (60, 100, 500)] == [32, 64, 128]
    assert auto.batch_for(Length(steps=5), 640, replace(world, size=3), given=100)[0] == 100  # refused by the run
    for kind in ("cuda:0", "mps"):
        other = replace(world, device=torch.device(kind))
        assert [auto.batch_for(Length(minutes=5), seen, other)[0] for seen in (0, auto.STEPS * 256)] == [64, 256]


def test_given_weights_keep_their_shape_and_get_a_lower_rate():
    start = vit("small", 224, 16)
    choice = auto.auto(Sized(500, 300, 400), Wish(Length(images=50_000), "cpu", start=start))
    method = choice.recipe.method
    assert (method.encoder.width, method.encoder.image_size, method.encoder.patch) == (384, (224, 224), 16)
    assert method.predictor.width == 192
    assert choice.recipe.optim.lr == pytest.approx(2e-4)
    assert "learning rate 0.0002 (ijepa_cifar10_cpu's, times 0.1 as the encoder is not fresh)" in choice.told()[2]
    assert "crops of 224 pixels, 14 x 14 patches of 16" in choice.reasons[0]


def test_a_stream_has_no_epochs():
    class Stream(Sized):
        is_sequential = True

        def __len__(self):
            raise DataError("a stream")

    stream = Stream(100, 32, 32)
    with pytest.raises(ConfigError, match="Give --images, --steps or --minutes"):
        auto.auto(stream, Wish(Length(epochs=3)))
    assert "a stream of images" in auto.auto(stream, Wish(Length(images=50_000))).reasons[0]


def test_what_cannot_be_learnt_from_is_refused():
    with pytest.raises(DataError, match="8 images are too few to learn from; auto needs 32"):
        auto.auto(Drawn(8), Wish(Length(steps=100)))
    with pytest.raises(DataError, match="images of 6 pixels are too small"):
        auto.auto(Sized(100, 6, 20), Wish(Length(steps=100)))
    for length in (Length(minutes=float("inf")), Length(epochs=float("nan")), Length(steps=-3)):
        with pytest.raises(ConfigError, match="must be above 0 and finite"):
            auto.auto(Drawn(100), Wish(length))
    for size in (-5, True):
        with pytest.raises(ConfigError, match=f"batch_size = {size}: must be a whole number from 1"):
            auto.auto(Drawn(100), Wish(Length(images=50_000), batch_size=size))
    with pytest.raises(ConfigError, match="minutes = 'x'"):
        openjepa.pretrain("scenes", minutes="x")
    with pytest.raises(ConfigError, match=r"method\.encoder\.mean = 0\.5: must be a list"):
        openjepa.pretrain("scenes", method__encoder__mean=0.5)


def test_a_folder_alone_is_enough_and_the_same_command_goes_on(tmp_path, capsys):
    images = make_images(tmp_path)
    command = ["pretrain", str(images), "--steps", "12", "--out", str(tmp_path / "run"), "--speed.workers", "0",
               "--watch.probes", "0", "--watch.health-images", "16", "--method.encoder.depth", "1"]  # fmt: skip
    assert cli.run(command) == 0
    said = capsys.readouterr().out
    assert "auto: 60 images" in said
    assert "about 384 images in 12 steps, 6.4 times each" in said
    assert "auto: batches of 32, 12 steps or so" in said
    document = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (document["recipe"]["name"], document["recipe"]["method"]["encoder"]["depth"]) == ("auto", 1)
    assert cli.run(command) == 0
    said = capsys.readouterr().out
    assert "as chosen when the run" in said
    assert "auto: batches of 32; learning rate 0.002\n" in said
    assert "auto: context of 20 of the 81 patches, the others scattered targets\n" in said
    with pytest.raises(ConfigError, match="other settings"):
        cli.run([*command[:3], "13", *command[4:]])
    with pytest.raises(ConfigError, match=r"method\.encoder\.width: 128 -> 384"):
        cli.run([*command, "--encoder", "small"])


def test_it_tells_what_the_flags_make_of_its_choice(tmp_path, capsys):
    command = ["pretrain", str(make_images(tmp_path)), "--steps", "10", "--out", str(tmp_path / "run"),
               "--speed.workers", "0", "--watch.probes", "0", "--watch.health-images", "16", "--batch_size=8",
               "--method.encoder.depth", "1", "--optim.lr", "1e-4"]  # fmt: skip
    assert cli.run(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "auto: batches of 8, 10 steps or so (as you set it); learning rate 0.0001 auto: context of " in said
    assert "auto: as you set it: method.encoder.depth: 6 -> 1; optim.lr: " in said
    assert " -> 0.0001" in said


def test_another_name_or_device_does_not_stop_a_run_from_going_on(tmp_path, capsys):
    images, out = make_images(tmp_path), tmp_path / "run"
    command = ["pretrain", str(images), "--steps", "10", "--out", str(out), "--speed.workers", "0", "--name", "cats",
               "--watch.probes", "0", "--watch.health-images", "16", "--method.encoder.depth", "1"]  # fmt: skip
    assert cli.run(command) == 0
    stored = json.loads((out / "recipe.json").read_text())
    stored["recipe"]["speed"]["device"] = "cuda:7"  # begun on another machine
    (out / "recipe.json").write_text(json.dumps(stored))
    capsys.readouterr()
    assert cli.run([*command, "--speed.device", "cpu"]) == 0
    assert "as chosen when the run" in capsys.readouterr().out


def test_arrays_of_other_channel_counts_and_a_batch_of_ones_own(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(40):
        np.save(tmp_path / f"{i}.npy", rng.integers(0, 256, (20, 20, 5), dtype=np.uint8))
    few = ["--steps", "10", "--speed.workers", "0", "--watch.probes", "0", "--watch.health-images", "16",
           "--batch-size", "4", "--out", str(tmp_path / "run")]  # fmt: skip
    with pytest.raises(DataError, match=r"--method\.encoder\.mean"):
        cli.run(["pretrain", str(tmp_path), *few])
    statistics = [word for name in ("mean", "std") for word in (f"--method.encoder.{name}", *["0.5"] * 5)]
    assert cli.run(["pretrain", str(tmp_path), *few, *statistics]) == 0
    assert "batches of 4, 10 steps or so (as you set it); learning rate 0.00071" in capsys.readouterr().out


def test_it_trains_under_torchrun(tmp_path):
    images = make_images(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "openjepa",
               "pretrain", str(images), "--minutes", "0.1", "--out", str(tmp_path / "run"), "--speed.device", "cpu",
               "--speed.workers", "0", "--watch.probes", "0", "--watch.health-images", "16", "--batch-size", "4",
               "--encoder", "pico", "--method.encoder.depth", "1"]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("auto: encoder pico") == 1


UNEQUAL = """
import json, os, sys
from openjepa.config import to_dict
from openjepa.data.source import open_source
from openjepa.recipes import auto
from openjepa.training.recipe import Length

auto.loaded_per_second = lambda *args: 1e9
auto.trained_per_second = lambda *args: 50.0 * (1 + int(os.environ["RANK"]))
wish = auto.Wish(Length(minutes=10), "cpu", workers=0)
print(json.dumps(to_dict(auto.auto(open_source(sys.argv[1]), wish).recipe)), flush=True)
"""


def test_processes_of_unequal_speed_choose_alike(tmp_path):
    script = tmp_path / "unequal.py"
    script.write_text(UNEQUAL)
    images = make_images(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--log-dir",
               str(tmp_path / "logs"), "--redirects=3", str(script), str(images)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=120)
    logs = sorted((tmp_path / "logs").rglob("stdout.log"))
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads(log.read_text()) for log in logs)
    assert first == second
    slowest = auto.shaped(vit("pico", 32, 4), 32, Length(minutes=10), Wish(), 2 * 50 * 0.85 * 600 / 32)
    assert first["method"]["momentum"] == pytest.approx(slowest.method.momentum)


def test_it_is_the_default_in_python_too(tmp_path, capsys):
    result = openjepa.pretrain(
        str(make_images(tmp_path)), out=tmp_path / "run", steps=12, method__encoder__depth=1, speed__workers=0,
        speed__device="cpu", watch__health_images=16, probe_data="none",
    )  # fmt: skip
    assert result.is_finished
    assert "auto: 60 images" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="exactly one"):
        openjepa.pretrain(str(tmp_path / "images"), out=tmp_path / "other", steps=12, epochs=1)
