"""A run put together: from a recipe at step 0, or from a checkpoint where it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openjepa import storage
from openjepa.data.loader import BadImages, Loaded, Steps, num_workers
from openjepa.data.source import Source
from openjepa.distributed import World
from openjepa.errors import DataError
from openjepa.journal import Journal
from openjepa.measure.verdict import judge
from openjepa.methods import Method
from openjepa.methods import build as build_method
from openjepa.optim import Optimizer
from openjepa.randomness import initial_weights
from openjepa.training.checkpoints import Checkpoints
from openjepa.training.health import Health
from openjepa.training.probe import Probe, open_probe
from openjepa.training.progress import Progress, plan
from openjepa.training.recipe import Recipe
from openjepa.training.state import Run
from openjepa.vision.transformer import Transformer
from openjepa.vision.vit import ViT


def build(
    recipe: Recipe,
    source: Source,
    out: Path,
    world: World,
    journal: Journal,
    probe_data: str | None,
    probe_test: str | None,
    document: dict[str, Any],
    start: ViT | None = None,
) -> Run:
    """Everything a run is made of, at step 0. `start`: weights that its encoders begin with."""
    method = first(recipe, start)
    prepare(method, recipe, world)
    watch = recipe.watch
    probe: Probe | None = None
    if world.is_first and watch.probes:
        probe = open_probe(
            source, probe_data, probe_test, method.encoder, watch.probe_bank, watch.probe_test, recipe.seed
        )
    health: Health | None = None
    if world.is_first and watch.health_images:
        health = Health(source, method, watch.health_images, recipe.seed)
    return Run(
        recipe=recipe,
        world=world,
        method=method,
        optimizer=Optimizer(method, recipe.optim, method.lr_scale),
        progress=plan(recipe.length, recipe.batch_size, source),
        steps=Steps(
            source, method.views, seed=recipe.seed, batch_size=recipe.batch_size, rank=world.rank,
            world_size=world.size, min_side=recipe.method.min_side(),
        ),
        journal=journal,
        checkpoints=Checkpoints(out / "checkpoints", recipe.keep.last),
        bad=book_of_bad_images(recipe, source, out, world, health, probe),
        health=health,
        probe=probe,
        workers=num_workers(recipe.speed.workers),
        document=document,
    )  # fmt: skip


def first(recipe: Recipe, start: ViT | None) -> Method:
    """The method before its first step. CheckpointError when the weights of `start` do not fit its encoders."""
    with initial_weights(recipe.seed):
        method = build_method(recipe.method)
    if start is not None:
        for encoder in (method.encoder, method.context_encoder):
            storage.load_into(encoder, start.state_dict(), "the encoder to start from")
    return method


def book_of_bad_images(
    recipe: Recipe, source: Source, out: Path, world: World, health: Health | None, probe: Probe | None
) -> BadImages:
    """The run's book, begun with the bad images met among those that judge it."""
    bad = BadImages(out / "bad_images.csv", recipe.watch.max_bad_share, len_or_none(source))
    if health is not None:
        bad.add(health.loaded)
    if probe is not None:
        bad.add(Loaded(None, [], probe.bad, num_read=len(probe.bank) + len(probe.test) + len(probe.bad)))
    return bad


def prepare(method: Method, recipe: Recipe, world: World) -> None:
    """Put the method where and how it is to run; none of it changes what is computed."""
    if recipe.precision == "float64":
        method.double()
    method.to(world.device)
    for stack in method.modules():
        if isinstance(stack, Transformer):
            stack.is_checkpointed = recipe.speed.checkpoint_activations
            if recipe.speed.compile:  # stacks only: t changes every step and would be compiled in
                stack.compile()


def len_or_none(source: Source) -> int | None:
    """The number of images, where it is known."""
    try:
        return len(source)
    except DataError:
        return None


def restore(run: Run, chosen: Path, saved: dict[str, Any]) -> None:
    """Put a run back where its checkpoint was written. CheckpointError lists what does not fit."""
    storage.load_into(run.method, storage.read_tensors(chosen, "method"), chosen)
    run.optimizer.load(storage.read_tensors(chosen, "optimizer"))
    run.progress = Progress(**saved["progress"])
    run.bad.load(saved["bad"])
    for name in ("step", "elapsed_s", "startup_s", "skipped_in_row", "probe_s", "history", "controls"):
        setattr(run, name, saved[name])
    if saved["device"] != run.world.device.type:
        run.journal.warn(
            f"begun on {saved['device']}, going on on {run.world.device.type}: the same run, but not to the bit"
        )
    if run.probe is not None and saved["probe"] != run.probe.identity:  # figures of other images do not compare
        run.controls = {}
        run.history = [{k: v for k, v in judged.items() if k not in ("knn", "linear")} for judged in run.history]
    run.verdict = judge(run.history, run.method.can_collapse) if run.history else None
