"""Is the run learning? A verdict in words, from what was measured so far and never from the loss alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """One word and why."""

    word: str
    """learning, stalled, collapsing or collapsed."""
    reason: str

    @property
    def is_collapsed(self) -> bool:
        """True when nothing is left to learn from."""
        return self.word == "collapsed"

    @property
    def is_alarm(self) -> bool:
        """True when somebody should look."""
        return self.word in ("collapsing", "collapsed")


def judge(history: list[dict[str, float]]) -> Verdict:
    h = history[-1]
    return Verdict("learning", " ".join(f"{k}={v:.4g}" for k, v in h.items()))
