"""The errors openjepa raises on purpose, and the one sentence form that all of them speak.

::

    OpenJepaError
    |-- ConfigError        a setting is wrong: lists every mistake at once
    |-- DataError          images are missing, unreadable or of the wrong kind
    |-- CheckpointError    a checkpoint is torn, tampered with, or does not fit
    |-- TrainingError      the run itself went wrong: non-finite loss, collapse under --on-collapse stop
    `-- Interrupted        a signal stopped a run that something else was waiting for
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OpenJepaError(Exception):
    """Base of every error that openjepa raises on purpose; the command line prints it bare."""


class ConfigError(OpenJepaError):
    """One or more settings are wrong. `mistakes` holds a sentence for each."""

    def __init__(self, mistakes: str | Iterable[str]) -> None:
        self.mistakes = [mistakes] if isinstance(mistakes, str) else list(mistakes)
        super().__init__("\n".join(self.mistakes))


class DataError(OpenJepaError):
    """Images are missing, unreadable, or not of the kind the run needs."""


class CheckpointError(OpenJepaError):
    """A checkpoint is torn, tampered with, or does not belong to this model."""


class TrainingError(OpenJepaError):
    """The run cannot go on: the loss stays non-finite, or the representation collapsed."""


class Interrupted(OpenJepaError):
    """A signal stopped a run; the same call goes on from there."""


def sentence(what: str, given: object, rule: str, remedy: str = "") -> str:
    """The house form of an error: what was given, what is allowed, what to type.

    >>> sentence("patch", 5, "must divide the image size 32", "Try --encoder.patch 4.")
    'patch = 5: must divide the image size 32. Try --encoder.patch 4.'
    """
    return f"{what} = {given!r}: {rule}. {remedy}".rstrip()


def nearest(word: str, known: Iterable[str]) -> str:
    """'Did you mean X?' for the closest known word, or the list of what is known."""
    known = sorted(known)
    if not known:
        return "There is none."
    close = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."
