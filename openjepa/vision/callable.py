"""Any function from images to features as an `Encoder`, so that evaluation compares what it did not train.

No section of the paper.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from openjepa.errors import ConfigError, sentence
from openjepa.vision.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, Features


class CallableEncoder(Encoder):
    """`function` maps normalised (B, C, H, W) float32 to tokens (B, N, D), or to one vector an image (B, D)."""

    depth = 1

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        image_size: tuple[int, int],
        *,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        grid: tuple[int, int] | None = None,
        name: str | None = None,
    ) -> None:
        """`grid`: rows and columns of the N patches, a square by default. `name`: under this and, for an `nn.Module`,
        its layers and weights, features are kept on disk: name checkpoint and revision. Without it nothing is kept."""
        super().__init__(mean, std)
        self.function, self.image_size, self.channels = function, image_size, len(mean)
        self.is_known = name is not None
        self.patches, self.name = grid, name or uuid.uuid4().hex
        self.width = 0  # known when it has run

    def fingerprint(self) -> str:
        layers = repr(self.function) if isinstance(self.function, nn.Module) else ""
        about = f"{self.name} {layers} {self.patches} {super().fingerprint()}"
        return hashlib.sha256(about.encode()).hexdigest()

    def features(self, images: Tensor, num_layers: int) -> Features:
        found = self.function(images)
        if not isinstance(found, Tensor) or found.ndim not in (2, 3) or len(found) != len(images):
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            rule = f"must be a tensor (B, N, D) or (B, D) for B = {len(images)} images"
            raise ConfigError(sentence("what the callable gives", given, rule))
        tokens = found if found.ndim == 3 else found.unsqueeze(1)
        self.width = tokens.shape[2]
        return Features((tokens,), self._grid(tokens.shape[1]))

    def _grid(self, num_patches: int) -> tuple[int, int]:
        rows, columns = self.patches or (round(num_patches**0.5), round(num_patches**0.5))
        if rows * columns != num_patches:
            rule = f"does not have the {num_patches} tokens that the callable gives"
            raise ConfigError(sentence("grid", (rows, columns), rule, "Give rows and columns, and drop class tokens."))
        return rows, columns
