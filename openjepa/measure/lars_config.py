"""The settings of the linear probe of large sets, with the paper's values (appendix A.2) and VISSL's where it has none.

`openjepa.measure.lars` says where the probe departs from both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from openjepa.errors import sentence


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
