r"""Spherical harmonic transforms of HEALPix maps, real and complex, of spin 0 and s, in RING or NESTED order.

Analysis is quadrature with equal (or ring) weights, which on this grid is approximate: `healpix_analysis` refines it by
Jacobi's iteration as healpy does, `healpix_least_squares` finds the band-limited signal nearest to the map, and
`healpix_residual` tells how far either has come. Synthesis is exact. Harmonics are those of `jaxgeo.harmonics.s2`,
coefficients stand in the native layout of `jaxgeo.harmonics.layout`.

All sums are products with real tables: the mirror symmetries of the rings cut a ring of 4 q pixels into 8 independent
problems of q points, so that these products cost less than the Legendre step, and no ring needs an FFT of its own
length.

References:
    Gorski et al., "HEALPix: A Framework for High-Resolution Discretization and Fast Analysis of Data Distributed
    on the Sphere", ApJ 622 (2005), arXiv:astro-ph/0409513.
    Goldberg et al., "Spin-s Spherical Harmonics and edth", J. Math. Phys. 8 (1967).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Inexact

from jaxgeo.errors import ConfigError, InputError, check_whole
from jaxgeo.harmonics import healpix_maps as maps_of
from jaxgeo.harmonics import layout
from jaxgeo.harmonics.healpix_plan import HealpixTransform, plan_healpix_transform
from jaxgeo.harmonics.layout import Dense, Native
from jaxgeo.harmonics.linear_map import linear_map
from jaxgeo.harmonics.precision import check_dtype

__all__ = [
    "HealpixTransform",
    "from_dense",
    "healpix_analysis",
    "healpix_least_squares",
    "healpix_residual",
    "healpix_synthesis",
    "plan_healpix_transform",
    "to_dense",
]

_COEFFICIENT_AXES, _MAP_AXES = (-5, -4, -3, -2), (-2,)
_ROUNDING = 100  # units of the last digit that a residual may be above a tolerance
_UNSEEN = -1.6375e30  # what healpy writes into pixels without data


def healpix_synthesis(plan: HealpixTransform, coefficients: Native) -> Inexact[Array, "*batch pixel channel"]:
    """The map with given native coefficients; complex where `plan.real` is False.

    Raises:
        InputError: the coefficients have another shape or dtype than the plan.
    """
    layout.check_native(coefficients, plan.coefficient_shape, plan.dtype)
    pair = maps_of.fields_of_native(plan, coefficients)
    fields = linear_map(maps_of.synthesis, maps_of.synthesis_transpose, plan, pair)
    if plan.real:
        return fields
    first, second = jnp.split(fields, 2, -1)
    return jax.lax.complex(first, second)


class _Refinement(eqx.Module):
    plan: HealpixTransform
    iterations: int = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)


def healpix_analysis(
    plan: HealpixTransform,
    maps: Inexact[Array, "*batch pixel channel"],
    iterations: int = 3,
    tolerance: float = 0.0,
) -> Native:
    r"""Native coefficients by quadrature and Jacobi's iteration: $a \leftarrow a + A (f - S a)$ from a = A f.

    A is quadrature and S synthesis. Each iteration costs both; the defaults are healpy's. Below degree 2 nside an
    iteration gains about an order of magnitude, at 3 nside and above it may gain nothing: see `healpix_least_squares`.
    Pixels without data must have been filled: healpy's mark is refused where values are known (not under `jax.jit`).

    With a tolerance each map stops by itself, so that its result does not depend on the others of the batch. A change
    bounds the error where an iteration at least halves it, that is up to about 2 nside. Where the iterations end before
    that, an error says so; under `jax.jit`, where none can be raised, the coefficients of that map are NaN, so that no
    unfinished result passes for one. The derivative iterates the transposed maps to the same tolerance, unchecked: the
    adjoint identity holds to it, and without one to rounding.

    Args:
        plan: from `plan_healpix_transform`.
        maps: float (complex where `plan.real` is False) of the plan's precision, pixels in the plan's order.
        iterations: how many, or with a tolerance at most how many.
        tolerance: stop once an iteration changes the coefficients by no more than this fraction of their norm; 0 for a
            fixed number of iterations.

    Raises:
        InputError: the maps have another shape or dtype than the plan, a pixel is marked as without data, or the
            iterations do not suffice for the tolerance.
        ConfigError: iterations are no whole number from 0, or the tolerance does not lie in [0, 1).
    """
    check_whole("the number of iterations", iterations, 0)
    if not 0 <= tolerance < 1:
        raise ConfigError(f"the tolerance lies in [0, 1), 0 for a fixed number of iterations, got {tolerance}")
    fields = _fields_of_maps(plan, maps)
    refinement = _Refinement(plan, iterations, tolerance)
    native = maps_of.native_of_fields(plan, linear_map(_refined, _refined_transpose, refinement, fields))
    return _reached(refinement, maps, native, least_squares=False) if tolerance else native


def healpix_least_squares(
    plan: HealpixTransform,
    maps: Inexact[Array, "*batch pixel channel"],
    tolerance: float = 1e-6,
    max_iterations: int = 100,
) -> Native:
    r"""The pseudo-inverse of synthesis: coefficients whose map is nearest to the given one in the sum of squares.

    By conjugate gradients, for all maps at once, each until it is solved; exact for band-limited maps up to
    `tolerance`. Where several coefficients give the same map (bandlimits above about 3 nside) those of smallest
    $\sum_{lm} |f_{lm}|^2$ are found. Where the iterations end before that, an error says so; under `jax.jit` the
    coefficients of that map are NaN, as with `healpix_analysis`.

    The steps depend on the map, so that the result is linear only up to the tolerance. The derivative is that of the
    exact pseudo-inverse to the same tolerance, by a solve of the transposed system: the adjoint identity holds to about
    the tolerance times the condition of the system, which is near 1 up to 2 nside.

    Args:
        plan: from `plan_healpix_transform`.
        maps: as in `healpix_analysis`.
        tolerance: norm of what quadrature finds in the map's remainder, relative to what it finds in the map.
        max_iterations: at most so many; each costs one synthesis and one analysis.

    Raises:
        InputError: the maps have another shape or dtype than the plan, a pixel is marked as without data, or the
            iterations do not suffice for the tolerance.
        ConfigError: iterations are no whole number from 1, or the tolerance does not lie in (0, 1).
    """
    check_whole("the number of iterations", max_iterations)
    if not 0 < tolerance < 1:
        raise ConfigError(f"the tolerance lies in (0, 1), got {tolerance}")
    fields = _fields_of_maps(plan, maps)
    refinement = _Refinement(plan, max_iterations, tolerance)
    pair = linear_map(_least_squares, _least_squares_transpose, refinement, fields)
    native = maps_of.native_of_fields(plan, pair)
    return _reached(refinement, maps, native, least_squares=True)


def healpix_residual(
    plan: HealpixTransform,
    maps: Inexact[Array, "*batch pixel channel"],
    coefficients: Native,
    *,
    least_squares: bool = False,
) -> Float[Array, "*batch channel"]:
    r"""What is left to find in each map: $\lVert A (f - S a) \rVert / \lVert A f \rVert$, the norm of all coefficients.

    It is the change that the next iteration of `healpix_analysis` would make, and vanishes where they end; with equal
    weights it is what `healpix_least_squares` makes small. Costs one synthesis and two quadratures.

    Args:
        plan: from `plan_healpix_transform`.
        maps: that were analysed.
        coefficients: what was found, native.
        least_squares: quadrature with equal weights, whatever weights the plan has.

    Raises:
        InputError: maps or coefficients have another shape or dtype than the plan.
    """
    layout.check_native(coefficients, plan.coefficient_shape, plan.dtype)
    fields = _fields_of_maps(plan, maps)
    pair = maps_of.fields_of_native(plan, coefficients)
    remainder = fields - linear_map(maps_of.synthesis, maps_of.synthesis_transpose, plan, pair)

    def size(fields):
        if least_squares:
            seen = linear_map(_from_unit, _to_unit, plan, fields)
        else:
            seen = linear_map(maps_of.quadrature, maps_of.quadrature_transpose, plan, fields)
            seen = seen * np.sqrt(maps_of.multiplicity(plan, seen))
        return jnp.sqrt(_over_fields(plan, jnp.sum(seen**2, _COEFFICIENT_AXES)))[..., : maps.shape[-1]]

    whole = size(fields)
    return size(remainder) / jnp.where(whole > 0, whole, 1)


def to_dense(plan: HealpixTransform, coefficients: Native) -> Dense:
    """Complex coefficients (*batch, degree, order, channel), l = 0..L-1 and m = -(L-1)..L-1, from native ones.

    Raises:
        InputError: the coefficients have another shape or dtype than the plan.
    """
    layout.check_native(coefficients, plan.coefficient_shape, plan.dtype)
    return layout.native_to_dense(coefficients, real=plan.real)


def from_dense(plan: HealpixTransform, dense: Dense) -> Native:
    """Native coefficients from dense ones; of a real signal only the orders m >= 0 are read.

    Raises:
        InputError: the coefficients have another bandlimit or precision than the plan.
    """
    layout.check_dense(dense, plan.bandlimit, plan.dtype)
    return layout.dense_to_native(dense, real=plan.real)


def _fields_of_maps(plan: HealpixTransform, maps: Array) -> Array:
    """Real maps; of complex ones real and imaginary part after one another on the channel axis."""
    check_dtype("the map", maps, plan.dtype, is_complex=not plan.real)
    if maps.ndim < 2 or maps.shape[-2] != 12 * plan.nside**2:
        raise InputError(
            f"maps of nside {plan.nside} have axes (*batch, pixel, channel) with {12 * plan.nside**2} pixels, "
            f"got {maps.shape}"
        )
    if not isinstance(maps, Tracer):
        _check_seen(np.asarray(maps))
    return maps if plan.real else jnp.concatenate([maps.real, maps.imag], -1)


def _check_seen(maps: np.ndarray) -> None:
    """Refuse healpy's mark of a pixel without data, up to the rounding that healpy allows too."""
    for part in (np.real(maps), np.imag(maps)) if np.iscomplexobj(maps) else (maps,):
        if (part.min(initial=0) < _UNSEEN / 2) and (marked := np.isclose(part, _UNSEEN, rtol=1e-5)).any():
            raise InputError(
                f"{marked.sum()} of {part.size} pixels hold {_UNSEEN}, healpy's mark of a pixel without data, which "
                "the transform would take for a value; fill them first, with 0 or with the mean of the others"
            )


