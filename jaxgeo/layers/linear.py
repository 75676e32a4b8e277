"""Affine maps over the last axis, in floating or in fixed point."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.layers.fixed_point import FixedPoint, quantize


@dataclasses.dataclass(frozen=True)
class LinearPrecision:
    """Formats of one affine layer; products and sums in between are exact, as on an accumulator wide enough."""

    weight: FixedPoint
    bias: FixedPoint
    result: FixedPoint


class Dense(nn.Module):
    """`y = x W + b`; with a precision, weights, bias and result are rounded to their formats.

    The parameters are the same in both forms (`kernel` (in, out), `bias` (out,)), so a network trained in
    floating point is fine-tuned in fixed point from the same tree.
    """

    features: int
    precision: LinearPrecision | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch {self.features}"]:
        """Map the last axis of `x`; computed in the dtype of `x`."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
        if self.precision is None:
            return x @ kernel + bias[(None,) * (x.ndim - 1)]
        y = x @ quantize(kernel, self.precision.weight) + quantize(bias, self.precision.bias)[(None,) * (x.ndim - 1)]
        return quantize(y, self.precision.result)
