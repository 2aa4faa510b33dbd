"""Where rays end: exact intersections with spheres, cubes, cylinders and the ground, over all rays at once.

No section of the paper. Every solid is convex, so a ray is inside it for one interval; a solid is tried only on
rays that meet its bounding sphere, and all solids of one shape are tried together. Arrays of vectors are
(3, P): one row per coordinate, one column per ray; what all rays share is (3, 1). n is the number of solids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openjepa.data.scenes.world import SHAPES, Table, World

FAR = 40.0
"""World units: nothing is seen beyond this distance; depth is clipped to it."""
_SKIN = 2e-3  # rays that leave a surface start this far off it, or in float32 they would hit it again
_SLACK = 1.02  # bounding spheres are this much larger than they need be, against rounding
_TINY = 1e-7
_MISS = np.float32(1e6)  # beyond everything


@dataclass(frozen=True)
class Hits:
    """What P rays see."""

    distance: np.ndarray  # (P,) float32 along the ray, FAR at most
    instances: np.ndarray  # (P,) uint8: 0 ground or sky, i + 1 solid i
    points: np.ndarray  # (3, P) float32
    normals: np.ndarray  # (3, P) float32, unit length, outward

    def lifted(self) -> np.ndarray:
        """(3, P) the points, a skin off their surface: where shadow and mirror rays start."""
        return self.points + np.float32(_SKIN) * self.normals


def cast(world: World, origin: np.ndarray, direction: np.ndarray) -> Hits:
    """The nearest surface along every ray. `origin` (3, P) or (3, 1), `direction` (3, P), unit length."""
    distance = np.minimum(origin[2] / np.maximum(-direction[2], _TINY), np.float32(FAR))
    instances = np.zeros(distance.shape, np.uint8)
    number, ray, enter = _meetings(world.table, origin, direction)
    np.minimum.at(distance, ray, enter)
    is_seen = enter == distance[ray]
    instances[ray[is_seen]] = number[is_seen] + 1
    points = origin + distance * direction
    return Hits(distance, instances, points, _normals(world.table, points, instances))


def shadowed(world: World, hits: Hits) -> np.ndarray:
    """(P,) bool: whether a solid stands between what each ray sees and the lamp."""
    is_dark = np.zeros(hits.distance.shape, bool)
    is_dark[_meetings(world.table, hits.lifted(), world.lamp[:, None])[1]] = True
    return is_dark


def _meetings(table: Table, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every meeting of a ray with a solid ahead of it: solid, ray and distance, three arrays of one length."""
    near = _near(table, origin, direction)
    number, ray = np.divmod(np.flatnonzero(near), near.shape[1])
    local = _columns(origin, ray) - table.centres.take(number, axis=1)
    direction = np.broadcast_to(_columns(direction, ray), local.shape)
    is_cube = (table.shapes == SHAPES.index("cube"))[number]
    enter, leave = _slab(local[2], direction[2], table.half_heights[number])
    for which, span in ((is_cube, _cube_span), (~is_cube, _round_span)):
        pairs = np.flatnonzero(which)
        if pairs.size:
            owner, ray_ = number[pairs], direction.take(pairs, axis=1)
            side = span(table, owner, local.take(pairs, axis=1), ray_)
            enter[pairs] = np.maximum(enter[pairs], side[0])
            leave[pairs] = np.minimum(leave[pairs], side[1])
    is_met = np.flatnonzero((enter < leave) & (enter > 0))
    return number[is_met], ray[is_met], enter[is_met]


