"""Schedules, as pure functions of the run's progress t in 0..1 (paper appendix A.1).

The same t gives the same value, so resuming needs no replay and a schedule has no state to save.
"""

from __future__ import annotations

import math


def linear(t: float, start: float, end: float) -> float:
    """From `start` at t = 0 to `end` at t = 1."""
    return start + (end - start) * min(max(t, 0.0), 1.0)


def cosine(t: float, start: float, end: float) -> float:
    """Half a cosine from `start` at t = 0 to `end` at t = 1."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(t, 0.0), 1.0)))


def warmup_cosine(t: float, warmup: float, start: float, peak: float, end: float) -> float:
    """Linear from `start` to `peak` over the first `warmup` share of the run, then half a cosine to `end`."""
    if t < warmup:
        return linear(t / warmup, start, peak)
    return cosine((t - warmup) / max(1.0 - warmup, 1e-12), peak, end)
