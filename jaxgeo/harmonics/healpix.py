r"""Spherical harmonic transforms of HEALPix maps, real and complex, of spin 0 and s, in RING or NESTED order.

Analysis is quadrature with equal (or ring) weights, which on this grid is approximate: `healpix_analysis` refines it by
Jacobi's iteration as healpy does, `healpix_least_squares` finds the band-limited signal nearest to the map. Synthesis is exact.
Harmonics are those of `jaxgeo.harmonics.s2`, coefficients stand in the native layout of `jaxgeo.harmonics.layout`.

All sums are products with real tables: the mirror symmetries of the rings cut a ring of 4 q pixels into 8 independent
problems of q points, so that these products cost less than the Legendre step, and no ring needs an FFT of its own length.

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
from jaxtyping import Array, DTypeLike, Float, Inexact

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.healpix import Order, check_nside, check_order, nest_to_ring
from jaxgeo.harmonics import healpix_steps as steps
from jaxgeo.harmonics import healpix_tables as tables
from jaxgeo.harmonics import layout
from jaxgeo.harmonics.layout import Dense, Native
from jaxgeo.harmonics.linear_map import linear_map
from jaxgeo.harmonics.precision import check_dtype, table_dtype

_MAX_BLOCKS = 4
_COEFFICIENT_AXES, _MAP_AXES = (-5, -4, -3, -2), (-2,)
_NEGLIGIBLE = 1e-3  # in units of the last digit: harmonics of high order vanish near the poles


class HealpixTransform(eqx.Module):
    """Tables of the transforms between the maps of one nside and one bandlimit; see `plan_healpix_transform`."""

    mirrors: steps.Mirrors
    share: Float[Array, " point"]  # 1, 1/2 or 1/4 where a point is its own mirror image, 0 where it pads a row
    weights: Float[Array, " point"]  # share times the area that a pixel stands for in analysis
    fourier: steps.Fourier
    legendre: steps.Legendre
    nside: int = eqx.field(static=True)
    bandlimit: int = eqx.field(static=True)  # degrees l < bandlimit
    spin: int = eqx.field(static=True)
    real: bool = eqx.field(static=True)
    order: Order = eqx.field(static=True)
    group_rings: tuple[int, ...] = eqx.field(static=True)

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.weights.dtype

    @property
    def coefficient_shape(self) -> tuple[int, int, int, int]:
        """(2, order, parity, degree) of the native coefficients."""
        return layout.native_shape(self.bandlimit, real=self.real)


def plan_healpix_transform(
    nside: int,
    bandlimit: int | None = None,
    *,
    spin: int = 0,
    real: bool | None = None,
    order: Order = "ring",
    use_ring_weights: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> HealpixTransform:
    """Tables of the transforms of HEALPix maps.

    Args:
        nside: a power of two.
        bandlimit: degrees l < bandlimit, by default 2 nside; quadrature is poor above, useless from 4 nside on.
        spin: of the field; a spin other than 0 needs complex maps Q + i U.
        real: whether maps are real; by default they are where the spin is 0.
        order: of the maps' pixels.
        use_ring_weights: quadrature weights by ring that integrate zonal degrees below 4 nside exactly.
        dtype: float32 or float64, of tables, maps and coefficients.

    Raises:
        ConfigError: an impossible nside, bandlimit, spin, order or dtype.
    """
    check_nside(nside)
    check_order(order)
    precision = table_dtype(dtype)
    bandlimit = 2 * nside if bandlimit is None else bandlimit
    real = spin == 0 if real is None else real
    if bandlimit < 1:
        raise ConfigError(f"a bandlimit is at least 1, got {bandlimit}")
    if real and spin:
        raise ConfigError(f"a field of spin {spin} is complex, because rotations of the frame turn it; ask for real=False")
    if abs(spin) >= bandlimit:
        raise ConfigError(f"spin {spin} has no degrees below the bandlimit {bandlimit}; degrees begin at |spin|")
    groups = tables.ring_groups(nside)
    rings = np.concatenate([group.rings for group in groups])
    edges, legendre, significant = _legendre_tables(nside, bandlimit, spin, groups, rings, precision)
    counts = [max(edge for edge in edges if edge < limit or edge == edges[-1]) for limit in significant]
    del counts
    fourier = tuple(
        jnp.asarray(tables.fourier_table(nside, group, limit), precision)
        for group, limit in zip(groups, significant, strict=True)
    )
    mirrors, share, weights = _mirrors(nside, order, groups, use_ring_weights)
    return HealpixTransform(
        mirrors=mirrors,
        share=jnp.asarray(share, precision),
        weights=jnp.asarray(weights, precision),
        fourier=fourier,
        legendre=legendre,
        nside=nside,
        bandlimit=bandlimit,
        spin=spin,
        real=real,
        order=order,
        group_rings=tuple(len(group.rings) for group in groups),
    )


def _legendre_tables(nside, bandlimit, spin, groups, rings, precision):
    theta = tables.colatitudes(nside, rings)
    width = 2 * max(1, -(-bandlimit // (2 * _MAX_BLOCKS)))
    starts = list(range(0, bandlimit, width))
    edges = [*starts, bandlimit + bandlimit % 2]
    ends = np.cumsum([len(group.rings) for group in groups])
    legendre, limits = [], [edges[1]] * len(groups)
    tiny = _NEGLIGIBLE * np.finfo(precision).eps
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        block = tables.legendre_block(bandlimit, spin, np.arange(low, min(high, bandlimit)), theta)
        block = np.pad(block, [(0, high - low - len(block)), (0, 0), (0, 0), (0, 0)])
        sides = block.reshape(*block.shape[:3], -1, len(rings))
        peak = np.abs(sides).max((0, 1, 2, 3))
        first = next(
            i for i in range(len(groups)) if low == 0 or i >= len(groups) - 2 or peak[: ends[i]].max() > tiny
        )
        for i in range(first, len(groups)):
            limits[i] = high
        kept = sides[..., (ends[first - 1] if first else 0) :]
        kept = kept.reshape(-1, 2, *kept.shape[1:3], kept.shape[3] * kept.shape[4]).swapaxes(0, 1)
        legendre.append(jnp.asarray(np.ascontiguousarray(kept), precision))
    return edges, tuple(legendre), limits


def _mirrors(nside, order, groups, use_ring_weights):
    found = [tables.mirror_pixels(nside, group) for group in groups]
    pixels = np.concatenate([pixel.reshape(8, -1) for pixel, _ in found], axis=1)
    share = np.concatenate([part.reshape(-1) for _, part in found])
    if order == "nested":
        with jax.ensure_compile_time_eval():
            ring_of_nested = np.asarray(nest_to_ring(nside, jnp.arange(12 * nside**2, dtype=jnp.int32)))
        nested_of_ring = np.empty_like(ring_of_nested)
        nested_of_ring[ring_of_nested] = np.arange(12 * nside**2)
        pixels = nested_of_ring[pixels]
    real_points = np.flatnonzero(np.broadcast_to(share > 0, pixels.shape))
    scatter = np.full(12 * nside**2, -1, np.int64)
    scatter[pixels.reshape(-1)[real_points]] = real_points
    assert (scatter >= 0).all()
    per_ring = tables.ring_weights(nside) if use_ring_weights else np.ones(2 * nside)
    of_point = np.concatenate([np.tile(per_ring[group.rings - 1], group.points) for group in groups])
    weights = share * of_point * (4 * np.pi / (12 * nside**2))
    return steps.Mirrors(jnp.asarray(pixels, jnp.int32), jnp.asarray(scatter, jnp.int32)), share, weights


def healpix_synthesis(plan: HealpixTransform, coefficients: Native) -> Inexact[Array, "*batch pixel channel"]:
    """The map with given native coefficients; complex where `plan.real` is False.

    Raises:
        InputError: the coefficients have another shape or dtype than the plan.
    """
    _check_coefficients(plan, coefficients)
    if plan.real:
        return linear_map(_synthesis, _synthesis_transpose, plan, coefficients)
    fields = linear_map(_synthesis, _synthesis_transpose, plan, _fields_of_native(plan, coefficients))
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

    A is quadrature and S synthesis. Each iteration costs both; the defaults are healpy's. Below degree 2 nside an iteration
    gains about an order of magnitude, at 3 nside and above it may gain nothing: see `healpix_least_squares`.

    Args:
        plan: from `plan_healpix_transform`.
        maps: float (complex where `plan.real` is False) of the plan's precision, pixels in the plan's order.
        iterations: how many, or with a tolerance at most how many.
        tolerance: stop once an iteration changes no map's coefficients by more than this fraction of their norm.

    Raises:
        InputError: the maps have another shape or dtype than the plan.
        ConfigError: a negative number of iterations or tolerance.
    """
    if iterations < 0 or tolerance < 0:
        raise ConfigError(f"iterations and tolerance are at least 0, got {iterations} and {tolerance}")
    fields = _fields_of_maps(plan, maps)
    refinement = _Refinement(plan, iterations, tolerance)
    return _native_of_fields(plan, linear_map(_refined, _refined_transpose, refinement, fields))


