"""The linear probe of large sets: a sweep of heads trained together by LARS in large batches (paper appendix A.2).

The recipe is VISSL's (`vit_h16_no_cls.yaml`), which the paper adapts. Departs from it: features are computed once,
without augmentation, so batch statistics are those of all training images; settings are chosen on a held-out part
of train; LARS is that of You et al. 2017, whose denominator is |g| + decay |w| where VISSL has |g + decay w|.
Unlike the other measures it computes in float32 by default.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from openjepa.errors import ConfigError, DataError, sentence
from openjepa.measure import as_labels, check_features
from openjepa.measure.lars_config import PAPER, LarsConfig
from openjepa.measure.moments import moments
from openjepa.measure.split import hold_out
from openjepa.measure.subset import Rows, Subset, subset
from openjepa.randomness import generator

_EPS = 1e-8  # of the local rate's denominator (apex)
_VARIANCE_EPS = 1e-5  # torch.nn.BatchNorm1d
_INIT_STD = 0.01  # of the weights (MAE); LARS steps are relative to their length, so they may not be zero
_ROWS = 2048  # read and multiplied at a time: bounds what a batch takes, however many heads and classes


@dataclass(frozen=True, eq=False)
class LarsHeads:
    """H linear classifiers of the same features, C classes and width D; all tensors of one dtype."""

    weight: Tensor
    """(H, C, D), of standardised features."""
    bias: Tensor
    """(H, C)."""
    mean: Tensor
    """(D,) of the training features; 0 where they are not standardised."""
    scale: Tensor
    """(D,) square root of their variance + BatchNorm's epsilon; 1 where they are not standardised."""

    def standardised(self, features: Tensor) -> Tensor:
        """(N, D) of any dtype to (N, D) of the heads' dtype."""
        return (features.to(self.mean.dtype) - self.mean) / self.scale

    def logits(self, inputs: Tensor) -> Tensor:
        """Standardised features (N, D) to (H, C, N), in one product for all heads."""
        # Classes stand in front of images: these products take half the time of their transposes.
        with torch.autocast("cpu", enabled=False):
            flat = self.weight.flatten(0, 1) @ inputs.T
        return flat.unflatten(0, self.bias.shape) + self.bias.unsqueeze(2)

    def correct(self, features: Rows, labels: Tensor) -> Tensor:
        """Features (N, D) and labels (N,) to (H, N) bool: whose most likely class, first of equals, is the label."""
        parts = zip(features.split(_ROWS), labels.split(_ROWS), strict=True)
        return torch.cat([self.logits(self.standardised(x)).argmax(dim=1) == y for x, y in parts], dim=1)


@dataclass(frozen=True, eq=False)
class LarsChoice:
    """The settings of the best head of a sweep; accuracies are shares, 0 to 1."""

    lr: float
    """The reference learning rate that did best on the held-out fifth of the training images."""
    weight_decay: float
    """The weight decay that did, with it."""
    held_out_accuracy: float
    """On that fifth, trained on the other four; NaN when no class has an image to spare."""
    scores: dict[tuple[float, float], float]
    """That accuracy of every head by (lr, weight decay); NaN for one that diverged."""


@dataclass(frozen=True, eq=False)
class LarsResult(LarsChoice):
    """What the sweep found."""

    accuracy: float
    """On the test images, of the chosen settings after a refit on all training images."""
    correct: Tensor
    """(Q,) bool, in test order: the images that `accuracy` counts."""


