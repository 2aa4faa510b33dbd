"""Colour and blur: the hand-made augmentations of SimCLR, BYOL, DINO and iBOT, by Pillow (DINO, arXiv 2104.14294).

I-JEPA does without them; they are here for the methods that it is compared with. Operations, strengths and order are
those of the released code, hue is shifted in Pillow's 256 steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from openjepa.errors import ConfigError, sentence


@dataclass(frozen=True)
class Augment:
    """What may happen to the colours of a crop: each a chance, and strengths for the jitter."""

    jitter: float = 0.8
    """Chance that brightness, contrast, saturation and hue are changed, in random order."""
    brightness: float = 0.4
    """Brightness is multiplied by 1 +- up to this."""
    contrast: float = 0.4
    """Contrast is multiplied by 1 +- up to this."""
    saturation: float = 0.2
    """Saturation is multiplied by 1 +- up to this."""
    hue: float = 0.1
    """Hue is turned by up to this share of the circle, either way."""
    grey: float = 0.2
    """Chance that the colours are taken out."""
    blur: float = 0.5
    """Chance of a Gaussian blur."""
    blur_radius: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur in pixels, uniform between the two (published, for crops of 224 and 96)."""
    solarise: float = 0.0
    """Chance that pixels above the middle are inverted."""

    @property
    def is_on(self) -> bool:
        """True if anything may happen."""
        return max(self.jitter, self.grey, self.blur, self.solarise) > 0

    def mistakes(self, name: str, channels: int) -> list[str]:
        """Every setting that cannot be used, as sentences; `name` is what the configuration calls this."""
        wrong = []
        for field in ("jitter", "grey", "blur", "solarise"):
            if not 0 <= getattr(self, field) <= 1:
                wrong.append(sentence(f"{name}.{field}", getattr(self, field), "is a chance, in 0..1"))
        for field, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            if not 0 <= getattr(self, field) <= most:
                wrong.append(sentence(f"{name}.{field}", getattr(self, field), f"must be in 0..{most}"))
        if not 0 <= self.blur_radius[0] <= self.blur_radius[1] < float("inf"):
            wrong.append(sentence(f"{name}.blur_radius", self.blur_radius, "needs 0 <= low <= high"))
        if self.is_on and channels not in (1, 3):
            remedy = f"Set {name}.jitter, grey, blur and solarise to 0."
            wrong.append(sentence("channels", channels, f"{name} works on 1 or 3 channels", remedy))
        return wrong

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(C, H, W) uint8 to the same. One channel has no colour to change. ConfigError where C is not 1 or 3."""
        if not self.is_on:
            return image
        channels = image.shape[0]
        if channels not in (1, 3):
            raise ConfigError(sentence("channels", channels, "colours are changed in images of 1 or 3 channels"))
        plain = as_pillow(image)
        if rng.random() < self.jitter:
            plain = self._jittered(plain, rng)
        if rng.random() < self.grey:
            plain = ImageOps.grayscale(plain).convert(plain.mode)
        if rng.random() < self.blur:
            plain = plain.filter(ImageFilter.GaussianBlur(rng.uniform(*self.blur_radius)))
        if rng.random() < self.solarise:
            plain = ImageOps.solarize(plain)
        return as_array(plain)

    def _jittered(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        strengths = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        changes = rng.uniform(-strengths, strengths)
        for kind in rng.permutation(4):
            if kind == 3:
                image = turned(image, changes[3])
            else:
                enhancer = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[kind]
                image = enhancer(image).enhance(1 + changes[kind])
        return image


def as_pillow(image: np.ndarray) -> Image.Image:
    """(C, H, W) uint8 of 1 or 3 channels to a Pillow image."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def as_array(image: Image.Image) -> np.ndarray:
    """A grey or RGB Pillow image to (C, H, W) uint8."""
    found = np.array(image)
    return found[None] if found.ndim == 2 else np.ascontiguousarray(found.transpose(2, 0, 1))


def turned(image: Image.Image, share: float) -> Image.Image:
    """An RGB image with its hues turned by a share of the circle; a grey one as it is."""
    steps = round(share * 256) % 256
    if image.mode == "L" or steps == 0:  # there and back would round
        return image
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([*range(256)][steps:] + [*range(256)][:steps])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
