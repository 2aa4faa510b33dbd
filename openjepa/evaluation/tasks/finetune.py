"""Fine-tuning end to end (paper appendices A.2 and D): all labels, or few of them (table 2).

For encoders of ours, released I-JEPA weights among them: others know no training. Each draw is a run of its own, which
resumes as pretraining does. The control is the same architecture trained on the same labels from scratch.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openjepa import recipes
from openjepa.config import settings_from
from openjepa.data.answered import Answered
from openjepa.errors import ConfigError, sentence
from openjepa.evaluation.shots import drawn, listed
from openjepa.evaluation.task import ClassTask, Row, Score, at_least_one
from openjepa.measure.bootstrap import accuracy_interval
from openjepa.methods.finetune import FineTuneConfig
from openjepa.training.finetune import classify, finetune
from openjepa.training.recipe import Recipe
from openjepa.vision.encoder import Encoder
from openjepa.vision.vit import ViT

TAKEN = ("seed", "speed.device", "speed.workers", "method.encoder", "method.num_classes", "method.class_names")
"""Settings of a recipe that are not for the user of this task to give."""


@dataclass(frozen=True)
class FineTuned(ClassTask):
    """All weights learn from the labels."""

    name = "finetune"
    about = "all weights trained on all labels, or on few (minutes to hours: only when named)"
    is_usual = False

    recipe: str = "finetune_small"
    """Named settings; `openjepa recipes` lists them."""
    change: tuple[str, ...] = ()
    """Settings of the recipe to change, such as epochs=50 method.mixup=0.8 optim.lr=5e-4."""
    shots: str | None = None
    """Labels to learn from: a share such as 1%, or a number of images a class such as 5; by default all."""
    draws: int = 3
    """Independent draws of few labels; with all labels there is one run."""
    list_file: Path | None = None
    """Text file that names the labelled images, one a line, in place of drawing them."""

    def mistakes(self) -> list[str]:
        wrong = at_least_one("finetune.draws", (self.draws,))
        try:
            own = [name for name in settings_from(self.change) if name.startswith(TAKEN)]
            if own:
                rule = "come from the encoder, the data and the evaluation"
                wrong.append(sentence("finetune.change", own, rule, "Leave them out."))
            recipe = self.settings(0)
            if not isinstance(recipe.method, FineTuneConfig):
                rule, remedy = "is no recipe of fine-tuning", "Try finetune_small; `openjepa recipes` lists them."
                return [*wrong, sentence("finetune.recipe", self.recipe, rule, remedy)]
            recipe.check()
        except ConfigError as error:
            wrong += error.mistakes
        return wrong

    def settings(self, seed: int) -> Recipe:
        """The recipe as it was asked for. ConfigError for an unknown name or setting."""
        return replace(recipes.with_settings(recipes.get(self.recipe), settings_from(self.change)), seed=seed)

    def fits(self, encoder: Encoder) -> bool:
        return isinstance(encoder, ViT)

    def measure(self, row: Row, question: str) -> Score:
        if not isinstance(row.encoder, ViT):
            rule = "cannot be fine-tuned: only encoders of openjepa and released I-JEPA weights can"
            raise ConfigError(sentence("encoder", type(row.encoder).__name__, rule, "Leave out the task finetune."))
        answers, num_classes = row.train.answers[question].numpy(), row.num_classes(question)
        labelled = row.positions(question)  # those that can be read, as for every other task
        subsets = self._subsets(row, labelled, torch.from_numpy(answers[labelled]))
        asked = np.flatnonzero(row.test.answers[question].numpy() >= 0)
        truth = row.test.answers[question][asked]
        correct = []
        for number, subset in enumerate(subsets):
            positions = labelled[subset.numpy()]
            data = Answered(row.train.source, positions, answers[positions], question)
            guess = self._guess(row, data, asked, question, number)
            is_read = guess >= 0  # the same images every time
            correct.append((torch.from_numpy(guess[is_read]) == truth[is_read]).double())
        accuracies = torch.stack(correct).mean(dim=1)
        low, high = accuracy_interval(torch.stack(correct).mean(dim=0), row.seed)
        spread = float(accuracies.std()) if len(subsets) > 1 else None
        which = "all" if len(subsets[0]) == len(labelled) else f"{len(subsets)} x"
        chosen = f"{which} {len(subsets[0])} labels of {num_classes} classes; settings of {self.recipe}"
        chosen += f", {' '.join(self.change)}" if self.change else ""
        chosen += ", none chosen here"
        return Score("accuracy", float(accuracies.mean()), low, high, chosen, 1, row.encoder.pooling, spread)

    def _subsets(self, row: Row, labelled: np.ndarray, labels: Tensor) -> list[Tensor]:
        """Places among the labelled images, one tensor a run."""
        if self.list_file is not None:
            return [listed(row.train, labelled, self.list_file, "finetune.list_file")]
        if self.shots is not None:
            return drawn(labels, self.shots, self.draws, row.seed, "finetune.shots")
        return [torch.arange(len(labelled))]

    def _guess(self, row: Row, data: Answered, asked: np.ndarray, question: str, number: int) -> np.ndarray:
        """Classes of the test images at `asked`, -1 where unreadable, by a classifier trained on `data`."""
        assert isinstance(row.encoder, ViT)
        recipe = self.settings(row.seed + number)
        speed = replace(recipe.speed, device=str(row.extractor.device), workers=row.extractor.workers)
        with tempfile.TemporaryDirectory() as nowhere, row.extractor.aside() as is_quiet, torch.enable_grad():
            # named by what it is made of: another encoder or set is another run
            digest = hashlib.blake2b(f"{row.encoder.fingerprint()} {row.train.digest}".encode()).hexdigest()[:8]
            out = Path(nowhere) if row.out is None else row.out / "finetune"
            out /= f"{row.name} {question} {digest} {number}".replace(" ", "-")
            tuned = finetune(
                row.encoder, data, replace(recipe, speed=speed), out, names=row.train.names.get(question, ()),
                is_quiet=is_quiet,
            )  # fmt: skip
        device, workers = str(row.extractor.device), row.extractor.workers
        guess, bad = classify(tuned, row.test.source, asked.tolist(), device, workers)
        warning = f"finetune, {question}: {len(bad)} of {len(asked)} images of {row.test.spec} could not be read"
        if bad and warning not in row.extractor.warnings:
            row.extractor.warnings.append(warning)
        return guess
