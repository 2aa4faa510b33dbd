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
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from openjepa.errors import ConfigError, DataError, sentence
from openjepa.measure import as_labels, check_features
from openjepa.measure.split import hold_out
from openjepa.randomness import generator

_EPS = 1e-8  # of the local rate's denominator (apex)
_VARIANCE_EPS = 1e-5  # torch.nn.BatchNorm1d
_INIT_STD = 0.01  # of the weights (MAE); LARS steps are relative to their length, so they may not be zero
_ROWS = 2048  # read and multiplied at a time: bounds what a batch takes, however many heads and classes


@dataclass(frozen=True)
class LarsConfig:
    """A sweep of linear heads, one for each pair of a learning rate and a weight decay, and their training."""

    lrs: tuple[float, ...] = (0.01, 0.05, 0.001)
    """Reference learning rates, for a batch of `lr_batch_size` (paper: 0.01, 0.05, 0.001)."""
    lr_batch_size: int = 256
    """Batch to which `lrs` refer; rates are scaled by `batch_size` over it (VISSL: 256)."""
    weight_decays: tuple[float, ...] = (0.0005, 0.0)
    """L2 weight decays, of the weights and not of the biases (paper: 0.0005 and 0)."""
    momentum: float = 0.9
    """Of SGD, on the gradient before it meets the learning rate, as in torch (VISSL: 0.9)."""
    trust: float = 0.001
    """Length of a step at rate 1 as a share of that of the weights (VISSL: 0.001)."""
    batch_size: int = 16_384
    """Images a step (paper: 16,384); the last batch of an epoch is what is left."""
    epochs: int = 50
    """Times that every image is seen (paper: 50)."""
    drop_every: int = 15
    """Epochs at one learning rate (paper: 15)."""
    drop_factor: float = 10.0
    """What the learning rate is then divided by (paper: 10)."""
    is_normalised: bool = True
    """Features are standardised as `BatchNorm1d(affine=False)` would (MAE; VISSL's `eval_mlp`)."""

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        wrong = []
        if not self.lrs or not all(0 < lr < math.inf for lr in self.lrs):
            wrong.append(sentence("lars.lrs", self.lrs, "must be above 0 and finite", "Try 0.01."))
        if not self.weight_decays or not all(0 <= decay < math.inf for decay in self.weight_decays):
            wrong.append(sentence("lars.weight_decays", self.weight_decays, "must be finite, from 0", "Try 0."))
        if not 0 <= self.momentum < 1:
            wrong.append(sentence("lars.momentum", self.momentum, "must be in [0, 1)"))
        for name in ("trust", "drop_factor"):
            if not 0 < getattr(self, name) < math.inf:
                wrong.append(sentence(f"lars.{name}", getattr(self, name), "must be above 0 and finite"))
        for name in ("lr_batch_size", "batch_size", "epochs", "drop_every"):
            if getattr(self, name) < 1:
                wrong.append(sentence(f"lars.{name}", getattr(self, name), "must be 1 or more"))
        return wrong

    def heads(self) -> list[tuple[float, float]]:
        """(learning rate, weight decay) of every head of the sweep, weight decays within learning rates."""
        return list(product(self.lrs, self.weight_decays))

    def lr_at(self, lr: float, epoch: int) -> float:
        """What the reference rate `lr` is at an epoch, counted from 0."""
        return lr * self.batch_size / self.lr_batch_size / self.drop_factor ** (epoch // self.drop_every)


PAPER = LarsConfig()
"""The paper's recipe for ImageNet."""


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

    def correct(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features (N, D) and labels (N,) to (H, N) bool: whose most likely class, first of equals, is the label."""
        parts = zip(features.split(_ROWS), labels.split(_ROWS), strict=True)
        return torch.cat([self.logits(self.standardised(x)).argmax(dim=1) == y for x, y in parts], dim=1)


@dataclass(frozen=True, eq=False)
class LarsResult:
    """What the sweep found; accuracies are shares, 0 to 1."""

    accuracy: float
    """On the test images, of the chosen settings after a refit on all training images."""
    lr: float
    """The reference learning rate that did best on the held-out fifth of the training images."""
    weight_decay: float
    """The weight decay that did, with it."""
    held_out_accuracy: float
    """On that fifth, trained on the other four; NaN when no class has an image to spare."""
    scores: dict[tuple[float, float], float]
    """That accuracy of every head by (lr, weight decay); NaN for one that diverged."""
    correct: Tensor
    """(Q,) bool, in test order: the images that `accuracy` counts."""


def lars_probe(
    train_x: Tensor | np.ndarray,
    train_y: Tensor,
    test_x: Tensor | np.ndarray,
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
    x, queries = _as_tensor(train_x), _as_tensor(test_x)
    y, truth = as_labels(train_y, x, num_classes, "train_y"), as_labels(test_y, queries, num_classes, "test_y")
    _check(config, y)
    check_features(x, "train_x")
    check_features(queries, "test_x")
    if x.shape[1] != queries.shape[1]:
        rule = f"must be that of train_x, {x.shape[1]}"
        raise DataError(sentence("width of test_x", queries.shape[1], rule, "Encode both with one encoder."))
    held_out, kept = hold_out(y, seed)
    settings = config.heads()
    accuracies = [math.nan] * len(settings)
    if len(held_out):
        swept = _fit(x, y, kept, num_classes, settings, config, seed, dtype)
        accuracies = _accuracies(swept, x, y, held_out)
    best = max(range(len(settings)), key=lambda head: (not math.isnan(accuracies[head]), accuracies[head]))
    head = _fit(x, y, torch.arange(len(x)), num_classes, settings[best : best + 1], config, seed, dtype)
    correct = head.correct(queries, truth)[0]
    if not _is_finite(head).all():
        remedy = "Lower lars.lrs, or switch lars.is_normalised on."
        raise ConfigError(sentence("(lr, weight decay)", settings[best], "diverged on these features", remedy))
    scores = dict(zip(settings, accuracies, strict=True))
    return LarsResult(float(correct.double().mean()), *settings[best], accuracies[best], scores, correct)


def fit_lars(
    features: Tensor | np.ndarray,
    labels: Tensor,
    num_classes: int,
    config: LarsConfig = PAPER,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LarsHeads:
    """All heads of the sweep, in the order of `config.heads()`, trained on features (N, D) and labels (N,).

    Raises ConfigError for unusable settings or one class only, DataError for unusable features or labels.
    """
    x = _as_tensor(features)
    y = as_labels(labels, x, num_classes)
    _check(config, y)
    check_features(x)
    return _fit(x, y, torch.arange(len(x)), num_classes, config.heads(), config, seed, dtype)


def _as_tensor(features: Tensor | np.ndarray) -> Tensor:
    """The same memory, on the CPU: a map stays on the disk."""
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
    x: Tensor,
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
    mean, scale = _moments(x, rows) if config.is_normalised else (torch.zeros(shape[1]), torch.ones(shape[1]))
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


def _moments(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (D,) float64, of some rows of (N, D), in one pass (Chan et al. 1979)."""
    count, mean = 0, torch.zeros(x.shape[1], dtype=torch.float64)
    spread = torch.zeros_like(mean)
    for some in rows.sort().values.split(_ROWS):
        part = x[some].double()
        part_mean = part.mean(dim=0)
        shift, num_before = part_mean - mean, count
        count += len(part)
        mean += shift * len(part) / count
        spread += (part - part_mean).square().sum(dim=0) + shift.square() * num_before * len(part) / count
    return mean, (spread / count + _VARIANCE_EPS).sqrt()


def _slopes(heads: LarsHeads, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
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


def _accuracies(heads: LarsHeads, x: Tensor, y: Tensor, rows: Tensor) -> list[float]:
    """Of each head on some rows; NaN for one that diverged."""
    rows = rows.sort().values
    num_correct = sum(heads.correct(x[some], y[some]).sum(dim=1).double() for some in rows.split(_ROWS))
    shares = torch.as_tensor(num_correct / len(rows))
    return shares.where(_is_finite(heads), math.nan).tolist()
