"""Batch norm and dropout of signals on the sphere and on SO(3) that commute with rotations.

Both treat a channel as one: statistics are integrals over the whole space, and whole channels are dropped. Signals on
the `sphere` have axes `(*batch, lat, lon, channel)`, those on `so3` `(*batch, beta, alpha, gamma, channel)`, and their
integrals are taken by quadrature. An `so3_spectrum`, packed coefficients `(*batch, coefficient, channel)`, has its mean
in degree 0 and its mean square by Parseval's theorem, without any grid.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.errors import InputError, check_one_of
from jaxgeo.harmonics.precision import einsum

Space = Literal["sphere", "so3", "so3_spectrum"]
_NUM_AXES = {"sphere": 2, "so3": 3, "so3_spectrum": 1}


def channel_means(
    signal: Float[Array, "..."], weights: Float[Array, " lat"], space: Literal["sphere", "so3"]
) -> Float[Array, "*batch channel"]:
    """Mean of each example and channel over the sphere (area measure) or SO(3) (Haar measure), by quadrature.

    Exact for signals of degrees below twice the bandlimit whose grid the weights belong to.

    Args:
        signal: axes (*batch, lat, lon, channel) or (*batch, beta, alpha, gamma, channel).
        weights: of the parallels, up to a common factor.
        space: which of the two.

    Raises:
        ConfigError: an unknown space.
        InputError: the grid has another number of parallels than there are weights.
    """
    axes = _num_axes(space)
    if signal.ndim < axes + 1 or signal.shape[-axes - 1] != len(weights):
        raise InputError(
            f"a signal on {space} has {axes} grid axes before its channels, the first of them as long as the "
            f"{len(weights)} weights, got shape {signal.shape}"
        )
    rings = signal.mean(tuple(range(-axes, -1)))
    return einsum("...bc,b->...c", rings, (weights / weights.sum()).astype(signal.dtype))


def _num_axes(space: Space) -> int:
    check_one_of("space", space, Space)
    return _NUM_AXES[space]


def _mean(signal: Array, weights: Array, space: Space) -> Array:
    return signal[..., 0, :] if space == "so3_spectrum" else channel_means(signal, weights, space)


def _mean_square(signal: Array, weights: Array, space: Space) -> Array:
    if space == "so3_spectrum":
        return einsum("...ck,c->...k", signal**2, weights)
    return channel_means(signal**2, weights, space)


def _plus(signal: Array, constant: Array, space: Space) -> Array:
    if space == "so3_spectrum":
        return signal.at[..., 0, :].add(jnp.broadcast_to(constant, signal[..., 0, :].shape))
    return signal + constant[(None,) * (signal.ndim - 1)]


class SphericalBatchNorm(nn.Module):
    """Batch norm whose statistics are integrals over batch and space, one pair for each channel.

    A rotation of the signal changes neither integral, so that the layer commutes with rotations to the accuracy of the
    quadrature (an unweighted mean over the grid, which is denser at the poles, does not). Parameters `scale` and
    `bias`, (channel,); collection `batch_stats` with the running `mean` and `var`, (channel,), as in Flax.
    """

    space: Space
    momentum: float = 0.9
    """share of the running statistics that an update keeps"""
    epsilon: float = 1e-5
    """added to the variance"""

    @nn.compact
    def __call__(
        self, signal: Float[Array, "..."], weights: Float[Array, " weight"], *, use_running_average: bool
    ) -> Float[Array, "..."]:
        """Normalise, scale and shift every channel.

        Args:
            signal: axes as its space has them.
            weights: of the parallels in the quadrature, up to a common factor; of a spectrum 2l + 1 of each coefficient
                (`SO3Transform.dimensions`).
            use_running_average: take the running statistics (prediction) instead of the batch's (training).
        """
        channels = signal.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, signal.dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, signal.dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, signal.dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, signal.dtype)
        if use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            examples = tuple(range(signal.ndim - 1 - _num_axes(self.space)))
            mean = _mean(signal, weights, self.space).mean(examples)
            var = _mean_square(_plus(signal, -mean, self.space), weights, self.space).mean(examples)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        factor = scale / jnp.sqrt(var + self.epsilon)
        return _plus(signal * factor[(None,) * (signal.ndim - 1)], bias - mean * factor, self.space)


class ChannelDropout(nn.Module):
    """Whole channels of each example are dropped (set to zero) or scaled up by 1 / (1 - rate); rng `dropout`.

    A point-wise mask would break equivariance; one that is constant over the space commutes with rotations.
    """

    space: Space
    rate: float

    @nn.compact
    def __call__(self, signal: Float[Array, "..."], *, deterministic: bool) -> Float[Array, "..."]:
        """Drop, or return the signal as it is where `deterministic`."""
        grid_axes = tuple(range(-1 - _num_axes(self.space), -1))
        broadcast = tuple(signal.ndim + axis for axis in grid_axes)
        return nn.Dropout(self.rate, broadcast_dims=broadcast)(signal, deterministic=deterministic)
