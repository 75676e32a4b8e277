"""Street furniture made of boxes, spheres and cylinders: cars, people, poles, trees, buildings, kerbs.

Each function takes places in the frame of the street (x along it, z up, metres; heading from x to y) and gives parts
for a fixed number of things; those that a place does not use are switched off. What differs from thing to thing comes
from the random numbers of its place, so that the functions themselves need no key. The sizes are those of everyday
things.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgeo.data.ray_casting import Boxes, Cylinders, Primitives, Spheres, turn
from jaxgeo.data.scene_classes import BUILDING, CAR, EGO_VEHICLE, PERSON, POLE, TREE
from jaxgeo.data.textures import BODY, CABIN, FACADE, FOLIAGE, PLAIN, SIGN, WHEEL

Color = tuple[float, float, float]

PAVEMENT_HEIGHT = 0.12  # metres above the road
EGO_FRONT, EGO_REAR, EGO_HALF_WIDTH = 3.7, -0.95, 0.92  # metres from the middle of its rear axle

_CAR_COLORS = (
    (0.92, 0.92, 0.92),
    (0.62, 0.64, 0.66),
    (0.12, 0.12, 0.13),
    (0.65, 0.08, 0.08),
    (0.10, 0.20, 0.50),
    (0.32, 0.35, 0.38),
    (0.15, 0.35, 0.22),
    (0.80, 0.66, 0.30),
)
_CLOTHES = (
    (0.75, 0.15, 0.12),
    (0.15, 0.25, 0.55),
    (0.15, 0.15, 0.17),
    (0.85, 0.80, 0.72),
    (0.90, 0.65, 0.10),
    (0.20, 0.45, 0.30),
    (0.55, 0.30, 0.55),
)
_TROUSERS = ((0.13, 0.16, 0.28), (0.12, 0.12, 0.12), (0.45, 0.40, 0.32), (0.35, 0.37, 0.40))
_SKIN = ((0.90, 0.72, 0.60), (0.76, 0.56, 0.42), (0.50, 0.34, 0.24))
_WALLS = (
    (0.78, 0.70, 0.58),
    (0.66, 0.36, 0.28),
    (0.85, 0.82, 0.76),
    (0.60, 0.60, 0.62),
    (0.72, 0.55, 0.42),
    (0.88, 0.78, 0.55),
    (0.55, 0.62, 0.66),
)
_SIGNS = ((0.75, 0.08, 0.08), (0.08, 0.20, 0.60))
_METAL, _BARK, _TYRE = (0.42, 0.44, 0.45), (0.33, 0.25, 0.18), (0.07, 0.07, 0.07)
_LEAVES = ((0.22, 0.40, 0.13), (0.30, 0.46, 0.16), (0.18, 0.34, 0.16), (0.42, 0.46, 0.15))


class Places(NamedTuple):
    """Where things stand."""

    position: Float[Array, "place 2"]
    heading: Float[Array, " place"]
    used: Bool[Array, " place"]
    base: Float[Array, " place"]  # height of the ground below them
    numbers: Float[Array, "place number"]  # uniform in [0, 1), for what differs between things


class Surfaces(NamedTuple):
    """How primitives look and what they are."""

    label: Int[Array, " primitive"]  # class
    color: Float[Array, "primitive 3"]  # as displayed, 0..1
    texture: Int[Array, " primitive"]  # of `jaxgeo.data.textures`


class Part(NamedTuple):
    """Primitives of one kind with their surfaces."""

    shapes: Boxes | Spheres | Cylinders
    surfaces: Surfaces


def join_parts(parts: Sequence[Part]) -> tuple[Primitives, Surfaces]:
    """All primitives in the order of `jaxgeo.data.ray_casting.Hit`, and their surfaces in the same order."""

    def joined(trees):
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)

    kinds = [[part for part in parts if isinstance(part.shapes, kind)] for kind in (Boxes, Spheres, Cylinders)]
    shapes = [joined([part.shapes for part in kind]) for kind in kinds]
    return Primitives(*shapes), joined([part.surfaces for kind in kinds for part in kind])


def slabs(low: Float[Array, "box 3"], high: Float[Array, "box 3"], label: int, color: Color, texture: int) -> Part:
    """Boxes along the street between two corners; those without volume are switched off."""
    used = jnp.all(high > low, axis=-1)
    half_size = jnp.where(used[:, None], (high - low) / 2, 1)
    boxes = Boxes((low + high) / 2, half_size, jnp.zeros_like(low[:, 0]), used)
    return _part(boxes, label, color, texture)


def buildings(places: Places) -> list[Part]:
    """Blocks of flats whose front stands at the place and looks along its heading."""
    depth, length = _between(places, 0, 8, 12), _between(places, 1, 9, 14.9)
    height = 3.1 * jnp.floor(_between(places, 2, 2, 7)) + 0.9
    boxes = _boxes(places, (-depth / 2, 0.0, height / 2), (depth, length, height))
    return [_part(boxes, BUILDING, _pick(places, 3, _WALLS), FACADE)]


def cars(places: Places) -> list[Part]:
    """A body, a cabin and two axles whose ends are the wheels; some are vans."""
    van = places.numbers[:, 0] < 0.2
    length, width, waist = (
        _between(places, n, low, high) for n, low, high in ((1, 4.0, 4.7), (2, 1.7, 1.84), (3, 0.82, 0.95))
    )
    roof = jnp.where(van, 1.95, _between(places, 4, 1.42, 1.56))
    return _car(places, CAR, _pick(places, 5, _CAR_COLORS), (length, width, waist, roof), jnp.where(van, 0.74, 0.54))


def ego_vehicle(places: Places) -> list[Part]:
    """The car that carries the cameras, grey; its place is the middle of the car, not of the axle."""
    shade = _between(places, 0, 0.12, 0.75)[:, None]
    size = EGO_FRONT - EGO_REAR, 2 * EGO_HALF_WIDTH, 0.9, 1.5
    lengths = tuple(jnp.full(shade.shape[:1], value) for value in size)
    return _car(places, EGO_VEHICLE, shade * jnp.asarray([[1.0, 1.0, 1.02]]), lengths, jnp.full(shade.shape[:1], 0.55))


def people(places: Places) -> list[Part]:
    """Two legs in stride, a trunk with arms, and a head."""
    height = _between(places, 0, 1.5, 1.92)
    stride = _between(places, 1, -0.16, 0.16) * height
    clothes, trousers, skin = _pick(places, 2, _CLOTHES), _pick(places, 4, _TROUSERS), _pick(places, 6, _SKIN)
    shoulder = 0.115 * height
    parts = []
    for side in (-1.0, 1.0):
        hip = (0.0, side * 0.5 * shoulder, 0.5 * height)
        foot = (side * stride, side * 0.5 * shoulder, 0.0)
        joint = (0.0, side * 1.12 * shoulder, 0.82 * height)
        hand = (-0.7 * side * stride, side * 1.3 * shoulder, 0.46 * height)
        parts += [
            _part(_rods(places, hip, foot, 0.045 * height), PERSON, trousers, PLAIN),
            _part(_rods(places, joint, hand, 0.03 * height), PERSON, clothes, PLAIN),
        ]
    trunk = _boxes(places, (0.0, 0.0, 0.66 * height), (0.13 * height, 2 * shoulder, 0.36 * height))
    head = _balls(places, (0.0, 0.0, 0.925 * height), 0.07 * height)
    return [*parts, _part(trunk, PERSON, clothes, PLAIN), _part(head, PERSON, skin, PLAIN)]


def poles(places: Places) -> list[Part]:
    """Lamp posts whose arm points along the heading, and traffic signs whose plate looks across it."""
    lamp = places.numbers[:, 0] < 0.5
    height = jnp.where(lamp, 6.2, _between(places, 1, 2.6, 3.1))
    post = _rods(places, (0.0, 0.0, height), (0.0, 0.0, 0.0), jnp.where(lamp, 0.085, 0.05))
    plate = _rods(places, (0.0, 0.0, height - 0.4), (0.0, 0.1, height - 0.4), 0.38)
    arm = _boxes(places, (0.75, 0.0, height), (1.7, 0.14, 0.12))
    return [
        _part(post, POLE, _METAL, PLAIN),
        _part(plate._replace(used=places.used & ~lamp), POLE, _pick(places, 2, _SIGNS), SIGN),
        _part(arm._replace(used=places.used & lamp), POLE, _METAL, PLAIN),
    ]


def trees(places: Places) -> list[Part]:
    """A trunk below a crown of three balls."""
    size = _between(places, 0, 1.2, 1.9)
    crown = _between(places, 1, 1.9, 2.6) + size
    angle = _between(places, 2, 0, 2 * math.pi)
    color = _pick(places, 3, _LEAVES)
    parts = [_part(_rods(places, (0.0, 0.0, crown), (0.0, 0.0, 0.0), 0.1 * size), TREE, _BARK, PLAIN)]
    for number, (share, rise) in enumerate(((1.0, 0.0), (0.72, 0.35), (0.66, 0.75))):
        away = 0.0 if number == 0 else 0.55
        turned = angle + 2.4 * number
        offset = (away * size * jnp.cos(turned), away * size * jnp.sin(turned), crown + rise * size)
        parts.append(_part(_balls(places, offset, share * size), TREE, color, FOLIAGE))
    return parts


def _car(places: Places, label: int, color: Array, size: tuple[Array, ...], cabin: Array) -> list[Part]:
    """A car of a length, width, height of the waist and of the roof, whose cabin takes a share of the length."""
    length, width, waist, roof = size
    body = _boxes(places, (0.0, 0.0, (waist + 0.24) / 2), (length, width, waist - 0.24))
    # The long cabin of a van reaches the rear, a short one sits a little behind the middle.
    back = jnp.where(cabin > 0.6, 0.05 - (1 - cabin) * length / 2, -0.06 * length)
    top = _boxes(places, (back, 0.0, (waist + roof) / 2), (cabin * length, 0.86 * width, roof - waist))
    parts = [_part(body, label, color, BODY), _part(top, label, color, CABIN)]
    half = width / 2 + 0.015
    for axle in (-0.31, 0.31):
        wheels = _rods(places, (axle * length, -half, 0.33), (axle * length, half, 0.33), 0.33)
        parts.append(_part(wheels, label, _TYRE, WHEEL))
    return parts


def _part(shapes: Boxes | Spheres | Cylinders, label: int, color: Array | Color, texture: int) -> Part:
    count = len(shapes.used)
    colors = jnp.broadcast_to(jnp.atleast_2d(jnp.asarray(color, float)), (count, 3))
    return Part(shapes, Surfaces(jnp.full(count, label, jnp.int32), colors, jnp.full(count, texture, jnp.int32)))


def _between(places: Places, number: int, low: float | int, high: float | int) -> Array:
    """Uniform in [low, high), from one of the numbers of each place."""
    return low + (high - low) * places.numbers[:, number]


def _pick(places: Places, number: int, palette: Sequence[Color]) -> Array:
    """Colours of a palette, each a little darker or lighter: by this number and the next."""
    which = jnp.floor(_between(places, number, 0, len(palette))).astype(jnp.int32)
    return jnp.asarray(palette, float)[which] * _between(places, number + 1, 0.85, 1.08)[:, None]


def _at(places: Places, offset: tuple) -> Array:
    """Points ahead of, left of and above the places."""
    columns = [jnp.broadcast_to(jnp.asarray(value, float), places.heading.shape) for value in offset]
    ground = jnp.concatenate([places.position, places.base[:, None]], axis=1)
    return ground + turn(jnp.stack(columns, axis=1), places.heading)


def _boxes(places: Places, offset: tuple, size: tuple) -> Boxes:
    half = [jnp.broadcast_to(jnp.asarray(value, float) / 2, places.heading.shape) for value in size]
    return Boxes(_at(places, offset), jnp.stack(half, axis=1), places.heading, places.used)


def _balls(places: Places, offset: tuple, radius: Array) -> Spheres:
    return Spheres(_at(places, offset), radius, places.used)


def _rods(places: Places, top: tuple, bottom: tuple, radius: Array | float) -> Cylinders:
    """Cylinders between two points."""
    upper, lower = _at(places, top), _at(places, bottom)
    length = jnp.linalg.norm(upper - lower, axis=1)
    radii = jnp.broadcast_to(jnp.asarray(radius, float), length.shape)
    return Cylinders((upper + lower) / 2, (upper - lower) / length[:, None], length / 2, radii, places.used)
