"""What colour a ray brings back: a lamp with cast shadows, sky light with occlusion, gloss and one reflection.

No section of the paper. Colours are linear until `develop`.
"""

from __future__ import annotations

import numpy as np

from openjepa.data.scenes.casting import FAR, Hits, cast, put, shadowed
from openjepa.data.scenes.world import Ground, World

_AMBIENT = 0.42  # strength of sky light; the lamp's is about one
_FADE, _FADE_DEPTH = 1.8, 9.0  # patterns: whole up to 0.8 * 9 world units away, gone at 1.8 * 9
_HAZE_DEPTH = 30.0  # world units at which half of what is seen is haze
_CONTRAST = 0.09  # neighbours further apart than this (of 1) are sampled again
_SUBPIXELS = np.array([[0.125, 0.625, 0.375, 0.875], [0.375, 0.125, 0.875, 0.625]], np.float32)
# a rotated grid: four rows and four columns, so that near-vertical and near-horizontal edges get four steps


def picture(world: World, hits: Hits, rays: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8: `hits` of the pixel centres in colour, with four more rays at pixels on an edge."""
    image = develop(_colour(world, hits, rays, bounces=1))
    rough = np.flatnonzero(_edges(image.reshape(3, *size)))
    if rough.size:
        corner = np.stack(np.divmod(rough, size[1])).astype(np.float32)
        pixels = (corner[:, :, None] + _SUBPIXELS[:, None]).reshape(2, -1)
        finer = world.camera.rays(size, pixels)
        fine = develop(_colour(world, cast(world, world.camera.origin, finer), finer, bounces=1))
        put(image, rough, fine.reshape(3, -1, _SUBPIXELS.shape[1]).mean(axis=2))
    return np.ascontiguousarray((image * 255 + 0.5).astype(np.uint8).T).reshape(*size, 3)


def develop(colour: np.ndarray) -> np.ndarray:
    """Linear light to display values in [0, 1]: a shoulder for highlights, then gamma 2."""
    return np.sqrt(np.minimum(colour * 1.25 / (1 + 0.25 * colour), 1))


def _edges(image: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of (3, H, W) that differ from a neighbour."""
    is_edge = np.zeros(image.shape[1:], bool)
    down = np.abs(np.diff(image, axis=1)).max(axis=0) > _CONTRAST
    right = np.abs(np.diff(image, axis=2)).max(axis=0) > _CONTRAST
    is_edge[1:] |= down
    is_edge[:-1] |= down
    is_edge[:, 1:] |= right
    is_edge[:, :-1] |= right
    return is_edge


def _colour(world: World, hits: Hits, direction: np.ndarray, bounces: int) -> np.ndarray:
    """(3, P) linear light along rays that hit `hits`."""
    albedo = _ground_colour(world.ground, hits)
    solid = np.flatnonzero(hits.instances)
    number = hits.instances[solid].astype(np.intp) - 1
    put(albedo, solid, world.table.paints.take(number, axis=1))
    incidence = np.maximum(world.lamp @ hits.normals, 0)
    if bounces:  # mirrors do without cast shadows: they would cost a tenth of the time and hardly show
        incidence[shadowed(world, hits)] = 0
    sky = _AMBIENT * (0.65 + 0.35 * hits.normals[2]) * _openness(world, hits)
    colour = albedo * (world.sky[:, None] * sky + world.lamp_colour[:, None] * incidence)
    is_shiny = world.table.is_shiny[number]
    lit = np.flatnonzero(incidence[solid])
    lamp = _highlight(world, hits, direction, solid[lit], is_shiny[lit])
    put(colour, solid[lit], colour.take(solid[lit], axis=1) + lamp)
    mirror = solid[is_shiny]
    if bounces and mirror.size:
        put(colour, mirror, _reflect(world, hits, direction, colour, mirror))
    return _through_air(world, hits, direction, colour)


def _through_air(world: World, hits: Hits, direction: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """(3, P) colour with haze in front of it; beyond FAR there is only sky."""
    share = hits.distance**2
    share = np.maximum(share / (share + np.float32(_HAZE_DEPTH**2)), hits.distance >= FAR)
    up = np.minimum(np.maximum(direction[2] * 2.5, 0), 1)
    air = world.haze[:, None] + (world.sky - world.haze)[:, None] * up
    return colour + (air - colour) * share


def _ground_colour(ground: Ground, hits: Hits) -> np.ndarray:
    """(3, P) albedo of the ground at what was hit; the pattern fades before it is too fine to be drawn."""
    u, v = ground.turn @ hits.points[:2]
    u, v = u + np.float32(ground.phase[0]), v + np.float32(ground.phase[1])
    if ground.pattern == "checker":
        half = 0.5 * (np.floor(u) + np.floor(v))
        mix = 2 * (half - np.floor(half))
    elif ground.pattern == "stripes":
        mix = (1.5 * u - np.floor(1.5 * u) > 0.5).astype(np.float32)
    elif ground.pattern == "clouds":
        mix = 0.5 + 0.25 * (np.sin(3 * u + 2 * np.sin(2 * v)) + np.sin(4 * v + 2 * np.sin(2.5 * u)))
    else:
        mix = np.clip(0.5 + 0.15 * u, 0, 1)
    mix = 0.5 + (mix - 0.5) * np.clip(_FADE - hits.distance / _FADE_DEPTH, 0, 1)
    first, second = ground.tints[:, :, None]
    return first + (second - first) * mix


def _openness(world: World, hits: Hits) -> np.ndarray:
    """(P,) share of the sky that the solids leave free, each taken as a ball (exact for one ball)."""
    centres, points, normals = world.table.centres.T, hits.points, hits.normals
    facing = centres @ normals - np.einsum("cp,cp->p", points, normals)
    radius = 0.5 * (world.table.half_widths + world.table.half_heights)[:, None]
    apart = (centres**2).sum(axis=1)[:, None] - 2 * (centres @ points)
    apart = np.maximum(apart + np.einsum("cp,cp->p", points, points), radius**2)
    hidden = np.maximum(facing, 0) * (radius**2 / (apart * np.sqrt(apart)))
    return (1 - hidden).prod(axis=0)


def _highlight(world: World, hits: Hits, direction: np.ndarray, which: np.ndarray, is_shiny: np.ndarray) -> np.ndarray:
    """(3, len(which)) image of the lamp on these pixels: broad and faint on matt, sharp on shiny."""
    half = world.lamp[:, None] - direction.take(which, axis=1)
    facing = np.einsum("cp,cp->p", half, hits.normals.take(which, axis=1))
    broad = facing * facing / np.einsum("cp,cp->p", half, half)
    broad = broad * broad * broad * broad
    sharp = broad * broad * broad
    sharp = sharp * sharp * sharp
    return world.lamp_colour[:, None] * (0.05 * broad + is_shiny * (1.6 * sharp - 0.05 * broad))


def _reflect(world: World, hits: Hits, direction: np.ndarray, colour: np.ndarray, which: np.ndarray) -> np.ndarray:
    """(3, len(which)) colour of shiny pixels with what they mirror mixed in, more at grazing angles."""
    seen, normal, own = direction.take(which, axis=1), hits.normals.take(which, axis=1), colour.take(which, axis=1)
    facing = np.einsum("cp,cp->p", seen, normal)
    bounced = seen - 2 * facing * normal
    mirrored = cast(world, hits.lifted().take(which, axis=1), bounced)
    share = 0.14 + 0.5 * (1 + np.minimum(facing, 0)) ** 4
    return 0.9 * own + _colour(world, mirrored, bounced, bounces=0) * share
