"""The linear probe: scikit-learn's minimum, a choice no test label reaches, awkward features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from openjepa.errors import ConfigError, DataError
from openjepa.measure import logistic
from openjepa.measure.logistic import LinearHead, choose_strength, fit_logistic, probe_accuracy
from openjepa.randomness import generator


def features(seed, num_images=300, width=12, num_classes=4, noise=1.5):
    """Correlated features with a large mean, as encoders give, and their labels; float32."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % num_classes
    centres = torch.randn(num_classes, width, generator=draw)
    points = centres[labels] + noise * torch.randn(num_images, width, generator=draw)
    mixing = torch.randn(width, width, generator=draw) * torch.logspace(0, -2, width)
    return points @ mixing + 5, labels


def standardised(x, head):
    return ((x.double() - head.mean) / head.std).numpy()


@pytest.mark.parametrize("l2", [1e3, 1.0, 1e-2])
@pytest.mark.parametrize("num_classes", [3, 7])
def test_agrees_with_scikit_learn_to_four_digits(l2, num_classes):
    x, y = features(0, num_classes=num_classes)
    head = fit_logistic(x, y, num_classes, l2)
    inputs = standardised(x, head)
    np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(inputs.std(0), 1, atol=1e-9)
    oracle = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=20_000).fit(inputs, y.numpy())
    size = np.abs(oracle.coef_).max()
    np.testing.assert_allclose(head.weight.numpy(), oracle.coef_, rtol=1e-4, atol=1e-4 * size)
    np.testing.assert_allclose(head.bias.numpy(), oracle.intercept_, rtol=1e-4, atol=1e-4 * size)
    probabilities = head.logits(x).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities, oracle.predict_proba(inputs), atol=1e-4)
    assert head.predict(x).tolist() == oracle.predict(inputs).tolist()


def test_two_classes_are_scikit_learns_sigmoid_at_twice_the_c():
    x, y = features(1, num_classes=2)
    head = fit_logistic(x, y, 2, l2=0.5)
    inputs = standardised(x, head)
    oracle = LogisticRegression(C=2 / 0.5, tol=1e-9, max_iter=20_000).fit(inputs, y.numpy())
    difference = head.weight[1] - head.weight[0]
    np.testing.assert_allclose(difference.numpy(), oracle.coef_[0], rtol=1e-3, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), log_l2=st.floats(-3, 4), num_images=st.integers(8, 60))
