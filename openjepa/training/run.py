"""`pretrain`: from a recipe and a pile of images to a trained encoder on disk, or on from where it stopped."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openjepa import distributed, storage
from openjepa.config import differences, to_dict
from openjepa.data.check import check as check_data
from openjepa.data.loader import Loaded
from openjepa.data.source import Source, open_source
from openjepa.errors import CheckpointError, ConfigError, sentence
from openjepa.journal import Journal, duration
from openjepa.methods import Method
from openjepa.training.build import build, restore
from openjepa.training.checkpoints import PREFIX, Checkpoints, RunLock
from openjepa.training.loop import train
from openjepa.training.recipe import RESUMABLE, Recipe
from openjepa.training.saved import read_method
from openjepa.training.state import Run
from openjepa.vision.saved import read_encoder, write_encoders
from openjepa.vision.vit import ViT


@dataclass(frozen=True)
class Result:
    """What a run leaves behind."""

    directory: Path
    """Holds encoder/, checkpoints/, metrics.jsonl, tensorboard/, recipe.json and bad_images.csv."""
    is_finished: bool
    """False when a signal stopped it; the same call goes on from there."""
    step: int
    t: float
    """How far it is, in 0..1."""
    elapsed_s: float
    verdict: str
    reason: str
    history: list[dict[str, float]]
    """Every judgement, the untrained encoder's first."""
    controls: dict[str, dict[str, float]]
    """20-NN and linear accuracy of "pixels" and of the "untrained" encoder."""
    is_signalled: bool = False
    """A signal stopped it, and not the end of a slice."""

    @property
    def encoder(self) -> ViT:
        """The target encoder of a finished run."""
        return read_encoder(self.directory / "encoder")

    @property
    def method(self) -> Method:
        """The whole method, as its newest checkpoint has it."""
        return read_method(self.directory)