def healpix_least_squares(
    plan: HealpixTransform,
    maps: Inexact[Array, "*batch pixel channel"],
    tolerance: float = 1e-6,
    max_iterations: int = 100,
) -> Native:
    r"""The pseudo-inverse of synthesis: coefficients whose map is nearest to the given one in the sum of squares.

    By conjugate gradients, for all maps at once; exact for band-limited maps up to `tolerance`. Where several coefficients
    give the same map (bandlimits above about 3 nside) those of smallest $\sum_{lm} |f_{lm}|^2$ are found.

    Args:
        plan: from `plan_healpix_transform`.
        maps: as in `healpix_analysis`.
        tolerance: norm of what quadrature finds in the map's remainder, relative to what it finds in the map.
        max_iterations: at most so many; each costs one synthesis and one analysis.

    Raises:
        InputError: the maps have another shape or dtype than the plan.
        ConfigError: no iteration, or a tolerance that is not positive.
    """
    if max_iterations < 1 or not tolerance > 0:
        raise ConfigError(
            f"least squares need at least one iteration and a positive tolerance, got {max_iterations} and {tolerance}"
        )
    fields = _fields_of_maps(plan, maps)
    refinement = _Refinement(plan, max_iterations, tolerance)
    return _native_of_fields(plan, linear_map(_least_squares, _least_squares_transpose, refinement, fields))


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
    return maps if plan.real else jnp.concatenate([maps.real, maps.imag], -1)


