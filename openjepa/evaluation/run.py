"""`evaluate`: an encoder and its controls on every task that the data has answers for; one table, one results.json.

Paper appendix A.2. Departs from it in standing raw pixels and the untrained architecture beside every figure.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
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
from openjepa.errors import ConfigError, DataError, Interrupted, OpenJepaError, sentence
from openjepa.evaluation.features import Extractor
from openjepa.evaluation.record import Evaluation, Figure, device_name, identity, versions
from openjepa.evaluation.sets import ImageSet, number_alike, overlap
from openjepa.evaluation.task import Row, Task, known, pick
from openjepa.vision.controls import RawPixels
from openjepa.vision.encoder import Encoder

CACHE = Path("~/.cache/openjepa/features")
RESULTS = "results.json"


def evaluate(
    encoder: Encoder,
    data: str | Source | Sequence[str | Source],
    test: str | Source | Sequence[str | Source] | None = None,
    *,
    tasks: Sequence[str] | None = None,
    settings: dict[str, Task] | None = None,
    name: str = "",
    which: str = "",
    seed: int = 0,
    cache: str | Path | None = CACHE,
    device: str = "auto",
    workers: int | None = None,
    out: str | Path | None = None,
    has_controls: bool = True,
    is_quiet: bool = True,
) -> Evaluation:
    """Measure frozen features of `encoder`, of raw pixels, and of the same architecture untrained.

    `data`, `test`: a labelled set each, or several in pairs, as `--data` takes them; without `test` one image in
    five is held out, drawn by `seed`. `tasks`: names, by default all that the data has answers for and that take no
    hours; `settings`: tasks with settings of their own. `name` and `which` (target or context) tell the encoder from
    others, for the record. `cache`: None keeps no features. `out` gets results.json, and the runs of tasks that train.
    `has_controls`: False measures the encoder alone. Raises ConfigError, DataError; a task that cannot be measured on
    a set is an entry with its `error`.
    """
    started = time.perf_counter()
    target = None if out is None else _made(Path(out))
    folder, where = cache_folder(cache), pick_device(device)
    tasks = [tasks] if isinstance(tasks, str) else tasks
    usual = [each for each, kind in known().items() if kind.is_usual]
    chosen = pick(usual if tasks is None else list(tasks), settings)
    pairs = _pairs(data, test, seed)
    found = Evaluation(encoder=name or type(encoder).__name__)
    found.settings = {
        "seed": seed, "tasks": {task.name: to_dict(task) for task in chosen},
        "encoder": {**identity(encoder), "which": which}, "device": device_name(where), "versions": versions(),
    }  # fmt: skip
    was_training = encoder.training
    every = _rows(encoder.eval(), seed, found) if has_controls else {"encoder": encoder.eval()}
    rows = {label: each.to(where).eval() for label, each in every.items()}
    with Progress(console=Console(stderr=True), transient=True, disable=is_quiet) as progress, torch.no_grad():
        extractor = Extractor(folder, where, num_workers(workers), progress)
        for train, held_out in pairs:
            pair = Row("encoder", encoder, train, held_out, extractor, seed, target)
            _evaluate_pair(found, pair, rows, chosen, progress, is_named=tasks is not None)
    found.warnings += extractor.warnings
    encoder.train(was_training)
    found.seconds = time.perf_counter() - started
    if target is not None:
        (target / RESULTS).write_text(json.dumps(found.document(), indent=1) + "\n")
    return found


def _evaluate_pair(
    found: Evaluation, pair: Row, rows: dict[str, Encoder], tasks: list[Task], progress: Progress, is_named: bool
) -> None:
    """Every row on every task of one pair of sets."""
    train, test = pair.train, pair.test
    for images in (train, test):
        images.look(progress)
    _describe(found, train, test)
    asked = {task: task.questions(train, test) for task in tasks}
    _complain(asked, train, test, is_named)
    for label, encoder in rows.items():
        row = replace(pair, name=label, encoder=encoder)
        for task, questions in asked.items():
            if label == "encoder" or task.fits(encoder):  # of a control that does not fit there is nothing to say
                found.figures += [_measure(task, row, question, progress) for question in questions]
    _warn_of_bad(found, pair.encoder, pair.extractor, train, test)


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


def cache_folder(given: str | Path | None) -> Path | None:
    """The folder for features. ConfigError where a file is in its way."""
    if given is None:
        return None
    folder = Path(os.path.expanduser(given))
    for each in (folder, *folder.parents):
        if os.path.exists(each) and not os.path.isdir(each):
            raise ConfigError(sentence("cache", str(given), f"{each} is a file", "Name a folder with --cache."))
    return folder


def _pairs(data: Any, test: Any, seed: int) -> list[tuple[ImageSet, ImageSet]]:
    trains = [data] if isinstance(data, (str, Source)) else list(data)
    if not trains:
        raise ConfigError(sentence("data", trains, "needs one set or more"))
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
    about: dict[str, Any] = {
        "data": train.identity, "test": test.identity, "data_digest": train.digest, "test_digest": test.digest,
        "questions": {},
    }  # fmt: skip
    found.sets.append(about)
    if shared := overlap(train, test):
        found.warnings.append(f"{shared} of {len(test)} test images of {test.spec} are in {train.spec} too, by content")
    named = number_alike(train, test)
    for question in sorted(named):
        one, other = (images.answers[question] for images in (train, test))
        seen, asked = (set(answers[answers >= 0].tolist()) for answers in (one, other))
        about["questions"][question] = {"classes": len(seen | asked), "train": int((one >= 0).sum()),
                                        "test": int((other >= 0).sum())}  # fmt: skip
        for images, answers in ((train, one), (test, other)):
            if unlabelled := int((answers < 0).sum()):
                where = f"{len(images)} images of {images.spec}"
                found.warnings.append(f"{question}: {unlabelled} of {where} left out: they have no answer")
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
    except Interrupted:  # the user wants it to end, not to go on with the next figure
        raise
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
