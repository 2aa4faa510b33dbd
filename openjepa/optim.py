"""AdamW in parameter groups, its learning rate and weight decay set from the run's progress (paper appendix A.1).

Departs from the released code: the mask token is not decayed, and clipping is possible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn

from openjepa.errors import sentence
from openjepa.schedule import cosine, linear, warmup_cosine


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and the course of its settings over the run."""

    lr: float = 1e-3
    """Peak learning rate (paper: 1e-3 at batch 2048)."""
    lr_start: float = 1e-4
    """Learning rate at the first step of the warm-up (paper: 1e-4)."""
    lr_end: float = 1e-6
    """Learning rate at the end of the cosine (paper: 1e-6)."""
    warmup: float = 0.025
    """Share of the run spent warming up (paper: 15 of 600 epochs)."""
    weight_decay: float = 0.04
    """Weight decay at the start (paper: 0.04); biases, norms and the mask token have none."""
    weight_decay_end: float = 0.4
    """Weight decay at the end (paper: 0.4)."""
    weight_decay_schedule: Literal["linear", "cosine"] = "linear"
    """Course between the two: linear in the paper's text, cosine in the released code."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's averaging of gradients and of their squares (released code: torch's default)."""
    clip: float | None = None
    """Largest norm of the whole gradient; none by default, as released."""

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        wrong = []
        for name in ("lr", "lr_start", "lr_end", "weight_decay", "weight_decay_end"):
            if not 0 <= getattr(self, name) < float("inf"):
                wrong.append(sentence(f"optim.{name}", getattr(self, name), "must be finite, from 0"))
        if not 0 <= self.warmup < 1:
            wrong.append(sentence("optim.warmup", self.warmup, "is a share of the run, in [0, 1)"))
        if not all(0 <= beta < 1 for beta in self.betas):
            wrong.append(sentence("optim.betas", self.betas, "must both be in [0, 1)"))
        if self.clip is not None and not self.clip > 0:
            rule = "must be above 0"
            wrong.append(sentence("optim.clip", self.clip, rule, "Leave it out to switch it off."))
        return wrong

    def lr_at(self, t: float) -> float:
        """Learning rate at progress t."""
        return warmup_cosine(t, self.warmup, self.lr_start, self.lr, self.lr_end)

    def weight_decay_at(self, t: float) -> float:
        """Weight decay at progress t."""
        course = linear if self.weight_decay_schedule == "linear" else cosine
        return course(t, self.weight_decay, self.weight_decay_end)


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Matrices are; biases, norms and single tokens are not."""
    return parameter.ndim > 1 and not name.endswith("bias")


class Optimizer:
    """AdamW over a module's trainable parameters, steered by progress t.

    The update is skipped on the device, without waiting for it, when the gradient is not finite: nothing
    non-finite ever reaches the weights.
    """

    def __init__(
        self, module: nn.Module, config: OptimConfig, lr_scale: Callable[[str], float] = lambda name: 1.0
    ) -> None:
        """`lr_scale`: by a parameter's name, what its learning rate is multiplied by (layer decay)."""
        self.config = config

        def kind(named: tuple[str, nn.Parameter]) -> tuple[bool, float]:
            return not is_decayed(*named), lr_scale(named[0])

        trainable = sorted(((n, p) for n, p in module.named_parameters() if p.requires_grad), key=kind)
        self.names = [n for n, _ in trainable]
        self.groups = [
            {"params": [p for _, p in group], "decays": not has_none, "lr_scale": scale}
            for (has_none, scale), group in groupby(trainable, key=kind)
        ]
        # the fused kernel is the one that knows how to skip a step on the device; CPU has it too
        self.adamw = torch.optim.AdamW(self.groups, lr=0.0, betas=config.betas, fused=True)

    def step(self, t: float, loss: Tensor, frozen: frozenset[str] = frozenset()) -> tuple[Tensor, Tensor]:
        """One update at progress t, unless loss or gradient is not finite, then none.

        Parameters named in `frozen` stay as they are, and their averages do not age. Returns the gradient's norm before
        clipping and whether it was skipped (both () tensors on the device), and clears the gradients.
        """
        for group in self.adamw.param_groups:
            group["lr"] = self.config.lr_at(t) * group["lr_scale"]
            group["weight_decay"] = self.config.weight_decay_at(t) if group["decays"] else 0.0
        parameters = [p for group in self.adamw.param_groups for p in group["params"]]
        for name, parameter in zip(self.names, parameters, strict=True):
            if name in frozen:
                parameter.grad = None
        gradients = [p.grad for g in self.adamw.param_groups for p in g["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        is_skipped = ~(torch.isfinite(norm) & torch.isfinite(loss.detach()))
        if self.config.clip is not None:
            scale = (self.config.clip / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, scale)
        self.adamw.grad_scale = None  # type: ignore[attr-defined]
        self.adamw.found_inf = is_skipped.float()  # type: ignore[attr-defined]
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return norm, is_skipped

    def tensors(self) -> dict[str, Tensor]:
        """Adam's state by parameter name: '<name>/exp_avg', '<name>/exp_avg_sq', '<name>/step'."""
        parameters = [p for group in self.adamw.param_groups for p in group["params"]]
        return {
            f"{name}/{key}": value
            for name, parameter in zip(self.names, parameters, strict=True)
            for key, value in self.adamw.state.get(parameter, {}).items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave. The caller has checked that the names are the same."""
        parameters = [p for group in self.adamw.param_groups for p in group["params"]]
        for name, parameter in zip(self.names, parameters, strict=True):
            prefix = f"{name}/"
            state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            if state:
                self.adamw.state[parameter] = {k: v.to(parameter.device).clone() for k, v in state.items()}
