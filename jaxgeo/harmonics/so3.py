r"""Fourier transform on the rotation group SO(3), of real and complex signals, on grids of Euler angles.

$F^l_{mn} = \int f(R) D^l_{mn}(R) dR$ with the Haar probability measure, $f(R) = \sum_l (2l+1) \sum_{mn} F^l_{mn}
\overline{D^l_{mn}(R)}$, $D^l_{mn} = e^{-im\alpha} d^l_{mn}(\beta) e^{-in\gamma}$ for $R = R_z(\alpha) R_y(\beta)
R_z(\gamma)$. Signals have axes (beta, alpha, gamma, channel) with equidistant alpha and gamma from 0. Analysis is exact
for signals of degrees below the grid's bandlimit.

Coefficients are packed matrices in the real basis (`so3_layout`); the transform works in that basis throughout, because
there a real signal needs real numbers only. `to_matrices` and `from_matrices` convert. Steps: `so3_fourier` over alpha
and gamma, `so3_waves` over beta.

References:
    Kostelec and Rockmore, "FFTs on the Rotation Group", J. Fourier Anal. Appl. 14 (2008).
"""

import math
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Inexact

from jaxgeo.errors import InputError, check_one_of
from jaxgeo.grids.latlon import check_bandlimit, gauss_legendre_grid, soft_grid
from jaxgeo.harmonics import so3_fourier, so3_waves
from jaxgeo.harmonics.linear_map import linear_map
from jaxgeo.harmonics.precision import check_dtype, einsum, rounded, table_dtype
from jaxgeo.harmonics.so3_layout import (
    Matrices,
    Packed,
    check_orders,
    check_packed,
    matrices_to_packed,
    packed_indices,
    packed_to_matrices,
)
from jaxgeo.harmonics.so3_waves import SO3Waves
from jaxgeo.harmonics.turns import in_turns

# On CPUs columns are taken a few at a time, with samples of so many bytes, but so many columns at least: for larger
# arrays the system hands out new pages in every call, which takes longer than the arithmetic.
_MOST_BYTES, _LEAST_COLUMNS = 2**23, 4

Latitudes = Literal["soft", "gauss_legendre"]


class SO3Transform(eqx.Module):
    """Tables of the transforms between one grid and one bandlimit; build it with `plan_so3_transform`."""

    waves: SO3Waves  # the step between Fourier sums and packed coefficients
    alpha_waves: so3_fourier.FourierTable
    gamma_waves: so3_fourier.FourierTable
    weights: Float[Array, " beta"]  # Haar measure of a grid point: they sum to 1 over the grid
    dimensions: Float[Array, " coefficient"]  # 2l + 1
    real: bool = eqx.field(static=True)
    grid_shape: tuple[int, int, int] = eqx.field(static=True)  # (beta, alpha, gamma)

    @property
    def bandlimit(self) -> int:
        """Degrees l < bandlimit in the coefficients."""
        return self.waves.bandlimit

    @property
    def orders(self) -> int:
        """Azimuthal limit: orders |n| < orders in the coefficients."""
        return self.waves.orders

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.weights.dtype

    @property
    def num_coefficients(self) -> int:
        """Length of the packed axis."""
        return len(self.dimensions)


