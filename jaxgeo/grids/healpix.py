"""HEALPix index arithmetic: which pixel lies where, in RING and NESTED order.

All functions are pure, vectorised over any shape of pixel numbers and compiled, with `nside` and `order` static.
They take signed integers and return the same type: int32 reaches nside 2^13, int64 (inside `jax.enable_x64`) 2^29.
Pixel numbers outside 0 ... 12 nside^2 - 1, and directions that are none, are refused where they are known; under
`jax.jit`, where nothing can be raised, they give numbers without a meaning.

The sphere is unfolded into 12 square faces of nside x nside pixels: `x` grows towards north-east, `y` towards
north-west, faces 0-3 touch the north pole, 4-7 lie on the equator, 8-11 touch the south pole. Between unfolding
and sphere stand two integers per pixel centre: `height`, in rings above the equator, and `longitude`, in steps of
pi / (4 nside) of the unfolded map. In the polar caps each quarter of the unfolded map is a triangle, so that the
same two integers mean a position on a shorter ring there.

References:
    Gorski et al., "HEALPix: A Framework for High-Resolution Discretization and Fast Analysis of Data Distributed
    on the Sphere", ApJ 622 (2005), arXiv:astro-ph/0409513, sections 4 and 5.
"""

import math
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jaxgeo.errors import InputError, check_one_of
from jaxgeo.grids.healpix_checks import (
    MAX_NSIDE,
    MAX_NSIDE_INT32,
    check_known_angles,
    check_known_pixels,
    check_known_places,
    check_known_vectors,
    check_nside,
    compiled_behind,
)

Order = Literal["nested", "ring"]


def check_order(order: str) -> None:
    """Raise `ConfigError` unless order is "nested" or "ring"."""
    check_one_of("the order of the pixels", order, Order)


def npix(nside: int) -> int:
    """Number of pixels of a full map, 12 nside^2."""
    check_nside(nside)
    return 12 * nside**2


