"""I-JEPA: predict the representations of target blocks from one context block (arXiv 2301.08243, section 3).

Follows the paper; where the released code departs from it, the paper's intent is the default and the released way a
setting. Ours besides: an optional anti-collapse term, several mask draws a target pass. A block
counts the same whatever its size: its energy is a mean over patches and features, where the paper writes a sum.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.data.views import Crop
from openjepa.errors import ConfigError, sentence
from openjepa.masking.multiblock import MultiBlock
from openjepa.masking.official import Official
from openjepa.masking.rivals import Random, Rasterized, SingleBlock
from openjepa.methods.base import MaskedBatch, MaskedViews, Method, MethodConfig
from openjepa.methods.regularisers import sigreg, variance_covariance
from openjepa.schedule import linear
from openjepa.vision.predictor import Predictor, PredictorConfig
from openjepa.vision.vit import ViT, take

DISTANCES = {"smooth_l1": F.smooth_l1_loss, "l2": F.mse_loss, "l1": F.l1_loss}
MASKINGS = {
    "multiblock": MultiBlock,
    "official": Official,
    "rasterized": Rasterized,
    "block": SingleBlock,
    "random": Random,
}


@dataclass(frozen=True)
class IJEPAConfig(MethodConfig):
    """I-JEPA: everything about the method that changes the result."""

    predictor: PredictorConfig = PredictorConfig()
    masking: MultiBlock | Official | Rasterized | SingleBlock | Random = field(default_factory=MultiBlock)
    masks_per_image: int = 1
    """Mask draws an image, all predicted from one pass of the target encoder."""
    crop: Crop = Crop()
    loss: Literal["smooth_l1", "l2", "l1"] = "smooth_l1"
    """Distance of predictions from targets: smooth-L1 as published, l2 as in the paper's text."""
    target: Literal["output", "input", "pixels"] = "output"
    """Cut blocks from the target encoder's output; "input" (encode only the block) and "pixels" are
    the paper's ablations."""
    target_layers: int = 1
    """Average the targets over the last k blocks of the target encoder (data2vec)."""
    target_centre: bool = False
    """Subtract from each target patch the mean of its image's patches: what they all share is then no target (ours;
    near data2vec's instance norm)."""
    target_norm: bool = True
    """Layer-normalise each target patch, without affine (released code)."""
    momentum: tuple[float, float] = (0.996, 1.0)
    """EMA momentum of the target encoder, linear from the first to the second (paper)."""
    regulariser: Literal["none", "variance_covariance", "sigreg"] = "none"
    """Anti-collapse term; the paper has none, small budgets need one."""
    regulariser_on: Literal["context", "tokens", "deviations", "predictions"] = "context"
    """What it is a statistic of: contexts pooled over their patches, every context patch, the same less the mean of its
    image's, or pooled predictions."""
    regulariser_weight: tuple[float, float] = (1.0, 1.0)
    """Its weight at the start and at the end of the run, linear between."""

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        wrong = [*self.encoder.mistakes(), *self.predictor.mistakes(), *self.crop.mistakes()]
        if not self.encoder.mistakes():
            wrong += self.masking.mistakes(self.encoder.grid) or self._lone_context()
        if self.masks_per_image < 1:
            wrong.append(sentence("masks_per_image", self.masks_per_image, "must be at least 1"))
        if not 1 <= self.target_layers <= self.encoder.depth:
            rule = f"must be between 1 and encoder.depth = {self.encoder.depth}"
            wrong.append(sentence("target_layers", self.target_layers, rule))
        if self.target == "pixels" and self.target_layers != 1:
            rule = "pixels have no layers"
            wrong.append(sentence("target_layers", self.target_layers, rule, "Leave it at 1."))
        if not all(0 <= m <= 1 for m in self.momentum):
            wrong.append(sentence("momentum", self.momentum, "must both be in [0, 1]"))
        if not all(0 <= w < float("inf") for w in self.regulariser_weight):
            wrong.append(sentence("regulariser_weight", self.regulariser_weight, "must be from 0"))
        if self.target_centre and self.target != "output":
            rule = f"is for targets that are cut from the output; target is {self.target}"
            wrong.append(sentence("target_centre", True, rule, "Leave it off."))
        if self.encoder.has_cls:
            wrong.append(sentence("encoder.has_cls", True, "I-JEPA has no class token", "Leave it off."))
        return wrong

    def _lone_context(self) -> list[str]:
        """A mistake where contexts of one patch would make the anti-collapse term nothing, without a word; masks whose
        sizes vary are judged by what they draw first."""
        if self.regulariser == "none" or self.regulariser_on != "deviations":
            return []
        context = self.masking.sample(self.encoder.grid, seed=0, step=0, first=0, count=1).context
        if context.shape[1] > 1:
            return []
        rule = "compares the patches of a context with each other, and these masks leave it one"
        return [sentence("regulariser_on", self.regulariser_on, rule, "Take smaller targets, or context.")]

    def min_side(self) -> int:
        return self.crop.min_side(self.encoder.image_size)

    def batch_mistakes(self, num_images: int) -> list[str]:
        if self.regulariser == "none" or num_images >= 2:
            return []
        return [sentence("batch_size", num_images, "the regulariser is a statistic over images and needs at least 2")]


