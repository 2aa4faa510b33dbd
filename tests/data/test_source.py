"""One word for --data: what it opens, and what it says when it cannot."""

from __future__ import annotations

import os
import tarfile

import numpy as np
import pytest

from openjepa.data.scenes import Scenes
from openjepa.data.source import open_source
from openjepa.errors import DataError


def message(spec: object) -> str:
    with pytest.raises(DataError) as caught:
        open_source(str(spec))
    assert str(caught.value).startswith(f"data = {str(spec)!r}: ")
    return str(caught.value)


@pytest.fixture
def parquet(tmp_path, picture, encode):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(name: str, num_rows: int = 2):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": [encode(picture)] * num_rows}), path)
        return path

    return write


def test_a_folder(images):
    source = open_source(str(images("a.png", "b.jpg")))
    assert (type(source).__name__, len(source)) == ("Folder", 2)


def test_parquet_files_in_every_way_to_name_them(parquet, tmp_path):
    for number in range(3):
        parquet(f"set/part-{number}.parquet", 2 + number)
    folder = tmp_path / "set"
    for spec in (folder, tmp_path, folder / "*.parquet", folder / "part-{0..2}.parquet", folder / "part-[0-2]*"):
        source = open_source(str(spec))
        assert (type(source).__name__, len(source)) == ("Parquet", 9)
        assert str(spec) in source.identity
        assert "9 images" in source.identity
    assert len(open_source(str(folder / "part-1.parquet"))) == 3


def test_tars_in_every_way_to_name_them(images, tmp_path):
    folder = images("a.png", "b.png")
    for number in (9, 10, 11):
        with tarfile.open(tmp_path / f"shard-{number:03}.tar", "w") as tar:
            for name in ("a.png", "b.png"):
                tar.add(folder / name, name)
    folder.joinpath("a.png").unlink()
    folder.joinpath("b.png").unlink()
    for spec in (tmp_path, tmp_path / "shard-{009..011}.tar", tmp_path / "shard-*.tar"):
        assert (type(open_source(str(spec))).__name__, len(open_source(str(spec)))) == ("Tar", 6)
    source = open_source(str(tmp_path / "shard-{011,009}.tar"))
    order = [source[i].name.split("shard-")[1] for i in range(4)]
    assert order == ["011.tar: a.png", "011.tar: b.png", "009.tar: a.png", "009.tar: b.png"]


def test_scenes():
    assert isinstance(open_source("scenes?num_images=20"), Scenes)
    assert isinstance(open_source("scenes"), Scenes)


def test_a_folder_called_scenes_or_more(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images("a.png", root=tmp_path / "scenes2")
    assert type(open_source("scenes2")).__name__ == "Folder"
    images("a.png", root=tmp_path / "scenes")
    assert type(open_source("./scenes")).__name__ == "Folder"


def test_a_folder_is_what_most_of_its_files_are(parquet, images, tmp_path):
    parquet("set/a.parquet")
    images("preview.png", root=tmp_path / "set")
    parquet("set/b.parquet")
    assert type(open_source(str(tmp_path / "set"))).__name__ == "Parquet"
    images(*(f"{i}.png" for i in range(5)), root=tmp_path / "set")
    assert type(open_source(str(tmp_path / "set"))).__name__ == "Folder"


def test_names_with_braces_and_brackets_are_taken_literally_first(parquet):
    for name in ("x{1..2}.parquet", "y[1].parquet"):
        assert len(open_source(str(parquet(name)))) == 2


def test_what_does_not_exist(images, tmp_path):
    folder = images("a.png", root=tmp_path / "photographs")
    assert "Did you mean 'photographs'?" in message(tmp_path / "photograps")
    assert f"there is no 'photograps' in {tmp_path}" in message(tmp_path / "photograps" / "deep" / "er")
    assert "a folder of images" in message(tmp_path / "qqq")
    assert "there is no" in message(folder / "*.tar")
    assert "there is no" in message(folder / "shard-{0..3}.tar")
    assert "a folder of images" in message("")


def test_one_missing_shard_is_not_passed_over(images, tmp_path):
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        tar.add(images("a.png") / "a.png", "a.png")
    assert "there is no 'shard-1.tar'" in message(tmp_path / "shard-{0..1}.tar")


def test_a_home_folder(images, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    images("a.png")
    assert len(open_source("~/images")) == 1


def test_an_empty_folder_tells_what_is_in_it(tmp_path):
    assert "it is empty" in message(tmp_path)
    for name in ("a.txt", "b.txt", "c.heic", "sub/d.txt", "LICENSE"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert "no image in this folder; only 3 .txt, " in message(tmp_path)
    assert "1 .heic" in message(tmp_path)
    assert "1 without suffix" in message(tmp_path)


@pytest.mark.parametrize("spec", ["https://example.com/a.tar", "s3://bucket/a-{0..9}.tar", "pipe:cat a.tar", "gs://x"])
def test_what_is_elsewhere(spec):
    assert "Download it first" in message(spec)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.zip", "a.tar.zst"])
def test_what_is_compressed(tmp_path, name):
    (tmp_path / name).touch()
    assert "Unpack it" in message(tmp_path / name)


def test_other_files(images, tmp_path):
    assert "Give the folder" in message(images("a.png") / "a.png")
    (tmp_path / "labels.csv").touch()
    assert "is a .csv file" in message(tmp_path / "labels.csv")


def test_mixed_files(parquet, tmp_path):
    parquet("a.parquet")
    (tmp_path / "a.tar").touch()
    assert "mixes kinds of files" in message(tmp_path / "a.*")


def test_braces_that_do_not_pair(tmp_path):
    assert "braces" in message(tmp_path / "shard-{0..3.tar")


def test_a_folder_that_cannot_be_read(images, monkeypatch):
    folder = images("a/x.png", "b/x.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root, whom nothing is refused, may run this test
    with pytest.raises(DataError, match=r"images/b'.*cannot be read: Permission denied"):
        open_source(str(folder))


def test_sources_agree_on_what_labels_are(images):
    source = open_source(str(images("cat/a.png", "dog/b.png")))
    labels = source.labels()
    assert labels.dtype == np.int64
    assert labels.tolist() == [source[i].label for i in range(len(source))]
