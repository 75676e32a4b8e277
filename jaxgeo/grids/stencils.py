"""Resampling as a table: for each sample up to four pixels of the source, their weights, and the nearest pixel.

A stencil is made once for a camera, a panorama or a map (`jaxgeo.grids.resample`) and then applied to any number of
images, channels and batches. Images are interpolated; labels take the nearest pixel, because a mean of two class
numbers is a third class; depth is interpolated where all pixels that count are valid, and is invalid elsewhere.
"""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, Shaped, UInt8

from jaxgeo.errors import InputError, check_one_of
from jaxgeo.modes import Mode

_ROUNDING = 1e-9  # weights below it come from the rounding of a place in float64, and their pixels need not be there


class Stencil(eqx.Module):
    """Where each sample looks in the flattened source; -1 is no pixel."""

    pixels: Int[Array, "*sample 4"]
    weights: Float[Array, "*sample 4"]  # at least 0 and, in mode "correct", of sum 1
    nearest: Int[Array, "*sample"]
    source_shape: tuple[int, ...] = eqx.field(static=True)  # (rows, columns) of an image, (pixels,) of a map
    mode: Mode = eqx.field(static=True)


@jax.jit
def interpolate(
    stencil: Stencil,
    values: Num[Array, "..."],
    fill: float | Float[Array, ""] = 0.0,
    valid: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Weighted means of values (*batch, *source) at all samples: (*batch, *sample), in the default float or wider.

    In mode "correct" a sample is `fill` where a pixel that counts is missing or not valid: nothing is mixed into
    a mean that was not measured. In mode "faithful" `fill` takes the place of the missing pixels in the mean.

    Args:
        stencil: a single one; stacked ones by `jax.vmap`.
        values: integers are turned into floats. What they hold where they are not valid has no influence.
        fill: value outside.
        valid: where the values count, of their shape or without the batch; everywhere by default.

    Raises:
        InputError: the values' last axes are not the stencil's source.
    """
    values, batch = _flattened(stencil, values)
    values = values.astype(jnp.result_type(values, jnp.float32))
    known = _flat_validity(stencil, valid, batch)
    if known is not None:
        values = jnp.where(known, values, 0)
    # An infinite fill stands for the whole mean: times a weight of 0 it would be no number, nor would derivatives be.
    mixed = jnp.isfinite(fill) & (stencil.mode == "faithful")
    total, missing = jnp.zeros((), values.dtype), False
    for k in range(4):
        pixel, weight = stencil.pixels[..., k], _lead(stencil.weights[..., k], len(batch))
        present = _lead(pixel >= 0, len(batch))
        if known is not None:
            present &= known[..., pixel]
        total += weight * jnp.where(present, values[..., pixel], jnp.where(mixed, fill, 0))
        missing |= (weight > _ROUNDING) & ~present
    return jnp.where(missing & ~mixed, fill, total)


@jax.jit
def interpolate_depth(
    stencil: Stencil, depth: Float[Array, "..."], fill: float | Float[Array, ""] = jnp.inf
) -> Float[Array, "..."]:
    """`interpolate` where whatever is not finite is invalid; invalid samples become `fill`."""
    return interpolate(stencil, depth, fill, jnp.isfinite(depth))


@functools.partial(jax.jit, static_argnames="fill")
def take_nearest(stencil: Stencil, labels: Shaped[Array, "..."], fill: float | int | bool) -> Shaped[Array, "..."]:
    """Labels (*batch, *source) of the nearest pixels, in their type; also for depth, masks and validity.

    Args:
        stencil: a single one; stacked ones by `jax.vmap`.
        labels: nothing is mixed, so that invalid labels stay what they are.
        fill: where there is no pixel.

    Raises:
        InputError: the labels' last axes are not the stencil's source, or their type cannot hold `fill`.
    """
    labels, batch = _flattened(stencil, labels)
    if not _holds(labels.dtype, fill):
        raise InputError(f"labels of type {labels.dtype} cannot hold the fill {fill}; convert them to a wider type")
    return jnp.where(_lead(stencil.nearest >= 0, len(batch)), labels[..., stencil.nearest], fill).astype(labels.dtype)


@jax.jit
def is_covered(stencil: Stencil, valid: Bool[Array, "..."] | None = None) -> Bool[Array, "..."]:
    """Whether all pixels that count for a sample are there, and valid: where `interpolate` does not fill."""
    known = jnp.ones(stencil.source_shape, bool) if valid is None else valid
    known, batch = _flattened(stencil, known)
    present = _lead(stencil.pixels >= 0, len(batch)) & known[..., stencil.pixels]
    counts = _lead(stencil.weights > _ROUNDING, len(batch))
    return jnp.all(present | ~counts, axis=-1) & jnp.any(counts, axis=-1)


@functools.partial(jax.jit, static_argnames="mode")
def to_uint8(values: Float[Array, "..."], mode: Mode = "correct") -> UInt8[Array, "..."]:
    """Grey values from 0 to 255 as bytes: rounded, or truncated as published; what lies beyond is cut off."""
    check_one_of("mode", mode, Mode)
    values = jnp.clip(values, 0, 255)
    return (jnp.round(values) if mode == "correct" else jnp.floor(values)).astype(jnp.uint8)


def check_stencil(stencil: Stencil) -> None:
    """Raise `InputError` unless all pixels are of the source and correct weights sum to one."""
    size, weights = math.prod(stencil.source_shape), np.asarray(stencil.weights)
    for pixels in (np.asarray(stencil.pixels), np.asarray(stencil.nearest)):
        wrong = pixels[(pixels < -1) | (pixels >= size)]
        if wrong.size:
            raise InputError(
                f"a stencil must look at pixels of its source, 0 ... {size - 1} or -1 for none, got {wrong[0]}"
            )
    least, off = weights.min(initial=0), np.abs(weights.sum(-1) - 1).max(initial=0)
    if least < 0 or (stencil.mode == "correct" and off > 1e-6):
        raise InputError(
            f"weights of a mean must not be negative and must sum to one, got the smallest {least:.3g}, and sums up to "
            f"{off:.3g} away from one"
        )


def _flattened(stencil: Stencil, values: Array) -> tuple[Array, tuple[int, ...]]:
    axes = len(stencil.source_shape)
    if values.shape[values.ndim - axes :] != stencil.source_shape or values.ndim < axes:
        raise InputError(
            f"the stencil reads arrays whose last axes are {stencil.source_shape}, channels and batches before them, "
            f"got shape {values.shape}; move the channels to the front, or make a stencil for this size"
        )
    batch = values.shape[: values.ndim - axes]
    return jnp.reshape(values, (*batch, math.prod(stencil.source_shape))), batch


def _holds(dtype: np.dtype, value: float | int | bool) -> bool:
    if jnp.issubdtype(dtype, jnp.inexact):
        return True
    low, high = (0, 1) if dtype.kind == "b" else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
    return low <= value <= high and value == int(value)


def _flat_validity(stencil: Stencil, valid: Array | None, batch: tuple[int, ...]) -> Array | None:
    if valid is None:
        return None
    flat, own = _flattened(stencil, valid)
    return jnp.broadcast_to(_lead(flat, len(batch) - len(own)), (*batch, flat.shape[-1]))


def _lead(values: Array, axes: int) -> Array:
    """With leading axes of length one, because ranks are not promoted silently."""
    return jnp.reshape(values, (1,) * axes + values.shape)
