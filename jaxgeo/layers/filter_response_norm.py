"""Filter response normalisation: each channel of each image over its own root mean square, without batch statistics."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError


class FilterResponseNorm(nn.Module):
    r"""`y = scale * x / sqrt(nu2 + epsilon) + bias`, then `max(y, threshold)` where that is asked for.

    $\nu^2$ is the mean of $x^2$ over the plane (rows and columns) of one channel of one image; nothing is centred and
    images do not see each other, so the network stays a pure function of its parameters. Parameters are `scale`
    (ones), `bias` (zeros) and, with `threshold`, `threshold` (zeros), each (channel,), in float32: gamma, beta and
    tau of the paper, whose thresholded linear unit is the maximum.

    Raises:
        ConfigError: epsilon is not positive.
        InputError: no axes (row, column, channel), or a plane without pixels.

    References:
        Singh and Krishnan, "Filter Response Normalization Layer", arXiv:1911.09737, equations (1) to (3).
    """

    threshold: bool = True
    """whether the learned threshold is a part of the layer"""
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*batch row column channel"]) -> Float[Array, "*batch row column channel"]:
        """The normalised planes, in the dtype of `x`."""
        if not self.epsilon > 0:
            raise ConfigError(
                f"epsilon keeps a plane of zeros from being divided by zero, so it must be positive, got {self.epsilon}"
            )
        if x.ndim < 3 or 0 in x.shape[-3:]:
            raise InputError(
                f"filter response normalisation is over planes of axes (..., row, column, channel) with at least one "
                f"pixel, got shape {x.shape}"
            )
        each = (None,) * (x.ndim - 1)
        mean_square = jnp.mean(jnp.square(x), axis=(-3, -2), keepdims=True)
        y = self._channels("scale", nn.initializers.ones, x)[each] * (x * jax.lax.rsqrt(mean_square + self.epsilon))
        y = y + self._channels("bias", nn.initializers.zeros, x)[each]
        return jnp.maximum(y, self._channels("threshold", nn.initializers.zeros, x)[each]) if self.threshold else y

    def _channels(self, name: str, init: nn.initializers.Initializer, x: Array) -> Float[Array, " channel"]:
        return self.param(name, init, (x.shape[-1],), jnp.float32).astype(x.dtype)