def _near(table: Table, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """(n, P) bool: which rays meet which bounding spheres."""
    centres = table.centres.T
    along = centres @ direction - _dot(origin, direction)
    offset = (table.centres**2).sum(axis=0)[:, None] - 2 * (centres @ origin) + _dot(origin, origin)
    reach = _SLACK * table.reaches[:, None]
    return (offset - along * along < reach * reach) & (along > -reach)


def put(array: np.ndarray, which: np.ndarray, values: np.ndarray) -> None:
    """`array[:, which] = values` row by row, which numpy does in half the time."""
    for row, new in zip(array, values, strict=True):
        row[which] = new


def _columns(array: np.ndarray, which: np.ndarray) -> np.ndarray:
    """These rays' columns of a (3, P) array, or the (3, 1) one that they share."""
    return array if array.shape[1] == 1 else array.take(which, axis=1)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Columns of (k, P) times columns of (k, P) to (P,); either may have one column."""
    return np.einsum("cp,cp->p", a, b) if a.shape == b.shape else (a * b).sum(axis=0)


def _cube_span(
    table: Table, number: np.ndarray, origin: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(k,) distances at which rays enter and leave the four sides of cubes; leaving first means a miss."""
    half = table.half_widths[number]
    cos, sin = table.turns.take(number, axis=1)
    (x, y, _), (dx, dy, _) = origin, direction
    first = _slab(cos * x + sin * y, cos * dx + sin * dy, half)
    second = _slab(cos * y - sin * x, cos * dy - sin * dx, half)
    return np.maximum(first[0], second[0]), np.minimum(first[1], second[1])


def _round_span(
    table: Table, number: np.ndarray, origin: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Likewise for spheres and endless upright cylinders: a cylinder is a sphere whose height is nothing."""
    is_sphere = (table.shapes == SHAPES.index("sphere")).astype(np.float32)[number]
    origin, direction = origin.copy(), direction.copy()
    origin[2] *= is_sphere
    direction[2] *= is_sphere
    square = np.maximum(_dot(direction, direction), _TINY)
    middle = -_dot(origin, direction) / square
    # By the closest point, not b^2 - 4ac: there float32 would lose its digits at ten radii away.
    closest = origin + middle * direction
    left = table.half_widths[number] ** 2 - _dot(closest, closest)
    reach = np.sqrt(np.maximum(left, 0) / square)
    return middle - reach + (left <= 0) * _MISS, middle + reach


def _slab(origin: np.ndarray, direction: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances between which one coordinate of rays stays within `half` of zero."""
    inverse = 1 / (direction + (np.abs(direction) < _TINY) * np.float32(2 * _TINY))
    middle, reach = -origin * inverse, half * np.abs(inverse)
    return middle - reach, middle + reach


def _normals(table: Table, points: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """(3, P) outward unit normals at points on the surfaces of the solids or on the ground."""
    normals = np.zeros_like(points)
    normals[2] = 1
    solid = np.flatnonzero(instances)
    number = instances[solid].astype(np.intp) - 1
    local = points.take(solid, axis=1) - table.centres.take(number, axis=1)
    local[:2] /= table.half_widths[number]
    local[2] /= table.half_heights[number]
    shapes = table.shapes[number]
    for shape, face in (("cube", _cube_normals), ("cylinder", _cylinder_normals)):
        which = np.flatnonzero(shapes == SHAPES.index(shape))
        if which.size:
            put(local, which, face(table, number[which], local.take(which, axis=1)))
    put(normals, solid, local)
    return normals


def _cylinder_normals(table: Table, number: np.ndarray, local: np.ndarray) -> np.ndarray:
    """(3, k) points on cylinders of unit radius and half height to normals."""
    is_side = _dot(local[:2], local[:2]) > local[2] * local[2]
    return np.stack([local[0] * is_side, local[1] * is_side, np.sign(local[2]) * ~is_side])


def _cube_normals(table: Table, number: np.ndarray, local: np.ndarray) -> np.ndarray:
    """(3, k) points on turned cubes of half edge one to normals."""
    cos, sin = table.turns.take(number, axis=1)
    x, y, z = cos * local[0] + sin * local[1], cos * local[1] - sin * local[0], local[2]
    far_x, far_y, far_z = np.abs(x), np.abs(y), np.abs(z)
    is_x = far_x >= np.maximum(far_y, far_z)
    is_y = (far_y >= far_z) & ~is_x
    x, y, z = np.sign(x) * is_x, np.sign(y) * is_y, np.sign(z) * ~(is_x | is_y)
    return np.stack([cos * x - sin * y, cos * y + sin * x, z])
