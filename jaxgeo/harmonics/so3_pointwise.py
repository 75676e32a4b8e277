"""A function of a signal's samples on SO(3), from coefficients to coefficients without the samples in memory.

Samples at four angles alpha that mirror at pi and pi / 2 need no others, neither before nor after: they are computed,
changed and summed over gamma while they are in the cache. What is kept of each four are sums over gamma, from which one
product over alpha follows.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from jaxgeo.errors import ConfigError
from jaxgeo.harmonics import so3_waves
from jaxgeo.harmonics.precision import check_dtype, matmul
from jaxgeo.harmonics.so3 import SO3Transform, by_columns, so3_analysis, so3_synthesis, times_dimensions
from jaxgeo.harmonics.so3_fourier import FourierTable, Sums, parts_of, quarter_waves
from jaxgeo.harmonics.so3_layout import Packed, check_packed

Function = Callable[[Array], Array]
Plans = tuple[SO3Transform, SO3Transform]
Changed = Inexact[Array, "*batch next_coefficient channel"]


def so3_pointwise(
    to_samples: SO3Transform, to_coefficients: SO3Transform, function: Function, spectrum: Packed
) -> Changed:
    """Packed coefficients of function(signal), as by `so3_synthesis`, `function` and `so3_analysis`.

    On CPUs the grid is never whole in memory, which takes less time. The three run one after the other where the map is
    differentiated, and of complex signals and of a single one.

    Args:
        to_samples: plan of the coefficients that come in.
        to_coefficients: plan of those that go out, for the same grid.
        function: of samples in an array of any shape, one by one; it closes over no array that is differentiated.
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
    many = spectrum.size > to_samples.num_coefficients
    whole = _at_once if many and to_samples.real and jax.default_backend() == "cpu" else _step_by_step
    return whole(function, plans, spectrum)


def _step_by_step(function: Function, plans: Plans, spectrum: Array) -> Array:
    return so3_analysis(plans[1], function(so3_synthesis(plans[0], spectrum)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0)
def _at_once(function: Function, plans: Plans, spectrum: Array) -> Array:
    before, after = plans
    batch, channels = spectrum.shape[:-2], spectrum.shape[-1]
    x = times_dimensions(before, spectrum).reshape(-1, *spectrum.shape[-2:])
    x = jnp.moveaxis(x, 0, 1).reshape(before.num_coefficients, -1)

    def some(x: Array) -> Array:
        return so3_waves.project(after.waves, _sums_of(function, plans, so3_waves.expand(before.waves, x)))

    x = by_columns(before, some, x).reshape(after.num_coefficients, -1, channels)
    return jnp.moveaxis(x, 1, 0).reshape(*batch, -1, channels)


@_at_once.defjvp
def _at_once_jvp(function: Function, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    plans, spectrum = primals
    return jax.jvp(lambda spectrum: _step_by_step(function, plans, spectrum), (spectrum,), tangents[1:])


def _sums_of(function: Function, plans: Plans, sums: Sums) -> Float[Array, "next_m next_n beta 4 column"]:
    """Weighted sums over alpha and gamma of a function of the samples, from sums over the orders."""
    num_m, num_n, columns, num_beta = sums.shape[2], sums.shape[5], *sums.shape[6:]
    to_alpha, to_gamma = (quarter_waves(waves).swapaxes(1, 2) for waves in _waves(plans[0]))
    of_alpha, of_gamma = (quarter_waves(waves) * _shares(waves) for waves in _waves(plans[1]))
    quarter_turns, more_n = to_alpha.shape[1], of_gamma.shape[1]
    y = matmul(to_alpha, sums.reshape(4, num_m, -1)).reshape(4, quarter_turns, 4, num_n, columns, num_beta)

    def four(step: Array, out: Array) -> Array:
        z = jax.lax.dynamic_index_in_dim(y, step, 1, keepdims=False)
        z = jnp.stack(_images(*z), 2).reshape(4, num_n, -1)
        images = _images(*matmul(to_gamma, z).reshape(4, -1, 4, columns, num_beta))
        z = jnp.stack(_components(*(function(image) for image in images)))
        z = matmul(of_gamma, z.reshape(4, len(images[0]), -1)).reshape(4, more_n, 4, columns, num_beta)
        z = jnp.stack(_components(*jnp.moveaxis(z, 2, 0)))
        return jax.lax.dynamic_update_slice_in_dim(out, z[:, None], step, 1)

    out = jax.lax.empty((4, quarter_turns, 4, more_n, columns, num_beta), sums.dtype)
    out = jax.lax.fori_loop(0, quarter_turns, four, out)
    z = matmul(of_alpha, out.reshape(4, quarter_turns, -1)).reshape(2, -1, 2, 2 * more_n, columns, num_beta)
    z = (z * plans[1].weights.reshape(1, 1, 1, 1, 1, -1)).swapaxes(-1, -2)
    return parts_of(z[0, :, 0], z[0, :, 1], z[1, :, 0], z[1, :, 1])


def _waves(plan: SO3Transform) -> tuple[FourierTable, FourierTable]:
    return plan.alpha_waves, plan.gamma_waves


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
