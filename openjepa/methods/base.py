"""What the loop needs of a method, and no more: I-JEPA, MAE and iBOT all fit through here.

Energy view (paper section 2): a method gives low energy to compatible pairs (x, y) and high energy to others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from openjepa.data.views import Views
from openjepa.masking.base import Masks
from openjepa.vision.vit import ViT


@dataclass(frozen=True)
class Batch:
    """Images and what was drawn for them, as a loader worker made it."""

    images: Tensor
    """(B, C, H, W) uint8."""
    masks: Masks
    """R rows, R a multiple of B: the rows of an image are adjacent."""
    seed: int
    step: int
    """Where the batch stands in the run: the address of any randomness the method needs."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; copies from pinned memory do not wait."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory (called by the loader)."""
        return self._each(lambda x: x.pin_memory())

    def split(self, num_images: int) -> list[Batch]:
        """Batches of at most `num_images` images, in order, for gradient accumulation."""
        draws = self.masks.context.shape[0] // len(self.images)
        parts = []
        for start in range(0, len(self.images), num_images):
            stop = min(start + num_images, len(self.images))
            rows = slice(start * draws, stop * draws)
            masks = self.masks.each(itemgetter(rows))
            parts.append(replace(self, images=self.images[start:stop], masks=masks))
        return parts

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(self, images=change(self.images), masks=self.masks.each(change))


class Method(nn.Module, ABC):
    """A way to train an encoder without labels."""

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
        """(R,) or (R, M) energies of (context, target) pairs; targets from `target_images` if given."""

    @abstractmethod
    def representations(self, batch: Any) -> dict[str, Tensor]:
        """(B, D) pooled "context", "target" and "prediction", for judging collapse."""

    @abstractmethod
    def after_step(self, t: float) -> None:
        """What follows an optimiser step at progress t: EMA teachers, centres."""
