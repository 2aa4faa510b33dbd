"""Released checkpoints: translated weights compute what a plain reading of the released layout computes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import openjepa
from openjepa.errors import CheckpointError
from openjepa.interchange.ijepa import from_tensors
from openjepa.vision.positions import sincos

WIDTH, DEPTH, HEADS = 192, 12, 3  # ViT-T: the smallest of the published sizes


def released(seed: int, grid: int = 3, patch: int = 16) -> dict[str, Tensor]:
    """Random weights by their released names, as DistributedDataParallel saves them."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return 0.05 * torch.randn(*shape, generator=draw)

    tensors = {
        "pos_embed": sincos(WIDTH, (grid, grid))[None],
        "patch_embed.proj.weight": random(WIDTH, 3, patch, patch),
        "patch_embed.proj.bias": random(WIDTH),
        "norm.weight": 1 + random(WIDTH), "norm.bias": random(WIDTH),
    }  # fmt: skip
    shapes = {
        "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,),
        "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.qkv.bias": (3 * WIDTH,),
        "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,),
        "mlp.fc1.weight": (4 * WIDTH, WIDTH), "mlp.fc1.bias": (4 * WIDTH,),
        "mlp.fc2.weight": (WIDTH, 4 * WIDTH), "mlp.fc2.bias": (WIDTH,),
    }  # fmt: skip
    for block in range(DEPTH):
        tensors |= {f"blocks.{block}.{name}": random(*shape) for name, shape in shapes.items()}
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


def plain(tensors: dict[str, Tensor], images: Tensor) -> Tensor:
    """The forward pass written out from the layout: a convolution, explicit softmax attention; float64."""
    t = {name.removeprefix("module."): tensor.double() for name, tensor in tensors.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), t[f"{name}.weight"], t[f"{name}.bias"], eps=1e-6)

    weight = t["patch_embed.proj.weight"]
    x = F.conv2d(images, weight, t["patch_embed.proj.bias"], stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    x = x + t["pos_embed"]
    for number in range(DEPTH):
        name = f"blocks.{number}"
        q, k, v = F.linear(norm(x, f"{name}.norm1"), t[f"{name}.attn.qkv.weight"], t[f"{name}.attn.qkv.bias"]).chunk(
            3, dim=2
        )
        heads = []
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / (WIDTH // HEADS) ** 0.5
            heads.append(scores.softmax(dim=-1) @ v[..., part])
        x = x + F.linear(torch.cat(heads, dim=2), t[f"{name}.attn.proj.weight"], t[f"{name}.attn.proj.bias"])
        y = F.gelu(F.linear(norm(x, f"{name}.norm2"), t[f"{name}.mlp.fc1.weight"], t[f"{name}.mlp.fc1.bias"]))
        x = x + F.linear(y, t[f"{name}.mlp.fc2.weight"], t[f"{name}.mlp.fc2.bias"])
    return norm(x, "norm")


def test_translated_weights_compute_the_same(tmp_path: Path) -> None:
    path = tmp_path / "IN1K-vit.t.16.pth.tar"
    files = {"encoder": released(0), "target_encoder": released(1), "epoch": 300, "scaler": None, "lr": 1e-3}
    torch.save(files, path)
    images = torch.rand(2, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for which, name in (("target", "target_encoder"), ("context", "encoder")):
        encoder = openjepa.load_encoder(path, which).double()
        assert encoder.image_size == (48, 48)
        expected = plain(files[name], encoder.normalise(images))  # type: ignore[arg-type]
        found = encoder(images).tokens
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # our position table is float32
        assert not any(parameter.requires_grad for parameter in encoder.parameters())


class Trap:
    """What a hostile file would hold."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("sprung",)


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"target_encoder": released(0), "opt": Trap()}, tmp_path / "trap.pth.tar")
    with pytest.raises(CheckpointError, match="cannot be read as a released checkpoint"):
        openjepa.load_encoder(tmp_path / "trap.pth.tar")
    assert not (tmp_path / "sprung").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"\['state_dict'\]: no 'target_encoder'"):
        openjepa.load_encoder(tmp_path / "other.pth")
    (tmp_path / "torn.pth.tar").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(CheckpointError, match="cannot be read"):
        openjepa.load_encoder(tmp_path / "torn.pth.tar")
    torch.save({"target_encoder": released(0)}, tmp_path / "good.pth.tar")
    with pytest.raises(CheckpointError, match="must be target or context"):
        openjepa.load_encoder(tmp_path / "good.pth.tar", "student")


def test_tensors_that_do_not_fit() -> None:
    tensors = {name.removeprefix("module."): tensor for name, tensor in released(0).items()}
    with pytest.raises(CheckpointError, match=r"blocks\.3\.attn\.proj\.bias"):
        from_tensors({k: v for k, v in tensors.items() if k != "blocks.3.attn.proj.bias"}, "here")
    with pytest.raises(CheckpointError, match="not the frozen sine-cosine table"):
        from_tensors({**tensors, "pos_embed": tensors["pos_embed"].flip(2)}, "here")
    with pytest.raises(CheckpointError, match="none of the published sizes"):
        from_tensors({k: v for k, v in tensors.items() if not k.startswith("blocks.11.")}, "here")
    with pytest.raises(CheckpointError, match=r"'pos_embed' is missing"):
        from_tensors({k: v for k, v in tensors.items() if k != "pos_embed"}, "here")
