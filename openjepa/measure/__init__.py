"""Numbers about frozen features (neighbours, a linear head, the spectrum), and what all accept.

Features are (N, D), one row for each image, of any real dtype; they may be a memory map, or a `Subset`
of its rows. All arithmetic is float64, which neither autocast nor reduced-precision matrix products
touch, so that a probe inside training reads like one after it.
"""

from __future__ import annotations

from torch import Tensor

from openjepa.errors import DataError, sentence
from openjepa.measure.subset import Rows, Subset

_ROWS_PER_CHECK = 1 << 13  # bounds what the search for NaN takes beside a large bank


def check_features(features: Rows, what: str = "features") -> None:
    """Raise DataError unless `features` is (N, D), not empty and finite; it counts the bad rows."""
    if features.ndim != 2 or features.numel() == 0:
        rule = "needs the shape (images, width), neither of them 0"
        raise DataError(sentence(f"{what}.shape", tuple(features.shape), rule))
    bad = sum(int((~rows.isfinite()).any(dim=1).sum()) for rows in features.split(_ROWS_PER_CHECK))
    if bad:
        name = f"rows of {what} with a NaN or an infinity"
        remedy = "The encoder overflowed or diverged: look at the loss, or encode in float32."
        raise DataError(sentence(name, bad, f"must be 0 of {len(features)}", remedy))


def float64(features: Tensor) -> Tensor:
    """The same numbers, float64 and without a gradient; on the CPU if the device has no float64."""
    features = features.detach()
    return (features.cpu() if features.device.type == "mps" else features).double()


def as_features(features: Rows, what: str = "features") -> Tensor:
    """Checked and in float64, all at once: (N, D) to (N, D). Raises DataError."""
    check_features(features, what)
    return float64(features[:] if isinstance(features, Subset) else features)


def as_labels(labels: Tensor, features: Rows, num_classes: int, what: str = "labels") -> Tensor:
    """Labels (N,) as int64 on the device where the arithmetic on their features (N, D) is done.

    Raises DataError unless they are N integers in 0 to `num_classes` - 1.
    """
    if labels.shape != features.shape[:1] or labels.is_floating_point():
        given = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise DataError(sentence(what, given, f"needs {len(features)} integers, one for each row"))
    labels = labels.detach().to(float64(features[:0]).device).long()
    bad = int(((labels < 0) | (labels >= num_classes)).sum())
    if bad:
        rule = f"{bad} of them lie outside 0 to {num_classes - 1}"
        remedy = "Number the classes from 0, or raise num_classes."
        spread = f"{int(labels.min())} to {int(labels.max())}"
        raise DataError(sentence(what, spread, rule, remedy))
    return labels


def unit_rows(features: Tensor) -> Tensor:
    """Every row of (N, D) divided by its length, in float64; a row of zeros stays zero."""
    features = float64(features)
    length = features.norm(dim=1, keepdim=True)
    return features / length.where(length > 0, 1.0)
