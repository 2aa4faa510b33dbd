"""RandAugment in the form that MAE fine-tunes with (Cubuk et al. 2020; paper appendices A.2 and D name MAE's recipe).

Fifteen operations, all Pillow's; each that is picked is carried out half of the time, its strength drawn around a
magnitude out of ten, and rising strength always means a stronger change.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from openjepa.data.augment import as_array, as_pillow

GREATEST = 10.0
SPREAD = 0.5  # standard deviation of a strength around the magnitude
CHANCE = 0.5  # that an operation which was picked is carried out
FILL = (128, 128, 128)  # what comes in from outside the image

Operation = Callable[[Image.Image, float, float], Image.Image]


def _moved(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    fill = FILL if image.mode == "RGB" else FILL[0]
    method, filtering = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    return image.transform(image.size, method, coefficients, filtering, fillcolor=fill)


def _rotated(image: Image.Image, angle: float) -> Image.Image:
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=FILL if image.mode == "RGB" else FILL[0])


def _brightened(image: Image.Image, amount: float) -> Image.Image:
    """Adds to dark pixels only, as the published operation does."""
    table = [min(255, value + round(amount)) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


# name: image, strength 0..1, sign -1 or 1
OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, strength, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, strength, sign: ImageOps.equalize(image),
    "invert": lambda image, strength, sign: ImageOps.invert(image),
    "rotate": lambda image, strength, sign: _rotated(image, sign * 30 * strength),
    "posterize": lambda image, strength, sign: ImageOps.posterize(image, max(1, 4 - int(4 * strength))),
    "solarize": lambda image, strength, sign: ImageOps.solarize(image, 256 - int(256 * strength)),
    "solarize add": lambda image, strength, sign: _brightened(image, 110 * strength),
    "color": lambda image, strength, sign: ImageEnhance.Color(image).enhance(max(0.1, 1 + sign * 0.9 * strength)),
    "contrast": lambda image, strength, sign: ImageEnhance.Contrast(image).enhance(max(0.1, 1 + sign * 0.9 * strength)),
    "brightness": lambda image, strength, sign: ImageEnhance.Brightness(image).enhance(
        max(0.1, 1 + sign * 0.9 * strength)
    ),
    "sharpness": lambda image, strength, sign: ImageEnhance.Sharpness(image).enhance(
        max(0.1, 1 + sign * 0.9 * strength)
    ),
    "shear x": lambda image, strength, sign: _moved(image, (1, sign * 0.3 * strength, 0, 0, 1, 0)),
    "shear y": lambda image, strength, sign: _moved(image, (1, 0, 0, sign * 0.3 * strength, 1, 0)),
    "translate x": lambda image, strength, sign: _moved(image, (1, 0, sign * 0.45 * strength * image.width, 0, 1, 0)),
    "translate y": lambda image, strength, sign: _moved(image, (1, 0, 0, 0, 1, sign * 0.45 * strength * image.height)),
}


def rand_augment(image: np.ndarray, magnitude: float, num_operations: int, rng: np.random.Generator) -> np.ndarray:
    """(C, H, W) uint8 of 1 or 3 channels to the same, changed by `num_operations` drawn with repetition."""
    plain = as_pillow(image)
    names = list(OPERATIONS)
    for index in rng.integers(len(names), size=num_operations):
        strength = min(max(rng.normal(magnitude, SPREAD), 0.0), GREATEST) / GREATEST
        is_done, sign = rng.random() < CHANCE, 1.0 if rng.random() < 0.5 else -1.0
        if is_done:
            plain = OPERATIONS[names[index]](plain, strength, sign)
    return as_array(plain)