def _reached(refinement: _Refinement, maps: Array, coefficients: Array, *, least_squares: bool) -> Array:
    """The coefficients, if they have come to the tolerance; else an error, or NaN where none can be raised."""
    if not maps.size:
        return coefficients
    plan = refinement.plan
    residual = healpix_residual(plan, *jax.lax.stop_gradient((maps, coefficients)), least_squares=least_squares)
    # What is not finite has no residual and is left as it is.
    missed = residual > refinement.tolerance + _ROUNDING * np.finfo(plan.dtype).eps
    if isinstance(missed, Tracer):
        # A factor, so that derivatives are NaN too.
        return coefficients * jnp.where(missed, jnp.nan, 1).astype(plan.dtype)[..., None, None, None, None, :]
    if missed.any():
        remedy = "" if least_squares else ", or healpix_least_squares, which converges at every bandlimit"
        raise InputError(
            f"{refinement.iterations} iterations leave {np.nanmax(residual):.1e} of a map, more than the tolerance "
            f"{refinement.tolerance:g} allows; use more iterations or a larger tolerance{remedy}"
        )
    return coefficients


def _refined(refinement: _Refinement, maps: Array) -> Array:
    plan = refinement.plan

    def some(maps: Array) -> Array:
        zero = jnp.zeros((*layout.native_shape(plan.bandlimit), maps.shape[-1]), maps.dtype)
        return _iterate(maps_of.quadrature, maps_of.synthesis, maps, zero, _COEFFICIENT_AXES, refinement)

    # All iterations of a few maps, which stay in the cache from one to the next.
    return maps_of.by_columns(plan, some, maps, 1, 4)