def nside_of(npix: int) -> int:
    """The nside of a full map of `npix` pixels; `InputError` where no power of two has that many."""
    nside = math.isqrt(npix // 12) if npix > 0 else 0
    if 1 <= nside <= MAX_NSIDE and nside & (nside - 1) == 0 and 12 * nside**2 == npix:
        return nside
    smaller = min(1 << max(nside.bit_length() - 1, 0), MAX_NSIDE)
    near = [side for side in (smaller, 2 * smaller) if side <= MAX_NSIDE]
    lengths = " and ".join(f"{12 * side**2} (nside {side})" for side in near)
    raise InputError(f"a full HEALPix map has 12 nside^2 pixels with nside a power of two, got {npix}; near: {lengths}")


def _check_pixels(nside: int, pix: Int[Array, "..."]) -> None:
    check_nside(nside)
    if pix.dtype.itemsize < 4 or (nside > MAX_NSIDE_INT32 and pix.dtype.itemsize < 8):
        need = "int32" if nside <= MAX_NSIDE_INT32 else "int64 (inside jax.enable_x64)"
        raise InputError(f"pixel numbers at nside {nside} need {need}, got {pix.dtype}, which would overflow")


def _spread_bits(value: Int[Array, "*pixel"]) -> Int[Array, "*pixel"]:
    """Bit k of the input becomes bit 2k."""
    if value.dtype.itemsize == 8:
        value = (value | value << 16) & 0x0000FFFF0000FFFF
    value = (value | value << 8) & (0x00FF00FF00FF00FF if value.dtype.itemsize == 8 else 0x00FF00FF)
    value = (value | value << 4) & (0x0F0F0F0F0F0F0F0F if value.dtype.itemsize == 8 else 0x0F0F0F0F)
    value = (value | value << 2) & (0x3333333333333333 if value.dtype.itemsize == 8 else 0x33333333)
    return (value | value << 1) & (0x5555555555555555 if value.dtype.itemsize == 8 else 0x55555555)


def _gather_bits(value: Int[Array, "*pixel"]) -> Int[Array, "*pixel"]:
    """Bit 2k of the input becomes bit k; odd bits are dropped."""
    wide = value.dtype.itemsize == 8
    value = value & (0x5555555555555555 if wide else 0x55555555)
    value = (value | value >> 1) & (0x3333333333333333 if wide else 0x33333333)
    value = (value | value >> 2) & (0x0F0F0F0F0F0F0F0F if wide else 0x0F0F0F0F)
    value = (value | value >> 4) & (0x00FF00FF00FF00FF if wide else 0x00FF00FF)
    value = (value | value >> 8) & (0x0000FFFF0000FFFF if wide else 0x0000FFFF)
    return (value | value >> 16) & 0x7FFFFFFF if wide else value


def isqrt(value: Int[Array, "*pixel"]) -> Int[Array, "*pixel"]:
    """Exact floor of the square root of non-negative integers."""
    real = jnp.float64 if value.dtype.itemsize == 8 else jnp.float32
    root = jnp.sqrt(value.astype(real)).astype(value.dtype)
    # The float is off by less than one: above 2^24 (2^53) not even the argument is exact.
    root = jnp.where(root * root > value, root - 1, root)
    return jnp.where((root + 1) * (root + 1) <= value, root + 1, root)


def _quarter_length(nside: int, height: Int[Array, "*pixel"]) -> Int[Array, "*pixel"]:
    """Pixels in a quarter of the ring at a height above the equator."""
    return jnp.minimum(nside, 2 * nside - jnp.abs(height))


def _ring_to_plane(nside: int, pix: Int[Array, "*pixel"]) -> tuple[Int[Array, "*pixel"], Int[Array, "*pixel"]]:
    """(height, longitude) on the unfolded map."""
    cap = 2 * nside * (nside - 1)
    # Both caps are counted from their pole; the south one is the mirror image.
    from_pole = jnp.clip(jnp.minimum(pix, 12 * nside**2 - 1 - pix), 0)
    quarter = (1 + isqrt(1 + 2 * from_pole)) // 2
    position = from_pole - 2 * quarter * (quarter - 1)
    south = pix >= 6 * nside**2
    position = jnp.where(south, 4 * quarter - 1 - position, position)
    cap_height = jnp.where(south, quarter - 2 * nside, 2 * nside - quarter)
    # A ring of a cap is cut into four quarters, each centred on the middle of its face.
    which = position // quarter
    cap_longitude = (2 * which + 1) * nside + 2 * (position - which * quarter) + 1 - quarter
    row = (pix - cap) // (4 * nside)
    column = (pix - cap) - row * (4 * nside)
    belt_height = nside - row
    belt_longitude = 2 * column + 1 - (row & 1)
    in_cap = from_pole < cap
    return jnp.where(in_cap, cap_height, belt_height), jnp.where(in_cap, cap_longitude, belt_longitude)


def _xyf_to_plane(
    nside: int, x: Int[Array, "*pixel"], y: Int[Array, "*pixel"], face: Int[Array, "*pixel"]
) -> tuple[Int[Array, "*pixel"], Int[Array, "*pixel"]]:
    row = face >> 2
    height = x + y + 1 - row * nside
    longitude = (2 * (face & 3) + ((row + 1) & 1)) * nside + x - y
    return height, jnp.where(longitude < 0, longitude + 8 * nside, longitude)


def _plane_to_ring_longitude(
    nside: int, height: Int[Array, "*pixel"], longitude: Int[Array, "*pixel"]
) -> tuple[Int[Array, "*pixel"], Int[Array, "*pixel"]]:
    """(pixels in a quarter of the ring, longitude in steps of pi / (4 quarter))."""
    quarter = _quarter_length(nside, height)
    which = longitude // (2 * nside)
    return quarter, (2 * which + 1) * quarter + longitude - (2 * which + 1) * nside


@compiled_behind(check_known_pixels)
def nest_to_xyf(
    nside: int, pix: Int[Array, "*pixel"]
) -> tuple[Int[Array, "*pixel"], Int[Array, "*pixel"], Int[Array, "*pixel"]]:
    """Place within a face, and face, of NESTED pixels: the bits of x and y interleaved."""
    _check_pixels(nside, pix)
    bits = 2 * (int(nside).bit_length() - 1)
    face = pix >> bits
    within = pix & (nside**2 - 1)
    return _gather_bits(within), _gather_bits(within >> 1), face


@compiled_behind(check_known_places)
def xyf_to_nest(
    nside: int, x: Int[Array, "*pixel"], y: Int[Array, "*pixel"], face: Int[Array, "*pixel"]
) -> Int[Array, "*pixel"]:
    """NESTED pixel at place (x, y) of a face; 0 <= x, y < nside and 0 <= face < 12."""
    _check_pixels(nside, face)
    bits = 2 * (int(nside).bit_length() - 1)
    return (face << bits) | _spread_bits(x) | (_spread_bits(y) << 1)


@compiled_behind(check_known_pixels)
def ring_to_xyf(
    nside: int, pix: Int[Array, "*pixel"]
) -> tuple[Int[Array, "*pixel"], Int[Array, "*pixel"], Int[Array, "*pixel"]]:
    """Place within a face, and face, of RING pixels."""
    _check_pixels(nside, pix)
    height, longitude = _ring_to_plane(nside, pix)
    # The edges of the faces are the diagonals; `rising` numbers the strips that a line to the north-west crosses.
    east, west = longitude + height + nside, longitude - height + nside
    rising, falling = east // (2 * nside), west // (2 * nside)
    x = (east - 2 * nside * rising) >> 1
    y = nside - 1 - ((west - 2 * nside * falling) >> 1)
    row = falling - rising + 1
    return x, y, 4 * row + (jnp.minimum(rising, falling) & 3)


@compiled_behind(check_known_places)
def xyf_to_ring(
    nside: int, x: Int[Array, "*pixel"], y: Int[Array, "*pixel"], face: Int[Array, "*pixel"]
) -> Int[Array, "*pixel"]:
    """RING pixel at place (x, y) of a face; 0 <= x, y < nside and 0 <= face < 12."""
    _check_pixels(nside, face)
    height, longitude = _xyf_to_plane(nside, x, y, face)
    quarter, longitude = _plane_to_ring_longitude(nside, height, longitude)
    cap = 2 * nside * (nside - 1)
    before_north = 2 * quarter * (quarter - 1)
    before_south = 12 * nside**2 - 2 * quarter * (quarter + 1)
    before_belt = cap + (nside - height) * (4 * nside)
    before = jnp.where(height > nside, before_north, jnp.where(height < -nside, before_south, before_belt))
    return before + (longitude >> 1)


@compiled_behind(check_known_pixels)
def ring_to_nest(nside: int, pix: Int[Array, "*pixel"]) -> Int[Array, "*pixel"]:
    """NESTED numbers of RING pixels."""
    return xyf_to_nest(nside, *ring_to_xyf(nside, pix))


@compiled_behind(check_known_pixels)
def nest_to_ring(nside: int, pix: Int[Array, "*pixel"]) -> Int[Array, "*pixel"]:
    """RING numbers of NESTED pixels."""
    return xyf_to_ring(nside, *nest_to_xyf(nside, pix))


def to_xyf(
    nside: int, pix: Int[Array, "*pixel"], order: Order
) -> tuple[Int[Array, "*pixel"], Int[Array, "*pixel"], Int[Array, "*pixel"]]:
    """`nest_to_xyf` or `ring_to_xyf`."""
    check_order(order)
    return nest_to_xyf(nside, pix) if order == "nested" else ring_to_xyf(nside, pix)


def from_xyf(
    nside: int, x: Int[Array, "*pixel"], y: Int[Array, "*pixel"], face: Int[Array, "*pixel"], order: Order
) -> Int[Array, "*pixel"]:
    """`xyf_to_nest` or `xyf_to_ring`."""
    check_order(order)
    return xyf_to_nest(nside, x, y, face) if order == "nested" else xyf_to_ring(nside, x, y, face)


def _ring_position(
    nside: int, pix: Int[Array, "*pixel"], order: Order
) -> tuple[Int[Array, "*pixel"], Int[Array, "*pixel"], Float[Array, "*pixel"]]:
    """(height, quarter, phi) of pixel centres."""
    check_order(order)
    _check_pixels(nside, pix)
    height, longitude = (
        _ring_to_plane(nside, pix) if order == "ring" else _xyf_to_plane(nside, *nest_to_xyf(nside, pix))
    )
    quarter, longitude = _plane_to_ring_longitude(nside, height, longitude)
    real = jnp.result_type(float)
    return height, quarter, longitude.astype(real) * (math.pi / 4) / quarter.astype(real)


@compiled_behind(check_known_pixels)
def pixel_centers(
    nside: int, pix: Int[Array, "*pixel"], order: Order
) -> tuple[Float[Array, "*pixel"], Float[Array, "*pixel"]]:
    """Colatitude theta and longitude phi in [0, 2 pi) of pixel centres, in radians.

    In the default float: exact to rounding in float64 when `jax.enable_x64` is on.
    """
    height, quarter, phi = _ring_position(nside, pix, order)
    # 1 - cos = 2 sin^2(theta / 2) keeps all digits of a small angle to the pole, arccos would lose half of them.
    cap = 2 * jnp.arcsin(quarter.astype(phi.dtype) / (math.sqrt(6) * nside))
    belt = math.pi / 2 - jnp.arcsin(jnp.clip(height.astype(phi.dtype) / (1.5 * nside), -1, 1))
    theta = jnp.where(height > nside, cap, jnp.where(height < -nside, math.pi - cap, belt))
    return theta, phi


@compiled_behind(check_known_pixels)
def pixel_vectors(nside: int, pix: Int[Array, "*pixel"], order: Order) -> Float[Array, "*pixel 3"]:
    """Unit vectors of pixel centres, in the default float."""
    height, quarter, phi = _ring_position(nside, pix, order)
    gap = (quarter.astype(phi.dtype) / nside) ** 2 / 3  # 1 - |z| in a cap
    belt = height.astype(phi.dtype) / (1.5 * nside)
    z = jnp.where(jnp.abs(height) > nside, jnp.sign(height).astype(phi.dtype) * (1 - gap), belt)
    gap = jnp.where(jnp.abs(height) > nside, gap, 1 - jnp.abs(z))
    sine = jnp.sqrt(gap * (2 - gap))
    return jnp.stack([sine * jnp.cos(phi), sine * jnp.sin(phi), z], axis=-1)


def _locate(
    nside: int, z: Float[Array, "*point"], gap: Float[Array, "*point"], phi: Float[Array, "*point"], order: Order
) -> Int[Array, "*point"]:
    """Pixel that holds the point at height z and longitude phi, where gap = 1 - |z| without cancellation."""
    check_order(order)
    integer = jnp.result_type(int)
    _check_pixels(nside, jnp.zeros((), integer))
    quarter_turns = jnp.mod(phi / (math.pi / 2), 4.0)
    which = jnp.minimum(jnp.floor(quarter_turns), 3.0)
    radius = jnp.sqrt(3 * gap)  # 0 at the pole, 1 where the cap ends
    in_cap = radius < 1
    cap_height = jnp.where(z < 0, radius - 2, 2 - radius)
    cap_longitude = (2 * which + 1) + (2 * (quarter_turns - which) - 1) * radius
    height = nside * jnp.where(in_cap, cap_height, 1.5 * z)
    longitude = nside * jnp.where(in_cap, cap_longitude, 2 * quarter_turns)
    east, west = longitude + height + nside, longitude - height + nside
    rising, falling = jnp.floor(east / (2 * nside)), jnp.floor(west / (2 * nside))
    # On a meridian between two cap faces the rounded diagonal may fall into the strip beyond the pole.
    cap_rising = jnp.where(z < 0, which, which + 1)
    rising = jnp.where(in_cap, cap_rising, rising)
    falling = jnp.where(in_cap, 2 * which + 1 - cap_rising, falling)
    # Where three faces meet, two opposite roundings would name a pair of strips that do not cross.
    falling = jnp.clip(falling, rising - 1, rising + 1)
    x = jnp.clip(jnp.floor((east - 2 * nside * rising) / 2), 0, nside - 1).astype(integer)
    y = nside - 1 - jnp.clip(jnp.floor((west - 2 * nside * falling) / 2), 0, nside - 1).astype(integer)
    row = jnp.clip(falling - rising + 1, 0, 2).astype(integer)
    return from_xyf(nside, x, y, 4 * row + (jnp.minimum(rising, falling).astype(integer) & 3), order)


@compiled_behind(check_known_vectors)
def vectors_to_pixels(nside: int, vectors: Float[Array, "*point 3"], order: Order) -> Int[Array, "*point"]:
    """Pixels that hold the directions of non-zero vectors of any length.

    A point closer to an edge than the rounding of its type may be given to the pixel next to it.
    """
    unit = vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    x, y, z = unit[..., 0], unit[..., 1], unit[..., 2]
    gap = (x**2 + y**2) / (1 + jnp.abs(z))
    return _locate(nside, z, gap, jnp.arctan2(y, x), order)


@compiled_behind(check_known_angles)
def angles_to_pixels(
    nside: int, theta: Float[Array, "*point"], phi: Float[Array, "*point"], order: Order
) -> Int[Array, "*point"]:
    """Pixels that hold the points of colatitude theta in [0, pi] and any longitude phi, in radians."""
    z = jnp.cos(theta)
    gap = 2 * jnp.where(z < 0, jnp.cos(theta / 2), jnp.sin(theta / 2)) ** 2
    return _locate(nside, z, gap, phi, order)


def reorder(maps: Shaped[Array, "*batch pixel"], source: Order, target: Order) -> Shaped[Array, "*batch pixel"]:
    """Full maps with their pixels in another order; the values are moved, not interpolated."""
    check_order(source)
    check_order(target)
    nside = nside_of(maps.shape[-1])
    if source == target:
        return maps
    pix = jnp.arange(maps.shape[-1], dtype=jnp.int32 if nside <= MAX_NSIDE_INT32 else jnp.int64)
    return maps[..., ring_to_nest(nside, pix) if target == "ring" else nest_to_ring(nside, pix)]
