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
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxgeo.layers.threefry import random_words

_RESOLUTION = 1 << 16  # of probabilities of dropout
_EPSILON = 1e-5
_UNROLLED = 2  # parts in one turn of a loop without derivatives


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


def in_parts(
    module: nn.Module, function: Callable[..., Array], parts: PyTree, shared: PyTree = None
) -> Float[Array, "part *shape"]:
    """`function(module, part, shared)` for one part after the other, each made anew for derivatives.

    Parts are small enough that what arises between their input and their result stays in a processor's cache. Without
    derivatives and dropout, results that have the form of the first array's parts take their place, so that memory
    holds only one of both.

    Args:
        module: whose parameters the function uses: its call, or submodules that are set up, not compact.
        function: without arrays of its own; parts have their own masks of dropout.
        parts: arrays with the parts on their first axis.
        shared: what all parts see.
    """
    leaves, structure = jax.tree.flatten(parts)
    if module.is_initializing():
        function(module, structure.unflatten([leaf[0] for leaf in leaves]), shared)
    unbound, variables = module.unbind()

    def one(seen: tuple, leaves: list[Array], key: PRNGKeyArray | None = None) -> Any:
        variables, shared = seen
        rngs = None if key is None else {"dropout": key}
        return unbound.apply(variables, structure.unflatten(leaves), shared, method=function, rngs=rngs)

    def beside(seen: tuple, leaves: list[Array], keys: Array | None = None) -> Array:
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def step(carry: None, each: tuple) -> tuple[None, Array]:
            return carry, one(seen, *each)

        return jax.lax.scan(step, None, (leaves, keys))[1]

    seen = variables, shared
    if module.has_rng("dropout"):
        return beside(seen, leaves, jax.random.split(module.make_rng("dropout"), len(leaves[0])))
    part = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves]
    result = jax.eval_shape(one, seen, part)
    if not len(leaves[0]) or (result.shape, result.dtype) != (part[0].shape, part[0].dtype):
        return beside(seen, leaves)

    @jax.custom_jvp
    def in_place(seen: tuple, leaves: list[Array]) -> Array:
        def step(i: Array, first: Array) -> Array:
            some = [jax.lax.dynamic_slice_in_dim(leaf, i * group, group) for leaf in (first, *leaves[1:])]
            results = jnp.stack([one(seen, [leaf[k] for leaf in some]) for k in range(group)])
            return jax.lax.dynamic_update_slice_in_dim(first, results, i * group, 0)

        # Several parts in one turn do not wait for each other.
        group = math.gcd(len(leaves[0]), _UNROLLED)
        return jax.lax.fori_loop(0, len(leaves[0]) // group, step, leaves[0])

    in_place.defjvp(lambda primals, tangents: jax.jvp(beside, primals, tangents))
    return in_place(seen, leaves)


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
