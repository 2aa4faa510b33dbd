"""Named runs: a function a recipe, whose docstring holds command, hardware, time and the number to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from openjepa.config import changed
from openjepa.errors import ConfigError, nearest
from openjepa.recipes import finetune, ibot, ijepa, mae
from openjepa.training.recipe import UNITS, Length, Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__: function
    for function in (
        ijepa.ijepa_scenes_demo,
        ijepa.ijepa_cifar10_cpu,
        ijepa.ijepa_in1k_vitb16,
        ijepa.ijepa_in1k_vitl16,
        ijepa.ijepa_in1k_vith14,
        ijepa.ijepa_in1k_vith16_448,
        mae.mae_cifar10_cpu,
        mae.mae_in1k_vitb16,
        mae.mae_in1k_vitl16,
        ibot.ibot_cifar10_cpu,
        ibot.ibot_in1k_vits16,
        finetune.finetune_small,
        finetune.finetune_in1k_1percent,
        finetune.finetune_in1k_vith16_448,
    )
}


def get(name: str) -> Recipe:
    """The recipe of that name; an unknown one is a ConfigError that gives the nearest."""
    if name not in RECIPES:
        raise ConfigError(f"recipe = {name!r}: unknown. {nearest(name, RECIPES)}")
    return RECIPES[name]()


def with_settings(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    """`recipe` changed by dotted names; a length replaces the recipe's own. ConfigError for unknown names.

    >>> with_settings(get("ijepa_cifar10_cpu"), {"steps": 50, "optim.lr": 1e-3}).length.given()
    {'steps': 50}
    """
    length = {name: value for name, value in settings.items() if name in UNITS}
    if length:
        recipe = replace(recipe, length=Length(**length))
    return changed(recipe, {name: value for name, value in settings.items() if name not in UNITS})
