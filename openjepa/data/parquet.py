"""Parquet files in the Hugging Face layout: an image column of encoded bytes, and optionally labels.

Up to `IN_MEMORY_BYTES` of files are read once and kept as arrow buffers, which forked workers share. Above
that the last few row groups are kept; shuffled access then reads a whole row group for nearly every
image, so for large sets `hf://FOLDER`, which converts them once to memory-mapped arrow files, is faster.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from openjepa.data.images import BadImage
from openjepa.data.source import Item, Source
from openjepa.errors import DataError, sentence

IN_MEMORY_BYTES = 2 << 30
_KEPT_ROW_GROUPS = 4  # of a set that does not fit


class Parquet(Source):
    """The rows of `paths`, in order; `spec` is what the user gave, for messages."""

    def __init__(self, paths: list[str], spec: str) -> None:
        schema = _open(paths[0]).schema_arrow
        features = _features(schema)
        self._image, self._leaf = _image_column(schema, features, spec)
        label = _label_column(schema, features)
        self._groups: list[tuple[str, int]] = []  # (path, row group in it)
        self._starts = [0]
        labels = []
        for path in paths:
            file = _open(path)
            for column in (self._image, label):
                if column and column not in file.schema_arrow.names:
                    rule = f"no column {column!r}, which {paths[0]} has"
                    raise DataError(sentence("data", path, rule, "Give files of one data set."))
            for group in range(file.num_row_groups):
                self._groups.append((path, group))
                self._starts.append(self._starts[-1] + file.metadata.row_group(group).num_rows)
            if label:
                labels.append(_read(path, None, label))
        if len(self) == 0:
            raise DataError(sentence("data", spec, "no image: the files have no rows"))
        names = features.get(label, {}).get("names") if label else None
        self.classes, self._labels = numbered(labels, names) if labels else (None, None)
        self._fits = sum(os.path.getsize(path) for path in paths) <= IN_MEMORY_BYTES
        self._kept: dict[int, pa.ChunkedArray | str] = {}
        self.identity = f"parquet {spec}: {len(self)} images"

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Item:
        group, row, name = self._place(index)
        images = self._row_group(group)
        if isinstance(images, str):
            raise BadImage(images, name)
        image = images[row].as_py()
        if image is None:
            raise BadImage("no image bytes in this row", name)
        return Item(image, name, None if self._labels is None else int(self._labels[index]))

    def name(self, index: int) -> str:
        """The path that the row keeps beside the bytes, if it keeps one."""
        path = None if self._paths is None else self._paths[int(index)].as_py()
        return path or self._place(index)[2]

    @cached_property
    def _paths(self) -> pa.ChunkedArray | None:
        """Of all rows, where the files have such a field."""
        parts = []
        for path in dict.fromkeys(path for path, _ in self._groups):
            kind = _open(path).schema_arrow.field(self._image).type
            if not (pa.types.is_struct(kind) and kind.get_field_index("path") >= 0):
                return None
            column = _read(path, None, self._image, "path")
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                return None
            parts.append(column.cast(pa.large_string()))
        return pa.chunked_array([chunk for column in parts for chunk in column.chunks], pa.large_string())

    def _place(self, index: int) -> tuple[int, int, str]:
        """Row group, row in it, and both in words."""
        group = bisect_right(self._starts, index) - 1
        row = int(index) - self._starts[group]
        return group, row, f"{self._groups[group][0]}: row {row} of row group {self._groups[group][1]}"

    def labels(self) -> np.ndarray | None:
        """(len,) int64; -1 for a row without one."""
        return self._labels

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in self.__dict__.items() if key != "_paths"}
        return {**kept, "_kept": {}}  # a spawned worker reads for itself

    def _row_group(self, group: int) -> pa.ChunkedArray | str:
        """The image bytes of a row group, or why they cannot be read."""
        if group not in self._kept:
            if self._fits:  # all at once, in the process that asks first: forked workers share it
                wanted = range(len(self._groups))
            else:
                wanted = range(group, group + 1)
                while len(self._kept) >= _KEPT_ROW_GROUPS:
                    self._kept.pop(next(iter(self._kept)))
            for each in wanted:
                path, number = self._groups[each]
                try:
                    self._kept[each] = _read(path, number, self._image, self._leaf)
                except DataError as error:
                    self._kept[each] = str(error)
        return self._kept[group]


def _open(path: str) -> pq.ParquetFile:
    try:
        # pre_buffer would start threads, of which a worker has one
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        rule = f"not a whole parquet file: {error}"
        raise DataError(sentence("data", path, rule, "Download or write it again.")) from error


def _read(path: str, group: int | None, column: str, leaf: str = "") -> pa.ChunkedArray:
    """A column, or one field of a struct column, of one row group or of the whole file."""
    file, columns = _open(path), [f"{column}.{leaf}" if leaf else column]
    try:
        if group is None:
            table = file.read(columns, use_threads=False)
        else:
            table = file.read_row_group(group, columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        where = "" if group is None else f" in row group {group}"
        raise DataError(sentence("data", path, f"damaged{where}: {error}")) from error
    return pc.struct_field(table[column], leaf) if leaf else table[column]


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What Hugging Face datasets wrote about each column; empty where it did not."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}


def _image_column(schema: pa.Schema, features: dict[str, Any], spec: str) -> tuple[str, str]:
    """The image column and, if it is a struct, the field with the bytes."""
    found = {}
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            found[field.name] = "bytes"
        elif pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            found[field.name] = ""
    declared = [name for name in found if features.get(name, {}).get("_type") == "Image"]
    for choice in (["image"] if "image" in found else [], declared, list(found)):
        if len(choice) == 1:
            return choice[0], found[choice[0]]
    rule = f"no column of images, or more than one, among {', '.join(schema.names)}"
    raise DataError(sentence("data", spec, rule, "Name the column of image bytes 'image'."))


def _label_column(schema: pa.Schema, features: dict[str, Any]) -> str | None:
    declared = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    name = "label" if "label" in schema.names else declared[0] if len(declared) == 1 else None
    if name is None:
        return None
    kind = schema.field(name).type
    is_class = pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return name if is_class else None


def numbered(columns: list[pa.ChunkedArray], names: list[str] | None) -> tuple[list[str] | None, np.ndarray | None]:
    """Class names and (N,) int64 labels of columns that follow each other.

    Text becomes numbers in sorted order; a row without a label has -1; None, None when no row has one.
    """
    if pa.types.is_integer(columns[0].type):
        columns = [column.cast(pa.int64()) for column in columns]  # a part may have narrower ones
    values = pa.chunked_array([chunk for column in columns for chunk in column.chunks])
    if not pa.types.is_integer(values.type):
        names = sorted(name for name in pc.unique(values).to_pylist() if name is not None)
        values = pc.index_in(values, pa.array(names, values.type))
    labels = pc.fill_null(values.cast(pa.int64()), -1).to_numpy()
    return (None, None) if (labels < 0).all() else (names, labels)
