"""Features are kept, found again, and done without: torn files, full disks, encoders that overflow, patch tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from openjepa.data.scenes import Scenes
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation import room
from openjepa.evaluation.features import Extractor
from openjepa.evaluation.run import Evaluation, evaluate
from openjepa.evaluation.sets import ImageSet
from openjepa.evaluation.task import Row
from openjepa.evaluation.tasks.depth import Depth
from openjepa.evaluation.tasks.segmentation import Segmentation
from openjepa.vision.callable import CallableEncoder
from openjepa.vision.vit import ViT

resource = pytest.importorskip("resource", reason="limits of a process are POSIX")
CPU = torch.device("cpu")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """[images that a ViT encoded]."""
    calls = [0]
    original = ViT.features

    def features(self: ViT, images: torch.Tensor, num_layers: int) -> object:
        calls[0] += len(images)
        return original(self, images, num_layers)

    monkeypatch.setattr(ViT, "features", features)
    return calls


# ------------------------------------------------------------------------------------------ the cache


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    np.save(path, np.zeros((3, 4, 16), np.float32))


def a_pickle(path: Path) -> None:
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


def transposed(path: Path) -> None:
    np.save(path, np.asfortranarray(np.load(path)))


def without_its_json(path: Path) -> None:
    path.with_suffix(".json").unlink()


def with_half_its_json(path: Path) -> None:
    path.with_suffix(".json").write_text('{"shape": [4')


def with_a_list_for_json(path: Path) -> None:
    path.with_suffix(".json").write_text("[]")


def with_the_json_of_others(path: Path) -> None:
    path.with_suffix(".json").write_text(json.dumps({"shape": [1, 2, 3], "bad": {}}))


def with_positions_beyond(path: Path) -> None:
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**about, "bad": {"999": ["x", "y"]}}))


DAMAGES = [
    torn, emptied, foreign, a_pickle, transposed, without_its_json, with_half_its_json, with_a_list_for_json,
    with_the_json_of_others, with_positions_beyond,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_torn_or_foreign_is_computed_anew(
    damage: object, encoder: ViT, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, cache = ImageSet(str(folder), "data"), tmp_path / "cache"
    first = np.array(Extractor(cache, CPU, 0).pooled(encoder, images, "encoder").layers)
    (path,) = cache.glob("*.npy")
    damage(path)  # type: ignore[operator]
    calls = counted(monkeypatch)
    extractor = Extractor(cache, CPU, 0)
    again = extractor.pooled(encoder, images, "encoder")
    assert calls[0] == len(images)
    assert np.array_equal(first, again.layers)
    (warning,) = extractor.warnings
    assert str(path) in warning
    assert "computed anew" in warning
    unharmed = Extractor(cache, CPU, 0)
    assert np.array_equal(unharmed.pooled(encoder, images, "encoder").layers, first)
    assert (unharmed.warnings, calls[0]) == ([], len(images))


def test_results_say_that_the_cache_was_torn(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def found() -> Evaluation:
        return evaluate(encoder, str(folder), tasks=["knn"], cache=cache, workers=0, out=tmp_path / "out")

    first = found()
    assert first.warnings == []
    for path in cache.glob("*.npy"):
        torn(path)
    again = found()
    assert [figure.score for figure in again.figures] == [figure.score for figure in first.figures]
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert sum("computed anew" in warning for warning in document["warnings"]) == 6


@pytest.fixture
def _full_disk() -> Iterator[None]:
    """No file may grow beyond 4 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("_full_disk")
