r"""Spherical harmonic transforms of HEALPix maps, real and complex, of spin 0 and s, in RING or NESTED order.

Analysis is quadrature with equal (or ring) weights, which on this grid is approximate: `healpix_analysis` refines it by
Jacobi's iteration as healpy does, `healpix_least_squares` finds the band-limited signal nearest to the map. Synthesis
is exact. Harmonics are those of `jaxgeo.harmonics.s2`, coefficients stand in the native layout of
`jaxgeo.harmonics.layout`.

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
from jaxtyping import Array, Inexact

from jaxgeo.errors import ConfigError, InputError
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
    "healpix_synthesis",
    "plan_healpix_transform",
    "to_dense",
]

_COEFFICIENT_AXES, _MAP_AXES = (-5, -4, -3, -2), (-2,)
_UNSEEN = -1.6375e30  # what healpy writes into pixels without data


def healpix_synthesis(plan: HealpixTransform, coefficients: Native) -> Inexact[Array, "*batch pixel channel"]:
    """The map with given native coefficients; complex where `plan.real` is False.

    Raises:
        InputError: the coefficients have another shape or dtype than the plan.
    """
    _check_coefficients(plan, coefficients)
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

    Args:
        plan: from `plan_healpix_transform`.
        maps: float (complex where `plan.real` is False) of the plan's precision, pixels in the plan's order.
        iterations: how many, or with a tolerance at most how many.
        tolerance: stop once an iteration changes no map's coefficients by more than this fraction of their norm.

    Raises:
        InputError: the maps have another shape or dtype than the plan, or a pixel is marked as without data.
        ConfigError: a negative number of iterations or tolerance.
    """
    if iterations < 0 or tolerance < 0:
        raise ConfigError(f"iterations and tolerance are at least 0, got {iterations} and {tolerance}")
    fields = _fields_of_maps(plan, maps)
    refinement = _Refinement(plan, iterations, tolerance)
    return maps_of.native_of_fields(plan, linear_map(_refined, _refined_transpose, refinement, fields))


def healpix_least_squares(
    plan: HealpixTransform,
    maps: Inexact[Array, "*batch pixel channel"],
    tolerance: float = 1e-6,
    max_iterations: int = 100,
) -> Native:
    r"""The pseudo-inverse of synthesis: coefficients whose map is nearest to the given one in the sum of squares.

    By conjugate gradients, for all maps at once; exact for band-limited maps up to `tolerance`. Where several
    coefficients give the same map (bandlimits above about 3 nside) those of smallest $\sum_{lm} |f_{lm}|^2$ are found.

    Args:
        plan: from `plan_healpix_transform`.
        maps: as in `healpix_analysis`.
        tolerance: norm of what quadrature finds in the map's remainder, relative to what it finds in the map.
        max_iterations: at most so many; each costs one synthesis and one analysis.

    Raises:
        InputError: the maps have another shape or dtype than the plan, or a pixel is marked as without data.
        ConfigError: no iteration, or a tolerance that is not positive.
    """
    if max_iterations < 1 or not tolerance > 0:
        raise ConfigError(
            f"least squares need at least one iteration and a positive tolerance, got {max_iterations} and {tolerance}"
        )
    fields = _fields_of_maps(plan, maps)
    refinement = _Refinement(plan, max_iterations, tolerance)
    return maps_of.native_of_fields(plan, linear_map(_least_squares, _least_squares_transpose, refinement, fields))


def to_dense(plan: HealpixTransform, coefficients: Native) -> Dense:
    """Complex coefficients (*batch, degree, order, channel), l = 0..L-1 and m = -(L-1)..L-1, from native ones."""
    return layout.native_to_dense(coefficients, real=plan.real)


def from_dense(plan: HealpixTransform, dense: Dense) -> Native:
    """Native coefficients from dense ones; of a real signal only the orders m >= 0 are read."""
    return layout.dense_to_native(dense, real=plan.real)


def _check_coefficients(plan: HealpixTransform, coefficients: Array) -> None:
    check_dtype("the array of coefficients", coefficients, plan.dtype)
    if coefficients.ndim < 5 or coefficients.shape[-5:-1] != plan.coefficient_shape:
        raise InputError(
            f"native coefficients have axes (*batch, 2, order, parity, degree, channel), here "
            f"(2, order, parity, degree) = {plan.coefficient_shape}, got {coefficients.shape}"
        )


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


def _refined(refinement: _Refinement, maps: Array) -> Array:
    plan = refinement.plan
    shape = (*maps.shape[:-2], *layout.native_shape(plan.bandlimit), maps.shape[-1])
    return _iterate(
        maps_of.quadrature, maps_of.synthesis, maps, jnp.zeros(shape, maps.dtype), _COEFFICIENT_AXES, refinement
    )


def _refined_transpose(refinement: _Refinement, coefficients: Array) -> Array:
    plan = refinement.plan
    zero = jnp.zeros((*coefficients.shape[:-5], 12 * plan.nside**2, coefficients.shape[-1]), coefficients.dtype)
    return _iterate(
        maps_of.quadrature_transpose, maps_of.synthesis_transpose, coefficients, zero, _MAP_AXES, refinement
    )


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

    def unfinished(state):
        count, x, change = state
        small = jnp.all(squared(change) <= refinement.tolerance**2 * squared(x))
        return (count == 0) | (count <= last) & ~small

    def step(state):
        count, x, _ = state
        change = correction(count, x)
        return count + 1, x + change, change

    return jax.lax.while_loop(unfinished, step, (0, zero, zero))[1]


def _least_squares(refinement: _Refinement, maps: Array) -> Array:
    plan = refinement.plan

    def operator(x):
        return _from_unit(plan, _to_unit(plan, x))

    return _half(plan, _conjugate_gradients(operator, _from_unit(plan, maps), _COEFFICIENT_AXES, refinement))


def _least_squares_transpose(refinement: _Refinement, coefficients: Array) -> Array:
    plan = refinement.plan

    # In the space of maps, where the right side lies in the operator's range at every bandlimit.
    def operator(x):
        return _to_unit(plan, _from_unit(plan, x))

    return _conjugate_gradients(operator, _to_unit(plan, _half(plan, coefficients)), _MAP_AXES, refinement)


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

    def unfinished(state):
        count, *_, size = state
        return (count < refinement.iterations) & jnp.any(size > refinement.tolerance**2 * squared)

    def step(state):
        count, x, remainder, direction, size = state
        image = operator(direction)
        length = divide(size, inner(direction, image))
        x, remainder = x + length * direction, remainder - length * image
        new_size = inner(remainder, remainder)
        return count + 1, x, remainder, remainder + divide(new_size, size) * direction, new_size

    solution = jax.lax.while_loop(unfinished, step, (0, jnp.zeros_like(right), right, right, squared))[1]
    # Where the right side is not finite no comparison holds and no step is taken: zeros must not pass for the answer.
    return solution + (squared - squared)
