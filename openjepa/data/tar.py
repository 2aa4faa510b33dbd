"""WebDataset tars: members that share a name up to the first dot of its last part belong together.

The headers are read once (20 s for a million members on one core, from disk cache); after that any image
is read by its offset, so shuffling and resuming are as exact as for a folder. The index is kept in memory only.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from openjepa.data.images import BadImage
from openjepa.data.source import SUFFIXES, Item, Source
from openjepa.errors import DataError, sentence

_LABEL = ".cls"


class Tar(Source):
    """The images of `paths`, in order; of several in one sample the first. `spec` is for messages."""

    classes = None

    def __init__(self, paths: list[str], spec: str) -> None:
        self._paths = paths
        names: list[bytes] = []
        rows: list[tuple[int, int, int, int, int]] = []
        for number, path in enumerate(paths):
            for name, offset, size, label_offset, label_size in _samples(path):
                names.append(os.fsencode(name))
                rows.append((number, offset, size, label_offset, label_size))
        if not rows:
            rule = f"no image among the members of {len(paths)} tar files"
            raise DataError(sentence("data", spec, rule, f"Members end in {', '.join(SUFFIXES)}."))
        self._names = pa.array(names, pa.large_binary())
        # columns: tar, image offset, image size, label offset, label size
        self._places = np.array(rows, dtype=np.int64)
        self.identity = f"tar {spec}: {len(self)} images"

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Item:
        number, offset, size, label_offset, label_size = self._places[index].tolist()
        path = self._paths[number]
        name = f"{path}: {self.name(index)}"
        try:
            image = _read(path, offset, size)
            label = _number(_read(path, label_offset, label_size))
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}", name) from error
        if len(image) < size:
            raise BadImage("its tar has become shorter since it was opened", name)
        return Item(image, name, label)

    def name(self, index: int) -> str:
        """Of the member."""
        return os.fsdecode(self._names[int(index)].as_py())

    def labels(self) -> np.ndarray | None:
        """(len,) int64 from the .cls members, or None unless every image has one that is a number."""
        labels = []
        for number, _, _, offset, size in self._places.tolist():
            if (label := _number(_read(self._paths[number], offset, size))) is None:
                return None
            labels.append(label)
        return np.array(labels, dtype=np.int64)


def _number(text: bytes) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _read(path: str, offset: int, size: int) -> bytes:
    """Opened anew each time: nothing to share between processes, and no limit on the number of tars."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.pread(handle, size, offset)
    finally:
        os.close(handle)


def _samples(path: str) -> Iterator[tuple[str, int, int, int, int]]:
    """(member, offset, size, label offset, label size) of each image of a tar; no label has size 0."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, tuple[int, int]] = {}
    for member in _members(path):
        folder, _, name = member.name.rpartition("/")
        stem, dot, suffix = name.partition(".")
        if not stem:  # hidden, such as the ._x.jpg of macOS
            continue
        key, suffix = f"{folder}/{stem}", (dot + suffix).lower()
        if suffix in SUFFIXES:
            images.setdefault(key, (member.name, member.offset_data, member.size))
        elif suffix == _LABEL:
            labels.setdefault(key, (member.offset_data, member.size))
    for key, image in images.items():
        yield *image, *labels.get(key, (0, 0))


def _members(path: str) -> Iterator[tarfile.TarInfo]:
    """Regular files of a tar. DataError unless it can be read to its end."""
    remedy = "Download or pack it again; compressed tars have no random access, so unpack those."
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else it keeps a million of them
                if member.islnk() or member.issym():
                    rule = f"{member.name!r} is a link"
                    raise DataError(sentence("data", path, rule, "Pack with tar -h --hard-dereference."))
                if member.isreg():
                    yield member
            with open(path, "rb") as file:  # tarfile takes a broken header for the end
                file.seek(tar.offset)
                if any(file.read(tarfile.BLOCKSIZE)):
                    raise DataError(sentence("data", path, "damaged half-way", remedy))
    except (tarfile.TarError, OSError) as error:
        raise DataError(sentence("data", path, f"not a whole tar file: {error}", remedy)) from error
