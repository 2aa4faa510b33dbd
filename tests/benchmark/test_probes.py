"""The probes' benchmark measures the real probes, and sees memory that is taken."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from openjepa.benchmark import probes


def test_both_probes_are_measured(monkeypatch):
    monkeypatch.setattr(probes, "NUM_CLASSES", 5)
    found = probes.measure(3000)
    assert len(found) == 2
    assert found["20-NN"][0] > 0.5, "the classes can be told apart"
    assert all(0 <= accuracy <= 1 and seconds > 0 for accuracy, seconds, _ in found.values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel of Linux")
def test_memory_that_is_taken_is_seen():
    with probes.watched() as peak:
        room = np.ones(8_000_000)
        room += 1
    assert 50 < peak[0] < 120
