"""What is in a scene: solids on a ground, a camera and a lamp, all drawn from one address of chance.

No section of the paper: the set stands in for CLEVR (Johnson et al. 2017), on which the paper counts objects
and tells distances. Departures: three shapes on textured grounds of any tint, six objects at most by default.
Lengths are in world units (a large sphere has a radius of 0.8); z points up and the ground is z = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

SHAPES = ("sphere", "cube", "cylinder")
MATERIALS = ("matt", "shiny")
RADII = {"small": 0.5, "large": 0.8}
COLOURS = {
    "red": (0.62, 0.05, 0.05),
    "orange": (0.85, 0.26, 0.02),
    "yellow": (0.82, 0.62, 0.04),
    "green": (0.06, 0.40, 0.08),
    "cyan": (0.05, 0.52, 0.56),
    "blue": (0.04, 0.12, 0.62),
    "purple": (0.28, 0.05, 0.48),
    "gray": (0.16, 0.16, 0.17),
}
"""Names to linear red, green and blue."""
PATTERNS = ("plain", "checker", "stripes", "clouds")

_EXTENTS = {"sphere": (1.0, 1.0), "cube": (0.7, 0.7), "cylinder": (0.74, 0.85)}
# half width and half height as shares of the radius: so that all three cover about the same number of pixels

_FIELD = 3.0  # objects stand within this distance of the origin
_GAP = 0.2  # and at least this far from each other
_PLACEMENT_TRIES = 24
_HALF_VIEW = math.tan(math.radians(48) / 2)  # half the field of view, along the image's shorter side
_SKY, _HAZE = (0.42, 0.56, 0.80), (0.62, 0.68, 0.75)


@dataclass(frozen=True)
class Solid:
    """One object standing on the ground, upright, turned by `yaw_rad` about the vertical."""

    shape: str
    colour: str
    size: str
    material: str
    x: float
    y: float
    yaw_rad: float
    scale: float = 1.0
    """How many times larger than RADII say."""

    @property
    def half_width(self) -> float:
        """Radius of a sphere or a cylinder, half the edge of a cube."""
        return self.scale * RADII[self.size] * _EXTENTS[self.shape][0]

    @property
    def half_height(self) -> float:
        """Half of what stands above the ground, and so the height of the centre."""
        return self.scale * RADII[self.size] * _EXTENTS[self.shape][1]

    @property
    def centre(self) -> tuple[float, float, float]:
        """(x, y, z) of the middle of the solid."""
        return self.x, self.y, self.half_height

    @property
    def footprint(self) -> float:
        """Radius of the circle on the ground that the solid never leaves."""
        return self.half_width * (math.sqrt(2) if self.shape == "cube" else 1.0)

    @property
    def reach(self) -> float:
        """Radius of the bounding sphere about the centre."""
        if self.shape == "sphere":
            return self.half_width
        return math.hypot(self.footprint, self.half_height)


@dataclass(frozen=True)
class Table:
    """The n solids of a world as columns of numbers, so that all are worked on at once."""

    centres: np.ndarray  # (3, n) float32
    half_widths: np.ndarray  # (n,) float32
    half_heights: np.ndarray  # (n,) float32
    reaches: np.ndarray  # (n,) float32
    turns: np.ndarray  # (2, n) float32: cosine and sine of the yaw
    shapes: np.ndarray  # (n,) positions in SHAPES
    paints: np.ndarray  # (3, n) float32 linear colours
    is_shiny: np.ndarray  # (n,) bool

    @classmethod
    def of(cls, solids: tuple[Solid, ...]) -> Table:
        """The table of these solids, one at least."""

        def column(*values: object) -> np.ndarray:
            return np.array(values, np.float32)

        return cls(
            column(*(s.centre for s in solids)).T.copy(),
            column(*(s.half_width for s in solids)),
            column(*(s.half_height for s in solids)),
            column(*(s.reach for s in solids)),
            column(*((math.cos(s.yaw_rad), math.sin(s.yaw_rad)) for s in solids)).T.copy(),
            np.array([SHAPES.index(s.shape) for s in solids]),
            column(*(COLOURS[s.colour] for s in solids)).T.copy(),
            np.array([s.material == "shiny" for s in solids]),
        )


@dataclass(frozen=True)
class Camera:
    """A pinhole."""

    position: tuple[float, float, float]
    axes: tuple[tuple[float, ...], ...]  # unit vectors to the right, up and forward

    @property
    def origin(self) -> np.ndarray:
        """(3, 1) float32: where all rays start."""
        return np.array(self.position, np.float32)[:, None]

    def rays(self, size: tuple[int, int], pixels: np.ndarray | None = None) -> np.ndarray:
        """(3, P) float32 unit directions through `pixels` (2, P): row and column, fractions allowed.

        The centre of the first pixel is (0.5, 0.5). Without `pixels`: all centres, P = H * W in reading order.
        """
        local = _centre_rays(size) if pixels is None else _local_rays(size, pixels)
        return np.array(self.axes, np.float32).T @ local

    def frames(self, solid: Solid, size: tuple[int, int]) -> bool:
        """Whether the whole solid is inside images of `size` and in front of the camera."""
        x, y, z = (c - p for c, p in zip(solid.centre, self.position, strict=True))
        right, up, forward = (a * x + b * y + c * z for a, b, c in self.axes)
        reach = solid.reach
        room = (forward - reach) * _HALF_VIEW / min(size)
        return abs(right) + reach <= room * size[1] and abs(up) + reach <= room * size[0]


def _local_rays(size: tuple[int, int], pixels: np.ndarray) -> np.ndarray:
    """(3, P) float32 unit directions in the camera's own axes."""
    step = 2 * _HALF_VIEW / min(size)
    right, up = (pixels[1] - size[1] / 2) * step, (size[0] / 2 - pixels[0]) * step
    long = np.stack([right, up, np.ones_like(up)])
    return (long / np.sqrt((long * long).sum(axis=0))).astype(np.float32)


