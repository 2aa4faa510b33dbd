"""Each verdict from the figures that call for it."""

from __future__ import annotations

from openjepa.measure.verdict import judge

UNTRAINED = {
    "step": 0.0, "rank_context": 7.0, "rank_target": 7.0, "std_context": 0.13, "std_target": 0.13,
    "cosine_context": 0.97, "cosine_target": 0.97, "energy_true": 0.45, "energy_false": 0.45, "energy_auroc": 0.5,
}  # fmt: skip


def after(**changes: float) -> dict[str, float]:
    return {**UNTRAINED, **changes}


def test_the_first_is_untrained() -> None:
    assert judge([UNTRAINED]).word == "untrained"


def test_features_grown_alike_are_collapsed() -> None:
    verdict = judge([UNTRAINED, after(std_context=0.007, std_target=0.007, cosine_target=0.9999)])
    assert verdict.word == "collapsed"
    assert verdict.is_collapsed
    assert verdict.is_alarm
    assert "0.50" in verdict.reason


def test_the_context_encoder_alone_is_collapsing() -> None:
    verdict = judge([UNTRAINED, after(std_context=0.036, std_target=0.11)])
    assert verdict.word == "collapsing"
    assert verdict.is_alarm


def test_little_spread_is_no_alarm_while_energies_tell() -> None:
    assert judge([UNTRAINED, after(std_context=0.036, std_target=0.03, energy_auroc=0.8)]).word == "learning"


def test_energies_of_nothing_are_collapsed_whatever_the_features() -> None:
    verdict = judge([UNTRAINED, after(std_context=0.4, std_target=0.4, energy_true=0.002, energy_false=0.002)])
    assert verdict.is_collapsed
    assert "0.4% of what it was untrained" in verdict.reason
    assert not judge([UNTRAINED, after(energy_true=0.03, energy_false=0.03)]).is_alarm
    assert judge([UNTRAINED, after(energy_true=0.001, energy_false=0.002, energy_auroc=0.8)]).word == "learning"


def test_a_fallen_rank_is_collapsing() -> None:
    assert judge([UNTRAINED, after(rank_target=2.0, std_target=0.4, energy_auroc=0.8)]).word == "collapsing"


def test_not_a_number_is_collapsed() -> None:
    assert judge([UNTRAINED, after(std_target=float("nan"))]).word == "collapsed"


def test_gains_are_learning_and_none_are_stalled() -> None:
    gaining = [after(energy_auroc=0.5 + 0.05 * n, std_target=0.3) for n in range(7)]
    assert judge(gaining).word == "learning"
    flat = [*gaining, *[gaining[-1]] * 3]
    assert judge(flat).word == "stalled"
    assert judge(flat[:-1]).word == "learning"


def test_labels_decide_where_there_are_any() -> None:
    figures = [after(energy_auroc=0.5 + 0.05 * n, knn=0.3, linear=0.4) for n in range(7)]
    assert judge(figures).word == "stalled"
    figures[-1]["linear"] = 0.42
    assert judge(figures).word == "learning"


def test_without_labels_a_run_that_tells_all_pairs_apart_is_not_called_stalled() -> None:
    told = [UNTRAINED, *[after(energy_auroc=0.99)] * 6]
    verdict = judge(told)
    assert verdict.word == "learning"
    assert "only more probes on labels could tell" in verdict.reason
    assert judge([UNTRAINED, *[after(energy_auroc=0.97)] * 6]).word == "stalled"
    probed = [{**each, "knn": 0.4, "linear": 0.5} for each in told]
    assert judge(probed).word == "stalled"
    assert judge([*told[:-2], *probed[-2:]]).word == "learning"  # too few probes to say


def test_energies_that_never_tell_are_stalled() -> None:
    ranks = [after(rank_target=7.0 + n, energy_auroc=0.51) for n in range(5)]
    assert judge(ranks).word == "stalled"


def test_a_method_that_cannot_collapse_raises_no_alarm():
    low = after(std_context=0.007, std_target=0.007, rank_target=1.0, cosine_target=0.9999)
    assert judge([UNTRAINED, low]).is_alarm
    assert not judge([UNTRAINED, low], can_collapse=False).is_alarm


def test_accuracies_below_the_first_are_no_learning_whatever_the_energies_tell() -> None:
    before = {**UNTRAINED, "knn": 0.33, "linear": 0.53}
    worse = after(energy_auroc=0.99, knn=0.25, linear=0.40)
    unprobed = after(energy_auroc=0.99)
    assert judge([before, worse]).word == "undecided"
    verdict = judge([before, *[unprobed] * 3, worse])
    assert verdict.word == "stalled"
    assert "knn 33.0% -> 25.0%, linear 53.0% -> 40.0%" in verdict.reason
    assert judge([before, *[unprobed] * 2, {**worse, "linear": 0.55}]).word == "learning"
