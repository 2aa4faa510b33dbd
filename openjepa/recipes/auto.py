"""`auto`: a recipe for images that nobody has tuned for, from their size and number, the device and the budget.

Speeds are measured on the machine, in a few seconds. Encoder, masks, batch and rate are those of the CIFAR-10 recipe as
far as that was measured: an hour of a CPU, batches of 32 and 64 (results/recipes). What lies beyond is a guess, and so
are the grids, the largest side, the batches of GPUs and of lengths in steps and the course of the momentum.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openjepa import distributed, storage
from openjepa.benchmark.training import images_per_second
from openjepa.config import from_dict
from openjepa.data.check import sides
from openjepa.data.loader import Steps, num_workers
from openjepa.data.source import Source, open_source
from openjepa.errors import ConfigError, DataError, sentence
from openjepa.masking.rivals import Random
from openjepa.methods import build
from openjepa.methods.ijepa import IJEPAConfig
from openjepa.recipes.choice import NAME, Choice
from openjepa.recipes.ijepa import ijepa_cifar10_cpu, small_images
from openjepa.training.checkpoints import Checkpoints
from openjepa.training.recipe import Length, Recipe
from openjepa.vision.predictor import PredictorConfig
from openjepa.vision.vit import ViTConfig, resized, vit

DEFAULT_LENGTH = Length(minutes=30)
FEWEST_IMAGES = 32
"""Fewer are refused: the smallest batch would hold each of them more than twice."""
GRIDS = (8, 7, 9)
"""Patches a side, the first that loses fewest pixels: 64 patches are what a CPU can do, and masks need some."""
LARGEST_SIDE = {"cpu": 96, "mps": 128, "cuda": 128}
"""Pixels; larger images are shrunk. More pixels a patch cost next to nothing, but small things should not fill it."""
WORTHWHILE = {"pico": 0, "nano": 1_000_000, "micro": 4_000_000, "small": 20_000_000}
"""Encoder sizes, and the images that a run should see before one is taken in place of the next smaller. pico goes on
learning over 800,000; nano costs twice as much, and was no better than the best pico after 38,400, at another momentum
(LOG.md)."""
SPEED_LEFT = 0.85
"""Of the measured speed, when the run is judged too."""
MEASURED_S = 1.0
FEW = 16
"""Images that the speed of loading, and of training without a GPU, is measured on."""
STEPS = 17_000
"""Steps that a run should have, before its batches grow: batches of 32 went on being better than 64 for so long."""
BATCHES = {"cpu": (32, 64, 128, 256), "mps": (64, 128, 256), "cuda": (64, 128, 256)}
"""Images a step, over all processes. More steps of fewer images learn more from as many, on a CPU in about the same
time (results/recipes); what a GPU makes of few was not measured."""
MEASURED_BATCHES = (32, 64)
"""Least and largest at which the recipe's learning rate was measured; by the root of the batch beyond."""
STEPS_BATCH = 128
"""Images a step, where the length is in steps and there are as many images."""
STEPS_JUDGED = 20
"""Steps from one judgement to the next, at least: what happens in fewer is noise, and judging is not free."""
EMA_STEPS = 600
EMA = 0.005
"""1 - momentum of the target encoder at the start of a run of EMA_STEPS, by the root of the steps; a fifth of it at the
end. In 200 steps 0.991 throughout is a point better by nearest neighbours, 0.998 two points worse; by a linear probe
they are level (results/recipes/ema)."""
START_LR = 0.1
"""Of the learning rate from scratch, where a run begins with given weights."""


@dataclass(frozen=True)
class Wish:
    """What is asked for beside the images."""

    length: Length | None = None
    """30 minutes by default."""
    device: str = "auto"
    encoder: str | None = None
    """A size that is wanted whatever the rules say."""
    start: ViTConfig | None = None
    """The shape of the encoder that the run begins with."""
    batch_size: int | None = None
    channels: int = 3
    workers: int | None = None
    """Loader processes."""


