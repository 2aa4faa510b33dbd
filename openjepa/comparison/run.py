"""`compare`: train every run of a plan in turns, measure all with the same probes, and say what each cost.

Paper figure 1 and table 1, on the user's data. Runs alternate in slices, so that a machine that slows down slows all of
them; each resumes from its own directory, so a comparison that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from openjepa import storage
from openjepa.comparison.cost import forget_peak, gflops_per_image, peak_mib
from openjepa.comparison.outcome import RESULTS, Comparison, Course, Outcome
from openjepa.comparison.plan import Entry
from openjepa.comparison.terms import CURVE_TASKS, CURVE_TEST, CURVE_TRAIN, DENSE, Probing, check, sets, share, some
from openjepa.config import to_dict
from openjepa.data.source import Source
from openjepa.distributed import pick_device
from openjepa.errors import CheckpointError, ConfigError, DataError, TrainingError
from openjepa.evaluation.record import Evaluation
from openjepa.journal import METRICS
from openjepa.measure.spectrum import auroc
from openjepa.methods import Method, build
from openjepa.randomness import initial_weights
from openjepa.training.checkpoints import Checkpoints
from openjepa.training.health import Health
from openjepa.training.recipe import Recipe
from openjepa.training.run import pretrain, write_document
from openjepa.training.saved import read_method
from openjepa.vision.encoder import Encoder
from openjepa.vision.vit import ViTConfig

FAILURES = (TrainingError, DataError, CheckpointError, MemoryError, torch.OutOfMemoryError)
"""What ends one run, and not the others: it diverged, its data went away, or memory or disk were not enough."""
PAIRS = 256
"""Images held out whose energies are compared."""
STATUS = "comparison.json"


def compare(
    entries: Sequence[Entry],
    data: str | Source,
    test: str | Source | None,
    out: str | Path,
    *,
    probing: Probing | None = None,
    slice_minutes: float = 2.0,
    is_quiet: bool = False,
) -> Comparison | None:
    """Train and measure `entries` on `data`, and test on `test`, or on a fifth of `data` that is kept apart.

    `out` gets a directory a run and results.json; the same call goes on where an earlier one was stopped. None when a
    signal stopped it. A run that diverges is an outcome with its reason. Raises ConfigError and DataError, as far as
    they can be seen before anything is trained.
    """
    probing, out = probing or Probing(), Path(out)
    if wrong := probing.mistakes():
        raise ConfigError(wrong)
    train, held_out = sets(data, test)
    few = some(train, CURVE_TRAIN), some(held_out, CURVE_TEST)
    many = some(train, probing.most_train), some(held_out, probing.most_test)
    dense = [DENSE] if all(DENSE in each.dense_names for each in many) else []
    tasks = list(dict.fromkeys([*probing.tasks, *dense]))
    check(entries, tasks, train, many, out, probing.cache)
    courses = {entry.name: _read(out / entry.name) for entry in entries}
    with _bars(is_quiet) as bars:
        if not _train(entries, courses, train, out, slice_minutes, bars):
            return None
        found = Comparison(train.identity, held_out.identity)
        found.settings = {"slice_minutes": slice_minutes, "probing": {**asdict(probing), "cache": str(probing.cache)}}
        line = bars.add_task("measuring", total=len(entries))
        controls = control_names(entries)
        for entry in entries:
            outcome = _described(entry, courses[entry.name])
            found.outcomes.append(outcome)
            if outcome.course.status == "finished":
                method = read_method(out / entry.name)
                _measure(found, outcome, entry, method, out / entry.name, probing, tasks, few, many, controls)
                _compare_energies(outcome, entry.recipe, method, held_out, pick_device(probing.device))
            write_document(out / RESULTS, found.document())
            bars.advance(line)
    return found


def control_names(entries: Sequence[Entry]) -> dict[ViTConfig, str]:
    """What each untrained backbone is called: by the methods that begin with it and its size, or by the first run that
    has it where that is not enough."""
    owners: dict[ViTConfig, list[Entry]] = {}
    for entry in entries:
        owners.setdefault(entry.recipe.method.encoder, []).append(entry)
    if len(owners) == 1:
        return dict.fromkeys(owners, "untrained")
    short = {
        config: f"{', '.join(dict.fromkeys(entry.recipe.name for entry in own))} {own[0].size}".strip()
        for config, own in owners.items()
    }
    is_enough = len(set(short.values())) == len(short)
    return {config: f"untrained ({short[config] if is_enough else own[0].variant})" for config, own in owners.items()}


def _bars(is_quiet: bool) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")
    console = Console(stderr=True)
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=is_quiet)


def _train(
    entries: Sequence[Entry], courses: dict[str, Course], train: Source, out: Path, slice_minutes: float, bars: Progress
) -> bool:
    """A slice of each run in turn, until none is going. False when a signal came."""
    lines = {name: bars.add_task(name, total=1.0) for name in courses}
    for name, course in courses.items():
        bars.update(lines[name], completed=course.t)
    while any(course.is_going for course in courses.values()):
        for entry in entries:
            course = courses[entry.name]
            if not course.is_going:
                continue
            move = partial(_moved, bars, lines[entry.name])
            is_stopped = _slice(entry, course, train, out / entry.name, slice_minutes, move)
            bars.update(lines[entry.name], completed=course.t, description=f"{entry.name} {course.verdict}")
            if course.status == "failed":
                bars.console.print(f"{entry.name}: failed: {course.reason}", style="red", markup=False)
            if is_stopped:
                return False
    return True


def _moved(bars: Progress, line: TaskID, t: float) -> None:
    bars.update(line, completed=t)


def _slice(
    entry: Entry,
    course: Course,
    train: Source,
    directory: Path,
    slice_minutes: float,
    on_progress: Callable[[float], None],
) -> bool:
    """Train one run for a while and note how it goes. True when a signal stopped it."""
    device = pick_device(entry.recipe.speed.device)
    source = share(train, entry.fraction)
    forget_peak(device)
    try:
        result = pretrain(
            entry.recipe, source, directory, probe_data="none", slice_minutes=slice_minutes, is_quiet=True,
            on_progress=on_progress,
        )  # fmt: skip
    except FAILURES as error:  # a result, and not the end of the comparison
        course.status, course.reason = "failed", str(error)
        course.verdict = "diverged" if isinstance(error, TrainingError) else "failed"
        course.step, course.seconds = _last(directory)
    except ConfigError as error:  # too short for ten steps, which a run in minutes knows when it has begun
        raise ConfigError([f"{entry.variant}: {mistake}" for mistake in error.mistakes]) from None
    else:
        course.status = "finished" if result.is_finished else "going"
        course.step, course.t, course.seconds = result.step, result.t, result.elapsed_s
        course.verdict = result.verdict
    peak = peak_mib(device)
    if peak is not None:
        course.peak_mib = max(peak, course.peak_mib or 0.0)
    directory.mkdir(parents=True, exist_ok=True)
    write_document(directory / STATUS, asdict(course))
    return course.is_going and result.is_signalled


def _last(directory: Path) -> tuple[int, float]:
    """Step and seconds of the last line of metrics."""
    lines = (directory / METRICS).read_text().splitlines() if (directory / METRICS).exists() else []
    trained = [record for record in map(json.loads, lines) if "elapsed_s" in record]
    return (trained[-1]["step"], trained[-1]["elapsed_s"]) if trained else (0, 0.0)


def _read(directory: Path) -> Course:
    """How a run went so far. One that failed is tried again from its newest checkpoint."""
    path = directory / STATUS
    found = Course(**json.loads(path.read_text())) if path.exists() else Course()
    return Course() if found.status == "failed" else found


def _described(entry: Entry, course: Course) -> Outcome:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build(entry.recipe.method).encoder.parameters())
    return Outcome(
        entry.name, entry.variant, entry.family, entry.size, entry.recipe.seed, entry.fraction,
        entry.recipe.batch_size, parameters, gflops_per_image(entry.recipe), course, recipe=to_dict(entry.recipe),
    )  # fmt: skip


def _measure(
    found: Comparison,
    outcome: Outcome,
    entry: Entry,
    method: Method,
    directory: Path,
    probing: Probing,
    tasks: Sequence[str],
    few: tuple[Source, Source],
    many: tuple[Source, Source],
    controls: dict[ViTConfig, str],
) -> None:
    """The figures of a finished run, its curve, and its controls unless another run has brought the same."""
    seed = entry.recipe.seed
    before = method.encoder.untrained(seed)
    assert before is not None  # a method's encoder is one of ours
    own = controls[entry.recipe.method.encoder]
    known = {(control["row"], control["seed"]) for control in found.controls}
    has_controls = (own, seed) not in known
    more: dict[str, Any] = {"has_controls": has_controls, "name": outcome.name, "seed": seed}
    measured = probing.measure(method.encoder, *many, tasks, **more) if tasks else Evaluation(outcome.name)
    for figure in measured.document()["figures"]:
        name = {"untrained": own}.get(figure["row"], figure["row"])
        if figure["row"] == "encoder":
            outcome.figures.append(figure)
        elif (name, seed) not in known:
            found.controls.append({**figure, "row": name, "seed": seed})
        if figure["error"]:
            found.warnings.append(f"{outcome.name}, {figure['row']}: no {figure['task']}: {figure['error']}")
    found.warnings += [warning for warning in measured.warnings if warning not in found.warnings]
    if not entry.recipe.keep.milestones:
        return
    outcome.points = [_point(before, 0, 0.0, outcome, few, probing)]
    for checkpoint in Checkpoints(directory / "checkpoints", 1).milestones():
        state = storage.read_document(checkpoint, "state")
        encoder = read_method(checkpoint).encoder
        outcome.points.append(_point(encoder, state["step"], state["elapsed_s"], outcome, few, probing))


def _point(
    encoder: Encoder, step: int, seconds: float, outcome: Outcome, few: tuple[Source, Source], probing: Probing
) -> dict[str, float]:
    """One place of a curve."""
    images = step * outcome.batch_size
    point = {"step": step, "seconds": seconds, "images": images, "gflops": images * outcome.gflops_per_image}
    tasks = [task for task in CURVE_TASKS if task in probing.tasks]
    measured = probing.measure(encoder, *few, tasks, has_controls=False) if tasks else None
    for figure in measured.figures if measured else []:
        if figure.score is not None:
            point[f"{figure.task} {figure.question}"] = figure.score.value
    return point


def _compare_energies(
    outcome: Outcome, recipe: Recipe, trained: Method, held_out: Source, device: torch.device
) -> None:
    """What the untrained and the trained method say of pairs of one image, and of pairs whose target is another's."""
    with initial_weights(recipe.seed):
        untrained = build(recipe.method)
    health = Health(held_out, trained, PAIRS, recipe.seed)
    for when, method in (("before", untrained), ("after", trained)):
        same, another = health.energies(method.to(device), device)
        outcome.energies[when] = {"same": _short(same), "another": _short(another)}
        outcome.auroc[when] = auroc(same, another)


def _short(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]
