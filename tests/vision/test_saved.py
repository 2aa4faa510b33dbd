"""Encoders come back from disk as they were."""

from __future__ import annotations

import pytest
import torch

from openjepa.errors import CheckpointError
from openjepa.vision.saved import read_encoder, write_encoders
from openjepa.vision.vit import ViT, ViTConfig

CONFIG = ViTConfig((8, 12), 4, 16, 2, 2, 3.5, mean=(0.1,), std=(0.3,), init="official")


def test_round_trip(tmp_path):
    target, context = ViT(CONFIG), ViT(CONFIG)
    write_encoders(tmp_path / "encoder", {"target": target, "context": context}, {"step": 7})
    images = torch.randint(0, 256, (2, 1, 8, 12), dtype=torch.uint8)
    for which, expected in ((None, target), ("target", target), ("context", context)):
        read = read_encoder(tmp_path / "encoder", which)
        assert read.config == CONFIG
        assert not read.training
        assert not any(parameter.requires_grad for parameter in read.parameters())
        assert torch.equal(read(images).tokens, expected(images).tokens)
    assert not torch.equal(target(images).tokens, context(images).tokens)


def test_an_unknown_name_gives_the_nearest_one(tmp_path):
    write_encoders(tmp_path / "encoder", {"target": ViT(CONFIG)}, {})
    with pytest.raises(CheckpointError, match=r"which = 'targt': not in .*Did you mean 'target'"):
        read_encoder(tmp_path / "encoder", "targt")
