"""What `auto` chooses, from images, device and budget."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import openjepa
from openjepa import cli
from openjepa.errors import ConfigError, DataError
from openjepa.recipes import auto
from openjepa.training.recipe import Length
from tests.data.test_check import Drawn
from tests.training.conftest import make_images


class Sized(Drawn):
    """Images of a height and a width."""

    def __init__(self, count, height, width):
        super().__init__(count)
        self.shape = (height, width, 3)

    def __getitem__(self, index):
        return replace(super().__getitem__(index), image=np.zeros(self.shape, np.uint8))


@pytest.mark.parametrize(
    ("shape", "size", "patch"),
    [((32, 32), 32, 4), ((28, 28), 28, 4), ((64, 64), 64, 8), ((45, 60), 45, 5), ((480, 640), 96, 12), ((8, 9), 8, 1)],
)
def test_crops_follow_the_images_and_lose_few_of_their_pixels(shape, size, patch):
    choice = auto.auto(Sized(500, *shape), Length(images=50_000))
    vit = choice.recipe.method.encoder
    assert (vit.image_size, vit.patch) == ((size, size), patch)
    assert choice.recipe.mistakes() == []
    assert (
        f"500 images, mostly {shape[1]} x {shape[0]}: crops of {size} pixels in patches of {patch}" in choice.reasons[0]
    )


def test_longer_runs_have_larger_encoders_and_batches():
    source = Sized(5_000, 32, 32)
    lengths = [Length(images=30_000), Length(images=100_000), Length(epochs=60), Length(images=3_000_000)]
    recipes = [auto.auto(source, length).recipe for length in lengths]
    widths = [recipe.method.encoder.width for recipe in recipes]
    assert widths == [128, 128, 192, 256]
    assert [recipe.batch_size for recipe in recipes] == [64, 64, 128, 256]
    rates = [recipe.optim.lr for recipe in recipes]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3 * 2**0.5, 2e-3])
    assert auto.auto(source, lengths[0], encoder="small").recipe.method.encoder.width == 384


def test_minutes_are_counted_at_the_speed_of_the_machine(monkeypatch):
    speeds = {128: 1_000.0, 192: 400.0, 256: 100.0}
    asked = []

    def speed(method, optim, batch_size, seconds, device):
        asked.append((method.encoder.width, device))
        return speeds[method.encoder.width]

    monkeypatch.setattr(auto, "images_per_second", speed)
    source = Sized(5_000, 32, 32)
    choice = auto.auto(source, Length(minutes=20), "cpu")
    assert choice.recipe.method.encoder.width == 192  # 408,000 images; 102,000 are too few for the next
    assert asked == [(128, "cpu"), (192, "cpu"), (256, "cpu")]
    assert (
        "encoder nano: 400 images/s on this CPU, so about 408,000 images in 20 minutes, 81.6 times each"
        in choice.reasons
    )
    assert choice.recipe.length == Length(minutes=20)
    assert auto.auto(source, Length(minutes=1), "cpu").recipe.method.encoder.width == 128
    assert auto.auto(source, None, "cpu").recipe.length == Length(minutes=30)


def test_what_cannot_be_learnt_from_is_refused():
    with pytest.raises(DataError, match="8 images are too few to learn from; auto needs 32"):
        auto.auto(Drawn(8), Length(steps=100))
    with pytest.raises(DataError, match="images of 6 pixels are too small"):
        auto.auto(Sized(100, 6, 20), Length(steps=100))


def test_a_folder_alone_is_enough_and_the_same_command_goes_on(tmp_path, capsys):
    images = make_images(tmp_path)
    command = ["pretrain", str(images), "--steps", "12", "--out", str(tmp_path / "run"), "--speed.workers", "0",
               "--watch.probes", "0", "--watch.health-images", "16", "--method.encoder.depth", "1"]  # fmt: skip
    assert cli.run(command) == 0
    said = capsys.readouterr().out
    assert "auto: 60 images" in said
    assert "auto: encoder pico: about 1,536 images in 12 steps, 25.6 times each" in said
    document = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (document["recipe"]["name"], document["recipe"]["method"]["encoder"]["depth"]) == ("auto", 1)
    assert cli.run(command) == 0
    assert "as chosen when the run" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="other settings"):
        cli.run([*command[:3], "13", *command[4:]])


def test_it_is_the_default_in_python_too(tmp_path, capsys):
    result = openjepa.pretrain(
        str(make_images(tmp_path)), out=tmp_path / "run", steps=12, method__encoder__depth=1, speed__workers=0,
        speed__device="cpu", watch__health_images=16, probe_data="none",
    )  # fmt: skip
    assert result.is_finished
    assert "auto: 60 images" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="exactly one"):
        openjepa.pretrain(str(tmp_path / "images"), out=tmp_path / "other", steps=12, epochs=1)
