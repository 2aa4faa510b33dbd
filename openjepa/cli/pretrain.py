"""`openjepa pretrain`: the flags are the fields of the recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import AvoidSubcommands, arg

from openjepa import recipes
from openjepa.errors import ConfigError, nearest, sentence
from openjepa.load import begun_with
from openjepa.methods.finetune import FineTuneConfig
from openjepa.methods.ijepa import MASKINGS, IJEPAConfig
from openjepa.methods.mae import MAEConfig
from openjepa.recipes import auto
from openjepa.training.recipe import UNITS, Length, Recipe
from openjepa.training.run import pretrain
from openjepa.vision.vit import resized, vit

DEFAULT_RECIPE = auto.NAME
SHOWN_RECIPE = "ijepa_cifar10_cpu"
"""Whose settings --help shows as defaults where no data is given that `auto` could look at."""


@dataclass(frozen=True)
class Pretrain:
    """Pretrain on a pile of unlabelled images: I-JEPA, MAE or iBOT.

    Without --recipe, crops, encoder, batch and learning rate follow from the images, the machine and the length, and
    are told with their reasons before training begins. Without labels the run judges itself by effective rank and
    energies; with a few (class folders, a label column, or --probe-data) it also prints nearest-neighbour and linear
    accuracy while it trains. The same command goes on where an earlier one stopped. Many GPUs:
      torchrun --nproc-per-node 8 -m openjepa pretrain ...

    Examples:
      openjepa pretrain photos/ --minutes 30
      openjepa pretrain --data train.parquet --probe-test test.parquet --recipe ijepa_cifar10_cpu --minutes 10
      openjepa pretrain --data 'shards/{000..099}.tar' --recipe ijepa_in1k_vitb16 --out runs/b16
    """

    data: str
    """A folder of images, .parquet files or a folder of them, 'shard-{000..012}.tar', hf://name, or scenes. The flag
    itself may be left out when this comes first or last."""
    out: Path = Path("runs/ijepa")
    """Directory of the run: encoder, checkpoints, metrics. If it holds this run already, the run goes on."""
    recipe: str = DEFAULT_RECIPE
    """Named run whose settings are the defaults below; `openjepa recipes` lists them. auto: chosen for the data."""
    encoder: str | None = None
    """Encoder size in place of the recipe's: pico, nano, micro, tiny, small, base, large, huge, giant."""
    start: str | None = None
    """A run directory or released weights to begin with, in place of fresh ones; the encoder then has their shape."""
    masking: str | None = None
    """Mask kind in place of the recipe's: multiblock, official, rasterized, block, random."""
    probe_data: str | None = None
    """Labelled images for the probes alone; by default those of --data if it has labels; none: no probes."""
    probe_test: str | None = None
    """Labelled images to test the probes on; by default a part of --probe-data that is kept apart."""
    resume: bool = False
    """Fail unless there is a run to go on from."""
    resume_from: str | None = None
    """Checkpoint to go on from, by name, such as step-000000500; by default the newest."""
    epochs: float | None = None
    """Length in passes over the data. Give at most one of these four; by default the recipe's."""
    steps: int | None = None
    """Length in optimiser steps."""
    images: int | None = None
    """Length in images seen."""
    minutes: float | None = None
    """Length in minutes of wall time."""
    settings: Annotated[AvoidSubcommands[Recipe], arg(name="")] = field(default_factory=Recipe)


