"""Equations that put pixels beside pixels: nearest upsampling, zero padding, and what convolutions with holes become.

Nearest upsampling reaches a jaxpr in three ways: `jnp.repeat` and `jnp.broadcast_to` as a broadcast that a reshape
completes, `jax.image.resize(..., "nearest")` as a gather with known indices. Transposed convolution (`lhs_dilation`)
is a convolution of an image with zeros between its pixels, dilated convolution (`rhs_dilation`) one with zeros between
the taps of its kernel; both are rewritten so, because hls4ml has neither. A grouped convolution, which hls4ml computes
wrongly without a word, is one over all channels whose kernel holds zeros outside the groups.

References:
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, sections 4 and 5.1.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.tracing.selection_rules import select
from fpga_bridge.tracing.values import Builder, Const, Partial, Tensor, Value, tensor
from fpga_bridge.typed_graph.graph import Reshape, Upsample, ZeroInsert, ZeroPad
from fpga_bridge.typed_graph.source import Place, refuse

_SPATIAL_RANKS = (1, 2)
_REPEAT = "repeat pixels next to themselves along the spatial axes, by jnp.repeat(x, factor, axis)"


def repeated(builder: Builder, equation: Any, x: Tensor, place: Place) -> Partial:
    """A broadcast that makes values more: half of nearest upsampling, if a reshape follows.

    Raises:
        ExportError: it repeats along the batch.
    """
    shape, dimensions = equation.outvars[0].aval.shape, tuple(equation.params["broadcast_dimensions"])
    before = (equation.invars[0].aval.shape[0], *x.shape)
    if dimensions[:1] != (0,) or shape[0] != before[0]:
        raise refuse("broadcast_in_dim", place.source, "it repeats along the batch axis", _REPEAT)
    # Where each value comes from, one number for each pixel and channel.
    numbers = np.arange(math.prod(x.shape)).reshape(
        [before[dimensions.index(axis)] if axis in dimensions else 1 for axis in range(1, len(shape))]
    )
    return Partial(
        "repeat",
        x,
        "broadcast_in_dim",
        place.source,
        "it repeats values",
        f"reshape the axes of one sample only, or {_REPEAT}",
        places=np.broadcast_to(numbers, shape[1:]),
    )


def complete_repeat(builder: Builder, equation: Any, part: Partial, place: Place) -> Tensor:
    """The reshape that joins each axis with its copies: nearest upsampling.

    Raises:
        ExportError: the copies do not lie next to the pixel that they copy.
    """
    assert part.places is not None
    shape = tuple(equation.outvars[0].aval.shape[1:])
    error = refuse(part.operation, part.source, part.why, part.instead)
    if math.prod(shape) != part.places.size:  # it merges the batch axis with the copies
        raise error
    node = builder.nodes[part.base.name]
    # A reshape before it may only have put axes of one where the copies are.
    names = [*node.inputs, part.base.name] if isinstance(node, Reshape) else [part.base.name]
    for name in names:
        base = builder.nodes[name].shape
        if len(base) != len(shape) or any(new % old for new, old in zip(shape, base, strict=True)):
            continue
        factors = tuple(new // old for new, old in zip(shape, base, strict=True))
        expected = np.arange(math.prod(base)).reshape(base)
        for axis, factor in enumerate(factors):
            expected = np.repeat(expected, factor, axis)
        if factors[-1] == 1 and np.array_equal(part.places.reshape(shape), expected):
            return upsample(builder, Tensor(name, base), factors[:-1], place)
    raise error


def upsample(builder: Builder, x: Tensor, factors: tuple[int, ...], place: Place) -> Tensor:
    """Nearest upsampling of an image or a signal; two in a row are one."""
    if len(factors) not in _SPATIAL_RANKS:
        raise refuse(
            "nearest upsampling", place.source, f"its input has {len(factors)} spatial axes", "use one or two of them"
        )
    if all(factor == 1 for factor in factors):
        return x
    node = builder.nodes[x.name]
    if isinstance(node, Upsample):
        factors = tuple(a * b for a, b in zip(factors, node.factors, strict=True))
        x = Tensor(node.inputs[0], builder.nodes[node.inputs[0]].shape)
    shape = (*(n * factor for n, factor in zip(x.shape[:-1], factors, strict=True)), x.shape[-1])
    return builder.emit(
        Upsample, place.name("upsample"), inputs=(x.name,), shape=shape, source=place.source, factors=factors
    )


def expanded(builder: Builder, x: Tensor, shape: tuple[int, ...], place: Place) -> Tensor:
    """Copies along the axes of one, so that a sample has this shape: pixels by upsampling, channels by ones.

    Raises:
        ExportError: it has more than two spatial axes.
    """
    if x.shape[-1] != shape[-1]:
        x = select(builder, x, [*map(np.arange, x.shape[:-1]), np.zeros(shape[-1], int)], "broadcast", place)
    if x.shape == shape:
        return x
    return upsample(builder, x, tuple(n // old for n, old in zip(shape[:-1], x.shape[:-1], strict=True)), place)


def lower_gather(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """Pixels chosen by constant indices along one axis: nearest upsampling where that repeats each of them."""
    error = refuse(
        "gather",
        place.source,
        "it chooses pixels by a table that is not constant, or along several axes at once",
        "choose pixels before the network, or along one axis after the other; upsample with jnp.repeat or "
        'jax.image.resize(x, shape, "nearest")',
    )
    x, indices = inputs
    numbers = equation.params["dimension_numbers"]
    if not isinstance(x, Tensor) or not isinstance(indices, Const) or len(numbers.start_index_map) != 1:
        raise error
    axis = numbers.start_index_map[0]
    sizes = (equation.invars[0].aval.shape[0], *x.shape)
    sliced = tuple(1 if i == axis else n for i, n in enumerate(sizes))
    shape = tuple(equation.outvars[0].aval.shape)
    table = indices.array.reshape(-1)
    plain = (
        numbers.collapsed_slice_dims == (axis,)
        and tuple(equation.params["slice_sizes"]) == sliced
        and not numbers.operand_batching_dims
        and shape == tuple(len(table) if i == axis else n for i, n in enumerate(sizes))
    )
    if not plain or axis < 1 or not len(table):
        raise error
    factor = len(table) // sizes[axis]
    if axis < len(sizes) - 1 and np.array_equal(table, np.repeat(np.arange(sizes[axis]), factor)):
        return upsample(builder, x, tuple(factor if i == axis else 1 for i in range(1, len(sizes) - 1)), place)
    tables = [table if i == axis else np.arange(n) for i, n in enumerate(sizes)][1:]
    return select(builder, x, tables, "gather", place)


_METHODS = ("bilinear", "cubic", "lanczos3", "lanczos5")  # of jax.image.resize, but for nearest, which is a gather


def interpolation(kernel: Const) -> str | None:
    """Which resampling a constant matrix is that is multiplied from the left; None where it is another product."""
    if kernel.origin or kernel.array.ndim != 2 or kernel.array.shape[0] == kernel.array.shape[1]:
        return None
    for matrix in (kernel.array, kernel.array.T):
        pixels = jnp.eye(matrix.shape[1], dtype=jnp.float32)
        for method in _METHODS:
            with jax.numpy_rank_promotion("allow"):
                same = np.allclose(matrix, jax.image.resize(pixels, matrix.shape, method), atol=1e-5)
            if same:
                return f"{method} {'upsampling' if len(matrix) > len(pixels) else 'downsampling'}"
    return None


def lower_pad(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """Zeros around the pixels, and between them."""
    x, value = tensor(inputs[0]), inputs[1]
    if not isinstance(value, Const) or value.array.any():
        raise refuse("pad", place.source, "it pads by another number than zero", "pad by zeros, or shift the data")
    config = [tuple(int(n) for n in axis) for axis in equation.params["padding_config"]]
    spatial = config[1:-1]
    if any(axis != (0, 0, 0) for axis in (config[0], config[-1])) or len(spatial) not in _SPATIAL_RANKS:
        raise refuse(
            "pad",
            place.source,
            f"it pads by {config}, also the batch or the channels, or not one or two spatial axes",
            "pad spatial axes only (padding='SAME' of a convolution does so)",
        )
    x = insert_zeros(builder, x, tuple(interior + 1 for *_, interior in spatial), place)
    return zero_pad(builder, x, [(low, high) for low, high, _ in spatial], place, operation="pad")


def zero_pad(
    builder: Builder, x: Tensor, pads: list[tuple[int, int]], place: Place, *, operation: str = "convolution"
) -> Tensor:
    """Zeros around the pixels.

    Raises:
        ExportError: for negative numbers, which cut pixels off.
    """
    if any(n < 0 for n in itertools.chain(*pads)):
        raise refuse(operation, place.source, f"it pads by {pads}", "use padding='SAME' or padding='VALID'")
    if not any(itertools.chain(*pads)):
        return x
    shape = (*(low + n + high for n, (low, high) in zip(x.shape[:-1], pads, strict=True)), x.shape[-1])
    return builder.emit(
        ZeroPad, place.name("zero_pad"), inputs=(x.name,), shape=shape, source=place.source, pads=tuple(pads)
    )


def insert_zeros(builder: Builder, x: Tensor, strides: tuple[int, ...], place: Place) -> Tensor:
    """Zeros between the pixels, which then stand `strides` apart; none behind the last."""
    if all(stride == 1 for stride in strides):
        return x
    shape = (*((n - 1) * stride + 1 for n, stride in zip(x.shape[:-1], strides, strict=True)), x.shape[-1])
    return builder.emit(
        ZeroInsert, place.name("zero_insert"), inputs=(x.name,), shape=shape, source=place.source, strides=strides
    )


def with_holes(taps: np.ndarray, dilation: tuple[int, ...]) -> np.ndarray:
    """A kernel (*window, in, out) whose taps stand `dilation` apart, zeros between them."""
    if math.prod(dilation) == 1:
        return taps
    window = taps.shape[: len(dilation)]
    wide = np.zeros((*((n - 1) * d + 1 for n, d in zip(window, dilation, strict=True)), *taps.shape[-2:]), taps.dtype)
    wide[tuple(slice(None, None, d) for d in dilation)] = taps
    return wide


def ungrouped(taps: np.ndarray, groups: int) -> np.ndarray:
    """A kernel (*window, in / groups, out) as one over all channels, with zeros between a group and the others."""
    if groups == 1:
        return taps
    *window, fan_in, channels = taps.shape
    wide = np.zeros((*window, fan_in * groups, channels), taps.dtype)
    size = channels // groups
    for group in range(groups):
        rows, columns = slice(group * fan_in, (group + 1) * fan_in), slice(group * size, (group + 1) * size)
        wide[..., rows, columns] = taps[..., columns]
    return wide
