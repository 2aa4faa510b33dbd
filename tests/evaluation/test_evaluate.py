"""An evaluation as a whole: controls, cache, warnings, several sets, bad input, the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import openjepa
from openjepa import cli
from openjepa.data.part import split
from openjepa.data.source import open_source
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation.features import Extractor
from openjepa.evaluation.run import evaluate, patch_of
from openjepa.evaluation.sets import ImageSet
from openjepa.evaluation.tasks.few_shot import FewShot
from openjepa.evaluation.tasks.linear import Linear
from openjepa.vision.callable import CallableEncoder
from openjepa.vision.controls import RawPixels, pixels
from openjepa.vision.vit import ViT

SCENES = "scenes?num_images={}&size=32&seed={}&max_objects=3"
ROWS = ["raw pixels", "untrained", "encoder"]


def test_every_figure_has_its_controls(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    found = evaluate(encoder, str(folder), tasks=["knn", "linear"], cache=None, workers=0, out=tmp_path / "out")
    assert [(f.row, f.task) for f in found.figures] == [(row, task) for row in ROWS for task in ("knn", "linear")]
    assert found.score("linear").value > 0.8  # dark against light
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["figures"][0]["score"]["metric"] == "accuracy"
    assert document["sets"][0]["questions"]["class"] == {"classes": 2, "train": 48, "test": 12}
    assert document["settings"]["tasks"]["knn"]["k"] == [20]
    assert document["seconds"] > 0
    assert document["settings"]["encoder"]["fingerprint"] == encoder.fingerprint()


def test_scenes_are_asked_everything(encoder: ViT) -> None:
    settings = {"linear": Linear(layers=(1,), strengths=(100.0,)), "few_shot": FewShot(shots="10")}
    data, test = SCENES.format(120, 1), SCENES.format(60, 2)
    found = evaluate(encoder, data, test, settings=settings, cache=None, workers=0)
    asked = {(f.task, f.question) for f in found.figures}
    questions = ("num_objects", "shape_of_largest", "distance_bin")
    assert asked == {(task, q) for task in ("knn", "linear", "few_shot") for q in questions} | {
        ("depth", "depth"), ("segmentation", "mask"),
    }  # fmt: skip
    assert all(figure.error is None for figure in found.figures)
    assert found.warnings == []


def test_features_are_computed_once_and_kept_by_content(
    encoder: ViT, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]
    original = ViT.features

    def counted(self: ViT, images: torch.Tensor, num_layers: int) -> object:
        calls[0] += len(images)
        return original(self, images, num_layers)

    monkeypatch.setattr(ViT, "features", counted)
    cache = tmp_path / "cache"
    first = evaluate(encoder, str(folder), tasks=["knn", "linear"], cache=cache, workers=0)
    assert calls[0] == 2 * 60 + 1  # encoder and untrained, and one look at the patch
    elsewhere = tmp_path / "copy"
    shutil.copytree(folder, elsewhere)
    calls[0] = 0
    again = evaluate(encoder, str(elsewhere), tasks=["knn", "linear"], cache=cache, workers=0)
    assert calls[0] == 1
    assert [f.score for f in again.figures] == [f.score for f in first.figures]
    Image.new("RGB", (20, 24), (9, 9, 9)).save(elsewhere / "dark" / "00.png")
    evaluate(encoder, str(elsewhere), tasks=["knn"], cache=cache, workers=0)
    assert calls[0] > 60  # another image: another set
    assert not list(cache.glob(".*"))


def test_features_are_those_of_the_encoder(encoder: ViT, folder: Path) -> None:
    images = ImageSet(str(folder), "data")
    found = Extractor(None, torch.device("cpu"), 2).pooled(encoder, images, "encoder")
    from openjepa.data.loader import labelled_images

    crops = torch.from_numpy(labelled_images(images.source, range(60), encoder.image_size, 3)[0])
    for layers in (1, 4):
        torch.testing.assert_close(found.concatenated(layers), encoder(crops, layers).pooled, rtol=0, atol=1e-5)
    raw = RawPixels(encoder, 8)
    torch.testing.assert_close(raw(crops).pooled, pixels(crops))
    assert raw(crops).tokens.shape == (60, 16, 192)


def test_test_images_seen_in_training_are_counted(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    rng = np.random.default_rng(5)
    for path in sorted(other.glob("*/*.png"))[5:]:
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(path)
    found = evaluate(encoder, str(folder), str(other), tasks=["knn"], cache=None, workers=0)
    assert any(warning.startswith("5 of 60 test images") for warning in found.warnings)


def test_classes_that_one_side_lacks_and_bad_images_are_said(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    extra = folder / "neither"
    shutil.copytree(folder / "dark", extra)
    (folder / "dark" / "03.png").write_bytes(b"rubbish")
    train, test = split(open_source(str(folder)), 0)
    labels = train.whole.labels()
    assert labels is not None
    train.positions = train.positions[labels[train.positions] != 2]
    found = evaluate(encoder, train, test, tasks=["knn"], cache=None, workers=0)
    assert any("class: 1 classes of test are absent from train: neither" in warning for warning in found.warnings)
    assert any("1 of" in warning and "left out" in warning and "03.png" in warning for warning in found.warnings)


def test_classes_are_matched_by_name_and_not_by_number(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    """Folders number their own classes: "light" is 1 in one and 0 in the other."""
    other = tmp_path / "other"
    shutil.copytree(folder / "light", other / "light")
    shutil.copytree(folder / "dark", other / "unheard-of")
    found = evaluate(encoder, str(folder), str(other), tasks=["knn"], cache=None, workers=0)
    assert found.score("knn").value == 0.5  # every light one is right, nothing else can be
    assert any("1 classes of test are absent from train: unheard-of" in warning for warning in found.warnings)
    assert any("1 classes of train are absent from test: dark" in warning for warning in found.warnings)


def test_labels_may_be_any_numbers(encoder: ViT, folder: Path) -> None:
    train, test = split(open_source(str(folder)), 0)
    plain = evaluate(encoder, train, test, tasks=["linear"], cache=None, workers=0)
    labels = train.whole.labels()
    assert labels is not None
    labels *= 10**6
    train.classes = test.classes = train.whole.classes = None
    assert evaluate(encoder, train, test, tasks=["linear"], cache=None, workers=0).figures[0].score == (
        plain.figures[0].score
    )


def test_settings_are_written_down_and_pairs_are_kept_apart(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "list.txt"
    names.write_text("\n".join(f"{kind}/{number:02d}.png" for kind in ("dark", "light") for number in range(5)))
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    found = evaluate(
        encoder, [str(folder)] * 2, [str(folder), str(other)], tasks=["few_shot"],
        settings={"few_shot": FewShot(list_file=names)}, cache=None, workers=0, out=tmp_path,
    )  # fmt: skip
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["settings"]["tasks"]["few_shot"]["list_file"] == str(names)
    assert {figure["test"] for figure in document["figures"]} == {str(folder), str(other)}
    assert len(found.figures) == 6


def test_networks_with_batch_statistics_are_frozen_for_the_time(folder: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(2))
    encoder = CallableEncoder(nn.Sequential(net, Transpose()), (32, 32), name="a network")
    before = encoder.fingerprint()
    scores = [evaluate(encoder, str(folder), tasks=["knn"], cache=None, workers=0).score("knn") for _ in range(2)]
    assert scores[0] == scores[1]
    assert encoder.fingerprint() == before  # running statistics did not move
    assert encoder.training
    other = CallableEncoder(nn.Sequential(net, nn.ReLU(), Transpose()), (32, 32), name="a network")
    assert other.fingerprint() != before  # the same weights, another network


class Transpose(nn.Module):
    """(B, D, N) to (B, N, D)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