def _refined_transpose(refinement: _Refinement, coefficients: Array) -> Array:
    plan = refinement.plan

    def some(coefficients: Array) -> Array:
        zero = jnp.zeros((12 * plan.nside**2, coefficients.shape[-1]), coefficients.dtype)
        return _iterate(
            maps_of.quadrature_transpose, maps_of.synthesis_transpose, coefficients, zero, _MAP_AXES, refinement
        )

    return maps_of.by_columns(plan, some, coefficients, 4, 1)


def _over_fields(plan: HealpixTransform, sums: Array) -> Array:
    """Sums by channel, added over the two fields of a complex map."""
    if plan.real:
        return sums
    first, second = jnp.split(sums, 2, -1)
    return jnp.concatenate([first + second] * 2, -1)


def _iterate(
    inverse: Callable, forward: Callable, target: Array, zero: Array, axes: tuple[int, ...], refinement: _Refinement
) -> Array:
    """x + inverse(target - forward(x)) again and again from zero, by one loop: what it holds is compiled once."""
    plan, last = refinement.plan, refinement.iterations
    if last == 0:
        return inverse(plan, target)

    def correction(count, x):
        remainder = jax.lax.cond(count > 0, lambda x: target - forward(plan, x), lambda _: target, x)
        return inverse(plan, remainder)

    if not refinement.tolerance:
        return jax.lax.fori_loop(0, last + 1, lambda count, x: x + correction(count, x), zero)

    def squared(x):
        return _over_fields(plan, jnp.sum(x**2, axes, keepdims=True))

    def step(state):
        count, x, moving = state
        change = jnp.where(moving, correction(count, x), 0)
        x = x + change
        return count + 1, x, moving & ~(squared(change) <= refinement.tolerance**2 * squared(x))

    moving = jnp.ones_like(squared(zero), bool)
    return jax.lax.while_loop(lambda state: (state[0] <= last) & state[2].any(), step, (0, zero, moving))[1]


