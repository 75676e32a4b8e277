"""The small convolutional network for street-view house numbers that runs in microseconds on an FPGA.

Three blocks of a 3 x 3 convolution without padding, batch normalisation, rectifier and 2 x 2 maximum, then two dense
layers with batch normalisation and rectifier, and a dense layer to the logits. Layers that a norm follows have no bias.

A network is trained with batch norms (`norm="batch"`); for hardware they become a scale and an offset for each channel
(`norm="affine"`) or part of the layer before, which then has a bias (`norm="folded"`):
`jaxgeo.training.batch_norm_folding` makes the parameters of one form from those of another.

References:
    Aarrestad et al., "Fast convolutional neural networks on FPGAs with hls4ml", arXiv:2101.05108, section 3.
    Ioffe and Szegedy, "Batch Normalization", arXiv:1502.03167.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError, check_fields
from jaxgeo.layers.feature_groups import FeatureGroup
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.learned_precision import Granularity, MatrixLayer, Rounding, VariableBits, rounded
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.layers.normalization import ChannelAffine
from jaxgeo.layers.plane_convolution import convolve
from jaxgeo.layers.plane_pooling import POOL, max_pool

Norm = Literal["batch", "affine", "folded"]


@dataclasses.dataclass(frozen=True)
class SvhnPrecision:
    """Fixed-point formats: of the input, and of each layer in order (convolutions, dense layers, head).

    The result of a layer is what comes after its norm. Where the norm is a batch norm, whose arithmetic stays in
    floating point, `bias` is that of no array; where it is an affine map, `bias` is the format of its offset.
    """

    input: FixedPoint
    layers: tuple[LinearPrecision, ...]
    scales: tuple[FixedPoint, ...] = ()
    """of the affine norms, one for each layer but the head"""


@dataclasses.dataclass(frozen=True)
class SvhnCnnConfig:
    """Sizes, form of the norm and precision.

    The defaults are the published network: 13,886 parameters, and 324 running statistics.

    Raises:
        ConfigError: a number below 1, an image too small for the convolutions, lists that do not match.
    """

    size: int = 32
    """rows = columns of the images"""
    channels: int = 3
    num_classes: int = 10
    filters: tuple[int, ...] = (16, 16, 24)
    units: tuple[int, ...] = (42, 64)
    kernel_size: int = 3
    norm: Norm = "batch"
    momentum: float = 0.9
    """share of the running statistics that a training step leaves"""
    epsilon: float = 1e-3
    """added to variances"""
    precision: SvhnPrecision | VariableBits | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, channels=1, num_classes=1, kernel_size=1, size=1, filters=1, units=1)
        if not self.filters:
            raise ConfigError("filters are features of each convolution, at least one, got none")
        if min(self.sizes) < 1:
            raise ConfigError(
                f"{len(self.filters)} convolutions of {self.kernel_size} x {self.kernel_size} with maxima over 2 x 2 "
                f"leave nothing of images of {self.size} rows (sizes {self.sizes}); take larger images or fewer filters"
            )
        if not 0 <= self.momentum < 1 or not self.epsilon > 0:
            raise ConfigError(
                f"a batch norm needs a momentum in [0, 1) and a positive epsilon, got {self.momentum} and "
                f"{self.epsilon}"
            )
        if isinstance(self.precision, SvhnPrecision):
            layers, scales = len(self.precision.layers), len(self.precision.scales)
            if layers != len(self.names):
                raise ConfigError(f"{len(self.names)} layers need as many precisions, got {layers}")
            if scales != (layers - 1 if self.norm == "affine" else 0):
                raise ConfigError(
                    f"norm {self.norm!r} needs formats of {layers - 1 if self.norm == 'affine' else 'no'} scales, one "
                    f"for each layer but the head where norms are affine maps, got {scales}"
                )
        if isinstance(self.precision, VariableBits) and self.norm == "affine":
            raise ConfigError(
                "variable bits are of kernels, biases and results, not of the scales of affine norms; take norm "
                "'folded' or 'batch'"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the layers with kernels, in order."""
        convolutions = (f"conv_{i}" for i in range(len(self.filters)))
        return (*convolutions, *(f"dense_{i}" for i in range(len(self.units))), "head")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows (= columns) of the input and after each block."""
        sizes = [self.size]
        for _ in self.filters:
            sizes.append((sizes[-1] - self.kernel_size + 1) // POOL)
        return tuple(sizes)

    @property
    def feature_groups(self) -> tuple[FeatureGroup, ...]:
        """The results of each hidden layer, which the next one reads."""
        pairs = zip(self.names[:-1], self.names[1:], strict=True)
        return tuple(FeatureGroup(name, (name,), (following,)) for name, following in pairs)

    @property
    def feature_counts(self) -> dict[str, int]:
        """Filters and units by the name of a layer."""
        return dict(zip(self.names[:-1], (*self.filters, *self.units), strict=True))

    def with_features(self, counts: Mapping[str, int]) -> "SvhnCnnConfig":
        """The config of as many filters and units as given by the names of the hidden layers."""
        features = tuple(counts[name] for name in self.names[:-1])
        split = len(self.filters)
        return dataclasses.replace(self, filters=features[:split], units=features[split:])

    @property
    def matrix_layers(self) -> tuple[MatrixLayer, ...]:
        """The layers as costs count them."""
        features = (*self.filters, *self.units, self.num_classes)
        flat = self.sizes[-1] ** 2 * self.filters[-1]
        fan_in = [self.kernel_size**2 * channels for channels in (self.channels, *self.filters[:-1])]
        fan_in += [flat, *self.units]
        pixels = [(size - self.kernel_size + 1) ** 2 for size in self.sizes[:-1]] + [1] * (len(self.units) + 1)
        sources = ("input", *self.names[:-1])
        return tuple(map(MatrixLayer, self.names, sources, pixels, fan_in, features))


def _formats(config: SvhnCnnConfig) -> list[tuple[Rounding, Rounding, Rounding]]:
    """Of kernel, bias and result of each layer."""
    precision = config.precision
    if isinstance(precision, SvhnPrecision):
        return [(layer.weight, layer.bias, layer.result) for layer in precision.layers]
    if isinstance(precision, VariableBits):
        return [(precision.weight, precision.bias, precision.activation)] * len(config.names)
    return [(None, None, None)] * len(config.names)


class KernelLayer(nn.Module):
    """A dense layer, or a convolution without padding, its kernel and bias rounded where formats are given.

    Parameters: `kernel` (in, out) or (row, column, in, out), and `bias` (out,) where there is one.
    """

    features: int
    kernel_size: int | None = None  # None: a dense layer
    use_bias: bool = False
    weight: Rounding = None
    bias: Rounding = None
    granularity: Granularity = "layer"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*new_batch {self.features}"]:
        """The sums, not rounded."""
        window = () if self.kernel_size is None else (self.kernel_size, self.kernel_size)
        kernel = self.param("kernel", nn.initializers.he_normal(), (*window, x.shape[-1], self.features), jnp.float32)
        kernel = rounded("kernel_bits", kernel, self.weight, granularity=self.granularity)
        x, kernel = promote_dtype(x, kernel)
        if self.kernel_size is None:
            y = x @ kernel
        else:
            images = x.reshape(-1, *x.shape[-3:])
            y = convolve(images, kernel, padding="VALID")
            y = y.reshape(*x.shape[:-3], *y.shape[1:])
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        bias = rounded("bias_bits", bias, self.bias).astype(y.dtype)
        return y + bias[(None,) * (y.ndim - 1)]


class SvhnCnn(nn.Module):
    """Logits of small images, channels last.

    Collections: `params`; `batch_stats` with `norm="batch"`; `precision` with `VariableBits`. In training,
    `logits, changed = model.apply(variables, x, train=True, mutable=["batch_stats"])`.
    """

    config: SvhnCnnConfig = SvhnCnnConfig()

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch row column channel"], *, train: bool = False
    ) -> Float[Array, "*batch cls"]:
        """Logits (before the softmax).

        Args:
            x: images of the configured size; with a precision they are rounded to its input format first.
            train: batch norms take (and update) the batch's own statistics.

        Raises:
            InputError: not images of the configured size and channels.
        """
        config = self.config
        if x.shape[-3:] != (config.size, config.size, config.channels):
            raise InputError(
                f"the network is configured for images of shape (..., {config.size}, {config.size}, "
                f"{config.channels}), channels last, got {x.shape}"
            )
        precision = config.precision
        variable = isinstance(precision, VariableBits)
        if precision is not None:
            x = rounded("input_bits", x, precision.input, signed=variable and precision.signed_input)
        features = (*config.filters, *config.units, config.num_classes)
        for i, (name, width, format) in enumerate(zip(config.names, features, _formats(config), strict=True)):
            last, convolution = name == "head", i < len(config.filters)
            if i == len(config.filters):
                x = x.reshape(*x.shape[:-3], math.prod(x.shape[-3:]))
            x = KernelLayer(
                width, config.kernel_size if convolution else None, last or config.norm == "folded", format[0],
                format[1], precision.granularity if variable else "layer", name=name,
            )(x)  # fmt: skip
            if not last and config.norm == "batch":
                x = nn.BatchNorm(
                    use_running_average=not train, momentum=config.momentum, epsilon=config.epsilon,
                    name=f"{name}_norm",
                )(x)  # fmt: skip
            if not last and config.norm == "affine":
                # Its result's format is that of the layer.
                own = None
                if isinstance(precision, SvhnPrecision):
                    own = LinearPrecision(precision.scales[i], precision.layers[i].bias, precision.layers[i].result)
                x = ChannelAffine(own, name=f"{name}_norm")(x)
            else:
                x = rounded(f"{name}_result", x, format[2], signed=last)
            if not last:
                x = jax.nn.relu(x)
            if convolution:
                x = max_pool(x)
        return x
