"""`scenes`: pictures of shaded solids in the spirit of CLEVR, each with its whole truth, made from (seed, index).

Pure numpy in float32. The same arguments give the same bytes on one machine and build of numpy; another's
sine or matrix product may differ in a last bit, and with it a pixel on an edge.
"""

from openjepa.data.scenes.scene import (
    DISTANCE_EDGES,
    MAX_OBJECTS,
    SIZE,
    TASKS,
    Scene,
    SceneObject,
    Truth,
    distance_bin,
    num_objects,
    observe,
    render,
    shape_of_largest,
)
from openjepa.data.scenes.source import Scenes, parse, truths
from openjepa.data.scenes.world import COLOURS, MATERIALS, RADII, SHAPES

__all__ = [
    "COLOURS",
    "DISTANCE_EDGES",
    "MATERIALS",
    "MAX_OBJECTS",
    "RADII",
    "SHAPES",
    "SIZE",
    "TASKS",
    "Scene",
    "SceneObject",
    "Scenes",
    "Truth",
    "distance_bin",
    "num_objects",
    "observe",
    "parse",
    "render",
    "shape_of_largest",
    "truths",
]
