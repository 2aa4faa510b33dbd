"""Encoders come back from disk as they went, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openjepa import storage
from openjepa.errors import CheckpointError, ConfigError
from openjepa.vision.saved import read_encoder, write_encoders
from openjepa.vision.vit import ViT, ViTConfig, vit

PLAIN = replace(vit("pico", image_size=8, patch=4), depth=2)
ODD = ViTConfig(
    (8, 12), patch=4, width=24, depth=3, heads=3, mlp_ratio=1.5, mean=(0.3,), std=(0.7,), init="official"
)  # fmt: skip


def pair(config: ViTConfig) -> dict[str, ViT]:
    encoders = {"target": ViT(config), "context": ViT(config)}
    for encoder in encoders.values():
        for parameter in encoder.parameters():  # so that not even biases are at their default
            torch.nn.init.normal_(parameter)
    return encoders


@pytest.mark.parametrize("config", [PLAIN, ODD], ids=["plain", "odd"])
def test_encoders_come_back(tmp_path: Path, config: ViTConfig) -> None:
    encoders = pair(config)
    write_encoders(tmp_path / "encoder", encoders, {"step": 3})
    images = torch.randint(0, 256, (2, config.channels, *config.image_size), dtype=torch.uint8)
    for which, encoder in encoders.items():
        back = read_encoder(tmp_path / "encoder", which)
        assert back.config == config
        assert repr(back.config) == repr(config)  # tuples are tuples, floats are floats
        state = back.state_dict()
        assert all(torch.equal(state[name], value) for name, value in encoder.state_dict().items())
        with torch.no_grad():
            expected = encoder.eval()(images, num_layers=2)
        found = back(images, num_layers=2)
        assert torch.equal(found.pooled, expected.pooled)
        assert found.grid == expected.grid
        assert not back.training
        assert not any(parameter.requires_grad for parameter in back.parameters())
        assert not found.pooled.requires_grad


def test_the_first_is_read_by_default(tmp_path: Path) -> None:
    encoders = pair(PLAIN)
    write_encoders(tmp_path / "encoder", dict(reversed(encoders.items())), {})
    assert torch.equal(read_encoder(tmp_path / "encoder").embed.weight, encoders["context"].embed.weight)


def test_what_is_said_about_them_can_be_read(tmp_path: Path) -> None:
    about = {"recipe": {"name": "mine"}, "step": 3}
    write_encoders(tmp_path / "encoder", pair(PLAIN), about)
    document = json.loads((tmp_path / "encoder" / "encoder.json").read_text())
    assert document["about"] == about
    assert document["encoders"] == ["target", "context"]
    assert document["format"] == "openjepa.encoder/1"
    names = {path.name for path in (tmp_path / "encoder").iterdir()}
    assert names == {"encoder.json", "manifest.json", "target.safetensors", "context.safetensors"}


def test_an_unknown_one_is_refused(tmp_path: Path) -> None:
    write_encoders(tmp_path / "encoder", pair(PLAIN), {})
    with pytest.raises(CheckpointError, match=r"which = 'targt': not in .*encoder\. Did you mean 'target'\?"):
        read_encoder(tmp_path / "encoder", "targt")
    with pytest.raises(CheckpointError, match=r"which = '\.\./x': not in"):
        read_encoder(tmp_path / "encoder", "../x")


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere is not a whole checkpoint"):
        read_encoder(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["encoder.json", "target.safetensors", "context.safetensors"])
def test_a_tampered_one_is_refused(tmp_path: Path, name: str) -> None:
    """Also where the encoder that is asked for is not the one that was changed."""
    write_encoders(tmp_path / "encoder", pair(PLAIN), {})
    path = tmp_path / "encoder" / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is not what was written"):
        read_encoder(tmp_path / "encoder")


def rewrite(directory: Path, **changes: object) -> None:
    """As a program of another version would have written it: whole, but with another document."""
    tensors = {name: storage.read_tensors(directory, name) for name in ("target", "context")}
    document = storage.read_document(directory, "encoder")
    storage.write(directory, tensors, {"encoder": {**document, **changes}})


def test_another_format_is_refused(tmp_path: Path) -> None:
    write_encoders(tmp_path / "encoder", pair(PLAIN), {})
    rewrite(tmp_path / "encoder", format="openjepa.encoder/2")
    with pytest.raises(CheckpointError, match=r"format of .* = 'openjepa.encoder/2': .* reads 'openjepa.encoder/1'"):
        read_encoder(tmp_path / "encoder")


def test_another_shape_is_explained(tmp_path: Path) -> None:
    write_encoders(tmp_path / "encoder", pair(PLAIN), {})
    config = storage.read_document(tmp_path / "encoder", "encoder")["config"]
    rewrite(tmp_path / "encoder", config={**config, "depth": 1})
    with pytest.raises(CheckpointError, match=r"encoder/target does not fit this ViT:\n  unexpected \(\d+\): blocks"):
        read_encoder(tmp_path / "encoder")
    rewrite(tmp_path / "encoder", config={**config, "dept": 1})
    with pytest.raises(ConfigError, match=r"dept: unknown field. Did you mean 'depth'"):
        read_encoder(tmp_path / "encoder")
    rewrite(tmp_path / "encoder", config={**config, "heads": 0})
    with pytest.raises(ConfigError, match=r"encoder\.heads = 0: must be at least 1"):
        read_encoder(tmp_path / "encoder")
