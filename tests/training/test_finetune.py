"""Fine-tuning as a run: it starts from the encoder, learns, resumes to the bit, and answers for each image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from openjepa.data.answered import Answered
from openjepa.data.source import open_source
from openjepa.errors import CheckpointError, ConfigError
from openjepa.methods.finetune import FineTuneConfig
from openjepa.optim import OptimConfig
from openjepa.training.finetune import classify, finetune
from openjepa.training.recipe import Keep, Length, Speed, Watch
from openjepa.vision.vit import ViT, ViTConfig

START = ViT(ViTConfig(image_size=(16, 16), patch=4, width=16, depth=2, heads=2)).untrained(3)


@pytest.fixture
def recipe(tiny):
    method = FineTuneConfig(mixup=0.2, cutmix=0.2, drop_path=0.1, rand_magnitude=3.0)
    return replace(
        tiny,
        method=method,
        optim=OptimConfig(lr=1e-2, warmup=0.1),
        length=Length(steps=30),
        watch=Watch(log_every=10, probes=0, health_images=0),
    )


@pytest.fixture
def answered(images):
    source = open_source(str(images))
    labels = source.labels()
    assert labels is not None
    positions = np.arange(0, len(source), 2)
    return Answered(source, positions, labels[positions], "label")


def test_it_learns_from_half_and_answers_for_the_other_half(recipe, answered, tmp_path):
    before = {name: tensor.clone() for name, tensor in START.state_dict().items()}
    tuned = finetune(START, answered, recipe, tmp_path / "run", is_quiet=True)
    others = np.arange(1, len(answered.whole), 2)
    guess, bad = classify(tuned, answered.whole, others, "cpu", 0)
    assert bad == []
    assert (guess == answered.whole.labels()[others]).mean() > 0.9
    assert all(torch.equal(tensor, before[name]) for name, tensor in START.state_dict().items())


def test_its_first_weights_are_those_of_the_encoder(recipe, answered, tmp_path):
    none = replace(recipe, optim=OptimConfig(lr=0.0, lr_start=0.0, lr_end=0.0))
    tuned = finetune(START, answered, none, tmp_path / "run", is_quiet=True)
    for name, tensor in START.state_dict().items():
        assert torch.equal(tuned.encoder.state_dict()[name], tensor)


def test_a_run_that_was_cut_ends_as_one_that_was_not(recipe, answered, tmp_path):
    whole = finetune(START, answered, recipe, tmp_path / "whole", is_quiet=True)
    often = replace(recipe, keep=Keep(every_minutes=0, last=99))
    finetune(START, answered, often, tmp_path / "cut", is_quiet=True)
    checkpoints = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    assert len(checkpoints) == 30
    for later in checkpoints[12:]:
        for file in later.iterdir():
            file.unlink()
        later.rmdir()
    again = finetune(START, answered, often, tmp_path / "cut", is_quiet=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_another_encoder_or_other_labels_are_another_run(recipe, answered, tmp_path):
    finetune(START, answered, recipe, tmp_path / "run", is_quiet=True)
    with pytest.raises(ConfigError, match="start"):
        finetune(START.untrained(4), answered, recipe, tmp_path / "run", is_quiet=True)
    turned = Answered(answered.whole, answered.positions, 1 - answered.answers, "label")
    with pytest.raises(ConfigError, match="data"):
        finetune(START, turned, recipe, tmp_path / "run", is_quiet=True)


def test_a_recipe_of_pretraining_is_refused(tiny, answered, tmp_path):
    with pytest.raises(ConfigError, match="fine-tuning"):
        finetune(START, answered, tiny, tmp_path / "run")


def test_pretraining_may_start_from_weights_that_fit(tiny, images, tmp_path):
    from openjepa.training.run import pretrain

    still = replace(tiny, optim=OptimConfig(lr=0.0, lr_start=0.0, lr_end=0.0), speed=Speed(device="cpu", workers=0))
    found = pretrain(still, str(images), tmp_path / "run", start=START, is_quiet=True).encoder
    assert torch.equal(found.embed.weight, START.embed.weight)
    other = ViT(ViTConfig(image_size=(16, 16), patch=4, width=32, depth=2, heads=2))
    with pytest.raises(CheckpointError, match=r"embed\.weight"):
        pretrain(still, str(images), tmp_path / "other", start=other, is_quiet=True)


def test_a_signal_ends_it_for_whoever_waits(recipe, answered, tmp_path, monkeypatch):
    import os
    import signal

    from openjepa.errors import Interrupted
    from openjepa.training import loop

    real, calls = loop.save, []

    def save(*args, **kwargs):
        if not calls:
            calls.append(os.kill(os.getpid(), signal.SIGINT))
        real(*args, **kwargs)

    monkeypatch.setattr(loop, "save", save)
    often = replace(recipe, keep=Keep(every_minutes=0, last=1))
    with pytest.raises(Interrupted, match="goes on from there"):
        finetune(START, answered, often, tmp_path / "run", is_quiet=True)
    again = finetune(START, answered, often, tmp_path / "run", is_quiet=True)
    whole = finetune(START, answered, recipe, tmp_path / "whole", is_quiet=True)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in whole.state_dict().items())
