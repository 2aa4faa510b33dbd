"""The Python surface: its names, and the three calls that a user makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import openjepa
from openjepa.training.recipe import Recipe
from tests.training.conftest import make_images, tiny_recipe

PUBLIC = [
    "CallableEncoder", "CheckpointError", "ConfigError", "DataError", "Encoder", "Evaluation", "Features",
    "OpenJepaError", "Recipe", "Result", "TrainingError", "__version__", "evaluate", "load_encoder", "load_method",
    "pretrain", "recipes",
]  # fmt: skip


def test_public_names_are_these() -> None:
    assert sorted(openjepa.__all__) == PUBLIC
    assert all(getattr(openjepa, name) is not None for name in PUBLIC)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> openjepa.Result:
    """One tiny run that the tests below look at."""
    directory = tmp_path_factory.mktemp("api")
    images = make_images(directory)
    return openjepa.pretrain(str(images), tiny_recipe(), directory / "run", is_quiet=True, steps=14, optim__lr=5e-4)


def test_pretrain_takes_settings(result: openjepa.Result) -> None:
    assert result.is_finished
    assert result.step == 14
    recipe = (result.directory / "recipe.json").read_text()
    assert '"lr": 0.0005' in recipe


def test_the_encoder_gives_tokens_of_any_layer_and_pooled(result: openjepa.Result) -> None:
    encoder = openjepa.load_encoder(result.directory)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    features = encoder(images)
    assert features.tokens.shape == (3, 16, 16)
    assert features.pooled.shape == (3, 16)
    torch.testing.assert_close(features.pooled, features.tokens.mean(1))
    both = encoder(images, num_layers=2)
    assert len(both.layers) == 2
    assert both.pooled.shape == (3, 32)
    torch.testing.assert_close(both.tokens, features.tokens)
    torch.testing.assert_close(encoder(images.float() / 255).tokens, features.tokens)
    assert not features.tokens.requires_grad


def test_it_loads_from_run_checkpoint_and_export_alike(result: openjepa.Result) -> None:
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    checkpoint = sorted((result.directory / "checkpoints").glob("step-*"))[-1]
    paths = (result.directory, result.directory / "encoder", checkpoint)
    outputs = [openjepa.load_encoder(path)(images).tokens for path in paths]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert torch.equal(result.encoder(images).tokens, outputs[0])
    context = [openjepa.load_encoder(path, which="context")(images).tokens for path in paths]
    assert torch.equal(context[0], context[2])
    assert not torch.equal(context[0], outputs[0])


def test_loading_says_what_is_wrong(result: openjepa.Result, tmp_path: Path) -> None:
    with pytest.raises(openjepa.CheckpointError, match="no run, checkpoint or encoder"):
        openjepa.load_encoder(tmp_path)
    with pytest.raises(openjepa.CheckpointError, match="which = 'teacher'"):
        openjepa.load_encoder(result.directory, which="teacher")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-000000001").mkdir(parents=True)
    torch.save({"encoder": 1}, tmp_path / "checkpoints" / "step-000000001" / "method.safetensors")
    with pytest.raises(openjepa.CheckpointError, match="manifest"):
        openjepa.load_encoder(tmp_path)


def test_wrong_settings_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(openjepa.ConfigError, match="Did you mean 'ijepa_cifar10_cpu'"):
        openjepa.pretrain("scenes", "ijepa_cifar10_gpu", tmp_path)
    with pytest.raises(openjepa.ConfigError) as caught:
        openjepa.pretrain("scenes", "ijepa_cifar10_cpu", tmp_path, optim__lrr=1.0, metod__loss="l2")
    assert "Did you mean 'lr'" in str(caught.value)
    assert "Did you mean 'method'" in str(caught.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    with pytest.raises(openjepa.ConfigError) as caught:
        openjepa.pretrain(
            "scenes", recipe, tmp_path, method__encoder__patch=5, optim__warmup=2.0, batch_size=0, minutes=1, steps=2
        )
    said = str(caught.value)
    assert all(name in said for name in ("encoder.image_size", "optim.warmup", "batch_size", "length"))


def test_types_and_choices_are_checked(tmp_path: Path) -> None:
    with pytest.raises(openjepa.ConfigError) as caught:
        openjepa.pretrain("scenes", tiny_recipe(), tmp_path, method__loss="smooth_l2", batch_size=1.5)
    assert "Did you mean 'smooth_l1'" in str(caught.value)
    assert "batch_size = 1.5: must be a whole number" in str(caught.value)


def test_a_budget_under_ten_steps_is_refused(tmp_path: Path) -> None:
    images = make_images(tmp_path)
    with pytest.raises(openjepa.ConfigError, match=r"at least 10 are needed\. Try --epochs 2"):
        openjepa.pretrain(str(images), tiny_recipe(), tmp_path / "run", epochs=1, is_quiet=True)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channel_counts_train(tmp_path: Path, channels: int) -> None:
    recipe: Recipe = tiny_recipe()
    half = (0.5,) * channels
    result = openjepa.pretrain(
        str(make_images(tmp_path)), recipe, tmp_path / "run", is_quiet=True, steps=10,
        method__encoder__mean=half, method__encoder__std=half,
    )  # fmt: skip
    assert result.encoder(torch.zeros(1, channels, 16, 16)).tokens.shape == (1, 16, 16)


def test_non_square_images_train(tmp_path: Path) -> None:
    result = openjepa.pretrain(
        str(make_images(tmp_path)), tiny_recipe(), tmp_path / "run", is_quiet=True, steps=10,
        method__encoder__image_size=(16, 32),
    )  # fmt: skip
    assert result.encoder(torch.zeros(1, 3, 16, 32)).grid == (4, 8)


def test_bad_images_are_replaced_and_listed(tmp_path: Path) -> None:
    images = make_images(tmp_path)
    (images / "dark" / "broken.png").write_bytes(b"not an image")
    (images / "dark" / "empty.jpg").write_bytes(b"")
    Image.fromarray(np.zeros((30, 2, 3), np.uint8)).save(images / "light" / "thin.png")
    out = tmp_path / "run"
    assert openjepa.pretrain(str(images), tiny_recipe(), out, is_quiet=True, epochs=2).is_finished
    listed = (out / "bad_images.csv").read_text().splitlines()
    assert listed[0] == "name,reason"
    assert len(listed) == 4
    assert all(sum(name in line for line in listed) == 1 for name in ("broken.png", "empty.jpg", "thin.png"))


def test_too_many_bad_images_stop_the_run(tmp_path: Path) -> None:
    images = make_images(tmp_path)
    for number in range(20):
        (images / "dark" / f"broken-{number}.png").write_bytes(b"not an image")
    with pytest.raises(openjepa.DataError, match=r"--watch\.max-bad-share"):
        openjepa.pretrain(str(images), tiny_recipe(), tmp_path / "run", is_quiet=True, epochs=3)
