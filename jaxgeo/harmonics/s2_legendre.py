r"""The Legendre step: from Fourier coefficients on rings to harmonic coefficients, and its plain transpose.

With lambda_lm(theta) = Y_lm(theta, 0), real and lambda_lm(pi - theta) = (-1)^(l-m) lambda_lm(theta), the sum and the
difference of mirrored rings meet the even and the odd l - m alone: half the table and half the flops. The orders are
cut into blocks, each with the degrees that its first order has, so that the empty triangle l < m is neither stored nor
multiplied. Orders are in the classes of `s2_fourier`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo.harmonics.precision import rounded
from jaxgeo.harmonics.s2_fourier import Pair, Spectrum, turn
from jaxgeo.harmonics.wigner import wigner_d_columns

# Per class of orders its blocks. Anonymous axes (order, parity, degree, ring): blocks differ in their numbers of them.
Blocks = tuple[tuple[Float[Array, "_order _parity _degree _ring"], ...], ...]
_ORDERS_PER_BLOCK = 16  # at least
_MOST_BLOCKS = 8  # of all classes together
_UNCUT = 32  # orders up to which calling more products costs more than the empty triangle


def harmonic_columns(
    bandlimit: int, orders: np.ndarray, spin: int, colatitudes: np.ndarray
) -> Float[np.ndarray, "order degree ring"]:
    r"""$_s\lambda_{lm}(\theta)$, the spin-s harmonic at longitude 0; rows are l = 0..L-1, zero where l < |m| or |s|."""
    columns = wigner_d_columns(bandlimit, orders, np.full_like(orders, -spin), colatitudes)
    norm = (-1.0) ** spin * np.sqrt((2 * np.arange(bandlimit) + 1) / (4 * np.pi))
    return columns * norm[None, :, None]


def legendre_blocks(
    bandlimit: int,
    classes: list[np.ndarray],
    colatitudes: Float[np.ndarray, " ring"],
    weights: Float[np.ndarray, " ring"],
    dtype: np.dtype,
    *,
    spin: int = 0,
) -> tuple[Blocks, Blocks]:
    """Tables lambda_lm(theta), in the native order of degrees.

    Spin 0 needs northern rings only and has a parity axis of 2, that of l - m; another spin has one of 1, and both
    parities stand one after the other on the degree axis.

    Returns:
        Tables (order, parity, degree, ring) times `weights`, and tables (order, parity, ring, degree) without.
    """
    blocks, turned = [], []
    for orders in classes:
        count = max(1, min(len(orders) // _ORDERS_PER_BLOCK, _MOST_BLOCKS // len(classes)))
        if sum(map(len, classes)) <= _UNCUT:
            count = 1
        cut = [_block(bandlimit, part, colatitudes, spin) for part in np.array_split(orders, count)]
        blocks.append(tuple(rounded(np.ascontiguousarray(table * weights), dtype) for table in cut))
        turned.append(tuple(rounded(np.ascontiguousarray(table.swapaxes(2, 3)), dtype) for table in cut))
    return tuple(blocks), tuple(turned)


def _block(bandlimit: int, m: np.ndarray, colatitudes: np.ndarray, spin: int) -> np.ndarray:
    columns = harmonic_columns(bandlimit, m, spin, colatitudes)
    columns = np.pad(columns, [(0, 0), (0, bandlimit % 2), (0, 0)])
    by_parity = columns.reshape(len(m), -1, 2, len(colatitudes)).swapaxes(1, 2)
    by_parity[m % 2 == 1] = by_parity[m % 2 == 1, ::-1].copy()
    used = by_parity[:, :, m[0] // 2 :]
    if spin:
        used = used.reshape(len(m), 1, -1, len(colatitudes))
    return used


def weigh_rings(arrays: Any, weights: Float[Array, " ring"], axis: int) -> Any:
    """Every array of a pytree (of tables, or a spectrum) times weights of the rings on its given axis, < 0."""
    shape = (-1, *(1,) * (-1 - axis))
    return jax.tree.map(lambda array: array * weights.reshape((1,) * (array.ndim + axis) + shape), arrays)


def contract_rings(
    blocks: Blocks, rings: Spectrum, phases: list[np.ndarray], num_degrees: int, *, axis: int = 3
) -> Float[Array, "2 order 2 half_degree channel"]:
    """Coefficients sum_r lambda_lm(theta_r) rings[m, r], m >= 0; for spin 0 `rings` are sums and differences.

    Args:
        blocks: tables.
        rings: arrays (order, parity, ring, channel).
        phases: per class those of the orders, by which the coefficients are turned; empty for none.
        num_degrees: length of the native degree axis.
        axis: that of the rings in the tables, 3 or 2.
    """
    out = []
    for number, (tables, pairs) in enumerate(zip(blocks, rings, strict=True)):
        # One plain product each for real and imaginary part: a cast to complex or a copy would cost as much.
        pieces = [
            (_contract(table, real, axis), _contract(table, imaginary, axis))
            for table, (real, imaginary) in zip(tables, pairs, strict=True)
        ]
        if phases:
            cut = np.split(phases[number], np.cumsum([len(table) for table in tables])[:-1])
            pieces = [turn(pair, angles) for pair, angles in zip(pieces, cut, strict=True)]
        out.append(jnp.concatenate([_fill(jnp.stack(pair), num_degrees) for pair in pieces], 1))
    return out[0] if len(out) == 1 else _interleave(out)


def _contract(table: Array, values: Array, axis: int) -> Array:
    product = _product(table, values, axis)
    return product.reshape(len(product), 2, -1, product.shape[-1])


def _product(table: Array, values: Array, axis: int) -> Array:
    """One matrix product per order and parity, over the given axis of the table."""
    numbers = (((axis,), (2,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(table, values, numbers, precision=jax.lax.Precision.HIGHEST)


def _fill(values: Array, num_degrees: int) -> Array:
    """Zeros at the degrees below those of a block."""
    return jnp.pad(values, [(0, 0), (0, 0), (0, 0), (num_degrees - values.shape[3], 0), (0, 0)])


def _interleave(classes: list[Array]) -> Array:
    """Even and odd orders, in turn."""
    even, odd = classes
    missing = even.shape[1] - odd.shape[1]
    odd = jnp.pad(odd, [(0, 0), (0, missing), (0, 0), (0, 0), (0, 0)])
    both = jnp.stack([even, odd], 2)
    return both.reshape(2, -1, *even.shape[2:])[:, : 2 * even.shape[1] - missing]


def expand_degrees(
    turned: Blocks, coefficients: Float[Array, "2 order 2 half_degree channel"], phases: list[np.ndarray]
) -> tuple[Pair, ...]:
    """The plain transpose of `contract_rings`, one pair per class: for spin 0 the even and odd parts on rings."""
    step, out = len(turned), []
    for first, tables in enumerate(turned):
        pair = coefficients[0, first::step], coefficients[1, first::step]
        if phases:
            pair = turn(pair, -phases[first])
        out.append(tuple(_expand(tables, part) for part in pair))
    return tuple(out)


def _expand(tables: tuple[Array, ...], values: Array) -> Array:
    out, start = [], 0
    for table in tables:
        stop = start + len(table)
        used = table.shape[1] * table.shape[3] // 2
        operand = values[start:stop, :, values.shape[2] - used :]
        out.append(_product(table, operand.reshape(*table.shape[:2], -1, values.shape[-1]), 3))
        start = stop
    return jnp.concatenate(out)