class IJEPA(Method):
    """Context encoder, its EMA the target encoder (`teacher`), and the predictor."""

    remedy = "Add --method.regulariser variance_covariance, or lower --optim.lr, in another --out."

    def __init__(self, config: IJEPAConfig) -> None:
        if wrong := config.mistakes():
            raise ConfigError(wrong)
        super().__init__()
        self.config = config
        vit, crop = config.encoder, config.crop
        self.student = ViT(vit)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        out_width = vit.channels * vit.patch**2 if config.target == "pixels" else vit.width
        self.predictor = Predictor(config.predictor, vit.grid, vit.width, out_width, vit.init)
        self.views = MaskedViews(crop, config.masking, config.masks_per_image, vit.image_size, vit.grid, vit.channels)

    @property
    def encoder(self) -> ViT:
        """The target encoder (paper appendix A.1)."""
        return self.teacher

    @property
    def context_encoder(self) -> ViT:
        return self.student

    @torch.no_grad()
    def targets(self, images: Tensor, batch: MaskedBatch) -> Tensor:
        """Normalised images to what the predictor should say: (R, M, T, D)."""
        index = batch.masks.targets
        rows, num_targets, num_patches = index.shape
        layers = self.config.target_layers
        if self.config.target == "input":
            keep = index.flatten(1, 2).reshape(rows * num_targets, num_patches)
            valid = batch.masks.target_valid
            valid = valid if valid is None else valid.flatten(0, 1)
            outputs = self.teacher.encode(images, keep, valid, layers)
        elif self.config.target == "output":
            whole = self.teacher.encode(images, num_layers=layers)
            if self.config.target_centre:
                whole = [tokens - tokens.mean(1, keepdim=True) for tokens in whole]
            outputs = [take(tokens, index.flatten(1)) for tokens in whole]
        else:
            outputs = [take(self.teacher.patches(images), index.flatten(1))]
        if layers > 1:  # a layer of large scale must not drown the others
            outputs = [F.layer_norm(tokens, tokens.shape[-1:]) for tokens in outputs]
        mean = torch.stack(outputs).mean(0) if layers > 1 else outputs[0]
        if self.config.target_norm:
            mean = F.layer_norm(mean, mean.shape[-1:])
        return mean.reshape(rows, num_targets, num_patches, -1)

    def predict(self, images: Tensor, batch: MaskedBatch) -> tuple[Tensor, Tensor]:
        """Normalised images to context tokens (R, K, D) and predictions (R, M, T, D)."""
        masks = batch.masks
        (context,) = self.student.encode(images, masks.context, masks.context_valid)
        predictions = self.predictor(context, masks.context, masks.targets, masks.context_valid, masks.target_valid)
        return context, predictions

    def block_energy(self, predictions: Tensor, targets: Tensor, valid: Tensor | None) -> Tensor:
        """(R, M): distance of each predicted block from its target, a mean over patches and features."""
        distance = DISTANCES[self.config.loss](predictions, targets, reduction="none").mean(-1)
        return patch_mean(distance, valid, dim=-1)

    def forward(self, batch: MaskedBatch, t: float) -> dict[str, Tensor]:
        images = self.student.normalise(batch.images)
        targets = self.targets(images, batch)
        context, predictions = self.predict(images, batch)
        energy = self.block_energy(predictions, targets, batch.masks.target_valid).mean()
        if self.config.regulariser == "none":
            return {"loss": energy, "energy": energy.detach()}
        rows = self.regularised(context, predictions, batch)
        is_sigreg = self.config.regulariser == "sigreg"
        is_pooled = self.config.regulariser_on in ("context", "predictions")
        is_even = is_pooled or (batch.masks.context_valid is None and self.config.masking.is_even)
        term = sigreg(rows, batch.seed, batch.step, is_even) if is_sigreg else variance_covariance(rows, is_even)
        loss = energy + linear(t, *self.config.regulariser_weight) * term
        return {"loss": loss, "energy": energy.detach(), "regulariser": term.detach()}

    def regularised(self, context: Tensor, predictions: Tensor, batch: MaskedBatch) -> Tensor:
        """The rows (any number, D) that the anti-collapse term is a statistic of."""
        if self.config.regulariser_on == "context":
            return patch_mean(context, batch.masks.context_valid, dim=-2)
        if self.config.regulariser_on in ("tokens", "deviations"):
            valid = batch.masks.context_valid
            if self.config.regulariser_on == "deviations":
                context = context - patch_mean(context, valid, dim=-2).unsqueeze(1)
            return context.flatten(0, 1) if valid is None else context[valid]
        return patch_mean(predictions, batch.masks.target_valid, dim=-2).flatten(0, 1)

    @torch.no_grad()
    def energy(self, batch: MaskedBatch, target_images: Tensor | None = None) -> Tensor:
        """(R, M) energies; `target_images` (B, C, H, W) pairs each context with another image."""
        images = self.student.normalise(batch.images)
        others = images if target_images is None else self.student.normalise(target_images)
        _, predictions = self.predict(images, batch)
        return self.block_energy(predictions, self.targets(others, batch), batch.masks.target_valid)

    @torch.no_grad()
    def representations(self, batch: MaskedBatch) -> dict[str, Tensor]:
        images = self.student.normalise(batch.images)
        _, predictions = self.predict(images, batch)
        blocks = patch_mean(predictions, batch.masks.target_valid, dim=-2)
        return {
            "context": self.student.features(images, 1).pooled,
            "target": self.teacher.features(images, 1).pooled,
            "prediction": blocks.mean(1)[:: self.config.masks_per_image],
        }

    @torch.no_grad()
    def after_step(self, t: float) -> None:
        """The teacher follows the student: teacher <- m * teacher + (1 - m) * student."""
        weight = 1 - linear(t, *self.config.momentum)
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), weight)


def patch_mean(x: Tensor, valid: Tensor | None, dim: int) -> Tensor:
    """Mean of x over its patch axis `dim` (-1 or -2), leaving out patches that are not valid (False)."""
    if valid is None:
        return x.mean(dim)
    weights = valid.to(x.dtype) / valid.sum(-1, keepdim=True)
    return (x * (weights if dim == -1 else weights.unsqueeze(-1))).sum(dim)
