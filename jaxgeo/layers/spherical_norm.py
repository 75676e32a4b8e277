"""Batch norm and dropout of signals on the sphere and on SO(3) that commute with rotations.

Both treat a channel as one: statistics are integrals over the whole space by its quadrature, and whole channels are
dropped. Signals have axes `(*batch, lat, lon, channel)` or `(*batch, beta, alpha, gamma, channel)`.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.errors import InputError
from jaxgeo.harmonics.precision import einsum

Space = Literal["sphere", "so3"]
_NUM_GRID_AXES = {"sphere": 2, "so3": 3}


def channel_means(
    signal: Float[Array, "..."], weights: Float[Array, " lat"], space: Space
) -> Float[Array, "*batch channel"]:
    """Mean of each example and channel over the sphere (area measure) or SO(3) (Haar measure), by quadrature.

    Exact for signals of degrees below twice the bandlimit whose grid the weights belong to.

    Args:
        signal: axes (*batch, lat, lon, channel) or (*batch, beta, alpha, gamma, channel).
        weights: of the parallels, up to a common factor.
        space: which of the two.

    Raises:
        InputError: the grid has another number of parallels than there are weights.
    """
    axes = _NUM_GRID_AXES[space]
    if signal.ndim < axes + 1 or signal.shape[-axes - 1] != len(weights):
        raise InputError(
            f"a signal on {space} has {axes} grid axes before its channels, the first of them as long as the "
            f"{len(weights)} weights, got shape {signal.shape}"
        )
    rings = signal.mean(tuple(range(-axes, -1)))
    return einsum("...bc,b->...c", rings, (weights / weights.sum()).astype(signal.dtype))


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
        self, signal: Float[Array, "..."], weights: Float[Array, " lat"], *, use_running_average: bool
    ) -> Float[Array, "..."]:
        """Normalise, scale and shift every channel.

        Args:
            signal: axes (*batch, lat, lon, channel) or (*batch, beta, alpha, gamma, channel).
            weights: quadrature weights of the parallels, up to a common factor.
            use_running_average: take the running statistics (prediction) instead of the batch's (training).
        """
        channels = signal.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, signal.dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, signal.dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, signal.dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, signal.dtype)
        each = (None,) * (signal.ndim - 1)
        if use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            examples = tuple(range(signal.ndim - 1 - _NUM_GRID_AXES[self.space]))
            mean = channel_means(signal, weights, self.space).mean(examples)
            var = channel_means((signal - mean[each]) ** 2, weights, self.space).mean(examples)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        factor = scale / jnp.sqrt(var + self.epsilon)
        return signal * factor[each] + (bias - mean * factor)[each]


class ChannelDropout(nn.Module):
    """Whole channels of each example are dropped (set to zero) or scaled up by 1 / (1 - rate); rng `dropout`.

    A point-wise mask would break equivariance; one that is constant over the space commutes with rotations.
    """

    space: Space
    rate: float

    @nn.compact
    def __call__(self, signal: Float[Array, "..."], *, deterministic: bool) -> Float[Array, "..."]:
        """Drop, or return the signal as it is where `deterministic`."""
        grid_axes = tuple(range(-1 - _NUM_GRID_AXES[self.space], -1))
        broadcast = tuple(signal.ndim + axis for axis in grid_axes)
        return nn.Dropout(self.rate, broadcast_dims=broadcast)(signal, deterministic=deterministic)
