"""Pictures of a scene along any rays, with the exact distance and class of what each ray meets.

Distance and class are those of the closest hit; only colour is made up. Light: the sun by Lambert's law with hard
shadows, one further ray each; the sky from above; glass that mirrors the sky; haze with distance.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jaxgeo.data import textures
from jaxgeo.data.ray_casting import Hit, closest_hit, is_blocked, local_points, turn
from jaxgeo.data.scene_classes import GRASS, LANE_MARKING, ROAD, SKY
from jaxgeo.data.scene_layout import Scene, street_coordinates
from jaxgeo.data.scene_places import BAY_LENGTH, ZEBRA_END, ZEBRA_START, Street
from jaxgeo.data.textures import displayed, linear

_LINE_WIDTH = 0.15  # metres
_DASH = 3.0  # length of a dash and of the gap after it
_OFF_SURFACE = 2e-3  # where shadow rays start, above the surface
_HAZE = 220.0  # distance in which the haze takes all but 1/e


class Rendering(NamedTuple):
    """What rays see."""

    color: Float[Array, "*ray 3"]  # in [0, 1], as displayed
    depth: Float[Array, "*ray"]  # distance along the ray in metres; infinite where it meets the sky
    semantic: Int32[Array, "*ray"]  # class of `jaxgeo.data.scene_classes`


@functools.partial(jax.jit, static_argnames=("chunk", "shadows"))
def render(
    scene: Scene,
    origins: Float[Array, "*ray 3"],
    directions: Float[Array, "*ray 3"],
    chunk: int = 8192,
    shadows: bool = True,
) -> Rendering:
    """Colour, distance and class along rays.

    Args:
        scene: a single one; more by `jax.vmap`.
        origins: of the rays, metres.
        directions: unit vectors.
        chunk: rays at once, which bounds memory: some hundred numbers for each.
        shadows: whether things keep the sun off others.
    """
    shape = directions.shape[:-1]
    origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
    count = len(directions)
    chunk = max(min(chunk, count), 1)
    filler = jnp.zeros((-count % chunk, 3), directions.dtype)
    # The last chunk is filled up with rays that look upwards.
    up = filler + jnp.asarray([[0, 0, 1]], directions.dtype)
    origins, directions = (
        jnp.concatenate(pair).reshape(-1, chunk, 3) for pair in ((origins, filler), (directions, up))
    )
    one = functools.partial(_render_chunk, scene, shadows)
    rendered = jax.lax.map(lambda rays: one(*rays), (origins, directions))
    return jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count].reshape(*shape, *leaf.shape[2:]), rendered
    )


@jax.jit
def ground_class(street: Street, points: Float[Array, "ray 2"]) -> Int32[Array, " ray"]:
    """Road, lane marking or grass at points of the scene on the ground."""
    x, y = street_coordinates(street, points).T
    from_junction = x - street.junction
    there = street.side_half_width > 0
    on_side = there & (jnp.abs(from_junction) < street.side_half_width)
    on_main = jnp.abs(y) < street.half_width
    edge = jnp.abs(from_junction) - street.side_half_width  # distance to the side street
    lined = on_main & ((edge > ZEBRA_END + 0.6) | ~there)

    def dashed(along, dash, gap):
        return jnp.mod(along, dash + gap) < dash

    middle = (jnp.abs(y) < _LINE_WIDTH / 2) & dashed(x, _DASH, _DASH)
    beside = (jnp.abs(jnp.abs(y) - street.lane_width) < _LINE_WIDTH / 2) & dashed(x, 1.0, 0.8)
    bay = jnp.mod(x - street.bay_start + _LINE_WIDTH / 2, BAY_LENGTH)
    between = (bay < _LINE_WIDTH) & (jnp.abs(y) > street.lane_width) & (jnp.abs(y) < street.half_width - 0.1)
    zebra = there & on_main & (edge > ZEBRA_START) & (edge < ZEBRA_END) & dashed(y - 0.25, 0.5, 0.5)
    # A car stops on its right, before the crossing.
    stop = there & on_main & (jnp.abs(edge - ZEBRA_END - 0.9) < 0.15) & (from_junction * y > 0)
    stop &= jnp.abs(y) < street.lane_width
    off_main = jnp.abs(y) - street.half_width
    side_middle = on_side & (jnp.abs(from_junction) < _LINE_WIDTH / 2) & (off_main > 2) & dashed(y, _DASH, _DASH)
    side_stop = on_side & (jnp.abs(off_main - 1.2) < 0.15) & (from_junction * y < 0)
    marked = (lined & (middle | beside | between)) | zebra | stop | side_middle | side_stop
    return jnp.where(marked, LANE_MARKING, jnp.where(on_main | on_side, ROAD, GRASS)).astype(jnp.int32)


def _render_chunk(scene: Scene, shadows: bool, origins: Array, directions: Array) -> Rendering:
    hit = closest_hit(scene.primitives, origins, directions)
    known = jnp.isfinite(hit.distance)
    points = origins + jnp.where(known, hit.distance, 0)[:, None] * directions
    label, color, gloss, normals = _surface(scene, hit, known, points)
    # A wall is seen, and lit, from the side that the ray comes from.
    facing = jnp.sum(normals * directions, axis=-1)
    normals = jnp.where((facing > 0)[:, None], -normals, normals)
    sun = scene.sky.sun
    sunshine = jnp.maximum(normals @ sun, 0)
    if shadows:
        start = points + _OFF_SURFACE * normals
        sunshine = jnp.where(is_blocked(scene.primitives, start, jnp.broadcast_to(sun[None], start.shape)), 0, sunshine)
    above = 0.30 + 0.14 * normals[:, 2]
    warm, cool = jnp.asarray([[1.0, 0.95, 0.86]]), jnp.asarray([[0.92, 0.98, 1.10]])
    light = scene.sky.strength * sunshine[:, None] * warm + above[:, None] * cool
    mirrored = directions - 2 * jnp.sum(normals * directions, axis=-1)[:, None] * normals
    # Schlick's rule: more is mirrored at grazing angles.
    share = gloss * (0.08 + 0.6 * (1 - jnp.abs(facing)) ** 4)
    # One look at the sky: along the ray where it goes there, else along what glass mirrors.
    sky = _sky(scene, jnp.where(known[:, None], mirrored, directions))
    lit = linear(color) * light + (share * (0.4 + 0.6 * jnp.maximum(mirrored[:, 2], 0)))[:, None] * linear(sky)
    haze = (1 - jnp.exp(-jnp.where(known, hit.distance, 0) / _HAZE))[:, None]
    lit = lit + (linear(textures.horizon_color(directions, scene.sky.sun)) - lit) * haze
    return Rendering(jnp.where(known[:, None], displayed(lit), sky), hit.distance, label)


def _surface(scene: Scene, hit: Hit, known: Array, points: Array) -> tuple[Array, Array, Array, Array]:
    """(class, colour, gloss, normals) of what was met; of the sky: its class, and numbers that count nowhere."""
    on_ground = hit.primitive < 0
    index = jnp.maximum(hit.primitive, 0)
    place, extent, normals = local_points(scene.primitives, index, points, scene.street.heading)
    surfaces = jax.tree.map(lambda leaf: leaf[index], scene.surfaces)
    flat = street_coordinates(scene.street, points[:, :2])
    ground = ground_class(scene.street, points[:, :2])
    painted = jnp.where(ground == LANE_MARKING, textures.PAINT, textures.ASPHALT)
    texture = jnp.where(on_ground, jnp.where(ground == GRASS, textures.LAWN, painted), surfaces.texture)
    place = jnp.where(on_ground[:, None], jnp.concatenate([flat, jnp.zeros_like(flat[:, :1])], axis=1), place)
    color, gloss = textures.surface_color(texture, surfaces.color, place, extent, hit.primitive)
    up = jnp.broadcast_to(jnp.asarray([[0, 0, 1]], points.dtype), points.shape)
    label = jnp.where(known, jnp.where(on_ground, ground, surfaces.label), SKY)
    return label.astype(jnp.int32), jnp.clip(color, 0, 1), gloss, jnp.where(on_ground[:, None], up, normals)


def _sky(scene: Scene, directions: Array) -> Array:
    """The sky's colour; its clouds turn with the street, so that a scene that is moved looks the same."""
    sky, street = scene.sky, scene.street
    turned = jnp.concatenate([directions, sky.sun[None]])
    turned = turn(turned, jnp.broadcast_to(-street.heading, turned.shape[:-1]))
    return textures.sky_color(turned[:-1], turned[-1], sky.cloudiness, sky.drift)
