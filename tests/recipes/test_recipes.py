"""A contract over the registry: every recipe is whole, says what it must, and is what was published if it says so."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace

import pytest
import torch

from openjepa import recipes
from openjepa.config import from_dict, to_dict
from openjepa.data.views import Crop
from openjepa.errors import ConfigError
from openjepa.masking import Random
from openjepa.methods import IJEPAConfig, build
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
    is_named = re.search(rf"(pretrain|evaluate) .*--(finetune.)?recipe {name}", text, re.DOTALL)
    assert "openjepa demo" in text or is_named


@pytest.mark.parametrize("name", ["ijepa_cifar10_cpu", "ijepa_scenes_demo"])
def test_small_images_depart_from_the_paper_where_decision_010_says(name: str) -> None:
    method = recipes.get(name).method
    assert isinstance(method, IJEPAConfig)
    assert method.encoder.init == "xavier"
    assert method.masking == Random(scale=0.75)
    assert method.crop == Crop(scale=(0.4, 1.0))
    assert (method.regulariser, method.regulariser_on) == ("variance_covariance", "deviations")
    assert method.regulariser_weight == (0.1, 0.0)  # the end is the plain method
    assert method.target_centre
    paper = IJEPAConfig()
    undone = {name: getattr(paper, name) for name in (
        "masking", "crop", "momentum", "regulariser", "regulariser_on", "regulariser_weight", "target_centre"
    )}  # fmt: skip
    encoder = replace(method.encoder, init=paper.encoder.init)
    assert replace(method, encoder=encoder, **undone) == replace(paper, encoder=encoder, predictor=method.predictor)


def test_the_hour_on_cifar10_is_the_one_that_was_measured() -> None:
    recipe = recipes.get("ijepa_cifar10_cpu")  # results/recipes/hour_batch32
    assert (recipe.batch_size, recipe.optim.lr, recipe.method.momentum) == (32, 2e-3, (0.998, 1.0))
    assert (recipe.optim.warmup, recipe.optim.weight_decay, recipe.optim.weight_decay_end) == (0.05, 0.04, 0.04)


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


@pytest.mark.parametrize(("name", "width", "depth"), [("mae_in1k_vitb16", 768, 12), ("mae_in1k_vitl16", 1024, 24)])
def test_maes_runs_are_as_published(name: str, width: int, depth: int) -> None:  # reference 3
    recipe = recipes.get(name)
    method, optim = recipe.method, recipe.optim
    assert (method.encoder.width, method.encoder.depth, method.encoder.grid) == (width, depth, (14, 14))
    assert (method.encoder.has_cls, method.encoder.init) == (True, "xavier")
    assert (method.decoder.width, method.decoder.depth, method.decoder.heads) == (512, 8, 16)
    assert (method.masking, method.norm_pixels) == (Random(scale=0.75), True)
    assert (method.crop.scale, method.crop.flip) == ((0.2, 1.0), True)
    assert (recipe.length.given(), recipe.batch_size) == ({"epochs": 1600}, 4096)
    assert (optim.lr_at(0), optim.lr_at(40 / 1600), optim.lr_at(1)) == pytest.approx((0, 2.4e-3, 0))
    assert (optim.weight_decay_at(0), optim.weight_decay_at(1), optim.betas) == (0.05, 0.05, (0.9, 0.95))


def test_ibots_run_is_as_published() -> None:  # reference 3
    recipe = recipes.get("ibot_in1k_vits16")
    method, optim = recipe.method, recipe.optim
    assert (method.encoder.width, method.encoder.depth, method.encoder.grid) == (384, 12, (14, 14))
    assert (method.encoder.has_cls, method.encoder.pooling) == (True, "cls")
    assert (method.head.num_prototypes, method.head.norm_last_layer, method.shared_head) == (8192, False, True)
    assert (method.global_crop.scale, method.local_crop.scale) == ((0.25, 1.0), (0.05, 0.25))
    assert (method.num_locals, method.local_size) == (10, (96, 96))
    assert (method.masking.chance, method.masking.ratio) == (0.5, (0.1, 0.5))
    views = (method.first_view, method.second_view, method.local_view)
    assert [(view.blur, view.solarise) for view in views] == [(1.0, 0.0), (0.1, 0.2), (0.5, 0.0)]
    assert {(view.jitter, view.brightness, view.contrast, view.saturation, view.hue) for view in views} == {
        (0.8, 0.4, 0.4, 0.2, 0.1)
    }
    assert (method.student_temp, method.temps_at(0), method.temps_at(30 / 800)) == (0.1, (0.04, 0.04), (0.07, 0.07))
    assert (method.momentum, method.momentum_schedule, method.centre_momentum) == ((0.996, 1.0), "cosine", 0.9)
    assert (method.cls_weight, method.patch_weight, method.drop_path) == (1, 1, 0.1)
    assert method.freeze_prototypes == 1 / 800
    assert (recipe.length.given(), recipe.batch_size, optim.clip) == ({"epochs": 800}, 1024, 3.0)
    assert (optim.lr_at(0), optim.lr_at(10 / 800), optim.lr_at(1)) == pytest.approx((0, 2e-3, 1e-6))
    assert [optim.weight_decay_at(t) for t in (0, 0.25, 1)] == pytest.approx([0.04, 0.04 + 0.36 * 0.1464466, 0.4])


def test_on_a_cpu_the_methods_share_encoder_and_crops() -> None:
    one, other = recipes.get("ijepa_cifar10_cpu"), recipes.get("mae_cifar10_cpu")
    assert one.method.encoder == other.method.encoder
    assert one.method.crop == other.method.crop
    assert one.length == other.length
    third = recipes.get("ibot_cifar10_cpu")
    assert replace(one.method.encoder, has_cls=True, pooling="cls") == third.method.encoder
    assert (one.method.crop.scale, one.length) == (third.method.global_crop.scale, third.length)


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'ijepa_in1k_vitb16'"):
        recipes.get("ijepa_in1k_vitb_16")