def plan_so3_transform(
    bandlimit: int,
    *,
    grid_bandlimit: int | None = None,
    orders: int | None = None,
    grid_orders: int | None = None,
    real: bool = True,
    dtype: DTypeLike = jnp.float32,
    aliased: bool = False,
    latitudes: Latitudes = "soft",
) -> SO3Transform:
    """Tables for `so3_analysis` and `so3_synthesis`.

    Args:
        bandlimit: degrees l < bandlimit in the coefficients.
        grid_bandlimit: b of the grid: 2b colatitudes (j + 1/2) pi / 2b and 2b longitudes; the bandlimit by default.
            Above the bandlimit, analysis truncates and synthesis oversamples. Below it, analysis fills with zeros and
            synthesis leaves out what the grid cannot hold.
        orders: azimuthal limit N, orders |n| < N; the bandlimit by default.
        grid_orders: the grid has 2 grid_orders samples of gamma; by default as many as of alpha where there is no
            azimuthal limit, 2 orders otherwise.
        real: signals and packed coefficients are real.
        dtype: of tables, signals and coefficients. Tables are computed in float64 and rounded once.
        aliased: where the bandlimit exceeds the grid's, transform the higher degrees too, at the orders that the grid
            holds (the form of the published spherical networks): their analysis sees aliases.
        latitudes: "soft", or "gauss_legendre" with b colatitudes instead of 2b, for half of the work.

    Raises:
        ConfigError: impossible sizes, other latitudes, or another dtype.
    """
    precision = table_dtype(dtype)
    all_orders = orders is None
    orders = check_orders(bandlimit, orders)
    size = bandlimit if grid_bandlimit is None else grid_bandlimit
    check_one_of("latitudes", latitudes, Latitudes)
    grid = soft_grid(size) if latitudes == "soft" else gauss_legendre_grid(size)
    if grid_orders is not None:
        check_bandlimit(grid_orders, "the grid's number of orders")
    turns = grid_orders if grid_orders is not None else size if all_orders else min(orders, size)
    num_m, num_n = min(bandlimit, size), min(orders, turns, size)
    degrees = bandlimit if aliased else num_m
    shape = len(grid.colatitudes), 2 * size, 2 * turns
    return SO3Transform(
        waves=so3_waves.plan_so3_waves(
            grid.colatitudes,
            bandlimit,
            orders=orders,
            num_degrees=degrees,
            num_m=num_m,
            num_n=num_n,
            half_steps=(math.pi / shape[1], math.pi / shape[2]),
            dtype=precision,
        ),
        alpha_waves=rounded(so3_fourier.fourier_table(num_m, shape[1]), precision),
        gamma_waves=rounded(so3_fourier.fourier_table(num_n, shape[2]), precision),
        weights=rounded(grid.weights / 2 / (shape[1] * shape[2]), precision),
        dimensions=rounded(2 * packed_indices(bandlimit, orders)[0] + 1, precision),
        real=real,
        grid_shape=shape,
    )


def so3_analysis(plan: SO3Transform, signal: Inexact[Array, "*batch beta alpha gamma channel"]) -> Packed:
    """Packed coefficients of a signal, by quadrature: exact where its degrees are below the grid's bandlimit.

    Args:
        plan: from `plan_so3_transform`.
        signal: float (complex where `plan.real` is False) of the plan's precision.

    Raises:
        InputError: the signal has another shape or dtype than the plan.
    """
    _check_signal(plan, signal)
    if plan.real:
        return linear_map(_analysis, _analysis_transpose, plan, signal)
    return _in_parts(lambda parts: linear_map(_analysis, _analysis_transpose, plan, parts), signal)


def so3_synthesis(plan: SO3Transform, spectrum: Packed) -> Inexact[Array, "*batch beta alpha gamma channel"]:
    """The signal with given packed coefficients; complex where `plan.real` is False.

    Raises:
        InputError: the coefficients have another number or dtype than the plan.
    """
    check_dtype("the array of coefficients", spectrum, plan.dtype, is_complex=not plan.real)
    check_packed(spectrum, plan.bandlimit, plan.orders)
    if plan.real:
        return linear_map(_synthesis, _synthesis_transpose, plan, spectrum)
    return _in_parts(lambda parts: linear_map(_synthesis, _synthesis_transpose, plan, parts), spectrum)


def so3_integral(
    plan: SO3Transform, signal: Inexact[Array, "*batch beta alpha gamma channel"]
) -> Inexact[Array, "*batch channel"]:
    """Mean of a signal over SO(3) in the Haar measure, the coefficient of degree 0.

    Raises:
        InputError: the signal has another shape or dtype than the plan.
    """
    _check_signal(plan, signal)
    return einsum("...bagc,b->...c", signal, plan.weights)


def to_matrices(plan: SO3Transform, spectrum: Packed) -> Matrices:
    """Complex F^l_mn (*batch, degree, m, n, channel), order 0 in the middle, from packed coefficients.

    Raises:
        InputError: the coefficients have another number or dtype than the plan.
    """
    check_dtype("the array of coefficients", spectrum, plan.dtype, is_complex=not plan.real)
    return packed_to_matrices(spectrum, plan.bandlimit, plan.orders)


