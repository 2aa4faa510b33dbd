"""Frozen features: controls stand beside, and what the features hold is found."""

from __future__ import annotations

import torch

from openjepa.evaluation.frozen import Labelled, compare
from openjepa.vision.vit import ViT, ViTConfig

CONFIG = ViTConfig(image_size=(16, 16), patch=4, width=16, depth=1, heads=2)


def bright(num_images: int, seed: int) -> Labelled:
    """Dark or light noise, and a label that no image can tell."""
    draw = torch.Generator().manual_seed(seed)
    is_light = torch.arange(num_images) % 2
    noise = torch.randint(0, 100, (num_images, 3, 16, 16), generator=draw)
    images = (noise + 120 * is_light[:, None, None, None]).to(torch.uint8)
    chance = torch.randint(0, 2, (num_images,), generator=draw)
    return Labelled(images, {"light": is_light, "chance": chance})


def test_rows_and_tasks() -> None:
    rows = compare({"untrained": ViT(CONFIG).untrained(0)}, bright(80, 0), bright(60, 1), seed=0)
    assert set(rows) == {"raw pixels", "untrained"}
    for scores in rows.values():
        assert scores["light"] == 1.0
        assert 0.2 < scores["chance"] < 0.8
