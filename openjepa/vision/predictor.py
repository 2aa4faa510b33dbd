"""The narrow predictor: from the context's tokens and a position, what the teacher would say there (paper section 3).

One pass a target block: mask tokens of different blocks never see each other, as in the paper and the released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjepa.errors import sentence
from openjepa.vision.positions import position_table
from openjepa.vision.transformer import INIT_STD, Init, Transformer, initialise


@dataclass(frozen=True)
class PredictorConfig:
    """Shape of the predictor."""

    width: int = 384
    """Size of its tokens: a bottleneck (paper: 384 for every encoder)."""
    depth: int = 6
    """Number of transformer blocks (paper: 6 for B, 12 for L and H, 16 for G)."""
    heads: int = 12
    """Attention heads; must divide the width (released code: as many as the encoder)."""
    mlp_ratio: float = 4.0
    """Hidden size of a block's MLP, as a multiple of the width."""

    def mistakes(self, called: str = "predictor") -> list[str]:
        """Every setting that cannot be used, as sentences about the field that is `called` so."""
        wrong = [
            sentence(f"{called}.{name}", getattr(self, name), "must be at least 1")
            for name in ("width", "depth", "heads")
            if getattr(self, name) < 1
        ]
        if not wrong and (self.width % self.heads or self.width % 4):
            rule = f"must be a multiple of 4 and of {called}.heads = {self.heads}"
            wrong.append(sentence(f"{called}.width", self.width, rule))
        if not 1 <= max(1, self.width) * self.mlp_ratio < float("inf"):
            wrong.append(sentence(f"{called}.mlp_ratio", self.mlp_ratio, "must leave the MLP a hidden size"))
        return wrong


class Predictor(nn.Module):
    """Predicts the tokens of M target blocks, each on its own, from one context."""

    def __init__(
        self,
        config: PredictorConfig,
        grid: tuple[int, int],
        in_width: int,
        out_width: int,
        init: Init = "rescaled",
    ) -> None:
        super().__init__()
        self.grid = grid
        self.embed = nn.Linear(in_width, config.width)
        self.mask_token = nn.Parameter(torch.zeros(config.width))
        hidden = round(config.width * config.mlp_ratio)
        self.blocks = Transformer(config.width, config.depth, config.heads, hidden)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.proj = nn.Linear(config.width, out_width)
        initialise(self, init)
        nn.init.trunc_normal_(self.mask_token, std=INIT_STD)

    def forward(
        self,
        context_tokens: Tensor,
        context: Tensor,
        targets: Tensor,
        context_valid: Tensor | None = None,
        target_valid: Tensor | None = None,
    ) -> Tensor:
        """context_tokens (R, K, D) at indices `context` (R, K); `targets` (R, M, T) -> (R, M, T, D_out).

        Tokens beyond those of `context` stand first and have no place in the grid (a class token).
        `context_valid` (R, K) and `target_valid` (R, M, T): False for padding, which nothing attends to.
        """
        rows, num_targets, num_patches = targets.shape
        weight = self.norm.weight
        positions = position_table(weight.shape[0], self.grid, self.grid, weight.device, weight.dtype)
        num_placeless = context_tokens.shape[1] - context.shape[1]
        seen = self.embed(context_tokens) + F.pad(positions[context], (0, 0, num_placeless, 0))
        asked = self.mask_token + positions[targets]
        seen = seen[:, None].expand(-1, num_targets, -1, -1)
        x = torch.cat([seen, asked], dim=2).flatten(0, 1)
        valid = None
        if context_valid is not None or target_valid is not None:
            if context_valid is None:
                context_valid = torch.ones_like(context, dtype=torch.bool)
            context_valid = F.pad(context_valid, (num_placeless, 0), value=True)
            if target_valid is None:
                target_valid = torch.ones_like(targets, dtype=torch.bool)
            context_valid = context_valid[:, None].expand(-1, num_targets, -1)
            valid = torch.cat([context_valid, target_valid], dim=2).flatten(0, 1)
        (x,) = self.blocks(x, valid)
        x = self.proj(self.norm(x[:, -num_patches:]))
        return x.reshape(rows, num_targets, num_patches, -1)
