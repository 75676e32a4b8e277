"""Convolution of images whose gradients are quick on a CPU too, also inside loops.

XLA on a CPU runs a convolution by its quick routine only where axes are in the order (image, row, col, channel) and
(row, col, in, out). The gradients that JAX makes of one ask for other orders; outside of loops XLA reorders the arrays
first, inside of `jax.lax.scan` it does not (jaxlib 0.10, jax issue 12868) and the gradient of a kernel takes many
times longer. Here the arrays are reordered by hand. The result is one JAX primitive, so that it can be differentiated
forward and backward, any number of times, and mapped over; second derivatives are JAX's own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError

_ORDER = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: Float[Array, "image row col channel"],
    kernel: Float[Array, "kernel_row kernel_col in_channel feature"],
    stride: int = 1,
) -> Float[Array, "image new_row new_col feature"]:
    """Correlation of images with a kernel, padded as XLA's SAME: ceil(size / stride) rows and columns.

    Args:
        x: images, channels last.
        kernel: as deep learning has it, not reversed.
        stride: in both directions.

    Raises:
        ConfigError: the stride is below 1.
        InputError: other axes, no pixels, or a kernel for another number of channels.
    """
    if stride < 1:
        raise ConfigError(f"the stride of a convolution must be at least 1, got {stride}")
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2] or 0 in x.shape[1:] + kernel.shape:
        raise InputError(
            f"a convolution takes images (image, row, col, channel) and a kernel (row, col, channel, feature) for as "
            f"many channels, none of them empty, got {x.shape} and {kernel.shape}"
        )
    return _convolve_p.bind(x, kernel, stride=stride)


class PlaneConvolution(nn.Module):
    """`convolve` with a learned `kernel` (row, col, in, out), drawn by He et al.'s rule, and `bias` (zeros)."""

    features: int
    kernel_size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "*batch row col channel"]) -> Float[Array, "*batch new_row new_col feature"]:
        """Images of ceil(size / stride) rows and columns."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        images, kernel, bias = promote_dtype(x.reshape(-1, *x.shape[-3:]), kernel, bias)
        y = convolve(images, kernel, self.stride)
        return (y + bias[None, None, None]).reshape(*x.shape[:-3], *y.shape[1:])


def _padding(sizes: tuple[int, ...], kernel: tuple[int, ...], stride: int) -> list[tuple[int, int]]:
    totals = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in zip(sizes, kernel, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def _forward(x: Array, kernel: Array, *, stride: int) -> Array:
    padding = _padding(x.shape[1:3], kernel.shape[:2], stride)
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_ORDER)


def _of_images(cotangent: Array, x: Any, kernel: Array, *, stride: int) -> Array:
    sizes, kernel_sizes = x.aval.shape[1:3], kernel.shape[:2]
    padding = []
    for n, k, o, (before, _) in zip(
        sizes, kernel_sizes, cotangent.shape[1:3], _padding(sizes, kernel_sizes, stride), strict=True
    ):
        # The cotangent's pixels stand stride apart; behind them as many as give n pixels again.
        padding.append((k - 1 - before, n + before - (o - 1) * stride - 1))
    reversed_kernel = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return jax.lax.conv_general_dilated(
        cotangent, reversed_kernel, (1, 1), padding, lhs_dilation=(stride, stride), dimension_numbers=_ORDER
    )


def _of_kernel(cotangent: Array, x: Array, kernel: Any, *, stride: int) -> Array:
    sizes, kernel_sizes = x.shape[1:3], kernel.aval.shape[:2]
    padding = []
    for n, k, o, (before, _) in zip(
        sizes, kernel_sizes, cotangent.shape[1:3], _padding(sizes, kernel_sizes, stride), strict=True
    ):
        padding.append((before, k - n - before + (o - 1) * stride))
    # Channels take the place of images and images that of channels, which are summed over.
    gradient = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3), (1, 1), padding, rhs_dilation=(stride, stride),
        dimension_numbers=_ORDER,
    )  # fmt: skip
    return gradient.transpose(1, 2, 0, 3)


def _shape(x: Any, kernel: Any, *, stride: int) -> Any:
    rows, columns = (-(-n // stride) for n in x.shape[1:3])
    return ShapedArray((x.shape[0], rows, columns, kernel.shape[3]), x.dtype)


def _batch(arguments: tuple, axes: tuple, *, stride: int) -> tuple:
    sizes = {a.shape[axis] for a, axis in zip(arguments, axes, strict=True) if axis is not None}
    if sizes == {1}:
        # One member is no group: it keeps its quick gradients.
        alone = (a if axis is None else jnp.squeeze(a, axis) for a, axis in zip(arguments, axes, strict=True))
        return _convolve_p.bind(*alone, stride=stride)[None], 0
    return jax.vmap(functools.partial(_forward, stride=stride), in_axes=axes)(*arguments), 0


_convolve_p = Primitive("plane_convolution")
_convolve_p.def_impl(functools.partial(jax.jit, static_argnames="stride")(_forward))
_convolve_p.def_abstract_eval(_shape)
mlir.register_lowering(_convolve_p, mlir.lower_fun(_forward, multiple_results=False))
ad.defbilinear(_convolve_p, _of_images, _of_kernel)
batching.primitive_batchers[_convolve_p] = _batch
