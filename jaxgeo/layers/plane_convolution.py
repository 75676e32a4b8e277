r"""Convolution of images with few channels whose values and gradients are quick on a CPU too, also inside loops.

A CPU multiplies matrices quickly and convolves slowly where channels are few: the outputs of one pixel are fewer than
the numbers that a processor adds at once. So on a CPU several neighbouring columns are computed at once,

$$y_{r,\,bs+v,\,f} = \sum_{i,u,c} x_{r+i,\,bs+u,\,c}\; T_{i,u,c,(v,f)}, \qquad T_{i,u,c,(v,f)} = k_{i,u-v,c,f},$$

a convolution with b times as many outputs that moves by b columns, whose kernel is that one repeated along diagonals.
The gradient of the kernel is one product of matrices, (windows, pixels) with (pixels, outputs), summed along the same
diagonals; that of the images is again a convolution. Elsewhere XLA's own convolutions are kept.

Gradients as JAX derives them depend on the place too: XLA on a CPU runs a convolution by its quick routine only where
axes are in the order (image, row, column, channel) and (row, column, in, out), and inside of `jax.lax.scan` it does not
reorder them (jaxlib 0.10, jax issue 12868). All convolutions here have that order.

Convolution and gradient of the kernel are two JAX primitives, each of them bilinear and the derivatives of both written
in terms of both, so that they can be differentiated forward and backward, any number of times, and mapped over: members
of an ensemble are a leading axis, not groups of channels.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError, check_one_of

Padding = Literal["SAME", "VALID"]
Pads = tuple[tuple[int, int], tuple[int, int]]

_ORDER = ("NHWC", "HWIO", "NHWC")
_OUTPUTS = 32  # that a CPU computes at once; beyond, matrices are large enough
_MAX_COLUMNS = 8


def convolve(
    x: Float[Array, "image row column channel"],
    kernel: Float[Array, "kernel_row kernel_col in_channel feature"],
    stride: int = 1,
    padding: Padding = "SAME",
) -> Float[Array, "image new_row new_col feature"]:
    """Correlation of images with a kernel.

    Args:
        x: images, channels last.
        kernel: as deep learning has it, not reversed; of the dtype of `x`.
        stride: in both directions.
        padding: as XLA's; SAME gives ceil(size / stride) rows and columns, VALID only those whose windows lie inside.

    Raises:
        ConfigError: the stride is below 1, or there is no such padding.
        InputError: other axes, no pixels, a kernel for another number of channels, of another dtype, or without
            padding one that is larger than the images.
    """
    if stride < 1:
        raise ConfigError(f"the stride of a convolution must be at least 1, got {stride}")
    check_one_of("the padding of a convolution", padding, Padding)
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2] or 0 in x.shape[1:] + kernel.shape:
        raise InputError(
            f"a convolution takes images (image, row, column, channel) and a kernel (row, column, channel, feature) "
            f"for as many channels, none of them empty, got {x.shape} and {kernel.shape}"
        )
    if x.dtype != kernel.dtype:
        raise InputError(f"images and kernel of a convolution must have one dtype, got {x.dtype} and {kernel.dtype}")
    if padding == "VALID" and any(n < k for n, k in zip(x.shape[1:3], kernel.shape[:2], strict=True)):
        raise InputError(
            f"without padding a kernel of {kernel.shape[0]} x {kernel.shape[1]} needs images of at least as many rows "
            f"and columns, got {x.shape[1]} x {x.shape[2]}"
        )
    pads = _same(x.shape[1:3], kernel.shape[:2], stride) if padding == "SAME" else ((0, 0), (0, 0))
    return _convolve_p.bind(x, kernel, stride=stride, pads=pads)


class PlaneConvolution(nn.Module):
    """`convolve` with a learned `kernel` (row, column, in, out), drawn by He et al.'s rule, and `bias` (zeros)."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: Padding = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch row column channel"]) -> Float[Array, "*batch new_row new_col feature"]:
        """Images of ceil(size / stride) rows and columns, or those whose windows lie inside."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        images, kernel, bias = promote_dtype(x.reshape(-1, *x.shape[-3:]), kernel, bias)
        y = convolve(images, kernel, self.stride, self.padding)
        return (y + bias[None, None, None]).reshape(*x.shape[:-3], *y.shape[1:])


def by_xla(x: Array, kernel: Array, *, stride: int, pads: Pads) -> Array:
    """What the primitive `plane_convolution` computes, as one operation of `jax.lax`."""
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=_ORDER)


def _same(sizes: tuple[int, ...], window: tuple[int, ...], stride: int) -> Pads:
    totals = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in zip(sizes, window, strict=True)]
    rows, columns = ((total // 2, total - total // 2) for total in totals)
    return rows, columns


def _new_sizes(sizes: tuple[int, ...], window: tuple[int, ...], stride: int, pads: Pads) -> tuple[int, ...]:
    return tuple((n + sum(pad) - k) // stride + 1 for n, k, pad in zip(sizes, window, pads, strict=True))


# The gradients as convolutions, for any platform.


def images_by_xla(cotangent: Array, kernel: Array, *, sizes: tuple[int, ...], stride: int, pads: Pads) -> Array:
    """Derivative by the images, which had these sizes."""
    around = _pads_of_images(cotangent.shape[1:3], kernel.shape[:2], sizes, stride, pads)
    return jax.lax.conv_general_dilated(
        cotangent, _turned(kernel), (1, 1), around, lhs_dilation=(stride, stride), dimension_numbers=_ORDER
    )


def _turned(kernel: Array) -> Array:
    return jnp.swapaxes(kernel[..., ::-1, ::-1, :, :], -1, -2)


def _pads_of_images(outer: tuple[int, ...], window: tuple[int, ...], sizes: Any, stride: int, pads: Pads) -> Pads:
    # The cotangent's pixels stand stride apart; behind them as many as give n pixels again.
    rows, columns = (
        (k - 1 - before, n + before - (o - 1) * stride - 1)
        for n, k, o, (before, _) in zip(sizes, window, outer, pads, strict=True)
    )
    return rows, columns


def kernel_by_xla(x: Array, cotangent: Array, *, window: tuple[int, int], stride: int, pads: Pads) -> Array:
    """Derivative by the kernel, which had this window."""
    around = [
        (before, k - n - before + (o - 1) * stride)
        for n, k, o, (before, _) in zip(x.shape[1:3], window, cotangent.shape[1:3], pads, strict=True)
    ]
    # Channels take the place of images and images that of channels, which are summed over.
    gradient = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3), (1, 1), around, rhs_dilation=(stride, stride),
        dimension_numbers=_ORDER,
    )  # fmt: skip
    return gradient.transpose(1, 2, 0, 3)


# The same for a CPU.


def _columns(features: int, columns: int, at_most: int) -> int:
    """How many to compute at once."""
    return max(1, min(_OUTPUTS // features, at_most, columns))


def on_cpu(x: Array, kernel: Array, *, stride: int, pads: Pads) -> Array:
    """The convolution, several columns of the result at once."""
    rows, columns = _new_sizes(x.shape[1:3], kernel.shape[:2], stride, pads)
    together = 1 if kernel.shape[1] == 1 else _columns(kernel.shape[3], columns, _MAX_COLUMNS)
    if together == 1:
        return by_xla(x, kernel, stride=stride, pads=pads)
    blocks = -(-columns // together)
    behind = (together - 1) * stride
    shifted = [jnp.pad(kernel, ((0, 0), (v * stride, behind - v * stride), (0, 0), (0, 0))) for v in range(together)]
    repeated = jnp.concatenate(shifted, axis=3)
    # So many that the last block is whole, and none that begins another.
    wanted = (blocks - 1) * together * stride + repeated.shape[1]
    left = pads[1][0]
    y = jax.lax.conv_general_dilated(
        x, repeated, (stride, together * stride), (pads[0], (left, wanted - left - x.shape[2])),
        dimension_numbers=_ORDER,
    )  # fmt: skip
    return y.reshape(len(x), rows, blocks * together, kernel.shape[3])[:, :, :columns]


def kernel_on_cpu(x: Array, cotangent: Array, *, window: tuple[int, int], stride: int, pads: Pads) -> Array:
    """Derivative by the kernel as products of matrices, several columns of the cotangent at once."""
    (images, rows, columns, features), channels = cotangent.shape, x.shape[3]
    tall, wide = window
    together = 1 if wide == 1 else _columns(features, columns, 4)
    if 16 <= features <= 64 and wide > 1:
        together = min(2, columns)
    blocks, step = -(-columns // together), together * stride
    cotangent = jnp.pad(cotangent, ((0, 0), (0, 0), (0, blocks * together - columns), (0, 0)))
    cotangent = cotangent.reshape(images, rows, blocks, together * features)
    reach = step - stride + wide  # columns that a block reads
    high = (rows - 1) * stride + tall
    parts = -(-reach // step)
    (top, _), (left, _) = pads
    zero = jnp.zeros((), x.dtype)
    width = (blocks - 1 + parts) * step
    x = jax.lax.pad(
        x, zero, [(0, 0, 0), (top, high - top - x.shape[1], 0), (left, width - left - x.shape[2], 0), (0, 0, 0)]
    )
    x = x.reshape(images, high, blocks - 1 + parts, step * channels)
    pieces = [x[:, :, part : part + blocks, : min(step, reach - part * step) * channels] for part in range(parts)]
    x = jnp.concatenate(pieces, axis=-1)
    if stride == 1 and 2 * channels >= features:
        # All rows of the kernel in one product: the cotangent beside itself, one row further down each time.
        tops = [
            jax.lax.pad(cotangent, zero, [(0, 0, 0), (i, tall - 1 - i, 0), (0, 0, 0), (0, 0, 0)]) for i in range(tall)
        ]
        beside = jnp.concatenate(tops, axis=-1)
        product = jnp.einsum("...x,...y->xy", x, beside)
        product = product.reshape(reach, channels, tall, together, features).transpose(2, 0, 1, 3, 4)
    else:
        each = [
            jnp.einsum("...x,...y->xy", x[:, i : i + (rows - 1) * stride + 1 : stride], cotangent) for i in range(tall)
        ]
        product = jnp.stack(each).reshape(tall, reach, channels, together, features)
    diagonals = [product[:, v * stride : v * stride + wide, :, v] for v in range(together)]
    return jnp.sum(jnp.stack(diagonals), axis=0)


# With members in front of both arrays.


def _each(function: Any) -> Any:
    """The function of two arrays of four axes, also of such with members in front."""

    @functools.wraps(function)
    def of_both(a: Array, b: Array, **params: Any) -> Array:
        bound = functools.partial(function, **params)
        return jax.vmap(bound)(a, b) if a.ndim == 5 else bound(a, b)

    return of_both


def _each_in_turn(function: Any) -> Any:
    """The same one member after the other: as one, a convolution of groups is slow on a CPU."""

    @functools.wraps(function)
    def of_both(a: Array, b: Array, **params: Any) -> Array:
        bound = functools.partial(function, **params)
        return jax.lax.map(lambda pair: bound(*pair), (a, b)) if a.ndim == 5 else bound(a, b)

    return of_both


def _of_images(cotangent: Array, x: Any, kernel: Array, *, stride: int, pads: Pads) -> Array:
    sizes = x.aval.shape[-3:-1]
    if stride == 1:
        around = _pads_of_images(cotangent.shape[-3:-1], kernel.shape[-4:-2], sizes, stride, pads)
        return _convolve_p.bind(cotangent, _turned(kernel), stride=1, pads=around)
    return _each(images_by_xla)(cotangent, kernel, sizes=sizes, stride=stride, pads=pads)


def _of_kernel(cotangent: Array, x: Array, kernel: Any, *, stride: int, pads: Pads) -> Array:
    return _kernel_p.bind(x, cotangent, window=kernel.aval.shape[-4:-2], stride=stride, pads=pads)


def _images_of_kernel(kernel: Array, x: Any, cotangent: Array, *, window: Any, stride: int, pads: Pads) -> Array:
    return _of_images(cotangent, x, kernel, stride=stride, pads=pads)


def _cotangent_of_kernel(kernel: Array, x: Array, cotangent: Any, *, window: Any, stride: int, pads: Pads) -> Array:
    return _convolve_p.bind(x, kernel, stride=stride, pads=pads)


def _shape(x: Any, kernel: Any, *, stride: int, pads: Pads) -> Any:
    sizes = _new_sizes(x.shape[-3:-1], kernel.shape[-4:-2], stride, pads)
    return ShapedArray((*x.shape[:-3], *sizes, kernel.shape[-1]), x.dtype)


def _kernel_shape(x: Any, cotangent: Any, *, window: tuple[int, int], stride: int, pads: Pads) -> Any:
    return ShapedArray((*x.shape[:-4], *window, x.shape[-1], cotangent.shape[-1]), x.dtype)


def _batch(primitive: Primitive, fold: Any, arguments: tuple, axes: tuple, **params: Any) -> tuple:
    size = next(a.shape[axis] for a, axis in zip(arguments, axes, strict=True) if axis is not None)
    mapped = [axis is not None for axis in axes]
    arrays = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(arguments, axes, strict=True)]
    if size == 1:
        # One member is no group.
        return primitive.bind(*(a[0] if m else a for a, m in zip(arrays, mapped, strict=True)), **params)[None], 0
    if all(a.ndim == 4 + m for a, m in zip(arrays, mapped, strict=True)) and fold(mapped) is not None:
        return _folded(primitive, fold(mapped), arrays, size, params), 0
    whole = [a if m else jnp.broadcast_to(a[None], (size, *a.shape)) for a, m in zip(arrays, mapped, strict=True)]
    inner = whole[0].shape[1:-4]
    y = primitive.bind(*(a.reshape(-1, *a.shape[-4:]) for a in whole), **params)
    return y.reshape(size, *inner, *y.shape[1:]), 0


def _folded(primitive: Primitive, fold: tuple[int, int, int], arrays: list[Array], size: int, params: Any) -> Array:
    """With the members of one array as a part of another axis of it, which is one of the result's too."""
    position, axis, of_result = fold
    array = jnp.moveaxis(arrays[position], 0, axis)
    shape = array.shape
    arrays[position] = array.reshape(*shape[:axis], -1, *shape[axis + 2 :])
    y = primitive.bind(*arrays, **params)
    return jnp.moveaxis(y.reshape(*y.shape[:of_result], size, -1, *y.shape[of_result + 1 :]), of_result, 0)


