"""The paper's probe of large sets: LARS by a plain loop, heads that do not meet, a choice no test label reaches."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from openjepa.errors import ConfigError, DataError
from openjepa.measure.lars import PAPER, LarsConfig, LarsHeads, fit_lars, lars_probe
from openjepa.measure.split import hold_out
from openjepa.randomness import generator

SMALL = LarsConfig(lrs=(0.02, 0.2), lr_batch_size=32, trust=0.3, batch_size=32, epochs=7, drop_every=3)
"""A trust with which a few dozen steps go somewhere; batches that do not divide the sets below."""


def features(seed, num_images=150, width=6, num_classes=4, noise=1.0):
    """Features of uneven scale away from 0, and their labels; float32."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % num_classes
    centres = torch.randn(num_classes, width, generator=draw)
    points = centres[labels] + noise * torch.randn(num_images, width, generator=draw)
    return points * torch.logspace(1, -1, width) + 5, labels


def plain_lars(x, y, num_classes, lr, weight_decay, config, seed):
    """One head, one step after the other, each formula as its paper has it; float64."""
    x = x.double()
    if config.is_normalised:
        x = F.batch_norm(x, None, None, training=True)
    w = torch.from_numpy(generator(seed, "lars-init").normal(0, 0.01, (num_classes, x.shape[1])))
    b = torch.zeros(num_classes, dtype=torch.float64)
    w_momentum, b_momentum = torch.zeros_like(w), torch.zeros_like(b)
    for epoch in range(config.epochs):
        rate = lr * config.batch_size / config.lr_batch_size
        for _ in range(epoch // config.drop_every):
            rate /= config.drop_factor
        order = generator(seed, "lars", epoch).permutation(len(x))
        for start in range(0, len(x), config.batch_size):
            batch = order[start : start + config.batch_size]
            w.requires_grad_()
            b.requires_grad_()
            loss = F.cross_entropy(x[batch] @ w.T + b, y[batch])
            w_gradient, b_gradient = torch.autograd.grad(loss, (w, b))
            w, b = w.detach(), b.detach()
            local = config.trust * w.norm() / (w_gradient.norm() + weight_decay * w.norm() + 1e-8)
            w_momentum = config.momentum * w_momentum + local * (w_gradient + weight_decay * w)
            b_momentum = config.momentum * b_momentum + b_gradient
            w = w - rate * w_momentum
            b = b - rate * b_momentum
    return w, b


@pytest.mark.parametrize("is_normalised", [True, False])
def test_stacked_heads_are_plain_lars(is_normalised, monkeypatch):
    monkeypatch.setattr("openjepa.measure.lars._ROWS", 13)  # several reads a batch, and a last one that is short
    x, y = features(0)
    config = replace(SMALL, weight_decays=(0.3, 0.0), is_normalised=is_normalised)
    if not is_normalised:
        config = replace(config, lrs=(0.01, 0.05), trust=1.0)  # nothing adapts a bias to raw features
    heads = fit_lars(x, y, 4, config, seed=3, dtype=torch.float64)
    settings = [(lr, decay) for lr in config.lrs for decay in config.weight_decays]
    assert settings == config.heads()
    for head, (lr, decay) in enumerate(settings):
        w, b = plain_lars(x, y, 4, lr, decay, config, seed=3)
        torch.testing.assert_close(heads.weight[head], w, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(heads.bias[head], b, rtol=1e-9, atol=1e-9)
    assert (heads.weight[0] - heads.weight[1]).abs().max() > 1e-5  # the decay does something
    assert (heads.weight[1] - heads.weight[3]).abs().max() > 1e-3


def test_the_bias_is_that_of_torchs_sgd():
    # A third implementation, of the momentum. Nearly nothing is adapted, so that the weights stay where they began.
    x, y = features(1, num_images=64)
    config = LarsConfig((0.3,), 32, (0.0,), trust=1e-30, batch_size=32, epochs=4, drop_every=2, drop_factor=5)
    heads = fit_lars(x, y, 4, config, seed=2, dtype=torch.float64)
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([bias], lr=0.3, momentum=0.9)
    fixed = heads.standardised(x) @ heads.weight[0].T
    for epoch in range(4):
        sgd.param_groups[0]["lr"] = (0.3, 0.3, 0.06, 0.06)[epoch]
        for batch in np.split(generator(2, "lars", epoch).permutation(64), 2):
            sgd.zero_grad()
            F.cross_entropy(fixed[batch] + bias, y[batch]).backward()
            sgd.step()
    torch.testing.assert_close(heads.bias[0], bias.detach(), rtol=1e-9, atol=1e-12)


def test_a_sweep_is_its_heads_one_at_a_time():
    x, y = features(2)
    together = fit_lars(x, y, 4, SMALL, dtype=torch.float64)
    assert together.weight.shape == (4, 4, 6)
    for head, (lr, decay) in enumerate(SMALL.heads()):
        alone = fit_lars(x, y, 4, replace(SMALL, lrs=(lr,), weight_decays=(decay,)), dtype=torch.float64)
        torch.testing.assert_close(together.weight[head], alone.weight[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(together.bias[head], alone.bias[0], rtol=1e-10, atol=1e-10)


def test_the_learning_rate_by_hand():
    # 16384 / 256 = 64
    assert [PAPER.lr_at(0.05, epoch) for epoch in (0, 14)] == [3.2, 3.2]
    assert [PAPER.lr_at(0.05, epoch) for epoch in (15, 29, 30, 45, 49)] == pytest.approx(
        [0.32, 0.32, 0.032, 0.0032, 0.0032]
    )
    plain = LarsConfig(lr_batch_size=512, batch_size=512, drop_every=2, drop_factor=2.0)
    assert [plain.lr_at(0.01, epoch) for epoch in range(5)] == [0.01, 0.01, 0.005, 0.005, 0.0025]


def test_the_papers_sweep():
    assert sorted(PAPER.heads()) == [(lr, decay) for lr in (0.001, 0.01, 0.05) for decay in (0.0, 0.0005)]
    assert (PAPER.batch_size, PAPER.epochs, PAPER.momentum, PAPER.trust) == (16384, 50, 0.9, 0.001)


def test_a_set_below_a_batch_is_one_step_an_epoch():
    x, y = features(3, num_images=40)
    config = replace(SMALL, lr_batch_size=40, batch_size=40)
    scaled = replace(config, batch_size=4000, lr_batch_size=4000)
    whole, larger = (fit_lars(x, y, 4, some, dtype=torch.float64) for some in (config, scaled))
    assert torch.equal(whole.weight, larger.weight)
    w, b = plain_lars(x, y, 4, *config.heads()[-1], config, seed=0)
    torch.testing.assert_close(whole.weight[-1], w, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whole.bias[-1], b, rtol=1e-9, atol=1e-9)


def test_features_are_standardised_by_train_as_batch_norm_does():
    x, y = features(4, num_images=500)
    x[:, 2] = 0.3
    heads = fit_lars(x, y, 4, replace(SMALL, epochs=1), dtype=torch.float64)
    expected = F.batch_norm(x.double(), None, None, training=True)
    torch.testing.assert_close(heads.standardised(x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(heads.mean, x.double().mean(dim=0), rtol=1e-12, atol=0)
    raw = fit_lars(x, y, 4, replace(SMALL, epochs=1, is_normalised=False), dtype=torch.float64)
    assert torch.equal(raw.standardised(x), x.double())


def test_what_can_be_separated_is_learnt():
    x, y = features(5, num_images=300, noise=0.1)
    config = replace(SMALL, epochs=20, drop_every=8)
    result = lars_probe(x[:200], y[:200], x[200:], y[200:], 4, config)
    assert result.accuracy > 0.97
    assert result.held_out_accuracy > 0.97
    noise = torch.from_numpy(generator(0, "test-shuffle").permutation(200))
    shuffled = lars_probe(x[:200], y[noise], x[200:], y[200:], 4, config)
    assert shuffled.accuracy < 0.7


def test_test_labels_reach_the_final_accuracy_and_nothing_else():
    x, y = features(6, num_images=250, noise=2.0)
    train_x, train_y, test_x, test_y = x[:150], y[:150], x[150:], y[150:]
    honest = lars_probe(train_x, train_y, test_x, test_y, 4, SMALL, seed=3)
    assert len(set(honest.scores.values())) > 1
    config = replace(SMALL, lrs=(honest.lr,), weight_decays=(honest.weight_decay,))
    head = fit_lars(train_x, train_y, 4, config, seed=3)
    guess = head.logits(head.standardised(test_x))[0].argmax(dim=0)
    assert torch.equal(honest.correct, guess == test_y)
    assert honest.accuracy == float((guess == test_y).double().mean())
    for shift in range(4):  # among them labels that make every other head look better
        changed = lars_probe(train_x, train_y, test_x, (guess + shift) % 4, 4, SMALL, seed=3)
        assert (changed.lr, changed.weight_decay) == (honest.lr, honest.weight_decay)
        assert changed.held_out_accuracy == honest.held_out_accuracy
        assert changed.scores == honest.scores
        assert changed.accuracy == float(shift == 0)


def test_the_choice_by_hand():
    x, y = features(7, num_images=203, noise=2.0)
    x, x_test = x.double(), x[:50].double()
    config = replace(SMALL, lrs=(1e-3, 0.2, 0.05), weight_decays=(0.0, 5.0))
    result = lars_probe(x, y, x_test, y[:50], 4, config, seed=9, dtype=torch.float64)
    held_out, kept = hold_out(y, 9)
    assert (len(held_out), len(kept)) == (41, 162)
    scores = {}
    for lr, decay in config.heads():
        w, b = plain_lars(x[kept], y[kept], 4, lr, decay, config, seed=9)
        mean, variance = x[kept].mean(dim=0), x[kept].var(dim=0, correction=0)
        inputs = (x[held_out] - mean) / (variance + 1e-5).sqrt()
        scores[lr, decay] = float(((inputs @ w.T + b).argmax(dim=1) == y[held_out]).double().mean())
    assert result.scores == scores
    best = max(scores, key=scores.get)  # of equals the first
    assert len(set(scores.values())) > 1
    assert (result.lr, result.weight_decay, result.held_out_accuracy) == (*best, scores[best])


def test_the_seed_addresses_all_chance():
    x, y = features(8)
    first, again, other = (lars_probe(x, y, x, y, 4, SMALL, seed=seed) for seed in (1, 1, 2))
    assert (first.accuracy, first.scores) == (again.accuracy, again.scores)
    assert torch.equal(first.correct, again.correct)
    assert first.scores != other.scores
    weights = [fit_lars(x, y, 4, SMALL, seed=seed).weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_memory_map_is_the_tensor_it_holds(dtype, tmp_path):
    x, y = features(9)
    held = x.numpy().astype(dtype)
    np.save(tmp_path / "features.npy", held)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    found = lars_probe(mapped[:100], y[:100], mapped[100:], y[100:], 4, SMALL)
    expected = lars_probe(torch.from_numpy(held)[:100], y[:100], torch.from_numpy(held)[100:], y[100:], 4, SMALL)
    assert (found.accuracy, found.scores) == (expected.accuracy, expected.scores)
    heads, expected_heads = (fit_lars(some, y, 4, SMALL) for some in (mapped, torch.from_numpy(held).float()))
    assert torch.equal(heads.weight, expected_heads.weight)


def test_float32_is_near_float64():
    x, y = features(10)
    single, double = (fit_lars(x, y, 4, SMALL, dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert single.weight.dtype == torch.float32
    torch.testing.assert_close(single.weight.double(), double.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, partial(torch.autocast, "cpu", torch.bfloat16)])
def test_gradients_and_autocast_change_nothing(mode):
    x, y = features(11)
    expected = lars_probe(x, y, x, y, 4, SMALL)
    with mode():
        found = lars_probe(x.clone().requires_grad_(), y.clone(), x.clone(), y.clone(), 4, SMALL)
    assert (found.accuracy, found.scores) == (expected.accuracy, expected.scores)


def test_features_and_labels_are_left_as_they_were():
    x, y = features(12)
    before = x.clone(), y.clone()
    lars_probe(x, y, x, y, 4, SMALL)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_a_class_an_image_leaves_none_to_choose_by():
    x, _ = features(13, num_images=4)
    result = lars_probe(x, torch.arange(4), x, torch.arange(4), 4, SMALL)
    assert (result.lr, result.weight_decay) == SMALL.heads()[0]
    assert math.isnan(result.held_out_accuracy)


def test_a_head_that_diverges_is_not_chosen():
    x, y = features(14)
    config = replace(SMALL, lrs=(1e30, 0.2))
    result = lars_probe(x, y, x, y, 4, config)
    assert result.lr == 0.2
    assert [math.isnan(score) for score in result.scores.values()] == [True, True, False, False]
    with pytest.raises(ConfigError, match=r"diverged on these features\. Lower lars\.lrs"):
        lars_probe(x, y, x, y, 4, replace(config, lrs=(1e30,)))


def test_heads_written_by_hand():
    two = torch.full((2,), 2.0)
    heads = LarsHeads(torch.stack([torch.eye(2), -torch.eye(2)]), torch.tensor([[0.0, 0.5], [0.0, 0.0]]), two / 2, two)
    x = torch.tensor([[3.0, 1.0], [1.0, 5.0], [2.0, 1.0]])
    inputs = heads.standardised(x)
    assert inputs.tolist() == [[1.0, 0.0], [0.0, 2.0], [0.5, 0.0]]
    assert heads.logits(inputs).tolist() == [[[1.0, 0.0, 0.5], [0.5, 2.5, 0.5]], [[-1.0, 0.0, -0.5], [0.0, -2.0, 0.0]]]
    assert heads.correct(x, torch.tensor([0, 1, 0])).tolist() == [[True, True, True], [False, False, False]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lrs": ()}, r"lars\.lrs = \(\): must be above 0 and finite"),
        ({"lrs": (0.1, 0.0)}, r"lars\.lrs = \(0\.1, 0\.0\): must be above 0 and finite\. Try 0\.01"),
        ({"lrs": (-1.0,)}, r"lars\.lrs"),
        ({"lrs": (math.nan,)}, r"lars\.lrs"),
        ({"weight_decays": (-0.1,)}, r"lars\.weight_decays = \(-0\.1,\): must be finite, from 0"),
        ({"weight_decays": ()}, r"lars\.weight_decays"),
        ({"momentum": 1.0}, r"lars\.momentum = 1\.0: must be in \[0, 1\)"),
        ({"trust": 0.0}, r"lars\.trust = 0\.0: must be above 0"),
        ({"drop_factor": math.inf}, r"lars\.drop_factor = inf"),
        ({"batch_size": 0}, r"lars\.batch_size = 0: must be 1 or more"),
        ({"lr_batch_size": 0}, r"lars\.lr_batch_size = 0"),
        ({"epochs": 0}, r"lars\.epochs = 0"),
        ({"drop_every": 0}, r"lars\.drop_every = 0"),
    ],
)
def test_settings_that_cannot_be_used(changes, message):
    x, y = features(15, num_images=20)
    with pytest.raises(ConfigError, match=message):
        lars_probe(x, y, x, y, 4, replace(SMALL, **changes))


def test_all_mistakes_at_once():
    x, y = features(15, num_images=20)
    with pytest.raises(ConfigError) as caught:
        fit_lars(x, torch.full_like(y, 2), 4, replace(SMALL, lrs=(0.0,), epochs=0))
    assert len(caught.value.mistakes) == 3
    assert "classes in labels = [2]: needs two. Label images" in str(caught.value)


def test_features_and_labels_that_cannot_be_used():
    x, y = features(16, num_images=20)
    bad = x.clone()
    bad[:7, 2] = torch.nan
    with pytest.raises(DataError, match="rows of train_x with a NaN or an infinity = 7"):
        lars_probe(bad, y, x, y, 4, SMALL)
    with pytest.raises(DataError, match="rows of test_x with a NaN or an infinity = 7"):
        lars_probe(x, y, bad.numpy(), y, 4, SMALL)
    with pytest.raises(DataError, match=r"train_y = '0 to 3': 5 of them lie outside 0 to 2"):
        lars_probe(x, y, x, y, 3, SMALL)
    with pytest.raises(DataError, match=r"test_y = '0 to 4': 1 of them lie outside 0 to 3"):
        lars_probe(x, y, x[:2], torch.tensor([0, 4]), 4, SMALL)
    with pytest.raises(DataError, match=r"width of test_x = 5: must be that of train_x, 6"):
        lars_probe(x, y, x[:, :5], y, 4, SMALL)
    with pytest.raises(DataError, match=r"features\.shape"):
        fit_lars(x.unsqueeze(2), y, 4, SMALL)
