"""Dense depth from patch tokens: what the paper's Clevr/Dist asks of an image, asked of every pixel.

Departs from the paper, which asks for the bin of the closest object only: a linear head predicts the logarithm of
the distance at each pixel of a patch from its token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.evaluation.task import DenseTask, Row, Score, at_least_one, patch_side, split_images, taken
from openjepa.measure.bootstrap import interval
from openjepa.measure.ridge import Sums, predict
from openjepa.measure.subset import Subset, subset

FAR = 39.9
"""Distance (of at most casting.FAR, 40) from which on a pixel shows the horizon, and is not asked for."""
NEAR_ENOUGH = 1.25
CHUNK = 64  # images at a time


@dataclass(frozen=True)
class Depth(DenseTask):
    """A linear head on patch tokens, by least squares on log distance."""

    name = "depth"
    about = "distance of every pixel from patch tokens: RMSE in world units, and the share within 1.25 of the truth"
    needs = "depth"

    most_train: int = 2000
    """Training images, at most."""
    most_test: int = 1000
    """Test images, at most."""
    strengths: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    """L2 strengths, relative to the variance of each feature."""

    def mistakes(self) -> list[str]:
        wrong = at_least_one("depth.strengths", self.strengths)
        return wrong + at_least_one("depth.most_train, most_test", (self.most_train, self.most_test), 10, 1e9)

    def measure(self, row: Row, question: str) -> Score:
        tokens, maps = row.dense(row.train, self.needs, self.most_train)
        patch = patch_side(row.encoder.image_size, tokens.shape[1])
        held_out, kept = split_images(len(tokens), row.seed)
        kept_sums, held_out_sums = (sums(tokens, maps, images, patch) for images in (kept, held_out))
        errors = {}
        for l2 in self.strengths:
            stats = judged(kept_sums.solve(l2), subset(tokens, held_out), maps[held_out], patch)
            errors[l2] = float(stats.sum(dim=0)[0])
        best = min(errors, key=lambda l2: errors[l2])
        weights = (kept_sums + held_out_sums).solve(best)
        constant = torch.zeros_like(weights)
        constant[-1] = maps[maps < FAR].double().mean().log()  # the mean distance has the least squared error
        test_tokens, test_maps = row.dense(row.test, self.needs, self.most_test)
        stats, plain = (judged(head, test_tokens, test_maps, patch) for head in (weights, constant))
        low, high = interval(stats, rmse, row.seed)
        totals, plain = stats.sum(dim=0, keepdim=True), plain.sum(dim=0, keepdim=True)
        more = {
            "delta_1.25": float(totals[0, 2] / totals[0, 1]),
            "rmse_of_the_mean": float(rmse(plain)),
            "delta_1.25_of_the_mean": float(plain[0, 2] / plain[0, 1]),
        }
        chosen = f"L2 {best:g} of {self.strengths}, on a held-out fifth of {taken(row.train, len(tokens), 'training')}"
        if len(test_tokens) < len(row.test):
            chosen += f"; measured on {taken(row.test, len(test_tokens), 'test')}"
        return Score("RMSE", float(rmse(totals)), low, high, chosen, 1, "none: a head on every patch token", more=more)


def cells(maps: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Distances (n, H, W) to log distances and whether they are asked for, each (n, P, pixels of a patch)."""
    found = F.unfold(maps.unsqueeze(1).float(), patch, stride=patch).transpose(1, 2)
    return found.log(), found < FAR


def sums(tokens: Subset, maps: Tensor, images: Tensor, patch: int) -> Sums:
    """Over some of the images, of the patches all of whose pixels are asked for."""
    total = Sums.zero(tokens.shape[-1], patch**2)
    for some in images.split(CHUNK):  # the fit is in float64: not all at once
        depth, valid = cells(maps[some], patch)
        asked = valid.all(dim=-1)
        if asked.any():
            total.add(tokens[some][asked], depth[asked])
    return total


def judged(weights: Tensor, tokens: Subset, maps: Tensor, patch: int) -> Tensor:
    """(n, 3): `per_image` of what a head says of tokens (n, P, D)."""
    parts = zip(tokens.split(CHUNK), maps.split(CHUNK), strict=True)
    return torch.cat([per_image(predict(weights, x.flatten(0, 1)), *cells(truth, patch)) for x, truth in parts])


def per_image(guess: Tensor, depth: Tensor, valid: Tensor) -> Tensor:
    """Log distances (n * P, C), (n, P, C) to (n, 3): squared error in world units, pixels, pixels near enough."""
    guess, depth, valid = guess.reshape(depth.shape).flatten(1), depth.double().flatten(1), valid.flatten(1)
    error = (guess.exp() - depth.exp()).square() * valid
    is_near = ((guess - depth).abs() < torch.tensor(NEAR_ENOUGH).double().log()) & valid
    return torch.stack([error.sum(dim=1), valid.double().sum(dim=1), is_near.double().sum(dim=1)], dim=1)


def rmse(totals: Tensor) -> Tensor:
    """Sums (R, 3) to root mean squared errors (R,)."""
    return (totals[:, 0] / totals[:, 1]).sqrt()
