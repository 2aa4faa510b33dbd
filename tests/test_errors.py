"""Errors: one tree, one sentence form, and a remedy that names what is near."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa import errors
from openjepa.errors import ConfigError, OpenJepaError, nearest, sentence

words = st.text("abcdef_", min_size=1, max_size=8)


@pytest.mark.parametrize("name", ["ConfigError", "DataError", "CheckpointError", "TrainingError"])
def test_all_errors_are_ours_and_drawn(name: str) -> None:
    assert issubclass(getattr(errors, name), OpenJepaError)
    assert name in (errors.__doc__ or "")


def test_config_error_lists_every_mistake() -> None:
    error = ConfigError(sentence for sentence in ("a is wrong.", "b is wrong."))
    assert error.mistakes == ["a is wrong.", "b is wrong."]
    assert str(error) == "a is wrong.\nb is wrong."
    assert ConfigError("a is wrong.").mistakes == ["a is wrong."]


def test_config_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(ConfigError(["a is wrong.", "b is wrong."])))
    assert error.mistakes == ["a is wrong.", "b is wrong."]


def test_sentence() -> None:
    given, rule = "32px", "must be a whole number"
    assert sentence("patch", given, rule, "Try 4.") == "patch = '32px': must be a whole number. Try 4."
    assert sentence("patch", given, rule) == "patch = '32px': must be a whole number."


@given(st.sets(words, min_size=1), st.data())
@settings(max_examples=50, deadline=None)
def test_a_known_word_is_nearest_to_itself(known: set[str], data: st.DataObject) -> None:
    word = data.draw(st.sampled_from(sorted(known)))
    assert nearest(word, known) == f"Did you mean {word!r}?"


def test_nearest() -> None:
    known = ("momentum", "regulariser", "loss")
    assert nearest("momentun", known) == "Did you mean 'momentum'?"
    assert nearest("xyz", known) == "Known: loss, momentum, regulariser."
    assert nearest("xyz", iter(known)) == nearest("xyz", known)
    assert nearest("xyz", []) == "There is none."
