"""What every task promises, and what each of them measures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from openjepa.errors import ConfigError, DataError
from openjepa.evaluation.sets import ImageSet
from openjepa.evaluation.shots import drawn
from openjepa.evaluation.task import Row, Task, known, pick
from openjepa.evaluation.tasks import depth, segmentation
from openjepa.evaluation.tasks.few_shot import FewShot
from openjepa.evaluation.tasks.finetune import FineTuned
from openjepa.evaluation.tasks.knn import KNN
from openjepa.evaluation.tasks.linear import Linear
from openjepa.measure import lars, logistic
from openjepa.measure.lars_config import LarsConfig
from openjepa.measure.split import hold_out

QUICK: dict[str, Task] = {
    "linear": Linear(layers=(1, 2), strengths=(100.0, 1.0)),
    "few_shot": FewShot(shots="10%"),
    "finetune": FineTuned(
        change=("steps=40", "batch_size=16", "optim.lr=1e-2", "method.rand_magnitude=0.0", "method.layer_decay=1.0")
    ),
}


def made(name: str) -> Task:
    return QUICK.get(name, known()[name]())


# ------------------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize("name", known())
def test_a_figure_lies_in_its_interval_and_says_what_was_chosen(name: str, row: Row) -> None:
    task = made(name)
    questions = task.questions(row.train, row.test)
    assert questions
    score = task.measure(row, questions[0])
    assert math.isfinite(score.value)
    assert score.low <= score.value <= score.high
    assert score.low < score.high
    assert len(score.chosen) > 5
    assert score.layers >= 1
    assert task.about
    assert task.measure(row, questions[0]) == score


@pytest.mark.parametrize("name", known())
def test_nothing_of_the_test_set_reaches_a_choice(name: str, row: Row) -> None:
    task = made(name)
    if name == "knn":
        task = KNN(k=(1, 5, 20))
    question = task.questions(row.train, row.test)[0]
    honest = task.measure(row, question)
    test = ImageSet(row.test.source, "test")
    for name_of_answers, answers in test.answers.items():
        test.answers[name_of_answers] = answers.flip(0)
    for map_name in ("depth", "mask"):
        positions = np.arange(len(test))
        original = row.test.dense(map_name, row.encoder.image_size, positions)
        key = (map_name, row.encoder.image_size, positions.tobytes())
        test._dense[key] = original.flip(0)
    false = task.measure(replace(row, test=test), question)
    assert false.chosen == honest.chosen
    # one class guessed for all would be right as often: its interval would still differ
    assert (false.value, false.low, false.high) != (honest.value, honest.low, honest.high)


@pytest.mark.parametrize("name", ["knn", "linear", "lars", "few_shot"])
def test_a_class_that_only_test_has_counts_as_wrong_and_changes_no_choice(name: str, row: Row) -> None:
    small = LarsConfig(lrs=(0.1, 1.0), batch_size=64, epochs=3)
    task = Linear(solver="lars", layers=(1, 2), lars=small) if name == "lars" else made(name)
    honest = task.measure(row, "num_objects")
    test = ImageSet(row.test.source, "test")
    answers = test.answers["num_objects"]
    answers[::2] = 77  # no image of train is one
    found = task.measure(replace(row, test=test), "num_objects")
    assert found.chosen == honest.chosen
    assert found.value <= 0.5
    rest = ImageSet(row.test.source, "test")
    rest.answers["num_objects"][::2] = -1
    assert found.value == pytest.approx(task.measure(replace(row, test=rest), "num_objects").value / 2)


@pytest.mark.parametrize(
    "task",
    [
        KNN(k=()), KNN(k=(0,)), Linear(layers=(0,)), Linear(layers=(12,)), Linear(strengths=()), FewShot(draws=0),
        depth.Depth(strengths=()), depth.Depth(most_train=1), segmentation.Segmentation(strengths=(-1.0,)),
    ],
    ids=repr,
)  # fmt: skip
def test_settings_that_cannot_be_used(task: Task) -> None:
    with pytest.raises(ConfigError, match=f"{task.name}\\."):
        pick([task.name], {task.name: task})


def test_settings_go_to_the_task_they_are_for() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'knn'"):
        pick(["knn"], {"kn": KNN(k=(5,))})
    with pytest.raises(ConfigError, match="must be a KNN"):
        pick(["knn"], {"knn": Linear()})


@pytest.mark.parametrize("name", known())
def test_sets_without_answers_are_not_asked(name: str, row: Row, tmp_path: Path) -> None:
    from PIL import Image

    for number in range(12):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    plain = ImageSet(str(tmp_path), "data")
    assert made(name).questions(plain, row.test) == []


def test_names_are_looked_up() -> None:
    assert [task.name for task in pick(["linear", "knn"])] == ["linear", "knn"]
    with pytest.raises(ConfigError, match=r"task 'liner': unknown\. Did you mean 'linear'"):
        pick(["liner"])


# ------------------------------------------------------------------------------------------ the linear probe


def test_the_linear_probe_is_scikit_learns_on_the_same_split(row: Row) -> None:
    """Layers and strength by a held-out fifth, then one fit on all of train: the slow and obvious way."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    strengths = (100.0, 10.0, 1.0)
    score = Linear(layers=(1, 4), strengths=strengths).measure(row, "num_objects")
    held_out_scores, models = {}, {}
    for layers in (1, 4):
        train_x, train_y, test_x, test_y = (part[:].double().numpy() for part in row.labelled("num_objects", layers))
        held_out, kept = hold_out(row.labelled("num_objects")[1], row.seed)
        for l2 in strengths:

            def fitted(some: torch.Tensor, l2: float = l2) -> Any:
                regression = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=20_000)
                return make_pipeline(StandardScaler(), regression).fit(train_x[some], train_y[some])  # noqa: B023

            held_out_scores[layers, l2] = fitted(kept).score(train_x[held_out], train_y[held_out])
            models[layers, l2] = fitted(torch.arange(len(train_x))).score(test_x, test_y)
    best = max(held_out_scores, key=lambda key: held_out_scores[key])
    assert f"last {best[0]} of layers (1, 4), logistic regression, L2 {best[1]:g}:" in score.chosen
    assert f"{100 * held_out_scores[best]:.1f} %" in score.chosen
    assert score.value == pytest.approx(models[best], abs=5e-5)
    assert score.layers == best[0]


