"""Colours of surfaces from where a point lies on them: noise, windows, paint on the road, leaves, sky.

Places are in metres in the frame of the primitive (`jaxgeo.data.ray_casting.local_points`). Colours are as displayed,
0..1; `linear` and `displayed` go to light and back. Everything is pure and has no table: noise comes from integers that
a hash mixes, so that it is the same wherever and in whatever order it is asked for.

References:
    Perlin, "An Image Synthesizer", SIGGRAPH 1985: noise from random numbers on a lattice.
    Wellons, "Prospecting for Hash Functions" (2018): the multipliers and shifts of the hash.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

PLAIN, FACADE, BODY, CABIN, FOLIAGE, PAVING, SIGN, WHEEL, ASPHALT, PAINT, LAWN = range(11)

_GAMMA = 2.2
_PALE, _BLUE = (0.80, 0.86, 0.92), (0.26, 0.47, 0.78)  # the sky at the horizon and at the zenith
_EDGE = 0.98  # of the half extent: a point farther out along an axis lies on that axis's face


def linear(color: Float[Array, "*pixel 3"]) -> Float[Array, "*pixel 3"]:
    """Light of a displayed colour."""
    return color**_GAMMA


def displayed(light: Float[Array, "*pixel 3"]) -> Float[Array, "*pixel 3"]:
    """Colour in 0..1 that shows light; brighter than 1 is cut."""
    return jnp.clip(light, 0, 1) ** (1 / _GAMMA)


def hash_cells(cells: Int[Array, "*point axis"], seed: Int[Array, "*#point"] | int = 0) -> UInt32[Array, "*point"]:
    """32 mixed bits for each cell of an integer lattice."""
    mixed = jnp.broadcast_to(jnp.asarray(seed, jnp.int32), cells.shape[:-1]).astype(jnp.uint32)
    for axis in range(cells.shape[-1]):
        mixed = mixed * jnp.uint32(0x9E3779B1) ^ cells[..., axis].astype(jnp.uint32)
        mixed = (mixed ^ mixed >> 16) * jnp.uint32(0x7FEB352D)
        mixed = (mixed ^ mixed >> 15) * jnp.uint32(0x846CA68B)
        mixed = mixed ^ mixed >> 16
    return mixed


def cell_noise(cells: Int[Array, "*point axis"], seed: Int[Array, "*#point"] | int = 0) -> Float[Array, "*point"]:
    """A number in [0, 1) for each cell of an integer lattice."""
    return (hash_cells(cells, seed) >> 8).astype(jnp.float32) / 2**24


def value_noise(points: Float[Array, "*point axis"], seed: Int[Array, "*#point"] | int = 0) -> Float[Array, "*point"]:
    """Smooth noise in [0, 1): numbers on the lattice of whole coordinates, joined by cubics with flat ends."""
    axes = points.shape[-1]
    corner = jnp.floor(points)
    part = points - corner
    share = (part * part * (3 - 2 * part))[..., None, :]
    # All corners of a cell at once, along an axis of their own: one small program, whatever their number.
    steps = np.indices((2,) * axes).reshape((1,) * (points.ndim - 1) + (axes, -1)).swapaxes(-1, -2)
    weights = jnp.prod(jnp.where(steps == 1, share, 1 - share), axis=-1)
    cells = corner.astype(jnp.int32)[..., None, :] + steps.astype(np.int32)
    seeds = jnp.broadcast_to(jnp.asarray(seed), points.shape[:-1])[..., None]
    return jnp.sum(weights * cell_noise(cells, seeds).astype(points.dtype), axis=-1)


def fractal_noise(
    points: Float[Array, "*point axis"], seed: Int[Array, "*#point"] | int = 0, octaves: int = 2
) -> Float[Array, "*point"]:
    """Sum of noises, each twice as fine and half as strong as the one before, in [0, 1)."""
    scales = (2.0 ** np.arange(octaves)).reshape((-1,) + (1,) * points.ndim)
    weights = 1 / scales[..., 0] / (2 - 2.0 ** (1 - octaves))
    finer = points[None] * jnp.asarray(scales, points.dtype)
    return jnp.sum(jnp.asarray(weights, points.dtype) * value_noise(finer, seed), axis=0)


def surface_color(
    texture: Int[Array, " ray"],
    color: Float[Array, "ray 3"],
    place: Float[Array, "ray 3"],
    extent: Float[Array, "ray 3"],
    seed: Int[Array, " ray"],
) -> tuple[Float[Array, "ray 3"], Float[Array, " ray"]]:
    """(colour, gloss) of points on primitives; gloss in 0..1 is the share of glass, which mirrors the sky.

    Args:
        texture: one of the numbers of this module.
        color: of the primitive.
        place: in the frame of the primitive.
        extent: half extents of the primitive.
        seed: differs between primitives that should not look alike.
    """
    share = place / extent
    ground = (texture >= ASPHALT)[:, None]
    # Three noises serve all textures; on the ground they are stains, long patches and grain.
    scales = jnp.asarray(
        [[[0.9, 0.9, 0.9], [3.1, 3.1, 3.1], [7.0, 7.0, 7.0]], [[0.4, 0.4, 0], [0.1, 0.5, 0], [8, 8, 0]]]
    )
    wanted = jnp.where(ground[None], scales[1][:, None], scales[0][:, None]).astype(place.dtype)
    coarse, middle, fine = value_noise(place[None] * wanted, seed[None] + jnp.arange(3)[:, None])
    plain = color * (0.86 + 0.16 * coarse + 0.12 * fine)[:, None]
    none = jnp.zeros_like(coarse)
    grey = 0.33 + 0.08 * fine + 0.09 * coarse - jnp.where(middle > 0.72, 0.05, 0.0)
    straw = jnp.clip(1.8 * coarse - 0.7, 0, 1)[:, None]
    grass = jnp.asarray([[0.30, 0.45, 0.18]]) * (1 - straw) + jnp.asarray([[0.52, 0.51, 0.27]]) * straw
    looks = {
        FACADE: _facade(plain, place, extent, share, seed),
        BODY: _body(color, place, share),
        CABIN: _cabin(color, place, extent, share),
        FOLIAGE: (color * (0.5 + 0.55 * fine + 0.5 * middle)[:, None], none),
        PAVING: (_paving(color, place, fine), none),
        SIGN: (_sign(color, share), none),
        WHEEL: (_wheel(color, share), none),
        ASPHALT: (grey[:, None] * jnp.asarray([[1.0, 1.0, 1.03]]), none),
        PAINT: (jnp.broadcast_to((0.93 - 0.2 * fine * coarse)[:, None], color.shape), none),
        LAWN: (grass * (0.78 + 0.36 * fine)[:, None], none),
    }
    result, gloss = plain, none
    for number, (look, glass) in looks.items():
        result = jnp.where((texture == number)[:, None], look, result)
        gloss = jnp.where(texture == number, glass, gloss)
    return result, gloss


def horizon_color(directions: Float[Array, "ray 3"], sun: Float[Array, " 3"]) -> Float[Array, "ray 3"]:
    """The sky's colour at the horizon below or above directions: that of haze."""
    toward = jnp.maximum(jnp.sum(directions[:, :2] * sun[None, :2], axis=-1), 0)
    return jnp.asarray(_PALE)[None] + 0.1 * (toward**2)[:, None] * jnp.asarray([[1.0, 0.9, 0.7]])


