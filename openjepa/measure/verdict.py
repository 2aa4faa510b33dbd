"""Is the run learning? A verdict in words, from what was measured so far and never from the loss alone.

The loss of a collapsing run looks splendid (it falls towards zero, since a constant is easy to predict). What gives
it away is measured on images: features of different images grow alike, or any pair has an energy of next to nothing,
and a true (context, target) pair has no lower energy than one whose target comes from another image. All limits are
relative to the untrained encoder, whose pooled features are alike to begin with; they were set on runs recorded in
LOG.md (2026-11-24).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SPREAD_LEFT = 1 / 3  # of the untrained std of target features: below, there is nothing left to tell apart
ENERGY_LEFT = 0.05  # of the untrained energy of false pairs: below, everything goes with everything
SPREAD_FALLING = 0.5  # of the untrained std of context features: the context encoder collapses first
RANK_FALLING = 0.4  # of the untrained effective rank
TELLS = 0.55  # AUROC of the energy above which it does tell true pairs from false ones; 0.5 is chance
PATIENCE = 3  # judgements without a gain before a run counts as stalled
PROBE_GAIN = 0.005  # accuracy; the probe's own standard error is about 0.01 on 2,000 images
AUROC_GAIN, RANK_GAIN = 0.005, 0.02  # AUROC; relative
# AUROC from which gains are no longer seen: a run four minutes long stood there, and one of thirty learnt far more
# (LOG.md, 2026-11-27, on I-JEPA)
ALL_TOLD = 0.98


@dataclass(frozen=True)
class Verdict:
    """One word and why."""

    word: str
    """untrained (before the first step), undecided (too early), learning, stalled, collapsing or collapsed."""
    reason: str

    @property
    def is_collapsed(self) -> bool:
        """True when nothing is left to learn from."""
        return self.word == "collapsed"

    @property
    def is_alarm(self) -> bool:
        """True when somebody should look."""
        return self.word in ("collapsing", "collapsed")


def judge(history: list[dict[str, float]], can_collapse: bool = True) -> Verdict:
    """The verdict on the last of a run's judgements; `history` begins with the untrained encoder's.

    Each judgement holds what `training.health` measures, and `knn` and `linear` where there are labels. A method whose
    targets do not follow from its own features (pixels) cannot collapse, and raises no alarm.
    """
    first, now = history[0], history[-1]
    if not all(math.isfinite(now[f"std_{name}"]) for name in ("context", "target")):
        return Verdict("collapsed", "features are not finite")
    if len(history) == 1:
        return Verdict("untrained", f"effective rank {now['rank_target']:.1f}, before the first step")
    if can_collapse and (alarm := alarmed(first, now)):
        return alarm
    tells = now["energy_auroc"]
    state = f"{telling(now)}; effective rank {now['rank_target']:.1f}, untrained {first['rank_target']:.1f}"
    probed = [judged for judged in history if "linear" in judged]
    gains = {name: probed[-1][name] - probed[0][name] for name in ("knn", "linear")} if probed else {}
    is_better = any(gain > PROBE_GAIN for gain in gains.values())
    is_worse = not is_better and any(gain < -PROBE_GAIN for gain in gains.values())
    if is_worse:
        falls = ", ".join(f"{name} {probed[0][name]:.1%} -> {probed[-1][name]:.1%}" for name in gains)
        word = "undecided" if len(history) <= PATIENCE else "stalled"
        return Verdict(word, f"accuracy fell below the first probe's ({falls}); {state}")
    if len(history) > PATIENCE and not has_gained(history):
        if not is_labelled(history) and tells >= ALL_TOLD:
            return Verdict("learning", f"{state}; only more probes on labels could tell whether it still gains")
        return Verdict("stalled", f"nothing better in the last {PATIENCE} judgements; {state}")
    if tells < TELLS and not is_better:
        return Verdict("undecided" if len(history) <= PATIENCE else "stalled", state)
    return Verdict("learning", state)


def alarmed(first: dict[str, float], now: dict[str, float]) -> Verdict | None:
    """Collapsed or collapsing, against the untrained encoder's judgement; None when neither."""
    spread = {name: now[f"std_{name}"] / max(first[f"std_{name}"], 1e-12) for name in ("context", "target")}
    rank = {name: now[f"rank_{name}"] / max(first[f"rank_{name}"], 1e-12) for name in ("context", "target")}
    tells, energies = now["energy_auroc"], telling(now)
    if tells < TELLS and spread["target"] < SPREAD_LEFT:
        return Verdict(
            "collapsed",
            f"features of different images differ by {spread['target']:.0%} of what they did untrained (cosine "
            f"{now['cosine_target']:.3f}); {energies}",
        )
    if tells < TELLS and now["energy_false"] < ENERGY_LEFT * first["energy_false"]:
        return Verdict(  # a head may say the same of every image while features still differ
            "collapsed",
            f"the energy of false pairs is {now['energy_false'] / first['energy_false']:.1%} of what it was untrained: "
            f"any target fits any context; {energies}",
        )
    if tells < TELLS and min(*spread.values()) < SPREAD_FALLING:
        return Verdict(
            "collapsing",
            f"the context encoder's features differ by {spread['context']:.0%} of what they did untrained, the target "
            f"encoder's by {spread['target']:.0%}; {energies}",
        )
    if min(*rank.values()) < RANK_FALLING:
        return Verdict(
            "collapsing",
            f"effective rank fell from {first['rank_target']:.1f} to {now['rank_context']:.1f} (context encoder) and "
            f"{now['rank_target']:.1f} (target encoder); {energies}",
        )
    return None


def telling(now: dict[str, float]) -> str:
    """How well the energy tells pairs apart, in words."""
    return f"energy tells true from false pairs with AUROC {now['energy_auroc']:.2f} (chance 0.50)"


def is_labelled(history: list[dict[str, float]]) -> bool:
    """True when accuracies are many enough to say whether a run gains; probes may be rarer than judgements."""
    return sum("linear" in judged for judged in history) > PATIENCE


def has_gained(history: list[dict[str, float]]) -> bool:
    """True when one of the last judgements beat all before it: in accuracy, or without labels in AUROC or rank."""
    part = [judged for judged in history if "linear" in judged] if is_labelled(history) else history
    old, new = part[:-PATIENCE], part[-PATIENCE:]

    def best(part: list[dict[str, float]], name: str) -> float:
        return max(judged[name] for judged in part)

    if is_labelled(history):
        return any(best(new, name) > best(old, name) + PROBE_GAIN for name in ("knn", "linear"))
    is_telling = best(new, "energy_auroc") > best(old, "energy_auroc") + AUROC_GAIN
    return is_telling or best(new, "rank_target") > best(old, "rank_target") * (1 + RANK_GAIN)