def pretrain(
    recipe: Recipe,
    data: str | Source,
    out: str | Path,
    *,
    start: ViT | None = None,
    probe_data: str | None = None,
    probe_test: str | None = None,
    resume: bool = False,
    resume_from: str | None = None,
    slice_minutes: float | None = None,
    is_quiet: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> Result:
    """Pretrain on `data` into the directory `out`; goes on by itself where an earlier call stopped.

    `data`, `probe_data`, `probe_test`: a folder, parquet files, tars, hf://name or scenes. `probe_data`
    labels serve the probe alone; None takes those of `data` if it has any, "none" does without. `start`: an encoder
    whose weights are the first ones, in place of fresh ones.
    `slice_minutes`: stop after about so long, to be gone on with by the next call.
    `is_quiet`: only warnings are printed. `on_progress`: told how far the run is, in 0..1, at each line of metrics.
    `resume` insists that there is something to go on from; `resume_from` names the checkpoint.
    Raises ConfigError, DataError, CheckpointError or TrainingError, each saying what to do.
    """
    recipe.check()
    started, out = time.perf_counter(), Path(out)
    world = distributed.start(recipe.speed.device)
    if recipe.batch_size % world.size:
        rule = f"must be a multiple of the number of processes, {world.size}"
        raise ConfigError(sentence("batch_size", recipe.batch_size, rule))
    source = data if isinstance(data, Source) else open_source(data)
    bad, num_tried = check_data(source, recipe.method.encoder.channels)
    document = {"recipe": to_dict(recipe), "data": source.identity}
    if start is not None:
        document["start"] = start.fingerprint()
    lock = RunLock(out) if world.is_first else None
    try:
        checkpoints = Checkpoints(out / "checkpoints", recipe.keep.last)
        chosen = agree_to_resume(out, document, checkpoints, resume or resume_from is not None, resume_from)
        agree_on(chosen)
        distributed.barrier()  # every process has read the directory before the first one writes to it
        saved = None if chosen is None else storage.read_document(chosen, "state")
        with Journal(
            out,
            is_silent=not world.is_first,
            is_quiet=is_quiet,
            on_progress=on_progress,
            resumed_at=None if saved is None else saved["step"],
            wandb_project=recipe.watch.wandb,
        ) as journal:
            run = build(recipe, source, out, world, journal, probe_data, probe_test, document, start)
            if world.is_first:
                write_document(out / "recipe.json", document)
            introduce(run, chosen)
            if chosen is not None and saved is not None:
                restore(run, chosen, saved)
            if world.is_first and chosen is None:
                run.bad.add(Loaded(None, [], bad, num_read=num_tried))
            # of a run in minutes it decides the last step, which all processes must take together
            run.starts_up(distributed.agree_max(time.perf_counter() - started))
            is_finished = train(run, None if slice_minutes is None else 60 * slice_minutes)
            if is_finished and world.is_first:
                export(run, out)
            if is_finished or slice_minutes is None or run.is_signalled:  # there is no end of a slice to speak of
                conclude(run, out, is_finished)
            return result(run, out, is_finished)
    finally:
        if lock is not None:
            lock.release()


def agree_to_resume(
    out: Path,
    document: dict[str, Any],
    checkpoints: Checkpoints,
    must_resume: bool,
    name: str | None,
) -> Path | None:
    """The checkpoint to go on from, None for a new run; ConfigError when `out` holds another run."""
    if not checkpoints.names():  # nothing to lose: a run that never got that far may start with other settings
        if must_resume:
            raise CheckpointError(f"{out} holds no run to resume. Leave out --resume to start one.")
        return None
    refuse_another(out, document)
    return checkpoints.choose(name)


def refuse_another(out: Path, document: dict[str, Any]) -> None:
    """ConfigError, with every difference, when `out` holds a run with other settings, data or first weights."""
    before = storage.read_document(out, "recipe")
    if changes := differences(essence(before), essence(document)):
        listed = "\n  ".join(changes)
        raise ConfigError(
            f"{out} holds a run with other settings (there -> asked for):\n  {listed}\n"
            "Ask for the same settings to resume it, or take another --out."
        )


def agree_on(chosen: Path | None) -> None:
    """CheckpointError on every process when they do not all see the same checkpoint."""
    step = -1 if chosen is None else int(chosen.name.removeprefix(PREFIX))
    lowest, highest = -distributed.agree_max(-step), distributed.agree_max(step)
    if lowest != highest:
        raise CheckpointError(
            f"processes see different checkpoints (steps {lowest:.0f} and {highest:.0f}; -1 is none). "
            "Put --out on a file system that all of them share."
        )


def essence(document: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's document that decides where its weights go."""
    recipe = {k: v for k, v in document["recipe"].items() if k not in RESUMABLE}
    return {"recipe": recipe, "data": document["data"], "start": document.get("start")}


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Written aside and renamed, so that a kill leaves the old one or the new one."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, suffix=".json") as file:
        json.dump(document, file, indent=1)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def introduce(run: Run, chosen: Path | None) -> None:
    """What is about to happen, in a few lines."""
    method, recipe = run.method, run.recipe
    encoder = sum(p.numel() for p in method.encoder.parameters())
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    total = run.progress.total_steps()
    length = f"{total} steps" if total else f"{run.progress.minutes:g} minutes"
    run.journal.say(
        f"{recipe.name}: {run.steps.source.identity}; encoder of {encoder / 1e6:.2f} M parameters, "
        f"{trained / 1e6:.2f} M trained; {length} of {recipe.batch_size} images on "
        f"{run.world.size} x {run.world.device.type}, {run.workers} loader workers"
    )
    source = run.steps.source
    if chosen is None and not source.is_sequential and recipe.batch_size > len(source):
        run.journal.warn(
            f"{len(source)} images are fewer than a batch of {recipe.batch_size}: each is seen "
            f"{recipe.batch_size / len(source):.0f} times a step. Give more images, or a smaller --batch-size."
        )
    if chosen is None:
        run.journal.say("starting at step 0")
    else:
        run.journal.say(f"resuming from {chosen}")
    if run.probe is None and recipe.watch.probes:
        run.journal.say("no labels: judged by rank, spread and energies alone (--probe-data adds probes)")


def export(run: Run, out: Path) -> None:
    """The encoders of a finished run, for `openjepa.load_encoder`."""
    encoders = {"target": run.method.encoder, "context": run.method.context_encoder}
    about = {**run.document, "step": run.step, "elapsed_s": run.elapsed_s}
    try:
        write_encoders(out / "encoder", encoders, about)
    except OSError as error:
        raise CheckpointError(
            f"{out / 'encoder'} not written: {error}. Make room and give the same command: the run itself is saved."
        ) from None


def conclude(run: Run, out: Path, is_finished: bool) -> None:
    """Where things are, and how to go on."""
    if listed := run.bad.num_listed:
        run.journal.warn(f"{listed} images could not be used and were replaced; their reasons are in {run.bad.path}")
    if is_finished:
        run.journal.say(f"finished: {run.step} steps in {duration(run.elapsed_s)}; encoder in {out / 'encoder'}")
    else:
        names = run.checkpoints.names()
        run.journal.say(f"stopped at step {run.step}; the same command goes on from {names[-1] if names else 'step 0'}")


def result(run: Run, out: Path, is_finished: bool) -> Result:
    """The run as its caller gets it."""
    verdict = run.verdict
    return Result(
        directory=out,
        is_finished=is_finished,
        step=run.step,
        t=run.progress.t(run.step),
        elapsed_s=run.elapsed_s,
        verdict="not judged" if verdict is None else verdict.word,
        reason="" if verdict is None else verdict.reason,
        history=run.history,
        controls=run.controls,
        is_signalled=run.is_signalled,
    )
