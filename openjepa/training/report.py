"""What the loop says while it runs: a line of metrics an interval, a judgement now and then."""

from __future__ import annotations

import time
from typing import Any

import torch

from openjepa import distributed
from openjepa.errors import TrainingError
from openjepa.journal import duration
from openjepa.measure.verdict import Verdict, judge
from openjepa.training.state import Interval, Run


def report(run: Run, interval: Interval, t: float) -> None:
    """One line of metrics. The only place where the loop waits for the device."""
    count = len(interval.logs)
    is_skipped = torch.stack(interval.is_skipped).cpu().tolist()
    for skipped, names in zip(is_skipped, interval.names, strict=True):
        run.skipped_in_row = run.skipped_in_row + 1 if skipped else 0
        if skipped:
            run.journal.record("skipped", run.step, {"in_row": run.skipped_in_row, "names": names})
        if run.skipped_in_row >= run.recipe.watch.max_skipped:
            raise TrainingError(
                f"loss or gradient was not finite for {run.skipped_in_row} steps in a row; the weights "
                f"are those before. The last batch held: {', '.join(names[:20])}. Lower --optim.lr, or "
                "set --optim.clip 1, in another --out."
            )
    kept = [log for log, skipped in zip(interval.logs, is_skipped, strict=True) if not skipped]
    means = {name: float(torch.stack([log[name].float() for log in kept]).mean()) for name in (kept or [{}])[0]}
    spent = time.perf_counter() - interval.started
    elapsed_s = distributed.agree_max(run.elapsed_s)
    run.progress.follow_clock(run.step, elapsed_s, (elapsed_s - run.startup_s) / run.step)
    train_s = spent - interval.data_s - interval.probe_s - interval.save_s
    img_per_s = count * run.recipe.batch_size / spent
    values: dict[str, Any] = {
        "t": round(t, 6),
        "images": run.step * run.recipe.batch_size,
        **means,
        **epoch(run),
        "lr": run.recipe.optim.lr_at(t),
        "weight_decay": run.recipe.optim.weight_decay_at(t),
        "skipped": sum(is_skipped),
        "img_per_s": round(img_per_s, 2),
        "data_share": round(interval.data_s / spent, 4),
        "step_share": round(train_s / spent, 4),
        "probe_share": round(interval.probe_s / spent, 4),
        "elapsed_s": round(run.elapsed_s, 2),
    }
    run.journal.record("train", run.step, values)
    run.journal.show(run.progress.t(run.step), status(run, values))
    if sum(is_skipped):
        run.journal.warn(f"step {run.step}: {sum(is_skipped)} of the last {count} steps skipped, not finite")


def epoch(run: Run) -> dict[str, float]:
    """Passes over the data so far; nothing for a stream, whose length may be unknown."""
    if run.steps.source.is_sequential:
        return {}
    return {"epoch": round(run.step * run.recipe.batch_size / run.steps.num_images, 3)}


def status(run: Run, values: dict[str, Any]) -> str:
    """The one line that a person follows."""
    total = run.progress.total_steps()
    left = ""
    if total is not None:
        images_left = (total - run.step) * run.recipe.batch_size
        left = f"{duration(images_left / max(values['img_per_s'], 1e-9))} left  "
    loss = f"loss {values['loss']:.4f}  " if "loss" in values else "loss not finite  "
    verdict = "" if run.verdict is None else f"{run.verdict.word}  "
    return (
        f"step {run.step}  {values['img_per_s']:.0f} img/s  {left}{loss}{verdict}"
        f"time: data {values['data_share']:.0%} step {values['step_share']:.0%} "
        f"probe {values['probe_share']:.0%}"
    )


def judgement(run: Run, is_last: bool = False) -> float:
    """Measure the representation and say what it means; seconds spent. First rank only, the rest wait."""
    started = time.perf_counter()
    if run.health is not None:
        device = run.world.device
        found = run.health.measure(run.method, device)
        if run.probe is not None and (is_last or has_time_to_probe(run)):
            probing = time.perf_counter()
            scores = run.probe.measure(run.method.encoder)
            run.probe_s.append(time.perf_counter() - probing)
            found |= scores
            if not run.controls:
                run.controls["pixels"] = run.probe.measure_pixels()
                before = run.method.encoder.untrained(run.recipe.seed)
                assert before is not None  # a method's encoder is one of ours
                run.controls["untrained"] = scores if run.step == 0 else run.probe.measure(before.to(device))
        run.history.append({"step": run.step, **found})
        run.verdict = judge(run.history, run.method.can_collapse)
        controls = {f"{k}_{name}": v for name, s in run.controls.items() for k, v in s.items()}
        words = {"verdict": run.verdict.word, "reason": run.verdict.reason}
        run.journal.record("probe", run.step, {**found, **controls, **words})
        speak(run, found)
    is_collapsed = run.world.is_first and run.verdict is not None and run.verdict.is_collapsed
    if distributed.agree_max(float(is_collapsed)) and not run.world.is_first:
        run.verdict = Verdict("collapsed", "seen on the first process")
    return time.perf_counter() - started


def has_time_to_probe(run: Run) -> bool:
    """Whether one more labelled probe stays within its share of the clock. Only runs in minutes pay for probes with
    training; the first one is free, or the figure for the untrained encoder would be missing."""
    if run.progress.minutes is None or not run.probe_s:
        return True
    return sum(run.probe_s[1:]) + run.probe_s[-1] <= run.recipe.watch.max_probe_share * run.elapsed_s


def speak(run: Run, found: dict[str, float]) -> None:
    """The judgement as two lines for people; a collapse is a warning."""
    assert run.verdict is not None
    if "knn" in found:
        pixel, untrained = run.controls["pixels"], run.controls["untrained"]
        run.journal.say(
            f"step {run.step}: 20-NN {found['knn']:.1%}, linear {found['linear']:.1%} "
            f"(untrained {untrained['knn']:.1%}, {untrained['linear']:.1%}; "
            f"pixels {pixel['knn']:.1%}, {pixel['linear']:.1%})"
        )
    say = run.journal.warn if run.verdict.is_alarm else run.journal.say
    remedy = f". {run.method.remedy}" if run.verdict.is_collapsed else ""
    say(f"step {run.step}: {run.verdict.word}: {run.verdict.reason}{remedy}")
