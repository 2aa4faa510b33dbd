"""Which runs a comparison is made of: methods, masks, encoders, shares of the data, settings and seeds, crossed.

Paper section 7 and tables 6 to 13 are such lists. Everything else is equal: backbone, image size, batch, length.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from openjepa import recipes
from openjepa.config import changed, settings_from
from openjepa.errors import ConfigError, nearest, sentence
from openjepa.methods import MethodConfig
from openjepa.methods.ibot import IBOTConfig
from openjepa.methods.ijepa import MASKINGS, IJEPAConfig
from openjepa.methods.mae import MAEConfig
from openjepa.training.recipe import Keep, Length, Recipe, Watch
from openjepa.vision.vit import ViTConfig, vit

M = TypeVar("M", bound=MethodConfig)

METHODS = {"ijepa": "ijepa_cifar10_cpu", "mae": "mae_cifar10_cpu", "ibot": "ibot_cifar10_cpu"}
"""The recipe that each method is compared with, adapted to the backbone that all share."""
MASKING = "masking"  # a setting whose values are kinds of masks, of which these methods have a choice
MASKED = IJEPAConfig | MAEConfig
SETTING = re.compile(r"\s+(?=[\w.]+\s*=)")  # between two settings; a list may have blanks of its own
SHARED = ("seed", "length")  # what no run of a list may have to itself


@dataclass(frozen=True)
class Entry:
    """One run of a comparison."""

    variant: str
    """What it is, but for the seed."""
    recipe: Recipe
    fraction: float = 1.0
    """Share of the training images that it sees."""
    family: str = ""
    """What it is, but for seed, encoder size and share: what a line of the scaling plot joins."""
    size: str = ""
    """Its encoder size, where sizes are compared."""

    @property
    def name(self) -> str:
        """Its folder: the variant and the seed."""
        plain = "".join(c if c.isalnum() or c in "._+-" else "-" for c in self.variant)
        return f"{plain}-seed{self.recipe.seed}"


@dataclass(frozen=True)
class Backbone:
    """What all runs share, whatever the method."""

    encoder: str = "pico"
    image_size: int = 32
    patch: int = 4
    batch_size: int = 64
    """Images a step of all of them; alone, ijepa_cifar10_cpu takes 32."""

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

    `settings`: values to try by dotted name, all combinations; the prefix "method." may be left out, and a method that
    lacks a setting runs without it; `masking` is a kind of masks. `runs`: in their place a list, each
    "name: setting=value setting=value". `points`: how often over a run the encoder is kept.
    """
    wrong = [f"method = {name!r}: unknown. {nearest(name, METHODS)}" for name in methods if name not in METHODS]
    wrong += [f"masking = {name!r}: unknown. {nearest(name, MASKINGS)}" for name in maskings if name not in MASKINGS]
    if maskings and methods and "ijepa" not in methods:
        wrong.append(sentence("masking", maskings, "are the masks of I-JEPA", "Add ijepa to --methods."))
    wrong += [sentence("data_fraction", x, "must be above 0 and at most 1") for x in fractions if not 0 < x <= 1]
    wrong += [] if seeds else [sentence("seeds", seeds, "needs one or more", "Such as 0 1 2.")]
    wrong += [] if points >= 0 else [sentence("points", points, "must be from 0")]
    wrong += [] if methods else [sentence("methods", methods, "needs one or more", f"There are {', '.join(METHODS)}.")]
    sizes = encoders or (backbone.encoder,)
    wrong += length.mistakes()
    wrong += [
        mistake for size in sizes for mistake in replace(backbone, encoder=size).mistakes() if mistake not in wrong
    ]
    if wrong:
        raise ConfigError(wrong)
    entries: dict[str, Entry] = {}
    changes, listed = _changes(settings, runs)
    if maskings and any(MASKING in change for _, change in changes):
        rule = "are given, and a run or --set names masks of its own"
        raise ConfigError(sentence("masking", list(maskings), rule, "Leave one out."))
    wrong += _nowhere({name for _, change in changes for name in change}, methods)
    axes = (seeds, fractions or (1.0,), sizes, changes, maskings or ("",), methods)
    for seed, fraction, size, (label, change), masking, method in itertools.product(*axes):
        masking = masking if method == "ijepa" else ""  # the masks are I-JEPA's; other methods run once
        own = {name: value for name, value in change.items() if _has(method, name)}
        family = _words(
            method, masking, label, *(f"{k.split('.')[-1]}={_word(v)}" for k, v in own.items() if k not in listed)
        )
        variant = _words(family, size if encoders else "", f"{fraction:g} of data" if fractions else "")
        try:
            recipe = _recipe(method, replace(backbone, encoder=size), masking, own, length, seed, points)
        except ConfigError as error:  # a setting that these masks, say, do not have
            wrong += [f"{variant}: {mistake}" for mistake in error.mistakes]
            continue
        entry = Entry(variant, recipe, fraction, family, size if encoders else "")
        is_known = any((other.recipe, other.fraction) == (recipe, fraction) for other in entries.values())
        if own != change and is_known:
            continue  # the settings that differ are not this method's
        if entries.setdefault(entry.name, entry) != entry:
            wrong.append(sentence("run", entry.name, "is the name of two different runs", "Give each its own."))
        wrong += [f"{entry.variant}: {mistake}" for mistake in recipe.mistakes()]
    if wrong:
        raise ConfigError(list(dict.fromkeys(wrong)))  # each once, whatever the number of seeds
    return list(entries.values())