def auto(source: Source, wish: Wish | None = None) -> Choice:
    """I-JEPA on images that nobody has tuned for; what `openjepa pretrain` does without --recipe.

    Crops, patches, encoder, batch and learning rate follow from the images, the device and the length (30 minutes
    by default). DataError where there are too few images, or none that can be used.

    Command: openjepa pretrain photos/ --minutes 30
    Hardware: what is there.
    Time: as given.
    To reach: more than the untrained encoder.
    """
    wish = wish or Wish()
    length = wish.length or DEFAULT_LENGTH
    if wrong := length.mistakes():
        raise ConfigError(wrong)
    if wish.batch_size is not None and (type(wish.batch_size) is not int or wish.batch_size < 1):
        raise ConfigError(sentence("batch_size", wish.batch_size, "must be a whole number from 1"))
    count = None if source.is_sequential else len(source)
    if count is not None and count < FEWEST_IMAGES:
        rule = f"{count} images are too few to learn from; auto needs {FEWEST_IMAGES}"
        raise DataError(sentence("data", source.identity, rule, "Name a --recipe to go on regardless."))
    if count is None and length.epochs:
        rule = "a stream has no known number of images"
        raise ConfigError(sentence("epochs", length.epochs, rule, "Give --images, --steps or --minutes."))
    shapes = sides(source, wish.channels)
    world = distributed.start(wish.device)
    kind = world.device.type
    high, wide = (int(np.median(each)) for each in zip(*shapes, strict=True))
    many = "a stream of images" if count is None else f"{count:,} images"
    if wish.start is None:
        side = int(np.median([min(shape) for shape in shapes]))
        candidates = {
            size: vit(size, *crop(side, kind, source.identity))
            for size in ([wish.encoder] if wish.encoder else WORTHWHILE)
        }
    else:
        candidates = {"of --start": wish.start}
    chosen, seen, why = chosen_encoder(candidates, source, length, world, wish)
    shape = candidates[chosen]
    patches = f"{shape.grid[1]} x {shape.grid[0]} patches of {shape.patch}"
    reasons = [f"{many}, median {wide} x {high}: crops of {shape.image_size[1]} pixels, {patches}", why]
    batch_size, why_batch = batch_for(length, seen, world, count, wish.batch_size)
    recipe = shaped(shape, batch_size, length, wish, seen / batch_size)
    probes = int(min(recipe.watch.probes, max(1, seen / batch_size / STEPS_JUDGED)))
    recipe = replace(recipe, watch=replace(recipe.watch, probes=probes))
    return Choice(recipe, tuple(reasons), seen, why_batch, why_rate(batch_size, wish))


