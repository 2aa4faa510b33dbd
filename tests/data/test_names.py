"""What sources call their images, without reading one."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from openjepa.data.part import Part
from openjepa.data.scenes import Scenes
from openjepa.data.source import Item, Source, open_source

FILES = ["a/1.png", "a/2.png", "b/1.png"]


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The same three images as a folder, as masks, as a tar and as parquet files with and without paths."""
    for number, name in enumerate(FILES):
        for kind in ("images", "masks"):
            path = tmp_path / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))
        with tarfile.open(tmp_path / "all.tar", "a") as tar:
            tar.add(tmp_path / "images" / name, name)
    rows = [{"bytes": png(number), "path": name} for number, name in enumerate(FILES)]
    rows[1]["path"] = None
    pq.write_table(pa.table({"image": rows}), tmp_path / "paths.parquet", row_group_size=2)
    pq.write_table(pa.table({"image": [row["bytes"] for row in rows]}), tmp_path / "none.parquet", row_group_size=2)
    return tmp_path


def names(source: Source, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of every image, none of which may be read."""

    def refuse(self: Source, index: int) -> Item:
        raise AssertionError("an image was read for its name")

    monkeypatch.setattr(type(source), "__getitem__", refuse)
    return [source.name(index) for index in range(len(source))]


def test_folders_tars_and_masks_know_theirs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(root / "images" / name) for name in FILES]
    assert names(open_source(str(root / "images")), monkeypatch) == paths
    masks = f"masks?images={root / 'images'}&masks={root / 'masks'}"
    assert names(open_source(masks), monkeypatch) == paths
    assert names(open_source(str(root / "all.tar")), monkeypatch) == FILES


def test_parquet_rows_have_the_path_that_they_keep(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(root / "paths.parquet"))
    by_row = [f"{root / 'paths.parquet'}: row {row} of row group {group}" for row, group in ((0, 0), (1, 0), (0, 1))]
    assert [source[index].name for index in range(3)] == by_row
    assert source.name(0) == FILES[0]
    again = pickle.loads(pickle.dumps(source))
    assert names(again, monkeypatch) == [FILES[0], by_row[1], FILES[2]]
    plain = open_source(str(root / "none.parquet"))
    assert [name.rpartition(": ")[2] for name in names(plain, monkeypatch)] == [
        name.rpartition(": ")[2] for name in by_row
    ]


def test_hugging_face_rows_have_the_path_that_they_keep(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": png(0), "path": FILES[0]}, {"bytes": png(1), "path": None}]
    rows = datasets.Dataset.from_dict({"image": images}, datasets.Features({"image": datasets.Image()}))
    rows.save_to_disk(str(root / "saved"))
    spec = f"hf://{root / 'saved'}"
    assert names(open_source(spec), monkeypatch) == ["1.png", f"{spec} row 1"]  # the library keeps no folder


def test_scenes_and_parts_of_sources(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = Scenes(5, (32, 32), 0, 3)
    part = Part(scenes, np.array([4, 1]), "two")
    expected = [part[index].name for index in range(2)]
    assert names(part, monkeypatch) == expected == ["scenes/000004", "scenes/000001"]
    monkeypatch.setattr(Scenes, "scene", None)
    assert names(scenes, monkeypatch)[3] == "scenes/000003"


def test_other_sources_read_the_image() -> None:
    class One(Source):
        classes, identity = None, "one"

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Item:
            return Item(b"", f"image {index}")

        def labels(self) -> None:
            return None

    assert One().name(0) == "image 0"
