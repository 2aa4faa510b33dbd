"""`hf://name`: data sets of the Hugging Face hub, and local ones in any layout its library reads.

`hf://NAME?split=train&config=..&revision=..&image=COLUMN&label=COLUMN&streaming=1`. Without streaming the
library downloads once to memory-mapped files and access is random. A stream needs no disk, comes in its
own order, the same every epoch, and is read from its start by every worker and after every resumption.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from torch.utils.data import get_worker_info

from openjepa.data.images import BadImage
from openjepa.data.parquet import numbered
from openjepa.data.source import Item, Source
from openjepa.errors import DataError, nearest, sentence

_RECENT = 64  # rows of a stream that may be asked for again: replacements reach a few rows ahead


@dataclass(frozen=True)
class Address:
    """What stands in an hf:// word."""

    name: str
    split: str = "train"
    config: str | None = None
    revision: str | None = None
    image: str | None = None
    label: str | None = None
    streaming: bool = False


def parse(spec: str) -> Address:
    """hf://NAME?key=value&.. to an Address. DataError for a key that does not exist."""
    name, _, query = spec.removeprefix("hf://").partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    known = [field.name for field in fields(Address) if field.name != "name"]
    for key in given:
        if key not in known:
            raise DataError(sentence("data", spec, f"unknown key {key!r}", nearest(key, known)))
    streaming = given.pop("streaming", "0")
    if not name or streaming not in ("0", "1"):
        remedy = "Type hf://NAME?split=train&streaming=1, say."
        raise DataError(sentence("data", spec, "needs a name, and streaming is 0 or 1", remedy))
    return Address(name, streaming=streaming == "1", **given)


def open_huggingface(spec: str) -> Source:
    """The source of an hf:// word. DataError when it cannot be had, saying what to check."""
    address = parse(spec)
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        remedy = "Type pip install 'openjepa[hf]'."
        raise DataError(sentence("data", spec, "needs the datasets library", remedy)) from error
    try:
        rows = _load(address)
        image, label = _columns(spec, address, rows.features or {})
        rows = rows.select_columns([image, label] if label else [image])
        rows = rows.cast_column(image, datasets.Image(decode=False))
    except (DatasetsError, OSError, ValueError, RuntimeError, ImportError) as error:
        remedy = (
            "Check the name, split and config, the network (is HF_HUB_OFFLINE set?) and, for data sets "
            "behind a gate, `hf auth login`."
        )
        raise DataError(sentence("data", spec, f"cannot be opened: {error}", remedy)) from error
    return (_Stream if address.streaming else _Rows)(spec, rows, image, label)


def _load(address: Address) -> Any:
    """The rows as the library gives them. Local: a folder, a .parquet file, or what save_to_disk wrote."""
    import datasets

    name, split, streaming = address.name, address.split, address.streaming
    if os.path.isfile(name) and name.endswith(".parquet"):
        return datasets.load_dataset("parquet", data_files=name, split="train", streaming=streaming)
    if os.path.isdir(name) and {"state.json", "dataset_dict.json"} & set(os.listdir(name)):
        saved = datasets.load_from_disk(name)
        if isinstance(saved, datasets.DatasetDict):
            if split not in saved:
                raise ValueError(f"unknown split {split!r}; it has {sorted(saved)}")
            saved = saved[split]
        return saved.to_iterable_dataset() if streaming else saved
    return datasets.load_dataset(name, address.config, split=split, revision=address.revision, streaming=streaming)


def _columns(spec: str, address: Address, features: Any) -> tuple[str, str | None]:
    """The image column and the label column, found by their type unless they are named."""
    import datasets

    for given in (address.image, address.label):
        if given is not None and given not in features:
            rule = f"no column {given!r}"
            raise DataError(sentence("data", spec, rule, nearest(given, features)))
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    image = address.image or (images[0] if len(images) == 1 else None)
    if image is None:
        rule = f"has {len(images)} columns of images among {list(features)}"
        raise DataError(sentence("data", spec, rule, "Name one: hf://NAME?image=COLUMN."))
    holds_images = isinstance(features[image], datasets.Image)
    if not holds_images and getattr(features[image], "dtype", "") not in ("binary", "large_binary"):
        rule = f"column {image!r} holds no images but {features[image]}"
        raise DataError(sentence("data", spec, rule, f"Columns: {', '.join(features)}."))
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    label = address.label or ("label" if "label" in features else labels[0] if len(labels) == 1 else None)
    if label is not None and not re.match("u?int|(large_)?string", getattr(features[label], "dtype", "")):
        label = None  # boxes, sentences with translations and the like: no classes
    return image, label


