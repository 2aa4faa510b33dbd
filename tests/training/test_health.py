"""What is measured without labels: each figure against a plain computation, and energies against their pairs."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from openjepa.data.source import open_source
from openjepa.methods import build
from openjepa.training import health
from openjepa.training.recipe import Recipe


def measured(tiny: Recipe, images: Path, num_images: int) -> tuple[health.Health, object, dict[str, float]]:
    method = build(tiny.method)
    checked = health.Health(open_source(str(images)), method, num_images, seed=3)
    return checked, method, checked.measure(method, torch.device("cpu"))


def test_energies_pair_every_image_with_its_neighbour(tiny: Recipe, images: Path, monkeypatch) -> None:
    monkeypatch.setattr(health, "CHUNK", 5)  # 11 = 5 + 5 + 1: a last chunk of one must not be paired with itself
    checked, method, found = measured(tiny, images, 11)
    others = torch.cat([checked.batch.images[-1:], checked.batch.images[:-1]])
    true, false = method.energy(checked.batch), method.energy(checked.batch, target_images=others)
    assert math.isclose(found["energy_true"], true.mean().item(), rel_tol=1e-5)
    assert math.isclose(found["energy_false"], false.mean().item(), rel_tol=1e-5)
    pairs = (true.flatten()[:, None] < false.flatten()).double() + 0.5 * (true.flatten()[:, None] == false.flatten())
    assert math.isclose(found["energy_auroc"], pairs.mean().item(), abs_tol=1e-3)
    assert math.isclose(found["energy_gap"], 1 - found["energy_true"] / found["energy_false"], rel_tol=1e-9)


def test_spread_is_that_of_pooled_features(tiny: Recipe, images: Path) -> None:
    checked, method, found = measured(tiny, images, 12)
    pooled = method.encoder(checked.batch.images).pooled.double()
    assert math.isclose(found["std_target"], pooled.std(0).mean().item(), rel_tol=0.1)
    assert found["rank_target"] <= 11 + 1e-6


def test_features_that_are_not_finite_are_told_and_do_not_raise(tiny: Recipe, images: Path) -> None:
    checked, method, _ = measured(tiny, images, 12)
    method.teacher.norm.weight.data.fill_(float("nan"))
    found = checked.measure(method, torch.device("cpu"))
    assert math.isnan(found["std_target"])
    assert math.isnan(found["energy_auroc"])
    assert math.isfinite(found["std_context"])


def test_the_same_images_whatever_the_method_has_learnt(tiny: Recipe, images: Path) -> None:
    first, _, one = measured(tiny, images, 12)
    again, _, _ = measured(tiny, images, 12)
    assert torch.equal(first.batch.images, again.batch.images)
    assert one["energy_true"] > 0
