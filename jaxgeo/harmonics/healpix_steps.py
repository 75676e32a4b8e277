"""The steps of the transform on HEALPix maps, each followed by its plain transpose: mirror images, rings, colatitudes.

Arrays in between have real numbers only: `points` (parity, 2, 2, point, channel) and `rings` (2, 2, half_order,
parity, ring, channel). The two axes of length 2 are cosine or sine, and the parity of the order m; `parity` is that of
l - m.
"""

from typing import NamedTuple

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
Rings = list[Float[Array, "2 2 _half_order 2 _ring channel"]]  # by groups
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


def group_shapes(fourier: Fourier) -> list[tuple[int, int]]:
    """(points of a quarter, rings) of each group; all rings of the two last groups are alike and share a table."""
    caps = [(table.shape[-1], table.shape[2]) for table in fourier[:-2]]
    shifted, unshifted = fourier[-2].shape[-1], fourier[-1].shape[-1]
    return [*caps, (shifted, shifted // 2 + 1), (unshifted, (shifted + 1) // 2)]


def to_rings(fourier: Fourier, points: Points) -> Rings:
    """Fourier sums along the rings."""
    out, start = [], 0
    channels = points.shape[-1]
    for table, (length, rings) in zip(fourier, group_shapes(fourier), strict=True):
        part = points[..., start : start + length * rings, :].reshape(2, 2, 2, length, rings, channels)
        start += length * rings
        if table.ndim == 4:
            columns = part.transpose(1, 2, 3, 0, 4, 5).reshape(2, 2, length, -1)
            out.append(einsum("zqjp,zqpn->zqjn", table, columns).reshape(2, 2, -1, 2, rings, channels))
        else:
            by_ring = part.transpose(0, 1, 2, 4, 3, 5)
            product = jnp.stack([einsum("zqrjp,zqrpc->zqrjc", table, half) for half in by_ring], 4)
            out.append(product.transpose(0, 1, 3, 4, 2, 5))
    return out


def from_rings(fourier: Fourier, rings: Rings) -> Points:
    """The plain transpose of `to_rings`."""
    out = []
    for table, values in zip(fourier, rings, strict=True):
        num_rings, channels = values.shape[4:]
        if table.ndim == 4:
            columns = values.reshape(2, 2, values.shape[2], -1)
            product = einsum("zqjp,zqjn->zqpn", table, columns).reshape(2, 2, -1, 2, num_rings, channels)
            product = product.transpose(3, 0, 1, 2, 4, 5)
        else:
            by_ring = values.transpose(3, 0, 1, 4, 2, 5)
            product = jnp.stack([einsum("zqrjp,zqrjc->zqrpc", table, half) for half in by_ring])
            product = product.transpose(0, 1, 2, 4, 3, 5)
        out.append(product.reshape(2, 2, 2, -1, channels))
    return jnp.concatenate(out, 3)


def to_degrees(legendre: Legendre, rings: Rings, bandlimit: int, spin: int) -> Coefficients:
    """Sums over colatitudes."""
    out, start, half = [], 0, (bandlimit + 1) // 2
    for table in legendre:
        stop = start + table.shape[1]
        values = jnp.concatenate([group[:, :, start:stop] for group in rings if group.shape[2] > start], 4)
        values = add_side(values) if spin else values
        product = jnp.stack([einsum("qjakr,qjarc->qjakc", table, part) for part in values])
        missing = half - table.shape[3]
        product = jnp.pad(product, [(0, 0)] * 4 + [(missing, 0), (0, 0)])
        out.append(product.swapaxes(1, 2).reshape(2, -1, 2, half, product.shape[-1]))
        start = stop
    return jnp.concatenate(out, 1)[:, :bandlimit]


def from_degrees(
    legendre: Legendre, coefficients: Coefficients, spin: int, group_orders: list[int], group_rings: tuple[int, ...]
) -> Rings:
    """The plain transpose of `to_degrees`."""
    coefficients = jnp.pad(coefficients, [(0, 0), (0, coefficients.shape[1] % 2), (0, 0), (0, 0), (0, 0)])
    half, channels = coefficients.shape[3:]
    parts: list[list[Array]] = [[] for _ in group_orders]
    start = 0
    for table in legendre:
        stop = start + table.shape[1]
        block = coefficients[:, 2 * start : 2 * stop, :, half - table.shape[3] :]
        block = block.reshape(2, -1, 2, 2, table.shape[3], channels).swapaxes(1, 2)
        product = jnp.stack([einsum("qjakr,qjakc->qjarc", table, part) for part in block])
        product = sum_sides(product) if spin else product
        present = [i for i, orders in enumerate(group_orders) if orders > start]
        edges = np.cumsum([group_rings[i] for i in present])[:-1]
        for i, piece in zip(present, jnp.split(product, edges, 4), strict=True):
            parts[i].append(piece)
        start = stop
    return [jnp.concatenate(pieces, 2) for pieces in parts]


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
