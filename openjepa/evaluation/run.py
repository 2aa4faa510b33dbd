"""`evaluate`: an encoder and its controls on every task that the data has answers for; one table, one results.json.

Paper appendix A.2. Departs from it in standing raw pixels and the untrained architecture beside every figure.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from openjepa.config import to_dict
from openjepa.data.loader import num_workers
from openjepa.data.part import split
from openjepa.data.source import Source
from openjepa.distributed import pick_device
from openjepa.errors import ConfigError, DataError, OpenJepaError, sentence
from openjepa.evaluation.features import Extractor
from openjepa.evaluation.sets import ImageSet, number_alike, overlap
from openjepa.evaluation.task import Row, Score, Task, known, pick
from openjepa.vision.controls import RawPixels
from openjepa.vision.encoder import Encoder

CACHE = Path("~/.cache/openjepa/features")
RESULTS = "results.json"


@dataclass(frozen=True)
class Figure:
    """A score and where it belongs; or why there is none."""

    data: str
    test: str
    row: str
    task: str
    question: str
    score: Score | None
    error: str | None
    seconds: float


@dataclass
class Evaluation:
    """Every figure of an evaluation, and what to know when reading them."""

    encoder: str
    figures: list[Figure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sets: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def score(self, task: str, question: str | None = None, row: str = "encoder", data: str | None = None) -> Score:
        """The first score that fits. KeyError when there is none."""
        for figure in self.figures:
            is_asked = figure.task == task and figure.row == row and question in (None, figure.question)
            if is_asked and data in (None, figure.data) and figure.score is not None:
                return figure.score
        raise KeyError(f"no {task} of {row} (question {question}, data {data})")

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def evaluate(
    encoder: Encoder,
    data: str | Source | Sequence[str | Source],
    test: str | Source | Sequence[str | Source] | None = None,
    *,
    tasks: Sequence[str] | None = None,
    settings: dict[str, Task] | None = None,
    name: str = "",
    seed: int = 0,
    cache: str | Path | None = CACHE,
    device: str = "auto",
    workers: int | None = None,
    out: str | Path | None = None,
    is_quiet: bool = True,
) -> Evaluation:
    """Measure frozen features of `encoder`, of raw pixels, and of the same architecture untrained.

    `data`, `test`: a labelled set each, or several in pairs, as `--data` takes them; without `test` one image in
    five is held out, drawn by `seed`. `tasks`: names, by default all that the data has answers for; `settings`: tasks
    with settings of their own. `cache`: None keeps no features. `out` gets results.json. Raises ConfigError,
    DataError; a task that cannot be measured on a set is an entry with its `error`.
    """
    started = time.perf_counter()
    target = None if out is None else _made(Path(out))
    chosen = pick(list(known() if tasks is None else tasks), settings)
    pairs = _pairs(data, test, seed)
    found = Evaluation(encoder=name or type(encoder).__name__)
    found.settings = {
        "seed": seed,
        "tasks": {task.name: to_dict(task) for task in chosen},
        "encoder": identity(encoder),
    }
    was_training = encoder.training
    rows = {label: each.to(pick_device(device)).eval() for label, each in _rows(encoder.eval(), seed, found).items()}
    with Progress(console=Console(stderr=True), transient=True, disable=is_quiet) as progress, torch.no_grad():
        folder = None if cache is None else Path(os.path.expanduser(cache))
        extractor = Extractor(folder, pick_device(device), num_workers(workers), progress)
        for train, held_out in pairs:
            _evaluate_pair(found, train, held_out, rows, chosen, extractor, progress, seed, is_named=tasks is not None)
    encoder.train(was_training)
    found.seconds = time.perf_counter() - started
    if target is not None:
        (target / RESULTS).write_text(json.dumps(found.document(), indent=1) + "\n")
    return found


def identity(encoder: Encoder) -> dict[str, Any]:
    """What tells this encoder from others: its kind, its weights, what it takes and gives."""
    return {
        "kind": type(encoder).__name__, "fingerprint": encoder.fingerprint(), "image_size": list(encoder.image_size),
        "width": encoder.width, "depth": encoder.depth, "mean": encoder.mean.flatten().tolist(),
        "std": encoder.std.flatten().tolist(),
    }  # fmt: skip


def _evaluate_pair(
    found: Evaluation,
    train: ImageSet,
    test: ImageSet,
    rows: dict[str, Encoder],
    tasks: list[Task],
    extractor: Extractor,
    progress: Progress,
    seed: int,
    is_named: bool,
) -> None:
    """Every row on every task of one pair of sets."""
    for images in (train, test):
        images.look(progress)
    _describe(found, train, test)
    asked = {task: task.questions(train, test) for task in tasks}
    _complain(asked, train, test, is_named)
    for label, encoder in rows.items():
        row = Row(label, encoder, train, test, extractor, seed)
        found.figures += [_measure(task, row, question, progress) for task in asked for question in asked[task]]
    _warn_of_bad(found, rows["encoder"], extractor, train, test)


def _rows(encoder: Encoder, seed: int, found: Evaluation) -> dict[str, Encoder]:
    """The encoder and its controls, which come first."""
    rows: dict[str, Encoder] = {"raw pixels": RawPixels(encoder, patch_of(encoder))}
    before = encoder.untrained(seed)
    if before is None:
        found.warnings.append("no untrained control: only the weights of this encoder are known, not how it begins")
    else:
        rows["untrained"] = before
    return {**rows, "encoder": encoder}


def _made(path: Path) -> Path:
    """The directory, before an hour is spent on what it is to hold."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        rule = f"cannot be made: {error.strerror}"
        raise ConfigError(sentence("out", str(path), rule, "Take another --out.")) from None
    return path


