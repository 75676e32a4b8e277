"""Where things may stand along a street: slots that cannot overlap, each taken or not by its random numbers.

The frame is that of the street: x along it, y to the left, the road's middle at y = 0; traffic keeps to the right; the
car that looks stands with its middle at (`AXLE_TO_MIDDLE`, about half a lane to the right). Metres and radians.

Each slot has a row of random numbers: the last four say whether it is taken and how it is shifted, the others go with
the place to what will stand there (`jaxgeo.data.scene_objects`).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxgeo.data.scene_objects import EGO_FRONT, EGO_REAR, PAVEMENT_HEIGHT, Places

AXLE_TO_MIDDLE = (EGO_FRONT + EGO_REAR) / 2
KERB_WIDTH = 0.25
SIDE_PAVEMENT = 2.5  # width of pavements along the side street
BAY_LENGTH = 6.5  # of a parked car
ZEBRA_START, ZEBRA_END = 1.5, 4.5  # of the crossings, from the edge of the side street
Real = jax.Array | np.ndarray | float

NUMBERS = 12  # random ones for each slot
SLOTS = {"ego": 1, "sky": 1, "buildings": 4 * 8, "cars": 2 * 10 + 2 * 7 + 2 * 2, "people": 2 * 15 + 4}
SLOTS |= {"poles": 2 * 12, "trees": 2 * 11}

_SIDES = np.array([[1.0], [-1.0]])  # left and right of the road


class Street(NamedTuple):
    """What is painted on the ground."""

    origin: Float[Array, " 2"]  # of the street's frame in the scene
    heading: Float[Array, ""]  # of its x axis
    half_width: Float[Array, ""]  # of the road
    lane_width: Float[Array, ""]  # one lane for each way; bays for parking outside
    pavement_width: Float[Array, ""]
    junction: Float[Array, ""]  # x of the middle of the side street
    side_half_width: Float[Array, ""]  # of the side street; 0 where there is none
    bay_start: Float[Array, ""]  # x of one of the lines between bays


def nearest(places: Places, count: int) -> Places:
    """The used places nearest to the car, and unused ones where there are fewer; `count` in all."""
    distance = jnp.linalg.norm(places.position - jnp.asarray([[AXLE_TO_MIDDLE, 0.0]]), axis=1)
    order = jnp.argsort(jnp.where(places.used, distance, jnp.inf))
    missing = max(count - len(order), 0)
    kept = jax.tree.map(lambda leaf: leaf[jnp.pad(order, (0, missing))[:count]], places)
    return kept._replace(used=kept.used & (jnp.arange(count) < len(order)))


def building_places(street: Street, numbers: Float[Array, "slot number"]) -> Places:
    """Rows along the street from the side street outwards, and behind them along the side street."""
    row, side = 6, 2  # buildings of each quarter
    numbers = numbers.reshape(4, row + side, -1)
    sign_x, sign_y = jnp.asarray([[[1.0], [1], [-1], [-1]], [[1.0], [-1], [1], [-1]]])
    there = street.side_half_width > 0
    gap = street.side_half_width + jnp.where(there, KERB_WIDTH + SIDE_PAVEMENT, 0.0)
    front = street.half_width + KERB_WIDTH + street.pavement_width
    setback = 3.6 + 1.9 * numbers[..., -1]
    along = gap + 1.5 + 15 * (jnp.arange(row) + 0.5)
    behind = front + 5.5 + 12 + 2 + 15 * (jnp.arange(side) + 0.5)
    x = jnp.concatenate([jnp.broadcast_to(along[None], (4, row)), gap + setback[:, row:]], axis=1)
    y = jnp.concatenate([front + setback[:, :row], jnp.broadcast_to(behind[None], (4, side))], axis=1)
    in_row = (jnp.arange(row + side) < row)[None]
    heading = jnp.where(in_row, -sign_y * math.pi / 2, jnp.where(sign_x > 0, math.pi, 0.0))
    taken = (numbers[..., -2] < 0.92) & (in_row | there)
    return _places(street.junction + sign_x * x, sign_y * y, heading, taken, numbers)


def car_places(street: Street, numbers: Float[Array, "slot number"], density: float | int) -> Places:
    """Parked in bays on both sides, driving on both lanes, waiting in the side street."""
    parked, moving, waiting = jnp.split(numbers, [20, 34])
    there, backwards = street.side_half_width > 0, jnp.where(_SIDES > 0, math.pi, 0.0)
    first, second, third, taken = _layout(parked.reshape(2, 10, -1))
    x = street.bay_start + BAY_LENGTH * (jnp.arange(-5, 5) + 0.5)[None] + 0.5 * (2 * first - 1)
    y = _SIDES * ((street.half_width + street.lane_width) / 2 + 0.1 * (2 * second - 1))
    heading = backwards + math.radians(1.5) * (2 * third - 1)
    in_bays = _places(x, y, heading, (taken < density) & _clear(street, x, ZEBRA_END + 3.0), parked)

    # 14 m apart and shifted by 2.5 m: never closer than 9 m, nor to the car that looks, which has step 0.
    first, _, _, taken = _layout(moving.reshape(2, 7, -1))
    steps = jnp.arange(-3, 4)[None]
    x = AXLE_TO_MIDDLE + 14.0 * steps + 2.5 * (2 * first - 1)
    middle, half = (ZEBRA_START + ZEBRA_END) / 2, (ZEBRA_END - ZEBRA_START) / 2
    from_zebra = jnp.abs(jnp.abs(x - street.junction) - (street.side_half_width + middle))
    used = (taken < density / 2) & ((_SIDES > 0) | (steps != 0)) & ((from_zebra > half + 2.9) | ~there)
    in_lanes = _places(x, _SIDES * street.lane_width / 2, backwards, used, moving)

    first, _, _, taken = _layout(waiting.reshape(2, 2, -1))
    y = _SIDES * (street.half_width + 3.8 + 9.0 * jnp.arange(2)[None] + 2.8 * first)
    x = street.junction - _SIDES * street.side_half_width / 2
    beside = _places(x, y, -_SIDES * math.pi / 2, (taken < 0.8 * density) & there, waiting)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), in_bays, in_lanes, beside)


def person_places(street: Street, numbers: Float[Array, "slot number"], density: float | int) -> Places:
    """On both pavements, and on the crossings."""
    walking, crossing = jnp.split(numbers, [30])
    first, second, third, taken = _layout(walking.reshape(2, 15, -1))
    x = AXLE_TO_MIDDLE + 3.2 * jnp.arange(-7, 8)[None] + 1.2 * (2 * first - 1)
    y = _SIDES * (street.half_width + KERB_WIDTH + 0.85 + (street.pavement_width - 1.3) * second)
    heading = jnp.where(third < 0.5, -0.2, math.pi - 0.6) + 0.8 * third
    used = (taken < density) & _clear(street, x, 0.6)
    on_pavement = _places(x, y, heading, used, walking, PAVEMENT_HEIGHT)

    first, second, third, taken = _layout(crossing.reshape(2, 2, -1))
    away = street.side_half_width + ZEBRA_START + 0.6 + (ZEBRA_END - ZEBRA_START - 1.2) * first
    x = street.junction + _SIDES.T * away
    y = _SIDES * (0.6 + (street.half_width - 1.2) * second)
    heading = jnp.where(third < 0.5, 0.5, -0.5) * math.pi
    on_zebra = _places(x, y, heading, (taken < density) & (street.side_half_width > 0), crossing)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), on_pavement, on_zebra)


def pole_places(street: Street, numbers: Float[Array, "slot number"]) -> Places:
    """On both pavements, close to the kerb, looking across the road."""
    first, _, _, taken = _layout(numbers.reshape(2, 12, -1))
    x = AXLE_TO_MIDDLE + 7.0 * (jnp.arange(-6, 6) + 0.5)[None] + 3.0 * (2 * first - 1)
    y = _SIDES * (street.half_width + KERB_WIDTH + 0.4)
    return _places(x, y, -_SIDES * math.pi / 2, (taken < 0.85) & _clear(street, x, 0.4), numbers, PAVEMENT_HEIGHT)


def tree_places(street: Street, numbers: Float[Array, "slot number"], density: float | int) -> Places:
    """On the grass behind both pavements."""
    first, second, _, taken = _layout(numbers.reshape(2, 11, -1))
    x = AXLE_TO_MIDDLE + 9.0 * jnp.arange(-5, 6)[None] + 2.0 * (2 * first - 1)
    y = _SIDES * (street.half_width + KERB_WIDTH + street.pavement_width + 0.7 + 0.6 * second)
    return _places(x, y, 0.0, (taken < density) & _clear(street, x, SIDE_PAVEMENT + 1.0), numbers)


def _layout(numbers: Array) -> Array:
    """The four numbers of slots (*slot, number) that place them, each over all slots."""
    return jnp.moveaxis(numbers[..., -4:], -1, 0)


def _clear(street: Street, x: Array, margin: float) -> Bool[Array, "..."]:
    """Whether a place along the street is outside of the side street and a margin."""
    return (jnp.abs(x - street.junction) > street.side_half_width + margin) | (street.side_half_width == 0)


def _places(x: Real, y: Real, heading: Real, used: Array, numbers: Array, base: float = 0.0) -> Places:
    """Flat arrays of slots that are given over sides and rows."""

    def flat(value: Real) -> Array:
        return jnp.broadcast_to(jnp.asarray(value), used.shape).reshape(-1)

    position = jnp.stack([flat(x), flat(y)], axis=-1)
    return Places(position, flat(heading), flat(used), flat(base), numbers.reshape(used.size, -1)[:, :-4])