def _native_of_fields(plan: HealpixTransform, pair: Array) -> Array:
    """Native coefficients f from those of the two fields, e = (f + f') / 2 and b = (f - f') / 2i, at m >= 0.

    f'_lm = (-1)^(m + s) conj(f_{l,-m}) is what the conjugate field has in their place.
    """
    if plan.real:
        return pair
    e, b = jnp.split(pair, 2, -1)
    f, mirrored = e + _times_i(b), e - _times_i(b)
    return jnp.concatenate([_conjugate(plan, mirrored)[..., :0:-1, :, :, :], f], -4)


def _fields_of_native(plan: HealpixTransform, native: Array) -> Array:
    f = native[..., plan.bandlimit - 1 :, :, :, :]
    mirrored = _conjugate(plan, native[..., plan.bandlimit - 1 :: -1, :, :, :])
    return jnp.concatenate([(f + mirrored) / 2, -_times_i(f - mirrored) / 2], -1)


def _times_i(x: Array) -> Array:
    return jnp.stack([-x[..., 1, :, :, :, :], x[..., 0, :, :, :, :]], -5)


def _conjugate(plan: HealpixTransform, x: Array) -> Array:
    signs = (-1.0) ** (plan.spin + np.arange(plan.bandlimit))
    signs = np.stack([signs, -signs]).astype(x.dtype).reshape(*(1,) * (x.ndim - 5), 2, -1, 1, 1, 1)
    return x * signs


def _synthesis(plan: HealpixTransform, coefficients: Array) -> Array:
    return _to_maps(plan, coefficients * _multiplicity(plan, coefficients))


def _synthesis_transpose(plan: HealpixTransform, maps: Array) -> Array:
    coefficients = _to_coefficients(plan, maps, plan.share)
    return coefficients * _multiplicity(plan, coefficients)


def _quadrature(plan: HealpixTransform, maps: Array) -> Array:
    return _to_coefficients(plan, maps, plan.weights)


def _quadrature_transpose(plan: HealpixTransform, coefficients: Array) -> Array:
    return _to_maps(plan, coefficients, plan.weights)


