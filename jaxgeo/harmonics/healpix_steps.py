"""The steps of the transform on HEALPix maps, each followed by its plain transpose: mirror images, rings, colatitudes.

Arrays in between have real numbers only: `points` (wave, order, point, parity, channel) and `rings` (order, half_order,
parity, ring, wave, channel). Of the axes of length 2, `wave` is cosine or sine, `order` the parity of the order m,
`parity` that of l - m. The one that no table of a step knows stands beside the channels, as more columns of its
products: each piece is one product, and the program is short. XLA compiles each copy before and after a product by
itself, which is most of the time of the first call.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgeo.harmonics.precision import einsum


class Mirrors(NamedTuple):
    """Where the eight mirror images of the points of an eighth of the sphere lie."""

    gather: Int[Array, "8 point"]  # pixels
    scatter: Int[Array, " pixel"]  # places in the flattened `gather`


Fourier = tuple[Float[Array, "2 2 ... _half_order _point"], ...]  # by groups of rings, from the pole
Legendre = tuple[Float[Array, "2 _half_order 2 _half_degree _side_ring"], ...]  # by blocks of orders

Points = Float[Array, "2 2 point 2 channel"]
Rings = Float[Array, "2 half_order 2 ring 2 channel"]
Coefficients = Float[Array, "2 _order 2 half_degree channel"]


def fold(images: Float[Array, "8 point channel"]) -> Points:
    """The eight signed sums over mirror images."""
    x = images.reshape(2, 4, *images.shape[1:])
    x = jnp.stack([x[0] + x[1], x[0] - x[1]])
    near, far = x[:, 0] + x[:, 3], x[:, 1] + x[:, 2]  # phi and -phi, pi - phi and pi + phi
    near_odd, far_odd = x[:, 0] - x[:, 3], x[:, 1] - x[:, 2]
    cosine = jnp.stack([near + far, near - far])
    sine = jnp.stack([near_odd - far_odd, near_odd + far_odd])
    return jnp.moveaxis(jnp.stack([cosine, sine]), 2, 3)


def unfold(points: Points) -> Float[Array, "8 point channel"]:
    """The plain transpose of `fold`."""
    even, odd, sine_even, sine_odd = jnp.moveaxis(points, 3, 2).reshape(4, 2, *points.shape[2::2])
    near, far, near_odd, far_odd = even + odd, even - odd, sine_even + sine_odd, sine_odd - sine_even
    x = jnp.stack([near + near_odd, far + far_odd, far - far_odd, near - near_odd], 1)
    return jnp.concatenate([x[0] + x[1], x[0] - x[1]])


def to_rings(fourier: Fourier, turned: Fourier, points: Points, group_rings: tuple[int, ...]) -> Rings:
    """Fourier sums along the rings; zero at orders that a group has no table for.

    `turned` has the tables of `fourier` with the last two axes exchanged.
    """
    channels = points.shape[-1]
    out = jnp.zeros((2, fourier[-1].shape[-2], 2, sum(group_rings), 2, channels), points.dtype)
    for table, other, (point, length), (ring, rings) in _groups(fourier, turned, group_rings, -1):
        part = _cut(points, point, length * rings)
        if table.ndim == 4:
            product = einsum("zqjp,zqpn->zqjn", table, part.reshape(2, 2, length, -1))
            product = product.reshape(2, 2, -1, rings, 2, channels).transpose(1, 2, 4, 3, 0, 5)
        else:
            product = _product(table, other, part.reshape(2, 2, rings, length, 2, channels)).transpose(1, 3, 4, 2, 0, 5)
        out = jax.lax.dynamic_update_slice(out, product, (0, 0, 0, ring, 0, 0))
    return out


def from_rings(fourier: Fourier, turned: Fourier, rings: Rings, group_rings: tuple[int, ...]) -> Points:
    """The plain transpose of `to_rings`."""
    channels = rings.shape[-1]
    groups = list(_groups(turned, fourier, group_rings, -2))
    out = jnp.zeros((2, 2, sum(length * count for *_, (_, length), (_, count) in groups), 2, channels), rings.dtype)
    for table, other, (point, length), (ring, count) in groups:
        values = rings[:, : table.shape[-1], :, ring : ring + count]
        if table.ndim == 4:
            columns = values.transpose(4, 0, 1, 3, 2, 5).reshape(2, 2, table.shape[-1], -1)
            product = einsum("zqpj,zqjn->zqpn", table, columns)
        else:
            product = _product(table, other, values.transpose(4, 0, 3, 1, 2, 5))
        out = _put(out, product.reshape(2, 2, length * count, 2, channels), (0, 0, point))
    return out


def to_degrees(legendre: Legendre, turned: Legendre, rings: Rings, bandlimit: int, spin: int) -> Coefficients:
    """Sums over colatitudes; `turned` has the tables with the last two axes exchanged."""
    half, num_rings, channels = (bandlimit + 1) // 2, rings.shape[3], rings.shape[5]
    out, start = jnp.zeros((2, rings.shape[1], 2, half, 2, channels), rings.dtype), 0
    for table, other in zip(legendre, turned, strict=True):
        stop = start + table.shape[1]
        held = _held(table.shape[4], spin)
        values = _cut(rings[:, start:stop], num_rings - held, held)
        product = _product(table, other, add_side(values) if spin else values)
        out = _put(out, product, (0, start, 0, half - table.shape[3]))
        start = stop
    return out.transpose(4, 1, 0, 2, 3, 5).reshape(2, -1, 2, half, channels)[:, :bandlimit]


def from_degrees(legendre: Legendre, turned: Legendre, coefficients: Coefficients, spin: int, num_rings: int) -> Rings:
    """The plain transpose of `to_degrees`."""
    coefficients = jnp.pad(coefficients, [(0, 0), (0, coefficients.shape[1] % 2), (0, 0), (0, 0), (0, 0)])
    half, channels = coefficients.shape[3:]
    coefficients = coefficients.reshape(2, -1, 2, 2, half, channels)
    out, start = jnp.zeros((2, coefficients.shape[1], 2, num_rings, 2, channels), coefficients.dtype), 0
    for table, other in zip(turned, legendre, strict=True):
        stop = start + table.shape[1]
        block = coefficients[:, start:stop, :, :, half - table.shape[4] :]
        product = _product(table, other, block.transpose(2, 1, 3, 4, 0, 5))
        product = sum_sides(product) if spin else product
        out = _put(out, product, (0, start, 0, num_rings - _held(table.shape[3], spin)))
        start = stop
    return out


def _product(table: Array, turned: Array, columns: Array) -> Array:
    """A table (..., row, column) times columns (..., column, 2, channel)."""
    two, channels = columns.shape[-2:]
    if channels > 1:
        product = einsum("...ij,...jn->...in", table, columns.reshape(*columns.shape[:-2], -1))
        return product.reshape(*product.shape[:-1], two, channels)
    # Two columns are quicker as rows of the first factor. Joined from two, not transposed: XLA would turn the product.
    rows = einsum("...zj,...ji->...zi", jnp.stack([columns[..., 0, 0], columns[..., 1, 0]], -2), turned)
    return jnp.stack([rows[..., 0, :], rows[..., 1, :]], -1)[..., None]


def _groups(
    fourier: Fourier, turned: Fourier, group_rings: tuple[int, ...], point_axis: int
) -> Iterator[tuple[Array, Array, tuple[int, int], tuple[int, int]]]:
    """For each group of rings its tables, its first point and points of a quarter, its first ring and rings."""
    point = ring = 0
    for table, other, rings in zip(fourier, turned, group_rings, strict=True):
        length = table.shape[point_axis]
        yield table, other, (point, length), (ring, rings)
        point, ring = point + length * rings, ring + rings


def _held(side_rings: int, spin: int) -> int:
    return side_rings // 2 if spin else side_rings


def _cut(x: Array, start: int, size: int) -> Array:
    """Entries of the axis before the last two; the three as one axis, whose copy compiles in half of the time."""
    inner = x.shape[-2] * x.shape[-1]
    flat = x.reshape(*x.shape[:-3], -1)[..., start * inner : (start + size) * inner]
    return flat.reshape(*flat.shape[:-1], size, *x.shape[-2:])


def _put(target: Array, values: Array, corner: tuple[int, ...]) -> Array:
    """Written where it belongs, the last three axes as one: a join of many pieces takes XLA seconds to compile."""
    corner = (*corner[:-1], corner[-1] * target.shape[-2] * target.shape[-1])
    flat = target.reshape(*target.shape[:-3], -1), values.reshape(*values.shape[:-3], -1)
    return jax.lax.dynamic_update_slice(*flat, corner).reshape(target.shape)


_SIDE_SIGNS = np.array([[-1.0, 1.0], [1.0, -1.0]])  # (real or imaginary part, field)


def add_side(rings: Rings) -> Float[Array, "2 half_order 2 side_ring 2 channel"]:
    r"""For spin s: beside the Fourier sums F1, F2 of the two fields those that meet the other side's table.

    With W+ and W- the two sides, $e = W^+ F_1 + i W^- F_2$ and $b = W^+ F_2 - i W^- F_1$, where W- takes the opposite
    parity: real and imaginary parts, fields and parities change places.
    """
    return jnp.concatenate([rings, _other_side(rings)], 3)


def sum_sides(rings: Float[Array, "2 half_order 2 side_ring 2 channel"]) -> Rings:
    """The plain transpose of `add_side`."""
    first, second = jnp.split(rings, 2, 3)
    return first + _other_side(second)


def _other_side(rings: Rings) -> Rings:
    fields = rings.reshape(*rings.shape[:5], 2, -1)[:, :, ::-1, :, ::-1, ::-1]
    signs = _SIDE_SIGNS.astype(rings.dtype).reshape(1, 1, 1, 1, 2, 2, 1)
    return (fields * signs).reshape(rings.shape)
