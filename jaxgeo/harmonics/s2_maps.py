"""The four linear maps of an S2 plan on real arrays: analysis, synthesis and the plain transpose of each.

Signals are `(*batch, lat, lon, channel)`, those of complex plans `(*batch, 2, lat, lon, channel)`; coefficients are
native. Inside, longitudes come first and examples stand beside the channels: then the Fourier step is a plain matrix
product, and what it gives is ordered as the Legendre step reads it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgeo.harmonics import layout, s2_fourier, s2_legendre
from jaxgeo.harmonics.s2_plan import S2Transform


def analysis(plan: S2Transform, signal: Array) -> Array:
    """Quadrature of the signal times the conjugate harmonics."""
    return _to_coefficients(plan, signal, weigh=True)


def analysis_transpose(plan: S2Transform, coefficients: Array) -> Array:
    """The plain transpose of `analysis`."""
    return _to_signal(plan, coefficients, weigh=True)


def synthesis(plan: S2Transform, coefficients: Array) -> Array:
    """Sum of coefficients times harmonics."""
    return _to_signal(plan, coefficients, weigh=False)


def synthesis_transpose(plan: S2Transform, signal: Array) -> Array:
    """The plain transpose of `synthesis`."""
    return _to_coefficients(plan, signal, weigh=False)


def _to_coefficients(plan: S2Transform, signal: Array, *, weigh: bool) -> Array:
    """Sum over the grid: with weights analysis, without them the transpose of synthesis."""
    batch, channels = signal.shape[: -plan.signal_axes], signal.shape[-1]
    rings = _read(plan, signal)
    rings = _fold(plan, rings, weigh) if plan.spin == 0 else _with_south_pole(plan, rings, weigh)
    spectrum = s2_fourier.fourier(plan.fourier, rings, plan.num_orders)
    num_degrees = layout.num_half_degrees(plan.num_degrees)
    if plan.spin:
        spectrum = tuple(_mirror_negative(part) for part in spectrum)
    values = s2_legendre.contract_rings(plan.blocks, spectrum, num_degrees)
    if plan.real and not weigh:
        values = _double(values)
    if not plan.real:
        plus, minus = jnp.split(values, 2, -1) if plan.spin else _plus_and_minus(*values)
        values = jnp.concatenate([(minus * _signs(plan, minus))[:, :0:-1], plus], 1)
    values = jax.lax.pad(values, jnp.zeros((), values.dtype), [(0, 0, 0), *_margins(plan), (0, 0, 0)])
    return jnp.moveaxis(values.reshape(*values.shape[:-1], -1, channels), -2, 0).reshape(
        *batch, *values.shape[:-1], channels
    )


def _to_signal(plan: S2Transform, coefficients: Array, *, weigh: bool) -> Array:
    """Sum over coefficients: without weights synthesis, with them the transpose of analysis."""
    batch, channels = coefficients.shape[:-5], coefficients.shape[-1]
    values = jnp.moveaxis(coefficients.reshape(-1, *coefficients.shape[-5:]), 0, -2)
    values = values.reshape(*values.shape[:-2], -1)
    cut = [(0, 0, 0), *((-low, -high, 0) for low, high, _ in _margins(plan)), (0, 0, 0)]
    values = jax.lax.pad(values, jnp.zeros((), values.dtype), cut)
    if plan.real and not weigh:
        values = _double(values)
    if not plan.real:
        plus, minus = values[:, plan.num_orders - 1 :], values[:, plan.num_orders - 1 :: -1]
        minus = minus * _signs(plan, minus)
        values = jnp.concatenate([plus, minus], -1) if plan.spin else jnp.stack(_plus_and_minus_transpose(plus, minus))
    spectrum = s2_legendre.expand_degrees(plan.turned, values)
    if plan.spin:
        spectrum = tuple(_mirror_negative_transpose(part) for part in spectrum)
    rings = s2_fourier.fourier_transpose(plan.fourier, spectrum, plan.grid_shape[1])
    if weigh:
        rings = rings * plan.weights[None, None, :, None]
    return _write(plan, _unfold(plan, rings) if plan.spin == 0 else rings[:, 0, : plan.grid_shape[0]], batch, channels)


def _read(plan: S2Transform, signal: Array) -> Array:
    """(lon, lat, column); real and imaginary parts are the slowest of what a column tells apart."""
    examples = signal.reshape(-1, *signal.shape[-plan.signal_axes :])
    order = (2, 1, 0, 3) if plan.real else (3, 2, 1, 0, 4)
    values = examples.transpose(order).reshape(plan.grid_shape[1], -1)
    # Without the barrier XLA reads the signal in its first layout at each of the foldings' many terms.
    return jax.lax.optimization_barrier(values).reshape(*plan.grid_shape[::-1], -1)


def _write(plan: S2Transform, values: Array, batch: tuple[int, ...], channels: int) -> Array:
    """The transpose of `_read`."""
    values = jax.lax.optimization_barrier(values.reshape(plan.grid_shape[1], -1))
    parts = (-1,) if plan.real else (2, -1)
    values = values.reshape(*plan.grid_shape[::-1], *parts, channels)
    values = values.transpose((2, 1, 0, 3) if plan.real else (3, 2, 1, 0, 4))
    return values.reshape(*batch, *values.shape[1:])


def _fold(plan: S2Transform, rings: Array, weigh: bool) -> Array:
    """Sums and differences of mirrored rings (lon, parity, northern ring, column)."""
    count = len(plan.weights)
    factor = _share(plan).astype(rings.dtype)
    factor = plan.weights * factor if weigh else factor
    north, south = rings[:, :count], rings[:, ::-1]
    if plan.has_pole:
        south = jnp.pad(south, [(0, 0), (1, 0), (0, 0)])  # the south pole is not on the grid
    south = south[:, :count]
    if weigh or _has_equator(plan):
        north, south = north * factor[None, :, None], south * factor[None, :, None]
    return jnp.stack([north + south, north - south], 1)


def _unfold(plan: S2Transform, parities: Array) -> Array:
    """The transpose of `_fold` without weights; odd parts vanish at the equator."""
    even, odd = parities[:, 0], parities[:, 1]
    mirrored = slice(int(plan.has_pole), int(plan.has_pole) + plan.grid_shape[0] - len(plan.weights))
    return jnp.concatenate([even + odd, (even - odd)[:, mirrored][:, ::-1]], 1)


def _has_equator(plan: S2Transform) -> bool:
    return (plan.grid_shape[0] + plan.has_pole) % 2 == 1


def _share(plan: S2Transform) -> np.ndarray:
    """1/2 at the equator, which is its own mirror image."""
    share = np.ones(len(plan.weights))
    if _has_equator(plan):
        share[-1] = 0.5
    return share


def _with_south_pole(plan: S2Transform, rings: Array, weigh: bool) -> Array:
    """All rings, with a south pole of zeros where there is a north pole: (lon, 1, ring, column)."""
    rings = jnp.pad(rings, [(0, 0), (0, int(plan.has_pole)), (0, 0)])
    return (rings * plan.weights[None, :, None] if weigh else rings)[:, None]


def _mirror_negative(spectrum: tuple[Array, Array]) -> tuple[Array, Array]:
    """Order m, and order -m on mirrored rings as further columns, from the spectra of real and imaginary part."""
    plus, minus = _plus_and_minus(*spectrum)
    real, imaginary = (jnp.concatenate([p, m[:, :, ::-1]], -1) for p, m in zip(plus, minus, strict=True))
    return real, imaginary


def _mirror_negative_transpose(spectrum: tuple[Array, Array]) -> tuple[Array, Array]:
    plus, minus = zip(*(jnp.split(part, 2, -1) for part in spectrum), strict=True)
    return _plus_and_minus_transpose(plus, tuple(part[:, :, ::-1] for part in minus))


def _plus_and_minus(real: Array, imaginary: Array) -> tuple[Array, Array]:
    """Coefficients of u + i v at m and -m from those of u and v at m, which share the last axis."""
    (u_re, v_re), (u_im, v_im) = jnp.split(real, 2, -1), jnp.split(imaginary, 2, -1)
    return jnp.stack([u_re - v_im, u_im + v_re]), jnp.stack([u_re + v_im, v_re - u_im])


def _plus_and_minus_transpose(plus: Sequence[Array] | Array, minus: Sequence[Array] | Array) -> tuple[Array, Array]:
    real = jnp.concatenate([plus[0] + minus[0], plus[1] + minus[1]], -1)
    return real, jnp.concatenate([plus[1] - minus[1], minus[0] - plus[0]], -1)


def _double(values: Array) -> Array:
    """Orders m > 0 stand for -m too."""
    factor = np.where(np.arange(values.shape[1]) > 0, 2.0, 1.0).astype(values.dtype)
    return values * factor[None, :, None, None, None]


def _signs(plan: S2Transform, values: Array) -> np.ndarray:
    """What order -m takes over from m: (-1)^m for spin 0, (-1)^(l + s) on mirrored rings else; 0 stands for itself."""
    degree = layout.native_degrees(plan.num_degrees)[: plan.num_orders]
    exponent = degree + plan.spin if plan.spin else np.broadcast_to(np.arange(len(degree))[:, None, None], degree.shape)
    signs = np.where(exponent % 2, -1.0, 1.0)
    signs[0] = 0
    return signs[None, ..., None].astype(values.dtype)


def _margins(plan: S2Transform) -> list[tuple[int, int, int]]:
    """Places (below, above, between) on the axes order, parity and degree that are not transformed."""
    orders = plan.bandlimit - plan.num_orders
    degrees = layout.num_half_degrees(plan.bandlimit) - layout.num_half_degrees(plan.num_degrees)
    return [(0 if plan.real else orders, orders, 0), (0, 0, 0), (0, degrees, 0)]