@pytest.mark.parametrize("solver", ["logistic", "lars"])
def test_losers_are_not_fitted_on_all_of_train(
    solver: Literal["logistic", "lars"], row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = (logistic, "_fit_path") if solver == "logistic" else (lars, "_fit")
    original, sizes = getattr(module, name), []

    def spied(x: Any, *rest: Any) -> Any:
        sizes.append(len(x) if solver == "logistic" else len(rest[1]))
        return original(x, *rest)

    monkeypatch.setattr(module, name, spied)
    small = LarsConfig(lrs=(0.1, 1.0), batch_size=64, epochs=3)
    Linear(solver=solver, layers=(1, 2, 4), strengths=(100.0, 1.0), lars=small).measure(row, "num_objects")
    assert sizes == [120, 120, 120, 150]


@pytest.mark.parametrize("solver", ["logistic", "lars"])
def test_where_nothing_can_be_held_out_the_first_settings_stand(solver: Literal["logistic", "lars"], row: Row) -> None:
    train = ImageSet(row.train.source, "data")
    train.answers["num_objects"][:] = -1
    train.answers["num_objects"][:3] = torch.arange(3)
    small = LarsConfig(lrs=(0.1, 1.0), batch_size=64, epochs=3)
    task = Linear(solver=solver, layers=(1, 2), strengths=(100.0, 1.0), lars=small)
    chosen = task.measure(replace(row, train=train), "num_objects").chosen
    assert chosen.startswith("last 1 of layers (1, 2)")
    assert chosen.endswith("no class has an image to hold out")


# ------------------------------------------------------------------------------------------ neighbours, few labels


def test_more_neighbours_than_images(row: Row) -> None:
    with pytest.raises(ConfigError, match=r"knn\.k = \(151,\): must be 1 to the 150 labelled images.*--knn\.k 20"):
        KNN(k=(151,)).measure(row, "num_objects")


def test_one_class_is_no_question(row: Row) -> None:
    train = ImageSet(row.train.source, "data")
    train.answers["num_objects"][:] = 1
    for task in (KNN(), Linear(), FewShot()):
        with pytest.raises(DataError, match="shows 1 class for the question 'num_objects'; two are needed"):
            task.measure(replace(row, train=train), "num_objects")


@pytest.mark.parametrize(("shots", "a_class"), [("4", 4), ("10%", 5), ("0.1%", 1)])
def test_draws_are_balanced_and_differ(row: Row, shots: str, a_class: int) -> None:
    labels = row.train.answers["num_objects"]
    draws = drawn(labels, shots, 3, row.seed, "few_shot.shots")
    assert len(draws) == 3
    for draw in draws:
        assert torch.bincount(labels[draw]).tolist() == [a_class] * 3
        assert len(draw.unique()) == len(draw)
    assert not torch.equal(draws[0], draws[1])
    again = drawn(labels, shots, 3, row.seed, "few_shot.shots")
    assert all(torch.equal(one, other) for one, other in zip(draws, again, strict=True))


@pytest.mark.parametrize("shots", ["many", "-1", "0%", "50", "100%"])
def test_shots_that_cannot_be_had(row: Row, shots: str) -> None:
    with pytest.raises(ConfigError, match=r"few_shot\.shots = "):
        FewShot(shots=shots).measure(row, "num_objects")


def test_a_list_names_the_images(row: Row, tmp_path: Path) -> None:
    names = tmp_path / "list.txt"
    names.write_text("\n".join(f"{index:06d}" for index in range(40)) + "\n")
    score = FewShot(list_file=names).measure(row, "num_objects")
    assert "40 labels listed in" in score.chosen
    assert score.spread is None
    names.write_text("000001\n999999\n")
    with pytest.raises(DataError, match="names 1 images that train does not have, or has more than once: 999999"):
        FewShot(list_file=names).measure(row, "num_objects")
    with pytest.raises(ConfigError, match="cannot be read"):
        FewShot(list_file=tmp_path / "none").measure(row, "num_objects")


# ------------------------------------------------------------------------------------------ dense


def test_intersection_over_union_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 3, (2, 5, 8, 8))
    truth[0, 0, 0] = segmentation.IGNORED
    counts = torch.stack([
        torch.tensor([3 * t + g for t, g in zip(a.ravel(), b.ravel(), strict=True) if t < 3]).bincount(minlength=9)
        for a, b in zip(truth, guess, strict=True)
    ])  # fmt: skip
    expected = []
    for label in range(3):
        asked = truth != segmentation.IGNORED
        hit = ((truth == label) & (guess == label) & asked).sum()
        expected.append(hit / (((truth == label) | (guess == label)) & asked).sum())
    found = segmentation.mean_iou(counts.sum(dim=0, keepdim=True))
    assert float(found) == pytest.approx(np.mean(expected))


