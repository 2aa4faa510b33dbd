"""Multinomial logistic regression on frozen features, and a linear probe blind to test labels.

The objective is scikit-learn's: `LogisticRegression(C=1 / l2)` after `StandardScaler`. Features of
an encoder are so correlated that plain L-BFGS needs hundreds of steps; here it searches in
coordinates in which the curvature at zero weights is the identity, and needs tens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openjepa.errors import ConfigError, DataError, sentence
from openjepa.measure import as_features, as_labels
from openjepa.measure.split import hold_out

STRENGTHS = (1000.0, 100.0, 10.0, 1.0, 0.1, 0.01)
"""L2 strengths that a probe tries."""

_CONSTANT = 1e-12  # a column whose std is a smaller share of its magnitude varies by rounding only
_RIDGE = 1e-9  # least share of the mean curvature, so that dependent columns have a Cholesky root
_GRADIENT_TOLERANCE = 1e-4  # of the summed loss, in nats for a unit step of the search
_MAX_ITERATIONS = 1000
_HISTORY = 20
_SHARED_OUT = 1 << 20  # numbers in the inputs from which on more threads than one pay


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier of standardised features, C classes and width D; all tensors float64."""

    weight: Tensor
    """(C, D); zero for a class that training never showed."""
    bias: Tensor
    """(C,); minus infinity for a class that training never showed, which is never predicted."""
    mean: Tensor
    """(D,) of the training features."""
    std: Tensor
    """(D,) of the training features, divisor N; 1 where they are constant."""

    def logits(self, features: Tensor) -> Tensor:
        """(N, D) to (N, C) float64. Raises DataError for another width or non-finite features."""
        features = as_features(features)
        if features.shape[1] != len(self.mean):
            rule = f"must be the width that the head was trained on, {len(self.mean)}"
            raise DataError(sentence("width of features", features.shape[1], rule))
        return (features - self.mean) / self.std @ self.weight.T + self.bias

    def predict(self, features: Tensor) -> Tensor:
        """(N, D) to the most likely class (N,) int64, the smallest of equals."""
        return self.logits(features).argmax(dim=1)


@dataclass(frozen=True)
class ProbeResult:
    """What a linear probe found; accuracies are shares, 0 to 1."""

    accuracy: float
    """On the test images, after a refit on all training images."""
    strength: float
    """The L2 strength that did best on the held-out fifth of the training images."""
    held_out_accuracy: float
    """On that fifth, fitted on the other four; NaN when no class has an image to spare."""
    correct: Tensor = field(compare=False, repr=False)
    """(Q,) bool: which test images."""


def fit_logistic(features: Tensor, labels: Tensor, num_classes: int, l2: float) -> LinearHead:
    """Minimise the summed cross-entropy + l2 / 2 * |weight|^2 of features (N, D), labels (N,).

    Features are standardised first; the bias is free. `l2` is scikit-learn's 1 / C; with two
    classes, where scikit-learn fits one sigmoid instead of a softmax, it is 2 / C.
    Raises ConfigError for one class only or an `l2` not above 0, DataError for unusable data.
    """
    return _fit_path(features, labels, num_classes, (l2,))[0]


