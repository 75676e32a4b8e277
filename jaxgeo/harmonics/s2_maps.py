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

FEW_CHANNELS = 8  # below, arrays are copied with the longitudes first


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
    images = signal.reshape(-1, *signal.shape[-plan.signal_axes :])
    phases = s2_fourier.origin_phases(plan.num_orders, plan.grid_shape[1])
    cuts = [[len(table) for table in tables] for tables in plan.blocks]
    if plan.fourier:
        # Many channels are folded where they lie, without a copy with the longitudes first. Of few ones the folding's
        # many terms would each be read in steps of a parallel.
        if channels < FEW_CHANNELS:
            first = _longitude_first(plan, images)
            parts = s2_fourier.fold(jax.lax.optimization_barrier(first.reshape(len(first), -1)), len(plan.fourier))
            parts = [_parities(plan, part.reshape(-1, *first.shape[1:])) for part in parts]
        else:
            parts = [_rings(plan, part) for part in s2_fourier.fold(images, len(plan.fourier))]
        spectrum = s2_fourier.fourier(plan.fourier, parts, cuts)
    else:
        spectrum = s2_fourier.fast_fourier(_rings(plan, images), plan.num_orders, cuts)
    if plan.spin:
        if weigh:
            spectrum = s2_legendre.weigh_rings(spectrum, plan.weights, -2)
        if phases:
            cut = [np.split(angles, np.cumsum(counts)[:-1]) for angles, counts in zip(phases, cuts, strict=True)]
            spectrum = tuple(tuple(map(s2_fourier.turn, *pairs)) for pairs in zip(spectrum, cut, strict=True))
        spectrum, phases = tuple(tuple(map(_mirror_negative, pairs)) for pairs in spectrum), []
    num_degrees = layout.num_half_degrees(plan.num_degrees)
    if weigh or plan.spin:
        values = s2_legendre.contract_rings(plan.blocks, spectrum, phases, num_degrees)
    else:
        values = s2_legendre.contract_rings(plan.turned, spectrum, phases, num_degrees, axis=2)
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
    phases = s2_fourier.origin_phases(plan.num_orders, plan.grid_shape[1])
    on_tables = weigh and _weighs_tables(plan, values)
    turned = s2_legendre.weigh_rings(plan.turned, plan.weights, -2) if on_tables else plan.turned
    spectrum = s2_legendre.expand_degrees(turned, values, [] if plan.spin else phases)
    if plan.spin:
        spectrum = tuple(_mirror_negative_transpose(pair) for pair in spectrum)
        if phases:
            spectrum = tuple(s2_fourier.turn(pair, -angles) for pair, angles in zip(spectrum, phases, strict=True))
    if weigh and not on_tables:
        spectrum = s2_legendre.weigh_rings(spectrum, plan.weights, -2)
    if plan.fourier:
        rings = s2_fourier.fourier_transpose(plan.turned_fourier, spectrum, plan.grid_shape[1])
    else:
        rings = s2_fourier.fast_fourier_transpose(spectrum, plan.grid_shape[1])
    return _write(plan, rings, batch, channels)


def _rings(plan: S2Transform, images: Array) -> Array:
    """(lon, parity, ring, column) from (*, lat, lon, channel), the longitudes folded or not.

    Real and imaginary parts are the slowest of what a column tells apart.
    """
    return _parities(plan, _longitude_first(plan, images))


def _longitude_first(plan: S2Transform, images: Array) -> Array:
    values = images.transpose((2, 1, 0, 3) if plan.real else (3, 2, 1, 0, 4))
    return values.reshape(*values.shape[:2], -1)


def _parities(plan: S2Transform, values: Array) -> Array:
    return _fold(plan, values) if plan.spin == 0 else _with_south_pole(plan, values)


def _write(plan: S2Transform, rings: Array, batch: tuple[int, ...], channels: int) -> Array:
    """The transpose of `_rings` without folded longitudes: signals."""
    if plan.spin == 0 and channels < FEW_CHANNELS:
        rings = _unfold(plan, rings[:, 0], rings[:, 1], -2)[:, None]
    values = jax.lax.optimization_barrier(rings.reshape(len(rings), -1))
    values = values.reshape(*rings.shape[:3], *((-1,) if plan.real else (2, -1)), channels)
    # Many channels are transposed before the rings are unfolded: the other way round takes up to twice as long.
    values = values.transpose((1, 3, 2, 0, 4) if plan.real else (1, 4, 3, 2, 0, 5))
    values = _unfold(plan, *values, -3) if len(values) == 2 else values[0, ..., : plan.grid_shape[0], :, :]
    return values.reshape(*batch, *values.shape[1:])


def _fold(plan: S2Transform, rings: Array) -> Array:
    """Sums and differences of mirrored rings (lon, parity, northern ring, column); the equator stands alone."""
    # No weights here: a factor per ring keeps XLA from vectorising the loop.
    count, first = len(plan.weights), int(plan.has_pole)
    south = rings[:, : count - 1 : -1]
    south = jnp.pad(south, [(0, 0), (first, count - first - south.shape[1]), (0, 0)])
    return jnp.stack([rings[:, :count] + south, rings[:, :count] - south], 1)


def _unfold(plan: S2Transform, even: Array, odd: Array, axis: int) -> Array:
    """The transpose of `_fold` on arrays with the northern rings on `axis`."""
    first = int(plan.has_pole)
    difference = jax.lax.slice_in_dim(even - odd, first, first + plan.grid_shape[0] - len(plan.weights), axis=axis)
    return jnp.concatenate([even + odd, jnp.flip(difference, axis)], axis)


def _weighs_tables(plan: S2Transform, values: Array) -> bool:
    """Whether the rings' weights should go onto the tables, where these are smaller, rather than onto a spectrum."""
    # With a spin they cannot: the tables see the rings of negative orders mirrored.
    return plan.spin == 0 and sum(table.size for table in jax.tree.leaves(plan.turned)) < values.size


def _with_south_pole(plan: S2Transform, rings: Array) -> Array:
    """All rings, with a south pole of zeros where there is a north pole: (lon, 1, ring, column)."""
    return jnp.pad(rings, [(0, 0), (0, int(plan.has_pole)), (0, 0)])[:, None]


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
