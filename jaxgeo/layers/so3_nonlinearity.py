r"""Point-wise nonlinearities of signals on SO(3): to samples, act, and back to coefficients.

A nonlinearity leaves the band: products of degrees l < L reach 2L and beyond. What the grid cannot tell apart folds
back as an alias, and aliases do not turn with the signal. With an oversampled grid the folded part falls off, and with
it the error of equivariance; an oversampling of 1 is the plain form.

The published program analyses at the next layer's bandlimit even if the grid is coarser, so that the higher degrees are
aliases of the lower; that is the `faithful` form. Its hand-written backward pass is the derivative of an analysis that
fills them with zeros instead, which `upstream_backward` reproduces.
"""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from jaxgeo.grids.latlon import check_bandlimit, oversampled_bandlimit
from jaxgeo.harmonics.linear_map import linear_map
from jaxgeo.harmonics.so3 import SO3Transform, plan_so3_transform, so3_analysis, so3_synthesis
from jaxgeo.harmonics.so3_layout import Packed
from jaxgeo.harmonics.so3_pointwise import so3_pointwise

Signal = Float[Array, "*batch beta alpha gamma channel"]
Changed = Float[Array, "*batch next_coefficient channel"]


class NonlinearityPlan(eqx.Module):
    """Transforms before and after a nonlinearity; build it with `plan_so3_nonlinearity`."""

    to_samples: SO3Transform
    to_coefficients: SO3Transform
    backward: SO3Transform | None  # its analysis is differentiated in place of `to_coefficients`


def plan_so3_nonlinearity(
    bandlimit: int,
    next_bandlimit: int | None = None,
    *,
    grid_bandlimit: int | None = None,
    oversampling: float = 1.0,
    aliased: bool = False,
    upstream_backward: bool = False,
    latitudes: Literal["soft", "gauss_legendre"] = "soft",
    orders: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> NonlinearityPlan:
    """Tables for `pointwise`.

    Args:
        bandlimit: of the coefficients that come in.
        next_bandlimit: of those that go out, `bandlimit` by default. Above the grid's: zeros, or aliases.
        grid_bandlimit: b of the grid, 2b x 2b x 2b samples; the larger of the two bandlimits by default.
        oversampling: factor on the grid's bandlimit, rounded up; at least 1.
        aliased: fill degrees beyond the grid's with aliases instead of zeros.
        upstream_backward: derivatives as if they were filled with zeros.
        latitudes: "gauss_legendre" takes half as many colatitudes as "soft".
        orders: azimuthal limit N of the coefficients, |n| < N, where their degrees reach so far; none by default. The
            grid then has 2 N angles gamma, times the oversampling.
        dtype: of tables, signals and coefficients.

    Raises:
        ConfigError: impossible sizes, orders or dtype, an oversampling below 1.
    """
    next_bandlimit = bandlimit if next_bandlimit is None else next_bandlimit
    grid = max(bandlimit, next_bandlimit) if grid_bandlimit is None else grid_bandlimit
    turns = None
    if orders is not None:
        check_bandlimit(orders, "the azimuthal limit")
        turns = oversampled_bandlimit(min(orders, grid), oversampling)
    grid = oversampled_bandlimit(grid, oversampling)

    def transform(degrees: int, *, aliased: bool = False) -> SO3Transform:
        return plan_so3_transform(
            degrees,
            grid_bandlimit=grid,
            orders=None if orders is None else min(orders, degrees),
            grid_orders=turns,
            dtype=dtype,
            aliased=aliased,
            latitudes=latitudes,
        )

    to_samples = transform(bandlimit)
    is_aliased = aliased and next_bandlimit > grid
    same = next_bandlimit == bandlimit and not is_aliased
    return NonlinearityPlan(
        to_samples=to_samples,
        to_coefficients=to_samples if same else transform(next_bandlimit, aliased=is_aliased),
        backward=transform(next_bandlimit) if is_aliased and upstream_backward else None,
    )


def samples(plan: NonlinearityPlan, coefficients: Packed) -> Signal:
    """The signal on the plan's grid."""
    return so3_synthesis(plan.to_samples, coefficients)


def coefficients(plan: NonlinearityPlan, signal: Signal) -> Changed:
    """Coefficients, at the next bandlimit, of a signal on the plan's grid."""
    if plan.backward is None:
        return so3_analysis(plan.to_coefficients, signal)
    return linear_map(_analysis, _upstream_transpose, (plan.to_coefficients, plan.backward), signal)


def pointwise(plan: NonlinearityPlan, activation: Callable[[Signal], Signal], spectrum: Packed) -> Changed:
    """Coefficients of activation(signal), from those of the signal; see `so3_pointwise` of what is quicker so."""
    if plan.backward is None:
        return so3_pointwise(plan.to_samples, plan.to_coefficients, activation, spectrum)
    return coefficients(plan, activation(samples(plan, spectrum)))


def _analysis(plans: tuple[SO3Transform, SO3Transform], signal: Array) -> Array:
    return so3_analysis(plans[0], signal)


def _upstream_transpose(plans: tuple[SO3Transform, SO3Transform], spectrum: Array) -> Array:
    shape = jax.ShapeDtypeStruct((*spectrum.shape[:-2], *plans[1].grid_shape, spectrum.shape[-1]), spectrum.dtype)
    (signal,) = jax.linear_transpose(lambda signal: so3_analysis(plans[1], signal), shape)(spectrum)
    return signal