@lru_cache(maxsize=8)
def _centre_rays(size: tuple[int, int]) -> np.ndarray:
    """The local rays of all pixel centres: the same in every picture of a size."""
    rays = _local_rays(size, np.indices(size, np.float32).reshape(2, -1) + np.float32(0.5))
    rays.flags.writeable = False
    return rays


@dataclass(frozen=True)
class Ground:
    """The plane z = 0: two tints and the pattern that mixes them."""

    pattern: str
    tints: np.ndarray  # (2, 3) linear colours
    turn: np.ndarray  # (2, 2) float32: ground (x, y) to the pattern's own axes, in periods
    phase: tuple[float, float]


@dataclass(frozen=True)
class World:
    """All that a picture is made from."""

    solids: tuple[Solid, ...]
    camera: Camera
    ground: Ground
    lamp: np.ndarray  # (3,) float32: unit direction towards the light, which is far away
    lamp_colour: np.ndarray  # (3,) float32
    sky: np.ndarray  # (3,) float32: the colour at the zenith
    haze: np.ndarray  # (3,) float32: the colour of the horizon

    @cached_property
    def table(self) -> Table:
        """The solids as columns."""
        return Table.of(self.solids)


def draw(rng: np.random.Generator, num_objects: int, size: tuple[int, int], scale: float = 1.0) -> World:
    """A world with `num_objects` solids, fewer (or none) when they find no room, framed for images of `size`."""
    azimuth = rng.uniform(-math.pi, math.pi)
    camera = _draw_camera(rng, azimuth)
    solids: list[Solid] = []
    for _ in range(num_objects):
        solid = _place(rng, solids, camera, size, scale)
        if solid is not None:
            solids.append(solid)
    # The lamp is never behind the scene: objects would be black silhouettes.
    lamp = _direction(math.radians(rng.uniform(35, 65)), azimuth + rng.uniform(-2.2, 2.2))
    warmth, strength = rng.uniform(-1, 1), rng.uniform(1.0, 1.5)
    lamp_colour = strength * np.array([1 + 0.08 * warmth, 1, 1 - 0.12 * warmth], np.float32)
    ground = _draw_ground(rng)
    haze = 0.4 * ground.tints.mean(axis=0) + 0.6 * np.array(_HAZE, np.float32)
    sky = np.array(_SKY, np.float32)
    return World(tuple(solids), camera, ground, np.array(lamp, np.float32), lamp_colour, sky, haze)


def _direction(elevation: float, azimuth: float) -> tuple[float, float, float]:
    """The unit vector at these angles, in radians."""
    flat = math.cos(elevation)
    return flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)


def _draw_camera(rng: np.random.Generator, azimuth: float) -> Camera:
    """A camera at this azimuth on a ring about the scene, looking at about its middle."""
    elevation, distance = math.radians(rng.uniform(20, 48)), rng.uniform(5.2, 8.8)
    back = _direction(elevation, azimuth)
    right = -math.sin(azimuth), math.cos(azimuth), 0.0
    up = _direction(elevation + math.pi / 2, azimuth)
    target = *rng.uniform(-0.5, 0.5, 2).tolist(), 0.4
    roll = math.radians(rng.uniform(-5, 5))
    cos, sin = math.cos(roll), math.sin(roll)
    x, y, z = (t + distance * b for t, b in zip(target, back, strict=True))
    axes = (
        tuple(cos * r + sin * u for r, u in zip(right, up, strict=True)),
        tuple(cos * u - sin * r for r, u in zip(right, up, strict=True)),
        tuple(-b for b in back),
    )
    return Camera((x, y, z), axes)


def _place(
    rng: np.random.Generator, others: list[Solid], camera: Camera, size: tuple[int, int], scale: float
) -> Solid | None:
    """One more solid that is in the picture and meets none of the others, or None when none fits."""
    kinds = (SHAPES, tuple(COLOURS), tuple(RADII), MATERIALS)
    *picks, turn = rng.random(5).tolist()
    shape, colour, extent, material = (kind[int(pick * len(kind))] for kind, pick in zip(kinds, picks, strict=True))
    for share, angle in rng.random((_PLACEMENT_TRIES, 2)).tolist():
        radius, angle = _FIELD * math.sqrt(share), 2 * math.pi * angle
        x, y = radius * math.cos(angle), radius * math.sin(angle)
        solid = Solid(shape, colour, extent, material, x, y, turn * math.pi / 2, scale)
        if camera.frames(solid, size) and all(
            math.hypot(x - o.x, y - o.y) > solid.footprint + o.footprint + _GAP for o in others
        ):
            return solid
    return None


def _draw_ground(rng: np.random.Generator) -> Ground:
    """A pale tint of any hue and a second one near it, mixed by one of the patterns."""
    hue = rng.uniform(0, 2 * math.pi)
    wheel = np.cos(hue - np.array([0, 2, 4]) * math.pi / 3)
    base = rng.uniform(0.24, 0.48) * (1 + rng.uniform(0.03, 0.3) * wheel)
    second = base * rng.uniform(0.6, 0.86) * (1 + rng.uniform(-0.1, 0.1, 3))
    angle, period = rng.uniform(0, math.pi), rng.uniform(1.2, 2.4)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    pattern = PATTERNS[rng.integers(len(PATTERNS))]
    tints = np.stack([base, second]).astype(np.float32)
    first, other = rng.uniform(0, 1, 2).tolist()
    return Ground(pattern, tints, (turn / period).astype(np.float32), (first, other))
