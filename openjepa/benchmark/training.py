"""Training steps without a loader: the upper bound that loading is compared with."""

from __future__ import annotations

import itertools
import time

import numpy as np
import torch

from openjepa.distributed import pick_device
from openjepa.methods import MethodConfig, build
from openjepa.optim import OptimConfig, Optimizer
from openjepa.randomness import generator, initial_weights

WARM_UP_STEPS = 2


def images_per_second(
    config: MethodConfig, optim: OptimConfig, batch_size: int, seconds: float, device: str = "auto"
) -> float:
    """Images a second of forward, backward, update and EMA on one batch of noise, bfloat16 where CUDA has it."""
    where = pick_device(device)
    with initial_weights(0):
        method = build(config).to(where)
    optimizer = Optimizer(method, optim)
    rng, vit = generator(0, "bench"), config.encoder
    noise = rng.integers(0, 256, (batch_size, *vit.image_size, vit.channels), dtype=np.uint8)
    batch = method.views.collate([method.views.sample(image, rng, None) for image in noise], 0, 0, 0).to(where)
    is_bfloat16 = where.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    started = time.perf_counter()
    for step in itertools.count(1):
        with torch.autocast(where.type, torch.bfloat16, enabled=is_bfloat16):
            loss = method(batch, 0.5)["loss"]
        loss.backward()
        optimizer.step(0.5, loss)
        method.after_step(0.5)
        if where.type != "cpu":  # the step has only been asked for
            torch.accelerator.synchronize(where)
        if step == WARM_UP_STEPS:
            started = time.perf_counter()
        if step > WARM_UP_STEPS and time.perf_counter() - started >= seconds:
            break
    return (step - WARM_UP_STEPS) * batch_size / (time.perf_counter() - started)