def _fold_convolution(mapped: list[bool]) -> tuple[int, int, int] | None:
    """Members of images alone are more images, members of kernels alone more features."""
    return None if all(mapped) else (0, 0, 0) if mapped[0] else (1, 3, 3)


def _fold_kernel(mapped: list[bool]) -> tuple[int, int, int] | None:
    """Members of images alone are more channels, members of cotangents alone more features."""
    return None if all(mapped) else (0, 3, 2) if mapped[0] else (1, 3, 3)


def _primitive(name: str, general: Any, cpu: Any, shape: Any, transposes: tuple, fold: Any, static: Any) -> Primitive:
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=static))
    primitive.def_abstract_eval(shape)
    mlir.register_lowering(primitive, mlir.lower_fun(_each(general), multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(_each_in_turn(cpu), multiple_results=False), platform="cpu")
    ad.defbilinear(primitive, *transposes)
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive, fold)
    return primitive


_convolve_p = _primitive(
    "plane_convolution", by_xla, on_cpu, _shape, (_of_images, _of_kernel), _fold_convolution, ("stride", "pads")
)
_kernel_p = _primitive(
    "plane_convolution_kernel", kernel_by_xla, kernel_on_cpu, _kernel_shape,
    (_images_of_kernel, _cotangent_of_kernel), _fold_kernel, ("window", "stride", "pads"),
)  # fmt: skip
