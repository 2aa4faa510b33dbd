"""Configurations to JSON and back, changed by dotted name, and compared."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.config import at_most_one, changed, differences, flat, from_dict, to_dict, type_mistakes
from openjepa.errors import ConfigError
from openjepa.masking.multiblock import MultiBlock
from openjepa.methods import METHODS, MethodConfig
from openjepa.methods.ijepa import MASKINGS
from openjepa.recipes import RECIPES
from openjepa.training.recipe import Length, Recipe


@dataclass(frozen=True)
class Disc:
    radius: float = 1.0


@dataclass(frozen=True)
class Box:
    sides: tuple[int, int] = (1, 2)
    radius: float = 3.0


@dataclass(frozen=True)
class Scene:
    shape: Disc | Box = Disc()
    lamp: Disc | None = None
    name: str = "scene"
    inside: Box = field(default_factory=Box)


def through_json(config: Any) -> Any:
    return json.loads(json.dumps(to_dict(config)))


@given(st.from_type(Recipe))
@settings(max_examples=60, deadline=None)
def test_recipes_survive_json(recipe: Recipe) -> None:
    back = from_dict(Recipe, through_json(recipe))
    assert repr(back) == repr(recipe)  # not ==: NaN is not NaN, and 1 == 1.0 == True
    if "nan" not in repr(recipe):
        assert differences(to_dict(recipe), through_json(back)) == []


@pytest.mark.parametrize("name", RECIPES)
def test_named_recipes_survive_json(name: str) -> None:
    recipe = RECIPES[name]()
    assert from_dict(Recipe, through_json(recipe)) == recipe
    assert isinstance(from_dict(Recipe, through_json(recipe)).method.encoder.image_size, tuple)


@pytest.mark.parametrize("kind", MASKINGS)
def test_a_union_keeps_its_kind(kind: str) -> None:
    recipe = Recipe()
    recipe = replace(recipe, method=replace(recipe.method, masking=MASKINGS[kind]()))
    document = through_json(recipe)
    assert document["method"]["masking"]["kind"] == MASKINGS[kind].__name__
    assert type(from_dict(Recipe, document).method.masking) is MASKINGS[kind]


@pytest.mark.parametrize("kind", METHODS)
def test_a_recipe_keeps_its_method(kind: type[MethodConfig]) -> None:
    recipe = replace(Recipe(), method=kind())
    document = through_json(recipe)
    assert document["method"]["kind"] == kind.__name__
    assert from_dict(Recipe, document) == recipe
    assert type(from_dict(Recipe, document).method) is kind


def test_what_is_left_out_takes_its_default() -> None:
    assert from_dict(Scene, {}) == Scene()
    assert from_dict(Scene, {"shape": {"kind": "Box", "radius": 2.0}}) == Scene(shape=Box(radius=2.0))
    assert from_dict(Scene, {"shape": {"radius": 2.0}}) == Scene(shape=Disc(2.0))  # the first of the union
    assert from_dict(Scene, {"lamp": {"radius": 2.0}}) == Scene(lamp=Disc(2.0))
    assert from_dict(Scene, through_json(Scene())).lamp is None


def test_unknown_fields_are_all_named_with_the_nearest() -> None:
    plain = {"nmae": "x", "inside": {"side": [1, 1]}, "shape": {"kind": "Boxx"}, "lamp": {"radios": 1, "far": 2}}
    with pytest.raises(ConfigError) as caught:
        from_dict(Scene, plain)
    assert caught.value.mistakes == [
        "nmae: unknown field. Did you mean 'name'?",
        "inside.side: unknown field. Did you mean 'sides'?",
        "shape.kind = 'Boxx': unknown. Did you mean 'Box'?",
        "lamp.radios: unknown field. Did you mean 'radius'?",
        "lamp.far: unknown field. Known: radius.",
    ]


def test_changed() -> None:
    recipe = Recipe()
    new = changed(recipe, {"method.encoder.depth": 6, "optim.betas": [0.8, 0.9], "seed": 3})
    assert (new.method.encoder.depth, new.optim.betas, new.seed) == (6, (0.8, 0.9), 3)
    assert recipe == Recipe()
    assert changed(new, {"method.encoder.depth": 12, "optim.betas": (0.9, 0.999), "seed": 0}) == recipe
    assert changed(recipe, {}) == recipe


@pytest.mark.parametrize(
    ("name", "given", "rule"),
    [
        ("optim.lr", "abc", "a number"),
        ("batch_size", 1.5, "a whole number"),
        ("watch.wandb", 3, "text or none"),
        ("method.momentum", 0.99, "a list of 2 numbers"),
        ("method.encoder.mean", "grey", "a list of numbers"),
        ("method.target_centre", "maybe", "true or false"),
        ("method.loss", "l3", "one of 'smooth_l1', 'l2', 'l1'"),
    ],
)
def test_what_a_field_may_hold_is_told_in_words(name: str, given: Any, rule: str) -> None:
    wrong = type_mistakes(changed(RECIPES["ijepa_cifar10_cpu"](), {name: given}))
    assert len(wrong) == 1
    assert wrong[0].startswith(f"{name} = {given!r}: must be {rule}.")


def test_all_unknown_settings_are_reported_at_once() -> None:
    settings = {"sed": 1, "optim.lrr": 2, "seed": 3, "seed.x": 4, "method.encoder.deth": 5, "optimm.lr": 6}
    with pytest.raises(ConfigError) as caught:
        changed(Recipe(), settings)
    assert caught.value.mistakes == [
        "sed: unknown setting. Did you mean 'seed'?",
        "optim.lrr: unknown setting. Did you mean 'lr'?",
        "seed.x: seed has no settings inside it.",
        "method.encoder.deth: unknown setting. Did you mean 'depth'?",
        "optimm.lr: unknown setting. Did you mean 'optim'?",
    ]


trees = st.recursive(
    st.integers(0, 2) | st.lists(st.integers(0, 1), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
    max_leaves=6,
)
documents = st.dictionaries(st.sampled_from("abc"), trees)


def leaves(document: dict[str, Any]) -> dict[str, Any]:
    """`flat`, by walking with a stack."""
    out, waiting = {}, [((name,), value) for name, value in document.items()]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [((*path, name), below) for name, below in value.items()]
        else:
            out[".".join(path)] = value
    return out


@given(documents, documents)
@settings(max_examples=100, deadline=None)
def test_differences_are_where_documents_differ(before: dict[str, Any], after: dict[str, Any]) -> None:
    old, new = leaves(before), leaves(after)
    assert flat(before) == old
    names = {line.split(":")[0] for line in differences(before, after)}
    assert names == {name for name in {*old, *new} if (name in old) != (name in new) or old[name] != new[name]}
    assert differences(before, before) == []


def test_differences_say_both_sides() -> None:
    before = through_json(replace(Recipe(), length=Length(steps=100)))
    after = through_json(replace(Recipe(), length=Length(epochs=2.0), seed=1))
    assert differences(before, after) == [
        "length.epochs: None -> 2.0",
        "length.steps: 100 -> None",
        "seed: 0 -> 1",
    ]
    assert differences({"a": 1}, {"b": {"c": 2}}) == ["a: 1 -> '(not there)'", "b.c: '(not there)' -> 2"]


def test_at_most_one() -> None:
    assert at_most_one("length", {"epochs": None, "steps": 3}) == "steps"
    assert at_most_one("length", {"epochs": None, "steps": None}) is None
    assert at_most_one("length", {"epochs": 0}) == "epochs"
    with pytest.raises(ConfigError, match=r"length = \{'epochs': 1, 'steps': 3\}: give exactly one of epochs, steps"):
        at_most_one("length", {"epochs": 1, "steps": 3})


def test_masking_default_is_the_papers() -> None:
    assert type(from_dict(Recipe, {}).method.masking) is MultiBlock