def _least_squares(refinement: _Refinement, maps: Array) -> Array:
    plan = refinement.plan

    def operator(x):
        return _from_unit(plan, _to_unit(plan, x))

    def some(maps: Array) -> Array:
        return _half(plan, _conjugate_gradients(operator, _from_unit(plan, maps), _COEFFICIENT_AXES, refinement))

    return maps_of.by_columns(plan, some, maps, 1, 4)


def _least_squares_transpose(refinement: _Refinement, coefficients: Array) -> Array:
    plan = refinement.plan

    # In the space of maps, where the right side lies in the operator's range at every bandlimit.
    def operator(x):
        return _to_unit(plan, _from_unit(plan, x))

    def some(coefficients: Array) -> Array:
        return _conjugate_gradients(operator, _to_unit(plan, _half(plan, coefficients)), _MAP_AXES, refinement)

    return maps_of.by_columns(plan, some, coefficients, 4, 1)


def _half(plan: HealpixTransform, x: Array) -> Array:
    """Coefficients in units in which the quadrature of synthesis is symmetric and near the identity."""
    scale = np.sqrt(4 * np.pi / (12 * plan.nside**2)).astype(x.dtype)
    return x * (scale / jnp.sqrt(maps_of.multiplicity(plan, x)))


def _to_unit(plan: HealpixTransform, x: Array) -> Array:
    return maps_of.synthesis(plan, _half(plan, x))


def _from_unit(plan: HealpixTransform, maps: Array) -> Array:
    return _half(plan, maps_of.synthesis_transpose(plan, maps))


def _conjugate_gradients(operator: Callable, right: Array, axes: tuple[int, ...], refinement: _Refinement) -> Array:
    """x with operator(x) = right, each system (over `axes`, and both fields of a complex map) with steps of its own."""

    def inner(a, b):
        return _over_fields(refinement.plan, jnp.sum(a * b, axes, keepdims=True))

    def divide(a, b):
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)

    squared = inner(right, right)

    def unsolved(size):
        return size > refinement.tolerance**2 * squared

    def unfinished(state):
        count, *_, size = state
        return (count < refinement.iterations) & jnp.any(unsolved(size))

    def step(state):
        count, x, remainder, direction, size = state
        image = operator(direction)
        # A system that is solved rests: what the others still need must not change it.
        length = jnp.where(unsolved(size), divide(size, inner(direction, image)), 0)
        x, remainder = x + length * direction, remainder - length * image
        new_size = inner(remainder, remainder)
        return count + 1, x, remainder, remainder + divide(new_size, size) * direction, new_size

    solution = jax.lax.while_loop(unfinished, step, (0, jnp.zeros_like(right), right, right, squared))[1]
    # Where the right side is not finite no comparison holds and no step is taken: zeros must not pass for the answer.
    return solution + (squared - squared)
