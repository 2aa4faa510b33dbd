"""What a method does to an image before a batch reaches the device: the contract, and the one default view.

I-JEPA (paper section 4) uses no hand-made augmentation: a random resized crop is all there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image


class Views(Protocol):
    """Turns decoded images into a batch. Runs in loader workers, so it must be picklable and CPU only."""

    @property
    def channels(self) -> int:
        """How many channels `sample` expects in an image."""

    def sample(self, image: np.ndarray, rng: np.random.Generator, label: int | None) -> Any:
        """One decoded image (H, W, C) uint8 to whatever `collate` takes; all chance comes from `rng`.

        `label`: what the source says of the image; only a method that learns from labels looks at it.
        """

    def collate(self, samples: list[Any], seed: int, step: int, first: int) -> Any:
        """Samples at positions `first`, `first + 1`, ... of the global batch of `step` to one batch.

        Tensors, in containers or in an object with a `pin_memory` method.
        """


@dataclass(frozen=True)
class Crop:
    """Random resized crop, and optionally a horizontal flip."""

    scale: tuple[float, float] = (0.3, 1.0)
    """Share of the image's area that a crop covers (released configurations: 0.3 to 1)."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a crop, log-uniform between the two."""
    flip: bool = False
    """Mirror half of the crops. The paper does not."""

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        wrong = []
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            wrong.append(f"crop.scale = {self.scale}: needs 0 < low <= high <= 1.")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            wrong.append(f"crop.aspect = {self.aspect}: needs 0 < low <= high.")
        return wrong

    def min_side(self, size: tuple[int, int]) -> int:
        """The shorter side of an image from which on every crop holds `size` at least twice over.

        A JPEG may be decoded at a fraction of its size down to this without a visible difference.
        """
        low, high = self.aspect
        return math.ceil(2 * max(size[1] / (self.scale[0] * low) ** 0.5, size[0] * (high / self.scale[0]) ** 0.5))

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of one crop, at least one pixel a side.

        Ten tries at a crop that fits, then the largest centred one of an allowed aspect: the field's
        usual procedure, so that figures compare with other code.
        """
        low, high = map(math.log, self.aspect)
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(low, high))
            w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
                return int(left), int(top), int(left) + w, int(top) + h
        aspect = min(max(width / height, self.aspect[0]), self.aspect[1])
        w = max(1, min(width, round(height * aspect)))
        h = max(1, min(height, round(width / aspect)))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

    def __call__(self, image: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """(H, W, C) uint8 to one crop, (C, *size) uint8; `size` is (height, width)."""
        box = self.box(image.shape[1], image.shape[0], rng)
        out = resize(image, size, box)
        if self.flip and rng.random() < 0.5:
            out = out[:, :, ::-1]
        return np.ascontiguousarray(out)


def resize(image: np.ndarray, size: tuple[int, int], box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """The part `box` of (H, W, C) uint8, resized with antialiased bilinear to (C, *size) uint8.

    Nothing outside of the box shows, as it would with Pillow's own `box`.
    """
    if box is not None:
        left, top, right, bottom = box
        image = np.ascontiguousarray(image[top:bottom, left:right])  # Pillow copies strided arrays slowly
    if image.shape[2] == 3:
        return _scaled(image, size).transpose(2, 0, 1)
    return np.stack([_scaled(plane, size) for plane in np.ascontiguousarray(image.transpose(2, 0, 1))])


def _scaled(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))


def center_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The largest centred part of (H, W, C) with the aspect of `size`, resized to (C, *size)."""
    return np.ascontiguousarray(resize(image, size, _centre(image.shape, size)))


def nearest_crop(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same part of (H, W) depths or class numbers, which must not be blended: (*size), the value nearest to the
    centre of each new pixel."""
    left, top, right, bottom = _centre(values.shape, size)
    rows = top + ((np.arange(size[0]) + 0.5) * (bottom - top) / size[0]).astype(int)
    columns = left + ((np.arange(size[1]) + 0.5) * (right - left) / size[1]).astype(int)
    return values[rows[:, None], columns]


def _centre(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the largest centred part of (H, W, ...) with the aspect of `size`."""
    height, width = shape[:2]
    scale = min(height / size[0], width / size[1])
    h, w = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    top, left = (height - h) // 2, (width - w) // 2
    return left, top, left + w, top + h
