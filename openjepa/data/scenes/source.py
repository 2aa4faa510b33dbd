"""`scenes` as a source of images: labels by task, an optional cache on disk, and its spec on the command line.

No section of the paper. Caching: images are rendered once into a private file that is then renamed into
place, so that no reader ever sees half a cache and of two writers the last one wins with the same bytes.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from openjepa.data.scenes.scene import MAX_OBJECTS, SIZE, TASKS, Scene, Truth, class_names, observe, render
from openjepa.data.scenes.world import SHAPES
from openjepa.data.source import Item, Source
from openjepa.errors import ConfigError, DataError, nearest, sentence

VERSION = 1
"""To be raised whenever a scene changes by a single byte: it is part of the identity and of cache names."""

SIDES = (16, 1024)
"""Least and greatest height or width: below, objects are a few pixels; above, numpy is no renderer."""
MOST_OBJECTS = 8
"""More find no room: the counts would no longer be balanced."""

SCALES = (0.7, 1.6)
"""Least and greatest scale: below, objects are a few pixels; above, the camera finds no place to see one whole."""

_BLOCK = 64  # images that one worker renders before it hands them over


@dataclass(frozen=True)
class _Set:
    """What decides every byte of a set of scenes."""

    num_images: int
    size: tuple[int, int]
    seed: int
    max_objects: int
    scale: float

    @property
    def record(self) -> np.dtype:
        """One scene on disk: its image and its class for each task."""
        labels = [(task, np.uint8) for task in TASKS]
        return np.dtype([("image", np.uint8, (*self.size, 3)), *labels])

    @property
    def file_name(self) -> str:
        """The name of the cache of exactly this set."""
        return (
            f"scenes-v{VERSION}-n{self.num_images}-{self.size[0]}x{self.size[1]}"
            f"-seed{self.seed}-objects{self.max_objects}{f'-scale{self.scale:g}' if self.scale != 1 else ''}.npy"
        )


class Scenes(Source):
    """`num_images` scenes of `seed`; the label of each is its class in `task`.

    Scene i depends on (seed, size, max_objects, scale, i) alone: a shorter set is the start of a longer one, and
    another seed is another split. With `cache`, a folder, all are rendered once on construction, by
    `workers` processes (none: here), and read from a memory map ever after. Raises ConfigError with every
    mistake at once, and DataError for a cache that is not one.
    """

    def __init__(
        self,
        num_images: int = 10_000,
        size: tuple[int, int] = SIZE,
        seed: int = 0,
        max_objects: int = MAX_OBJECTS,
        scale: float = 1.0,
        task: str = "num_objects",
        cache: Path | None = None,
        workers: int = 0,
    ) -> None:
        _check(num_images, size, max_objects, scale, task, workers)
        self.task = task
        self.cache = cache
        self._set = _Set(num_images, size, seed, max_objects, scale)
        self.classes = class_names(task, max_objects)
        self.identity = (
            f"scenes-v{VERSION}?num_images={num_images}&size={size[0]}x{size[1]}&seed={seed}"
            f"&max_objects={max_objects}{f'&scale={scale:g}' if scale != 1 else ''}&task={task}"
        )
        if cache is not None and not (cache / self._set.file_name).exists():
            _fill(self._set, cache, workers)

    def __len__(self) -> int:
        return self._set.num_images

    def __getitem__(self, index: int) -> Item:
        if self._records is None:
            scene = self.scene(index)
            return Item(scene.image, self.name(index), TASKS[self.task](scene))
        record = self._records[self._known(index)]
        return Item(np.array(record["image"]), self.name(index), int(record[self.task]))

    def name(self, index: int) -> str:
        return f"scenes/{self._known(index):06d}"

    def scene(self, index: int) -> Scene:
        """Scene `index` with its whole truth, rendered anew."""
        return render(self._set.seed, self._known(index), self._set.size, self._set.max_objects, self._set.scale)

    def truth(self, index: int) -> Truth:
        """The truth of scene `index` without its picture."""
        return observe(self._set.seed, self._known(index), self._set.size, self._set.max_objects, self._set.scale)

    def labels(self) -> np.ndarray:
        """(len,) int64: the class of every scene in `task`."""
        return self._labels.copy()

    def questions(self) -> dict[str, np.ndarray]:
        """Every task's classes, whichever `task` is."""
        return truths(self, range(len(self)))

    def class_names(self, question: str) -> list[str]:
        return class_names(question, self._set.max_objects)

    def fingerprint(self, index: int) -> bytes:
        """From the address, without rendering."""
        what = self._set
        address = f"scenes-v{VERSION} {what.size} {what.seed} {what.max_objects} {what.scale:g} {self._known(index)}"
        return hashlib.blake2b(address.encode(), digest_size=16).digest()

    dense_names = ("depth", "mask")

    def dense(self, index: int) -> dict[str, np.ndarray]:
        """`depth`: world units along the ray; `mask`: 0 ground and sky, then 1 + position in SHAPES."""
        truth = self.truth(index)
        number = np.array([0, *(1 + SHAPES.index(solid.shape) for solid in truth.objects)], np.uint8)
        return {"depth": truth.depth, "mask": number[truth.instances]}

    @cached_property
    def _labels(self) -> np.ndarray:
        return truths(self, range(len(self)))[self.task]

    @cached_property
    def _records(self) -> np.ndarray | None:
        return None if self.cache is None else _map(self.cache / self._set.file_name, self._set)

    def _known(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        return index

    def __getstate__(self) -> dict[str, Any]:
        # A memory map pickles as all of its bytes: every reader opens its own instead.
        return {key: value for key, value in self.__dict__.items() if key != "_records"}


def truths(scenes: Scenes, indices: Iterable[int]) -> dict[str, np.ndarray]:
    """(len(indices),) int64 classes of these scenes for every task, from the cache where there is one."""
    positions = list(indices)
    records = scenes._records
    if records is not None:
        return {task: records[task][positions].astype(np.int64) for task in TASKS}
    found = [scenes.truth(index) for index in positions]
    return {task: np.array([answer(truth) for truth in found], np.int64) for task, answer in TASKS.items()}


def parse(spec: str) -> Scenes:
    """The scenes of a spec such as 'scenes?num_images=2000&size=48x64&seed=3&task=distance_bin'.

    Keys are the arguments of `Scenes`; `size` is one number or HEIGHTxWIDTH. Raises ConfigError.
    """
    name, mark, query = spec.partition("?")
    if name != "scenes":
        raise ConfigError(sentence("data", spec, "is not 'scenes'", _REMEDY))
    given: dict[str, Any] = {}
    mistakes = []
    for part in query.split("&") if mark else []:
        key, _, text = part.partition("=")
        if key not in _READERS:
            mistakes.append(sentence("scenes", part, "unknown key", nearest(key, _READERS)))
        elif key in given:
            mistakes.append(sentence("scenes", part, f"{key} is given twice"))
        else:
            given[key] = text
    for key, text in given.items():
        try:
            given[key] = _READERS[key](text)
        except ValueError:
            mistakes.append(sentence(f"scenes {key}", text, "cannot be read", _REMEDY))
    if mistakes:
        raise ConfigError(mistakes)
    return Scenes(**given)


_REMEDY = "Write it like 'scenes?num_images=2000&size=48x64&seed=3'."


def _read_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


_READERS: dict[str, Callable[[str], Any]] = {
    "num_images": int,
    "size": _read_size,
    "seed": int,
    "max_objects": int,
    "scale": float,
    "task": str,
    "cache": Path,
    "workers": int,
}


def _check(num_images: int, size: tuple[int, int], max_objects: int, scale: float, task: str, workers: int) -> None:
    """Raises ConfigError with every setting that cannot be used."""
    low, high = SIDES
    rules = {
        "num_images": (num_images, num_images >= 1, "needs one at least"),
        "size": (
            size,
            all(low <= side <= high for side in size),
            f"sides are {low} to {high} pixels",
        ),
        "max_objects": (max_objects, 1 <= max_objects <= MOST_OBJECTS, f"is 1 to {MOST_OBJECTS}"),
        "scale": (scale, SCALES[0] <= scale <= SCALES[1], f"is {SCALES[0]} to {SCALES[1]}"),
        "task": (task, task in TASKS, "unknown task"),
        "workers": (workers, workers >= 0, "cannot be negative"),
    }
    mistakes = [
        sentence(f"scenes {key}", given, rule, nearest(task, TASKS) if key == "task" else "")
        for key, (given, is_right, rule) in rules.items()
        if not is_right
    ]
    if mistakes:
        raise ConfigError(mistakes)


def _fill(what: _Set, directory: Path, workers: int) -> None:
    """Renders the set into its cache file, which appears whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    blocks = [range(start, min(start + _BLOCK, what.num_images)) for start in range(0, what.num_images, _BLOCK)]
    private = directory / f"{what.file_name}.{uuid.uuid4().hex}.part"
    try:
        records = np.lib.format.open_memmap(private, mode="w+", dtype=what.record, shape=(what.num_images,))
        for block, done in zip(blocks, _rendered(what, blocks, workers), strict=True):
            records[block.start : block.stop] = done
        records.flush()
        os.replace(private, directory / what.file_name)
    finally:
        private.unlink(missing_ok=True)


def _rendered(what: _Set, blocks: Sequence[range], workers: int) -> Iterable[np.ndarray]:
    """The records of each block, in order."""
    work = partial(_render_block, what)
    if not workers:
        yield from map(work, blocks)
        return
    # Spawned, not forked: the process that trains holds the threads of torch.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, blocks)


def _render_block(what: _Set, block: range) -> np.ndarray:
    """(len(block),) records."""
    records = np.empty(len(block), what.record)
    for record, index in zip(records, block, strict=True):
        scene = render(what.seed, index, what.size, what.max_objects, what.scale)
        record["image"] = scene.image
        for task, answer in TASKS.items():
            record[task] = answer(scene)
    return records


def _map(path: Path, what: _Set) -> np.ndarray:
    """The cache at `path`, read-only and not in memory."""
    remedy = "Delete it; it will be rendered anew."
    try:
        records = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(sentence("cache", str(path), f"is not a cache: {error}", remedy)) from error
    if records.dtype != what.record or records.shape != (what.num_images,):
        raise DataError(sentence("cache", str(path), "holds something else", remedy))
    return records
