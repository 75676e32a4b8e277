r"""ENet compressed for an FPGA: segmentation of small camera pictures by bottlenecks, pooling and upsampling.

An initial convolution and a maximum halve the picture. Each stage of the encoder halves it again by a maximum and goes
on with bottlenecks: a 1 x 1 convolution to fewer channels, a 3 x 3 convolution, a 1 x 1 convolution back, each with
batch norm, the first two with a rectifier, then the skip is added and rectified. Each stage of the decoder doubles the
picture (nearest pixel, or a transposed convolution) and goes on with bottlenecks too; the head doubles it once more and
maps to the classes by a 3 x 3 convolution. Asymmetric and dilated convolutions, unpooling by remembered places, and
dropout, which ENet has, are left out: what remains are layers that stream through hls4ml.

What is given here with the paper is the input (152 rows, 240 columns, RGB), the four classes (background, road, car,
person), one number of filters for the whole network (4, 8 or 16 in the explored designs), weights of 8 and 4 bits, and
heterogeneous bits. The following is chosen here, and in the config: three halvings, which is as often as 152 and 240
divide, two bottlenecks in each encoder stage and one in each decoder stage, half the filters inside a bottleneck, and
the 3 x 3 head at full size, as ENet ends with a full convolution. The formats come from calibration; heterogeneous bits
are the published ones or come from measured sensitivities (`jaxgeo.training.enet_precision`).

References:
    Ghielmetti et al., "Real-time semantic segmentation on FPGAs for autonomous vehicles with hls4ml", arXiv:2205.07690.
    Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation", arXiv:1606.02147.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.errors import ConfigError, InputError, check_fields
from jaxgeo.layers.feature_groups import FeatureGroup
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.foldable_norm import Norm, check_foldable_norm
from jaxgeo.layers.learned_precision import MatrixLayer
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.layers.plane_convolution import convolve
from jaxgeo.layers.plane_pooling import max_pool

Upsampling = Literal["nearest", "transposed"]
_ORDER = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class ENetPrecision:
    """Fixed-point formats: of the pictures, of each convolution in the order of `ENetConfig.names`, of each sum."""

    input: FixedPoint
    convolutions: tuple[LinearPrecision, ...]
    sums: tuple[FixedPoint, ...]
    """of a bottleneck's sum with its skip, in the order of `ENetConfig.bottlenecks`"""


