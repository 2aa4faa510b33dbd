"""MAE: reconstruct the pixels of hidden patches from the visible ones (arXiv 2111.06377, section 3).

Generative, in the terms of I-JEPA's section 2: y is pixels, the energy its reconstruction error. Written from the
paper, on the encoder, masks and views of the other methods; departs from it in resizing crops bilinearly and in
admitting masks of several blocks, of which each is reconstructed on its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.data.views import Crop
from openjepa.errors import ConfigError, sentence
from openjepa.masking.multiblock import MultiBlock
from openjepa.masking.official import Official
from openjepa.masking.rivals import Random, Rasterized, SingleBlock
from openjepa.methods.base import MaskedBatch, MaskedViews, Method, MethodConfig
from openjepa.methods.ijepa import patch_mean
from openjepa.vision.predictor import Predictor, PredictorConfig
from openjepa.vision.vit import ViT, ViTConfig, take

EPSILON = 1e-6  # added to the variance of a patch: one of a single colour has none


@dataclass(frozen=True)
class DecoderConfig(PredictorConfig):
    """Shape of the decoder: I-JEPA's predictor with pixels for output. Evaluation does without it."""

    width: int = 512
    """Size of its tokens (paper: 512 for every encoder)."""
    depth: int = 8
    """Number of transformer blocks (paper: 8 for every encoder)."""
    heads: int = 16
    """Attention heads; must divide the width (released configurations: 16)."""


@dataclass(frozen=True)
class MAEConfig(MethodConfig):
    """MAE: everything about the method that changes the result."""

    encoder: ViTConfig = field(default_factory=lambda: ViTConfig(init="xavier", has_cls=True))
    decoder: DecoderConfig = DecoderConfig()
    masking: Random | MultiBlock | Official | Rasterized | SingleBlock = Random(scale=0.75)
    """What is hidden: three patches in four, drawn one by one (paper)."""
    crop: Crop = Crop(scale=(0.2, 1.0), flip=True)
    norm_pixels: bool = True
    """Reconstruct each patch less its own mean, over its own standard deviation (paper, table 1d)."""

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        wrong = [*self.encoder.mistakes(), *self.decoder.mistakes("decoder"), *self.crop.mistakes()]
        if self.encoder.mistakes():
            return wrong
        wrong += self.masking.mistakes(self.encoder.grid)
        if self.norm_pixels and self.encoder.channels * self.encoder.patch**2 < 2:
            wrong.append(sentence("norm_pixels", True, "a patch of one value has no variance", "Switch it off."))
        return wrong

    def min_side(self) -> int:
        return self.crop.min_side(self.encoder.image_size)


class MAE(Method):
    """One encoder, which sees the context alone, and the decoder."""

    can_collapse = False

    def __init__(self, config: MAEConfig) -> None:
        if wrong := config.mistakes():
            raise ConfigError(wrong)
        super().__init__()
        self.config = config
        vit = config.encoder
        self.student = ViT(vit)
        self.decoder = Predictor(config.decoder, vit.grid, vit.width, vit.channels * vit.patch**2, vit.init)
        self.views = MaskedViews(config.crop, config.masking, 1, vit.image_size, vit.grid, vit.channels)

    @property
    def encoder(self) -> ViT:
        """The one that gradients move: there is no other."""
        return self.student

    @property
    def context_encoder(self) -> ViT:
        return self.student

    def targets(self, images: Tensor, batch: MaskedBatch) -> Tensor:
        """Normalised images to the pixels of the targets, (B, M, T, C * patch * patch)."""
        index = batch.masks.targets
        pixels = take(self.student.patches(images), index.flatten(1))
        if self.config.norm_pixels:
            variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)  # unbiased, as released
            pixels = (pixels - mean) / (variance + EPSILON).sqrt()
        return pixels.reshape(*index.shape, -1)

    def predict(self, images: Tensor, batch: MaskedBatch) -> Tensor:
        """Normalised images to what their context says of the targets' pixels, (B, M, T, C * patch * patch)."""
        masks = batch.masks
        (context,) = self.student.encode(images, masks.context, masks.context_valid)
        return self.decoder(context, masks.context, masks.targets, masks.context_valid, masks.target_valid)

    def block_energy(self, predictions: Tensor, targets: Tensor, valid: Tensor | None) -> Tensor:
        """(B, M): mean squared error over a block's patches and their pixels."""
        error = F.mse_loss(predictions, targets, reduction="none").mean(-1)
        return patch_mean(error, valid, dim=-1)

    def forward(self, batch: MaskedBatch, t: float) -> dict[str, Tensor]:
        images = self.student.normalise(batch.images)
        predictions, targets = self.predict(images, batch), self.targets(images, batch)
        loss = self.block_energy(predictions, targets, batch.masks.target_valid).mean()
        return {"loss": loss, "energy": loss.detach()}

    @torch.no_grad()
    def energy(self, batch: MaskedBatch, target_images: Tensor | None = None) -> Tensor:
        """(B, M) reconstruction errors, M = 1 for `Random`; `target_images` (B, C, H, W) pairs each context with the
        pixels of another image."""
        images = self.student.normalise(batch.images)
        others = images if target_images is None else self.student.normalise(target_images)
        return self.block_energy(self.predict(images, batch), self.targets(others, batch), batch.masks.target_valid)

    @torch.no_grad()
    def representations(self, batch: MaskedBatch) -> dict[str, Tensor]:
        """One encoder, so "context" and "target" are the same; "prediction" is the mean predicted patch."""
        images = self.student.normalise(batch.images)
        pooled = self.student.features(images, 1).pooled
        blocks = patch_mean(self.predict(images, batch), batch.masks.target_valid, dim=-2)
        return {"context": pooled, "target": pooled, "prediction": blocks.mean(1)}

    def after_step(self, t: float) -> None:
        """Nothing follows."""
