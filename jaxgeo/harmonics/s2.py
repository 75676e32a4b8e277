r"""Spherical harmonic transforms of real and complex signals, of spin 0 and s, on grids of parallels and meridians.

$f_{lm} = \int f \, \overline{{}_sY_{lm}} \, d\Omega$ with orthonormal harmonics of Condon-Shortley phase, which is the
convention of healpy, ducc0 and scipy; ${}_sY_{lm}(\theta, \phi) = (-1)^s \sqrt{(2l+1)/4\pi}\, d^l_{m,-s}(\theta)
e^{im\phi}$. Analysis is exact for signals of degrees below the grid's bandlimit, by the grid's quadrature.

Coefficients are in the native layout of `jaxgeo.harmonics.layout`; `to_dense` and `from_dense` convert. All maps are
differentiable both ways by hand-written transposes, which cost one transform each, and take any leading batch axes.

References:
    Driscoll and Healy, "Computing Fourier Transforms and Convolutions on the 2-Sphere", Adv. Appl. Math. 15 (1994).
    Goldberg et al., "Spin-s Spherical Harmonics and edth", J. Math. Phys. 8 (1967).
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Inexact

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.latlon import LatLonGrid
from jaxgeo.harmonics import layout, s2_fourier, s2_legendre
from jaxgeo.harmonics.layout import Dense, Native
from jaxgeo.harmonics.linear_map import linear_map
from jaxgeo.harmonics.precision import check_dtype, from_complex, table_dtype, to_complex


class S2Transform(eqx.Module):
    """Tables of the transforms between one grid and one bandlimit; build it with `plan_s2_transform`."""

    blocks: s2_legendre.Blocks  # harmonics at longitude 0; northern rings (spin 0) or all rings
    weights: Float[Array, " ring"]  # of analysis: quadrature times the longitudes' step, at the rings of `blocks`
    bandlimit: int = eqx.field(static=True)  # degrees l < bandlimit in the coefficients
    spin: int = eqx.field(static=True)
    real: bool = eqx.field(static=True)  # real signals keep orders m >= 0
    grid_shape: tuple[int, int] = eqx.field(static=True)  # (latitudes, longitudes)
    has_pole: bool = eqx.field(static=True)  # the first ring is the north pole, and has no mirror image on the grid
    num_orders: int = eqx.field(static=True)  # orders |m| < num_orders are transformed, the others are zero
    num_degrees: int = eqx.field(static=True)  # likewise degrees

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.weights.dtype

    @property
    def signal_axes(self) -> int:
        """Number of axes of one signal inside the transform: (lat, lon, channel), real and imaginary part before."""
        return 3 if self.real else 4

    @property
    def coefficient_shape(self) -> tuple[int, int, int, int]:
        """(2, order, parity, degree) of the native coefficients."""
        return layout.native_shape(self.bandlimit, real=self.real)


def plan_s2_transform(
    grid: LatLonGrid,
    bandlimit: int | None = None,
    *,
    spin: int = 0,
    real: bool = True,
    dtype: DTypeLike = jnp.float32,
    aliased: bool = False,
) -> S2Transform:
    """Tables for `analysis` and `synthesis`.

    Args:
        grid: SOFT, Driscoll-Healy, Gauss-Legendre, or another whose rings mirror at the equator (but for a north pole).
        bandlimit: degrees l < bandlimit in the coefficients, the grid's own by default. Below the grid's, analysis
            truncates; above it, analysis fills with zeros and synthesis leaves out what the grid cannot hold.
        spin: spin weight s; coefficients begin at degree |s|.
        real: real signals and orders m >= 0; a signal of spin s is complex.
        dtype: of tables, signals and coefficients. Tables are computed in float64 and rounded once.
        aliased: where the bandlimit exceeds the grid's, transform the higher degrees too, at the orders that the grid
            holds: analysis then sees aliases there, and synthesis samples all degrees.

    Raises:
        ConfigError: impossible bandlimit, spin or dtype, or the grid's rings do not mirror.
    """
    precision = table_dtype(dtype)
    bandlimit = grid.bandlimit if bandlimit is None else bandlimit
    if bandlimit < 1:
        raise ConfigError(f"the bandlimit counts degrees and must be at least 1, got {bandlimit}")
    if spin and real:
        raise ConfigError(f"a signal of spin {spin} is complex; plan it with real=False")
    if abs(spin) >= bandlimit:
        raise ConfigError(
            f"degrees begin at |spin|, so spin {spin} needs a bandlimit above {abs(spin)}, got {bandlimit}"
        )
    if grid.first_longitude != 0:
        raise ConfigError(
            f"longitudes must begin at 0, got {grid.first_longitude}; multiply by exp(-i m phi_0) instead"
        )
    has_pole = bool(grid.colatitudes[0] == 0)
    colatitudes, weights = np.asarray(grid.colatitudes), np.asarray(grid.weights) * 2 * np.pi / grid.num_longitudes
    if has_pole:
        colatitudes, weights = np.append(colatitudes, np.pi), np.append(weights, 0.0)
    if np.abs(colatitudes + colatitudes[::-1] - np.pi).max() > 1e-12:
        raise ConfigError("the transform folds north onto south and needs rings that mirror at the equator")
    held = min(bandlimit, grid.bandlimit)
    degrees = bandlimit if aliased else held
    if not spin:
        colatitudes = colatitudes[: (len(colatitudes) + 1) // 2]
    blocks = s2_legendre.legendre_blocks(degrees, held, colatitudes, precision, spin=spin)
    return S2Transform(
        blocks=blocks,
        weights=jnp.asarray(weights[: len(colatitudes)], precision),
        bandlimit=bandlimit,
        spin=spin,
        real=real,
        grid_shape=grid.shape,
        has_pole=has_pole,
        num_orders=held,
        num_degrees=degrees,
    )


def analysis(plan: S2Transform, signal: Inexact[Array, "*batch lat lon channel"]) -> Native:
    """Coefficients of a signal, by quadrature: exact where its degrees are below the grid's bandlimit.

    Args:
        plan: from `plan_s2_transform`.
        signal: float (complex where `plan.real` is False) of the plan's precision.

    Raises:
        InputError: the signal has another shape or dtype than the plan.
    """
    check_dtype("the signal", signal, plan.dtype, is_complex=not plan.real)
    if signal.ndim < 3 or signal.shape[-3:-1] != plan.grid_shape:
        raise InputError(
            f"signals have axes (*batch, lat, lon, channel) with (lat, lon) = {plan.grid_shape}, got {signal.shape}"
        )
    if plan.real:
        return linear_map(_analysis, _analysis_transpose, plan, signal)
    return linear_map(_analysis, _analysis_transpose, plan, from_complex(signal, -4))


def synthesis(plan: S2Transform, coefficients: Native) -> Inexact[Array, "*batch lat lon channel"]:
    """The signal with given native coefficients; complex where `plan.real` is False.

    Raises:
        InputError: the coefficients have another shape or dtype than the plan.
    """
    check_dtype("the array of coefficients", coefficients, plan.dtype)
    if coefficients.ndim < 5 or coefficients.shape[-5:-1] != plan.coefficient_shape:
        raise InputError(
            f"native coefficients have axes (*batch, 2, order, parity, degree, channel), here "
            f"(2, order, parity, degree) = {plan.coefficient_shape}, got {coefficients.shape}"
        )
    values = linear_map(_synthesis, _synthesis_transpose, plan, coefficients)
    return values if plan.real else to_complex(values, -4)


def to_dense(plan: S2Transform, coefficients: Native) -> Dense:
    """Complex coefficients (*batch, degree, order, channel), l = 0..L-1 and m = -(L-1)..L-1, from native ones."""
    return layout.native_to_dense(coefficients, real=plan.real)


def from_dense(plan: S2Transform, dense: Dense) -> Native:
    """Native coefficients from dense ones; for a real signal only the orders m >= 0 are read."""
    return layout.dense_to_native(dense, real=plan.real)


def _analysis(plan: S2Transform, signal: Array) -> Array:
    return _in_columns(lambda x: _to_coefficients(plan, x, weigh=True), plan.signal_axes, signal)


def _analysis_transpose(plan: S2Transform, coefficients: Array) -> Array:
    return _in_columns(lambda x: _to_signal(plan, x, weigh=True), 5, coefficients)


def _synthesis(plan: S2Transform, coefficients: Array) -> Array:
    return _in_columns(lambda x: _to_signal(plan, x, weigh=False), 5, coefficients)


def _synthesis_transpose(plan: S2Transform, signal: Array) -> Array:
    return _in_columns(lambda x: _to_coefficients(plan, x, weigh=False), plan.signal_axes, signal)


def _in_columns(transform: Callable[[Array], Array], num_axes: int, x: Array) -> Array:
    """Apply a map of one example to a batch: examples become columns beside the channels."""
    batch = x.shape[:-num_axes]
    if math.prod(batch) == 1:
        out = transform(x.reshape(x.shape[-num_axes:]))
        return out.reshape(*batch, *out.shape)
    examples = jnp.moveaxis(x.reshape(-1, *x.shape[-num_axes:]), 0, -2)
    out = transform(examples.reshape(*examples.shape[:-2], -1))
    out = out.reshape(*out.shape[:-1], *examples.shape[-2:])
    return jnp.moveaxis(out, -2, 0).reshape(*batch, *out.shape[:-2], out.shape[-1])


def _to_coefficients(plan: S2Transform, signal: Array, *, weigh: bool) -> Array:
    """Sum of a signal times harmonics: with weights analysis, without them the transpose of synthesis."""
    if plan.real:
        rings = s2_fourier.fourier(_fold(plan, signal, weigh), plan.num_orders)
        if not weigh:
            rings = _double(rings)
        values = s2_legendre.contract_rings(plan.blocks, rings)
    elif plan.spin == 0:
        rings = s2_fourier.fourier(_fold(plan, _parts_last(signal), weigh), plan.num_orders)
        values = s2_legendre.contract_rings(plan.blocks, rings)
        plus, minus = _positive_and_negative(values)
        values = jnp.concatenate([_times(_signs(plan), minus)[:, :0:-1], plus], 1)
    else:
        rings = s2_fourier.fourier(_symmetric_rings(plan, _parts_last(signal), weigh)[None], plan.num_orders)
        plus, minus = _positive_and_negative(rings)
        columns = jnp.concatenate([plus, minus[:, :, :, ::-1]], -1)
        plus, minus = jnp.split(s2_legendre.contract_rings(plan.blocks, columns), 2, -1)
        values = jnp.concatenate([_times(_signs(plan), minus)[:, :0:-1], plus], 1)
    return _pad(plan, values)


def _to_signal(plan: S2Transform, coefficients: Array, *, weigh: bool) -> Array:
    """Sum of coefficients times harmonics: without weights synthesis, with them the transpose of analysis."""
    values = _crop(plan, coefficients)
    if plan.real:
        rings = s2_legendre.expand_degrees(plan.blocks, values)
        if not weigh:
            rings = _double(rings)
        return _unfold(plan, s2_fourier.fourier_transpose(rings, plan.grid_shape[1]), weigh)
    plus, minus = values[:, plan.num_orders - 1 :], values[:, plan.num_orders - 1 :: -1]
    minus = _times(_signs(plan), minus.at[:, 0].set(0))
    if plan.spin == 0:
        rings = s2_legendre.expand_degrees(plan.blocks, _real_and_imaginary(plus, minus))
        return _parts_first(_unfold(plan, s2_fourier.fourier_transpose(rings, plan.grid_shape[1]), weigh))
    columns = s2_legendre.expand_degrees(plan.blocks, jnp.concatenate([plus, minus], -1))
    plus, minus = jnp.split(columns, 2, -1)
    rings = s2_fourier.fourier_transpose(_real_and_imaginary(plus, minus[:, :, :, ::-1]), plan.grid_shape[1])
    values = rings[0] * plan.weights[:, None, None] if weigh else rings[0]
    return _parts_first(values[: plan.grid_shape[0]])


def _fold(plan: S2Transform, signal: Array, weigh: bool) -> Array:
    """Sums and differences of mirrored rings (parity, northern ring, lon, channel); a pole's mirror image is zero."""
    num_rings, first = len(plan.weights), int(plan.has_pole)
    north, south = signal[:num_rings], signal[num_rings:][::-1]
    south = jnp.pad(south, [(first, num_rings - first - len(south)), (0, 0), (0, 0)])
    if weigh:
        north, south = (half * plan.weights[:, None, None] for half in (north, south))
    return jnp.stack([north + south, north - south])


