"""Two data sets that no recipe was tuned on, as folders by class: python results/recipes/other_data.py OUT

glyphs: 36 letters and digits of 40 x 40 pixels in the fonts that matplotlib brings, turned, scaled, shifted and
coloured at random, on a ground of another colour with noise; 9,000 images to train on and 3,600 to test. digits:
scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, a fifth to test.
"""

from __future__ import annotations

import string
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

SIDE = 40
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic",
         "STIXGeneral", "cmr10", "cmss10", "cmtt10")  # fmt: skip


def glyph(character: str, fonts: list[Path], rng: np.random.Generator) -> Image.Image:
    """One character somewhere on a noisy ground."""
    ground, ink = rng.integers(0, 256, (2, 3))
    while np.abs(ground - ink).sum() < 150:
        ground, ink = rng.integers(0, 256, (2, 3))
    font = ImageFont.truetype(fonts[rng.integers(len(fonts))], int(rng.integers(20, 34)))
    mask = Image.new("L", (SIDE, SIDE))
    place = tuple(SIDE / 2 + rng.uniform(-5, 5, 2))
    ImageDraw.Draw(mask).text(place, character, fill=255, font=font, anchor="mm")
    share = np.asarray(mask.rotate(rng.uniform(-20, 20), Image.Resampling.BILINEAR))[..., None] / 255
    pixels = share * ink + (1 - share) * ground + rng.normal(0, 12, (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def main(out: Path) -> None:
    """Write both."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [folder / f"{name}.ttf" for name in FONTS]
    rng = np.random.default_rng(0)
    for part, count in (("train", 250), ("test", 100)):
        for character in string.ascii_uppercase + string.digits:
            place = out / "glyphs" / part / character
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                glyph(character, fonts, rng).save(place / f"{i}.png")
    images, labels = load_digits(return_X_y=True)
    for i, j in enumerate(rng.permutation(len(images))):
        place = out / "digits" / ("test" if i < len(images) // 5 else "train") / str(labels[j])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((images[j].reshape(8, 8) * 15.9).astype(np.uint8)).save(place / f"{j}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
