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
from jaxgeo.grids.latlon import check_bandlimit
from jaxgeo.harmonics.linear_map import linear_map
from jaxgeo.harmonics.precision import rounded, table_dtype
from jaxgeo.harmonics.so3_fourier import Quarters
from jaxgeo.harmonics.so3_layout import Packed, check_orders
from jaxgeo.harmonics.so3_tables import PARTS, Piece, Routes, cut_orders, plan_routes, wigner_table

Turn = Float[Array, "4 m n"]  # cosines and sines of the phase at (m, n), then at (m, -n)
Waves = Float[Array, "twice_m twice_n beta channel"]


class SO3Waves(eqx.Module):
    """Tables of the Wigner step; build it with `plan_so3_waves`."""

    wigner: tuple[Float[Array, "_m _n _degree beta"], ...]  # one table for each piece
    turned: tuple[Float[Array, "_m _n beta _degree"], ...]  # the same, for synthesis
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
        num_degrees: degrees that are transformed, all by default; the higher ones are zero.
        num_m: likewise orders |m| < num_m, `num_degrees` by default.
        num_n: likewise orders |n| < num_n, at most `num_m`.
        dtype: of the tables.

    Raises:
        ConfigError: impossible sizes, colatitudes that do not mirror, or another dtype.
    """
    precision = table_dtype(dtype)
    colatitudes = np.asarray(colatitudes, np.float64)
    if not np.abs(colatitudes + colatitudes[::-1] - np.pi).max() <= 1e-12:
        raise ConfigError("the colatitudes must mirror: beta_j + beta_(n-1-j) = pi, because both share a table")
    orders = check_orders(bandlimit, orders)
    degrees = bandlimit if num_degrees is None else num_degrees
    num_m = degrees if num_m is None else num_m
    num_n = min(orders, num_m) if num_n is None else num_n
    for size, what in ((degrees, "num_degrees"), (num_m, "num_m"), (num_n, "num_n")):
        check_bandlimit(size, what)
    if not num_n <= num_m <= degrees <= bandlimit:
        raise ConfigError(
            f"sizes need num_n <= num_m <= num_degrees <= bandlimit, got {num_n}, {num_m}, {degrees} and {bandlimit}"
        )
    pieces = cut_orders(num_m, num_n)
    to_packed, from_packed = plan_routes(pieces, bandlimit, orders, degrees, num_m, num_n, precision)
    tables = [wigner_table(piece, degrees, colatitudes) for piece in pieces]
    return SO3Waves(
        wigner=tuple(rounded(table, precision) for table in tables),
        turned=tuple(rounded(table.swapaxes(2, 3), precision) for table in tables),
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
    return linear_map(_project_waves, _expand_waves, plan, waves)


def _project_waves(plan: SO3Waves, waves: Array) -> Array:
    waves = waves.reshape(2, plan.num_m, 2, plan.num_n, *waves.shape[2:])
    return project(plan, tuple(waves[i, :, j] for i in range(2) for j in range(2)))


def _expand_waves(plan: SO3Waves, spectrum: Array) -> Array:
    waves = jnp.stack(expand(plan, spectrum))
    waves = jnp.moveaxis(waves.reshape(2, 2, *waves.shape[1:]), 1, 2)
    return waves.reshape(2 * plan.num_m, 2 * plan.num_n, *waves.shape[4:])


def project(
    plan: SO3Waves, quarters: Quarters, turn: Turn | None = None, weights: Float[Array, " beta"] | None = None
) -> Packed:
    """`project_waves` as plain operations, for a map that codes its own transpose; sums may wait for a phase."""
    columns = quarters[0].shape[-1]
    products = []
    for piece, table in zip(plan.pieces, plan.wigner, strict=True):
        m, n = slice(piece.m_start, piece.m_stop), slice(piece.n_start, piece.n_stop)
        for image in range(piece.images):
            at = (n, m) if image else (m, n)
            data = [x[at] if weights is None else x[at] * weights[None, None, :, None] for x in quarters]
            # Swapped before the parts are stacked: one pass over the data instead of two.
            data = [jnp.swapaxes(x, 0, 1) if image else x for x in data]
            phases = _phases(turn, at)
            phases = jnp.swapaxes(phases, 1, 2) if image and phases is not None else phases
            parts = _to_parts(data, phases)
            products.append(_dot(table, parts.reshape(*parts.shape[:3], -1)).reshape(-1, columns))
    return _route(plan.to_packed, jnp.concatenate(products))


def expand(plan: SO3Waves, spectrum: Packed, turn: Turn | None = None) -> Quarters:
    """The transpose of `project`."""
    columns = spectrum.shape[-1]
    num_beta = plan.turned[0].shape[2]
    quarters = [jnp.zeros((plan.num_m, plan.num_n, num_beta, columns), spectrum.dtype) for _ in range(4)]
    first = 0
    for piece, table in zip(plan.pieces, plan.turned, strict=True):
        shape = piece.shape(plan.num_degrees)
        m, n = slice(piece.m_start, piece.m_stop), slice(piece.n_start, piece.n_stop)
        for image in range(piece.images):
            stop = first + PARTS * math.prod(shape)
            products = _route(plan.from_packed, spectrum, slice(first, stop))
            values = _dot(table, products.reshape(*shape, PARTS * columns))
            first = stop
            values = jnp.swapaxes(values, 0, 1) if image else values
            at = (n, m) if image else (m, n)
            values = _from_parts(values.reshape(*values.shape[:3], PARTS, columns), _phases(turn, at))
            corner = at[0].start, at[1].start, 0, 0
            quarters = [jax.lax.dynamic_update_slice(x, y, corner) for x, y in zip(quarters, values, strict=True)]
    return tuple(quarters)


def _phases(turn: Turn | None, at: tuple[slice, slice]) -> Array | None:
    return None if turn is None else turn[:, *at][..., None, None]


def _to_parts(quarters: list[Array], phases: Array | None) -> Array:
    """Sums with exp(-i (m alpha + n gamma)), and at -n, southwards up: (m, n, beta, part, channel)."""
    cc, cs, sc, ss = quarters
    p, q = (cc - ss, -sc - cs), (cc + ss, cs - sc)
    if phases is not None:
        p, q = _rotated(p, phases[0], phases[1]), _rotated(q, phases[2], phases[3])
    return jnp.stack([*p, *(x[:, :, ::-1] for x in q)], 3)


def _from_parts(parts: Array, phases: Array | None) -> Quarters:
    """The transpose of `_to_parts`."""
    p, q = (parts[:, :, :, 0], parts[:, :, :, 1]), (parts[:, :, ::-1, 2], parts[:, :, ::-1, 3])
    if phases is not None:
        p, q = _rotated(p, phases[0], -phases[1]), _rotated(q, phases[2], -phases[3])
    return p[0] + q[0], q[1] - p[1], -p[1] - q[1], q[0] - p[0]


def _rotated(pair: tuple[Array, Array], cosine: Array, sine: Array) -> tuple[Array, Array]:
    """(x + i y) exp(i phase)."""
    x, y = pair
    return cosine * x - sine * y, cosine * y + sine * x


def _route(routes: Routes, source: Array, targets: slice = slice(None)) -> Array:
    first, second = (routes.factor[k, targets][:, None] * source[routes.index[k, targets]] for k in range(2))
    return first + second


def _dot(table: Array, data: Array) -> Array:
    return jnp.matmul(table, data, precision=jax.lax.Precision.HIGHEST)
