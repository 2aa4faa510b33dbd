"""`auto`: a recipe for images that nobody has tuned for, from their size and number, the device and the budget.

Speeds are measured on the machine, in a few seconds. What the rules rest on is in LOG.md and results/recipes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from openjepa import distributed, storage
from openjepa.benchmark.training import images_per_second
from openjepa.config import from_dict
from openjepa.data.check import sides
from openjepa.data.source import Source, open_source
from openjepa.errors import ConfigError, DataError, sentence
from openjepa.methods.ijepa import IJEPAConfig
from openjepa.recipes.ijepa import ijepa_cifar10_cpu
from openjepa.training.checkpoints import Checkpoints
from openjepa.training.recipe import Length, Recipe
from openjepa.vision.predictor import PredictorConfig
from openjepa.vision.vit import vit

NAME = "auto"
DEFAULT_LENGTH = Length(minutes=30)
FEWEST_IMAGES = 32
"""Fewer are refused: the smallest batch would hold each of them more than twice."""
GRIDS = (8, 7, 9)
"""Patches a side, the first that loses fewest pixels: 64 patches are what a CPU can do, and masks need some."""
LARGEST_SIDE = {"cpu": 96, "mps": 128, "cuda": 128}
"""Pixels; larger images are shrunk. More pixels a patch cost next to nothing, but small things should not fill it."""
WORTHWHILE = {"pico": 0, "nano": 250_000, "micro": 2_000_000, "small": 20_000_000}
"""Encoder sizes, and the images that a run must see before one beats the next smaller."""
SPEED_LEFT = 0.85
"""Of the measured speed, when images are loaded and the run is judged too."""
MEASURED_S = 1.0
STEPS = 1_200
"""Steps that a run should have, before its batches grow."""
BATCHES = (64, 128, 256)
STEPS_BATCH = 128
"""Images a step, where the length is in steps."""


@dataclass(frozen=True)
class Choice:
    """A recipe, and why it is this one."""

    recipe: Recipe
    reasons: tuple[str, ...]

    def tell(self) -> None:
        """Print the reasons, on one process."""
        if distributed.start(self.recipe.speed.device).is_first:
            for reason in self.reasons:
                Console(highlight=False).print(f"{NAME}: {reason}", markup=False, soft_wrap=True)


def auto(source: Source, length: Length | None = None, device: str = "auto", encoder: str | None = None) -> Choice:
    """I-JEPA on images that nobody has tuned for; what `openjepa pretrain` does without --recipe.

    Crops, patches, encoder, batch and learning rate follow from the images, the device and the length (30 minutes
    by default). `encoder`: a size that is wanted whatever the rules say. DataError where there are too few images, or
    none that can be used.

    Command: openjepa pretrain photos/ --minutes 30
    Hardware: what is there.
    Time: as given.
    To reach: see results/recipes.
    """
    length = length or DEFAULT_LENGTH
    if wrong := length.mistakes():
        raise ConfigError(wrong)
    count = None if source.is_sequential else len(source)
    if count is not None and count < FEWEST_IMAGES:
        rule = f"{count} images are too few to learn from; auto needs {FEWEST_IMAGES}"
        raise DataError(sentence("data", source.identity, rule, "Name a --recipe to go on regardless."))
    world = distributed.start(device)
    kind = world.device.type
    shapes = sides(source)
    side = int(np.median([min(shape) for shape in shapes]))
    size, patch = crop(side, kind)
    wide, high = np.median([w for _, w in shapes]), np.median([h for h, _ in shapes])
    many = "a stream of images" if count is None else f"{count:,} images"
    reasons = [
        f"{many}, mostly {wide:.0f} x {high:.0f}: crops of {size} pixels in patches of {patch}, "
        f"{size // patch} x {size // patch} of them"
    ]
    chosen, images, why = chosen_encoder(length, count, size, patch, kind, device, encoder)
    batch_size = next((b for b in reversed(BATCHES) if images >= STEPS * b), BATCHES[0])
    if length.steps is not None:
        batch_size = STEPS_BATCH
    recipe = changed_base(chosen, size, patch, batch_size, length, device)
    reasons += [
        why,
        f"batches of {batch_size}: about {images / batch_size:,.0f} steps; learning rate {recipe.optim.lr:.2g}",
    ]
    return Choice(recipe, tuple(reasons))


def crop(side: int, kind: str) -> tuple[int, int]:
    """Side of the crops and of a patch, for images of `side` pixels on a kind of device."""
    side = min(side, LARGEST_SIDE[kind])
    if side < min(GRIDS):
        rule = f"images of {side} pixels are too small to cut into patches; at least {min(GRIDS)} are needed"
        raise DataError(sentence("data", side, rule))
    grid = max(GRIDS, key=lambda grid: (side // grid * grid, -GRIDS.index(grid)))
    patch = side // grid
    return grid * patch, patch


def chosen_encoder(
    length: Length, count: int | None, size: int, patch: int, kind: str, device: str, wanted: str | None
) -> tuple[str, float, str]:
    """Name of the encoder, images that the run will see, and why."""
    names = [wanted] if wanted else list(WORTHWHILE)
    ((unit, value),) = length.given().items()
    seen = {"images": value, "steps": value * STEPS_BATCH, "epochs": value * (count or 0)}.get(unit)
    found, images, speed = names[0], seen or 0.0, 0.0
    for name in names:
        if unit == "minutes":
            recipe = changed_base(name, size, patch, BATCHES[0], length, device)
            here = images_per_second(recipe.method, recipe.optim, recipe.batch_size, MEASURED_S, device)
            here = distributed.agree_max(here)  # all processes must choose alike
            seen = here * SPEED_LEFT * 60 * value
        else:
            here = 0.0
        assert seen is not None
        if name != names[0] and seen < WORTHWHILE[name]:
            break
        found, images, speed = name, seen, here
    passes = f", {images / count:,.1f} times each" if count else ""
    pace = f"{speed:,.0f} images/s on this {kind.upper()}, so " if speed else ""
    return found, images, f"encoder {found}: {pace}about {images:,.0f} images in {value:g} {unit}{passes}"


def changed_base(encoder: str, size: int, patch: int, batch_size: int, length: Length, device: str) -> Recipe:
    """The recipe for small images, for another shape and batch."""
    base = ijepa_cifar10_cpu()
    assert isinstance(base.method, IJEPAConfig)
    shape = vit(encoder, size, patch)
    width = max(64, shape.width // 2)
    method = replace(base.method, encoder=shape, predictor=PredictorConfig(width=width, depth=2, heads=width // 32))
    lr = base.optim.lr * (batch_size / base.batch_size) ** 0.5  # Adam: by the root of the batch
    return replace(
        base, name=NAME, method=method, optim=replace(base.optim, lr=lr), length=length, batch_size=batch_size,
        speed=replace(base.speed, device=device),
    )  # fmt: skip


def auto_for(
    data: str | Source, out: str | Path, length: Length | None, device: str = "auto", encoder: str | None = None
) -> Choice:
    """What `auto` chooses for `data`; what it chose, where `out` holds a run of it."""
    out = Path(out)
    if Checkpoints(out / "checkpoints", 1).names():
        before = storage.read_document(out, "recipe")["recipe"]
        if before["name"] == NAME:
            recipe = from_dict(Recipe, before)
            if length is None or length == recipe.length:
                return Choice(recipe, (f"as chosen when the run in {out} began",))
    return auto(open_source(data) if isinstance(data, str) else data, length, device, encoder)