def parse_pretrain(argv: list[str]) -> Pretrain:
    """Two passes: --recipe, --encoder and --masking choose the defaults that the other flags then change."""
    argv = _with_data(argv)
    name = _given(argv, "--recipe") or DEFAULT_RECIPE
    kind, size = _given(argv, "--masking"), _given(argv, "--encoder")
    if kind is not None and kind not in MASKINGS:
        raise ConfigError(f"masking = {kind!r}: unknown. {nearest(kind, MASKINGS)}")
    if size is not None:
        vit(size)  # an unknown one is told before anything is looked at
        if start := _given(argv, "--start"):
            rule = f"is a size of fresh encoders, and the one of {start} has its own"
            raise ConfigError(sentence("encoder", size, rule, "Leave out --encoder or --start."))
    settings = recipes.get(SHOWN_RECIPE if name == auto.NAME else name)
    method = settings.method
    if isinstance(method, FineTuneConfig):
        raise ConfigError(f"recipe = {name!r}: learns from labels. Use `openjepa evaluate ENCODER --tasks finetune`.")
    if kind is not None and not isinstance(method, (IJEPAConfig, MAEConfig)):
        raise ConfigError(f"masking = {kind!r}: {name} trains by no masks of this kind. Leave out --masking.")
    if name == auto.NAME:
        choice = _chosen(argv, _masked(replace(settings, name=auto.NAME), kind))
        parsed = _parsed(argv, name, _masked(choice.recipe, kind))
        choice.tell(parsed.settings)
        return parsed
    if size is not None:
        settings = replace(settings, method=replace(method, encoder=resized(method.encoder, size)))
    return _parsed(argv, name, _masked(settings, kind))


def _with_data(argv: list[str]) -> list[str]:
    """The images may come first, or last after a flag that has its value; --data is then put before them."""
    if argv and not argv[0].startswith("-"):
        return ["--data", *argv]
    if len(argv) < 2 or argv[-1].startswith("-") or _given(argv, "--data") is not None:
        return argv
    takes_it = argv[-2].startswith("-") and "=" not in argv[-2]
    return argv if takes_it else ["--data", argv[-1], *argv[:-1]]


def _parsed(argv: list[str], name: str, settings: Recipe) -> Pretrain:
    default = Pretrain(data=tyro.MISSING, recipe=name, settings=settings)
    return tyro.cli(Pretrain, default=default, args=argv, prog="openjepa pretrain")


def _masked(settings: Recipe, kind: str | None) -> Recipe:
    """With masks of another kind; of the same kind, the recipe's have its settings."""
    method = settings.method
    if kind is None or not isinstance(method, (IJEPAConfig, MAEConfig)) or isinstance(method.masking, MASKINGS[kind]):
        return settings
    return replace(settings, method=replace(method, masking=MASKINGS[kind]()))


def _chosen(argv: list[str], standin: Recipe) -> auto.Choice:
    """What `auto` chooses for what was typed; `standin` where only the help is wanted."""
    typed = _parsed(argv, auto.NAME, standin)  # help and mistyped flags end here
    lengths = {unit: getattr(typed, unit) for unit in UNITS}
    length = Length(**lengths)
    if length.given() and (wrong := length.mistakes()):
        raise ConfigError(wrong)
    start = begun_with(standin, typed.start)[0].method.encoder if typed.start else None
    wish = auto.Wish(
        length if length.given() else None,
        typed.settings.speed.device,
        typed.encoder,
        start,
        typed.settings.batch_size if _given(argv, "--batch-size") else None,
        typed.settings.method.encoder.channels,
        typed.settings.speed.workers,
    )
    return auto.auto_for(typed.data, typed.out, wish, typed.settings.name)


def _given(argv: list[str], flag: str) -> str | None:
    for place, here in enumerate(argv):
        name, is_joined, value = here.partition("=")
        if name.replace("_", "-") == flag:  # tyro takes either
            return value if is_joined else argv[place + 1] if place + 1 < len(argv) else None
    return None


def run(given: Pretrain) -> int:
    """Carry out a command line; the exit status."""
    units = {unit: getattr(given, unit) for unit in UNITS}
    lengths = {unit: value for unit, value in units.items() if value is not None}
    settings = replace(given.settings, length=Length(**lengths)) if lengths else given.settings
    settings, start = begun_with(settings, given.start)
    result = pretrain(
        settings,
        given.data,
        given.out,
        start=start,
        probe_data=given.probe_data,
        probe_test=given.probe_test,
        resume=given.resume,
        resume_from=given.resume_from,
    )
    return 0 if result.is_finished else 1