class _Rows(Source):
    """A downloaded data set: random access to memory-mapped rows."""

    def __init__(self, spec: str, rows: Any, image: str, label: str | None) -> None:
        self._spec, self._rows, self._image = spec, rows.select_columns([image]), image
        self.classes, self._labels = None, None
        if label is not None:
            column = rows.with_format("arrow")[label][:]
            self.classes, self._labels = numbered([column], getattr(rows.features[label], "names", None))
        self.identity = f"{spec}: {len(rows)} images"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        label = None if self._labels is None else int(self._labels[index])
        return _item(self._rows[int(index)][self._image], f"{self._spec} row {index}", label)

    def name(self, index: int) -> str:
        """The path that the row keeps, if it keeps one; no file is opened."""
        image = self._rows[int(index)][self._image]
        return (image or {}).get("path") or f"{self._spec} row {index}"

    def labels(self) -> np.ndarray | None:
        """(len,) int64 from the label column; -1 for a row without one."""
        return self._labels


def _item(image: dict[str, Any] | None, name: str, label: int | None) -> Item:
    data, path = (image["bytes"], image["path"]) if image else (None, None)
    if data is None and path is not None:  # the library leaves local images where they are
        name = path
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}", name) from error
    if data is None:
        raise BadImage("no image bytes in this row", name)
    return Item(data, name, label)


class _Stream(Source):
    """A stream read by rising position, which starts again where it ends.

    A later position advances, the last few come from memory, an earlier one starts anew.
    """

    is_sequential = True

    def __init__(self, spec: str, rows: Any, image: str, label: str | None) -> None:
        self._spec, self._rows, self._image, self._label = spec, rows, image, label
        self._length: int | None = None
        # by process: a forked worker must neither share its parent's position nor tear its reader down
        self._readers: dict[int, _Reader] = {}
        self.classes = getattr(rows.features[label], "names", None) if label else None
        self.identity = f"{spec}: stream"

    def __len__(self) -> int:
        rule = "a stream has no known length"
        remedy = "Give --steps, --images or --minutes instead of --epochs, or drop streaming=1."
        raise DataError(sentence("data", self._spec, rule, remedy))

    def __getitem__(self, index: int) -> Item:
        position = int(index)
        while True:
            if self._length is not None:
                position %= self._length
            row = self._reader(position).read(position)
            if row is not None:
                label = row[self._label] if self._label else None
                label = label if isinstance(label, int) else None  # text has no number before all is read
                return _item(row[self._image], f"{self._spec} row {position}", label)
            self._length = self._readers[os.getpid()].count
            if self._length == 0:
                raise DataError(sentence("data", self._spec, "an empty stream"))

    def labels(self) -> None:
        """None: they come with the images."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}

    def _reader(self, position: int) -> _Reader:
        reader = self._readers.get(os.getpid())
        if reader is None or position < reader.oldest:
            reader = self._readers[os.getpid()] = _Reader(self._rows)
        return reader


class _Reader:
    """One pass over a stream; `count` rows of it have been read."""

    def __init__(self, rows: Any) -> None:
        if get_worker_info() is not None:
            import fsspec.asyn  # type: ignore[import-untyped]

            fsspec.asyn.reset_lock()  # a forked event loop hangs; the library does the same
        # not iter(rows): in a loader's worker that gives only the worker's share of the files
        self._rows: Iterator[dict[str, list[Any]]] = rows.iter(batch_size=1)
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self.count = 0

    @property
    def oldest(self) -> int:
        """The first position that can still be read."""
        return self.count - len(self._recent)

    def read(self, position: int) -> dict[str, Any] | None:
        """The row at a position from `oldest` on, or None when the stream ends before it."""
        while self.count <= position:
            try:
                row = next(self._rows, None)
            except (OSError, ValueError, RuntimeError) as error:
                rule = f"broke off: {error}"
                raise DataError(sentence("stream", self.count, rule, "Check the network.")) from error
            if row is None:
                return None
            self._recent.append({column: values[0] for column, values in row.items()})
            self.count += 1
        return self._recent[position - self.oldest]