def _unfold(plan: S2Transform, parities: Array, weigh: bool) -> Array:
    """The transpose of `_fold`."""
    num_rings, first = len(plan.weights), int(plan.has_pole)
    if weigh:
        parities = parities * plan.weights[None, :, None, None]
    even, odd = parities
    mirrored = slice(first, first + plan.grid_shape[0] - num_rings)
    return jnp.concatenate([even + odd, (even[mirrored] - odd[mirrored])[::-1]])


def _symmetric_rings(plan: S2Transform, signal: Array, weigh: bool) -> Array:
    """All rings, with a south pole of zeros where there is a north pole."""
    signal = jnp.pad(signal, [(0, int(plan.has_pole)), (0, 0), (0, 0)])
    return signal * plan.weights[:, None, None] if weigh else signal


def _double(rings: Array) -> Array:
    """Orders m > 0 stand for -m too."""
    factor = np.where(np.arange(rings.shape[1]) > 0, 2.0, 1.0).astype(rings.dtype)
    return rings * factor[None, :, None, None, None]


def _positive_and_negative(values: Array) -> tuple[Array, Array]:
    """Coefficients of u + i v at m >= 0, and at -m, from those of u and v at m >= 0, which share the last axis."""
    (u_re, v_re), (u_im, v_im) = (jnp.split(part, 2, -1) for part in values)
    return jnp.stack([u_re - v_im, u_im + v_re]), jnp.stack([u_re + v_im, v_re - u_im])