def test_a_task_that_fails_is_an_entry_and_not_a_number(encoder: ViT, folder: Path) -> None:
    from openjepa.evaluation.tasks.knn import KNN

    found = evaluate(
        encoder, str(folder), tasks=["knn", "linear"], settings={"knn": KNN(k=(500,))}, cache=None, workers=0
    )
    errors = [figure.error for figure in found.figures if figure.task == "knn"]
    assert all(error is not None and "must be 1 to the 48 labelled images" in error for error in errors)
    assert found.score("linear").value > 0.8
    with pytest.raises(KeyError):
        found.score("knn")


def test_features_that_are_not_finite_give_no_figure(folder: Path) -> None:
    broken = CallableEncoder(lambda x: x.mean(dim=(2, 3)) / 0, (32, 32))
    found = evaluate(broken, str(folder), tasks=["knn"], cache=None, workers=0)
    error = next(figure.error for figure in found.figures if figure.row == "encoder")
    assert error is not None
    assert "hold NaN or infinity" in error
    assert "no untrained control" in found.warnings[0]


def test_sets_that_cannot_be_evaluated(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    for number in range(12):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match="have no answers for"):
        evaluate(encoder, str(tmp_path), cache=None, workers=0)
    with pytest.raises(DataError, match="have no answers for depth"):
        evaluate(encoder, str(folder), tasks=["knn", "depth"], cache=None, workers=0)
    with pytest.raises(ConfigError, match="needs one set for each of --data, which has 2"):
        evaluate(encoder, [str(folder)] * 2, str(folder), cache=None, workers=0)
    with pytest.raises(DataError, match="has 6 images; 10 are needed"):
        evaluate(encoder, SCENES.format(6, 0), SCENES.format(60, 2), cache=None, workers=0)


def test_patches_are_seen_from_what_comes_out(encoder: ViT) -> None:
    assert patch_of(encoder) == 8
    assert patch_of(CallableEncoder(lambda x: x.mean(dim=(2, 3)), (32, 48))) == 32


def test_the_command_line_and_the_python_call(
    encoder: ViT, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from openjepa.vision.saved import write_encoders

    write_encoders(tmp_path / "encoder", {"target": encoder}, {})
    pairs = [str(folder), SCENES.format(40, 1)]
    tests = [str(folder), SCENES.format(30, 2)]
    line = ["evaluate", str(tmp_path / "encoder"), "--data", *pairs, "--test", *tests, "--tasks", "knn", "--knn.k", "5"]
    status = cli.run([*line, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), "--workers", "0"])
    assert status == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(word in said for word in ("raw pixels", "untrained", "encoder", "k = 5, given", "num_objects", "95 %"))
    assert "60 of 60 test images" in said
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(document["sets"]) == 2
    found = openjepa.evaluate(tmp_path / "encoder", str(folder), tasks=["knn"], cache=None, workers=0)
    assert 0 <= found.score("knn", row="untrained").value <= 1


def test_parquet_files_with_a_label_column(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(folder.glob("*/*.png"))
    images = [{"bytes": path.read_bytes(), "path": None} for path in files]
    table = pa.table({"image": images, "label": [int(path.parent.name == "light") for path in files]})
    pq.write_table(table, tmp_path / "all.parquet")
    found = evaluate(encoder, str(tmp_path / "all.parquet"), tasks=["knn", "linear"], cache=None, workers=0)
    assert found.score("linear").value > 0.8
    same = evaluate(encoder, str(folder), tasks=["knn"], cache=None, workers=0)
    assert found.score("knn").value == same.score("knn").value