def crop(side: int, kind: str, name: str) -> tuple[int, int]:
    """Side of the crops and of a patch, for images of `side` pixels on a kind of device."""
    side = min(side, LARGEST_SIDE[kind])
    if side < min(GRIDS):
        rule = f"images of {side} pixels are too small to cut into patches; {min(GRIDS)} are needed"
        raise DataError(sentence("data", name, rule, "Give larger images."))
    grid = max(GRIDS, key=lambda grid: (side // grid * grid, -GRIDS.index(grid)))
    patch = side // grid
    return grid * patch, patch


def chosen_encoder(
    candidates: dict[str, ViTConfig], source: Source, length: Length, world: distributed.World, wish: Wish
) -> tuple[str, float, str]:
    """Name of the encoder, images that the run will see, and why."""
    ((unit, value),) = length.given().items()
    count = None if source.is_sequential else len(source)
    first = next(iter(candidates))
    found, seen, pace, larger = first, 0.0, "", ""
    loading = loaded_per_second(candidates[first], source, wish) if unit == "minutes" else 0.0
    for name, shape in candidates.items():
        if unit == "minutes":
            # all processes choose alike, and wait for the last
            slowest = -distributed.agree_max(-min(loading, trained_per_second(shape, world, wish)))
            speed = slowest * world.size
            images, here = speed * SPEED_LEFT * 60 * value, f"{speed:,.0f} images/s here, so "
        else:
            batch_size, _ = batch_for(length, 0, world, count, wish.batch_size)
            images, here = value * {"images": 1, "steps": batch_size, "epochs": count or 0}[unit], ""
        if name != first and images < WORTHWHILE[name]:
            larger = f"; {name} would see {images:,.0f}, and is taken from {WORTHWHILE[name]:,} on"
            break
        found, seen, pace = name, images, here
    passes = "" if count is None else f", {seen / count:,.1f} times each"
    where = world.device.type if world.size == 1 else f"{world.size} x {world.device.type}"
    given = "" if unit == "images" else f" in {value:,.10g} {unit}"
    return found, seen, f"encoder {found} on {where}: {pace}about {seen:,.0f} images{given}{passes}{larger}"


def trained_per_second(shape: ViTConfig, world: distributed.World, wish: Wish) -> float:
    """Images a second of training steps of one process."""
    each = -(-(wish.batch_size or BATCHES[world.device.type][0]) // world.size)
    recipe = shaped(shape, each, DEFAULT_LENGTH, wish)
    # without the term that looks over all processes: each measures for itself
    assert isinstance(recipe.method, IJEPAConfig)
    method = replace(recipe.method, regulariser="none")
    batch_size = each if world.device.type == "cuda" else min(each, FEW)
    return images_per_second(method, recipe.optim, batch_size, MEASURED_S, str(world.device))


def loaded_per_second(shape: ViTConfig, source: Source, wish: Wish) -> float:
    """Images a second that the loader processes of one training process read, decode and crop."""
    views = build(shaped(shape, FEW, DEFAULT_LENGTH, wish).method).views
    started = time.perf_counter()
    Steps(source, views, seed=0, batch_size=FEW)[0]
    return FEW * max(1, num_workers(wish.workers)) / (time.perf_counter() - started)


def batch_for(
    length: Length, seen: float, world: distributed.World, count: int | None = None, given: int | None = None
) -> tuple[int, str]:
    """Images a step, and why: more where there are steps enough, no more than there are, evenly shared."""
    if given is not None:
        return given, "as you set it"
    batches = BATCHES[world.device.type]
    batch_size = next((b for b in reversed(batches) if seen >= STEPS * b), batches[0])
    why = "few images a step, for many steps" if batch_size == batches[0] else f"the most that leaves {STEPS:,} steps"
    if length.steps:
        batch_size, why = STEPS_BATCH, "for a length in steps"
    if count is not None and batch_size > count:
        why = "no more than there are images"
    while count is not None and batch_size > count:
        batch_size //= 2
    return -(-batch_size // world.size) * world.size, why


def why_rate(batch_size: int, wish: Wish) -> str:
    """Where the learning rate comes from."""
    least, largest = MEASURED_BATCHES
    scaled = "" if least <= batch_size <= largest else f", by the root of the batch from {least} to {largest} on"
    fresh = "" if wish.start is None else f", times {START_LR:g} as the encoder is not fresh"
    return f"{ijepa_cifar10_cpu().name}'s{scaled}{fresh}"


def limits() -> str:
    """The limits that it goes by."""
    masking = small_images(32, 4, (1, 1)).masking
    assert isinstance(masking, Random)
    least, largest = MEASURED_BATCHES
    sizes = ", ".join(f"{name} from {least:,} images seen" for name, least in WORTHWHILE.items())
    lines = (
        f"Grid: {' or '.join(map(str, GRIDS))} patches a side.",
        f"Crops: at most {LARGEST_SIDE['cpu']} pixels on a CPU, {LARGEST_SIDE['cuda']} on a GPU.",
        f"Encoder: {sizes}.",
        f"Batch: {BATCHES['cpu'][0]} on a CPU, {BATCHES['cuda'][0]} on a GPU; up to {BATCHES['cpu'][-1]} where that "
        f"leaves {STEPS:,} steps. {STEPS_BATCH} where the length is in steps.",
        f"Masks: {masking.scale:.0%} of the patches are targets, scattered, the others the context.",
        f"Learning rate: the recipe's from {least} to {largest} images a step, by the root beyond.",
        "Momentum of the target encoder: by the root of the steps.",
    )
    return "\n".join(lines)


def shaped(shape: ViTConfig, batch_size: int, length: Length, wish: Wish, steps: float = EMA_STEPS) -> Recipe:
    """The recipe for small images, for another encoder, batch and number of steps."""
    base = ijepa_cifar10_cpu()
    assert isinstance(base.method, IJEPAConfig)
    shape = replace(shape, init=base.method.encoder.init)
    if wish.channels != shape.channels:  # their statistics are flags, without which other channels are not read
        shape = replace(shape, mean=(0.5,) * wish.channels, std=(0.25,) * wish.channels)
    width = min(384, max(64, shape.width // 2 // 32 * 32))
    method = replace(base.method, encoder=shape, predictor=PredictorConfig(width=width, depth=2, heads=width // 32))
    follows = min(0.01, EMA * (EMA_STEPS / max(1, steps)) ** 0.5)
    method = replace(method, momentum=(1 - follows, 1 - follows / 5))
    least, largest = MEASURED_BATCHES
    lr = base.optim.lr * (batch_size / min(max(batch_size, least), largest)) ** 0.5  # Adam: by the root of the batch
    lr *= 1.0 if wish.start is None else START_LR
    return replace(
        base, name=NAME, method=method, optim=replace(base.optim, lr=lr, lr_start=min(base.optim.lr_start, lr)),
        length=length, batch_size=batch_size, speed=replace(base.speed, device=wish.device),
    )  # fmt: skip


def auto_for(data: str | Source, out: str | Path, wish: Wish, name: str = NAME) -> Choice:
    """What `auto` chooses for `data`; what it chose before, where `out` holds a run of it, called `name` perhaps."""
    out = Path(out)
    if Checkpoints(out / "checkpoints", 1).names():
        before = storage.read_document(out, "recipe")["recipe"]
        if before["name"] in (NAME, name) and before["method"]["kind"] == IJEPAConfig.__name__:
            return resumed(from_dict(Recipe, before), out, wish)
    return auto(open_source(data) if isinstance(data, str) else data, wish)


def resumed(recipe: Recipe, out: Path, wish: Wish) -> Choice:
    """The recipe of a run that goes on, with the encoder, the length and the device that are asked for now."""
    method = recipe.method
    if wish.encoder is not None:  # where that is another one, the run refuses it
        method = replace(method, encoder=resized(method.encoder, wish.encoder))
    speed = replace(recipe.speed, device=wish.device)
    recipe = replace(recipe, method=method, speed=speed, length=wish.length or recipe.length)
    return Choice(recipe, (f"as chosen when the run in {out} began",))
