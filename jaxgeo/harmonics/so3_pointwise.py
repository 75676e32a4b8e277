"""A function of a signal's samples on SO(3), from coefficients to coefficients without the samples in memory.

Samples at four angles alpha that mirror at pi and pi / 2 need no others, neither before nor after: they are computed,
changed and summed over gamma while they are in the cache. What is kept of each four are sums over gamma, from which one
product over alpha follows.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from jaxgeo.errors import ConfigError
from jaxgeo.harmonics import so3_waves
from jaxgeo.harmonics.linear_map import linear_map
from jaxgeo.harmonics.precision import check_dtype, matmul
from jaxgeo.harmonics.so3 import SO3Transform, by_columns, so3_analysis, so3_synthesis, times_dimensions
from jaxgeo.harmonics.so3_fourier import (
    FourierTable,
    Parts,
    Sums,
    SumsByKind,
    joined,
    parts_of,
    quarter_waves,
    turned_quarter_waves,
)
from jaxgeo.harmonics.so3_layout import Packed, check_packed

Function = Callable[[Array], Array]
Plans = tuple[SO3Transform, SO3Transform]
Changed = Inexact[Array, "*batch next_coefficient channel"]


def so3_pointwise(
    to_samples: SO3Transform, to_coefficients: SO3Transform, function: Function, spectrum: Packed
) -> Changed:
    """Packed coefficients of function(signal), as by `so3_synthesis`, `function` and `so3_analysis`.

    On CPUs the grid is never whole in memory, which takes less time, also in first derivatives, which compute the
    samples again. The three run one after the other in higher derivatives, for complex signals, for a single one, and
    for functions that close over traced arrays.

    Args:
        to_samples: plan of the coefficients that come in.
        to_coefficients: plan of those that go out, for the same grid.
        function: of samples in an array of any shape, one by one.
        spectrum: packed coefficients of the first plan.

    Raises:
        ConfigError: the plans have different grids, or signals of different kinds.
        InputError: the coefficients have another number or dtype than the first plan.
    """
    first, second = ((plan.grid_shape, plan.dtype, plan.real) for plan in (to_samples, to_coefficients))
    if first != second:
        raise ConfigError(f"both plans need the same grid, dtype and kind of signal, got {first} and {second}")
    check_dtype("the array of coefficients", spectrum, to_samples.dtype, is_complex=not to_samples.real)
    check_packed(spectrum, to_samples.bandlimit, to_samples.orders)
    plans = to_samples, to_coefficients
    at_once = spectrum.size > to_samples.num_coefficients and to_samples.real and jax.default_backend() == "cpu"
    if at_once and not _closes_over_tracers(function, to_samples.dtype):
        return _at_once(function, plans, spectrum)
    return _step_by_step(function, plans, spectrum)


def _closes_over_tracers(function: Function, dtype: np.dtype) -> bool:
    """Whether it holds arrays that are compiled with or differentiated, such as learned slopes."""
    return bool(jax.closure_convert(function, jax.ShapeDtypeStruct((1,), dtype))[1])


def _step_by_step(function: Function, plans: Plans, spectrum: Array) -> Array:
    return so3_analysis(plans[1], function(so3_synthesis(plans[0], spectrum)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0)
def _at_once(function: Function, plans: Plans, spectrum: Array) -> Array:
    before, after = plans
    return _changed(function, ((before, times_dimensions(before, spectrum)),), after, after.weights)


@_at_once.defjvp
def _at_once_jvp(function: Function, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The samples are computed again instead of being kept."""
    tangent = linear_map(_Forward(function), _Backward(function), primals, tangents[1], plain=_Plain(function))
    return _at_once(function, *primals), tangent


@dataclasses.dataclass(frozen=True)
class _Forward:
    """From a tangent of the spectrum to that of the changed one."""

    function: Function

    def __call__(self, tables: tuple[Plans, Array], tangent: Array) -> Array:
        (before, after), spectrum = tables
        sources = tuple((before, times_dimensions(before, x)) for x in (spectrum, tangent))
        return _changed(lambda x, t: jax.jvp(self.function, (x,), (t,))[1], sources, after, after.weights)


@dataclasses.dataclass(frozen=True)
class _Backward:
    """The transpose of `_Forward`."""

    function: Function

    def __call__(self, tables: tuple[Plans, Array], cotangent: Array) -> Array:
        (before, after), spectrum = tables
        sources = (before, times_dimensions(before, spectrum)), (after, cotangent)
        found = _changed(lambda x, g: jax.vjp(self.function, x)[1](g)[0], sources, before, after.weights)
        return times_dimensions(before, found)


@dataclasses.dataclass(frozen=True)
class _Plain:
    """`_Forward`, step by step."""

    function: Function

    def __call__(self, tables: tuple[Plans, Array], tangent: Array) -> Array:
        plans, spectrum = tables
        return jax.jvp(functools.partial(_step_by_step, self.function, plans), (spectrum,), (tangent,))[1]


