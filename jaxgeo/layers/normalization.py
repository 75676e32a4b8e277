"""Normalisation at inference as what hardware makes of it: a scale and an offset for each channel."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from jaxgeo.errors import InputError
from jaxgeo.layers.fixed_point import quantize
from jaxgeo.layers.linear import LinearPrecision


class ChannelAffine(nn.Module):
    """`y = x * scale + offset` over the last axis; with a precision, scale, offset and result are rounded.

    The layer to which a trained batch norm is folded before fine-tuning in fixed point, see `fold_batch_norm`.
    Parameters: `scale` and `offset`, both (channel,). `precision.weight` is the format of the scale.
    """

    precision: LinearPrecision | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channel"]) -> Float[Array, "*batch channel"]:
        """Scale and shift each channel; computed in the dtype of `x`."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32).astype(x.dtype)
        offset = self.param("offset", nn.initializers.zeros, (x.shape[-1],), jnp.float32).astype(x.dtype)
        each = (None,) * (x.ndim - 1)
        if self.precision is None:
            return x * scale[each] + offset[each]
        y = x * quantize(scale, self.precision.weight)[each] + quantize(offset, self.precision.bias)[each]
        return quantize(y, self.precision.result)


def fold_batch_norm(
    params: Mapping[str, ArrayLike], batch_stats: Mapping[str, ArrayLike], epsilon: float = 1e-5
) -> dict[str, Float[np.ndarray, " channel"]]:
    r"""Parameters of the `ChannelAffine` that a `flax.linen.BatchNorm` is at inference, computed in float64.

    $s = \gamma / \sqrt{\sigma^2 + \epsilon}$ and $o = \beta - \mu s$.

    Args:
        params: `scale` and `bias` of the batch norm, (channel,); either may be missing (`use_scale=False`).
        batch_stats: its running `mean` and `var`, (channel,).
        epsilon: as the batch norm was built with.

    Returns:
        `scale` and `offset`, float32.

    Raises:
        InputError: the statistics are missing or a variance is negative.
    """
    if not {"mean", "var"} <= set(batch_stats):
        raise InputError(f"a batch norm's statistics are mean and var, got {sorted(batch_stats)}")
    mean, var = (np.asarray(batch_stats[key], np.float64) for key in ("mean", "var"))
    if not (var + epsilon > 0).all():
        raise InputError(f"a variance plus epsilon must be positive, got a variance of {var.min():g}")
    scale = np.asarray(params.get("scale", 1.0), np.float64) / np.sqrt(var + epsilon)
    offset = np.asarray(params.get("bias", 0.0), np.float64) - mean * scale
    return {"scale": scale.astype(np.float32), "offset": offset.astype(np.float32)}
