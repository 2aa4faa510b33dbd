"""The Vision Transformer encoder: frozen sine-cosine positions, a class token only where asked for (paper section 4).

Departs from the released code in taking any image size, channel count and patch; sizes for small images are ours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjepa.errors import ConfigError, nearest, sentence
from openjepa.randomness import initial_weights
from openjepa.vision.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, Features
from openjepa.vision.positions import position_table
from openjepa.vision.transformer import INIT_STD, Init, Transformer, initialise


@dataclass(frozen=True)
class ViTConfig:
    """Shape of the encoder."""

    image_size: tuple[int, int] = (224, 224)
    """Height and width of the crops it is trained on, in pixels."""
    patch: int = 16
    """Side of a patch, in pixels."""
    width: int = 768
    """Size of a token (D)."""
    depth: int = 12
    """Number of transformer blocks."""
    heads: int = 12
    """Attention heads; must divide the width."""
    mlp_ratio: float = 4.0
    """Hidden size of a block's MLP, as a multiple of the width."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each channel, for pixels in 0..1; its length is the number of channels."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each channel, for pixels in 0..1."""
    init: Init = "rescaled"
    """Of encoder and predictor: "rescaled" divides block l's output layers by sqrt(2 l), "official" does not; "xavier"
    is MAE's."""
    has_cls: bool = False
    """A class token in front of the patches (MAE, iBOT); the paper's encoder has none."""
    pooling: Literal["mean", "cls"] = "mean"
    """What stands for an image in evaluation: the average of its patch tokens, or the class token."""

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(self.mean)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches at the trained image size."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        wrong = []
        for name in ("patch", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                wrong.append(sentence(f"encoder.{name}", getattr(self, name), "must be at least 1"))
        if wrong:
            return wrong
        for side in self.image_size:
            if side % self.patch or side < self.patch:
                rule = f"both sides must be multiples of encoder.patch = {self.patch}"
                remedy = f"Try {max(1, round(side / self.patch)) * self.patch} for {side}."
                wrong.append(sentence("encoder.image_size", self.image_size, rule, remedy))
                break
        if self.width % self.heads:
            rule = f"must be a multiple of encoder.heads = {self.heads}"
            wrong.append(sentence("encoder.width", self.width, rule))
        if self.width % 4:
            wrong.append(sentence("encoder.width", self.width, "must be a multiple of 4 (positions)"))
        if not 1 <= self.width * self.mlp_ratio < float("inf"):
            wrong.append(sentence("encoder.mlp_ratio", self.mlp_ratio, "must leave the MLP a hidden size"))
        if len(self.mean) != len(self.std) or not self.mean:
            rule = f"needs one entry a channel, as encoder.mean has ({len(self.mean)})"
            wrong.append(sentence("encoder.std", self.std, rule))
        if not all(0 < std < float("inf") for std in self.std):
            wrong.append(sentence("encoder.std", self.std, "must be above 0"))
        if self.pooling == "cls" and not self.has_cls:
            wrong.append(sentence("encoder.pooling", self.pooling, "needs a class token", "Use mean."))
        return wrong


# width, depth, heads, mlp_ratio. From tiny up: reference 1.1; below: ours, for images of 32 to 96 pixels on a CPU.
SIZES: dict[str, tuple[int, int, int, float]] = {
    "pico": (128, 6, 4, 4.0),
    "nano": (192, 6, 3, 4.0),
    "micro": (256, 8, 4, 4.0),
    "tiny": (192, 12, 3, 4.0),
    "small": (384, 12, 6, 4.0),
    "base": (768, 12, 12, 4.0),
    "large": (1024, 24, 16, 4.0),
    "huge": (1280, 32, 16, 4.0),
    "giant": (1408, 40, 16, 48 / 11),
}


def vit(size: str, image_size: int | tuple[int, int] = 224, patch: int = 16) -> ViTConfig:
    """The configuration of a named size.

    >>> vit("huge", patch=14).grid
    (16, 16)
    """
    if size not in SIZES:
        raise ConfigError(f"encoder size = {size!r}: unknown. {nearest(size, SIZES)}")
    width, depth, heads, mlp_ratio = SIZES[size]
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    return ViTConfig(sides, patch, width, depth, heads, mlp_ratio)


def resized(config: ViTConfig, size: str) -> ViTConfig:
    """The same configuration in another named size."""
    new = vit(size)
    return replace(config, width=new.width, depth=new.depth, heads=new.heads, mlp_ratio=new.mlp_ratio)


class ViT(Encoder):
    """Encodes all patches of an image, or only those it is told to keep."""

    is_known = True

    def __init__(self, config: ViTConfig) -> None:
        if wrong := config.mistakes():
            raise ConfigError(wrong)
        super().__init__(config.mean, config.std)
        self.config = config
        self.image_size, self.channels = config.image_size, config.channels
        self.width, self.depth = config.width, config.depth
        self.pooling = "class token" if config.pooling == "cls" else "average of patch tokens"
        self.embed = nn.Linear(config.channels * config.patch**2, config.width)
        hidden = round(config.width * config.mlp_ratio)
        self.blocks = Transformer(config.width, config.depth, config.heads, hidden)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        if config.has_cls:
            self.cls_token = nn.Parameter(torch.zeros(config.width))
            nn.init.trunc_normal_(self.cls_token, std=INIT_STD)
        initialise(self, config.init)

    def patches(self, images: Tensor) -> Tensor:
        """Normalised (B, C, H, W) to flat patches in raster order, (B, N, C * patch * patch)."""
        size, (batch, channels, height, width) = self.config.patch, images.shape
        if height % size or width % size:
            rule = f"height and width must be multiples of the patch, {size}"
            raise ConfigError(sentence("images.shape", tuple(images.shape), rule))
        x = images.reshape(batch, channels, height // size, size, width // size, size)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * size * size)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """(N, D) for the given grid, on the encoder's device and of its type."""
        weight = self.norm.weight
        return position_table(self.width, grid, self.config.grid, weight.device, weight.dtype)

    def encode(
        self,
        images: Tensor,
        keep: Tensor | None = None,
        valid: Tensor | None = None,
        num_layers: int = 1,
        hidden: tuple[Tensor, Tensor] | None = None,
        branches: Tensor | None = None,
    ) -> list[Tensor]:
        """Normalised images to the normed tokens of the last `num_layers` blocks, (R, K, D) each; with a class token
        (R, 1 + K, D), that one first.

        `keep`: (R, K) indices of the patches to see, where R is B or a multiple of it (several draws an
        image, rows of an image adjacent); `valid`: (R, K) bool, False for padding. Patches left out are
        never embedded, so a context costs only its own size. `hidden`: (R, K) bool and (D,), the token that stands
        for patches where True, before positions are added. `branches`: see `drop_path`.
        """
        grid = (images.shape[2] // self.config.patch, images.shape[3] // self.config.patch)
        patches, positions = self.patches(images), self.positions(grid)
        if keep is None:
            x = self.embed(patches)
        else:
            x, positions = self.embed(take(patches, keep)), positions[keep]
        if hidden is not None:
            x = torch.where(hidden[0][..., None], hidden[1].to(x.dtype), x)
        x = x + positions
        if self.config.has_cls:
            x = torch.cat([self.cls_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
            valid = valid if valid is None else F.pad(valid, (1, 0), value=True)
        return [self.norm(tokens) for tokens in self.blocks(x, valid, num_layers, branches)]

    def fingerprint(self) -> str:
        # heads and patch leave no trace in the shapes of all tensors
        return hashlib.sha256(f"{self.config} {super().fingerprint()}".encode()).hexdigest()

    def untrained(self, seed: int) -> ViT:
        with initial_weights(seed):
            return ViT(self.config).requires_grad_(False).eval()

    def pooled_by(self, pooling: Literal["mean", "cls"]) -> ViT:
        """The same weights with another vector for an image. ConfigError for a class token that is not there."""
        other = ViT(replace(self.config, pooling=pooling)).to(self.mean.device)
        other.load_state_dict(self.state_dict())
        return other.requires_grad_(False).train(self.training)

    def features(self, images: Tensor, num_layers: int) -> Features:
        grid = (images.shape[2] // self.config.patch, images.shape[3] // self.config.patch)
        layers = self.encode(images, num_layers=num_layers)
        if not self.config.has_cls:
            return Features(tuple(layers), grid)
        summaries = tuple(self.summary(tokens) for tokens in layers)
        return Features(tuple(tokens[:, 1:] for tokens in layers), grid, summaries)

    def summary(self, tokens: Tensor) -> Tensor:
        """What `encode` gives for whole images, (B, N, D) or (B, 1 + N, D), to what stands for each, (B, D)."""
        if self.config.pooling == "cls":
            return tokens[:, 0]
        return tokens[:, 1:].mean(dim=1) if self.config.has_cls else tokens.mean(dim=1)


def take(x: Tensor, index: Tensor) -> Tensor:
    """x (B, N, D), index (R, K) with R a multiple of B -> (R, K, D): row r reads image r * B // R."""
    batch, num_patches, width = x.shape
    image = torch.arange(index.shape[0], device=index.device) // (index.shape[0] // batch)
    return x.reshape(-1, width)[index + image[:, None] * num_patches]
