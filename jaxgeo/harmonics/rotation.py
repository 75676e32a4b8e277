r"""Rotation of coefficients on the sphere and on SO(3): exact, differentiable, by any element of SO(3).

$R_z(\alpha) R_y(\beta) R_z(\gamma)$ is a turn about the polar axis, a quarter turn that lays this axis down, a turn
about it, the quarter turn back and a last turn: $D^l = e^{-i (\alpha - \pi/2) J_z} \Delta^T e^{-i \beta J_z} \Delta
e^{-i (\gamma + \pi/2) J_z}$ with one constant real matrix $\Delta^l = d^l(\pi/2)$ per degree. Angles enter as phases
only, so that nothing is recomputed for a new rotation.

References:
    Risbo, "Fourier transform summation of Legendre series and D-functions", J. Geodesy 70 (1996).
"""

import itertools
import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, DTypeLike, Float, Inexact

from jaxgeo.errors import ConfigError, InputError, check_one_of
from jaxgeo.grids import rotations as so3
from jaxgeo.grids.latlon import check_bandlimit
from jaxgeo.harmonics.layout import Dense
from jaxgeo.harmonics.precision import check_dtype, einsum, rounded, table_dtype
from jaxgeo.harmonics.s2 import S2Transform, analysis, from_dense, synthesis, to_dense
from jaxgeo.harmonics.wigner import iterate_matrices

Side = Literal["left", "right"]
Rotated = Complex[Array, "*result degree order channel"]
Matrices = Complex[Array, "*batch degree m n channel"]

# Degrees in a block are padded to its highest: six blocks do 1.4 times the least work, one does 3 times. Where the
# matrices are small the time of compilation counts for more.
_MAX_BLOCKS, _LEAST_BLOCK = 6, 8


class RotationPlan(eqx.Module):
    """Quarter turns d^l(pi/2), in blocks of neighbouring degrees."""

    quarter_turns: tuple[Float[Array, "_ _ _"], ...]  # (degree, order, order)
    bandlimit: int = eqx.field(static=True)

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.quarter_turns[0].dtype


