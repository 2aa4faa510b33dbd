"""What a run costs beside time: arithmetic per image, and memory.

Arithmetic is counted by torch while one step runs, forward and backward, multiply and add as two.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from openjepa.benchmark.memory import status_mib
from openjepa.methods import build
from openjepa.randomness import generator, initial_weights
from openjepa.training.recipe import Recipe

IMAGES = 8  # a count per image, and a batch small enough for any memory
MIB = 2**20


def gflops_per_image(recipe: Recipe) -> float:
    """Floating-point operations of a training step an image seen, in 10^9; the optimiser's are not counted."""
    with initial_weights(0):
        method = build(recipe.method)
    vit = recipe.method.encoder
    rng = generator(0, "cost")
    noise = rng.integers(0, 256, (IMAGES, *vit.image_size, vit.channels), dtype="uint8")
    batch = method.views.collate([method.views.sample(image, rng, 0) for image in noise], 0, 0, 0)
    # torch has no count for its fused attention on a CPU
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        method(batch, 0.5)["loss"].backward()
    return counter.get_total_flops() / IMAGES / 1e9


def forget_peak(device: torch.device) -> None:
    """From here on `peak_mib` looks."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # Linux: the peak becomes what is resident now


def peak_mib(device: torch.device) -> float | None:
    """Most memory since `forget_peak`, in MiB: of the GPU's allocator, else resident memory of this process (on Linux;
    None elsewhere). Loader workers are not in it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return status_mib("VmHWM")


_CLEAR = Path("/proc/self/clear_refs")
