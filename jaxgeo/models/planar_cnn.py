"""Plain convolutional networks on latitude-longitude images: the baselines that know nothing of the sphere.

The segmenter goes down by valid convolutions and up by their transposes to the sizes it came from; the classifier goes
down and ends in one affine layer. The grid is a flat picture to them: no periodic longitude, no poles.

References:
    Gerken, Carlsson, Linander, Ohlsson, Petersson, Persson, "Equivariance versus Augmentation for Spherical Images",
    arXiv:2202.03990; the three segmenters are those of its section on one digit.
    Cohen, Geiger, Koehler, Welling, "Spherical CNNs", arXiv:1801.10130: the planar classifier.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError, check_fields
from jaxgeo.layers.plane_convolution import convolve


class _Convolutions:
    """What both configurations share: a list of valid convolutions of a square image."""

    features: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    strides: tuple[int, ...]
    size: int
    channels: int
    num_classes: int

    def __post_init__(self) -> None:
        check_fields(self, features=1, kernel_sizes=1, strides=1, size=1, channels=1, num_classes=1)
        lists = self.features, self.kernel_sizes, self.strides
        if not self.features or len({len(numbers) for numbers in lists}) > 1:
            raise ConfigError(
                f"features, kernel_sizes and strides describe the same convolutions, at least one, got {lists[0]}, "
                f"{lists[1]} and {lists[2]}"
            )
        if min(self.sizes) < 1:
            raise ConfigError(
                f"kernels {self.kernel_sizes} with strides {self.strides} leave nothing of {self.size} rows (sizes "
                f"{self.sizes}); take smaller kernels, fewer convolutions or a larger image"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows (= columns) of the input and after each convolution."""
        sizes = [self.size]
        for kernel, stride in zip(self.kernel_sizes, self.strides, strict=True):
            sizes.append((sizes[-1] - kernel) // stride + 1)
        return tuple(sizes)

    def check_image(self, x: Array) -> None:
        """Refuse another shape than the configured one."""
        if x.shape[-3:] != (self.size, self.size, self.channels):
            raise InputError(
                f"the network is configured for images of shape (..., {self.size}, {self.size}, {self.channels}), "
                f"channels last, got {x.shape}"
            )


@dataclasses.dataclass(frozen=True)
class CnnSegmenterConfig(_Convolutions):
    """Valid convolutions down, transposed ones up, rectifiers after all but the last.

    The defaults are the published 218k network at bandlimit 50: 218,144 parameters.

    Raises:
        ConfigError: lists of different lengths, a number below 1, or an image too small for the kernels.
    """

    features: tuple[int, ...] = (13, 15, 22, 31, 141)
    kernel_sizes: tuple[int, ...] = (5, 3, 9, 7, 3)
    strides: tuple[int, ...] = (1, 1, 1, 1, 2)
    shortcuts: bool = True
    batch_norm: bool = False  # before each rectifier; the published networks have none
    size: int = 100  # rows = columns: twice the bandlimit
    channels: int = 1
    num_classes: int = 11  # background and ten digits


CNN_218K = CnnSegmenterConfig()
"""The smallest published segmenter: 218,144 parameters."""

CNN_1M = CnnSegmenterConfig((12, 13, 16, 77, 96, 163), (3, 3, 5, 5, 3, 5), (1, 1, 1, 2, 1, 1))
"""The middle published segmenter: 1,042,013 parameters."""

CNN_5M = CnnSegmenterConfig((12, 15, 16, 85, 141, 191, 1100), (3, 5, 3, 7, 5, 3, 3), (1, 1, 1, 2, 1, 1, 2))
"""The largest published segmenter: 5,519,335 parameters."""


@dataclasses.dataclass(frozen=True)
class CnnClassifierConfig(_Convolutions):
    """Valid convolutions with rectifiers, then one affine layer on all that is left.

    The defaults are the planar network of the spherical digits at bandlimit 30: 68,106 parameters.

    Raises:
        ConfigError: lists of different lengths, a number below 1, or an image too small for the kernels.
    """

    features: tuple[int, ...] = (32, 64)
    kernel_sizes: tuple[int, ...] = (5, 5)
    strides: tuple[int, ...] = (3, 3)
    batch_norm: bool = False  # before each rectifier
    size: int = 60
    channels: int = 1
    num_classes: int = 10


class Convolution(nn.Module):
    """A valid convolution with bias on the last three axes (row, column, channel); no padding anywhere."""

    features: int
    kernel_size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "*batch row column channel"]) -> Float[Array, "*batch new_row new_col feature"]:
        """The convolved image, (size - kernel) // stride + 1 rows and columns."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        images, kernel, bias = promote_dtype(x.reshape(-1, *x.shape[-3:]), kernel, bias)
        y = convolve(images, kernel, self.stride, "VALID")
        return y.reshape(*x.shape[:-3], *y.shape[1:]) + _last(bias, x.ndim)


class TransposedConvolution(nn.Module):
    """The transpose of a valid convolution with bias: each pixel spreads over kernel x kernel pixels, stride apart.

    Rows and columns that no kernel reaches at the end (up to stride - 1 of them) hold the bias alone.
    """

    features: int
    kernel_size: int
    stride: int
    size: int  # rows = columns of the result

    @nn.compact
    def __call__(self, x: Float[Array, "*batch row column channel"]) -> Float[Array, "*batch size size feature"]:
        """The image of the size asked for."""
        reached = (x.shape[-2] - 1) * self.stride + self.kernel_size
        # As stored, a row of the kernel is where a pixel's value goes to; a correlation reads it backwards.
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        images, kernel, bias = promote_dtype(x.reshape(-1, *x.shape[-3:]), kernel, bias)
        around = (self.kernel_size - 1, self.kernel_size - 1 + self.size - reached)
        y = jax.lax.conv_general_dilated(
            images, kernel[::-1, ::-1], (1, 1), (around, around), lhs_dilation=(self.stride, self.stride),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return y.reshape(*x.shape[:-3], *y.shape[1:]) + _last(bias, x.ndim)


def _last(bias: Float[Array, " feature"], ndim: int) -> Float[Array, "..."]:
    return bias.reshape((1,) * (ndim - 1) + (-1,))


def _max_pool(x: Array, kernel: int, stride: int) -> Array:
    window, strides = (1,) * (x.ndim - 3) + (kernel, kernel, 1), (1,) * (x.ndim - 3) + (stride, stride, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, "VALID")


def _nearest(x: Array, size: int) -> Array:
    # Row i of the larger image is row floor(i * old / new) of the smaller one; exact in integers.
    rows, columns = (np.arange(size) * old // size for old in x.shape[-3:-1])
    return x[..., rows, :, :][..., columns, :]


def _rectify(x: Array, batch_norm: bool, train: bool, name: str) -> Array:
    # Called from within a compact module, of which the norm becomes a part.
    return jax.nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name)(x) if batch_norm else x)


class CnnSegmenter(nn.Module):
    """Logits of every pixel of a square latitude-longitude image.

    Applied with `mutable=["activations"]` it also returns each layer's result as `<layer>_output`.
    """

    config: CnnSegmenterConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch lat lon channel"], *, train: bool = False
    ) -> Float[Array, "*batch lat lon class"]:
        """Logits (before the softmax).

        Args:
            x: images; `train` has no effect without batch norm.
            train: use (and update) the batch's statistics.

        Raises:
            InputError: not an image of the configured size and channels.
        """
        config = self.config
        config.check_image(x)
        features, kernels, strides, sizes = config.features, config.kernel_sizes, config.strides, config.sizes
        x = self._keep("input_layer", Convolution(features[0], kernels[0], strides[0], name="input_layer")(x))
        x = _rectify(x, config.batch_norm, train, "norm_input")
        for i, (width, kernel, stride) in enumerate(zip(features[1:], kernels[1:], strides[1:], strict=True)):
            down = f"downsample_layers_{i}"
            y = self._keep(down, Convolution(width, kernel, stride, name=down)(x))
            if config.shortcuts:
                name = f"skip_down_conv_layers_{i}"
                pooled = self._keep(f"skip_max_pool_layers_{i}", _max_pool(x, kernel, stride))
                y = y + self._keep(name, Convolution(width, 1, name=name)(pooled))
            x = _rectify(y, config.batch_norm, train, f"norm_down_{i}")
        for i, level in enumerate(range(len(features) - 1, 0, -1)):
            up, width, size = f"upsample_layers_{i}", features[level - 1], sizes[level]
            y = self._keep(up, TransposedConvolution(width, kernels[level], strides[level], size, name=up)(x))
            if config.shortcuts:
                name = f"skip_up_conv_layers_{i}"
                coarse = self._keep(name, Convolution(width, 1, name=name)(x))
                y = y + self._keep(f"skip_upsample_layers_{i}", _nearest(coarse, size))
            x = _rectify(y, config.batch_norm, train, f"norm_up_{i}")
        return TransposedConvolution(config.num_classes, kernels[0], strides[0], config.size, name="out_layer")(x)

    def _keep(self, name: str, value: Array) -> Array:
        # Filled only where a caller asks for `mutable=["activations"]`; the suffix keeps clear of the layer's own name.
        if not self.is_initializing():
            self.sow("activations", f"{name}_output", value)
        return value


class CnnClassifier(nn.Module):
    """Logits of a square latitude-longitude image."""

    config: CnnClassifierConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch lat lon channel"], *, train: bool = False
    ) -> Float[Array, "*batch class"]:
        """Logits (before the softmax).

        Args:
            x: images; `train` has no effect without batch norm.
            train: use (and update) the batch's statistics.

        Raises:
            InputError: not an image of the configured size and channels.
        """
        config = self.config
        config.check_image(x)
        for i, (width, kernel, stride) in enumerate(
            zip(config.features, config.kernel_sizes, config.strides, strict=True)
        ):
            x = Convolution(width, kernel, stride, name=f"conv_{i}")(x)
            x = _rectify(x, config.batch_norm, train, f"norm_{i}")
        return nn.Dense(config.num_classes, name="head")(x.reshape(*x.shape[:-3], math.prod(x.shape[-3:])))


def count_parameters(params: Any) -> int:
    """Numbers in a tree of arrays, or of their shapes as `jax.eval_shape` gives them."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def segmenter_from_torch(config: CnnSegmenterConfig, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters of `CnnSegmenter` from arrays under the published program's PyTorch names.

    A convolution is stored there as (out, in, row, column) and a transposed one as (in, out, row, column); both become
    (row, column, in, out). Dtypes are kept, but for float64, which becomes float32 while JAX is held to 32 bits.

    Args:
        config: of the network the weights belong to.
        weights: by state-dict name, e.g. `downsample_layers.0.weight`.

    Raises:
        InputError: a weight is missing, left over, or of another shape than the configuration's, which has batch norm.
    """
    if config.batch_norm:
        raise InputError("the published networks have no batch norm; import their weights with batch_norm=False")
    module = CnnSegmenter(config)
    image = jax.ShapeDtypeStruct((config.size, config.size, config.channels), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    params: dict[str, Any] = {}
    for layer, expected in shapes.items():
        prefix = layer
        stem, _, number = layer.rpartition("_")
        if number.isdigit():
            prefix = f"{stem}.{number}"
        order = (2, 3, 0, 1) if layer.startswith(("upsample_layers", "out_layer")) else (2, 3, 1, 0)
        params[layer] = {}
        for name, stored in (("kernel", "weight"), ("bias", "bias")):
            found = weights.get(f"{prefix}.{stored}")
            if found is None:
                raise InputError(
                    f"the configured network needs a weight {prefix}.{stored}, which is not among the "
                    f"{len(weights)} given; check features and shortcuts"
                )
            array = np.transpose(found, order) if name == "kernel" and np.ndim(found) == 4 else np.asarray(found)
            if array.shape != expected[name].shape:
                raise InputError(
                    f"{prefix}.{stored} is of shape {np.shape(found)}, which as (row, column, in, out) is "
                    f"{array.shape}; the configured network needs {expected[name].shape}"
                )
            params[layer][name] = jax.device_put(array)
    used = 2 * len(params)
    if used != len(weights):
        raise InputError(
            f"{len(weights)} weights were given and the configured network has {used}; check features and shortcuts"
        )
    return params