def _changed(
    function: Callable[..., Array],
    sources: tuple[tuple[SO3Transform, Array], ...],
    target: SO3Transform,
    weights: Float[Array, " beta"],
) -> Array:
    """Sums over the grid of a function of the samples of all sources, times the weights and the target's functions D.

    Args:
        function: of as many arrays of samples as there are sources.
        sources: plans with coefficients of their functions D, (*batch, coefficient, channel).
        target: plan of the sums.
        weights: of the parallels.
    """
    plans = tuple(plan for plan, _ in sources)
    batch, channels = sources[0][1].shape[:-2], sources[0][1].shape[-1]
    columns = (jnp.moveaxis(x.reshape(-1, *x.shape[-2:]), 0, 1).reshape(x.shape[-2], -1) for _, x in sources)
    cuts = np.cumsum([plan.num_coefficients for plan in plans])[:-1]

    def some(x: Array) -> Array:
        sums = [joined(so3_waves.expand(p.waves, part)) for p, part in zip(plans, jnp.split(x, cuts), strict=True)]
        return so3_waves.project(target.waves, _sums_of(function, plans, sums, target, weights))

    x = by_columns(target, some, jnp.concatenate(list(columns))).reshape(target.num_coefficients, -1, channels)
    return jnp.moveaxis(x, 1, 0).reshape(*batch, -1, channels)


def _sums_of(
    function: Callable[..., Array],
    plans: tuple[SO3Transform, ...],
    sums: list[Float[Array, "2 2 _m 2 2 _n column beta"]],  # `Sums`, each with orders of its own
    target: SO3Transform,
    weights: Float[Array, " beta"],
) -> Parts | SumsByKind:
    """Weighted sums over alpha and gamma of a function of the samples, from sums over the orders."""
    of_alpha, of_gamma = (quarter_waves(waves) * _shares(waves) for waves in (target.alpha_waves, target.gamma_waves))
    quarter_turns, more_n = of_alpha.shape[2], of_gamma.shape[1]
    columns, num_beta = sums[0].shape[-2:]
    over_alpha = [_over_alpha(plan, x) for plan, x in zip(plans, sums, strict=True)]

    def four(step: Array, out: Array) -> Array:
        each = (_four_images(plan, y, step) for plan, y in zip(plans, over_alpha, strict=True))
        images = [function(*parts) for parts in zip(*each, strict=True)]
        z = matmul(of_gamma, jnp.stack(_components(*images)).reshape(4, of_gamma.shape[2], -1))
        z = z.reshape(4, more_n, 4, columns, num_beta)
        z = jnp.stack(_components(*jnp.moveaxis(z, 2, 0)))
        return jax.lax.dynamic_update_slice_in_dim(out, z[:, None], step, 1)

    out = jax.lax.empty((4, quarter_turns, 4, more_n, columns, num_beta), weights.dtype)
    out = jax.lax.fori_loop(0, quarter_turns, four, out)
    z = matmul(of_alpha, out.reshape(4, quarter_turns, -1)).reshape(2, -1, 2, 2 * more_n, columns, num_beta)
    z = (z * weights.reshape(1, 1, 1, 1, 1, -1)).swapaxes(-1, -2)
    kinds = z[0, :, 0], z[0, :, 1], z[1, :, 0], z[1, :, 1]
    if columns > 1:
        return parts_of(*kinds)
    cc, cs, sc, ss = (kind[..., 0] for kind in kinds)
    return cc, cs, sc, ss


def _over_alpha(plan: SO3Transform, sums: Sums) -> Float[Array, "4 quarter 4 half_n column beta"]:
    waves = turned_quarter_waves(plan.alpha_waves)
    return matmul(waves, sums.reshape(4, sums.shape[2], -1)).reshape(4, -1, 4, *sums.shape[5:])


def _four_images(plan: SO3Transform, over_alpha: Array, step: Array) -> tuple[Array, Array, Array, Array]:
    """Samples at four angles alpha that mirror, apart for four angles gamma that do: (gamma, alpha, column, beta)."""
    z = jax.lax.dynamic_index_in_dim(over_alpha, step, 1, keepdims=False)
    waves = turned_quarter_waves(plan.gamma_waves)
    z = matmul(waves, jnp.stack(_images(*z), 2).reshape(4, waves.shape[2], -1))
    return _images(*z.reshape(4, waves.shape[1], 4, *over_alpha.shape[-2:]))


def _images(cosine: Array, more_cosine: Array, sine: Array, more_sine: Array) -> tuple[Array, Array, Array, Array]:
    """A wave at an angle x, at pi - x, at 2 pi - x and at pi + x, from its even and odd cosines, then sines."""
    first, last = cosine + more_sine, cosine - more_sine
    more_first, more_last = more_cosine + sine, more_cosine - sine
    return first + more_first, first - more_first, last + more_last, last - more_last


def _components(first: Array, mirrored: Array, last: Array, opposite: Array) -> tuple[Array, Array, Array, Array]:
    """The transpose of `_images`."""
    cosine, sine = first + last, first - last
    more_cosine, more_sine = mirrored + opposite, mirrored - opposite
    return cosine + more_cosine, cosine - more_cosine, sine - more_sine, sine + more_sine


def _shares(waves: FourierTable) -> Float[np.ndarray, "1 1 quarter"]:
    """Of the samples in the first quarter: one in its middle is its own mirror image, and is counted twice."""
    half = waves.shape[2]
    return np.where(2 * np.arange(-(-half // 2)) == half - 1, 0.5, 1.0).astype(waves.dtype)[None, None]
