"""The Wigner step of the SO(3) transform: between Fourier sums over alpha and gamma and packed coefficients.

Alone it serves sets of rotations that are on no grid, ring by ring of equal beta.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from jaxgeo.errors import ConfigError
from jaxgeo.harmonics.linear_map import linear_map
from jaxgeo.harmonics.precision import rounded, table_dtype
from jaxgeo.harmonics.so3_layout import Packed, check_orders
from jaxgeo.harmonics.so3_tables import PARTS, Piece, Routes, cut_orders, plan_routes, wigner_table

Waves = Float[Array, "twice_m twice_n beta channel"]


class SO3Waves(eqx.Module):
    """Tables of the Wigner step; build it with `plan_so3_waves`."""

    wigner: tuple[Float[Array, "_m _n _degree beta"], ...]  # one table for each piece
    to_packed: Routes  # packed coefficients from products with the Wigner tables
    from_packed: Routes  # its transpose
    pieces: tuple[Piece, ...] = eqx.field(static=True)
    bandlimit: int = eqx.field(static=True)  # degrees l < bandlimit in the coefficients
    orders: int = eqx.field(static=True)  # azimuthal limit: orders |n| < orders in the coefficients
    num_degrees: int = eqx.field(static=True)  # degrees that are transformed; the others are zero
    num_m: int = eqx.field(static=True)  # likewise orders |m| < num_m
    num_n: int = eqx.field(static=True)


def plan_so3_waves(
    colatitudes: Float[np.ndarray, " beta"],
    bandlimit: int,
    *,
    orders: int | None = None,
    num_degrees: int | None = None,
    num_m: int | None = None,
    num_n: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> SO3Waves:
    """Tables for `project_waves`.

    Args:
        colatitudes: beta of each ring; the list mirrors at pi / 2, because beta and pi - beta share a table.
        bandlimit: degrees l < bandlimit in the coefficients.
        orders: azimuthal limit N, orders |n| < N in the coefficients; the bandlimit by default.
        num_degrees: degrees that are transformed; the higher ones are zero.
        num_m: likewise orders |m| < num_m.
        num_n: likewise orders |n| < num_n.
        dtype: of the tables.

    Raises:
        ConfigError: impossible sizes, colatitudes that do not mirror, or another dtype.
    """
    precision = table_dtype(dtype)
    colatitudes = np.asarray(colatitudes, np.float64)
    if np.abs(colatitudes + colatitudes[::-1] - np.pi).max() > 1e-12:
        raise ConfigError("the colatitudes must mirror: beta_j + beta_(n-1-j) = pi, because both share a table")
    orders = check_orders(bandlimit, orders)
    degrees = bandlimit if num_degrees is None else num_degrees
    num_m = num_m or degrees
    num_n = num_n or min(orders, num_m)
    pieces = cut_orders(num_m, num_n)
    to_packed, from_packed = plan_routes(pieces, bandlimit, orders, degrees, num_m, num_n, precision)
    return SO3Waves(
        wigner=tuple(rounded(wigner_table(piece, degrees, colatitudes), precision) for piece in pieces),
        to_packed=to_packed,
        from_packed=from_packed,
        pieces=pieces,
        bandlimit=bandlimit,
        orders=orders,
        num_degrees=degrees,
        num_m=num_m,
        num_n=num_n,
    )


def project_waves(plan: SO3Waves, waves: Waves) -> Packed:
    """Packed coefficients, sums over beta of Wigner functions times Fourier sums over alpha and gamma.

    Args:
        plan: from `plan_so3_waves`.
        waves: sums with cos(m alpha), m = 0 ... num_m - 1, then sines, times the same of n gamma.
    """
    return linear_map(project, expand, plan, waves)


def project(plan: SO3Waves, waves: Waves) -> Packed:
    """`project_waves` as plain operations, for a map that codes its own transpose."""
    columns = waves.shape[-1]
    data = _pieces_of(plan, _split_waves(plan, waves))
    products = [_dot_degrees(table, values) for table, values in zip(plan.wigner, data, strict=True)]
    return _route(plan.to_packed, jnp.concatenate([p.reshape(-1, columns) for p in products]))


def expand(plan: SO3Waves, spectrum: Packed) -> Waves:
    """The transpose of `project`."""
    columns = spectrum.shape[-1]
    products = _route(plan.from_packed, spectrum)
    data, first = [], 0
    for piece, table in zip(plan.pieces, plan.wigner, strict=True):
        shape = piece.shape(plan.num_degrees)
        values = products[first : first + math.prod(shape)].reshape(*shape[:3], shape[3] * columns)
        data.append(_dot_beta(table, values))
        first += math.prod(shape)
    return _join_waves(_orders_of(plan, data, columns), columns)


def _split_waves(plan: SO3Waves, x: Array) -> Array:
    """(m, n, beta, part * column) from cosine and sine sums: exp(-i (m alpha + n gamma)), and at -n, southwards up."""
    x = x.reshape(2, plan.num_m, 2, plan.num_n, *x.shape[2:])
    (cc, cs), (sc, ss) = ((x[i, :, 0], x[i, :, 1]) for i in range(2))
    parts = jnp.stack([cc - ss, -sc - cs, (cc + ss)[:, :, ::-1], (cs - sc)[:, :, ::-1]], 3)
    return parts.reshape(*parts.shape[:3], -1)


def _join_waves(parts: Array, columns: int) -> Array:
    """The transpose of `_split_waves`."""
    m, n, num_beta, _ = parts.shape
    parts = parts.reshape(m, n, num_beta, PARTS, columns)
    p_re, p_im = parts[:, :, :, 0], parts[:, :, :, 1]
    q_re, q_im = parts[:, :, ::-1, 2], parts[:, :, ::-1, 3]
    cosines = jnp.stack([p_re + q_re, q_im - p_im], 1)
    sines = jnp.stack([-p_im - q_im, q_re - p_re], 1)
    return jnp.stack([cosines, sines]).reshape(2 * m, 2 * n, num_beta, columns)


def _pieces_of(plan: SO3Waves, waves: Array) -> list[Array]:
    """Data (m, n, beta, column) of each piece, the image (n, m) beside (m, n)."""
    data = []
    for piece in plan.pieces:
        m, n = slice(piece.m_start, piece.m_stop), slice(piece.n_start, piece.n_stop)
        images = [waves[m, n]]
        if piece.images == 2:
            images.append(jnp.swapaxes(waves[n, m], 0, 1))
        data.append(jnp.concatenate(images, -1))
    return data


def _orders_of(plan: SO3Waves, data: list[Array], columns: int) -> Array:
    """The transpose of `_pieces_of`, which tile all orders."""
    num_beta = data[0].shape[2]
    parts = jnp.zeros((plan.num_m, plan.num_n, num_beta, PARTS * columns), data[0].dtype)
    for piece, values in zip(plan.pieces, data, strict=True):
        corner = (piece.m_start, piece.n_start, 0, 0)
        parts = jax.lax.dynamic_update_slice(parts, values[..., : PARTS * columns], corner)
        if piece.images == 2:
            image = jnp.swapaxes(values[..., PARTS * columns :], 0, 1)
            parts = jax.lax.dynamic_update_slice(parts, image, (corner[1], corner[0], 0, 0))
    return parts


def _route(routes: Routes, source: Array) -> Array:
    first, second = (routes.factor[k][:, None] * source[routes.index[k]] for k in range(2))
    return first + second


def _dot_degrees(table: Array, data: Array) -> Array:
    return jnp.einsum("mnlb,mnbc->mnlc", table, data, precision=jax.lax.Precision.HIGHEST)


def _dot_beta(table: Array, data: Array) -> Array:
    return jnp.einsum("mnlb,mnlc->mnbc", table, data, precision=jax.lax.Precision.HIGHEST)
