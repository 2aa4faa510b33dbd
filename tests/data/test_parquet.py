"""Parquet files: Hugging Face's layout and plain bytes, in memory and by row group."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openjepa.data import parquet
from openjepa.data.images import BadImage, decode
from openjepa.data.source import open_source
from openjepa.errors import DataError


@pytest.fixture
def rows(encode):
    """Encoded images of one colour each."""
    return [encode(np.full((8, 8, 3), number, np.uint8)) for number in range(10)]


def structs(rows):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([None if row is None else {"bytes": row, "path": f"{i}.png"} for i, row in enumerate(rows)], kind)


def numbers(source):
    return [int(decode(source[i].image, 3)[0, 0, 0]) for i in range(len(source))]


def described(table, **features):
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_the_layout_of_hugging_face(tmp_path, rows):
    table = pa.table({"image": structs(rows), "label": [i % 3 for i in range(10)]})
    label = {"_type": "ClassLabel", "names": ["a", "b", "c"]}
    pq.write_table(described(table, image={"_type": "Image"}, label=label), tmp_path / "x.parquet", row_group_size=3)
    source = open_source(str(tmp_path / "x.parquet"))
    assert numbers(source) == list(range(10))
    assert source.classes == ["a", "b", "c"]
    assert source.labels().dtype == np.int64
    assert source.labels().tolist() == [source[i].label for i in range(10)] == [i % 3 for i in range(10)]
    assert "10 images" in source.identity
    assert source[4].name == f"{tmp_path / 'x.parquet'}: row 1 of row group 1"


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes_without_labels(tmp_path, rows, kind):
    pq.write_table(pa.table({"image": pa.array(rows, kind), "id": range(10)}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    assert numbers(source) == list(range(10))
    assert source.labels() is None
    assert source.classes is None
    assert source[0].label is None


def test_column_names_are_guessed_from_their_types(tmp_path, rows):
    table = pa.table({"id": range(10), "img": structs(rows), "fine": [1] * 10, "coarse": [2] * 10})
    fine = {"_type": "ClassLabel", "names": ["x", "y"]}
    pq.write_table(described(table, img={"_type": "Image"}, fine=fine), tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    assert numbers(source) == list(range(10))
    assert source.labels().tolist() == [1] * 10
    assert source.classes == ["x", "y"]


def test_among_several_columns_of_bytes_the_declared_one_counts(tmp_path, rows):
    table = pa.table({"mask": rows[::-1], "photo": structs(rows)})
    pq.write_table(described(table, photo={"_type": "Image"}), tmp_path / "x.parquet")
    assert numbers(open_source(str(tmp_path / "x.parquet"))) == list(range(10))
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="more than one, among mask, photo"):
        open_source(str(tmp_path / "x.parquet"))


def test_no_column_of_images(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"no column of images.*among text"):
        open_source(str(tmp_path / "x.parquet"))


def test_labels_of_text_and_labels_that_are_missing(tmp_path, rows):
    pq.write_table(pa.table({"image": rows[:4], "label": ["dog", "cat", None, "dog"]}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    assert source.classes == ["cat", "dog"]
    assert source.labels().tolist() == [1, 0, -1, 1]
    for unlabelled in ([None] * 4, [-1] * 4):
        table = pa.table({"image": rows[:4], "label": pa.array(unlabelled, pa.int64())})
        pq.write_table(table, tmp_path / "x.parquet")
        assert open_source(str(tmp_path / "x.parquet")).labels() is None


def test_several_files_follow_each_other(tmp_path, rows):
    for number, part in enumerate((rows[:4], rows[4:5], [], rows[5:])):
        table = pa.table(
            {"image": structs(part), "label": pa.array([number] * len(part), pa.int32() if number else pa.int64())}
        )
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=2)
    source = open_source(str(tmp_path))
    assert numbers(source) == list(range(10))
    assert source.labels().tolist() == [0] * 4 + [1] + [3] * 5


def test_files_that_do_not_belong_together(tmp_path, rows):
    pq.write_table(pa.table({"image": rows, "label": range(10)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": rows}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet'.*no column 'label'"):
        open_source(str(tmp_path))


def test_a_set_too_large_for_memory_reads_the_same(tmp_path, rows, monkeypatch):
    pq.write_table(pa.table({"image": structs(rows), "label": range(10)}), tmp_path / "x.parquet", row_group_size=1)
    whole = open_source(str(tmp_path))
    monkeypatch.setattr(parquet, "IN_MEMORY_BYTES", 0)
    source = open_source(str(tmp_path))
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 3))
    assert [source[i] for i in order] == [whole[i] for i in order]
    assert len(whole._kept) == 10
    assert len(source._kept) <= parquet._KEPT_ROW_GROUPS


def test_the_images_do_not_travel_to_spawned_workers(tmp_path):
    noise = np.random.default_rng(0)
    pq.write_table(pa.table({"image": [noise.bytes(10_000) for _ in range(100)]}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path))
    first = source[3]
    sent = pickle.dumps(source)
    assert len(sent) < 10_000
    assert pickle.loads(sent)[3] == first


def test_rows_without_an_image_are_bad(tmp_path, rows):
    table = pa.table({"image": structs([rows[0], None, rows[2]])})
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_source(str(tmp_path))
    with pytest.raises(BadImage, match="no image bytes") as caught:
        source[1]
    assert "row 1" in caught.value.name
    assert source[2].image == rows[2]


def test_files_that_are_not_whole(tmp_path, rows):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": rows}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a whole parquet file"):
        open_source(str(path))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not a whole parquet file"):
        open_source(str(path))


def test_files_without_rows(tmp_path):
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no image: the files have no rows"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_a_damaged_row_group_costs_only_itself(tmp_path, monkeypatch, limit):
    """Its rows are bad images; the others are read."""
    monkeypatch.setattr(parquet, "IN_MEMORY_BYTES", limit)
    noise = np.random.default_rng(0)
    rows = [noise.bytes(4000) for _ in range(9)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": rows}), path, row_group_size=3, use_dictionary=False, write_page_checksum=True)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 16] = b"\xff" * 16  # the page's header
    path.write_bytes(data)
    source = open_source(str(path))
    for index in (3, 4, 5):
        with pytest.raises(BadImage, match="damaged in row group 1"):
            source[index]
    assert [source[i].image for i in (0, 2, 6, 8)] == [rows[i] for i in (0, 2, 6, 8)]


def test_damaged_labels_are_said_at_once(tmp_path, rows):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": rows, "label": range(10)}), path, use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 16] = b"\xff" * 16
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.parquet'.*damaged"):
        open_source(str(path))


def test_files_that_vanish_are_bad_images(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(parquet, "IN_MEMORY_BYTES", 0)
    pq.write_table(pa.table({"image": rows}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path))
    (tmp_path / "x.parquet").unlink()
    with pytest.raises(BadImage, match=r"not a whole parquet file.*No such file"):
        source[0]
