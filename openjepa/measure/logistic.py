"""Multinomial logistic regression on frozen features, and a linear probe blind to test labels.

The objective is scikit-learn's: `LogisticRegression(C=1 / l2)` after `StandardScaler`. Features of
an encoder are so correlated that plain L-BFGS needs hundreds of steps; here it searches in
coordinates in which the curvature at zero weights is the identity, and needs tens. Of the training
features it holds one copy, in float64; all else is done a few thousand rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openjepa.errors import ConfigError, DataError, sentence
from openjepa.measure import as_labels, check_features, float64
from openjepa.measure.moments import moments
from openjepa.measure.split import hold_out
from openjepa.measure.subset import Rows, subset

STRENGTHS = (1000.0, 100.0, 10.0, 1.0, 0.1, 0.01)
"""L2 strengths that a probe tries."""

_CONSTANT = 1e-12  # a column whose std is a smaller share of its magnitude varies by rounding only
_RIDGE = 1e-9  # least share of the mean curvature, so that dependent columns have a Cholesky root
_GRADIENT_TOLERANCE = 1e-4  # of the summed loss, in nats for a unit step of the search
_MAX_ITERATIONS = 1000
_HISTORY = 20
_ROWS = 8192  # at a time
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

    def logits(self, features: Rows) -> Tensor:
        """(N, D) to (N, C) float64. Raises DataError for another width or non-finite features."""
        return torch.cat(list(self._parts(features)))

    def predict(self, features: Rows) -> Tensor:
        """(N, D) to the most likely class (N,) int64, the smallest of equals."""
        return torch.cat([logits.argmax(dim=1) for logits in self._parts(features)])

    def _parts(self, features: Rows) -> Iterator[Tensor]:
        """The logits of a few rows at a time."""
        check_features(features)
        if features.shape[1] != len(self.mean):
            rule = f"must be the width that the head was trained on, {len(self.mean)}"
            raise DataError(sentence("width of features", features.shape[1], rule))
        for some in features.split(_ROWS):
            yield (float64(some) - self.mean) / self.std @ self.weight.T + self.bias


@dataclass(frozen=True)
class Choice:
    """What was chosen without the test images; accuracies are shares, 0 to 1."""

    strength: float
    """The L2 strength that did best on the held-out fifth of the training images."""
    held_out_accuracy: float
    """On that fifth, fitted on the other four; NaN when no class has an image to spare."""


@dataclass(frozen=True)
class ProbeResult(Choice):
    """What a linear probe found."""

    accuracy: float
    """On the test images, after a refit on all training images."""
    correct: Tensor = field(compare=False, repr=False)
    """(Q,) bool: which test images."""


def fit_logistic(features: Rows, labels: Tensor, num_classes: int, l2: float) -> LinearHead:
    """Minimise the summed cross-entropy + l2 / 2 * |weight|^2 of features (N, D), labels (N,).

    Features are standardised first; the bias is free. `l2` is scikit-learn's 1 / C; with two
    classes, where scikit-learn fits one sigmoid instead of a softmax, it is 2 / C.
    Raises ConfigError for one class only or an `l2` not above 0, DataError for unusable data.
    """
    return _fit_path(features, labels, num_classes, (l2,))[0]


def probe_accuracy(
    train_x: Rows,
    train_y: Tensor,
    test_x: Rows,
    test_y: Tensor,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> ProbeResult:
    """A linear probe: train_x (N, D), train_y (N,), test_x (Q, D), test_y (Q,).

    The strength is `choose_strength`'s. Then all training images are fitted with it.
    The test labels enter the final accuracy and nothing else. Raises as `fit_logistic` does.
    """
    check_features(test_x, "test_x")
    test_y = as_labels(test_y, test_x, num_classes, "test_y")
    choice = choose_strength(train_x, train_y, num_classes, strengths, seed)
    correct = fit_logistic(train_x, train_y, num_classes, choice.strength).predict(test_x) == test_y
    return ProbeResult(**vars(choice), accuracy=float(correct.double().mean()), correct=correct)


def choose_strength(
    features: Rows, labels: Tensor, num_classes: int, strengths: Sequence[float] = STRENGTHS, seed: int = 0
) -> Choice:
    """The strength by which to fit training features (N, D) and labels (N,).

    It is chosen on a fifth of them, drawn by `seed`, which leaves an image of every class to train on; of equals,
    the strongest. Raises as `fit_logistic` does.
    """
    check_features(features, "train_x")
    labels = as_labels(labels, features, num_classes, "train_y")
    held_out, kept = hold_out(labels, seed)
    path = sorted(strengths, reverse=True)
    scores = [math.nan] * len(path)
    if len(held_out):
        heads = _fit_path(subset(features, kept), labels[kept], num_classes, path)
        scores = [_accuracy(head, subset(features, held_out), labels[held_out]) for head in heads]
    else:
        _check(labels.unique(), path)
    return Choice(path[scores.index(max(scores))], max(scores))


def _accuracy(head: LinearHead, features: Rows, labels: Tensor) -> float:
    return float((head.predict(features) == labels).double().mean())


def _fit_path(features: Rows, labels: Tensor, num_classes: int, strengths: Sequence[float]) -> list[LinearHead]:
    """One head for each strength; the search for each begins at the solution before."""
    check_features(features)
    present, labels = as_labels(labels, features, num_classes).unique(return_inverse=True)
    _check(present, strengths)
    inputs, mean, std = _inputs(features)
    solution = inputs.new_zeros(len(present), inputs.shape[1])
    heads = []
    for l2 in strengths:
        solution = _minimise(inputs, labels, l2, solution)
        weight = inputs.new_zeros(num_classes, len(mean))
        bias = inputs.new_full((num_classes,), -torch.inf)
        weight[present], bias[present] = solution[:, :-1], solution[:, -1]
        heads.append(LinearHead(weight, bias, mean, std))
    return heads


def _inputs(features: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised features and a one, (N, D + 1) float64, with their mean and deviation, (D,): the only copy."""
    mean, variance = moments(features)
    largest = torch.stack([float64(some.abs().amax(dim=0)) for some in features.split(_ROWS)]).amax(dim=0)
    std = variance.sqrt()
    std = std.where(std > _CONSTANT * largest, 1.0)
    inputs = mean.new_ones(len(features), len(mean) + 1)
    for place, some in zip(inputs.split(_ROWS), features.split(_ROWS), strict=True):
        torch.div(float64(some) - mean, std, out=place[:, :-1])
    return inputs, mean, std


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
    parts = list(zip(inputs.split(_ROWS), labels.split(_ROWS), strict=True))

    def weights() -> Tensor:
        return torch.linalg.solve_triangular(root, searched, upper=False, left=False)

    def closure() -> Tensor:
        # The gradient by hand, so that a probe also works inside no_grad and inference_mode.
        # Classes stand in front of images: these products take half the time of their transposes.
        w = weights()
        loss, slope = (penalty * w.square()).sum() / 2, penalty * w
        for some, truth in parts:
            image = torch.arange(len(truth), device=truth.device)
            log_p = (w @ some.T).log_softmax(dim=0)
            loss -= log_p[truth, image].sum()
            residual = log_p.exp_()
            residual[truth, image] -= 1
            slope += residual @ some
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
