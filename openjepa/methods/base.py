"""What the loop needs of a method, and no more: I-JEPA, MAE and iBOT all fit through here.

Energy view (paper section 2): a method gives low energy to compatible pairs (x, y) and high energy to others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from openjepa.data.views import Crop, Views
from openjepa.masking.base import Masking, Masks
from openjepa.vision.vit import ViT, ViTConfig

B = TypeVar("B", bound="Batch")


@dataclass(frozen=True)
class Batch:
    """Images and what was drawn for them, as a loader worker made it.

    Methods add fields: tensors, or `Masks`, of R rows, R a multiple of B: the rows of an image are adjacent.
    """

    images: Tensor
    """(B, C, H, W) uint8."""
    seed: int
    step: int
    """Where the batch stands in the run: the address of any randomness the method needs."""

    @property
    def partners(self) -> Tensor:
        """(B, C, H, W) uint8: where a true pair has its y from; the images themselves, unless a method has other views.

        False pairs are made of these too, so that nothing but the image tells them from true ones.
        """
        return self.images

    def to(self: B, device: torch.device) -> B:
        """The same batch on a device; copies from pinned memory do not wait."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self: B) -> B:
        """The same batch in pinned memory (called by the loader)."""
        return self._each(lambda x: x.pin_memory())

    def split(self: B, num_images: int) -> list[B]:
        """Batches of at most `num_images` images, in order, for gradient accumulation."""
        count = len(self.images)

        def part(start: int) -> B:
            stop = min(start + num_images, count)
            return self._each(lambda x: x[start * (len(x) // count) : stop * (len(x) // count)])

        return [part(start) for start in range(0, count, num_images)]

    def _each(self: B, change: Callable[[Tensor], Tensor]) -> B:
        changed: dict[str, Any] = {}
        for name, value in ((entry.name, getattr(self, entry.name)) for entry in fields(self)):
            if isinstance(value, Tensor):
                changed[name] = change(value)
            elif isinstance(value, Masks):
                changed[name] = value.each(change)
        return replace(self, **changed)


@dataclass(frozen=True)
class MaskedBatch(Batch):
    """A batch with contexts and targets."""

    masks: Masks


@dataclass(frozen=True)
class MaskedViews:
    """One random resized crop an image; masks drawn for the whole batch at once. MAE's too."""

    crop: Crop
    masking: Masking
    masks_per_image: int
    image_size: tuple[int, int]
    grid: tuple[int, int]
    channels: int

    def sample(self, image: np.ndarray, rng: np.random.Generator, label: int | None) -> np.ndarray:
        """(H, W, C) uint8 to (C, *image_size) uint8."""
        return self.crop(image, self.image_size, rng)

    def collate(self, samples: list[np.ndarray], seed: int, step: int, first: int) -> MaskedBatch:
        """Samples at `first`, `first + 1`, ... of the step's global batch."""
        draws = self.masks_per_image
        masks = self.masking.sample(self.grid, seed=seed, step=step, first=first * draws, count=len(samples) * draws)
        return MaskedBatch(torch.from_numpy(np.stack(samples)), seed, step, masks)


@dataclass(frozen=True)
class MethodConfig(ABC):
    """Everything about a method that changes the result."""

    encoder: ViTConfig = field(default_factory=ViTConfig)

    @abstractmethod
    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""

    @abstractmethod
    def min_side(self) -> int:
        """The shorter side of an image from which on it may be decoded at a fraction of its size."""

    def batch_mistakes(self, num_images: int) -> list[str]:
        """What is wrong with so many images a forward pass, on one process."""
        return []


class Method(nn.Module, ABC):
    """A way to train an encoder."""

    can_collapse: bool = True
    """Its targets are features of its own, so that a constant would do."""
    remedy: str = "Lower --optim.lr, in another --out."
    """What to type when it has collapsed."""
    views: Views
    """Image -> sample, samples -> batch; on the CPU, in loader workers."""

    @property
    @abstractmethod
    def encoder(self) -> ViT:
        """All that evaluation may see: the encoder the method recommends (I-JEPA: the target encoder)."""

    @property
    @abstractmethod
    def context_encoder(self) -> ViT:
        """The encoder that gradients move."""

    @abstractmethod
    def forward(self, batch: Any, t: float) -> dict[str, Tensor]:
        """One training forward at progress t in 0..1: "loss" and what else to log, () tensors."""

    @abstractmethod
    def energy(self, batch: Any, target_images: Tensor | None = None) -> Tensor:
        """(R,) or (R, M) energies of pairs (x, y), R a multiple of B; y from `target_images` if given."""

    @abstractmethod
    def representations(self, batch: Any) -> dict[str, Tensor]:
        """Pooled "context", "target" (B, D) and "prediction" (B, any width), for judging collapse."""

    @abstractmethod
    def after_step(self, t: float) -> None:
        """What follows an optimiser step at progress t: EMA teachers, centres."""

    def frozen(self, t: float) -> frozenset[str]:
        """Names of parameters that are not to move at progress t."""
        return frozenset()

    def lr_scale(self, name: str) -> float:
        """What the learning rate of the parameter of this name is multiplied by."""
        return 1.0
