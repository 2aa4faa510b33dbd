"""Which runs a comparison is made of: methods, masks, encoders, shares of the data, settings and seeds, crossed.

Paper section 7 and tables 6 to 13 are such lists. Everything else is equal: backbone, image size, batch, length.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from openjepa import recipes
from openjepa.config import changed, settings_from, to_dict
from openjepa.errors import ConfigError, nearest, sentence
from openjepa.methods import MethodConfig
from openjepa.methods.ibot import IBOTConfig
from openjepa.methods.ijepa import MASKINGS, IJEPAConfig
from openjepa.training.recipe import Keep, Length, Recipe, Watch
from openjepa.vision.vit import ViTConfig, vit

M = TypeVar("M", bound=MethodConfig)

METHODS = {"ijepa": "ijepa_cifar10_cpu", "mae": "mae_cifar10_cpu", "ibot": "ibot_cifar10_cpu"}
"""The recipe that each method is compared with, adapted to the backbone that all share."""


@dataclass(frozen=True)
class Entry:
    """One run of a comparison."""

    variant: str
    """What it is, but for the seed."""
    recipe: Recipe
    fraction: float = 1.0
    """Share of the training images that it sees."""

    @property
    def name(self) -> str:
        """Its folder: the variant and the seed."""
        plain = "".join(c if c.isalnum() or c in "._+-" else "-" for c in self.variant)
        return f"{plain}-seed{self.recipe.seed}"


@dataclass(frozen=True)
class Backbone:
    """What all runs share, whatever the method."""

    encoder: str = "nano"
    image_size: int = 32
    patch: int = 4
    batch_size: int = 256

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        wrong = vit(self.encoder, self.image_size, self.patch).mistakes()
        return wrong + ([] if self.batch_size >= 2 else [sentence("batch_size", self.batch_size, "must be from 2")])


def plan(
    methods: Sequence[str],
    length: Length,
    backbone: Backbone,
    *,
    maskings: Sequence[str] = (),
    settings: Mapping[str, Sequence[Any]] | None = None,
    runs: Sequence[str] = (),
    encoders: Sequence[str] = (),
    fractions: Sequence[float] = (),
    seeds: Sequence[int] = (0,),
    points: int = 4,
) -> list[Entry]:
    """Every run, methods innermost so that they alternate; ConfigError with every mistake of every run.

    `settings`: values to try by dotted name, all combinations; the prefix "method." may be left out. `runs`: in their
    place a list, each "name: setting=value setting=value". `points`: how often over a run the encoder is kept.
    """
    wrong = [f"method = {name!r}: unknown. {nearest(name, METHODS)}" for name in methods if name not in METHODS]
    wrong += [f"masking = {name!r}: unknown. {nearest(name, MASKINGS)}" for name in maskings if name not in MASKINGS]
    wrong += [sentence("data_fraction", x, "must be above 0 and at most 1") for x in fractions if not 0 < x <= 1]
    wrong += [] if methods else [sentence("methods", methods, "needs one or more", f"There are {', '.join(METHODS)}.")]
    if wrong:
        raise ConfigError(wrong)
    wrong += length.mistakes()
    entries: dict[str, Entry] = {}
    axes = (
        seeds,
        fractions or (1.0,),
        encoders or (backbone.encoder,),
        _changes(settings, runs),
        maskings or ("",),
        methods,
    )
    for seed, fraction, size, (label, change), masking, method in itertools.product(*axes):
        masking = masking if method == "ijepa" else ""  # the masks are I-JEPA's; other methods run once
        try:
            recipe = _recipe(method, replace(backbone, encoder=size), masking, change, length, seed, points)
        except ConfigError as error:
            wrong += [mistake for mistake in error.mistakes if mistake not in wrong]
            continue
        words = [method, masking, size if encoders else "", f"{fraction:g} of data" if fractions else "", label]
        entry = Entry(" ".join(word for word in words if word), recipe, fraction)
        entries.setdefault(entry.name, entry)
        wrong += [f"{entry.variant}: {mistake}" for mistake in recipe.mistakes()]
    if wrong:
        raise ConfigError(wrong)
    return list(entries.values())


def _changes(settings: Mapping[str, Sequence[Any]] | None, runs: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """(words, settings) of each combination, or of each run of the list."""
    grid = settings or {}
    combined = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not runs:
        return [(" ".join(f"{k.split('.')[-1]}={_word(v)}" for k, v in change.items()), change) for change in combined]
    listed = []
    for run in runs:
        name, is_given, rest = run.partition(":")
        if not is_given:
            raise ConfigError(sentence("run", run, "must be 'name: setting=value ...'"))
        listed.append((name.strip(), settings_from(rest.split())))
    return [(name, {**change, **own}) for name, own in listed for change in combined]


def _word(value: Any) -> str:
    return "-".join(str(x) for x in value) if isinstance(value, (list, tuple)) else str(value)


def _recipe(
    method: str, backbone: Backbone, masking: str, change: dict[str, Any], length: Length, seed: int, points: int
) -> Recipe:
    """The recipe of a method on the shared backbone, changed."""
    recipe = recipes.get(METHODS[method])
    config = on(recipe.method, vit(backbone.encoder, backbone.image_size, backbone.patch))
    if masking and isinstance(config, IJEPAConfig):
        config = replace(config, masking=MASKINGS[masking]())
    recipe = replace(
        recipe,
        name=method,
        method=config,
        length=length,
        batch_size=backbone.batch_size,
        seed=seed,
        watch=replace(Watch(), probes=points),
        keep=Keep(milestones=points, last=1),
    )
    known = to_dict(recipe)
    return changed(recipe, {_full(name, known): value for name, value in change.items()})


def on(config: M, shape: ViTConfig) -> M:
    """A method on another backbone; what belongs to the method (a class token, the initialisation) stays its own."""
    old = config.encoder
    encoder = replace(shape, has_cls=old.has_cls, pooling=old.pooling, init=old.init, mean=old.mean, std=old.std)
    config = replace(config, encoder=encoder)
    if isinstance(config, IBOTConfig):  # local crops stay half as large as global ones
        side = shape.patch * max(1, shape.image_size[0] // (2 * shape.patch))
        config = replace(config, local_size=(side, side))
    return config


def _full(name: str, known: dict[str, Any]) -> str:
    """A setting's whole name: "predictor.depth" is "method.predictor.depth"."""
    head = name.split(".")[0]
    return f"method.{name}" if head not in known and head in known["method"] else name


def values_from(texts: Sequence[str]) -> dict[str, list[Any]]:
    """What was typed as name=a,b,c to the values to try, by name; a value in brackets is one value."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, is_given, values = text.partition("=")
        if not is_given or not values:
            raise ConfigError(sentence("set", text, "must be name=value,value,...", "Such as predictor.depth=2,4."))
        found[name] = [settings_from([f"{name}={value}"])[name] for value in _split(values)]
    return found


def _split(values: str) -> list[str]:
    """At the commas that no bracket holds."""
    parts, depth = [""], 0
    for c in values:
        depth += (c == "[") - (c == "]")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return parts


LENGTHS = tuple(field.name for field in fields(Length))