def test_the_gradient_is_zero_at_the_solution(seed, log_l2, num_images):
    # By autograd on the written objective: wide and narrow, separable or not.
    x, y = features(seed, num_images, width=16, num_classes=3)
    head = fit_logistic(x, y, 3, l2=10**log_l2)
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    logits = torch.from_numpy(standardised(x, head)) @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
    (loss + 10**log_l2 / 2 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 0.01
    assert bias.grad.abs().max() < 0.01


def test_test_labels_reach_the_final_accuracy_and_nothing_else():
    x, y = features(2, num_images=400, noise=3.0)
    train_x, train_y, test_x, test_y = x[:250], y[:250], x[250:], y[250:]
    honest = probe_accuracy(train_x, train_y, test_x, test_y, 4, seed=3)
    head = fit_logistic(train_x, train_y, 4, honest.strength)
    assert 0.3 < honest.accuracy < 0.95
    for shift in range(4):  # among them labels that make every other strength look better
        false = (head.predict(test_x) + shift) % 4
        changed = probe_accuracy(train_x, train_y, test_x, false, 4, seed=3)
        assert changed.strength == honest.strength
        assert changed.held_out_accuracy == honest.held_out_accuracy
        assert changed.accuracy == float(shift == 0)


def test_the_choice_by_hand():
    x, y = features(4, num_images=203, noise=3.0)
    strengths = (1e-3, 1.0, 30.0, 1e3, 1e5)
    result = probe_accuracy(x, y, x[:50], y[:50], 4, strengths, seed=9)
    order = generator(9, "probe-split").permutation(203)
    first = [next(i for i in order if y[i] == c) for c in range(4)]  # one of every class stays to learn from
    others = [i for i in order if i not in first]
    held_out, kept = others[:41], others[41:] + first
    scores = {}
    for l2 in strengths:  # each from zero: a warm start may not change what is found
        right = fit_logistic(x[kept], y[kept], 4, l2).predict(x[held_out]) == y[held_out]
        scores[l2] = float(right.double().mean())
    best = max(l2 for l2 in strengths if scores[l2] == max(scores.values()))
    assert len(set(scores.values())) > 1
    assert (result.strength, result.held_out_accuracy) == (best, scores[best])
    refit = fit_logistic(x, y, 4, best).predict(x[:50]) == y[:50]
    assert result.accuracy == float(refit.double().mean())


def test_the_split_is_addressed_by_the_seed():
    x, y = features(5, num_images=60, noise=4.0)
    found = [probe_accuracy(x, y, x, y, 4, seed=seed).held_out_accuracy for seed in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert len(set(found)) > 1


@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_one_image_is_never_held_out(seed):
    x, y = features(5, num_images=60, num_classes=2)
    y[:] = 0
    y[seed] = 1
    assert probe_accuracy(x, y, x, y, 2, seed=seed).accuracy > 0.9


def test_a_class_an_image_leaves_none_to_choose_by():
    x, _ = features(5, num_images=4)
    result = probe_accuracy(x, torch.arange(4), x, torch.arange(4), 4, strengths=(0.1, 10.0))
    assert result.strength == 10.0
    assert np.isnan(result.held_out_accuracy)


def test_of_equal_strengths_the_strongest():
    x, y = features(6, noise=0.01)
    assert probe_accuracy(x, y, x, y, 4, strengths=(0.1, 10.0, 1.0)).strength == 10.0


def test_a_constant_column_is_no_feature():
    x, y = features(7)
    constant = torch.full((len(x), 1), 0.1)
    head = fit_logistic(torch.cat([x, constant], dim=1), y, 4, 1.0)
    plain = fit_logistic(x, y, 4, 1.0)
    assert head.std[-1] == 1
    assert head.weight[:, -1].abs().max() < 1e-9
    np.testing.assert_allclose(head.weight[:, :-1].numpy(), plain.weight.numpy(), atol=1e-4)
    elsewhere = torch.cat([x, constant + 50], dim=1)
    np.testing.assert_allclose(head.logits(elsewhere).numpy(), plain.logits(x).numpy(), atol=1e-3)


def test_a_collapsed_encoder_gets_the_share_of_the_largest_class():
    y = torch.tensor([0] * 30 + [1] * 10 + [2] * 5)
    x = torch.full((45, 8), 0.3)
    assert probe_accuracy(x, y, x, y, 3).accuracy == pytest.approx(30 / 45)


# At 1e-6 the search may end while the halves still differ by its tolerance: that is what their difference costs.
@pytest.mark.parametrize(("l2", "tolerance"), [(1.0, 1e-4), (1e-6, 3e-2), (1e-20, 1e-4)])
def test_columns_that_repeat_share_one_weight(l2, tolerance):
    x, y = features(8)
    head = fit_logistic(x.repeat(1, 2), y, 4, l2)
    left, right = head.weight.numpy()[:, :12], head.weight.numpy()[:, 12:]
    np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * np.abs(left).max())
    assert torch.equal(head.predict(x.repeat(1, 2)), fit_logistic(x, y, 4, l2 / 2).predict(x))


def test_a_class_that_training_never_showed_is_never_predicted():
    x, y = features(9, num_classes=3)
    head = fit_logistic(x, y * 2, 6, 1.0)  # 0, 2 and 4 of 6
    assert head.logits(x).softmax(dim=1)[:, [1, 3, 5]].max() == 0
    assert torch.equal(head.predict(x), fit_logistic(x, y, 3, 1.0).predict(x) * 2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_there_are_no_gradients(mode):
    x, y = features(10)
    expected = probe_accuracy(x, y, x, y, 4)
    with mode():
        assert probe_accuracy(x.clone(), y.clone(), x.clone(), y.clone(), 4) == expected


def test_autocast_changes_nothing():
    x, y = features(11)
    expected = fit_logistic(x, y, 4, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = fit_logistic(x, y, 4, 1.0)
        assert torch.equal(inside.logits(x), expected.logits(x))
    assert torch.equal(inside.weight, expected.weight)


def test_one_class_only():
    x, _ = features(12)
    with pytest.raises(ConfigError, match=r"classes in labels = \[2\]: needs two\. Label images"):
        fit_logistic(x, torch.full((len(x),), 2), 4, 1.0)


@pytest.mark.parametrize("strengths", [(), (1.0, 0.0), (-1.0,), (float("nan"),), (float("inf"),)])
def test_strengths_that_cannot_be_used(strengths):
    x, y = features(13)
    with pytest.raises(ConfigError, match="must be above 0 and finite"):
        probe_accuracy(x, y, x, y, 4, strengths)


def test_features_that_cannot_be_used():
    x, y = features(14)
    head = fit_logistic(x, y, 4, 1.0)
    with pytest.raises(DataError, match=r"width of features = 5: must be the width .* 12"):
        head.predict(x[:, :5])
    bad = x.clone()
    bad[:7, 2] = torch.inf
    with pytest.raises(DataError, match="rows of test_x with a NaN or an infinity = 7"):
        probe_accuracy(x, y, bad, y, 4)
    with pytest.raises(DataError, match="rows of features with a NaN or an infinity = 7"):
        fit_logistic(bad, y, 4, 1.0)


def test_a_head_written_by_hand():
    one = torch.ones(2, dtype=torch.float64)
    head = LinearHead(torch.eye(2).double(), torch.tensor([0.0, 0.5]).double(), one, 2 * one)
    assert head.logits(torch.tensor([[3.0, 1.0]])).tolist() == [[1.0, 0.5]]
    assert head.predict(torch.tensor([[3.0, 1.0], [2.0, 1.0]])).tolist() == [0, 0]


def test_many_rows_are_summed_in_parts_and_found_alike(monkeypatch):
    x, y = features(15, num_images=500)
    whole = fit_logistic(x, y, 4, 1.0)
    monkeypatch.setattr(logistic, "_ROWS", 64)
    parts = fit_logistic(x, y, 4, 1.0)
    np.testing.assert_allclose(parts.weight.numpy(), whole.weight.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(parts.logits(x).numpy(), whole.logits(x).numpy(), rtol=1e-5, atol=1e-6)
    assert torch.equal(parts.predict(x), whole.predict(x))


def test_the_choice_is_that_of_the_probe():
    x, y = features(16, noise=3.0)
    choice, whole = choose_strength(x, y, 4, seed=2), probe_accuracy(x, y, x, y, 4, seed=2)
    assert (choice.strength, choice.held_out_accuracy) == (whole.strength, whole.held_out_accuracy)
    with pytest.raises(ConfigError, match="must be above 0"):
        choose_strength(x[:4], torch.arange(4), 4, (0.0,))  # where nothing can be held out, too
