"""The steps of the transform on HEALPix maps, each followed by its plain transpose: mirror images, rings, colatitudes.

Arrays in between have real numbers only: `points` (parity, 2, 2, point, channel) and `rings` (2, 2, half_order,
parity, ring, channel). The two axes of length 2 are cosine or sine, and the parity of the order m; `parity` is that of
l - m.
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

Points = Float[Array, "2 2 2 point channel"]
Rings = Float[Array, "2 2 half_order 2 ring channel"]
Coefficients = Float[Array, "2 _order 2 half_degree channel"]


def fold(images: Float[Array, "8 point channel"]) -> Points:
    """The eight signed sums over mirror images."""
    x = images.reshape(2, 4, *images.shape[1:])
    x = jnp.stack([x[0] + x[1], x[0] - x[1]])
    near, far = x[:, 0] + x[:, 3], x[:, 1] + x[:, 2]  # phi and -phi, pi - phi and pi + phi
    near_odd, far_odd = x[:, 0] - x[:, 3], x[:, 1] - x[:, 2]
    cosine = jnp.stack([near + far, near - far], 1)
    sine = jnp.stack([near_odd - far_odd, near_odd + far_odd], 1)
    return jnp.stack([cosine, sine], 1)


def unfold(points: Points) -> Float[Array, "8 point channel"]:
    """The plain transpose of `fold`."""
    even, odd, sine_even, sine_odd = points[:, 0, 0], points[:, 0, 1], points[:, 1, 0], points[:, 1, 1]
    near, far, near_odd, far_odd = even + odd, even - odd, sine_even + sine_odd, sine_odd - sine_even
    x = jnp.stack([near + near_odd, far + far_odd, far - far_odd, near - near_odd], 1)
    return jnp.concatenate([x[0] + x[1], x[0] - x[1]])


def to_rings(fourier: Fourier, turned: Fourier, points: Points, group_rings: tuple[int, ...]) -> Rings:
    """Fourier sums along the rings; zero at orders that a group has no table for.

    `turned` has the tables of `fourier` with the last two axes exchanged.
    """
    channels = points.shape[-1]
    out = jnp.zeros((2, 2, fourier[-1].shape[-2], 2, sum(group_rings), channels), points.dtype)
    for table, other, (point, length), (ring, rings) in _groups(fourier, turned, group_rings, -1):
        part = points[..., point : point + length * rings, :].reshape(2, 2, 2, length, rings, channels)
        if table.ndim == 4:
            columns = part.transpose(1, 2, 3, 0, 4, 5).reshape(2, 2, length, -1)
            product = einsum("zqjp,zqpn->zqjn", table, columns).reshape(2, 2, -1, 2, rings, channels)
            out = _put(out, product, (0, 0, 0, 0, ring, 0))
            continue
        for parity, product in enumerate(_products(table, other, part.swapaxes(3, 4))):
            out = _put(out, product.swapaxes(2, 3)[:, :, :, None], (0, 0, 0, parity, ring, 0))
    return out


def from_rings(fourier: Fourier, turned: Fourier, rings: Rings, group_rings: tuple[int, ...]) -> Points:
    """The plain transpose of `to_rings`."""
    channels = rings.shape[-1]
    groups = list(_groups(turned, fourier, group_rings, -2))
    out = jnp.zeros((2, 2, 2, sum(length * count for *_, (_, length), (_, count) in groups), channels), rings.dtype)
    for table, other, (point, length), (ring, count) in groups:
        values = rings[:, :, : table.shape[-1], :, ring : ring + count]
        if table.ndim == 4:
            columns = values.reshape(2, 2, table.shape[-1], -1)
            product = einsum("zqpj,zqjn->zqpn", table, columns).reshape(2, 2, length, 2, count, channels)
            product = product.transpose(3, 0, 1, 2, 4, 5).reshape(2, 2, 2, -1, channels)
            out = _put(out, product, (0, 0, 0, point, 0))
            continue
        for parity, product in enumerate(_products(table, other, values.transpose(3, 0, 1, 4, 2, 5))):
            out = _put(out, product.swapaxes(2, 3).reshape(1, 2, 2, -1, channels), (parity, 0, 0, point, 0))
    return out


def to_degrees(legendre: Legendre, turned: Legendre, rings: Rings, bandlimit: int, spin: int) -> Coefficients:
    """Sums over colatitudes; `turned` has the tables with the last two axes exchanged."""
    half, num_rings, channels = (bandlimit + 1) // 2, rings.shape[4], rings.shape[5]
    out, start = jnp.zeros((2, rings.shape[2], 2, 2, half, channels), rings.dtype), 0
    for table, other in zip(legendre, turned, strict=True):
        stop = start + table.shape[1]
        values = rings[:, :, start:stop, :, num_rings - _held(table.shape[4], spin) :]
        values = add_side(values) if spin else values
        for i, product in enumerate(_products(table, other, values)):
            out = _put(out, product.swapaxes(0, 1)[None], (i, start, 0, 0, half - table.shape[3], 0))
        start = stop
    return out.reshape(2, -1, 2, half, channels)[:, :bandlimit]


def from_degrees(legendre: Legendre, turned: Legendre, coefficients: Coefficients, spin: int, num_rings: int) -> Rings:
    """The plain transpose of `to_degrees`."""
    coefficients = jnp.pad(coefficients, [(0, 0), (0, coefficients.shape[1] % 2), (0, 0), (0, 0), (0, 0)])
    half, channels = coefficients.shape[3:]
    coefficients = coefficients.reshape(2, -1, 2, 2, half, channels)
    out, start = jnp.zeros((2, 2, coefficients.shape[1], 2, num_rings, channels), coefficients.dtype), 0
    for table, other in zip(turned, legendre, strict=True):
        stop = start + table.shape[1]
        block = coefficients[:, start:stop, :, :, half - table.shape[4] :].swapaxes(1, 2)
        product = jnp.stack(_products(table, other, block))
        product = sum_sides(product) if spin else product
        out = _put(out, product, (0, 0, start, 0, num_rings - _held(table.shape[3], spin), 0))
        start = stop
    return out


def _products(table: Array, turned: Array, halves: Array) -> list[Array]:
    """Two products (..., row, column) x (..., column, channel) with one table."""
    if halves.shape[-1] > 1:
        return [einsum("...ij,...jc->...ic", table, half) for half in halves]
    # Of one channel both at once, as the rows of the first factor: the table is read once.
    rows = einsum("...zj,...ji->...zi", jnp.moveaxis(halves[..., 0], 0, -2), turned)
    return [rows[..., i, :, None] for i in range(len(halves))]


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


def _put(target: Array, values: Array, corner: tuple[int, ...]) -> Array:
    """Written where it belongs: a join of many pieces takes XLA seconds to compile."""
    return jax.lax.dynamic_update_slice(target, values, corner)


_SIDE_SIGNS = np.array([[-1.0, 1.0], [1.0, -1.0]])  # (real or imaginary part, field)


def add_side(rings: Array) -> Array:
    r"""For spin s: beside the Fourier sums F1, F2 of the two fields those that meet the other side's table.

    With W+ and W- the two sides, $e = W^+ F_1 + i W^- F_2$ and $b = W^+ F_2 - i W^- F_1$, where W- takes the opposite
    parity: real and imaginary parts, fields and parities change places.
    """
    return jnp.concatenate([rings, _other_side(rings)], 4)


def sum_sides(rings: Array) -> Array:
    """The plain transpose of `add_side`."""
    first, second = jnp.split(rings, 2, 4)
    return first + _other_side(second)


def _other_side(rings: Array) -> Array:
    fields = rings.reshape(*rings.shape[:5], 2, -1)[::-1, :, :, ::-1, :, ::-1]
    signs = _SIDE_SIGNS.astype(rings.dtype).reshape(2, 1, 1, 1, 1, 2, 1)
    return (fields * signs).reshape(rings.shape)