def _real_and_imaginary(plus: Array, minus: Array) -> Array:
    """The transpose of `_positive_and_negative`."""
    (plus_re, plus_im), (minus_re, minus_im) = plus, minus
    real = jnp.concatenate([plus_re + minus_re, plus_im + minus_im], -1)
    return jnp.stack([real, jnp.concatenate([plus_im - minus_im, minus_re - plus_re], -1)])


def _signs(plan: S2Transform) -> np.ndarray:
    """What order -m takes over from order m >= 0: (-1)^m for spin 0, (-1)^(l + s) on mirrored rings else."""
    degree = layout.native_degrees(plan.num_degrees)[: plan.num_orders]
    exponent = degree + plan.spin if plan.spin else np.broadcast_to(np.arange(len(degree))[:, None, None], degree.shape)
    return np.where(exponent % 2, -1.0, 1.0)


def _times(signs: np.ndarray, values: Array) -> Array:
    return values * signs[None, ..., None].astype(values.dtype)


def _parts_last(signal: Array) -> Array:
    return jnp.concatenate([signal[0], signal[1]], -1)


def _parts_first(signal: Array) -> Array:
    return jnp.stack(jnp.split(signal, 2, -1))


def _pad(plan: S2Transform, values: Array) -> Array:
    """Native coefficients of the plan's bandlimit from the orders and degrees that were transformed."""
    config = [(0, 0, 0), *_margins(plan), (0, 0, 0)]
    return jax.lax.pad(values, jnp.zeros((), values.dtype), config)


def _crop(plan: S2Transform, values: Array) -> Array:
    config = [(0, 0, 0), *((-low, -high, 0) for low, high, _ in _margins(plan)), (0, 0, 0)]
    return jax.lax.pad(values, jnp.zeros((), values.dtype), config)


def _margins(plan: S2Transform) -> list[tuple[int, int, int]]:
    orders = plan.bandlimit - plan.num_orders
    degrees = layout.num_half_degrees(plan.bandlimit) - layout.num_half_degrees(plan.num_degrees)
    return [(0 if plan.real else orders, orders, 0), (0, 0, 0), (0, degrees, 0)]
