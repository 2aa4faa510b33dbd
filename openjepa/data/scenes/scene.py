"""One scene with everything that is true of it, and the questions that evaluation asks.

Paper section 4 counts objects and tells distances on CLEVR (Clevr/Count, Clevr/Dist); the same questions are
asked here. Departure: a third one, the shape of the largest object.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from openjepa.data.scenes.casting import Hits, cast
from openjepa.data.scenes.shading import picture
from openjepa.data.scenes.world import SHAPES, World, draw
from openjepa.randomness import generator

SIZE = (64, 64)
"""Height and width of a picture, unless told otherwise."""
MAX_OBJECTS = 6
"""Objects at most, unless told otherwise: the count is uniform from one to this."""
DISTANCE_EDGES = (4.5, 5.05, 5.6, 6.1, 6.85)
"""World units between the six bins of `distance_bin`: sextiles over 6,000 scenes of up to six objects."""

_JUDGED_SIDE = 64  # whether objects show is judged at this shorter side, so that all larger sizes agree
_OWN_SIDE = 32  # below this shorter side an image is judged as it is, or objects might fall between pixels
_MIN_SHARE = 20 / 64**2  # of the image, that every object shows
_TRIES = 12


@dataclass(frozen=True)
class SceneObject:
    """One solid. All but the last two fields are the same at every image size of one aspect."""

    shape: str
    colour: str
    size: str
    material: str
    position: tuple[float, float, float]
    """Centre, in world units: z is up, the ground is z = 0."""
    yaw_rad: float
    distance: float
    """World units from the camera to the nearest point that shows: the smallest depth over its pixels."""
    visible_pixels: int


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of a scene, without its picture."""

    depth: np.ndarray
    """(H, W) float32: world units from the camera to what is seen, along the ray, at most `casting.FAR`."""
    instances: np.ndarray
    """(H, W) uint8: 0 ground or sky, i + 1 for object i."""
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True, eq=False)
class Scene(Truth):
    """A scene with its picture."""

    image: np.ndarray
    """(H, W, 3) uint8."""


def render(
    seed: int, index: int, size: tuple[int, int] = SIZE, max_objects: int = MAX_OBJECTS, scale: float = 1.0
) -> Scene:
    """Scene `index` of `seed` as an image of `size`, (height, width), its solids `scale` times their usual size.

    A pure function of its arguments.
    """
    world, hits = _compose(seed, index, size, max_objects, scale)
    truth = _truth(world, hits, size)
    image = picture(world, hits, world.camera.rays(size), size)
    return Scene(truth.depth, truth.instances, truth.objects, image)


def observe(
    seed: int, index: int, size: tuple[int, int] = SIZE, max_objects: int = MAX_OBJECTS, scale: float = 1.0
) -> Truth:
    """What `render` would tell of the scene, without the price of its picture."""
    return _truth(*_compose(seed, index, size, max_objects, scale), size)


def _compose(seed: int, index: int, size: tuple[int, int], max_objects: int, scale: float = 1.0) -> tuple[World, Hits]:
    """A world in which all objects show, and what the centres of its pixels hit.

    Drawn again while an object is hidden; after the last try the hidden ones are left out.
    """
    rng = generator(seed, "scenes", index)
    num_objects = int(rng.integers(1, max_objects + 1))
    zoom = _JUDGED_SIDE / min(size) if min(size) >= _OWN_SIDE else 1
    raster = round(size[0] * zoom), round(size[1] * zoom)
    floor = math.ceil(_MIN_SHARE * raster[0] * raster[1])
    for _ in range(_TRIES):
        while not (world := draw(rng, num_objects, raster, scale)).solids:
            pass  # the camera stood so near that nothing found room
        hits = _look(world, raster)
        visible = _visible(hits, len(world.solids))
        if len(world.solids) == num_objects and min(visible) >= floor:
            return world, hits if raster == size else _look(world, size)
    floor = min(floor, max(visible))
    kept = [s for s, pixels in zip(world.solids, visible, strict=True) if pixels >= floor]
    world = replace(world, solids=tuple(kept))
    return world, _look(world, size)


def _look(world: World, size: tuple[int, int]) -> Hits:
    return cast(world, world.camera.origin, world.camera.rays(size))


def _visible(hits: Hits, num_objects: int) -> list[int]:
    """Pixels that show each object."""
    return np.bincount(hits.instances, minlength=num_objects + 1)[1:].tolist()


def _truth(world: World, hits: Hits, size: tuple[int, int]) -> Truth:
    nearest = np.full(len(world.solids) + 1, np.inf, np.float32)
    np.minimum.at(nearest, hits.instances, hits.distance)
    visible = _visible(hits, len(world.solids))
    objects = tuple(
        SceneObject(s.shape, s.colour, s.size, s.material, s.centre, s.yaw_rad, distance, pixels)
        for s, distance, pixels in zip(world.solids, nearest[1:].tolist(), visible, strict=True)
    )
    return Truth(hits.distance.reshape(size), hits.instances.reshape(size), objects)


def num_objects(scene: Truth) -> int:
    """Clevr/Count: class 0 is one object."""
    return len(scene.objects) - 1


def shape_of_largest(scene: Truth) -> int:
    """Position in SHAPES of the object with the most visible pixels, the first of equals."""
    return SHAPES.index(max(scene.objects, key=lambda o: o.visible_pixels).shape)


def distance_bin(scene: Truth) -> int:
    """Clevr/Dist: how many DISTANCE_EDGES lie at or below the distance of the closest object."""
    return bisect(DISTANCE_EDGES, min(o.distance for o in scene.objects))


TASKS: dict[str, Callable[[Truth], int]] = {
    "num_objects": num_objects,
    "shape_of_largest": shape_of_largest,
    "distance_bin": distance_bin,
}
"""Questions by name; each answers with a class from 0."""


def class_names(task: str, max_objects: int) -> list[str]:
    """The classes of a task, in order."""
    if task == "num_objects":
        return [str(count) for count in range(1, max_objects + 1)]
    if task == "shape_of_largest":
        return list(SHAPES)
    low, high = ("0", *map(str, DISTANCE_EDGES)), (*map(str, DISTANCE_EDGES), "inf")
    return [f"{a} to {b}" for a, b in zip(low, high, strict=True)]
