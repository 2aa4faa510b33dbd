"""Dense depth from patch tokens: what the paper's Clevr/Dist asks of an image, asked of every pixel.

Departs from the paper, which asks for the bin of the closest object only: a linear head predicts the logarithm of
the distance at each pixel of a patch from its token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.evaluation.sets import ImageSet
from openjepa.evaluation.task import DenseTask, Row, Score, at_least_one, patch_side, split_images
from openjepa.measure.bootstrap import interval
from openjepa.measure.ridge import Sums, predict

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
        tokens, depth, valid = self._patches(row, row.train, self.most_train)
        mean = depth[valid].double().exp().mean().log()  # of the distances: it has the least squared error
        held_out, kept = split_images(len(tokens), row.seed)
        kept_sums, held_out_sums = (sums(tokens[some], depth[some], valid[some]) for some in (kept, held_out))
        errors = {}
        for l2 in self.strengths:
            guess = predict(kept_sums.solve(l2), tokens[held_out].flatten(0, 1))
            errors[l2] = float(per_image(guess, depth[held_out], valid[held_out]).sum(dim=0)[0])
        best = min(errors, key=lambda l2: errors[l2])
        weights = (kept_sums + held_out_sums).solve(best)
        tokens, depth, valid = self._patches(row, row.test, self.most_test)
        stats = per_image(predict(weights, tokens.flatten(0, 1)), depth, valid)
        constant = per_image(mean.expand(depth.numel()), depth, valid)
        low, high = interval(stats, rmse, row.seed)
        totals, plain = stats.sum(dim=0, keepdim=True), constant.sum(dim=0, keepdim=True)
        more = {
            "delta_1.25": float(totals[0, 2] / totals[0, 1]),
            "rmse_of_the_mean": float(rmse(plain)),
            "delta_1.25_of_the_mean": float(plain[0, 2] / plain[0, 1]),
        }
        chosen = f"L2 {best:g} of {self.strengths}, on a held-out fifth of {len(held_out) + len(kept)} training images"
        return Score("RMSE", float(rmse(totals)), low, high, chosen, 1, "none: a head on every patch token", more=more)

    def _patches(self, row: Row, images: ImageSet, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (n, P, D), log distances and whether they are asked for (n, P, pixels of a patch)."""
        tokens = row.tokens(images, most)
        maps = images.dense(self.needs, row.encoder.image_size, len(tokens))
        patch = patch_side(row.encoder.image_size, tokens.shape[1])
        cells = F.unfold(maps.unsqueeze(1).float(), patch, stride=patch).transpose(1, 2)
        return tokens, cells.log(), cells < FAR


def sums(tokens: Tensor, depth: Tensor, valid: Tensor) -> Sums:
    """Of the patches all of whose pixels are asked for."""
    whole = valid.all(dim=-1)
    total = Sums.zero(tokens.shape[-1], depth.shape[-1])
    for some in torch.arange(len(tokens)).split(CHUNK):  # the fit is in float64: not all at once
        asked = whole[some]
        if asked.any():
            total.add(tokens[some][asked], depth[some][asked])
    return total


def per_image(guess: Tensor, depth: Tensor, valid: Tensor) -> Tensor:
    """Log distances (n * P, C), (n, P, C) to (n, 3): squared error in world units, pixels, pixels near enough."""
    guess, depth, valid = guess.reshape(depth.shape).flatten(1), depth.double().flatten(1), valid.flatten(1)
    error = (guess.exp() - depth.exp()).square() * valid
    is_near = ((guess - depth).abs() < torch.tensor(NEAR_ENOUGH).double().log()) & valid
    return torch.stack([error.sum(dim=1), valid.double().sum(dim=1), is_near.double().sum(dim=1)], dim=1)


def rmse(totals: Tensor) -> Tensor:
    """Sums (R, 3) to root mean squared errors (R,)."""
    return (totals[:, 0] / totals[:, 1]).sqrt()
