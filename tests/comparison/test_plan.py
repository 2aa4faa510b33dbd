"""Which runs a comparison is made of."""

from __future__ import annotations

import pytest

from openjepa.comparison.plan import Backbone, plan, values_from
from openjepa.errors import ConfigError
from openjepa.masking.multiblock import MultiBlock
from openjepa.masking.rivals import Random
from openjepa.training.recipe import Length

SMALL = Backbone("pico", 32, 8, 16)
STEPS = Length(steps=20)


def test_all_methods_share_backbone_batch_and_length():
    entries = plan(("ijepa", "mae", "ibot"), STEPS, Backbone("micro", 48, 6, 32), seeds=(0, 1))
    assert [entry.name for entry in entries] == [
        "ijepa-seed0", "mae-seed0", "ibot-seed0", "ijepa-seed1", "mae-seed1", "ibot-seed1",
    ]  # fmt: skip
    for entry in entries:
        encoder = entry.recipe.method.encoder
        assert (encoder.width, encoder.depth, encoder.image_size, encoder.patch) == (256, 8, (48, 48), 6)
        assert (entry.recipe.batch_size, entry.recipe.length) == (32, STEPS)
        assert entry.recipe.mistakes() == []


def test_masks_and_settings_are_crossed_and_methods_without_them_run_once():
    entries = plan(
        ("ijepa", "mae"), STEPS, SMALL, maskings=("multiblock", "random"),
        settings=values_from(["optim.lr=1e-3,2e-3"]),
    )  # fmt: skip
    assert [entry.variant for entry in entries] == [
        "ijepa multiblock lr=0.001", "mae lr=0.001", "ijepa random lr=0.001",
        "ijepa multiblock lr=0.002", "mae lr=0.002", "ijepa random lr=0.002",
    ]  # fmt: skip
    assert isinstance(entries[2].recipe.method.masking, Random)
    assert entries[5].recipe.optim.lr == 2e-3


def test_a_list_of_runs_and_the_prefix_method_left_out():
    runs = ("base:", "wide: predictor.width=128 predictor.heads=4 method.momentum=[0.99, 1.0]")
    base, wide = plan(("ijepa",), STEPS, SMALL, runs=runs)
    assert base.variant == "ijepa base"
    assert wide.recipe.method.predictor.width == 128
    assert wide.recipe.method.momentum == (0.99, 1.0)
    assert base.recipe.method.predictor.width != 128


def test_sizes_and_shares_of_the_data():
    entries = plan(("ijepa",), STEPS, SMALL, encoders=("pico", "nano"), fractions=(0.1, 1.0))
    found = [(entry.recipe.method.encoder.width, entry.fraction) for entry in entries]
    assert sorted(found) == [(128, 0.1), (128, 1.0), (192, 0.1), (192, 1.0)]
    assert len({entry.name for entry in entries}) == 4


def test_every_mistake_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'ibot'"):
        plan(("ibott",), STEPS, SMALL)
    with pytest.raises(ConfigError, match="Did you mean 'multiblock'"):
        plan(("ijepa",), STEPS, SMALL, maskings=("multiblok",))
    with pytest.raises(ConfigError, match="Add ijepa"):
        plan(("mae",), STEPS, SMALL, maskings=("block",))
    with pytest.raises(ConfigError, match=r"Did you mean 'depth'"):
        plan(("ijepa",), STEPS, SMALL, settings={"predictor.dept": [2]})
    with pytest.raises(ConfigError, match="exactly one of"):
        plan(("ijepa",), Length(), SMALL)
    with pytest.raises(ConfigError, match="at most 1"):
        plan(("ijepa",), STEPS, SMALL, fractions=(1.5,))
    with pytest.raises(ConfigError, match="must be name=value"):
        values_from(["predictor.depth"])
    with pytest.raises(ConfigError, match=r"ijepa depth=0: .*predictor.depth"):
        plan(("ijepa",), STEPS, SMALL, settings={"predictor.depth": [0]})
    with pytest.raises(ConfigError) as caught:
        plan(("ijepa",), STEPS, SMALL, settings={"masking.scale": [1.5]}, seeds=(0, 1, 2))
    assert len(caught.value.mistakes) == 1  # whatever the number of seeds


