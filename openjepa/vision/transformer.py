"""Pre-norm transformer blocks, shared by the encoder and the predictor (paper section 3; ViT).

As in the released code: LayerNorm epsilon 1e-6, GELU, biased qkv, no dropout, no LayerScale. Attention goes
through torch's fused kernel instead of materialising the N x N matrix.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Init = Literal["rescaled", "official", "xavier"]
INIT_STD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention over (B, L, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask`: (B, 1, 1, L) bool, True where a token may be attended to; None where all may."""
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(x.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each normalised first and added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor, mask: Tensor | None = None, branches: Tensor | None = None) -> Tensor:
        """(B, L, D) to (B, L, D); `mask` as in `Attention`; `branches` (B, 2): what attention and MLP are times."""
        if branches is None:
            x = x + self.attn(self.norm1(x), mask)
            return x + self.mlp(self.norm2(x))
        scales = branches[:, :, None, None]
        x = x + self.attn(self.norm1(x), mask) * scales[:, 0]
        return x + self.mlp(self.norm2(x)) * scales[:, 1]


class Transformer(nn.ModuleList):
    """A stack of `depth` blocks. `is_checkpointed` trades a second forward for activation memory."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__(Block(width, heads, hidden) for _ in range(depth))
        self.is_checkpointed = False

    def forward(
        self, x: Tensor, valid: Tensor | None = None, num_last: int = 1, branches: Tensor | None = None
    ) -> list[Tensor]:
        """The outputs of the last `num_last` blocks, (B, L, D) each, the very last one at the end.

        `valid`: (B, L) bool, False where a token is padding and nothing may attend to it. `branches`: (B, depth, 2),
        as `drop_path` draws them.
        """
        mask = None if valid is None else valid[:, None, None, :]
        outputs: list[Tensor] = []
        for number, block in enumerate(self):
            scales = None if branches is None else branches[:, number]
            if self.is_checkpointed and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, scales, use_reentrant=False)
            else:
                x = block(x, mask, scales)
            outputs = [*outputs, x][-num_last:]
        return outputs


def drop_path(rng: np.random.Generator, depth: int, rate: float) -> np.ndarray:
    """(depth, 2) float32 for one image: 0 where a branch of a block is left out, else 1 / share kept.

    Stochastic depth (Huang et al. 2016): the share left out rises linearly from 0 to `rate` at the last block.
    """
    kept = 1 - rate * np.linspace(0, 1, depth)[:, None]
    return ((rng.random((depth, 2)) < kept) / kept).astype(np.float32)


def initialise(module: nn.Module, init: Init) -> None:
    """Truncated normal weights of std 0.02 for linear layers, zero biases; unit LayerNorms.

    "rescaled" divides the output layers of block l (from 1) by sqrt(2 l), as the released constructors mean
    to; "official" leaves that out, as the released code does by accident (it initialises a second time). "xavier" is
    MAE's: uniform by fan-in and fan-out.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            if init == "xavier":
                nn.init.xavier_uniform_(part.weight)
            else:
                nn.init.trunc_normal_(part.weight, std=INIT_STD)
            nn.init.zeros_(part.bias)
    if init != "rescaled":
        return
    for stack in (part for part in module.modules() if isinstance(part, Transformer)):
        for number, block in enumerate(stack, start=1):
            assert isinstance(block, Block)
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.data.div_(math.sqrt(2.0 * number))
