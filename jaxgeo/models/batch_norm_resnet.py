"""Residual networks for small images with batch norms and rectifiers: ResNet-20, 32, 44, 56 and 110 of the paper.

A stem of one 3 x 3 convolution, three stages of n blocks with 16, 32 and 64 filters, the mean over all pixels, and a
dense layer to the logits: 6 n + 2 layers with weights. A block is two 3 x 3 convolutions, each with its batch norm, a
rectifier between them and another behind the sum with the shortcut; the first block of the second and of the third
stage halves the image by strides of 2.

Where the shape changes, the shortcut is a 1 x 1 convolution with a norm (option B of the paper, `projection`), or every
other pixel with zeros for the new channels, half of them before the old ones and half behind (option A, `zeros`, which
the paper's tables are of). The latter is computed as a convolution with ones and zeros, exact in any arithmetic and a
layer that streaming hardware has.

The paper's program pads by one pixel on each side, also at stride 2 (`padding="symmetric"`); Keras and XLA pad an even
image at stride 2 only behind (`padding="same"`).

A network is trained with batch norms (`norm="batch"`); for hardware they become part of the convolutions
(`norm="folded"`): `jaxgeo.training.resnet_precision` folds them and chooses the formats.

References:
    He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2.
    Ioffe and Szegedy, "Batch Normalization", arXiv:1502.03167.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.errors import ConfigError, InputError, check_fields
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.foldable_norm import Norm, check_foldable_norm
from jaxgeo.layers.linear import Dense, LinearPrecision

Shortcut = Literal["projection", "zeros"]
Padding = Literal["symmetric", "same"]
STAGES = 3
_ORDER = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class ResNetPrecision:
    """Fixed-point formats, in the order of `BatchNormResNetConfig.names` and `.blocks`."""

    input: FixedPoint
    convolutions: tuple[LinearPrecision, ...]
    sums: tuple[FixedPoint, ...]
    """of what a block puts out: its sum with the shortcut, rectified"""
    mean: FixedPoint
    """of the mean over the pixels"""
    head: LinearPrecision


@dataclasses.dataclass(frozen=True)
class BatchNormResNetConfig:
    """Sizes, shortcut, padding, form of the norm and precision.

    The defaults are ResNet-20 for CIFAR-10 with projections: 272,474 parameters, of which 2,752 are projections.

    Raises:
        ConfigError: a depth that is not 6 n + 2, a number below 1, an unknown name, a precision with batch norms or for
            another number of layers.
    """

    depth: int = 20
    """layers with weights, projections not counted"""
    filters: int = 16
    """of the first stage; twice and four times as many in the others"""
    size: int = 32
    """rows = columns of the images"""
    channels: int = 3
    num_classes: int = 10
    shortcut: Shortcut = "projection"
    padding: Padding = "symmetric"
    norm: Norm = "batch"
    """batch: trained with statistics; folded: a bias instead, by `jaxgeo.training.batch_norm_folding.fold_norms`"""
    momentum: float = 0.9
    """share of the running statistics that a training step leaves"""
    epsilon: float = 1e-5
    """added to variances"""
    precision: ResNetPrecision | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, filters=1, size=1, channels=1, num_classes=1)
        if self.depth < 8 or (self.depth - 2) % 6:
            near = max(8, 6 * round((self.depth - 2) / 6) + 2)
            raise ConfigError(
                f"depth must be 6 n + 2 with n blocks in each of three stages, got {self.depth}; the nearest is {near}"
            )
        check_foldable_norm(self, num_convolutions=len(self.names), num_sums=len(self.blocks))

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks in order."""
        count = (self.depth - 2) // 6
        return tuple(f"stage_{stage}_block_{block}" for stage in range(STAGES) for block in range(count))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the convolutions in order, those inside a block behind a slash; the head is none of them."""
        names = ["stem"]
        for block in self.blocks:
            names += [f"{block}/layer_0", f"{block}/layer_1"]
            if self.shortcut == "projection" and stride_of(block) > 1:
                names.append(f"{block}/projection")
        return tuple(names)

    def features(self, block: str) -> int:
        """Filters of a block, by its name."""
        return self.filters << _stage_of(block)


def _stage_of(block: str) -> int:
    return int(block.split("_")[1])


def stride_of(block: str) -> int:
    """The stride of the first convolution of a block, by its name: 2 where a stage begins, but the first."""
    return 2 if _stage_of(block) and block.endswith("_block_0") else 1


def widened(
    x: Float[Array, "image row column channel"], features: int
) -> Float[Array, "image half_row half_col {features}"]:
    """Every other pixel, and zeros for the channels that are new: half before the old ones, half (or one more) behind.

    Raises:
        InputError: for fewer features than channels.
    """
    channels = x.shape[-1]
    if features < channels:
        raise InputError(f"a shortcut with zeros keeps its {channels} channels, so it cannot have {features} features")
    kernel = np.eye(channels, features, (features - channels) // 2, np.float32)[None, None]
    return jax.lax.conv_general_dilated(x, jnp.asarray(kernel, x.dtype), (2, 2), "VALID", dimension_numbers=_ORDER)


class Convolution(nn.Module):
    """Convolution `conv` with its batch norm `conv_norm`, or with a bias where norms are folded; no rectifier.

    With a precision its arrays and its result are rounded. Parameters: `conv/kernel` (row, column, in, out), and
    `conv/bias` or the norm's `conv_norm/scale` and `conv_norm/bias`, all (out,).
    """

    config: BatchNormResNetConfig
    layer: str  # its name among `config.names`
    features: int
    kernel_size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "image row column channel"], train: bool = False
    ) -> Float[Array, "image new_row new_col feature"]:
        """Planes of ceil(size / stride) rows and columns."""
        config, formats = self.config, None
        if config.precision is not None:
            formats = config.precision.convolutions[config.names.index(self.layer)]
        folded = config.norm == "folded"
        y = _Sums(self.features, self.kernel_size, self.stride, config.padding, folded, formats, name="conv")(x)
        if folded:
            return y
        return nn.BatchNorm(not train, momentum=config.momentum, epsilon=config.epsilon, name="conv_norm")(y)


class _Sums(nn.Module):
    features: int
    kernel_size: int
    stride: int
    padding: Padding
    use_bias: bool
    precision: LinearPrecision | None

    @nn.compact
    def __call__(self, x: Float[Array, "image row column channel"]) -> Float[Array, "image new_row new_col feature"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32).astype(x.dtype)
        if self.precision is not None:
            kernel = quantize(kernel, self.precision.weight)
        margin = self.kernel_size // 2
        padding = "SAME" if self.padding == "same" else [(margin, margin)] * 2
        y = jax.lax.conv_general_dilated(x, kernel, (self.stride,) * 2, padding, dimension_numbers=_ORDER)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(x.dtype)
            y = y + (bias if self.precision is None else quantize(bias, self.precision.bias))[None, None, None]
        return y if self.precision is None else quantize(y, self.precision.result)


def _rectified(x: Array, format: FixedPoint | None) -> Array:
    """Saturation of an unsigned format at zero is the rectifier."""
    return nn.relu(x) if format is None or format.signed else x


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    config: BatchNormResNetConfig
    layer: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "image row column channel"], train: bool = False
    ) -> Float[Array, "image new_row new_col feature"]:
        """The rectified sum."""
        config, features, stride = self.config, self.config.features(self.layer), stride_of(self.layer)
        names, precision = [f"{self.layer}/layer_{i}" for i in range(2)], config.precision
        y = Convolution(config, names[0], features, stride=stride, name="layer_0")(x, train)
        y = _rectified(y, None if precision is None else precision.convolutions[config.names.index(names[0])].result)
        y = Convolution(config, names[1], features, name="layer_1")(y, train)
        if stride > 1 and config.shortcut == "projection":
            x = Convolution(config, f"{self.layer}/projection", features, 1, stride, name="projection")(x, train)
        elif stride > 1:
            x = widened(x, features)
        y = x + y
        if precision is None:
            return nn.relu(y)
        format = precision.sums[config.blocks.index(self.layer)]
        return _rectified(quantize(y, format), format)


class BatchNormResNet(nn.Module):
    """Logits of small images, channels last.

    Collections: `params`, and `batch_stats` with `norm="batch"`. In training,
    `logits, changed = model.apply(variables, x, train=True, mutable=["batch_stats"])`.
    """

    config: BatchNormResNetConfig = BatchNormResNetConfig()

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch row column channel"], *, train: bool = False
    ) -> Float[Array, "*batch class"]:
        """Logits (before the softmax); with `train` norms take the statistics of the batch, and update their own.

        Raises:
            InputError: not images of the configured size and channels.
        """
        config, precision = self.config, self.config.precision
        wanted = (config.size, config.size, config.channels)
        if x.ndim < 3 or x.shape[-3:] != wanted:
            raise InputError(
                f"the network is configured for images of shape (..., {config.size}, {config.size}, "
                f"{config.channels}), channels last, got {x.shape}"
            )
        batch, x = x.shape[:-3], x.reshape(-1, *wanted)
        if precision is not None:
            x = quantize(x, precision.input)
        x = Convolution(config, "stem", config.filters, name="stem")(x, train)
        x = _rectified(x, None if precision is None else precision.convolutions[0].result)
        for block in config.blocks:
            x = ResidualBlock(config, block, name=block)(x, train)
        x = jnp.mean(x, axis=(1, 2))
        if precision is not None:
            x = quantize(x, precision.mean)
        y = Dense(config.num_classes, None if precision is None else precision.head, name="head")(x)
        return y.reshape(*batch, *y.shape[1:])


def init_batch_norm_resnet(
    key: PRNGKeyArray, config: BatchNormResNetConfig = BatchNormResNetConfig()
) -> dict[str, Any]:
    """Initial variables, distributed as those of `BatchNormResNet(config).init`, without compiling the network.

    Kernels are normal numbers of variance 2 / fan in, cut at two standard deviations; they differ from those of `init`
    with the same key.

    Args:
        key: of the kernels.
        config: of the network.

    Returns:
        `params` and, with batch norms, `batch_stats`.
    """
    image = jax.ShapeDtypeStruct((1, config.size, config.size, config.channels), jnp.float32)
    shapes = jax.eval_shape(BatchNormResNet(config).init, jax.random.key(0), image)
    paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
    ends = np.cumsum([leaf.size if leaf.ndim > 1 else 0 for _, leaf in paths])
    # Such a cut distribution keeps this share of its standard deviation.
    draws = jax.random.truncated_normal(key, -2.0, 2.0, (int(ends[-1]),)) / 0.87962566103423978
    leaves = []
    for (path, leaf), end in zip(paths, ends.tolist(), strict=True):
        if leaf.ndim > 1:
            values = draws[end - leaf.size : end].reshape(leaf.shape)
            leaves.append(values * math.sqrt(2 / math.prod(leaf.shape[:-1])))
        else:
            leaves.append(jnp.full(leaf.shape, 1.0 if path[-1].key in ("scale", "var") else 0.0))
    return jax.tree.unflatten(structure, leaves)
