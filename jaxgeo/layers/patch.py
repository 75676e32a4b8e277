"""Convolution and pooling over blocks of neighbouring HEALPix pixels.

In NESTED order the 4^k descendants of a coarse pixel are consecutive, so a block is a reshape: a stream of
words in hardware, one matrix product on a CPU, and under `vmap` over members a batched product instead of a
grouped convolution.
"""

from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.linear import Dense, LinearPrecision


class PatchConv(nn.Module):
    """1-D convolution with kernel = stride = `patch` on NESTED pixels, a power of four.

    Parameters under `dense`: `kernel` (patch * channel, features), offset slowest, and `bias` (features,).
    """

    features: int
    patch: int = 4
    precision: LinearPrecision | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch pixel channel"]) -> Float[Array, "*batch coarse {self.features}"]:
        """Features of the coarse pixels, in NESTED order.

        Raises:
            ConfigError: `patch` is not a power of four.
            InputError: the pixels do not fill whole patches.
        """
        pixels, channels = x.shape[-2:]
        if self.patch < 1 or self.patch & (self.patch - 1) or self.patch.bit_length() % 2 == 0:
            raise ConfigError(f"patch must be a power of four so that a block is a HEALPix pixel, got {self.patch}")
        if pixels % self.patch:
            raise InputError(
                f"{pixels} pixels cannot be cut into patches of {self.patch}; "
                f"a full map has 12 nside^2 pixels, so the product of all patches must divide nside^2"
            )
        blocks = x.reshape(*x.shape[:-2], pixels // self.patch, self.patch * channels)
        return Dense(self.features, self.precision, name="dense")(blocks)
