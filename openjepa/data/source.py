"""Where images come from: the contract of a source, and the one word of `--data` turned into a source.

No section of the paper: it trains on ImageNet folders only.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from braceexpand import braceexpand

from openjepa.data.images import BadImage
from openjepa.errors import DataError, sentence

FORMS = (
    "--data takes a folder of images, .parquet files (or a folder of them), WebDataset .tar files "
    "('shard-{000..012}.tar'), 'hf://name', 'scenes', "
    "'clevr?root=/path/to/CLEVR_v1.0' or 'masks?images=FOLDER&masks=FOLDER'"
)
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".gif", ".npy"),
)
"""File names that count as images, in lower case."""


@dataclass(frozen=True)
class Item:
    """One image as it lies in its source."""

    image: bytes | np.ndarray
    """An encoded file, or (H, W, C) uint8."""
    name: str
    """What a person needs in order to find it again."""
    label: int | None = None


class Source(ABC):
    """Images by position. Picklable, and safe to use in forked and in spawned workers."""

    classes: list[str] | None
    """Class names where they are known; `labels()` says whether there are labels at all."""
    identity: str
    """Short and stable, with the number of images: for run records."""
    is_sequential: bool = False
    """A stream: positions are read in rising order and are not shuffled by us."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of images. A stream of unknown length raises DataError."""

    @abstractmethod
    def __getitem__(self, index: int) -> Item:
        """The image at `index`, not decoded. Raises BadImage when this one cannot be read."""

    def name(self, index: int) -> str:
        """What a list of images would call the one at `index`: the path that it has, or had, of its own; where there
        is none, what `Item.name` says. Sources that know it read no image for it."""
        return self[index].name

    @abstractmethod
    def labels(self) -> np.ndarray | None:
        """(len,) int64 without decoding an image, or None when the source has no labels."""

    def questions(self) -> dict[str, np.ndarray]:
        """(len,) int64 by question: sets such as scenes have several labels an image; -1 is no answer."""
        labels = self.labels()
        return {} if labels is None else {"class": labels}

    def class_names(self, question: str) -> list[str] | None:
        """What the classes of a question are called, where that is known."""
        return self.classes

    def fingerprint(self, index: int) -> bytes:
        """16 bytes that are equal for images of equal content. An image that cannot be read has its position's."""
        try:
            image = self[index].image
        except BadImage:
            return hashlib.blake2b(f"{self.identity} {index}".encode(), digest_size=16).digest()
        content = image if isinstance(image, bytes) else str(image.shape).encode() + image.tobytes()
        return hashlib.blake2b(content, digest_size=16).digest()

    dense_names: tuple[str, ...] = ()
    """Maps that lie beside every image: "depth" (world units) or "mask" (class numbers, 255 to be ignored)."""

    def dense(self, index: int) -> dict[str, np.ndarray]:
        """(H, W) maps by name, of the size of the image. Sources without them are never asked."""
        raise NotImplementedError


def open_source(spec: str) -> Source:
    """The source that `spec`, the value of `--data`, stands for.

    Raises DataError for anything that is not a source, naming what would be.
    """
    if re.match(r"scenes($|[:?,;@])", spec):
        from openjepa.data.scenes import parse

        return parse(spec)
    # a folder of that name stays a folder: the word alone, without a root, means nothing else
    if re.match(r"clevr($|[:?,;@])", spec) and not os.path.exists(spec):
        from openjepa.data.clevr import parse as parse_clevr

        return parse_clevr(spec)
    if spec.startswith("masks?"):
        from openjepa.data.pairs import parse as parse_pairs

        return parse_pairs(spec)
    if spec.startswith("hf://"):
        from openjepa.data.huggingface import open_huggingface

        return open_huggingface(spec)
    if re.match(r"[a-z0-9+]+:", spec) and not os.path.exists(spec):
        rule = "is not on this machine"
        raise DataError(sentence("data", spec, rule, f"Download it first; {FORMS}."))
    if not spec:
        raise DataError(sentence("data", spec, "is empty", f"{FORMS}."))
    spec = os.path.expanduser(spec)
    if os.path.isdir(spec):
        return _open_folder(spec)
    return _open_files(spec, _expand(spec))


def _expand(spec: str) -> list[str]:
    """The files of a path, of brace ranges and of wildcards, in order; every one exists."""
    if os.path.exists(spec):
        return [spec]
    try:
        patterns = list(braceexpand(spec))
    except ValueError as error:
        raise DataError(sentence("data", spec, "has braces that do not pair", FORMS)) from error
    paths: list[str] = []
    for pattern in patterns:
        is_wild = glob.has_magic(pattern) and not os.path.exists(pattern)
        found = sorted(glob.glob(pattern, recursive=True)) if is_wild else [pattern]
        if not found or not os.path.exists(found[0]):
            raise DataError(sentence("data", spec, *_missing(pattern)))
        paths += found
    return paths


def _missing(path: str) -> tuple[str, str]:
    """The rule and the remedy for a path that does not exist: how far it does, and what is next to it."""
    parent, name = os.path.split(os.path.abspath(path))
    while not os.path.isdir(parent):
        parent, name = os.path.split(parent)
    rule = f"there is no {name!r} in {parent}"
    try:
        close = get_close_matches(name, os.listdir(parent), n=1)
    except OSError:
        close = []
    return rule, f"Did you mean {close[0]!r}?" if close else f"{FORMS}."


def _open_files(spec: str, paths: list[str]) -> Source:
    suffixes = Counter(_suffix(path) for path in paths)
    if len(suffixes) > 1:
        rule = f"mixes kinds of files: {_counts(suffixes)}"
        raise DataError(sentence("data", spec, rule, f"{FORMS}."))
    (suffix,) = suffixes
    if suffix == ".parquet":
        from openjepa.data.parquet import Parquet

        return Parquet(paths, spec)
    if suffix == ".tar":
        from openjepa.data.tar import Tar

        return Tar(paths, spec)
    if suffix in (".tgz", ".gz", ".zst", ".xz", ".bz2", ".zip"):
        remedy = "Unpack it, or for tar files take the compression off (gunzip, unzstd)."
        raise DataError(sentence("data", spec, "is compressed: it has no random access", remedy))
    remedy = "Give the folder that it lies in." if suffix in SUFFIXES else f"{FORMS}."
    raise DataError(sentence("data", spec, f"is a {suffix or 'nameless'} file", remedy))


def _open_folder(spec: str) -> Source:
    """A folder is what most of its files are: images, parquet files or tars."""
    from openjepa.data.folder import Folder, list_files

    files, others = list_files(spec, (*SUFFIXES, ".parquet", ".tar"))
    kinds = Counter("image" if _suffix(f) in SUFFIXES else _suffix(f) for f in files)
    if not kinds:
        seen = f"only {_counts(others)}" if others else "it is empty"
        raise DataError(sentence("data", spec, f"no image in this folder; {seen}", f"{FORMS}."))
    kind = kinds.most_common(1)[0][0]
    if kind == "image":
        return Folder(spec, [f for f in files if _suffix(f) in SUFFIXES])
    return _open_files(spec, [os.path.join(spec, f) for f in files if _suffix(f) == kind])


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _counts(suffixes: Counter[str]) -> str:
    """'3 .txt, 1 .zip', the commonest first."""
    return ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in suffixes.most_common(8))
