"""CLEVR_v1.0 as a source of images, labelled with how many objects there are or with how far the closest one is.

Paper table 4 (Clevr/Count, Clevr/Dist). Images and scenes are those of Johnson et al. 2017 (CVPR), classes those of
the visual task adaptation benchmark, VTAB (Zhai et al. 2019, arXiv 1910.04867), which trains on train and tests on
val: scenes of test were never published. The benchmark pairs images with scenes by their order, we by the file name
that each scene carries; the published files give the same pairs.
"""

from __future__ import annotations

import json
import os
from itertools import pairwise
from typing import Any

import numpy as np

from openjepa.data.images import BadImage
from openjepa.data.source import Item, Source
from openjepa.errors import ConfigError, DataError, nearest, sentence

COUNTS = range(3, 11)
"""Objects in a scene of CLEVR (Johnson et al. 2017, section 3), and the classes of Clevr/Count."""

DISTANCE_EDGES = (8.0, 8.5, 9.0, 9.5, 10.0)
"""Distances from the camera between the six bins of Clevr/Dist; one that lies on an edge belongs to the bin below.

Source: google-research/task_adaptation, data/clevr.py, which ends the outer bins at 0 and at `FARTHEST`.
"""
FARTHEST = 100.0
"""Where the last bin ends: what is farther has no class."""

CHOICES = {"split": ("train", "val"), "task": ("count", "distance")}
"""What the keys of a spec may say; `root` is free."""

_KEYS = ("root", *CHOICES)
_KEPT = ("scenes", "image_filename", "objects", "pixel_coords")
_REMEDY = "Write it like 'clevr?root=/path/to/CLEVR_v1.0&split=train&task=count'."
_ROOT_REMEDY = "Give the unpacked folder CLEVR_v1.0, with images/ and scenes/ in it."


class Clevr(Source):
    """The images of one split below `root`, an unpacked CLEVR_v1.0, in the order of its scene file.

    `split` is train or val, `task` count or distance. The scene file is read once, here; images are looked at
    only when they are asked for. Raises ConfigError for an unknown split or task, and DataError for a folder or
    a scene file that is not CLEVR's.
    """

    classes: list[str]
    num_objects: np.ndarray
    """(len,) int64, each in COUNTS."""
    closest: np.ndarray
    """(len,) float32: distance of the closest object from the camera, in Blender's units."""

    def __init__(self, root: str, split: str = "train", task: str = "count") -> None:
        if mistakes := _mistakes({"split": split, "task": task}):
            raise ConfigError(mistakes)
        self.root, self.split, self.task = os.path.expanduser(root), split, task
        self._images, path = _places(self.root, split)
        names, counts, closest = zip(*_read(path), strict=True)
        # arrays, not lists: 70,000 objects would be copied into every forked worker
        self._names = np.array(names)
        self.num_objects = np.array(counts, np.int64)
        # float32, as the benchmark compares them: it decides on which side of an edge a distance lies
        self.closest = np.array(closest, np.float32)
        self._labels = self.questions()[task]
        self.classes = class_names(task)
        # without the root: CLEVR is the same images wherever it lies
        self.identity = f"clevr-v1.0?split={split}&task={task}: {len(names)} images"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Item:
        path = self.name(index)
        try:
            with open(path, "rb") as file:
                image = file.read()
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}", path) from error
        return Item(image, path, int(self._labels[index]))

    def name(self, index: int) -> str:
        """Its path."""
        return os.path.join(self._images, str(self._names[index]))

    def labels(self) -> np.ndarray:
        """(len,) int64: positions in `classes`."""
        return self._labels.copy()

    def questions(self) -> dict[str, np.ndarray]:
        """Both tasks' classes, whichever `task` is."""
        edges = np.array(DISTANCE_EDGES, np.float32)
        bins = np.searchsorted(edges, self.closest, side="left").astype(np.int64)
        return {"count": self.num_objects - COUNTS.start, "distance": bins}

    def class_names(self, question: str) -> list[str]:
        """What the classes of a task are called."""
        return class_names(question)


def class_names(task: str) -> list[str]:
    """The classes of a task, in order: '3' to '10', or '< 8', '8 to 8.5' and on to '> 10'."""
    if task == "count":
        return [str(count) for count in COUNTS]
    edges = [f"{edge:g}" for edge in DISTANCE_EDGES]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return [f"< {edges[0]}", *between, f"> {edges[-1]}"]


def parse(spec: str) -> Clevr:
    """The images of a spec such as 'clevr?root=/path/to/CLEVR_v1.0&split=val&task=distance'.

    Keys are the arguments of `Clevr`. Raises ConfigError with every mistake at once, and DataError as `Clevr` does.
    """
    name, mark, query = spec.partition("?")
    if name != "clevr":
        raise ConfigError(sentence("data", spec, "is not 'clevr'", _REMEDY))
    given: dict[str, str] = {}
    mistakes = []
    for part in query.split("&") if mark else []:
        key, _, text = part.partition("=")
        if key not in _KEYS:
            mistakes.append(sentence("clevr", part, "unknown key", nearest(key, _KEYS)))
        elif key in given:
            mistakes.append(sentence("clevr", part, f"{key} is given twice"))
        else:
            given[key] = text
    if not given.get("root"):
        mistakes.append(sentence("data", spec, "has no root", _REMEDY))
    mistakes += _mistakes(given)
    if mistakes:
        raise ConfigError(mistakes)
    return Clevr(**given)