def lars_probe(
    train_x: Rows | np.ndarray,
    train_y: Tensor,
    test_x: Rows | np.ndarray,
    test_y: Tensor,
    num_classes: int,
    config: LarsConfig = PAPER,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LarsResult:
    """The paper's probe: train_x (N, D), train_y (N,), test_x (Q, D), test_y (Q,), on the CPU.

    Features may be memory maps: they are read a few rows at a time and computed with in `dtype`. All heads of
    the sweep learn in one pass over them; the best on a fifth of the training images, held out by `seed`, is
    trained again on all of them. Of equals the first wins. The test labels enter the final accuracy only.

    It is a recipe for large sets: below a batch an epoch is one step, and that is too few to learn by. Use
    `openjepa.measure.logistic` there. Raises ConfigError for unusable settings, those that diverge among them,
    or one class only, DataError for unusable features or labels.
    """
    x, queries = _as_rows(train_x), _as_rows(test_x)
    y, truth = as_labels(train_y, x, num_classes, "train_y"), as_labels(test_y, queries, num_classes, "test_y")
    check_features(queries, "test_x")
    if x.shape[1] != queries.shape[1]:
        rule = f"must be that of train_x, {x.shape[1]}"
        raise DataError(sentence("width of test_x", queries.shape[1], rule, "Encode both with one encoder."))
    choice = choose_lars(x, y, num_classes, config, seed, dtype)
    correct = refit_lars(x, y, num_classes, choice, config, seed, dtype).correct(queries, truth)[0]
    return LarsResult(**vars(choice), accuracy=float(correct.double().mean()), correct=correct)


def choose_lars(
    features: Rows | np.ndarray,
    labels: Tensor,
    num_classes: int,
    config: LarsConfig = PAPER,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LarsChoice:
    """The settings by which `lars_probe` would fit training features (N, D) and labels (N,). Raises as it does."""
    x = _as_rows(features)
    y = as_labels(labels, x, num_classes, "train_y")
    _check(config, y)
    check_features(x, "train_x")
    held_out, kept = hold_out(y, seed)
    settings = config.heads()
    accuracies = [math.nan] * len(settings)
    if len(held_out):
        swept = _fit(x, y, kept, num_classes, settings, config, seed, dtype)
        accuracies = _accuracies(swept, x, y, held_out)
    best = max(range(len(settings)), key=lambda head: (not math.isnan(accuracies[head]), accuracies[head]))
    return LarsChoice(*settings[best], accuracies[best], dict(zip(settings, accuracies, strict=True)))


def refit_lars(
    features: Rows | np.ndarray,
    labels: Tensor,
    num_classes: int,
    choice: LarsChoice,
    config: LarsConfig = PAPER,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LarsHeads:
    """The one head of the chosen settings, trained on all of (N, D) and (N,). ConfigError where it diverges."""
    chosen = replace(config, lrs=(choice.lr,), weight_decays=(choice.weight_decay,))
    head = fit_lars(features, labels, num_classes, chosen, seed, dtype)
    if not _is_finite(head).all():
        given, remedy = (choice.lr, choice.weight_decay), "Lower lars.lrs, or switch lars.is_normalised on."
        raise ConfigError(sentence("(lr, weight decay)", given, "diverged on these features", remedy))
    return head


def fit_lars(
    features: Rows | np.ndarray,
    labels: Tensor,
    num_classes: int,
    config: LarsConfig = PAPER,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LarsHeads:
    """All heads of the sweep, in the order of `config.heads()`, trained on features (N, D) and labels (N,).

    Raises ConfigError for unusable settings or one class only, DataError for unusable features or labels.
    """
    x = _as_rows(features)
    y = as_labels(labels, x, num_classes)
    _check(config, y)
    check_features(x)
    return _fit(x, y, torch.arange(len(x)), num_classes, config.heads(), config, seed, dtype)


def _as_rows(features: Rows | np.ndarray) -> Rows:
    """The same memory, on the CPU: a map stays on the disk."""
    if isinstance(features, Subset):
        return features
    if isinstance(features, Tensor):
        return features.detach().cpu()
    with warnings.catch_warnings():
        # Torch knows no read-only tensors, and says so; nothing here writes to features.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(features)


def _check(config: LarsConfig, labels: Tensor) -> None:
    mistakes = config.mistakes()
    present = labels.unique().tolist()
    if len(present) < 2:
        remedy = "Label images of two classes or more, and shuffle before taking a part of them."
        mistakes.append(sentence("classes in labels", present, "needs two", remedy))
    if mistakes:
        raise ConfigError(mistakes)


def _fit(
    x: Rows,
    y: Tensor,
    rows: Tensor,
    num_classes: int,
    settings: Sequence[tuple[float, float]],
    config: LarsConfig,
    seed: int,
    dtype: torch.dtype,
) -> LarsHeads:
    """One head for each (learning rate, weight decay), all from the same weights and in the same order of `rows`."""
    shape = (num_classes, x.shape[1])
    start = torch.from_numpy(generator(seed, "lars-init").normal(0, _INIT_STD, shape)).to(dtype)
    weight = start.repeat(len(settings), 1, 1)
    bias = weight.new_zeros(weight.shape[:2])
    mean, scale = torch.zeros(shape[1]), torch.ones(shape[1])
    if config.is_normalised:
        mean, variance = moments(subset(x, rows.sort().values))
        scale = (variance + _VARIANCE_EPS).sqrt()
    heads = LarsHeads(weight, bias, mean.to(dtype), scale.to(dtype))
    weight_course, bias_course = torch.zeros_like(weight), torch.zeros_like(bias)
    decay = weight.new_tensor([decay for _, decay in settings]).view(-1, 1, 1)
    for epoch in range(config.epochs):
        rate = weight.new_tensor([config.lr_at(lr, epoch) for lr, _ in settings]).view(-1, 1, 1)
        order = rows[torch.from_numpy(generator(seed, "lars", epoch).permutation(len(rows)))]
        for batch in order.split(config.batch_size):
            # A batch is a set: in the order of the disk it is read faster.
            weight_slope, bias_slope = _slopes(heads, x, y, batch.sort().values)
            local = _local_rate(weight, weight_slope, decay, config.trust)
            weight_course.mul_(config.momentum).add_(local * weight_slope.add_(decay * weight))
            bias_course.mul_(config.momentum).add_(bias_slope)
            weight -= rate * weight_course
            bias -= rate.squeeze(2) * bias_course
    return heads


def _slopes(heads: LarsHeads, x: Rows, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients, (H, C, D) and (H, C), of the mean cross-entropy of some rows."""
    weight_slope, bias_slope = torch.zeros_like(heads.weight), torch.zeros_like(heads.bias)
    # By hand, so that a probe also works inside no_grad, inference_mode and autocast.
    with torch.autocast("cpu", enabled=False):
        for some in rows.split(_ROWS):
            inputs = heads.standardised(x[some])
            residual = heads.logits(inputs).softmax(dim=1)
            residual[:, y[some], torch.arange(len(some))] -= 1
            weight_slope.flatten(0, 1).addmm_(residual.flatten(0, 1), inputs)
            bias_slope += residual.sum(dim=2)
    return weight_slope.div_(len(rows)), bias_slope.div_(len(rows))


def _local_rate(weight: Tensor, slope: Tensor, decay: Tensor, trust: float) -> Tensor:
    """LARS's factor of each head, (H, 1, 1), from its weights and gradient (H, C, D) and weight decay (H, 1, 1)."""
    length = weight.flatten(1).norm(dim=1).view(-1, 1, 1)
    steepness = slope.flatten(1).norm(dim=1).view(-1, 1, 1)
    return trust * length / (steepness + decay * length + _EPS)


def _is_finite(heads: LarsHeads) -> Tensor:
    """(H,) bool."""
    return heads.weight.isfinite().all(dim=2).all(dim=1) & heads.bias.isfinite().all(dim=1)


def _accuracies(heads: LarsHeads, x: Rows, y: Tensor, rows: Tensor) -> list[float]:
    """Of each head on some rows; NaN for one that diverged."""
    rows = rows.sort().values
    num_correct = sum(heads.correct(x[some], y[some]).sum(dim=1).double() for some in rows.split(_ROWS))
    shares = torch.as_tensor(num_correct / len(rows))
    return shares.where(_is_finite(heads), math.nan).tolist()
