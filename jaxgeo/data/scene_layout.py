"""A street drawn at random, as a pytree of arrays of fixed sizes, in the frame of the car that looks at it.

Frames. Street: x along it, y to the left, z up, the road's middle at y = 0. Vehicle: x ahead, y left, z up, the middle
of the rear axle on the ground at the origin; scenes come in it, so that a camera's extrinsics are all that its rays
need. Metres and radians throughout.

Things stand on slots along the street that cannot overlap, each slot is taken or not, and of the taken ones those
nearest to the car are kept, up to a fixed number; fewer leave primitives that are switched off. So scenes of one
configuration have one shape, and `jax.vmap` draws many.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.data import scene_objects as objects
from jaxgeo.data.ray_casting import Primitives, move_primitives, turn
from jaxgeo.data.scene_classes import KERB, PAVEMENT
from jaxgeo.data.scene_objects import PAVEMENT_HEIGHT, Places, Surfaces
from jaxgeo.data.scene_places import (
    AXLE_TO_MIDDLE,
    BAY_LENGTH,
    KERB_WIDTH,
    NUMBERS,
    SIDE_PAVEMENT,
    SLOTS,
    Street,
    building_places,
    car_places,
    nearest,
    person_places,
    pole_places,
    tree_places,
)
from jaxgeo.data.textures import PAVING, PLAIN
from jaxgeo.errors import check_fields

_REACH = 150.0  # of pavements


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """How many things a street has at most, and how often their places are taken.

    Raises:
        ConfigError: a number of things below 1, a probability outside of 0..1.
    """

    num_cars: int = 14
    num_people: int = 10
    num_poles: int = 12
    num_trees: int = 10
    num_buildings: int = 22
    car_density: float | int = 0.6  # probability that a parking bay is taken; of traffic half of it
    person_density: float | int = 0.5
    tree_density: float | int = 0.6
    junction_probability: float | int = 0.6  # of a side street in sight

    def __post_init__(self):
        # Places are at least one, as shapes are static; a density of 0 leaves them empty.
        names = [field.name for field in dataclasses.fields(self)]
        check_fields(self, **{name: 1 if name.startswith("num_") else (0, 1) for name in names})


class Sky(NamedTuple):
    """Where light comes from."""

    sun: Float[Array, " 3"]  # unit vector towards it
    strength: Float[Array, ""]  # of sunlight
    cloudiness: Float[Array, ""]
    drift: Float[Array, " 2"]  # of the clouds


class Scene(NamedTuple):
    """A street with all that stands on it."""

    street: Street
    primitives: Primitives
    surfaces: Surfaces  # of the primitives, in their order
    sky: Sky


@functools.partial(jax.jit, static_argnames="config")
def draw_scene(key: PRNGKeyArray, config: SceneConfig) -> Scene:
    """A street at random, in the frame of a vehicle that drives along it on the right."""
    numbers = jax.random.uniform(key, (1 + sum(SLOTS.values()), NUMBERS))
    street = _draw_street(numbers[0], config)
    blocks = dict(zip(SLOTS, jnp.split(numbers[1:], np.cumsum(list(SLOTS.values()))[:-1].tolist()), strict=True))
    aside, swerve = 2 * blocks["ego"][0, :2] - 1
    heading = math.radians(5) * swerve
    # The middle of the car, not its axle, is on the lane, so that a swerve leaves it there.
    middle = jnp.stack([jnp.asarray(AXLE_TO_MIDDLE), -street.lane_width / 2 + 0.2 * aside])
    here = Places(middle[None], heading[None], jnp.ones(1, bool), jnp.zeros(1), blocks["ego"][:, 2:])
    parts = [
        *_pavements(street),
        *objects.buildings(nearest(building_places(street, blocks["buildings"]), config.num_buildings)),
        *objects.cars(nearest(car_places(street, blocks["cars"], config.car_density), config.num_cars)),
        *objects.people(nearest(person_places(street, blocks["people"], config.person_density), config.num_people)),
        *objects.poles(nearest(pole_places(street, blocks["poles"]), config.num_poles)),
        *objects.trees(nearest(tree_places(street, blocks["trees"], config.tree_density), config.num_trees)),
        *objects.ego_vehicle(here),
    ]
    scene = Scene(street, *objects.join_parts(parts), _draw_sky(blocks["sky"][0]))
    axle = middle - AXLE_TO_MIDDLE * jnp.stack([jnp.cos(heading), jnp.sin(heading)])
    return move_scene(scene, -heading, -_turned(axle, -heading))


@jax.jit
def move_scene(scene: Scene, yaw: Float[Array, ""], shift: Float[Array, " 2"]) -> Scene:
    """Everything turned about z and then shifted over the ground, the sun too."""
    street, sky = scene.street, scene.sky
    return Scene(
        street._replace(origin=_turned(street.origin, yaw) + shift, heading=street.heading + yaw),
        move_primitives(scene.primitives, yaw, jnp.concatenate([shift, jnp.zeros(1, shift.dtype)])),
        scene.surfaces,
        sky._replace(sun=turn(sky.sun, yaw)),
    )


def street_coordinates(street: Street, points: Float[Array, "*point 2"]) -> Float[Array, "*point 2"]:
    """Points on the ground in the frame of the street."""
    offset = points - street.origin.reshape((1,) * (points.ndim - 1) + (2,))
    return _turned(offset, jnp.broadcast_to(-street.heading, offset.shape[:-1]))


def _turned(points: Array, yaw: Array) -> Array:
    flat = jnp.concatenate([points, jnp.zeros_like(points[..., :1])], axis=-1)
    return turn(flat, yaw)[..., :2]


def _draw_street(numbers: Array, config: SceneConfig) -> Street:
    lane, bay, pavement, side = jnp.asarray([3.1, 2.1, 2.2, 2.9]) + jnp.asarray([0.4, 0.3, 1.6, 0.5]) * numbers[:4]
    exists = numbers[4] < config.junction_probability
    # A side street right beside the car, or far enough that no crossing touches it.
    way = 2 * numbers[5] - 1
    away = jnp.where(way < 0, -14.5, 14.5) + 24 * way
    junction = AXLE_TO_MIDDLE + jnp.where(numbers[6] < 0.3, 0.5 * way, away)
    return Street(
        origin=jnp.zeros(2),
        heading=jnp.zeros(()),
        half_width=lane + bay,
        lane_width=lane,
        pavement_width=pavement,
        junction=jnp.where(exists, junction, 0.0),
        side_half_width=jnp.where(exists, side, 0.0),
        bay_start=BAY_LENGTH * numbers[7],
    )


def _draw_sky(numbers: Array) -> Sky:
    azimuth = 2 * math.pi * numbers[0]
    height = math.radians(25) + math.radians(40) * numbers[1]
    cloudiness = 0.15 + 0.55 * numbers[2]
    flat = jnp.cos(height)
    sun = jnp.stack([flat * jnp.cos(azimuth), flat * jnp.sin(azimuth), jnp.sin(height)])
    return Sky(sun, 1.15 - 0.8 * cloudiness, cloudiness, 100 * numbers[3:5])


def _pavements(street: Street) -> list[objects.Part]:
    """Kerbs and pavements of the four quarters around the side street, along both streets."""
    low, high = {KERB: [], PAVEMENT: []}, {KERB: [], PAVEMENT: []}

    def add(label, x, y, sides):
        corners = [
            jnp.stack([jnp.asarray(value, float) for value in pair]) * side
            for pair, side in zip((x, y), sides, strict=True)
        ]
        corners[0] = corners[0] + street.junction
        top = PAVEMENT_HEIGHT + (0.02 if label == KERB else 0.0)
        low[label].append(jnp.stack([jnp.min(corners[0]), jnp.min(corners[1]), jnp.zeros(())]))
        high[label].append(jnp.stack([jnp.max(corners[0]), jnp.max(corners[1]), jnp.full((), top)]))

    edge, road = street.side_half_width, street.half_width
    there = edge > 0
    # Without a side street the quarters touch, and there is nothing along it.
    corner = jnp.where(there, edge + KERB_WIDTH, 0.0)
    back = road + KERB_WIDTH + street.pavement_width
    reach = jnp.where(there, _REACH, back)
    for sides in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        add(KERB, (edge, _REACH), (road, road + KERB_WIDTH), sides)
        add(KERB, (edge, corner), (road + KERB_WIDTH, jnp.where(there, _REACH, road + KERB_WIDTH)), sides)
        add(PAVEMENT, (corner, _REACH), (road + KERB_WIDTH, back), sides)
        add(PAVEMENT, (corner, corner + SIDE_PAVEMENT), (back, reach), sides)
    colors = {KERB: (0.66, 0.66, 0.64), PAVEMENT: (0.60, 0.57, 0.54)}
    textures = {KERB: PLAIN, PAVEMENT: PAVING}
    return [
        objects.slabs(jnp.stack(low[label]), jnp.stack(high[label]), label, colors[label], textures[label])
        for label in (KERB, PAVEMENT)
    ]
