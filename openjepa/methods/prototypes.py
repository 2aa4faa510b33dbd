"""Self-distillation over prototypes: head and losses of DINO (arXiv 2104.14294) and iBOT (arXiv 2111.07832).

Departs from the released head in normalising prototypes where they are used, not by a hook on the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjepa.distributed import mean_over_ranks
from openjepa.errors import sentence
from openjepa.vision.transformer import INIT_STD


@dataclass(frozen=True)
class HeadConfig:
    """Shape of the projection head."""

    hidden: int = 2048
    """Width of the two hidden layers."""
    bottleneck: int = 256
    """Width of what is compared with the prototypes."""
    num_prototypes: int = 8192
    """How many there are (iBOT: 8192; DINO: 65536)."""
    norm_last_layer: bool = True
    """Prototypes all have length 1; off, each learns its own (published: off for ViT-S, on for larger ones)."""

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        return [
            sentence(f"head.{name}", getattr(self, name), f"must be at least {low}")
            for name, low in (("hidden", 1), ("bottleneck", 1), ("num_prototypes", 2))
            if getattr(self, name) < low
        ]


class Head(nn.Module):
    """A three-layer MLP, and the cosine of its output with each prototype."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        sizes = (width, config.hidden, config.hidden, config.bottleneck)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.trunc_normal_(layer.weight, std=INIT_STD)
            nn.init.zeros_(layer.bias)
        self.weight = nn.Parameter(torch.empty(config.num_prototypes, config.bottleneck))
        nn.init.trunc_normal_(self.weight, std=INIT_STD)
        self.scale = None if config.norm_last_layer else nn.Parameter(torch.ones(config.num_prototypes))

    def project(self, x: Tensor) -> Tensor:
        """(..., D) to (..., bottleneck) of length 1."""
        first, second, last = self.layers
        return F.normalize(last(F.gelu(second(F.gelu(first(x))))), dim=-1)

    def logits(self, z: Tensor) -> Tensor:
        """(..., bottleneck) to (..., num_prototypes): linear in z."""
        out = F.linear(z, F.normalize(self.weight, dim=-1))
        out = out if self.scale is None else out * self.scale
        return out.to(torch.promote_types(out.dtype, torch.float32))  # losses and centres are not for half precision

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., num_prototypes), at least float32."""
        return self.logits(self.project(x))


def balanced(probs: Tensor, rounds: int = 3) -> Tensor:
    """Probabilities (P, K), scaled in turns so that every prototype has the same share of the samples of all ranks, and
    every sample adds up to 1: Sinkhorn and Knopp's iteration (SwAV, arXiv 2006.09882; three rounds as in DINOv2)."""
    for _ in range(rounds):
        share = mean_over_ranks(probs.sum(0))
        probs = probs / share.clamp_min(torch.finfo(probs.dtype).tiny)
        probs = probs / probs.sum(-1, keepdim=True).clamp_min(torch.finfo(probs.dtype).tiny)
    return probs


def view_cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """(B,) from probabilities (G, B, K) of the global views and log-probabilities (V, B, K) of all, those G first.

    A mean over the G (V - 1) pairs of two different views.
    """
    num_global, num_views = len(teacher), len(student)
    others = student.sum(0) - student[:num_global]
    return -(teacher * others).sum(-1).mean(0) / (num_views - 1)


def patch_cross_entropy(teacher: Tensor, student: Tensor, image: Tensor, counts: Tensor) -> Tensor:
    """() from probabilities and log-probabilities (P, K) of hidden patches: `image` (P,) tells whose they are, `counts`
    (R,) how many each of the R images has.

    A mean over an image's patches, then over all images; one without hidden patches adds nothing (as released: it still
    counts as an image, so that parts of a batch add up to the batch).
    """
    each = -(teacher * student).sum(-1)
    return (each / counts[image]).sum() / len(counts)
