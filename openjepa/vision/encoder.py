"""What evaluation sees: an encoder that knows its own preprocessing, and the features it gives.

Any model becomes an `Encoder` by implementing `features`: our ViT (vit.py) is one, adapters for foreign weights
are others. Evaluation never sees a method.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openjepa.errors import ConfigError, sentence

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Features:
    """Patch tokens of the last layers of an encoder, the final norm applied to each."""

    layers: tuple[Tensor, ...]
    """(B, N, D) for each layer asked for; the last layer is the last entry."""
    grid: tuple[int, int]
    """(rows, columns) of the N patches, in raster order."""
    summaries: tuple[Tensor, ...] | None = None
    """(B, D) a layer, where something other than the average stands for an image: a class token."""

    @property
    def tokens(self) -> Tensor:
        """(B, N, D): patch tokens of the last layer."""
        return self.layers[-1]

    @property
    def pooled(self) -> Tensor:
        """(B, L * D): average over patches of each layer, or its summary, concatenated (paper appendix A.2)."""
        return torch.cat(self.summaries or [tokens.mean(dim=1) for tokens in self.layers], dim=1)


class Encoder(nn.Module, ABC):
    """Images to patch features. Subclasses set the attributes below and implement `features`."""

    image_size: tuple[int, int]
    """(height, width) it was trained at."""
    channels: int
    width: int
    """D, the size of a token."""
    depth: int
    """How many layers can be asked for."""
    is_known: bool = False
    """Its fingerprint decides its features, in any process: they may be kept on disk."""
    pooling: str = "average of patch tokens"
    """What `Features.pooled` is, in words."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        # not persistent: they are configuration, and travel with it
        shape = (1, len(mean), 1, 1)
        self.register_buffer("mean", torch.tensor(mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(shape), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def normalise(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8, or float in 0..1, to the zero-mean, unit-variance input of the model."""
        if images.ndim != 4 or images.shape[1] != self.channels:
            rule = f"the encoder takes (batch, {self.channels}, height, width)"
            raise ConfigError(sentence("images.shape", tuple(images.shape), rule))
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise ConfigError(sentence("images.dtype", images.dtype, "must be uint8, or float in 0..1"))
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        return (images - self.mean) / self.std

    def fingerprint(self) -> str:
        """A hash of what decides its features: kind, preprocessing and weights. A cache is named by it."""
        digest = hashlib.sha256(f"{type(self).__name__} {self.image_size} {self.depth}".encode())
        for name, tensor in (*sorted(self.state_dict().items()), ("mean", self.mean), ("std", self.std)):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def untrained(self, seed: int) -> Encoder | None:
        """The same architecture before its first step, from this seed; None where only its weights are known."""
        return None

    @abstractmethod
    def features(self, images: Tensor, num_layers: int) -> Features:
        """Normalised (B, C, H, W) float to the tokens of the last `num_layers` layers."""

    def forward(self, images: Tensor, num_layers: int = 1) -> Features:
        """(B, C, H, W) uint8, or float in 0..1, to `Features` of the last `num_layers` layers."""
        if not 1 <= num_layers <= self.depth:
            raise ConfigError(sentence("num_layers", num_layers, f"must be between 1 and {self.depth}"))
        return self.features(self.normalise(images), num_layers)