def sky_color(
    directions: Float[Array, "ray 3"],
    sun: Float[Array, " 3"],
    cloudiness: Float[Array, ""],
    drift: Float[Array, " 2"],
) -> Float[Array, "ray 3"]:
    """The sky's colour: pale at the horizon, blue at the zenith, clouds on a plane above, a glow around the sun.

    Below the horizon it is the horizon's, for what mirrors it.
    """
    height = jnp.maximum(directions[:, 2], 0)
    pale, blue = jnp.asarray([_PALE]), jnp.asarray([_BLUE])
    color = blue + (pale - blue) * ((1 - height) ** 3.5)[:, None]
    plane = directions[:, :2] / (height + 0.12)[:, None] * 1.3 + drift[None]
    cover = jnp.clip(3.2 * (fractal_noise(plane, 41, octaves=4) - 1 + cloudiness), 0, 1)
    cover = cover * jnp.clip(height * 6, 0, 1)
    color = color + (0.95 - color) * (0.85 * cover)[:, None]
    toward = jnp.maximum(jnp.sum(directions * sun[None], axis=-1), 0)
    glow = 0.35 * toward**24 + jnp.where(toward > 0.9993, 1.0, 0.0)
    return jnp.minimum(color + glow[:, None] * jnp.asarray([[1.0, 0.95, 0.8]]), 1)


