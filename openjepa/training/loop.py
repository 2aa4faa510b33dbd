"""The training loop: one narrative, the same for every method, one process or many, from any step."""

from __future__ import annotations

import math
import time
import warnings
from contextlib import ExitStack, closing, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from openjepa import distributed
from openjepa.data.loader import batches
from openjepa.errors import TrainingError
from openjepa.training.checkpoints import SAVE_AND_GO_ON, SAVE_AND_STOP, Signals
from openjepa.training.report import judgement, report
from openjepa.training.state import Interval, Run

CALIBRATION_STEPS = 3  # of a run given in minutes, before its speed is believed; later lines correct it
FOREVER = 2**40  # a run in minutes does not know its last step


def train(run: Run, slice_s: float | None = None) -> bool:
    """Train to the end of the run, or until a signal asks to stop, or for about `slice_s` seconds.

    Returns whether the end was reached.
    """
    recipe, world, progress = run.recipe, run.world, run.progress
    model = wrapped(run)
    autocast = precision(recipe.precision, world.device)
    clock = time.perf_counter() - run.elapsed_s
    began = last_saved = time.perf_counter()

    with Signals() as signals, ExitStack() as at_the_end:
        if run.step == 0:
            run.startup_s += distributed.agree_max(judgement(run))
        interval = Interval()
        stop = FOREVER if progress.minutes is not None else progress.total_steps() or FOREVER
        is_pinned = world.device.type == "cuda"
        stream = batches(run.steps, run.step, stop, workers=run.workers, pin_memory=is_pinned)
        at_the_end.enter_context(closing(stream))  # its workers ignore SIGTERM: Python's own end would wait for ever
        while not progress.is_over(run.step):
            # ------------------------------------------------ the batch
            waiting = time.perf_counter()
            loaded = next(stream)
            interval.data_s += time.perf_counter() - waiting
            run.bad.add(loaded)
            batch = loaded.batch.to(world.device)
            t = progress.t(run.step)

            # ------------------------------------------------ forward and backward, in micro-batches
            parts = batch.split(recipe.micro_batch or len(batch.images))
            logs: dict[str, Tensor] = {}
            for number, part in enumerate(parts, start=1):
                share = len(part.images) / len(batch.images)
                with nullcontext() if number == len(parts) else no_sync(model):
                    with autocast():
                        outputs = model(part, t)
                    (outputs["loss"] * share).backward()
                for name, value in outputs.items():
                    logs[name] = logs.get(name, 0) + value.detach() * share

            # ------------------------------------------------ update
            logs["loss"] = distributed.mean_over_ranks(logs["loss"])  # one that is not finite is so on all
            grad_norm, is_skipped = run.optimizer.step(t, logs["loss"], run.method.frozen(t))
            run.method.after_step(t)
            run.step += 1
            interval.logs.append({**logs, "grad_norm": grad_norm})
            interval.is_skipped.append(is_skipped)
            interval.names.append(loaded.names)

            # ------------------------------------------------ look, log, save
            is_last = progress.is_over(run.step)
            if (run.step % recipe.watch.log_every == 0 or is_last) or (
                progress.rate == 0 and run.step == CALIBRATION_STEPS
            ):
                run.elapsed_s = time.perf_counter() - clock
                report(run, interval, t)
                interval = Interval()
                is_last = progress.is_over(run.step)
            now = progress.t(run.step)
            if passed(recipe.watch.probes, t, now) or is_last:
                interval.probe_s += judgement(run, is_last)
                if run.verdict is not None and run.verdict.is_collapsed:
                    if recipe.watch.on_collapse == "stop":
                        raise TrainingError(f"collapsed: {run.verdict.reason}. {run.method.remedy}")
            run.elapsed_s = time.perf_counter() - clock
            is_milestone = passed(recipe.keep.milestones, t, now)
            is_due = time.perf_counter() - last_saved > recipe.keep.every_minutes * 60
            is_slice_over = slice_s is not None and time.perf_counter() - began > slice_s and world.is_first
            wanted = SAVE_AND_STOP if is_slice_over else SAVE_AND_GO_ON if is_due and world.is_first else 0
            wish = distributed.agree_max(max(signals.asked, wanted))
            if wish or is_milestone or is_last:
                if signals.asked == SAVE_AND_GO_ON:  # before saving: a signal that comes meanwhile counts
                    signals.asked = 0
                if interval.logs:  # so that the checkpoint knows of every step skipped so far
                    report(run, interval, t)
                    interval = Interval()
                started = time.perf_counter()
                save(run, is_milestone=is_milestone)
                last_saved = time.perf_counter()
                interval.save_s += last_saved - started
            if wish == SAVE_AND_STOP and not is_last:
                run.is_signalled = signals.asked == SAVE_AND_STOP
                return False
    return True


def wrapped(run: Run) -> nn.Module:
    """The method as the loop calls it: compiled and data-parallel where asked for."""
    model: nn.Module = run.method
    if run.world.size > 1:
        with warnings.catch_warnings():  # newer torch has another name for it, which older torch lacks
            warnings.simplefilter("ignore", FutureWarning)
            model = DistributedDataParallel(model, broadcast_buffers=False)
    return model


def no_sync(model: nn.Module) -> Any:
    """Keeps gradients local while they still add up."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def precision(name: str, device: torch.device) -> Any:
    """A factory of autocast contexts: bfloat16 where asked for, or where the device gains from it."""
    gains = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    is_bfloat16 = name == "bfloat16" or (name == "auto" and gains)
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16)


def passed(count: int, before: float, now: float) -> bool:
    """True when progress went over one of `count` evenly spaced marks of the run between two steps."""
    return math.floor(now * count + 1e-9) > math.floor(before * count + 1e-9)


def save(run: Run, *, is_milestone: bool) -> None:
    """Write a checkpoint on the first rank. A full disk is reported, and training goes on."""
    if run.world.is_first:
        tensors = {"method": run.method.state_dict(), "optimizer": run.optimizer.tensors()}
        documents = {"state": run.state(), "recipe": run.document}
        try:
            run.checkpoints.save(run.step, tensors, documents, is_milestone=is_milestone)
        except OSError as error:
            names = run.checkpoints.names()
            good = f"the newest good one is {names[-1]}" if names else "there is none yet"
            run.journal.warn(f"checkpoint of step {run.step} not written: {error}; {good}")
    distributed.barrier()
