"""What transformers do to each token by itself: affine maps, normalisation, GELU, dropout, stochastic depth.

Written for long sequences of few channels, where memory and its traffic count as much as products: derivatives are made
from inputs, not from what was computed on the way.

References:
    Huang et al., "Deep Networks with Stochastic Depth", arXiv:1603.09382.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.layers.threefry import random_words

_RESOLUTION = 1 << 16  # of probabilities of dropout
_EPSILON = 1e-5


def dropout(key: PRNGKeyArray, rate: float, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Zeros with probability `rate`, and the rest scaled up so that the mean is the input.

    Sixteen random bits decide about an entry, half of what a uniform float32 takes; the scale is that of the
    probability rounded to them.
    """
    dropped = min(round(rate * _RESOLUTION), _RESOLUTION - 1)
    words = random_words(key, (x.size + 1) // 2)
    bits = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: x.size].reshape(x.shape)
    scale = jnp.asarray(_RESOLUTION / (_RESOLUTION - dropped), x.dtype)
    return jnp.where(bits >= jnp.uint16(dropped), x * scale, jnp.zeros((), x.dtype))


class Dense(nn.Module):
    """`y = x W + b` over the last axis, as one product of matrices: parameters `kernel` (in, out) and `bias` (out,)."""

    features: int
    use_bias: bool = True
    dtype: Any = None
    """of the product; None: that of input and parameters"""
    kernel_init: nn.initializers.Initializer = nn.initializers.truncated_normal(0.02)

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch in"], before: Callable[[Array], Array] | None = None
    ) -> Float[Array, "*batch {self.features}"]:
        """Map the last axis of `x`, or of `before(x)`, which is not kept for derivatives but computed anew.

        Args:
            x: rows.
            before: cheap beside the product, without parameters of its own, and with as many channels.
        """
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)

        def product(rows: Array, kernel: Array) -> Array:
            return (rows if before is None else before(rows)) @ kernel

        # With one axis of rows the derivative by the kernel is a product too, and needs no copy of the rows.
        rows = x.reshape(-1, x.shape[-1])
        y = (product if before is None else jax.checkpoint(product, prevent_cse=False))(rows, kernel)
        if bias is not None:
            y = y + bias[None]
        return y.reshape(*x.shape[:-1], self.features)


class LayerNorm(nn.Module):
    """Over the last axis, with biased variance; computed in float32 at least, returned in the input's dtype.

    Parameters: `scale` and `bias`, (channel,).
    """

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channel"]) -> Float[Array, "*batch channel"]:
        """Normalised, scaled and shifted."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return _normalized(x.reshape(-1, x.shape[-1]), scale, bias).reshape(x.shape)


@functools.partial(jax.checkpoint, prevent_cse=False)
def _normalized(
    rows: Float[Array, "row channel"], scale: Float[Array, " channel"], bias: Float[Array, " channel"]
) -> Float[Array, "row channel"]:
    wide = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + _EPSILON) * scale[None] + bias[None]).astype(rows.dtype)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""$x \Phi(x)$ with the distribution function of the normal distribution, not its approximation.

    By erf, a polynomial on every machine; `jax.nn.gelu` takes erfc, which has branches.
    """
    return x * (0.5 * jax.lax.erf(x * math.sqrt(0.5)) + 0.5)


def stochastic_depth(key: PRNGKeyArray, rate: float, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Factors, 0 with probability `rate` and else what makes their mean 1."""
    return jax.random.bernoulli(key, 1.0 - rate, shape) / (1.0 - rate)
