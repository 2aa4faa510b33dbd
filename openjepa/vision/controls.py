"""Features of images: an encoder's, and two controls to stand beside every figure, raw pixels and no training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.randomness import initial_weights
from openjepa.vision.encoder import Encoder
from openjepa.vision.vit import ViT, ViTConfig

CHUNK = 128
PIXEL_SIDE = 16  # raw pixels are shrunk to this: on CIFAR-10 as strong a control as 32 (LOG.md, 2026-11-24)


@torch.no_grad()
def pooled(encoder: Encoder, images: Tensor, num_layers: int = 1) -> Tensor:
    """(N, C, H, W) uint8 to average-pooled features of the last layers, (N, layers * D) float32 on the CPU."""
    device = encoder.mean.device
    parts = [encoder(part.to(device), num_layers).pooled.float().cpu() for part in images.split(CHUNK)]
    return torch.cat(parts)


def pixels(images: Tensor) -> Tensor:
    """(N, C, H, W) uint8 to (N, C * h * w) float32 in 0..1, at most 16 pixels a side."""
    x = images.float() / 255
    if max(images.shape[2:]) > PIXEL_SIDE:
        size = (min(images.shape[2], PIXEL_SIDE), min(images.shape[3], PIXEL_SIDE))
        x = F.interpolate(x, size, mode="bilinear", antialias=True)
    return x.flatten(1)


def untrained(config: ViTConfig, seed: int) -> ViT:
    """An encoder before its first step, from the address of randomness that a run's comes from."""
    with initial_weights(seed):
        return ViT(config).requires_grad_(False).eval()