def _multiplicity(plan: HealpixTransform, like: Array) -> np.ndarray:
    """2 for the orders that stand for -m too."""
    factor = np.where(np.arange(plan.bandlimit) > 0, 2, 1).astype(like.dtype)
    return factor.reshape((1,) * (like.ndim - 4) + (-1, 1, 1, 1))


def _to_coefficients(plan: HealpixTransform, maps: Array, weights: Array) -> Array:
    """Sums of weighted maps times conjugate harmonics; weights by point."""
    batch, channels = maps.shape[:-2], maps.shape[-1]
    pixels = jnp.moveaxis(maps.reshape(-1, *maps.shape[-2:]), 0, 1)
    if not plan.real:  # the two fields outermost
        pixels = jnp.moveaxis(pixels.reshape(*pixels.shape[:2], 2, -1), 2, 1)
    pixels = pixels.reshape(maps.shape[-2], -1)
    images = pixels.at[plan.mirrors.gather].get(mode="promise_in_bounds") * weights[None, :, None]
    rings = steps.to_rings(plan.fourier, steps.fold(images))
    coefficients = steps.to_degrees(plan.legendre, rings, plan.bandlimit, plan.spin)
    shape = coefficients.shape[:4]
    if not plan.real:
        coefficients = jnp.moveaxis(coefficients.reshape(*shape, 2, -1, channels // 2), 4, 5)
    coefficients = jnp.moveaxis(coefficients.reshape(*shape, -1, channels), 4, 0)
    return coefficients.reshape(*batch, *shape, channels)


def _to_maps(plan: HealpixTransform, coefficients: Array, weights: Array | None = None) -> Array:
    """The plain transpose of `_to_coefficients`; without weights those of `share` are meant."""
    batch, shape, channels = coefficients.shape[:-5], coefficients.shape[-5:-1], coefficients.shape[-1]
    values = jnp.moveaxis(coefficients.reshape(-1, *shape, channels), 0, 4)
    if not plan.real:
        values = jnp.moveaxis(values.reshape(*values.shape[:5], 2, -1), 5, 4)
    values = values.reshape(*shape, -1)
    orders = [table.shape[-2] for table in plan.fourier]
    rings = steps.from_degrees(plan.legendre, values, plan.spin, orders, plan.group_rings)
    images = steps.unfold(steps.from_rings(plan.fourier, rings))
    if weights is not None:
        # The images of a point that is its own image are equal: one of them stands for all.
        images = images * jnp.where(plan.share > 0, weights / plan.share, 0)[None, :, None]
    pixels = images.reshape(-1, images.shape[-1]).at[plan.mirrors.scatter].get(mode="promise_in_bounds")
    if not plan.real:
        pixels = jnp.moveaxis(pixels.reshape(len(pixels), 2, -1, channels // 2), 1, 2)
    maps = jnp.moveaxis(pixels.reshape(len(pixels), -1, channels), 1, 0)
    return maps.reshape(*batch, -1, channels)


def _over_fields(plan: HealpixTransform, sums: Array) -> Array:
    """Sums by channel, added over the two fields of a complex map."""
    if plan.real:
        return sums
    both = sum(jnp.split(sums, 2, -1))
    return jnp.concatenate([both, both], -1)


def _refined(refinement: _Refinement, maps: Array) -> Array:
    plan = refinement.plan
    shape = (*maps.shape[:-2], *layout.native_shape(plan.bandlimit), maps.shape[-1])
    return _iterate(_quadrature, _synthesis, maps, jnp.zeros(shape, maps.dtype), _COEFFICIENT_AXES, refinement)


def _refined_transpose(refinement: _Refinement, coefficients: Array) -> Array:
    plan = refinement.plan
    zero = jnp.zeros((*coefficients.shape[:-5], 12 * plan.nside**2, coefficients.shape[-1]), coefficients.dtype)
    return _iterate(_quadrature_transpose, _synthesis_transpose, coefficients, zero, _MAP_AXES, refinement)


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
    return x * (scale / jnp.sqrt(_multiplicity(plan, x)))


def _to_unit(plan: HealpixTransform, x: Array) -> Array:
    return _synthesis(plan, _half(plan, x))


def _from_unit(plan: HealpixTransform, maps: Array) -> Array:
    return _half(plan, _synthesis_transpose(plan, maps))


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

    return jax.lax.while_loop(unfinished, step, (0, jnp.zeros_like(right), right, right, squared))[1]
