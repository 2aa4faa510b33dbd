"""The alarm: a run driven into collapse raises it, a healthy run of the same length does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from openjepa.errors import TrainingError
from openjepa.masking.multiblock import MultiBlock
from openjepa.measure.verdict import judge
from openjepa.methods.ijepa import IJEPAConfig
from openjepa.optim import OptimConfig
from openjepa.training.recipe import Keep, Length, Recipe, Speed, Watch
from openjepa.training.run import pretrain
from openjepa.vision.predictor import PredictorConfig
from openjepa.vision.vit import ViTConfig

SCENES = "scenes?num_images=300&size=32&cache="


def recipe(regulariser: str, momentum: tuple[float, float], lr: float) -> Recipe:
    """A hundred and sixty steps on scenes."""
    return Recipe(
        method=IJEPAConfig(
            encoder=ViTConfig(image_size=(32, 32), patch=4, width=32, depth=3, heads=2),
            predictor=PredictorConfig(width=16, depth=1, heads=2),
            masking=MultiBlock(),
            momentum=momentum,
            regulariser=regulariser,  # type: ignore[arg-type]
        ),
        optim=OptimConfig(lr=lr, warmup=0.1),
        length=Length(steps=160),
        batch_size=32,
        watch=Watch(log_every=40, probes=4, health_images=64),
        keep=Keep(every_minutes=60),
        speed=Speed(device="cpu", workers=0),
    )


def test_plain_method_at_high_rate_and_low_momentum_raises_the_alarm(tmp_path: Path) -> None:
    plain = recipe("none", momentum=(0.9, 0.9), lr=5e-3)
    result = pretrain(plain, SCENES + str(tmp_path), tmp_path / "run", probe_data="none", is_quiet=True)
    words = [judge(result.history[: n + 1]).word for n in range(len(result.history))]
    assert words[0] == "untrained"
    assert set(words[1:]) <= {"collapsing", "collapsed"}
    assert result.verdict == "collapsed"
    assert '"kind": "warning"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_on_collapse_stop_stops(tmp_path: Path) -> None:
    plain = recipe("none", momentum=(0.9, 0.9), lr=5e-3)
    plain = replace(plain, watch=replace(plain.watch, on_collapse="stop"))
    with pytest.raises(TrainingError, match="regulariser variance_covariance"):
        pretrain(plain, SCENES + str(tmp_path), tmp_path / "run", probe_data="none", is_quiet=True)


def test_a_healthy_run_of_the_same_length_raises_none(tmp_path: Path) -> None:
    healthy = recipe("variance_covariance", momentum=(0.99, 1.0), lr=2e-3)
    result = pretrain(healthy, SCENES + str(tmp_path), tmp_path / "run", probe_data="none", is_quiet=True)
    words = [judge(result.history[: n + 1]).word for n in range(len(result.history))]
    assert words[-1] == "learning"
    assert not {"collapsing", "collapsed"} & set(words)
    assert '"kind": "warning"' not in (tmp_path / "run" / "metrics.jsonl").read_text()
