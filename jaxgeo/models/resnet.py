"""Residual networks for small images with filter response normalisation: the network of the CIFAR-10 HMC reference.

A layer is convolution, then norm, then activation. The second layer of a block has no activation of its own; it comes
after the shortcut is added. Where the shape changes, the shortcut is a 1 x 1 convolution of stride 2 with a norm.

The published program (`make_resnet20_frn_fn`, with swish in the reference runs) gives every convolution a bias, pads
as XLA's SAME does (at stride 2 on an even size only behind), and its norm has the learned threshold: every swish comes
after a maximum, and so do the second layers of blocks and the projections. That is `norm="tau"`, the default;
`norm="frn"` is the norm without the threshold.

References:
    He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2.
    Izmailov, Vikram, Hoffman, Wilson, "What Are Bayesian Neural Network Posteriors Really Like?", arXiv:2104.14421,
    and its program.
    Singh and Krishnan, "Filter Response Normalization Layer", arXiv:1911.09737.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.errors import ConfigError, InputError, check_fields
from jaxgeo.layers.filter_response_norm import FilterResponseNorm
from jaxgeo.layers.plane_convolution import PlaneConvolution

Activation = Literal["swish", "relu"]
Norm = Literal["frn", "tau"]

STAGES = 3


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Three stages of (depth - 2) / 6 blocks of two layers, their features doubling where the image is halved.

    The defaults are the published ResNet-20-FRN with swish: 274,042 parameters.

    Raises:
        ConfigError: a depth that is not 6 n + 2, a number below 1, an unknown activation or norm.
    """

    depth: int = 20
    """layers with weights, projections not counted"""
    features: int = 16
    """channels of the first stage"""
    num_classes: int = 10
    channels: int = 3
    """of the images"""
    activation: Activation = "swish"
    norm: Norm = "tau"
    """tau: filter response normalisation with its learned threshold, as published; frn: without"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, features=1, num_classes=1, channels=1)
        if self.depth < 8 or (self.depth - 2) % 6:
            near = max(8, 6 * round((self.depth - 2) / 6) + 2)
            raise ConfigError(
                f"depth must be 6 n + 2 with n blocks in each of three stages, got {self.depth}; the nearest is {near}"
            )

    @property
    def blocks(self) -> int:
        """Blocks in each stage."""
        return (self.depth - 2) // 6

    def activate(self, x: Array) -> Array:
        """The activation."""
        return jax.nn.swish(x) if self.activation == "swish" else jax.nn.relu(x)


class ConvolutionNorm(nn.Module):
    """A convolution with bias, padded as XLA's SAME, and its norm; no activation."""

    config: ResNetConfig
    features: int
    kernel_size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "*batch row column channel"]) -> Float[Array, "*batch new_row new_col feature"]:
        """Planes of ceil(size / stride) rows and columns."""
        y = PlaneConvolution(self.features, self.kernel_size, self.stride, name="conv")(x)
        return FilterResponseNorm(self.config.norm == "tau", name="norm")(y)


class ResidualBlock(nn.Module):
    """Two layers of 3 x 3 convolutions beside a shortcut."""

    config: ResNetConfig
    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "*batch row column channel"]) -> Float[Array, "*batch new_row new_col feature"]:
        """The activated sum; the shortcut is projected where the number of channels or the size changes."""
        config = self.config
        y = config.activate(ConvolutionNorm(config, self.features, stride=self.stride, name="layer_0")(x))
        y = ConvolutionNorm(config, self.features, name="layer_1")(y)
        if self.stride > 1 or x.shape[-1] != self.features:
            x = ConvolutionNorm(config, self.features, 1, self.stride, name="projection")(x)
        return config.activate(x + y)


class ResNet(nn.Module):
    """Logits of small images, channels last; the published images are of 32 x 32 pixels.

    Kernels are drawn by He et al.'s rule (variance 2 / fan in, a normal distribution cut at two standard deviations,
    as published), the head included.
    """

    config: ResNetConfig = ResNetConfig()

    @nn.compact
    def __call__(self, x: Float[Array, "*batch row column channel"]) -> Float[Array, "*batch class"]:
        """Logits (before the softmax).

        Raises:
            InputError: not images with the configured number of channels.
        """
        config = self.config
        if x.ndim < 3 or x.shape[-1] != config.channels:
            raise InputError(
                f"the network is configured for images of shape (..., row, column, {config.channels}), channels last, "
                f"got {x.shape}"
            )
        x = config.activate(ConvolutionNorm(config, config.features, name="stem")(x))
        for stage in range(STAGES):
            for block in range(config.blocks):
                stride = 2 if stage and not block else 1
                x = ResidualBlock(config, config.features << stage, stride, name=f"stage_{stage}_block_{block}")(x)
        # At 32 x 32 pixels this is the published 8 x 8 pooling.
        x = jnp.mean(x, axis=(-3, -2))
        return nn.Dense(config.num_classes, kernel_init=nn.initializers.he_normal(), name="head")(x)


def init_resnet(key: PRNGKeyArray, config: ResNetConfig = ResNetConfig()) -> dict[str, Any]:
    """Initial parameters, distributed as those of `ResNet(config).init`, from one vector of random numbers.

    A program draws and compiles them as one array, which for many layers takes a fraction of the time; the numbers
    differ from those of `init` with the same key.

    Args:
        key: of the kernels.
        config: of the network.
    """
    image = jax.ShapeDtypeStruct((1, 4, 4, config.channels), jnp.float32)
    shapes = jax.eval_shape(ResNet(config).init, jax.random.key(0), image)["params"]
    paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
    kernels = sum(math.prod(leaf.shape) for _, leaf in paths if leaf.ndim > 1)
    # A normal distribution cut at two standard deviations keeps this share of its standard deviation.
    draws = jax.random.truncated_normal(key, -2.0, 2.0, (kernels,)) / 0.87962566103423978
    leaves, start = [], 0
    for path, leaf in paths:
        if leaf.ndim > 1:
            size = math.prod(leaf.shape)
            kernel = draws[start : start + size].reshape(leaf.shape)
            leaves.append(math.sqrt(2 / math.prod(leaf.shape[:-1])) * kernel)
            start += size
        else:
            leaves.append(jnp.ones(leaf.shape) if path[-1].key == "scale" else jnp.zeros(leaf.shape))
    return jax.tree.unflatten(structure, leaves)
