"""One process or many: who we are, what we agree on, and gathering with gradients.

Everything here is a no-op in a single process, so the loop reads the same for a laptop and for `torchrun`.
"""

from __future__ import annotations

import atexit
import gc
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from openjepa.errors import ConfigError, sentence


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """True on the one rank that writes files and talks."""
        return self.rank == 0


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """ "auto" takes CUDA, then Apple's MPS, then the CPU; "cuda" is the CUDA device of our local rank."""
    found = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    wanted = next(kind for kind, count in found.items() if count) if name == "auto" else name
    kind, _, index = wanted.partition(":")
    if kind not in found or not (index.isdecimal() or wanted == kind):
        raise ConfigError(sentence("device", name, "unknown", "Use auto, cpu, cuda, cuda:N or mps."))
    number = int(index) if index else local_rank if kind == "cuda" else 0
    if number >= found[kind]:
        rule = f"{kind}:{number} is not there; this machine, with this build of torch, has {found[kind]} of them"
        raise ConfigError(sentence("device", name, rule, "Use --speed.device cpu, or fewer processes."))
    return torch.device(kind, number) if kind == "cuda" else torch.device(kind)


def start(device: str = "auto") -> World:
    """Join the process group when `torchrun` started us; otherwise a world of one."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size > 1 and not dist.is_initialized():
        # gloo carries what the processes agree on by CPU, so agreeing never waits for a GPU
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
        atexit.register(stop)  # once: a group that was left cannot be joined again under torchrun
    return World(rank, size, chosen)


def stop() -> None:
    """Leave the process group, if there is one, and wait for its threads to end.

    A thread of gloo that lets go of a tensor while the interpreter shuts down aborts the process. The group ends
    its threads when the last to hold it lets go, and DistributedDataParallel holds it in reference cycles.
    """
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def agree_max(value: int | float) -> float:
    """The largest of all ranks' values (a stop signal on one is a stop signal on all)."""
    if not dist.is_initialized():
        return value
    agreed = torch.tensor(float(value), dtype=torch.float64)
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    return agreed.item()


def agree_sum(values: list[float]) -> list[float]:
    """Sums over all ranks."""
    if not dist.is_initialized():
        return values
    agreed = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(agreed)
    return agreed.tolist()


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, on its device, which takes it up; nobody waits for it."""
    if not dist.is_initialized():
        return x
    dist.all_reduce(x)
    return x / dist.get_world_size()


def barrier() -> None:
    """Wait for every rank."""
    agree_max(0)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        size, rank = dist.get_world_size(), dist.get_rank()
        # every rank computes the same loss from the gathered rows; data parallelism averages over
        # ranks, so our own rows' gradient counts once for each of them
        return grads[0].chunk(size)[rank] * size


def gather_rows(x: Tensor, is_even: bool = True) -> Tensor:
    """All ranks' rows of x (N, D), in rank order, so that a batch statistic is that of the global batch.

    Gradients flow so that averaging parameters' gradients over ranks gives those of one process holding
    the whole batch. Ranks may hold different numbers of rows where not `is_even`; they wait for each other then.
    """
    if not dist.is_initialized():
        return x
    if is_even:
        return _Gather.apply(x)
    rank, size = dist.get_rank(), dist.get_world_size()
    counts = [int(count) for count in agree_sum([float(len(x) * (i == rank)) for i in range(size)])]
    parts = _Gather.apply(F.pad(x, (0, 0, 0, max(counts) - len(x)))).chunk(size)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