def _mistakes(given: dict[str, str]) -> list[str]:
    """A sentence for each key of `given` that says none of its CHOICES."""
    mistakes = []
    for key, known in CHOICES.items():
        if key not in given or given[key] in known:
            continue
        rule, remedy = f"unknown {key}", nearest(given[key], known)
        if (key, given[key]) == ("split", "test"):
            rule, remedy = "has no scene file, so no labels", "Take 'val', as the benchmark does."
        mistakes.append(sentence(f"clevr {key}", given[key], rule, remedy))
    return mistakes


def _places(root: str, split: str) -> tuple[str, str]:
    """The folder of the images and the scene file of a split; both exist, or DataError says what does."""
    if not os.path.isdir(root):
        rule = "is not a folder" if os.path.exists(root) else "does not exist"
        raise DataError(sentence("clevr root", root, rule, _ROOT_REMEDY))
    images = os.path.join(root, "images", split)
    scenes = os.path.join(root, "scenes", f"CLEVR_{split}_scenes.json")
    folders = (os.path.dirname(images), os.path.dirname(scenes), images)
    missing = [path for path in folders if not os.path.isdir(path)]
    if not os.path.isfile(scenes):
        missing.append(scenes)
    if missing:
        parent, name = os.path.split(missing[0])
        deeper = os.path.join(root, "CLEVR_v1.0")  # where the archive puts all of it
        remedy = f"Did you mean {deeper!r}?" if os.path.isdir(deeper) else _ROOT_REMEDY
        raise DataError(sentence("clevr root", root, f"there is no {name!r} in {parent}; {_inside(parent)}", remedy))
    return images, scenes


def _inside(folder: str) -> str:
    """What lies in a folder, as text; the first few names."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return f"it cannot be listed: {error.strerror}"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"found {', '.join(names[:8])}{more}" if names else "it is empty"


def _read(path: str) -> list[tuple[str, int, float]]:
    """File name, number of objects and distance of the closest one, for each scene of a file, in its order."""
    remedy = "Unpack CLEVR_v1.0 anew."
    try:
        with open(path, encoding="utf-8") as file:
            whole = json.load(file, object_hook=_kept)
    except OSError as error:
        raise DataError(sentence("clevr scenes", path, f"cannot be read: {error.strerror}")) from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        raise DataError(sentence("clevr scenes", path, f"is broken: {error}", remedy)) from error
    scenes = whole.get("scenes") if isinstance(whole, dict) else None
    if not isinstance(scenes, list):
        raise DataError(sentence("clevr scenes", path, "has no list 'scenes'", remedy))
    if not scenes:
        raise DataError(sentence("clevr scenes", path, "its list 'scenes' is empty", remedy))
    return [_read_scene(number, scene, path) for number, scene in enumerate(scenes)]


def _kept(parsed: dict[str, Any]) -> dict[str, Any]:
    """What we need of a JSON object, taken while it is parsed: all of train at once would fill gigabytes."""
    return {key: parsed[key] for key in _KEPT if key in parsed}


def _read_scene(number: int, scene: Any, path: str) -> tuple[str, int, float]:
    """File name, number of objects and distance of the closest one. DataError names the scene and what is wrong."""
    name = scene.get("image_filename") if isinstance(scene, dict) else None
    # a file in another folder, or a name that no file can have, would be an attack or an accident
    if not isinstance(name, str) or not name.isprintable() or not name or name != os.path.basename(name):
        raise _wrong(number, f"its 'image_filename' is {name!r}, not the name of a file", path)
    objects = scene.get("objects")
    if not isinstance(objects, list):
        raise _wrong(name, "has no list 'objects'", path)
    if len(objects) not in COUNTS:
        rule = f"has {len(objects)} objects; CLEVR has {COUNTS[0]} to {COUNTS[-1]}"
        raise _wrong(name, rule, path)
    distances = []
    for position, each in enumerate(objects):
        coords = each.get("pixel_coords") if isinstance(each, dict) else None
        if coords is None:
            raise _wrong(name, f"object {position} has no 'pixel_coords'", path)
        if not (isinstance(coords, list) and len(coords) == 3 and _is_distance(coords[2])):
            rule = f"object {position} has pixel_coords {coords!r}; needs [x, y, distance], the distance above 0"
            raise _wrong(name, rule, path)
        distances.append(coords[2])
    if min(distances) > FARTHEST:
        raise _wrong(name, f"the closest object is {min(distances)!r} away; at most {FARTHEST:g} has a class", path)
    return name, len(objects), min(distances)


def _is_distance(value: Any) -> bool:
    """True of numbers above 0, so not of NaN, which json accepts."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _wrong(scene: int | str, rule: str, path: str) -> DataError:
    return DataError(sentence("clevr scene", scene, rule, f"{path} is damaged, or is not that of CLEVR_v1.0."))
