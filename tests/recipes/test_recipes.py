"""A contract over the registry: every recipe is whole, says what it must, and is what was published if it says so."""

from __future__ import annotations

import inspect
import json
import re

import pytest
import torch

from openjepa import recipes
from openjepa.config import from_dict, to_dict
from openjepa.errors import ConfigError
from openjepa.methods import build
from openjepa.training.recipe import Recipe


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_whole(name: str) -> None:
    recipe = recipes.get(name)
    assert recipe.name == name
    assert recipe.mistakes() == []
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(recipe)))) == recipe
    with torch.device("meta"):
        method = build(recipe.method)
    assert method.views.channels == 3


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_its_docstring_holds_command_hardware_time_and_number(name: str) -> None:
    text = inspect.getdoc(recipes.RECIPES[name]) or ""
    for field in ("Command:", "Hardware:", "Time:", "To reach:"):
        assert field in text, field
    assert "openjepa demo" in text or re.search(rf"pretrain .*--recipe {name}", text, re.DOTALL)


PUBLISHED = {  # reference 1.1, 1.2, 1.4, 1.6: encoder width, depth, grid, predictor depth, epochs
    "ijepa_in1k_vitb16": (768, 12, (14, 14), 6, 600),
    "ijepa_in1k_vitl16": (1024, 24, (14, 14), 12, 600),
    "ijepa_in1k_vith14": (1280, 32, (16, 16), 12, 300),
    "ijepa_in1k_vith16_448": (1280, 32, (28, 28), 12, 300),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_runs_are_as_published(name: str) -> None:
    recipe = recipes.get(name)
    width, depth, grid, predictor_depth, epochs = PUBLISHED[name]
    encoder, optim = recipe.method.encoder, recipe.optim
    assert (encoder.width, encoder.depth, encoder.grid) == (width, depth, grid)
    assert (recipe.method.predictor.width, recipe.method.predictor.depth) == (384, predictor_depth)
    assert recipe.length.given() == {"epochs": epochs}
    assert recipe.batch_size == 2048
    assert recipe.method.regulariser == "none"
    assert recipe.method.momentum == (0.996, 1.0)
    assert optim.lr_at(0) == pytest.approx(1e-4)
    assert optim.lr_at(15 / epochs) == pytest.approx(1e-3)
    assert optim.lr_at(1) == pytest.approx(1e-6)
    assert (optim.weight_decay_at(0), optim.weight_decay_at(1)) == (0.04, 0.4)


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'ijepa_in1k_vitb16'"):
        recipes.get("ijepa_in1k_vitb_16")