def test_tokens_that_say_the_class_segment_without_error() -> None:
    masks = torch.zeros(6, 16, 16, dtype=torch.long)
    for number in range(6):
        masks[number, 4 * (number % 4) :, 4:8] = 1 + number % 2
    labels = segmentation.commonest(masks, 16, 3)
    assert labels.shape == (6, 16)
    weight, bias = 20 * torch.eye(3), torch.zeros(3)
    tokens = torch.nn.functional.one_hot(labels, 3).float()
    counts = segmentation.confusion((weight, bias), tokens, masks).sum(dim=0).reshape(3, 3)
    assert counts.sum() == 6 * 256
    assert counts.diagonal().sum() / counts.sum() > 0.9  # interpolation blurs the borders alone


def test_ignored_pixels_count_nowhere() -> None:
    masks = torch.full((1, 8, 8), segmentation.IGNORED)
    masks[0, :4, :4] = 1
    assert segmentation.commonest(masks, 4, 2).tolist() == [[1, -1, -1, -1]]
    counts = segmentation.confusion((torch.zeros(2, 3), torch.tensor([0.0, 1.0])), torch.zeros(1, 4, 3), masks)
    assert counts.tolist() == [[0, 0, 0, 16]]


def test_depth_errors_pixel_by_pixel() -> None:
    rng = np.random.default_rng(1)
    truth, guess = rng.uniform(2, 9, (2, 4, 5, 6))
    valid = rng.random((4, 5, 6)) < 0.8
    stats = depth.per_image(
        torch.from_numpy(guess).log().reshape(20, 6), torch.from_numpy(truth).log(), torch.from_numpy(valid)
    )
    for image in range(4):
        pairs = [(g, t) for g, t, v in zip(guess[image].flat, truth[image].flat, valid[image].flat, strict=True) if v]
        assert stats[image, 0] == pytest.approx(sum((g - t) ** 2 for g, t in pairs))
        assert stats[image, 1] == len(pairs)
        assert stats[image, 2] == sum(max(g / t, t / g) < 1.25 for g, t in pairs)
    expected = math.sqrt(((guess - truth)[valid] ** 2).mean())
    assert float(depth.rmse(stats.sum(dim=0, keepdim=True))) == pytest.approx(expected)


def test_tokens_tell_depth_better_than_its_mean(row: Row) -> None:
    score = depth.Depth().measure(row, "depth")
    assert score.value < score.more["rmse_of_the_mean"]
    assert score.more["delta_1.25"] > score.more["delta_1.25_of_the_mean"]
    assert 0.2 < score.more["rmse_of_the_mean"] < 20


def test_dense_maps_are_those_of_the_scene(row: Row) -> None:
    scene = row.test.source.scene(3)  # type: ignore[attr-defined]
    maps = row.test.source.dense(3)
    assert np.array_equal(maps["depth"], scene.depth)
    for number, solid in enumerate(scene.objects, start=1):
        where = scene.instances == number
        assert (maps["mask"][where] == 1 + ("sphere", "cube", "cylinder").index(solid.shape)).all()
    assert (maps["mask"][scene.instances == 0] == 0).all()
