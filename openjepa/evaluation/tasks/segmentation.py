"""Dense semantics: a linear classifier on patch tokens, its answers enlarged to pixels (mean IoU).

Not in the paper; the usual protocol for frozen tokens (DINOv2, section 7.4), without a tuned head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.errors import DataError, sentence
from openjepa.evaluation.task import DenseTask, Row, Score, at_least_one, patch_side, split_images, taken
from openjepa.measure.bootstrap import interval
from openjepa.measure.logistic import fit_logistic
from openjepa.measure.subset import Rows, Subset, subset

IGNORED = 255
CHUNK = 64  # images at a time, at most
CELLS = 1 << 24  # numbers at a time, one a class and pixel: 128 MiB of int64


@dataclass(frozen=True)
class Segmentation(DenseTask):
    """Logistic regression on the commonest class of each patch; logits are interpolated to pixels."""

    name = "segmentation"
    about = "class of every pixel from patch tokens: mean intersection over union"
    needs = "mask"

    most_train: int = 1000
    """Training images, at most."""
    most_test: int = 1000
    """Test images, at most."""
    strengths: tuple[float, ...] = (100.0, 1.0)
    """L2 strengths; the better on a held-out fifth of the training images."""

    def mistakes(self) -> list[str]:
        wrong = at_least_one("segmentation.strengths", self.strengths)
        return wrong + at_least_one("segmentation.most_train, most_test", (self.most_train, self.most_test), 10, 1e9)

    def measure(self, row: Row, question: str) -> Score:
        tokens, masks = row.dense(row.train, self.needs, self.most_train)
        named = masks[masks != IGNORED]
        if len(named.unique()) < 2:
            rule = f"its masks show fewer than two classes; {IGNORED} is not one"
            raise DataError(sentence(row.train.role, row.train.spec, rule))
        test_tokens, test_masks = row.dense(row.test, self.needs, self.most_test)
        # a class that only test shows is never guessed, and counts with an IoU of 0
        num_classes = 1 + max(int(each[each != IGNORED].max()) for each in (named, test_masks.flatten()) if len(each))
        held_out, kept = split_images(len(tokens), row.seed)
        scores = {}
        for l2 in self.strengths:
            head = self._fit(subset(tokens, kept), masks[kept], num_classes, l2)
            counts = confusion(head, subset(tokens, held_out), masks[held_out])
            scores[l2] = float(mean_iou(counts.sum(dim=0, keepdim=True)))
        best = max(self.strengths, key=lambda l2: scores[l2])
        head = self._fit(tokens, masks, num_classes, best)
        counts = confusion(head, test_tokens, test_masks)
        low, high = interval(counts, mean_iou, row.seed)
        value = float(mean_iou(counts.sum(dim=0, keepdim=True)))
        part = f"a held-out fifth of {taken(row.train, len(tokens), 'training')}"
        chosen = f"L2 {best:g} of {self.strengths}, by {100 * scores[best]:.1f} % on {part}"
        if len(test_tokens) < len(row.test):
            chosen += f"; measured on {taken(row.test, len(test_tokens), 'test')}"
        return Score("mean IoU", value, low, high, chosen, 1, "none: a head on every patch token")

    def _fit(self, tokens: Subset, masks: Tensor, num_classes: int, l2: float) -> tuple[Tensor, Tensor]:
        """Weights (C, D) and biases (C,) float32 of raw tokens; a class that no patch is mostly made of scores low."""
        labels = commonest(masks, tokens.shape[1], num_classes).flatten()
        keep = (labels >= 0).nonzero().flatten()
        head = fit_logistic(subset(patches(tokens), keep), labels[keep], num_classes, l2)
        weight = head.weight / head.std
        bias = (head.bias - weight @ head.mean).clamp(min=-1e4)  # finite, or interpolation would give NaN
        return weight.float(), bias.float()


def patches(tokens: Subset) -> Subset:
    """(n, P, D) to (n * P, D), without a copy."""
    num_patches = tokens.shape[1]
    index = tokens.index.unsqueeze(1) * num_patches + torch.arange(num_patches)
    return Subset(tokens.whole.flatten(0, 1), index.flatten())


def chunk(num_classes: int, size: torch.Size) -> int:
    """Images at a time, such that a number for every class and pixel fits in memory."""
    return max(1, min(CHUNK, CELLS // (num_classes * size.numel())))


def commonest(masks: Tensor, num_patches: int, num_classes: int) -> Tensor:
    """(n, H, W) class numbers to the commonest of each patch (n, P), -1 where all is to be ignored."""
    patch = patch_side((masks.shape[1], masks.shape[2]), num_patches)
    labels = []
    for some in masks.split(chunk(num_classes, masks.shape[1:])):
        hot = (
            F.one_hot(some.long().clamp(max=num_classes), num_classes + 1)[..., :num_classes]
            .permute(0, 3, 1, 2)
            .float()
        )
        shares = F.avg_pool2d(hot, patch).flatten(2)
        labels.append(shares.argmax(dim=1).where(shares.sum(dim=1) > 0, -1))
    return torch.cat(labels)


def confusion(head: tuple[Tensor, Tensor], tokens: Rows, masks: Tensor) -> Tensor:
    """(n, C * C): pixels of each image by true and guessed class."""
    weight, bias = head
    num_classes, (height, width) = len(bias), masks.shape[1:]
    patch = patch_side((height, width), tokens.shape[1])
    counts, at_once = [], chunk(num_classes, masks.shape[1:])
    for some, truth in zip(tokens.split(at_once), masks.split(at_once), strict=True):
        logits = (some @ weight.T + bias).transpose(1, 2).unflatten(2, (height // patch, width // patch))
        guess = F.interpolate(logits, (height, width), mode="bilinear").argmax(dim=1)
        for one, true in zip(guess, truth.long(), strict=True):
            asked = true < num_classes
            pairs = true[asked] * num_classes + one[asked]
            counts.append(torch.bincount(pairs, minlength=num_classes**2).double())
    return torch.stack(counts)


def mean_iou(counts: Tensor) -> Tensor:
    """(R, C * C) to (R,): the mean over classes that show, in truth or in guess."""
    num_classes = round(counts.shape[1] ** 0.5)
    table = counts.double().unflatten(1, (num_classes, num_classes))
    hit = table.diagonal(dim1=1, dim2=2)
    union = table.sum(dim=1) + table.sum(dim=2) - hit
    return torch.nan_to_num(hit / union).sum(dim=1) / (union > 0).sum(dim=1)
