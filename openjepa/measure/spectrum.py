"""Has the representation collapsed? Numbers from features alone, and the rank test of energies.

The effective rank is RankMe's (Garrido et al. 2023, section 3.1) with two departures: features
are centred unless asked otherwise, and no constant is added to the normalised singular values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openjepa.errors import ConfigError, sentence
from openjepa.measure import as_features, unit_rows


def effective_rank(features: Tensor, centred: bool = True) -> float:
    """exp of the entropy of the normalised singular values of (N, D): 1 to min(N, D).

    RankMe does not centre: `centred=False` is its number. Centred is the default because the
    features of an encoder share a large mean, a singular value that says nothing of how images
    differ and hides the others. Features that differ by no more than the rounding of their dtype
    have rank 1. Raises DataError.
    """
    wide = as_features(features)
    size = wide.norm()
    if centred:
        wide = wide - wide[0]  # exact between nearly equal rows, where their mean is rounded
        wide = wide - wide.mean(dim=0)
    # Rounding noise points everywhere: unasked, a fully collapsed encoder would have full rank.
    dtype = features.dtype if features.is_floating_point() else wide.dtype
    if wide.norm() <= torch.finfo(dtype).eps * size:
        return 1.0
    share = torch.linalg.svdvals(wide)
    share = share / share.sum()
    return float(torch.special.entr(share).sum().exp())


def feature_std(features: Tensor) -> float:
    """Mean over the D dimensions of the std over the N images, divisor N. Raises DataError."""
    return float(as_features(features).std(dim=0, correction=0).mean())


def mean_cosine(features: Tensor) -> float:
    """Mean cosine similarity of two different images of (N, D): 1 if all point one way. O(N D).

    A row of zeros has cosine 0 with every other. Raises DataError, and ConfigError for one image.
    """
    units = unit_rows(as_features(features))
    count = len(units)
    if count < 2:
        raise ConfigError(sentence("images", count, "a pair needs 2", "Measure more images."))
    with_itself = units.square().sum()
    return float((units.sum(dim=0).square().sum() - with_itself) / (count * (count - 1)))


def auroc(negative: Tensor, positive: Tensor) -> float:
    """Probability that a random element of `positive` exceeds one of `negative`; ties count half.

    Tensors of any shape, finite and not empty, else DataError. The area under the ROC curve by
    ranks (Mann-Whitney): exact, O(n log n).
    """
    low = as_features(negative.reshape(-1, 1), "negative").flatten().sort().values
    high = as_features(positive.reshape(-1, 1), "positive").flatten()
    below = torch.searchsorted(low, high).sum()
    not_above = torch.searchsorted(low, high, right=True).sum()
    return int(below + not_above) / (2 * len(low) * len(high))