def _nowhere(names: Iterable[str], methods: Sequence[str]) -> list[str]:
    """Mistakes for each setting that none of the methods has: what each of them says to it."""
    wrong = []
    for name in sorted(names):
        if any(_has(method, name) for method in methods):
            continue
        for method in methods:
            if name == MASKING:
                wrong.append(f"{name}: {method} has masks of its own. Leave it out, or add ijepa or mae to --methods.")
                continue
            try:
                changed(recipes.get(METHODS[method]), {_full(name, method): None})
            except ConfigError as error:
                wrong += [f"{method}: {mistake}" if len(methods) > 1 else mistake for mistake in error.mistakes]
    return wrong


def _has(method: str, name: str) -> bool:
    """Whether the recipe of a method has a setting of this name; `masking` is the kind of the masks."""
    head, _, tail = name.partition(".")
    is_masked = isinstance(recipes.get(METHODS[method]).method, MASKED)
    if name == MASKING:
        return is_masked
    if head == MASKING and is_masked:
        return any(tail in {f.name for f in fields(kind())} for kind in MASKINGS.values())
    try:
        changed(recipes.get(METHODS[method]), {_full(name, method): None})
    except ConfigError:
        return False
    return True


def _changes(
    settings: Mapping[str, Sequence[Any]] | None, runs: Sequence[str]
) -> tuple[list[tuple[str, dict[str, Any]]], set[str]]:
    """(name, settings) of each run of the list and each combination, "" without a list; names that the list sets."""
    grid = settings or {}
    combined = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not runs:
        return [("", change) for change in combined], set()
    found: list[tuple[str, dict[str, Any]]] = []
    listed: set[str] = set()
    for run in runs:
        name, is_given, rest = run.partition(":")
        if not is_given:
            raise ConfigError(sentence("run", run, "must be 'name: setting=value ...'"))
        own = settings_from(SETTING.split(rest.strip()) if rest.strip() else [])
        if both := sorted(set(own) & set(grid)):
            raise ConfigError(sentence("run", name, f"sets {', '.join(both)}, and so does --set", "Leave one out."))
        if shared := sorted(key for key in own if key.split(".")[0] in SHARED):
            raise ConfigError(sentence("run", name, f"sets {', '.join(shared)}", "Lengths and seeds are flags."))
        listed |= set(own)
        found += [(name.strip(), {**change, **own}) for change in combined]
    return found, listed


def _words(*words: str) -> str:
    return " ".join(word for word in words if word)


def _word(value: Any) -> str:
    return "-".join(str(x) for x in value) if isinstance(value, (list, tuple)) else str(value)


def _recipe(
    method: str, backbone: Backbone, masking: str, change: dict[str, Any], length: Length, seed: int, points: int
) -> Recipe:
    """The recipe of a method on the shared backbone, changed."""
    recipe = recipes.get(METHODS[method])
    config = on(recipe.method, vit(backbone.encoder, backbone.image_size, backbone.patch))
    masking = change.get(MASKING, masking)
    if masking and isinstance(config, MASKED):
        if not isinstance(masking, str) or masking not in MASKINGS:
            raise ConfigError(f"masking = {masking!r}: unknown. {nearest(str(masking), MASKINGS)}")
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
    return changed(recipe, {_full(name, method): value for name, value in change.items() if name != MASKING})


def on(config: M, shape: ViTConfig) -> M:
    """A method on another backbone; what belongs to the method (a class token, the initialisation) stays its own."""
    old = config.encoder
    encoder = replace(shape, has_cls=old.has_cls, pooling=old.pooling, init=old.init, mean=old.mean, std=old.std)
    config = replace(config, encoder=encoder)
    if isinstance(config, IBOTConfig):  # local crops stay half as large as global ones
        side = shape.patch * max(1, shape.image_size[0] // (2 * shape.patch))
        config = replace(config, local_size=(side, side))
    return config


def _full(name: str, method: str) -> str:
    """A setting's whole name: "predictor.depth" is "method.predictor.depth"."""
    recipe, head = recipes.get(METHODS[method]), name.split(".")[0]
    is_own = head not in {entry.name for entry in fields(recipe)} and head in {f.name for f in fields(recipe.method)}
    return f"method.{name}" if is_own else name


def values_from(texts: Sequence[str]) -> dict[str, list[Any]]:
    """What was typed as name=a,b,c to the values to try, by name; a value in brackets is one value."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, is_given, values = text.partition("=")
        if not is_given or not values:
            raise ConfigError(sentence("set", text, "must be name=value,value,...", "Such as predictor.depth=2,4."))
        if name in found:
            raise ConfigError(
                sentence("set", text, f"{name} is given twice", "Give all its values at once, with commas.")
            )
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