def test_a_full_disk_costs_the_cache_and_nothing_else(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    images, cache = ImageSet(str(folder), "data"), tmp_path / "cache"
    extractor = Extractor(cache, CPU, 0)
    found = extractor.pooled(encoder, images, "encoder")
    assert found.layers.shape == (60, 4, 16)
    assert np.isfinite(found.layers).all()
    assert not isinstance(found.layers, np.memmap)  # nor was there room for a temporary file
    (warning,) = extractor.warnings
    assert warning == f"features are not kept: {cache}: File too large"
    assert list(cache.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(
    encoder: ViT, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, shape: tuple[int, ...]) -> np.ndarray:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(room, "named", refuse)
    found = evaluate(encoder, str(folder), tasks=["knn"], cache=tmp_path / "cache", workers=0)
    assert found.warnings == [f"features are not kept: {tmp_path / 'cache'}: Permission denied"]
    assert found.score("knn").value > 0.5


def test_a_file_that_cannot_get_its_name(encoder: ViT, folder: Path, tmp_path: Path) -> None:
    images, cache = ImageSet(str(folder), "data"), tmp_path / "cache"
    extractor = Extractor(cache, CPU, 0)
    (cache / f"features-{extractor._key(encoder, images)}.npy").mkdir(parents=True)
    found = extractor.pooled(encoder, images, "encoder")
    assert np.isfinite(found.layers).all()
    assert len(extractor.warnings) == 2  # it could be neither read nor replaced
    assert len([path for path in cache.iterdir() if path.is_file() and path.suffix != ".json"]) == 0


@pytest.mark.parametrize("inside", [".", "deeper"])
def test_a_file_in_place_of_the_folder_is_a_mistake(encoder: ViT, folder: Path, tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cache = .*file.* is a file\. Name a folder with --cache"):
        evaluate(encoder, str(folder), cache=tmp_path / "file" / inside, workers=0)


def test_without_a_cache_features_lie_in_a_file_without_a_name(encoder: ViT, folder: Path) -> None:
    found = Extractor(None, CPU, 0).pooled(encoder, ImageSet(str(folder), "data"), "encoder")
    assert isinstance(found.layers, np.memmap)


def test_features_that_are_not_finite_are_computed_once(folder: Path) -> None:
    calls = [0]

    def broken(x: torch.Tensor) -> torch.Tensor:
        calls[0] += len(x)
        return x.mean(dim=(2, 3)) / 0

    encoder = CallableEncoder(broken, (32, 32))
    images, extractor = ImageSet(str(folder), "data"), Extractor(None, CPU, 0)
    for _ in range(3):
        with pytest.raises(DataError, match=r"features of 60 of 60 images .* hold NaN or infinity"):
            extractor.pooled(encoder, images, "encoder")
    assert calls[0] == 60


# ------------------------------------------------------------------------------------------ patch tokens


def test_dense_tasks_share_tokens_of_a_drawn_sample(
    row: Row, sets: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    segmentation = Segmentation(most_train=40, most_test=20).measure(row, "mask")
    assert calls[0] == 60
    depth = Depth(most_train=70, most_test=30).measure(row, "depth")  # the larger sample has the smaller one in it
    assert calls[0] == 100
    assert "fifth of 70 of 150 training images drawn by the seed" in depth.chosen
    assert "measured on 30 of 80 test images drawn by the seed" in depth.chosen
    assert "fifth of 40 of 150 training images drawn by the seed" in segmentation.chosen
    assert "measured on 20 of 80 test images drawn by the seed" in segmentation.chosen
    assert Segmentation(most_train=40, most_test=20).measure(row, "mask") == segmentation
    assert calls[0] == 100


def test_tokens_and_maps_are_of_the_same_images_drawn_by_the_seed(row: Row, encoder: ViT) -> None:
    from dataclasses import replace

    from openjepa.data.loader import labelled_images

    source = row.train.source
    crops = torch.from_numpy(labelled_images(source, range(150), encoder.image_size, 3)[0])
    with torch.no_grad():
        every = encoder(crops).tokens
    depths = [source.dense(index)["depth"] for index in range(150)]
    drawn: dict[int, list[int]] = {}
    for most, seed in ((20, 0), (50, 0), (20, 1)):
        row = replace(row, seed=seed, extractor=Extractor(None, CPU, 0))
        tokens, maps = row.dense(row.train, "depth", most)
        found = [next(i for i in range(150) if np.array_equal(depths[i], each)) for each in maps.numpy()]
        torch.testing.assert_close(tokens[:], every[found], rtol=1e-4, atol=1e-5)
        assert found == sorted(found)
        drawn[most + seed] = found
    assert set(drawn[20]) < set(drawn[50])
    assert drawn[20] != list(range(20)) != drawn[21] != drawn[20]
    assert [len(part) for part in row.dense(row.train, "depth", 1000)] == [150, 150]


def test_tokens_are_removed_from_the_cache_folder(
    encoder: ViT, sets: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    made = tmp_path / "cache"
    made.mkdir()
    extractor = Extractor(made, CPU, 0)
    tokens = extractor.tokens(encoder, sets[0], np.arange(10), "encoder")
    assert tokens.shape == (10, 16, 16)
    assert list(made.iterdir()) == []


def test_tokens_that_are_not_finite_give_no_figure(sets: tuple[ImageSet, ImageSet]) -> None:
    calls = [0]

    def broken(x: torch.Tensor) -> torch.Tensor:
        calls[0] += len(x)
        return torch.nn.functional.avg_pool2d(x, 8).flatten(2).transpose(1, 2) / 0

    extractor = Extractor(None, CPU, 0)
    row = Row("encoder", CallableEncoder(broken, (32, 32)), *sets, extractor, 0)
    for task, question in ((Depth(), "depth"), (Segmentation(), "mask")):
        with pytest.raises(DataError, match="hold NaN or infinity"):
            task.measure(row, question)
    assert calls[0] <= 128  # one batch, once


def test_an_image_that_cannot_be_read_is_named(encoder: ViT, folder: Path) -> None:
    (folder / "dark" / "03.png").write_bytes(b"rubbish")
    extractor, images = Extractor(None, CPU, 0), ImageSet(str(folder), "data")
    for _ in range(2):
        with pytest.raises(DataError, match=r"dense tasks need every image: .*03\.png"):
            extractor.tokens(encoder, images, np.arange(60), "encoder")


def test_scenes_have_a_digest_of_their_own() -> None:
    one, other = (ImageSet(Scenes(12, (32, 32), seed, 3), "data") for seed in (1, 2))
    assert one.digest != other.digest
    assert one.digest == ImageSet(Scenes(12, (32, 32), 1, 3), "test").digest
