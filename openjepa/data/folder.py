"""A folder of images, with or without class sub-folders.

The listing is sorted, so a position means the same image wherever the folder is read.
"""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pyarrow as pa

from openjepa.data.images import BadImage
from openjepa.data.source import Item, Source
from openjepa.errors import DataError, sentence


class Folder(Source):
    """Image files below `root`; `files` are relative to it and sorted.

    Labels are the first-level sub-folders, when every image lies in one and there are at least two.
    """

    def __init__(self, root: str, files: list[str]) -> None:
        self.root = root
        # one arrow buffer, not a list: a million objects would be copied into every forked worker
        self._files = pa.array([os.fsencode(file) for file in files], pa.large_binary())
        tops = [file.split(os.sep, 1)[0] if os.sep in file else "" for file in files]
        names = sorted(set(tops))
        self.classes = names if len(names) > 1 and "" not in names else None
        self._labels = None
        if self.classes is not None:
            number = {name: i for i, name in enumerate(names)}
            self._labels = np.array([number[top] for top in tops], dtype=np.int64)
        self.identity = f"folder {root}: {len(files)} images"

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Item:
        path = self.name(index)
        try:
            with open(path, "rb") as file:
                image = file.read()
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}", path) from error
        return Item(image, path, None if self._labels is None else int(self._labels[index]))

    def name(self, index: int) -> str:
        """Its path."""
        return os.path.join(self.root, os.fsdecode(self._files[int(index)].as_py()))

    def labels(self) -> np.ndarray | None:
        """(len,) int64: positions in `classes`."""
        return self._labels


def list_files(root: str, suffixes: tuple[str, ...]) -> tuple[list[str], Counter[str]]:
    """Files below `root` with one of the suffixes, sorted and relative to it, and a count of other suffixes.

    Follows symbolic links, enters no folder twice, skips hidden files and folders. A link that leads
    nowhere is listed, so that it is reported as a bad image and not lost. Raises DataError for a folder
    that cannot be read: its images would be missing without a word.
    """
    files: list[str] = []
    others: Counter[str] = Counter()
    entered = set()
    stack = [""]
    while stack:
        folder = stack.pop()
        identity, entries = _scan(os.path.join(root, folder))
        if identity in entered:
            continue
        entered.add(identity)
        subfolders = []
        for name, is_folder in entries:
            path = os.path.join(folder, name)
            if is_folder:
                subfolders.append(path)
            elif (suffix := os.path.splitext(name)[1].lower()) in suffixes:
                files.append(path)
            else:
                others[suffix] += 1
        stack += reversed(subfolders)  # so that the link or folder that comes first is the one entered
    return sorted(files), others


def _scan(path: str) -> tuple[tuple[int, int], list[tuple[str, bool]]]:
    """What a folder is (device, inode), and its entries that are not hidden: sorted (name, is a folder)."""
    try:
        status = os.stat(path)
        with os.scandir(path) as found:
            entries = [(e.name, e.is_dir()) for e in found if not e.name.startswith(".")]
    except OSError as error:
        rule = f"this folder cannot be read: {error.strerror}"
        raise DataError(sentence("data", path, rule, "Try chmod -R u+rX.")) from error
    return (status.st_dev, status.st_ino), sorted(entries)
