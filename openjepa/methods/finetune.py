"""Fine-tuning: a linear head on the pooled tokens, and all of the encoder, learn from labels (paper appendices A.2, D).

With layer decay, label smoothing, mixup (Zhang et al. 2018), CutMix (Yun et al. 2019) and drop path. Departs from the
published recipes in mixing an image with its neighbour in the batch, so that two processes mix as one does; random
erasing, which the paper does not name, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjepa.data.randaugment import GREATEST, rand_augment
from openjepa.data.views import Crop
from openjepa.errors import ConfigError, DataError, sentence
from openjepa.methods.base import Batch, Method, MethodConfig
from openjepa.randomness import generator
from openjepa.vision.transformer import drop_path
from openjepa.vision.vit import ViT

HEAD_STD = 2e-5  # MAE's: the first gradients of the encoder are those of a head that says nothing yet


@dataclass(frozen=True)
class FineTuneConfig(MethodConfig):
    """Fine-tuning: everything about it that changes the result. The encoder's shape comes from its weights."""

    num_classes: int = 2
    """Classes; taken from the data."""
    class_names: tuple[str, ...] = ()
    """Their names, in the order of the outputs; taken from the data."""
    crop: Crop = field(default_factory=lambda: Crop(scale=(0.08, 1.0), flip=True))
    rand_magnitude: float = 9.0
    """Strength of RandAugment, out of ten; 0 switches it off (MAE: 9)."""
    rand_operations: int = 2
    """Operations of RandAugment an image (MAE: 2)."""
    mixup: float = 0.0
    """Alpha of mixup's beta distribution; 0 switches it off (paper, all labels: 0.8)."""
    cutmix: float = 0.0
    """Alpha of CutMix; with both on, each has half of the images (paper, all labels: 1.0)."""
    label_smoothing: float = 0.1
    """Share of the target spread over all classes."""
    drop_path: float = 0.0
    """Share of the last block's branches left out, rising linearly to it (paper, all labels: 0.25)."""
    layer_decay: float = 0.75
    """Learning rate of a block over that of the next."""

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        wrong = [*self.encoder.mistakes(), *self.crop.mistakes()]
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < float("inf"):
                wrong.append(sentence(name, getattr(self, name), "must be from 0, which switches it off"))
        for name in ("label_smoothing", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                wrong.append(sentence(name, getattr(self, name), "must be in [0, 1)"))
        if not 0 < self.layer_decay <= 1:
            wrong.append(sentence("layer_decay", self.layer_decay, "must be in (0, 1]"))
        if not 0 <= self.rand_magnitude <= GREATEST or self.rand_operations < 0:
            given = (self.rand_magnitude, self.rand_operations)
            wrong.append(sentence("rand_magnitude, rand_operations", given, f"0 to {GREATEST:g}, and from 0"))
        if self.rand_magnitude and self.rand_operations and self.encoder.channels not in (1, 3):
            rule = f"works on 1 or 3 channels, and the encoder takes {self.encoder.channels}"
            wrong.append(sentence("rand_magnitude", self.rand_magnitude, rule, "Set it to 0."))
        if self.num_classes < 2:
            wrong.append(sentence("num_classes", self.num_classes, "must be from 2"))
        return wrong

    def min_side(self) -> int:
        return self.crop.min_side(self.encoder.image_size)


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """Images, mixed where that is on, and what they show."""

    labels: Tensor
    """(B,) int64."""
    others: Tensor
    """(B,) int64: the label of the image that was mixed in."""
    shares: Tensor
    """(B,) float32: how much of the image is its own, in 0..1."""
    branches: Tensor
    """(B, depth, 2) float32: see `drop_path`."""


@dataclass(frozen=True)
class LabelledViews:
    """Crop, flip and RandAugment an image; mixing in the batch."""

    config: FineTuneConfig

    @property
    def channels(self) -> int:
        return self.config.encoder.channels

    def sample(self, image: np.ndarray, rng: np.random.Generator, label: int | None) -> tuple[np.ndarray, int, Any]:
        """(H, W, C) uint8 to (C, *image_size) uint8, its label, and the branches of the encoder that are left in."""
        if label is None or label < 0:
            raise DataError(sentence("label", label, "every image needs one to be learned from"))
        config = self.config
        view = config.crop(image, config.encoder.image_size, rng)
        if config.rand_magnitude and config.rand_operations:
            view = rand_augment(view, config.rand_magnitude, config.rand_operations, rng)
        return view, label, drop_path(rng, config.encoder.depth, config.drop_path)

    def collate(self, samples: list[Any], seed: int, step: int, first: int) -> LabelledBatch:
        """Samples at `first`, ... of the step's global batch. ConfigError when images are mixed and `first` is odd."""
        if first % 2 and (self.config.mixup or self.config.cutmix):
            rule = "must be even to mix neighbours, so that several processes mix as one does"
            raise ConfigError(sentence("images a process", first, rule, "Take another --batch-size."))
        images = np.stack([view for view, _, _ in samples])
        labels = np.array([label for _, label, _ in samples], np.int64)
        neighbours = [i ^ 1 if i ^ 1 < len(samples) else i for i in range(len(samples))]
        mixed, shares = images, np.ones(len(samples), np.float32)
        if self.config.mixup or self.config.cutmix:
            mixed = images.copy()  # a neighbour is mixed in as it was
            for i, other in enumerate(neighbours):
                rng = generator(seed, "mix", step, first + i)
                mixed[i], shares[i] = self.mix(images[i], images[other], rng)
        return LabelledBatch(
            torch.from_numpy(mixed), seed, step, torch.from_numpy(labels), torch.from_numpy(labels[neighbours]),
            torch.from_numpy(shares), torch.from_numpy(np.stack([branches for _, _, branches in samples])),
        )  # fmt: skip

    def mix(self, image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """Two (C, H, W) uint8 to one and the share of it that is the first one's."""
        is_cut = rng.random() < 0.5 if self.config.mixup and self.config.cutmix else bool(self.config.cutmix)
        alpha = self.config.cutmix if is_cut else self.config.mixup
        share = float(rng.beta(alpha, alpha))
        if not is_cut:
            blend = np.float32(share) * image + np.float32(1 - share) * other
            return np.rint(blend).astype(np.uint8), share
        height, width = image.shape[1:]
        side = (1 - share) ** 0.5
        y, x = rng.integers(height), rng.integers(width)
        rows = slice(max(0, y - int(height * side) // 2), min(height, y + int(height * side) // 2))
        columns = slice(max(0, x - int(width * side) // 2), min(width, x + int(width * side) // 2))
        out = image.copy()
        out[:, rows, columns] = other[:, rows, columns]
        return out, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


class FineTune(Method):
    """An encoder and a linear head on what it pools."""

    can_collapse = False

    def __init__(self, config: FineTuneConfig) -> None:
        if wrong := config.mistakes():
            raise ConfigError(wrong)
        super().__init__()
        self.config = config
        self.student = ViT(config.encoder)
        self.head = nn.Linear(config.encoder.width, config.num_classes)
        nn.init.trunc_normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)
        self.views = LabelledViews(config)

    @property
    def encoder(self) -> ViT:
        return self.student

    @property
    def context_encoder(self) -> ViT:
        return self.student

    def logits(self, images: Tensor, branches: Tensor | None = None) -> Tensor:
        """(B, C, H, W) uint8, or float in 0..1, to (B, num_classes)."""
        (tokens,) = self.student.encode(self.student.normalise(images), branches=branches)
        return self.head(self.student.summary(tokens))

    def forward(self, batch: LabelledBatch, t: float) -> dict[str, Tensor]:
        branches = batch.branches if self.config.drop_path else None
        logits = self.logits(batch.images, branches)
        loss = self.cross_entropy(logits, batch, self.config.label_smoothing).mean()
        accuracy = (logits.argmax(1) == batch.labels).float().mean()
        return {"loss": loss, "accuracy": accuracy}

    def cross_entropy(self, logits: Tensor, batch: LabelledBatch, smoothing: float) -> Tensor:
        """(B,) of the smoothed mixture of two labels; logits (B, num_classes)."""
        shares = batch.shares.to(logits.dtype)
        own = F.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=smoothing)
        mixed_in = F.cross_entropy(logits, batch.others, reduction="none", label_smoothing=smoothing)
        return shares * own + (1 - shares) * mixed_in

    @torch.no_grad()
    def energy(self, batch: LabelledBatch, target_images: Tensor | None = None) -> Tensor:
        """(B,): cross-entropy of an image, or of `target_images`, and the batch's labels."""
        logits = self.logits(batch.images if target_images is None else target_images)
        return self.cross_entropy(logits, batch, 0.0)

    @torch.no_grad()
    def representations(self, batch: LabelledBatch) -> dict[str, Tensor]:
        pooled = self.student.features(self.student.normalise(batch.images), 1).pooled
        return {"context": pooled, "target": pooled, "prediction": self.head(pooled)}

    def after_step(self, t: float) -> None:
        """Nothing follows."""

    def lr_scale(self, name: str) -> float:
        """Layer decay: 1 for head and last norm, down to decay^(depth + 1) for the embedding."""
        depth = self.config.encoder.depth
        if name.startswith("student.blocks."):
            place = 1 + int(name.split(".")[2])
        else:
            place = 0 if name.startswith(("student.embed", "student.cls_token")) else depth + 1
        return self.config.layer_decay ** (depth + 1 - place)