def _pairs(data: Any, test: Any, seed: int) -> list[tuple[ImageSet, ImageSet]]:
    trains = [data] if isinstance(data, (str, Source)) else list(data)
    if not test:
        wholes = [ImageSet(each, "data") for each in trains]
        parts = [split(whole.source, seed) for whole in wholes]
        named = [(f"{whole.spec} (four fifths)", f"{whole.spec} (one fifth)") for whole in wholes]
        return [
            (ImageSet(a, "data", of_a), ImageSet(b, "test", of_b))
            for (a, b), (of_a, of_b) in zip(parts, named, strict=True)
        ]
    tests = [test] if isinstance(test, (str, Source)) else list(test)
    if not trains or len(trains) != len(tests):
        rule = f"needs one set for each of --data, which has {len(trains)}"
        raise ConfigError(sentence("test", [str(each) for each in tests], rule))
    return [(ImageSet(a, "data"), ImageSet(b, "test")) for a, b in zip(trains, tests, strict=True)]


def patch_of(encoder: Encoder) -> int:
    """Side of a patch of the encoder in pixels, seen from what it gives; the whole image for one vector an image."""
    with torch.no_grad():
        size = encoder.image_size
        blank = torch.zeros(1, encoder.channels, *size, dtype=torch.uint8, device=encoder.mean.device)
        rows, columns = encoder(blank).grid
    return max(1, min(size[0] // rows, size[1] // columns))


def _describe(found: Evaluation, train: ImageSet, test: ImageSet) -> None:
    """What the sets are, and what is odd about them."""
    about: dict[str, Any] = {"data": train.identity, "test": test.identity, "questions": {}}
    found.sets.append(about)
    if shared := overlap(train, test):
        found.warnings.append(f"{shared} of {len(test)} test images of {test.spec} are in {train.spec} too, by content")
    named = number_alike(train, test)
    for question in sorted(named):
        one, other = (images.answers[question] for images in (train, test))
        seen, asked = (set(answers[answers >= 0].tolist()) for answers in (one, other))
        about["questions"][question] = {"classes": len(seen | asked), "train": int((one >= 0).sum()),
                                        "test": int((other >= 0).sum())}  # fmt: skip
        for missing, there, here in ((asked - seen, "test", "train"), (seen - asked, "train", "test")):
            if missing:
                shown = ", ".join(named[question][number] for number in sorted(missing)[:5])
                found.warnings.append(f"{question}: {len(missing)} classes of {there} are absent from {here}: {shown}")


def _complain(asked: dict[Task, list[str]], train: ImageSet, test: ImageSet, is_named: bool) -> None:
    """DataError when nothing can be asked, or when a task that was named cannot."""
    mute = [task.name for task, questions in asked.items() if not questions]
    if len(mute) == len(asked) or (mute and is_named):
        has = "; ".join(f"{images.spec} has {', '.join(images.answers) or 'no labels'}" for images in (train, test))
        rule = f"have no answers for {', '.join(mute)}: {has}"
        remedy = "Give class folders, a label column, a set with maps, or other --tasks."
        raise DataError(sentence("data and test", f"{train.spec}, {test.spec}", rule, remedy))


def _measure(task: Task, row: Row, question: str, progress: Progress) -> Figure:
    started = time.perf_counter()
    line = progress.add_task(f"{row.name}: {task.name}, {question}", total=None)
    if not (progress.disable or progress.console.is_terminal):  # a bar shows on terminals only
        progress.console.print(f"{row.name}: {task.name}, {question} ...", markup=False)
    score, error = None, None
    try:
        score = task.measure(row, question)
    except OpenJepaError as problem:
        error = str(problem)
    progress.remove_task(line)
    return Figure(
        row.train.spec, row.test.spec, row.name, task.name, question, score, error, time.perf_counter() - started
    )


def _warn_of_bad(found: Evaluation, encoder: Encoder, extractor: Extractor, *sets: ImageSet) -> None:
    for images in sets:
        bad = extractor.bad_images(encoder, images)
        if bad:
            shown = "; ".join(f"{name} ({reason})" for name, reason in bad[:5])
            found.warnings.append(f"{len(bad)} of {len(images)} images of {images.spec} left out: {shown}")
