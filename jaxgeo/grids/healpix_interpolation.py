"""Bilinear interpolation between HEALPix pixel centres: four pixels and weights for each direction.

The direction lies between two rings; on each, between two neighbouring centres. Weights are linear in the longitude on
a ring and in the colatitude between the rings. Beyond the first and the last ring the pole is one more point, whose
value is the mean of the ring's four pixels. The same pixels in the same order as `healpy.get_interp_weights`.

References:
    Gorski et al., "HEALPix: A Framework for High-Resolution Discretization and Fast Analysis of Data Distributed
    on the Sphere", ApJ 622 (2005), arXiv:astro-ph/0409513: where the rings lie (equations 4 to 9).
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgeo.errors import InputError
from jaxgeo.grids.healpix import MAX_NSIDE_INT32, Order, check_nside, check_order, ring_to_nest
from jaxgeo.grids.healpix_checks import check_known_angles, compiled_behind


@compiled_behind(check_known_angles)
def interpolation_weights(
    nside: int, theta: Float[Array, "*point"], phi: Float[Array, "*point"], order: Order
) -> tuple[Int[Array, "*point 4"], Float[Array, "*point 4"]]:
    """(pixels, weights) of directions: two pixels of the ring to the north, then two of the ring to the south.

    Args:
        nside: of the map.
        theta: colatitude in [0, pi], radians.
        phi: any longitude, radians.
        order: of the pixel numbers.

    Returns:
        Weights from 0 to 1 that sum to 1, in the default float and differentiable by the angles. A pixel may come
        twice.

    Raises:
        InputError: nside above 2^13 without 64-bit integers; colatitudes that are known and outside of [0, pi], angles
            that are not finite.
    """
    check_nside(nside)
    check_order(order)
    integer = jnp.result_type(int)
    if nside > MAX_NSIDE_INT32 and integer.itemsize < 8:
        raise InputError(
            f"pixel numbers at nside {nside} need int64 (inside jax.enable_x64), because {integer} would overflow; "
            f"{integer} reaches nside {MAX_NSIDE_INT32}"
        )
    theta, phi = jnp.asarray(theta, float), jnp.asarray(phi, float)
    turns = jnp.mod(phi / (2 * math.pi), 1)
    above = _ring_above(nside, theta).astype(integer)
    north, south = above == 0, above == 4 * nside - 1
    north_pixels, north_weights = _on_ring(nside, jnp.maximum(above, 1), turns)
    south_pixels, south_weights = _on_ring(nside, jnp.minimum(above + 1, 4 * nside - 1), turns)
    # At a pole the opposite two of its four pixels stand in for the missing ring: numbers 0 to 3 from the ring's first.
    last_ring = 12 * nside**2 - 4
    north_pixels = jnp.where(north[..., None], (south_pixels + 2) & 3, north_pixels)
    south_pixels = jnp.where(south[..., None], ((north_pixels - last_ring + 2) & 3) + last_ring, south_pixels)
    upper = jnp.where(north, 0, _ring_colatitude(nside, jnp.maximum(above, 1)))
    lower = jnp.where(south, math.pi, _ring_colatitude(nside, jnp.minimum(above + 1, 4 * nside - 1)))
    part = jnp.clip((theta - upper) / (lower - upper), 0, 1)[..., None]
    north_part, south_part = (1 - part) * north_weights, part * south_weights
    at_north, at_south = (1 - part) / 4, part / 4  # each pixel's share of the pole's value
    north_part, south_part = (
        jnp.where(north[..., None], at_north, north_part + jnp.where(south[..., None], at_south, 0)),
        jnp.where(south[..., None], at_south, south_part + jnp.where(north[..., None], at_north, 0)),
    )
    pixels = jnp.concatenate([north_pixels, south_pixels], axis=-1)
    weights = jnp.concatenate([north_part, south_part], axis=-1)
    return (ring_to_nest(nside, pixels) if order == "nested" else pixels), weights


def _ring_above(nside: int, theta: Array) -> Array:
    """Number of the ring at or north of a colatitude: 1 to 4 nside - 1 from north to south, 0 at the north pole."""
    belt = 2 * nside - 1.5 * nside * jnp.cos(theta)
    north = math.sqrt(6) * nside * jnp.sin(theta / 2)
    south = 4 * nside - math.sqrt(6) * nside * jnp.cos(theta / 2)
    # South of the belt whole numbers belong to the ring itself, as everywhere.
    ring = jnp.where(belt < nside, north, jnp.where(belt > 3 * nside, south, belt))
    return jnp.clip(jnp.floor(ring), 0, 4 * nside - 1)


def _ring_colatitude(nside: int, ring: Array) -> Array:
    real = jnp.result_type(float)
    quarter = jnp.minimum(ring, 4 * nside - ring).astype(real)
    cap = 2 * jnp.arcsin(jnp.minimum(quarter, nside) / (math.sqrt(6) * nside))
    belt = math.pi / 2 - jnp.arcsin(jnp.clip((2 * nside - ring).astype(real) / (1.5 * nside), -1, 1))
    return jnp.where(ring < nside, cap, jnp.where(ring > 3 * nside, math.pi - cap, belt))


def _on_ring(nside: int, ring: Array, turns: Array) -> tuple[Array, Array]:
    """The pixels to the west and east of a longitude on a ring, and their weights."""
    quarter = jnp.minimum(jnp.minimum(ring, 4 * nside - ring), nside)
    cap = 2 * nside * (nside - 1)
    first = jnp.where(ring < nside, 2 * quarter * (quarter - 1), cap + 4 * nside * (ring - nside))
    first = jnp.where(ring > 3 * nside, 12 * nside**2 - 2 * quarter * (quarter + 1), first)
    # In the caps all rings, in the belt every other begins half a pixel east of longitude 0.
    shifted = (quarter < nside) | ((ring - nside) & 1 == 0)
    position = turns * (4 * quarter) - jnp.where(shifted, 0.5, 0.0)
    west = jnp.floor(position)
    part = position - west
    west = jnp.where(west < 0, west.astype(ring.dtype) + 4 * quarter, west.astype(ring.dtype))
    east = jnp.where(west + 1 == 4 * quarter, 0, west + 1)
    return first[..., None] + jnp.stack([west, east], axis=-1), jnp.stack([1 - part, part], axis=-1)
