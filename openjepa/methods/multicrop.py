"""Two global crops and a few local ones an image, each augmented on its own (DINO, arXiv 2104.14294, section 3.1).

With iBOT's masks of the global crops (arXiv 2111.07832, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openjepa.data.augment import Augment
from openjepa.data.views import Crop
from openjepa.masking.blockwise import Blockwise
from openjepa.methods.base import Batch
from openjepa.vision.transformer import drop_path

Sample = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]
"""Of one image: first and second global crop (C, H, W), locals (n, C, h, w), branches (2 + n, depth, 2) if any go."""


@dataclass(frozen=True)
class CropsBatch(Batch):
    """Crops of images; `images` are the first global ones."""

    second: Tensor
    """(B, C, H, W) uint8: the second global crops."""
    locals: Tensor
    """(B * n, C, h, w) uint8: local crops, those of an image adjacent."""
    masks: Tensor | None
    """(B, 2, N) bool: True where a patch of the first, of the second global crop is hidden; None where none ever is."""
    branches: Tensor | None
    """(B, 2 + n, depth, 2) float32, see `drop_path`; None where every branch stays."""

    @property
    def partners(self) -> Tensor:
        return self.second


@dataclass(frozen=True)
class MultiCrop:
    """Global and local crops an image; masks for the whole batch at once."""

    crops: tuple[Crop, Crop]
    """Of global and of local crops."""
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """(height, width) of global and of local crops."""
    augments: tuple[Augment, Augment, Augment]
    """Of the first and of the second global crop, and of local ones."""
    num_locals: int
    masking: Blockwise | None
    grid: tuple[int, int]
    channels: int
    depth: int
    """Blocks of the encoder, for drop path."""
    drop_path: float

    def sample(self, image: np.ndarray, rng: np.random.Generator, label: int | None) -> Sample:
        """(H, W, C) uint8 to its crops, and the branches that the encoder keeps for each."""
        first, second = (augment(self.crops[0](image, self.sizes[0], rng), rng) for augment in self.augments[:2])
        locals_ = np.empty((self.num_locals, self.channels, *self.sizes[1]), np.uint8)
        for crop in locals_:
            crop[:] = self.augments[2](self.crops[1](image, self.sizes[1], rng), rng)
        branches = None
        if self.drop_path:
            branches = np.stack([drop_path(rng, self.depth, self.drop_path) for _ in range(2 + self.num_locals)])
        return first, second, locals_, branches

    def collate(self, samples: list[Sample], seed: int, step: int, first: int) -> CropsBatch:
        """Samples at `first`, `first + 1`, ... of the step's global batch."""
        *views, branches = zip(*samples, strict=True)
        images, second, locals_ = (torch.from_numpy(np.stack(view)) for view in views)
        masks = None
        if self.masking is not None:
            count = 2 * len(samples)
            masks = self.masking.sample(self.grid, seed=seed, step=step, first=2 * first, count=count)
            masks = masks.unflatten(0, (-1, 2))
        kept = torch.from_numpy(np.stack(branches)) if self.drop_path else None
        return CropsBatch(images, seed, step, second, locals_.flatten(0, 1), masks, kept)
