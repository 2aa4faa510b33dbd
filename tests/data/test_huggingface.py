"""hf:// with the real library on local data, without the network."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import dataclass

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when the library is imported

from openjepa.data.check import check
from openjepa.data.huggingface import _RECENT, Address, parse
from openjepa.data.images import BadImage, decode
from openjepa.data.loader import Steps, batches
from openjepa.data.source import open_source
from openjepa.errors import DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # one is of today, one of older releases
        monkeypatch.setattr(datasets.config, name, True, raising=False)
    datasets.disable_progress_bars()


@pytest.fixture
def rows(encode):
    """Ten images of one colour each, three classes, as the library holds them."""
    data = {
        "image": [{"bytes": encode(np.full((8, 8, 3), i, np.uint8)), "path": None} for i in range(10)],
        "label": [i % 3 for i in range(10)],
    }
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    return datasets.Dataset.from_dict(data, datasets.Features(features))


@pytest.fixture
def folder(rows, tmp_path):
    path = tmp_path / "set"
    path.mkdir()
    rows.select(range(6)).to_parquet(path / "train-0.parquet")
    rows.select(range(6, 10)).to_parquet(path / "train-1.parquet")
    rows.select(range(3)).to_parquet(path / "test-0.parquet")
    return path


def number(item):
    return int(decode(item.image, 3)[0, 0, 0])


def test_a_local_folder_of_parquet(folder):
    source = open_source(f"hf://{folder}")
    assert [number(source[i]) for i in (9, 0, 4, 4)] == [9, 0, 4, 4]
    assert source.classes == ["a", "b", "c"]
    assert source.labels().dtype == np.int64
    assert source.labels().tolist() == [source[i].label for i in range(10)] == [i % 3 for i in range(10)]
    assert not source.is_sequential
    assert "10 images" in source.identity
    assert len(open_source(f"hf://{folder}?split=test")) == 3
    assert len(open_source(f"hf://{folder}?split=train[:50%]")) == 5
    copy = pickle.loads(pickle.dumps(source))
    assert copy[7] == source[7]


def test_one_parquet_file_and_what_save_to_disk_wrote(folder, rows, tmp_path):
    rows.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict(train=rows, test=rows.select(range(3))).save_to_disk(str(tmp_path / "split"))
    for name, count in (("set/train-1.parquet", 4), ("saved", 10), ("split", 10), ("split?split=test", 3)):
        source = open_source(f"hf://{tmp_path}/{name}")
        assert len(source) == count
        assert number(source[1]) == (7 if count == 4 else 1)
    with pytest.raises(DataError, match="unknown split 'x'; it has"):
        open_source(f"hf://{tmp_path}/split?split=x")


def test_a_folder_of_images_stays_where_it_is(images, picture):
    folder = images("cat/0.png", "cat/1.png", "dog/2.png")
    source = open_source(f"hf://{folder}")
    assert source[0].image == (folder / "cat/0.png").read_bytes()
    assert source[0].name == str(folder / "cat/0.png")
    assert source.labels().tolist() == [0, 0, 1]
    (folder / "cat/0.png").unlink()
    with pytest.raises(BadImage, match="cannot be read") as caught:
        source[0]
    assert caught.value.name == str(folder / "cat/0.png")


def test_columns(rows, tmp_path):
    rows = rows.add_column("fine", list(range(10))).add_column("text", ["x"] * 10)
    second = rows.select_columns("image").rename_column("image", "second")
    raw = [image["bytes"] for image in rows.cast_column("image", datasets.Image(decode=False))["image"]]
    rows = datasets.concatenate_datasets([rows, second], axis=1).add_column("raw", raw)
    rows.to_parquet(tmp_path / "x.parquet")
    name = f"hf://{tmp_path / 'x.parquet'}"
    with pytest.raises(DataError, match=r"2 columns of images.*image=COLUMN"):
        open_source(name)
    source = open_source(f"{name}?image=second&label=fine")
    assert source.labels().tolist() == list(range(10))
    assert source.classes is None
    for query, remedy in (("image=imag", "Did you mean 'image'"), ("image=second&label=fin", "Did you mean 'fine'")):
        with pytest.raises(DataError, match=remedy):
            open_source(f"{name}?{query}")
    assert number(open_source(f"{name}?image=raw")[7]) == 7
    with pytest.raises(DataError, match="column 'text' holds no images"):
        open_source(f"{name}?image=text")
    texts = open_source(f"{name}?image=second&label=text")
    assert texts.classes == ["x"]
    assert open_source(f"{name}?image=second&label=text&streaming=1")[0].label is None
    assert open_source(f"{name}?image=second&label=fine&streaming=1")[4].label == 4


def test_unlabelled_and_missing(rows, tmp_path):
    hidden = rows.remove_columns("label").add_column("other", [0] * 10)
    hidden = hidden.select(range(1)).cast_column("image", datasets.Image(decode=False))
    empty = datasets.Dataset.from_dict({"image": [None], "other": [0]}, hidden.features)
    datasets.concatenate_datasets([hidden, empty]).cast_column("image", datasets.Image()).to_parquet(
        tmp_path / "x.parquet"
    )
    source = open_source(f"hf://{tmp_path / 'x.parquet'}")
    assert source.labels() is None
    assert source[0].label is None
    with pytest.raises(BadImage, match="no image bytes"):
        source[1]


def test_a_stream_goes_on_repeats_and_wraps_around(folder):
    source = open_source(f"hf://{folder}?streaming=1")
    assert source.is_sequential
    assert source.labels() is None
    assert source.classes == ["a", "b", "c"]
    assert [number(source[p]) for p in (0, 1, 4, 3, 4, 9)] == [0, 1, 4, 3, 4, 9]
    assert [number(source[p]) for p in (10, 11, 25, 21)] == [0, 1, 5, 1]
    assert source[4].label == 1
    assert number(open_source(f"hf://{folder}?streaming=1")[37]) == 7
    copy = pickle.loads(pickle.dumps(source))
    assert number(copy[3]) == 3
    with pytest.raises(DataError, match="--steps"):
        len(source)


def test_a_stream_remembers_a_few_rows(rows, tmp_path):
    many = datasets.concatenate_datasets([rows] * 20)
    many.to_parquet(tmp_path / "x.parquet")
    source = open_source(f"hf://{tmp_path / 'x.parquet'}?streaming=1")
    source[150]
    reader = source._readers[os.getpid()]
    assert number(source[151 - _RECENT]) == (151 - _RECENT) % 10
    assert source._readers[os.getpid()] is reader
    assert number(source[150 - _RECENT]) == (150 - _RECENT) % 10
    assert source._readers[os.getpid()] is not reader


def test_a_fork_leaves_its_parents_place_in_the_stream_alone(folder, monkeypatch):
    source = open_source(f"hf://{folder}?streaming=1")
    source[6]
    (parents,) = source._readers.values()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert [number(source[p]) for p in (2, 7)] == [2, 7]
    assert parents.count == 7


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_read_a_stream_that_their_parent_has_begun(folder):
    @dataclass(frozen=True)
    class Numbers:
        channels: int = 3

        def sample(self, image, rng, label):
            return int(image[0, 0, 0])

        def collate(self, samples, seed, step, first):
            return samples

    steps = Steps(open_source(f"hf://{folder}?streaming=1"), Numbers(), seed=0, batch_size=4)
    with pytest.raises(DataError, match="each of 4 images tried is of one colour"):
        check(steps.source, 3)
    for workers in (0, 1, 2):
        found = [loaded.batch for loaded in batches(steps, 1, 7, workers=workers)]
        assert found == [[(4 * step + i) % 10 for i in range(4)] for step in range(1, 7)]


def test_an_empty_stream(rows, tmp_path):
    rows.select([]).to_parquet(tmp_path / "x.parquet")
    source = open_source(f"hf://{tmp_path / 'x.parquet'}?streaming=1")
    with pytest.raises(DataError, match="an empty stream"):
        source[0]


def test_what_cannot_be_reached(tmp_path, folder):
    for spec in ("hf://nobody/nothing", "hf://nobody/nothing?streaming=1"):
        with pytest.raises(DataError, match=r"(?s)nobody/nothing.*cannot be opened.*HF_HUB_OFFLINE.*hf auth login"):
            open_source(spec)
    with pytest.raises(DataError, match="Unknown split"):
        open_source(f"hf://{folder}?split=nope")
    with pytest.raises(DataError, match="config"):
        open_source(f"hf://{folder}?config=nope")
    with pytest.raises(DataError, match="cannot be opened"):
        open_source(f"hf://{tmp_path / 'gone'}")


def test_addresses():
    assert parse("hf://a/b") == Address("a/b")
    assert parse("hf://a?split=x&config=c&revision=r&image=i&label=l&streaming=1") == Address(
        "a", "x", "c", "r", "i", "l", True
    )
    assert parse("hf://a?streaming=0") == Address("a")
    with pytest.raises(DataError, match="Did you mean 'split'"):
        parse("hf://a?splt=train")
    for wrong in ("hf://", "hf://?split=x", "hf://a?streaming=yes"):
        with pytest.raises(DataError, match="needs a name"):
            parse(wrong)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'openjepa\[hf\]'"):
        open_source("hf://cifar10")