def from_matrices(plan: SO3Transform, matrices: Matrices) -> Packed:
    """Packed coefficients from complex F^l_mn; for a real signal the part that breaks its symmetry is dropped.

    Raises:
        InputError: the matrices have other axes (degree, m, n) or another precision than the plan.
    """
    check_dtype("the array of matrices", matrices, plan.dtype, is_complex=True)
    needed = plan.bandlimit, 2 * plan.bandlimit - 1, 2 * plan.orders - 1
    if matrices.ndim < 4 or matrices.shape[-4:-1] != needed:
        raise InputError(
            f"matrices have axes (*batch, degree, m, n, channel), here (degree, m, n) = {needed}, got {matrices.shape}"
        )
    return matrices_to_packed(matrices, real=plan.real)


def _check_signal(plan: SO3Transform, signal: Array) -> None:
    check_dtype("the signal", signal, plan.dtype, is_complex=not plan.real)
    if signal.ndim < 4 or signal.shape[-4:-1] != plan.grid_shape:
        raise InputError(
            f"signals have axes (*batch, beta, alpha, gamma, channel) with (beta, alpha, gamma) = {plan.grid_shape}, "
            f"got {signal.shape}"
        )


def _analysis(plan: SO3Transform, signal: Array) -> Array:
    return _project(plan, signal, plan.weights)


def _analysis_transpose(plan: SO3Transform, spectrum: Array) -> Array:
    return _evaluate(plan, spectrum, plan.weights)


def _synthesis(plan: SO3Transform, spectrum: Array) -> Array:
    return _evaluate(plan, times_dimensions(plan, spectrum), None)


def _synthesis_transpose(plan: SO3Transform, signal: Array) -> Array:
    return times_dimensions(plan, _project(plan, signal, None))


def times_dimensions(plan: SO3Transform, spectrum: Array) -> Array:
    """Coefficients times 2l + 1."""
    return spectrum * plan.dimensions.reshape(*(1,) * (spectrum.ndim - 2), -1, 1)


def _project(plan: SO3Transform, signal: Array, weights: Array | None) -> Array:
    """Sums over the grid of the signal times the real-basis functions D, which are real and orthogonal."""
    batch, channels = signal.shape[:-4], signal.shape[-1]
    x = jnp.moveaxis(signal.reshape(-1, *plan.grid_shape, channels), 0, 3).reshape(*plan.grid_shape, -1)

    def some(x: Array) -> Array:
        return so3_waves.project(plan.waves, so3_fourier.sums(plan.alpha_waves, plan.gamma_waves, x, weights))

    spectrum = by_columns(plan, some, x)
    if math.prod(batch) == 1:
        return spectrum.reshape(*batch, -1, channels)
    return jnp.moveaxis(spectrum.reshape(-1, math.prod(batch), channels), 1, 0).reshape(*batch, -1, channels)


def _evaluate(plan: SO3Transform, spectrum: Array, weights: Array | None) -> Array:
    """The transpose of `_project`: the sum of coefficients times real-basis functions."""
    batch, channels = spectrum.shape[:-2], spectrum.shape[-1]
    x = jnp.moveaxis(spectrum.reshape(-1, *spectrum.shape[-2:]), 0, 1).reshape(plan.num_coefficients, -1)

    def some(x: Array) -> Array:
        return so3_fourier.samples(plan.alpha_waves, plan.gamma_waves, so3_waves.expand(plan.waves, x), weights)

    x = jnp.moveaxis(by_columns(plan, some, x).reshape(*plan.grid_shape, -1, channels), 3, 0)
    return x.reshape(*batch, *plan.grid_shape, channels)


def by_columns(plan: SO3Transform, function: Callable[[Array], Array], x: Array) -> Array:
    """`function` of arrays with columns last, on CPUs a few of them at a time."""
    most = max(_LEAST_COLUMNS, _MOST_BYTES // (math.prod(plan.grid_shape) * plan.dtype.itemsize))
    return in_turns(function, (x,), most if jax.default_backend() == "cpu" else x.shape[-1], -1)


def _in_parts(transform: Callable[[Array], Array], array: Array) -> Array:
    """A real map of a complex array: its real and imaginary parts are channels."""
    real, imaginary = jnp.split(transform(jnp.concatenate([array.real, array.imag], -1)), 2, -1)
    return jax.lax.complex(real, imaginary)
