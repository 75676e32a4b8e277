"""Linear maps between HEALPix maps and coefficients, each beside its plain transpose: see `jaxgeo.harmonics.healpix`.

Coefficients are native ones of real signals. A complex map of any spin is two real fields, its real and its imaginary
part, one after the other on the channel axis; so are its coefficients, see `native_of_fields`.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgeo.harmonics import healpix_steps as steps
from jaxgeo.harmonics.healpix_plan import HealpixTransform
from jaxgeo.harmonics.turns import in_turns

_COLUMNS = 16  # maps and channels at a time, which then stay in the cache


def synthesis(plan: HealpixTransform, coefficients: Array) -> Array:
    """Maps with given coefficients."""
    return _to_maps(plan, coefficients * multiplicity(plan, coefficients))


def synthesis_transpose(plan: HealpixTransform, maps: Array) -> Array:
    """The plain transpose of `synthesis`."""
    coefficients = _to_coefficients(plan, maps, plan.share)
    return coefficients * multiplicity(plan, coefficients)


def quadrature(plan: HealpixTransform, maps: Array) -> Array:
    """Coefficients by the quadrature of the plan."""
    return _to_coefficients(plan, maps, plan.weights)


def quadrature_transpose(plan: HealpixTransform, coefficients: Array) -> Array:
    """The plain transpose of `quadrature`."""
    return _to_maps(plan, coefficients, plan.weights)


def multiplicity(plan: HealpixTransform, like: Array) -> np.ndarray:
    """2 for the orders that stand for -m too."""
    factor = np.where(np.arange(plan.bandlimit) > 0, 2, 1).astype(like.dtype)
    return factor.reshape((1,) * (like.ndim - 4) + (-1, 1, 1, 1))


def _to_coefficients(plan: HealpixTransform, maps: Array, weights: Array) -> Array:
    """Sums of weighted maps times conjugate harmonics; weights by point."""

    def some(pixels):
        images = pixels.at[plan.mirrors.gather].get(mode="promise_in_bounds") * weights[None, :, None]
        rings = steps.to_rings(plan.fourier, plan.turned_fourier, steps.fold(images), plan.group_rings)
        return steps.to_degrees(plan.legendre, plan.turned_legendre, rings, plan.bandlimit, plan.spin)

    return by_columns(plan, some, maps, 1, 4)


def _to_maps(plan: HealpixTransform, coefficients: Array, weights: Array | None = None) -> Array:
    """The plain transpose of `_to_coefficients`; without weights those of `share` are meant."""

    def some(values):
        rings = steps.from_degrees(plan.legendre, plan.turned_legendre, values, plan.spin, sum(plan.group_rings))
        points = steps.from_rings(plan.fourier, plan.turned_fourier, rings, plan.group_rings)
        if weights is not None:
            # The images of a point that is its own image are equal: one of them stands for all. Weighed before they
            # are gathered, lest XLA divide for each pixel.
            points = points * jnp.where(plan.share > 0, weights / plan.share, 0)[None, None, :, None, None]
        images = steps.unfold(points)
        return images.reshape(-1, images.shape[-1]).at[plan.mirrors.scatter].get(mode="promise_in_bounds")

    return by_columns(plan, some, coefficients, 4, 1)


def by_columns(plan: HealpixTransform, function: Callable, x: Array, axes_in: int, axes_out: int) -> Array:
    """`function` of arrays (*axes, column), for `x` (*batch, *axes, channel): batch and channels are columns alike.

    Many columns are taken a few at a time, which then stay in the cache; of a complex map both fields come along.
    """
    batch, inner = x.shape[: -axes_in - 1], x.shape[-axes_in - 1 : -1]
    fields = 1 if plan.real else 2
    x = x.reshape(-1, *inner, fields, x.shape[-1] // fields)
    channels = x.shape[-1]
    x = jnp.moveaxis(x, 0, -2).reshape(*inner, fields, -1)

    def flat(part: Array) -> Array:
        out = function(part.reshape(*inner, -1))
        return out.reshape(*out.shape[:-1], fields, -1)

    out = in_turns(flat, (x,), _COLUMNS, -1)
    out = jnp.moveaxis(out.reshape(*out.shape[:-1], -1, channels), -2, 0)
    return out.reshape(*batch, *out.shape[1 : axes_out + 1], fields * channels)


def native_of_fields(plan: HealpixTransform, pair: Array) -> Array:
    """Native coefficients f from those of the two fields, e = (f + f') / 2 and b = (f - f') / 2i, at m >= 0.

    f'_lm = (-1)^(m + s) conj(f_{l,-m}) is what the conjugate field has in their place.
    """
    if plan.real:
        return pair
    e, b = jnp.split(pair, 2, -1)
    f, mirrored = e + _times_i(b), e - _times_i(b)
    return jnp.concatenate([_conjugate(plan, mirrored)[..., :0:-1, :, :, :], f], -4)


def fields_of_native(plan: HealpixTransform, native: Array) -> Array:
    """Coefficients of the two fields from the native ones of a complex map."""
    if plan.real:
        return native
    f = native[..., plan.bandlimit - 1 :, :, :, :]
    mirrored = _conjugate(plan, native[..., plan.bandlimit - 1 :: -1, :, :, :])
    return jnp.concatenate([(f + mirrored) / 2, -_times_i(f - mirrored) / 2], -1)


def _times_i(x: Array) -> Array:
    return jnp.stack([-x[..., 1, :, :, :, :], x[..., 0, :, :, :, :]], -5)


def _conjugate(plan: HealpixTransform, x: Array) -> Array:
    signs = (-1.0) ** (plan.spin + np.arange(plan.bandlimit))
    signs = np.stack([signs, -signs]).astype(x.dtype).reshape(*(1,) * (x.ndim - 5), 2, -1, 1, 1, 1)
    return x * signs
