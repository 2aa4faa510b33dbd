"""Features of images: an encoder's, and two controls to stand beside every figure, raw pixels and no training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.vision.encoder import Encoder, Features

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
    return shrunk(images.float() / 255)


class RawPixels(Encoder):
    """No model at all: tokens are the pixels of a patch, the pooled feature is the image shrunk."""

    is_known = True
    pooling = f"the image shrunk to {PIXEL_SIDE} a side"

    def __init__(self, like: Encoder, patch: int) -> None:
        """Preprocessing of `like`; `patch` is the side of its patches in pixels."""
        channels = like.channels
        super().__init__((0.0,) * channels, (1.0,) * channels)
        self.image_size, self.channels, self.depth, self.patch = like.image_size, channels, 1, patch
        self.width = channels * patch**2

    def fingerprint(self) -> str:
        return f"raw pixels {PIXEL_SIDE} {self.patch} {super().fingerprint()}"

    def features(self, images: Tensor, num_layers: int) -> Features:
        rows, columns = images.shape[2] // self.patch, images.shape[3] // self.patch
        tokens = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        return Features((tokens,), (rows, columns), (shrunk(images),))


def shrunk(x: Tensor) -> Tensor:
    """(N, C, H, W) float to (N, C * h * w), at most 16 pixels a side."""
    if max(x.shape[2:]) > PIXEL_SIDE:
        size = (min(x.shape[2], PIXEL_SIDE), min(x.shape[3], PIXEL_SIDE))
        x = F.interpolate(x, size, mode="bilinear", antialias=True)
    return x.flatten(1)
