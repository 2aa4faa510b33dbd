"""The alarm: a run driven into collapse raises it, a healthy run of the same length does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openjepa.data.augment import Augment
from openjepa.data.views import Crop
from openjepa.errors import TrainingError
from openjepa.masking.multiblock import MultiBlock
from openjepa.measure.verdict import judge
from openjepa.methods.ibot import IBOTConfig
from openjepa.methods.ijepa import IJEPAConfig
from openjepa.methods.prototypes import HeadConfig
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


def ibot(centring: Any) -> Recipe:
    """Eighty steps on scenes, judged once, at the end: centres take a while to catch up with a head that moves."""
    plain = Augment(jitter=0.0, grey=0.0, blur=0.0)
    short = recipe("none", momentum=(0.9, 0.9), lr=2e-3)
    method = IBOTConfig(
        encoder=ViTConfig((32, 32), 4, width=32, depth=3, heads=2, has_cls=True, pooling="cls"),
        head=HeadConfig(hidden=64, bottleneck=32, num_prototypes=64),
        global_crop=Crop(scale=(0.5, 1.0), flip=True),
        num_locals=0,
        first_view=plain,
        second_view=plain,
        temp_warmup=0.1,
        freeze_prototypes=0.05,
        drop_path=0.0,
        momentum=(0.98, 1.0),
        centring=centring,
    )
    optim = replace(short.optim, weight_decay_end=0.04, clip=3.0)
    return replace(short, method=method, optim=optim, length=Length(steps=80), watch=replace(short.watch, probes=1))


@pytest.mark.parametrize("centring", ["none", "mean", "sinkhorn"])
def test_ibot_collapses_without_centres_and_not_with_them(tmp_path: Path, centring: Any) -> None:
    result = pretrain(ibot(centring), SCENES + str(tmp_path), tmp_path / "run", probe_data="none", is_quiet=True)
    before, now = result.history
    if centring != "none":
        assert result.verdict == "learning"
        assert now["energy_auroc"] > 0.6
        assert now["energy_false"] > now["energy_true"] > 3  # near ln 64: the prototypes share the images
    else:
        assert result.verdict in ("collapsing", "collapsed")
        assert now["std_context"] > 0.5 * before["std_context"]  # features differ, and yet
        assert now["cosine_prediction"] > 0.9999  # one answer to all
        assert now["energy_false"] < 0.05 * before["energy_false"]  # so any pair fits
