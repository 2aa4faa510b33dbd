"""The equal terms of a comparison: the same images to train and be tested on, the same probes, checked beforehand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openjepa import storage
from openjepa.comparison.outcome import RESULTS
from openjepa.comparison.plan import Entry
from openjepa.config import to_dict
from openjepa.data.part import Part, split
from openjepa.data.source import Source, open_source
from openjepa.errors import ConfigError, DataError, sentence
from openjepa.evaluation.record import Evaluation
from openjepa.evaluation.run import CACHE, cache_folder, evaluate
from openjepa.evaluation.sets import FEWEST, ImageSet
from openjepa.evaluation.task import pick
from openjepa.randomness import generator
from openjepa.training.progress import plan as length
from openjepa.training.run import refuse_another
from openjepa.vision.encoder import Encoder

TASKS = ("knn", "linear", "few_shot")
DENSE = "depth"
"""Measured too where the data has it."""
CURVE_TASKS = ("knn", "linear")
CURVE_TRAIN, CURVE_TEST = 10_000, 2_000
"""Images that a point of a curve is measured on, at most; the table's figures take all that it is given."""


@dataclass(frozen=True)
class Probing:
    """What the runs are measured with, the same for all."""

    tasks: tuple[str, ...] = TASKS
    most_train: int = 50_000
    """Labelled images that the table's probes learn from, at most."""
    most_test: int = 10_000
    cache: str | Path | None = CACHE
    device: str = "auto"
    workers: int | None = None

    def mistakes(self) -> list[str]:
        """Every setting that cannot be used, as sentences."""
        counts = {"probe_images": self.most_train, "test_images": self.most_test}
        return [sentence(name, given, f"must be from {FEWEST}") for name, given in counts.items() if given < FEWEST]

    def measure(self, encoder: Encoder, train: Source, test: Source, tasks: Sequence[str], **more: Any) -> Evaluation:
        """Figures of an encoder on two sets."""
        return evaluate(
            encoder, train, test, tasks=tasks, cache=self.cache, device=self.device, workers=self.workers, **more
        )


def check(
    entries: Sequence[Entry],
    tasks: Sequence[str],
    train: Source,
    many: tuple[Source, Source],
    out: Path,
    cache: str | Path | None,
) -> None:
    """ConfigError or DataError for what would come out after hours: tasks, labels, lengths, other runs in `out`."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError("compare runs in one process, one run at a time. Start it without torchrun.")
    cache_folder(cache)
    if tasks:
        refuse_unanswered(tasks, many)
    wrong = []
    for entry in entries:
        seen = share(train, entry.fraction)
        try:
            length(entry.recipe.length, entry.recipe.batch_size, seen)
            if (out / entry.name / "recipe.json").exists():
                refuse_another(out / entry.name, {"recipe": to_dict(entry.recipe), "data": seen.identity})
        except ConfigError as error:
            wrong += [f"{entry.variant}: {mistake}" for mistake in error.mistakes]
    if wrong:
        raise ConfigError(wrong)
    refuse_lesser(entries, out)


def refuse_lesser(entries: Sequence[Entry], out: Path) -> None:
    """ConfigError where the tables in `out` hold runs that these are without: they would be written over."""
    if not (out / RESULTS).exists():
        return
    before = {outcome["name"] for outcome in storage.read_document(out, Path(RESULTS).stem)["outcomes"]}
    if lost := sorted(before - {entry.name for entry in entries}):
        rule = f"holds a comparison of more runs ({', '.join(lost)}), whose tables would be written over"
        raise ConfigError(sentence("out", str(out), rule, "Take another --out, or ask for those runs too."))


def refuse_unanswered(tasks: Sequence[str], many: tuple[Source, Source]) -> None:
    """DataError where a task asks what the sets do not answer."""
    labelled = ImageSet(many[0], "data"), ImageSet(many[1], "test")
    mute = [task.name for task in pick(list(tasks)) if not task.questions(*labelled)]
    if mute:
        rule = f"have no answers for {', '.join(mute)}"
        remedy = "Give class folders, a label column or a set with maps, or other --tasks (none after it: no probes)."
        raise DataError(sentence("data and test", f"{many[0].identity}, {many[1].identity}", rule, remedy))


def sets(data: str | Source, test: str | Source | None) -> tuple[Source, Source]:
    """What is trained on, and what is tested on: `test`, or a fifth of `data`."""
    train = open_source(data) if isinstance(data, str) else data
    if test is None:
        return split(train, 0)
    return train, open_source(test) if isinstance(test, str) else test


def some(source: Source, most: int) -> Source:
    """At most so many images of a source, drawn once and for all."""
    if len(source) <= most:
        return source
    order = generator(0, "some").permutation(len(source))[:most]
    return Part(source, np.sort(order), f"{most} drawn")


def share(train: Source, fraction: float) -> Source:
    """The part of the training images that a run sees; smaller shares lie inside larger ones."""
    return train if fraction == 1 else some(train, max(1, round(fraction * len(train))))