def plan_rotation(bandlimit: int, *, dtype: DTypeLike = jnp.float32) -> RotationPlan:
    """Tables for coefficients of degrees below the bandlimit: about 2 bandlimit^3 numbers.

    Raises:
        ConfigError: the bandlimit is not positive, or the dtype is impossible.
    """
    precision = table_dtype(dtype)
    check_bandlimit(bandlimit)
    matrices = list(iterate_matrices(bandlimit, np.pi / 2))
    if np.abs(matrices[-1] @ matrices[-1].T - np.eye(2 * bandlimit - 1)).max() > 1e-11:
        raise AssertionError("Wigner matrices must be orthogonal")  # pragma: no cover
    num_blocks = max(1, min(_MAX_BLOCKS, bandlimit // _LEAST_BLOCK))
    starts = np.linspace(0, bandlimit, num_blocks + 1).round().astype(int)
    blocks = []
    for start, stop in itertools.pairwise(starts.tolist()):
        block = np.zeros((stop - start, 2 * stop - 1, 2 * stop - 1))
        for degree in range(start, stop):
            inner = slice(stop - 1 - degree, stop + degree)
            block[degree - start, inner, inner] = matrices[degree]
        blocks.append(rounded(block, precision))
    return RotationPlan(tuple(blocks), bandlimit)


def rotate_coefficients(plan: RotationPlan, coefficients: Dense, rotations: Float[Array, "*rotation 3 3"]) -> Rotated:
    """(R f)_lm = sum_n D^l_mn(R) f_ln, the coefficients of x -> f(R^-1 x), for real and complex signals.

    Args:
        plan: from `plan_rotation`.
        coefficients: dense (`layout`), of the plan's precision.
        rotations: one for all, or batch axes that broadcast with those of the coefficients. Differentiable except where
            sin(beta) = 0, where `rotate_by_euler` still is.

    Raises:
        InputError: shapes or precision do not fit, or known matrices are no rotations (`grids.rotations`).
    """
    return rotate_by_euler(plan, coefficients, *so3.to_euler_zyz(rotations))


def rotate_by_euler(
    plan: RotationPlan,
    coefficients: Dense,
    alpha: Float[Array, "*rotation"] | float,
    beta: Float[Array, "*rotation"] | float,
    gamma: Float[Array, "*rotation"] | float,
) -> Rotated:
    """`rotate_coefficients` by R_z(alpha) R_y(beta) R_z(gamma), differentiable everywhere; angles in radians.

    Angles are arrays of the plan's precision and one shape, or numbers.

    Raises:
        InputError: shapes or precision do not fit.
    """
    check_dtype("the array of coefficients", coefficients, plan.dtype, is_complex=True)
    _check_shape(plan, coefficients.shape, 1)
    angles = [_angle(angle, plan.dtype) for angle in (alpha, beta, gamma)]
    if len({angle.shape for angle in angles}) > 1:
        raise InputError(f"the three angles need one shape, got {[angle.shape for angle in angles]}")
    batch = _common_batch(coefficients.shape[:-3], angles[0].shape)
    values = jnp.broadcast_to(coefficients, (*batch, *coefficients.shape[-3:]))
    # The batch goes to the channels: one product per degree for all.
    values = jnp.moveaxis(values.reshape(math.prod(batch), *coefficients.shape[-3:]), 0, -2)
    values = _turn(plan, values, *(_flat_angle(angle, batch) for angle in angles))
    return jnp.moveaxis(values, -2, 0).reshape(*batch, *coefficients.shape[-3:])


def rotate_so3_coefficients(
    plan: RotationPlan, matrices: Matrices, rotations: Float[Array, "*rotation 3 3"], *, side: Side = "left"
) -> Complex[Array, "*result degree m n channel"]:
    """Coefficients F^l_mn of a rotated function on SO(3): both sides are actions of the group, and they commute.

    Args:
        plan: from `plan_rotation`.
        matrices: F^l_mn, dense, of the plan's precision; with `side="left"` n may have fewer orders than m.
        rotations: Q, one for all or with batch axes that broadcast.
        side: "left" is R -> f(Q^-1 R), F becomes D(Q) F: what a rotation of the sphere does to a signal on SO(3) that
            was made from it. "right" is R -> f(R Q), F becomes F D(Q)^-1.

    Raises:
        ConfigError: an unknown side.
        InputError: shapes or precision do not fit.
    """
    check_one_of("side", side, Side)
    _check_shape(plan, matrices.shape, 2)
    if side == "left":
        merged = matrices.reshape(*matrices.shape[:-2], math.prod(matrices.shape[-2:]))
        turned = rotate_coefficients(plan, merged, rotations)
        return turned.reshape(*turned.shape[:-1], *matrices.shape[-2:])
    if matrices.shape[-2] != matrices.shape[-3]:
        raise InputError(
            f"a right rotation mixes all orders n of a degree, but of m there are {matrices.shape[-3]} and of n "
            f"{matrices.shape[-2]}; pad n with zeros"
        )
    # F D^dagger = conj(D conj(F)^T)^T
    flipped = jnp.swapaxes(matrices, -2, -3).conj()
    return jnp.swapaxes(rotate_so3_coefficients(plan, flipped, rotations).conj(), -2, -3)


def rotate_signal(
    transform: S2Transform,
    plan: RotationPlan,
    signal: Inexact[Array, "*batch lat lon channel"],
    rotations: Float[Array, "*rotation 3 3"],
) -> Inexact[Array, "*result lat lon channel"]:
    """The samples of x -> f(R^-1 x), exact for a signal of degrees below the transform's bandlimit (spin 0).

    Raises:
        ConfigError: the transform is one of another spin, whose values turn with the frame.
        InputError: shapes or precision do not fit.
    """
    if transform.spin:
        raise ConfigError(f"signals of spin 0 are rotated on the grid, got a transform of spin {transform.spin}")
    dense = to_dense(transform, analysis(transform, signal))
    return synthesis(transform, from_dense(transform, rotate_coefficients(plan, dense, rotations)))


def _turn(plan: RotationPlan, values: Array, alpha: Array, beta: Array, gamma: Array) -> Array:
    """Values (degree, order, example, channel) and angles (1 or example)."""
    half = np.pi / 2
    blocks, stop = [], 0
    for quarter_turn in plan.quarter_turns:
        start, stop = stop, stop + len(quarter_turn)
        margin = plan.bandlimit - stop
        block = values[start:stop, margin : margin + 2 * stop - 1]
        block = _apply(quarter_turn, block * _phases(stop, gamma + half), transpose=False)
        block = _apply(quarter_turn, block * _phases(stop, beta), transpose=True)
        block = block * _phases(stop, alpha - half)
        blocks.append(jnp.pad(block, [(0, 0), (margin, margin), (0, 0), (0, 0)]))
    return jnp.concatenate(blocks)


def _apply(matrix: Array, values: Array, *, transpose: bool) -> Array:
    """Real matrices of all degrees times complex columns: real and imaginary parts are columns of one product."""
    parts = jnp.concatenate([values.real, values.imag], axis=-1)
    subscripts = "lnm,lnbc->lmbc" if transpose else "lmn,lnbc->lmbc"
    product = einsum(subscripts, matrix, parts)
    return jax.lax.complex(*jnp.split(product, 2, axis=-1))


def _phases(bandlimit: int, angle: Array) -> Array:
    """exp(-i m angle) as (1, order, example, 1).

    The angle is split into a short and a small part: the product of m with the short one is exact, so that the phases
    of high orders are powers of one rotation to the last digit. The rounded product would be off by m times as much.
    """
    m = np.arange(1 - bandlimit, bandlimit).astype(angle.dtype)[None, :, None, None]
    short = jax.lax.stop_gradient(jnp.round(angle * 1024) / 1024)
    coarse, fine = m * short[None, None, :, None], m * (angle - short)[None, None, :, None]
    return jnp.exp(-1j * coarse) * jnp.exp(-1j * fine)


def _angle(angle: Array | float, dtype: np.dtype) -> Array:
    if isinstance(angle, float | int):
        return jnp.asarray(angle, dtype)
    check_dtype("the array of rotations", angle, dtype)
    return angle


def _flat_angle(angle: Array, batch: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(angle, batch).reshape(-1) if angle.ndim else angle[None]


def _common_batch(batch: tuple[int, ...], rotation: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(batch, rotation)
    except ValueError:
        raise InputError(
            f"the batch axes of coefficients {batch} and of rotations {rotation} must broadcast; give one rotation, "
            f"or one per example"
        ) from None


def _check_shape(plan: RotationPlan, shape: tuple[int, ...], num_orders: int) -> None:
    bandlimit = plan.bandlimit
    axes = shape[-2 - num_orders :]
    if len(axes) < 2 + num_orders or axes[:2] != (bandlimit, 2 * bandlimit - 1):
        raise InputError(
            f"coefficients of bandlimit {bandlimit} have axes (*batch, degree, order{', n' * (num_orders - 1)}, "
            f"channel) with (degree, order) = ({bandlimit}, {2 * bandlimit - 1}), got {shape}"
        )