@dataclasses.dataclass(frozen=True)
class ENetConfig:
    """Sizes, form of the norm and precision.

    Raises:
        ConfigError: a number below 1, a picture that cannot be halved so often, an unknown name, a precision with batch
            norms or for another number of layers.
    """

    rows: int = 152
    columns: int = 240
    channels: int = 3
    num_classes: int = 4
    filters: int = 16
    """channels between blocks; 4, 8 and 16 in the published designs"""
    compression: int = 2
    """filters are divided by this inside a bottleneck"""
    inner: tuple[int, ...] = ()
    """channels inside each bottleneck, in the order of `bottlenecks`; empty: filters // compression in all"""
    encoder: tuple[int, ...] = (2, 2)
    """bottlenecks of each stage, which begins by halving the picture"""
    decoder: tuple[int, ...] = (1, 1)
    """bottlenecks of each stage, which begins by doubling the picture"""
    upsampling: Upsampling = "nearest"
    norm: Norm = "batch"
    """batch: trained with statistics; folded: a bias instead, by `jaxgeo.training.batch_norm_folding.fold_norms`"""
    momentum: float = 0.9
    """share of the running statistics that a training step leaves"""
    epsilon: float = 1e-3
    """added to variances"""
    precision: ENetPrecision | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(
            self, rows=1, columns=1, channels=1, num_classes=1, filters=1, compression=1, inner=1, encoder=1, decoder=1
        )
        if len(self.encoder) != len(self.decoder):
            raise ConfigError(
                f"the decoder doubles the picture as often as the encoder halves it, got {self.encoder} and "
                f"{self.decoder}"
            )
        step = 2 ** (len(self.encoder) + 1)
        if self.rows % step or self.columns % step:
            near = [max(size // step, 1) * step for size in (self.rows, self.columns)]
            raise ConfigError(
                f"a picture that is halved {len(self.encoder) + 1} times needs rows and columns divisible by {step}, "
                f"got {self.rows} x {self.columns}; {near[0]} x {near[1]} would do"
            )
        if self.filters < self.compression:
            raise ConfigError(f"{self.filters} filters cannot be compressed {self.compression} times")
        if self.inner and len(self.inner) != len(self.bottlenecks):
            raise ConfigError(
                f"channels inside of {len(self.bottlenecks)} bottlenecks are as many numbers, or none for "
                f"filters // compression, got {self.inner}"
            )
        check_foldable_norm(self, num_convolutions=len(self.names), num_sums=len(self.bottlenecks))

    @property
    def bottlenecks(self) -> tuple[str, ...]:
        """Names of the bottlenecks in order."""
        parts = (("encoder", self.encoder), ("decoder", self.decoder))
        return tuple(
            f"{part}_{stage}_{block}"
            for part, counts in parts
            for stage, count in enumerate(counts)
            for block in range(count)
        )

    @property
    def widths(self) -> dict[str, int]:
        """Channels inside each bottleneck by its name."""
        same = (self.filters // self.compression,) * len(self.bottlenecks)
        return dict(zip(self.bottlenecks, self.inner or same, strict=True))

    @property
    def feature_counts(self) -> dict[str, int]:
        """Channels between blocks (`filters`), and inside each bottleneck by its name."""
        return {"filters": self.filters, **self.widths}

    @property
    def feature_groups(self) -> tuple[FeatureGroup, ...]:
        """The channels that skips carry on, so that blocks share them, and those inside each bottleneck.

        A transposed convolution begins channels of its own, as many as before.
        """
        writers, readers = [["initial/conv"]], [[]]
        for name in self.names[1:]:
            if name.startswith("up_"):
                readers[-1].append(f"{name}/conv")
                writers.append([f"{name}/conv"])
                readers.append([])
            elif name.endswith("/expand"):
                writers[-1].append(f"{name}/conv")
            elif name.endswith("/project") or name == "head":
                readers[-1].append(f"{name}/conv")
        groups = [FeatureGroup("filters", tuple(a), tuple(b)) for a, b in zip(writers, readers, strict=True)]
        for name in self.bottlenecks:
            parts = [f"{name}/{part}/conv" for part in ("project", "convolve", "expand")]
            groups += [FeatureGroup(name, (one,), (other,)) for one, other in itertools.pairwise(parts)]
        return tuple(groups)

    @property
    def matrix_layers(self) -> tuple[MatrixLayer, ...]:
        """The convolutions as costs count them; a source is `input`, a convolution or the sum of a bottleneck."""
        result, trunk, pixels = [], "initial", self.rows * self.columns
        pixels_of = {"encoder": pixels // 4, "decoder": pixels // 4 ** (len(self.encoder) + 1)}
        for name in self.names:
            block, _, part = name.partition("/")
            kind, stage = (*block.split("_"), "")[:2]
            if name == "initial":
                result.append(MatrixLayer(name, "input", pixels, 9 * self.channels, self.filters))
            elif name == "head":
                result.append(MatrixLayer(name, trunk, pixels, 9 * self.filters, self.num_classes))
            elif kind == "up":
                positions = pixels_of["decoder"] * 4 ** (int(stage) + 1)
                result.append(MatrixLayer(name, trunk, positions, 9 * self.filters, self.filters))
                trunk = name
            else:
                steps, inner = int(stage) + 1, self.widths[block]
                positions = pixels_of[kind] // 4**steps if kind == "encoder" else pixels_of[kind] * 4**steps
                source, fan_in, features = {
                    "project": (trunk, self.filters, inner),
                    "convolve": (f"{block}/project", 9 * inner, inner),
                    "expand": (f"{block}/convolve", inner, self.filters),
                }[part]
                result.append(MatrixLayer(name, source, positions, fan_in, features))
                trunk = block if part == "expand" else trunk
        return tuple(result)

    def with_features(self, counts: Mapping[str, int]) -> "ENetConfig":
        """The config of as many channels as given by the names of `feature_counts`."""
        inner = tuple(counts[name] for name in self.bottlenecks)
        plain = set(inner) == {counts["filters"] // self.compression}
        return dataclasses.replace(self, filters=counts["filters"], inner=() if plain else inner)

    def proportional(self, filters: int) -> dict[str, int]:
        """Counts for `with_features` of a network of so many filters whose bottlenecks are compressed as by default.

        Raises:
            ConfigError: filters that `compression` does not divide.
        """
        if filters % self.compression or filters < 1:
            raise ConfigError(
                f"bottlenecks have filters / {self.compression} channels inside, so filters must be divisible by "
                f"{self.compression}, got {filters}; or give the channels of each bottleneck"
            )
        return {"filters": filters, **dict.fromkeys(self.bottlenecks, filters // self.compression)}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the convolutions in order, those inside a bottleneck behind a slash."""
        names = ["initial"]
        for bottleneck in self.bottlenecks:
            if self.upsampling == "transposed" and bottleneck.startswith("decoder") and bottleneck.endswith("_0"):
                names.append(f"up_{bottleneck.split('_')[1]}")
            names += [f"{bottleneck}/{part}" for part in ("project", "convolve", "expand")]
        return (*names, "head")


class Convolution(nn.Module):
    """A convolution, its arrays and result rounded where formats are given; a transposed one doubles the picture.

    Parameters: `kernel` (row, column, in, out) and, unless a norm follows, `bias` (out,).
    """

    features: int
    kernel_size: int = 3
    transposed: bool = False
    use_bias: bool = True
    precision: LinearPrecision | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "image row column channel"]) -> Float[Array, "image new_row new_col feature"]:
        """Planes of the same size, or of twice the rows and columns."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32).astype(x.dtype)
        if self.precision is not None:
            kernel = quantize(kernel, self.precision.weight)
        if self.transposed:
            y = jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=_ORDER)
        else:
            y = convolve(x, kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(x.dtype)
            y = y + (bias if self.precision is None else quantize(bias, self.precision.bias))[None, None, None]
        return y if self.precision is None else quantize(y, self.precision.result)


class Block(nn.Module):
    """Convolution `conv`, batch norm `conv_norm` where there is one, and rectifier where there is one."""

    config: ENetConfig
    layer: str  # its name among `config.names`
    features: int
    kernel_size: int = 3
    rectified: bool = True
    transposed: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "image row column channel"], train: bool = False
    ) -> Float[Array, "image new_row new_col feature"]:
        """Planes of the same size, or of twice the rows and columns."""
        config = self.config
        normed = config.norm == "batch" and self.layer != "head"
        formats = None
        if config.precision is not None:
            formats = config.precision.convolutions[config.names.index(self.layer)]
        y = Convolution(self.features, self.kernel_size, self.transposed, not normed, formats, name="conv")(x)
        if normed:
            y = nn.BatchNorm(not train, momentum=config.momentum, epsilon=config.epsilon, name="conv_norm")(y)
        # Saturation of an unsigned format at zero is the rectifier.
        return nn.relu(y) if self.rectified and (formats is None or formats.result.signed) else y


class Bottleneck(nn.Module):
    """Three convolutions beside a skip; channels and size stay."""

    config: ENetConfig
    layer: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "image row column channel"], train: bool = False
    ) -> Float[Array, "image row column channel"]:
        """The rectified sum."""
        config, inner = self.config, self.config.widths[self.layer]
        y = Block(config, f"{self.layer}/project", inner, 1, name="project")(x, train)
        y = Block(config, f"{self.layer}/convolve", inner, name="convolve")(y, train)
        y = Block(config, f"{self.layer}/expand", config.filters, 1, False, name="expand")(y, train)
        y = x + y
        if config.precision is None:
            return nn.relu(y)
        format = config.precision.sums[config.bottlenecks.index(self.layer)]
        y = quantize(y, format)
        return nn.relu(y) if format.signed else y


class ENet(nn.Module):
    """Logits of every pixel, at the size of the picture; pictures of values from 0 to below 1, channels last."""

    config: ENetConfig = ENetConfig()

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch row column channel"], *, train: bool = False
    ) -> Float[Array, "*batch row column class"]:
        """Logits (before the softmax); with `train` norms take the statistics of the batch, and update their own.

        Raises:
            InputError: not pictures of the configured size.
        """
        config = self.config
        wanted = (config.rows, config.columns, config.channels)
        if x.ndim < 3 or x.shape[-3:] != wanted:
            raise InputError(
                f"the network is configured for pictures of shape (..., {wanted[0]}, {wanted[1]}, {wanted[2]}), "
                f"channels last, got {x.shape}"
            )
        batch, x = x.shape[:-3], x.reshape(-1, *wanted)
        if config.precision is not None:
            x = quantize(x, config.precision.input)
        x = Block(config, "initial", config.filters, name="initial")(x, train)
        x = max_pool(x)
        for stage, count in enumerate(config.encoder):
            x = max_pool(x)
            for block in range(count):
                name = f"encoder_{stage}_{block}"
                x = Bottleneck(config, name, name=name)(x, train)
        transposed = config.upsampling == "transposed"
        for stage, count in enumerate(config.decoder):
            if transposed:
                name = f"up_{stage}"
                x = Block(config, name, config.filters, transposed=True, name=name)(x, train)
            else:
                x = doubled(x)
            for block in range(count):
                name = f"decoder_{stage}_{block}"
                x = Bottleneck(config, name, name=name)(x, train)
        if not transposed:
            x = doubled(x)
        head = Block(config, "head", config.num_classes, rectified=False, transposed=transposed, name="head")
        y = head(x, train)
        return y.reshape(*batch, *y.shape[1:])


def doubled(x: Float[Array, "image row column channel"]) -> Float[Array, "image twice_row twice_col channel"]:
    """Each pixel four times: upsampling to the nearest."""
    images, rows, columns, channels = x.shape
    # In one step: for two in a row XLA divides indices for each number.
    copies = jnp.broadcast_to(x[:, :, None, :, None], (images, rows, 2, columns, 2, channels))
    return copies.reshape(images, 2 * rows, 2 * columns, channels)


def init_enet(key: PRNGKeyArray, config: ENetConfig = ENetConfig()) -> dict[str, Any]:
    """Initial variables, distributed as those of `ENet(config).init`, without compiling the network.

    The numbers differ from those of `init` with the same key.

    Args:
        key: of the kernels.
        config: of the network.

    Returns:
        `params` and, with batch norms, `batch_stats`.
    """
    image = jax.ShapeDtypeStruct((1, config.rows, config.columns, config.channels), jnp.float32)
    shapes = jax.eval_shape(ENet(config).init, jax.random.key(0), image)
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    # A normal distribution cut at two standard deviations, as He et al.'s rule draws kernels; one vector for all.
    draws = jax.random.truncated_normal(key, -2.0, 2.0, (sum(leaf.size for _, leaf in leaves),)) / 0.87962566103423978
    result, begin = [], 0
    for path, leaf in leaves:
        if path[-1].key == "kernel":
            values = draws[begin : begin + leaf.size].reshape(leaf.shape)
            result.append(values * math.sqrt(2 / math.prod(leaf.shape[:-1])))
        else:
            result.append(jnp.full(leaf.shape, 1.0 if path[-1].key in ("scale", "var") else 0.0))
        begin += leaf.size
    return jax.tree.unflatten(structure, result)


def enet_multiplications(config: ENetConfig) -> dict[str, int]:
    """Multiplications of each convolution for one picture, zeros between the pixels of transposed ones counted."""
    return {layer.name: layer.positions * layer.fan_in * layer.features for layer in config.matrix_layers}