def probe_accuracy(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> ProbeResult:
    """A linear probe: train_x (N, D), train_y (N,), test_x (Q, D), test_y (Q,).

    The strength is chosen on a fifth of the training images, drawn by `seed`, which leaves an image
    of every class to train on; of equals, the strongest. Then all training images are fitted with it.
    The test labels enter the final accuracy and nothing else. Raises as `fit_logistic` does.
    """
    train_x, test_x = as_features(train_x, "train_x"), as_features(test_x, "test_x")
    train_y = as_labels(train_y, train_x, num_classes, "train_y")
    test_y = as_labels(test_y, test_x, num_classes, "test_y")
    held_out, kept = hold_out(train_y, seed)
    path = sorted(strengths, reverse=True)
    scores = [math.nan] * len(path)
    if len(held_out):
        heads = _fit_path(train_x[kept], train_y[kept], num_classes, path)
        scores = [_accuracy(head, train_x[held_out], train_y[held_out]) for head in heads]
    strength = path[scores.index(max(scores))]
    head = fit_logistic(train_x, train_y, num_classes, strength)
    correct = head.predict(test_x) == test_y
    return ProbeResult(float(correct.double().mean()), strength, max(scores), correct)


def _accuracy(head: LinearHead, features: Tensor, labels: Tensor) -> float:
    return float((head.predict(features) == labels).double().mean())


def _fit_path(features: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float]) -> list[LinearHead]:
    """One head for each strength; the search for each begins at the solution before."""
    features = as_features(features)
    present, labels = as_labels(labels, features, num_classes).unique(return_inverse=True)
    _check(present, strengths)
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    std = std.where(std > _CONSTANT * features.abs().amax(dim=0), 1.0)
    inputs = torch.cat([(features - mean) / std, features.new_ones(len(features), 1)], dim=1)
    solution = features.new_zeros(len(present), inputs.shape[1])
    heads = []
    for l2 in strengths:
        solution = _minimise(inputs, labels, l2, solution)
        weight = features.new_zeros(num_classes, len(mean))
        bias = features.new_full((num_classes,), -torch.inf)
        weight[present], bias[present] = solution[:, :-1], solution[:, -1]
        heads.append(LinearHead(weight, bias, mean, std))
    return heads


def _check(present: Tensor, strengths: Sequence[float]) -> None:
    mistakes = []
    if len(present) < 2:
        remedy = "Label images of two classes or more, and shuffle before taking a part of them."
        mistakes.append(sentence("classes in labels", present.tolist(), "needs two", remedy))
    if not strengths or not all(0 < l2 < torch.inf for l2 in strengths):
        mistakes.append(sentence("l2", tuple(strengths), "must be above 0 and finite", "Try 1."))
    if mistakes:
        raise ConfigError(mistakes)


def _minimise(inputs: Tensor, labels: Tensor, l2: float, start: Tensor) -> Tensor:
    """Weights (C, D + 1) of inputs (N, D + 1), whose last column, of ones, carries the bias."""
    num_classes, width = start.shape
    penalty = inputs.new_full((width,), l2)
    penalty[-1] = 0
    # With all classes equally likely, the curvature of the cross-entropy is 1 / C times the Gram.
    ridge = penalty.clamp(min=_RIDGE * len(labels) / num_classes)
    root = torch.linalg.cholesky(inputs.T @ inputs / num_classes + ridge.diag())
    searched = (start @ root).contiguous()
    image = torch.arange(len(labels), device=labels.device)

    def weights() -> Tensor:
        return torch.linalg.solve_triangular(root, searched, upper=False, left=False)

    def closure() -> Tensor:
        # The gradient by hand, so that a probe also works inside no_grad and inference_mode.
        # Classes stand in front of images: these products take half the time of their transposes.
        w = weights()
        log_p = (w @ inputs.T).log_softmax(dim=0)
        loss = (penalty * w.square()).sum() / 2 - log_p[labels, image].sum()
        residual = log_p.exp()
        residual[labels, image] -= 1
        slope = residual @ inputs + penalty * w
        searched.grad = torch.linalg.solve_triangular(root.T, slope, upper=True, left=False).contiguous()
        return loss

    with _few_threads(inputs):
        _search(searched, closure)
    return weights()


@contextmanager
def _few_threads(inputs: Tensor) -> Iterator[None]:
    """One thread for products too small to share out: where the cores are busy with something else, threads that wait
    for each other a thousand times over make a fit of seconds last minutes."""
    before = torch.get_num_threads()
    if inputs.numel() < _SHARED_OUT:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _search(searched: Tensor, closure: Callable[[], Tensor]) -> None:
    """L-BFGS from `searched`, in place."""
    torch.optim.LBFGS(
        [searched],
        max_iter=_MAX_ITERATIONS,
        max_eval=2 * _MAX_ITERATIONS,
        tolerance_grad=_GRADIENT_TOLERANCE,
        tolerance_change=0,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    ).step(closure)