def _facade(wall: Array, place: Array, extent: Array, share: Array, seed: Array) -> tuple[Array, Array]:
    """Rows of windows on the four sides, a cornice, a base course; a plain roof."""
    on_front = jnp.abs(share[:, 0]) > jnp.abs(share[:, 1])
    across = jnp.where(on_front, place[:, 1], place[:, 0])
    half = jnp.where(on_front, extent[:, 1], extent[:, 0])
    height = place[:, 2] + extent[:, 2]
    roof = place[:, 2] > extent[:, 2] - 1e-3
    columns = jnp.maximum(jnp.round(2 * half / 2.6), 1)
    column, storey = (across + half) / (2 * half) * columns, (height - 0.3) / 3.1
    u, v = column - jnp.floor(column), storey - jnp.floor(storey)
    top = height > 2 * extent[:, 2] - 0.55
    frame = (jnp.abs(u - 0.5) < 0.27) & (jnp.abs(v - 0.53) < 0.27) & (storey >= 0) & ~top & ~roof
    glass = (jnp.abs(u - 0.5) < 0.23) & (jnp.abs(v - 0.53) < 0.235) & frame & (jnp.abs(u - 0.5) > 0.012)
    side = jnp.where(on_front, 0, 2) + jnp.where(jnp.where(on_front, share[:, 0], share[:, 1]) > 0, 1, 0)
    cells = jnp.stack([jnp.floor(column).astype(jnp.int32), jnp.floor(storey).astype(jnp.int32), side], axis=-1)
    number = cell_noise(cells, seed + 3)
    pane = jnp.asarray([[0.13, 0.16, 0.20]]) + (0.45 * jnp.maximum(number - 0.7, 0))[:, None] * jnp.asarray(
        [[1.6, 1.4, 1.0]]
    )
    base = (height < 0.6) | (top & ~roof)
    color = wall * jnp.where(base, 0.72, 1.0)[:, None]
    color = jnp.where(frame[:, None], 0.9 * jnp.ones_like(wall), color)
    color = jnp.where(glass[:, None], pane, color)
    color = jnp.where(roof[:, None], 0.38 * jnp.ones_like(wall), color)
    return color, jnp.where(glass, 1.0, 0.0)


def _body(color: Array, place: Array, share: Array) -> tuple[Array, Array]:
    """Paint, a dark sill, lamps at both ends, a number plate; x points ahead."""
    end, across = jnp.abs(share[:, 0]) > _EDGE, jnp.abs(share[:, 1])
    ahead = share[:, 0] > 0
    lamp = end & (across > 0.62) & (across < 0.93) & (share[:, 2] > 0.1) & (share[:, 2] < 0.65)
    plate = end & (jnp.abs(place[:, 1]) < 0.26) & (jnp.abs(share[:, 2] + 0.3) < 0.16)
    grille = end & ahead & (across < 0.5) & (share[:, 2] > 0.05) & (share[:, 2] < 0.55)
    flank = jnp.abs(share[:, 1]) > _EDGE
    door = flank & (
        (jnp.abs(share[:, 0] + 0.42) < 0.006) | (jnp.abs(share[:, 0]) < 0.006) | (jnp.abs(share[:, 0] - 0.42) < 0.006)
    )
    sill = share[:, 2] < -0.7
    color = jnp.where((sill | grille)[:, None], 0.10 * jnp.ones_like(color), color)
    color = jnp.where(door[:, None], 0.5 * color, color)
    light = jnp.where(ahead[:, None], jnp.asarray([[0.95, 0.95, 0.88]]), jnp.asarray([[0.75, 0.05, 0.05]]))
    color = jnp.where(lamp[:, None], light, color)
    color = jnp.where(plate[:, None], jnp.asarray([[0.92, 0.92, 0.85]]), color)
    return color, jnp.full(len(color), 0.12, color.dtype)


def _cabin(color: Array, place: Array, extent: Array, share: Array) -> tuple[Array, Array]:
    """Windows all around between pillars; the roof is painted."""
    on_end = jnp.abs(share[:, 0]) > jnp.abs(share[:, 1])
    across = jnp.where(on_end, extent[:, 1] - jnp.abs(place[:, 1]), extent[:, 0] - jnp.abs(place[:, 0]))
    pillar = ~on_end & (jnp.abs(place[:, 0] + 0.15 * extent[:, 0]) < 0.05)
    glass = (share[:, 2] < 0.78) & (share[:, 2] > -0.95) & (across > 0.08) & ~pillar
    color = jnp.where(glass[:, None], jnp.asarray([[0.07, 0.09, 0.11]]), color)
    return color, jnp.where(glass, 1.0, 0.12)


def _paving(color: Array, place: Array, fine: Array) -> Array:
    """Slabs of half a metre with joints."""
    slab = place[:, :2] / 0.5
    part = jnp.abs(slab - jnp.floor(slab) - 0.5)
    joint = jnp.max(part, axis=-1) > 0.47
    tone = cell_noise(jnp.floor(slab).astype(jnp.int32), 51)
    return color * ((0.9 + 0.12 * tone + 0.08 * fine) * jnp.where(joint, 0.72, 1.0))[:, None]


def _sign(color: Array, share: Array) -> Array:
    """A white disc with a coloured rim."""
    return jnp.where((share[:, 0] > 0.74)[:, None], color, 0.93 * jnp.ones_like(color))


def _wheel(color: Array, share: Array) -> Array:
    """A tyre around a bright rim, which is seen at the ends."""
    rim = (jnp.abs(share[:, 2]) > 0.999) & (share[:, 0] < 0.62)
    spokes = rim & (share[:, 0] > 0.18)
    color = jnp.where(rim[:, None], 0.35 * jnp.ones_like(color), color)
    return jnp.where(spokes[:, None], 0.62 * jnp.ones_like(color), color)
