"""Sets that are odd: each oddity is an error in words, or a warning in results.json; and what tells sets apart."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from openjepa.data.part import Part, split
from openjepa.data.source import Item, Source, open_source
from openjepa.errors import DataError
from openjepa.evaluation.run import evaluate
from openjepa.evaluation.sets import ImageSet
from openjepa.evaluation.tasks.few_shot import FewShot
from openjepa.evaluation.tasks.knn import KNN
from openjepa.vision.callable import CallableEncoder
from openjepa.vision.vit import ViT


class Relabelled(Source):
    """The images of a folder with labels of our own."""

    def __init__(self, folder: Path, labels: list[int]) -> None:
        self.whole, self.given = open_source(str(folder)), np.array(labels)
        self.classes, self.identity = None, f"{folder} relabelled"

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Item:
        return self.whole[index]

    def labels(self) -> np.ndarray:
        return self.given


def document(encoder: Any, data: Any, test: Any, out: Path, **settings: Any) -> dict[str, Any]:
    """What results.json holds afterwards."""
    evaluate(encoder, data, test, out=out, **{"cache": None, "workers": 0, "tasks": ["knn"], **settings})
    return json.loads((out / "results.json").read_text())


def errors(found: dict[str, Any]) -> set[str]:
    return {figure["error"] for figure in found["figures"]}


def test_images_in_train_and_test_by_content(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    for kind, count in (("dark", 0), ("light", 30)):
        for path in sorted((other / kind).glob("*.png"))[:count]:
            path.rename(path.with_stem(f"renamed-{path.stem}"))
    found = document(encoder, str(folder), str(other), tmp_path)
    assert found["warnings"] == [f"60 of 60 test images of {other} are in {folder} too, by content"]
    train, test = split(open_source(str(folder)), 0)
    assert document(encoder, train, test, tmp_path)["warnings"] == []


def test_one_class_only(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    train, test = (
        Part(Relabelled(folder, [0] * 60), part.positions, "part") for part in split(open_source(str(folder)), 0)
    )
    found = document(encoder, train, test, tmp_path)
    (error,) = errors(found)
    assert "shows 1 class for the question 'class'; two are needed" in error


def test_no_labels(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / "plain").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "plain" / f"{number}.png")
    with pytest.raises(DataError, match=r"have no answers for knn: .*plain has no labels; .* has class\. Give class"):
        document(encoder, str(tmp_path / "plain"), str(folder), tmp_path)


def test_some_labels(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    labels = [number // 30 for number in range(60)]
    some = [-1 if number % 10 == 0 else label for number, label in enumerate(labels)]
    train, test = (Part(Relabelled(folder, some), np.arange(start, 60, 2), "half") for start in (0, 1))
    found = document(encoder, train, test, tmp_path)
    assert found["warnings"] == [f"class: 6 of 30 images of {train.identity} left out: they have no answer"]
    assert found["sets"][0]["questions"]["class"] == {"classes": 2, "train": 24, "test": 30}


def test_a_class_absent_from_train_or_from_test(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "dark", folder / "third")
    order = np.arange(90)
    train, test = (Part(open_source(str(folder)), order[part], "part") for part in (order < 60, order >= 30))
    found = document(encoder, train, test, tmp_path)
    assert "class: 1 classes of test are absent from train: third" in found["warnings"]
    assert "class: 1 classes of train are absent from test: dark" in found["warnings"]


def test_no_class_in_common(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for old, new in (("dark", "one"), ("light", "two")):
        shutil.copytree(folder / old, other / new)
    (error,) = errors(document(encoder, str(folder), str(other), tmp_path))
    assert error.startswith(f"test = '{other}': no image can be read and has, for 'class', a class that {folder} has")


def test_features_that_are_not_finite(folder: Path, tmp_path: Path) -> None:
    calls = [0]

    def broken(x: torch.Tensor) -> torch.Tensor:
        calls[0] += len(x)
        return x.mean(dim=(2, 3)) / 0

    found = document(
        CallableEncoder(broken, (32, 32)), str(folder), None, tmp_path, tasks=["knn", "linear", "few_shot"]
    )
    (error,) = {figure["error"] for figure in found["figures"] if figure["row"] == "encoder"}
    assert error.startswith("encoder = 'encoder': features of 48 of 48 images")
    assert all(figure["score"] is None for figure in found["figures"] if figure["row"] == "encoder")
    assert calls[0] == 1 + 48  # one look at the patch; train once, and test never


def test_more_neighbours_or_shots_than_images(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    settings = {"knn": KNN(k=(49,)), "few_shot": FewShot(shots="25")}
    found = document(encoder, str(folder), None, tmp_path, tasks=["knn", "few_shot"], settings=settings)
    few, many = sorted(errors(found))
    assert few == (
        "few_shot.shots = '25': is 25 images of each of 2 classes; train has 48. Ask for fewer, or use all labels."
    )
    assert many == "knn.k = (49,): must be 1 to the 48 labelled images of train. Try --knn.k 20."


def test_the_record_tells_what_was_evaluated(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    found = document(encoder, str(folder), None, tmp_path / "one", which="context", name="mine")
    assert found["encoder"] == "mine"
    assert found["settings"]["encoder"]["which"] == "context"
    assert found["settings"]["encoder"]["fingerprint"] == encoder.fingerprint()
    assert found["settings"]["device"] == str(encoder.mean.device) == "cpu"
    versions = found["settings"]["versions"]
    assert (versions["torch"], versions["python"]) == (torch.__version__, platform.python_version())
    assert versions["openjepa"]
    digests = [found["sets"][0][f"{role}_digest"] for role in ("data", "test")]
    assert len(set(digests)) == 2
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    moved = document(encoder, str(copy), None, tmp_path / "two")
    assert [moved["sets"][0][f"{role}_digest"] for role in ("data", "test")] == digests
    assert moved["settings"]["encoder"]["which"] == ""


def test_a_digest_is_of_content_and_not_of_order(folder: Path) -> None:
    whole = open_source(str(folder))
    order = np.arange(60)
    forth, back, fewer = (ImageSet(Part(whole, some, "part"), "data") for some in (order, order[::-1], order[:-1]))
    assert forth.digest == back.digest != fewer.digest
    Image.new("RGB", (20, 24), (9, 9, 9)).save(folder / "dark" / "00.png")
    assert ImageSet(str(folder), "data").digest != forth.digest
