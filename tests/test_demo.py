"""The demo, whole but small: it trains, probes, prints its table and draws its picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from openjepa import demo, recipes
from openjepa.training.recipe import Length, Watch


def test_the_demo_prints_its_table_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count in (("NUM_PRETRAIN", 64), ("NUM_TRAIN", 60), ("NUM_TEST", 40)):
        monkeypatch.setattr(demo, name, count)
    recipe = replace(
        recipes.get(demo.RECIPE), batch_size=16, length=Length(steps=12), watch=Watch(probes=2, health_images=16)
    )
    monkeypatch.setitem(recipes.RECIPES, demo.RECIPE, lambda: recipe)
    found = demo.run(tmp_path, minutes=None, num_seeds=2)
    assert set(found.rows) == {"raw pixels", "untrained encoder", "I-JEPA"}
    assert all(len(values) == 2 for tasks in found.rows.values() for values in tasks.values())
    said = capsys.readouterr().out
    assert all(word in said for word in ("raw pixels", "untrained encoder", "I-JEPA", "+-", "commonest class"))
    assert json.loads((tmp_path / "demo.json").read_text())["accuracy"] == found.rows
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.size[0] > 500
        assert len(picture.convert("RGB").getcolors(1 << 20) or range(9999)) > 1000