def test_a_listed_run_may_name_the_kind_of_its_masks():
    runs = ("base:", "blocks: masking=multiblock masking.num_targets=2")
    entries = plan(("ijepa", "mae", "ibot"), STEPS, SMALL, runs=runs)
    assert [entry.variant for entry in entries] == [
        "ijepa base", "mae base", "ibot base", "ijepa blocks", "mae blocks",
    ]  # fmt: skip
    blocks = [entry.recipe.method.masking for entry in entries if "blocks" in entry.variant]
    assert blocks == [MultiBlock(num_targets=2)] * 2
    with pytest.raises(ConfigError, match="Did you mean 'random'"):
        plan(("ijepa",), STEPS, SMALL, runs=("base: masking=randon",))
    with pytest.raises(ConfigError, match="masks of its own"):
        plan(("ibot",), STEPS, SMALL, runs=("base: masking=random",))


def test_values_as_they_are_typed():
    assert values_from(["a=1,2.5", "b=[0.3,0],[1,1]", "c=l1,l2"]) == {
        "a": [1, 2.5], "b": [[0.3, 0], [1, 1]], "c": ["l1", "l2"],
    }  # fmt: skip


def test_what_is_given_twice_is_refused():
    with pytest.raises(ConfigError, match=r"masking = \['random', 'block'\]: are given"):
        plan(("ijepa",), STEPS, SMALL, maskings=("random", "block"), runs=("b: masking=multiblock",))
    with pytest.raises(ConfigError, match=r"sets momentum, and so does --set"):
        plan(("ijepa",), STEPS, SMALL, settings={"momentum": [(0.9, 1.0)]}, runs=("m: momentum=[0.99,1.0]",))
    for setting in ("seed=3", "length.steps=30"):
        with pytest.raises(ConfigError, match="Lengths and seeds are flags"):
            plan(("ijepa",), STEPS, SMALL, runs=(f"m: {setting}",))
    with pytest.raises(ConfigError, match=r"masking = \[1, 2\]: unknown"):
        plan(("ijepa",), STEPS, SMALL, runs=("m: masking=[1,2]",))


def test_a_method_without_the_settings_that_differ_runs_once():
    runs = ("base:", "wide: predictor.width=128 predictor.heads=4")
    entries = plan(("ijepa", "mae"), STEPS, SMALL, runs=runs)
    assert [entry.variant for entry in entries] == ["ijepa base", "mae base", "ijepa wide"]
    twice = plan(("ijepa",), STEPS, SMALL, runs=("base:", "same: optim.lr=2e-3"))  # the recipe's own
    assert [entry.variant for entry in twice] == ["ijepa base", "ijepa same"]


def test_a_list_of_runs_is_crossed_with_settings_under_names_of_their_own():
    runs = ("base:", "wide: predictor.width=128 predictor.heads=4")
    entries = plan(("ijepa",), STEPS, SMALL, runs=runs, settings={"optim.lr": [1e-3, 2e-3]})
    assert [entry.variant for entry in entries] == [
        "ijepa base lr=0.001", "ijepa base lr=0.002", "ijepa wide lr=0.001", "ijepa wide lr=0.002",
    ]  # fmt: skip


def test_what_each_method_says_to_a_setting_that_none_has():
    with pytest.raises(ConfigError, match=r"mae: .*Did you mean 'depth'"):
        plan(("ijepa", "mae"), STEPS, SMALL, settings={"decoder.dept": [2]})
    with pytest.raises(ConfigError, match=r"ijepa random num_targets=2: .*num_targets"):
        plan(("ijepa",), STEPS, SMALL, maskings=("multiblock", "random"), settings={"masking.num_targets": [2]})
    with pytest.raises(ConfigError, match="a is given twice"):
        values_from(["a=1", "a=2"])
    with pytest.raises(ConfigError, match="seeds"):
        plan(("ijepa",), STEPS, SMALL, seeds=())
    with pytest.raises(ConfigError, match="points = -1"):
        plan(("ijepa",), STEPS, SMALL, points=-1)
