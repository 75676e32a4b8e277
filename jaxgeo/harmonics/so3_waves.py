"""The Wigner step of the SO(3) transform: between Fourier sums over alpha and gamma and packed coefficients."""

import functools
import operator
from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from jaxgeo.errors import ConfigError
from jaxgeo.grids.latlon import check_bandlimit
from jaxgeo.harmonics.precision import matmul, rounded, table_dtype
from jaxgeo.harmonics.so3_fourier import Parts, Sums, SumsByKind, parts_of
from jaxgeo.harmonics.so3_layout import Packed, check_orders
from jaxgeo.harmonics.so3_tables import PARTS, SIGNS, Piece, Routes, cut_orders, plan_routes, wigner_table


class SO3Waves(eqx.Module):
    """Tables of the Wigner step; build it with `plan_so3_waves`."""

    wigner: tuple[Float[Array, "_m _n _degree beta"], ...]  # one table for each piece
    turned: tuple[Float[Array, "_m _n beta _degree"], ...]  # the same with the last two axes exchanged
    routes: Routes
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
    half_steps: tuple[float, float] = (0.0, 0.0),
    dtype: DTypeLike = jnp.float32,
) -> SO3Waves:
    """Tables for `project` and `expand`.

    Args:
        colatitudes: beta of each ring; the list mirrors at pi / 2, because beta and pi - beta share a table.
        bandlimit: degrees l < bandlimit in the coefficients.
        orders: azimuthal limit N, orders |n| < N in the coefficients; the bandlimit by default.
        num_degrees: degrees that are transformed, all by default; the higher ones are zero.
        num_m: likewise orders |m| < num_m, `num_degrees` by default.
        num_n: likewise orders |n| < num_n, at most `num_m`.
        half_steps: by how much the angles of the sums exceed alpha and gamma, in radians.
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
    tables = [wigner_table(piece, degrees, colatitudes) for piece in pieces]
    return SO3Waves(
        wigner=tuple(rounded(table, precision) for table in tables),
        turned=tuple(rounded(table.swapaxes(2, 3), precision) for table in tables),
        routes=plan_routes(pieces, bandlimit, orders, (degrees, num_m, num_n), half_steps, precision),
        pieces=pieces,
        bandlimit=bandlimit,
        orders=orders,
        num_degrees=degrees,
        num_m=num_m,
        num_n=num_n,
    )


def project(plan: SO3Waves, sums: Parts | SumsByKind) -> Packed:
    """Packed coefficients, sums over beta of Wigner functions times Fourier sums over alpha and gamma."""
    columns, sources = (1 if isinstance(sums, tuple) else sums.shape[-1]), []
    for number, (piece, factor) in enumerate(zip(plan.pieces, plan.routes.factor, strict=True)):
        products = _to_degrees(plan, number, [_block(sums, piece, image) for image in range(piece.images)])
        for image, product in enumerate(products):
            # All signs in one pass: of a pass for each, compiling would take longer.
            source = _added(factor[:, image, :, :, k, :, None] * product[k][None] for k in range(PARTS))
            sources.append(source.reshape(-1, columns))
    return jnp.concatenate(sources)[plan.routes.place]


def expand(plan: SO3Waves, spectrum: Packed) -> Sums | SumsByKind:
    """The transpose of `project`."""
    num_beta, blocks = plan.wigner[0].shape[3], []
    tables = zip(plan.pieces, plan.wigner, plan.routes.coefficient, plan.routes.factor, strict=True)
    for piece, table, places, factor in tables:
        # Behind a barrier, lest XLA gather them anew for each of the four parts.
        sources = jax.lax.optimization_barrier(jnp.swapaxes(spectrum[places], -1, -2))
        products = _added(factor[s][:, :, :, :, None] * sources[s][:, :, :, None] for s in range(SIGNS))
        products = jnp.moveaxis(products, 0, 2)  # (m, n, image, part, column, degree)
        values = matmul(products.reshape(*products.shape[:2], -1, products.shape[-1]), table)
        values = values.reshape(*products.shape[:-1], num_beta)
        m, n = (piece.m_start, piece.m_stop), (piece.n_start, piece.n_stop)
        corners = ((m, n), (n, m))[: piece.images]
        blocks += [(*corner, _from_parts(values[:, :, image], image)) for image, corner in enumerate(corners)]
    if spectrum.shape[-1] == 1:
        kinds = [_tiled([(m, n, x[k]) for m, n, x in blocks], 1, 3) for k in range(PARTS)]
        cc, cs, sc, ss = (kind.reshape(2 * kind.shape[1], 2 * kind.shape[3], num_beta) for kind in kinds)
        return cc, cs, sc, ss
    stacked = [(m, n, jnp.stack([jnp.stack([cc, cs], 2), jnp.stack([sc, ss], 2)])) for m, n, (cc, cs, sc, ss) in blocks]
    return _tiled(stacked, 2, 5)


def _tiled(blocks: list[tuple[tuple[int, int], tuple[int, int], Array]], m_axis: int, n_axis: int) -> Array:
    """The sums of all orders from those of rectangles, given by where m and n start and stop: strip by strip of m,
    because XLA writes what it concatenates once, and copies the whole before it updates slices of it."""
    rows = []
    for start, stop in sorted({m for m, n, _ in blocks if n[0] == 0}):
        row = [(n, (start - m[0]) // 2, x) for m, n, x in blocks if m[0] <= start < m[1]]
        size = (stop - start) // 2
        cut = [jax.lax.slice_in_dim(x, k, k + size, axis=m_axis) for _, k, x in sorted(row, key=lambda each: each[0])]
        rows.append(jnp.concatenate(cut, n_axis))
    return jnp.concatenate(rows, m_axis)


def _block(
    sums: Parts | SumsByKind, piece: Piece, image: int
) -> Float[Array, "piece_m piece_n beta 4 column"] | Float[Array, "piece_m piece_n 4 beta"]:
    """The orders of a piece as its table has them."""
    m, n = slice(piece.m_start // 2, piece.m_stop // 2), slice(piece.n_start // 2, piece.n_stop // 2)

    def cut(x: Array) -> Array:
        x = x.reshape(2, x.shape[0] // 2, 2, x.shape[1] // 2, *x.shape[2:])
        x = x[:, n, :, m].transpose(2, 3, 0, 1, *range(4, x.ndim)) if image else x[:, m, :, n]
        return x.reshape(2 * x.shape[1], 2 * x.shape[3], *x.shape[4:])

    return parts_of(*(cut(kind) for kind in sums)) if isinstance(sums, tuple) else cut(sums)


def _from_parts(parts: Float[Array, "twice_m twice_n 4 column beta"], image: int) -> tuple[Array, Array, Array, Array]:
    """The transpose of `parts_of` and `_block`: the sums of a block of orders, kind by kind."""
    x = parts.reshape(2, parts.shape[0] // 2, 2, parts.shape[1] // 2, *parts.shape[2:])
    x = x.transpose(2, 3, 0, 1, 4, 5, 6) if image else x
    p, q = (x[:, :, :, :, 0], x[:, :, :, :, 1]), (x[:, :, :, :, 2, :, ::-1], x[:, :, :, :, 3, :, ::-1])
    return p[0] + q[0], q[1] - p[1], -p[1] - q[1], q[0] - p[0]


def _to_degrees(plan: SO3Waves, number: int, blocks: list[Array]) -> list[list[Array]]:
    """Products of each image with the table of a piece, and of them each part (m, n, degree, column)."""
    if blocks[0].ndim == 4:
        # Of one column all parts at once, as rows of the first factor: the table is read once.
        # The barrier keeps a single block's cut out of the product, for which XLA has no quick form.
        rows = jax.lax.optimization_barrier(jnp.concatenate(blocks, 2))
        products = matmul(rows, plan.turned[number])[..., None]
        return [[products[:, :, PARTS * image + k] for k in range(PARTS)] for image in range(len(blocks))]
    found = []
    for block in blocks:
        products = matmul(plan.wigner[number], block.reshape(*block.shape[:3], -1))
        products = products.reshape(*products.shape[:3], *block.shape[3:])
        found.append([products[:, :, :, k] for k in range(PARTS)])
    return found


def _added(terms: Iterable[Array]) -> Array:
    """Their sum, as one pass: a reduction over the first axis of an array takes XLA ten times as long."""
    return functools.reduce(operator.add, terms)
