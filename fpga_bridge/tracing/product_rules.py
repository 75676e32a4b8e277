"""Products of matrices of activations, which hls4ml lacks, as products of pixels.

Each row of one matrix meets each row of the other at a pixel of its own: nearest upsampling repeats a row of the first
next to itself, the second is repeated as a whole; their product, number by number, and a dense layer of ones are the
sums. All of it streams. Heads, over which nothing is summed, are rows of an image.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fpga_bridge.tracing.linear_rules import lower_weighted_sum, permuted
from fpga_bridge.tracing.pointwise_rules import pairwise
from fpga_bridge.tracing.resampling_rules import upsample
from fpga_bridge.tracing.selection_rules import ONE
from fpga_bridge.tracing.values import Builder, Partial, Tensor, Value
from fpga_bridge.typed_graph.graph import Dense, Multiply, Reshape, Weight
from fpga_bridge.typed_graph.source import Place, refuse

_MAX_PRODUCTS = 1 << 14  # of a sample; each is a multiplier and a line of C++ where the design is unrolled


def lower_dot_general(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A product with parameters, or of two activations.

    Raises:
        ExportError: a product over samples, of more numbers than hardware should multiply, or as `lower_weighted_sum`.
    """
    x, y = inputs
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return lower_weighted_sum(builder, equation, inputs, place)
    over, along = equation.params["dimension_numbers"]
    if along[0][:1] != (0,) or along[1][:1] != (0,):
        why = "it multiplies activations of one sample by those of another"
        raise refuse("dot_general", place.source, why, "keep the batch in front, by einsum or jax.vmap")
    total = product(builder, (x, y), over, along, place)
    if equation.outvars[0].aval.ndim > 1:
        return total
    why = "it leaves one number of a sample, without an axis"
    return Partial("number", total, "dot_general", place.source, why, "keep an axis, by x[:, None]")


def product(
    builder: Builder,
    factors: tuple[Tensor, Tensor],
    over: tuple[Sequence[int], Sequence[int]],
    along: tuple[Sequence[int], Sequence[int]],
    place: Place,
    *,
    name: str = "",
) -> Tensor:
    """The sums of products, (heads, rows of the first, rows of the second), or of shape (1,) where there are none.

    Args:
        builder: of the graph.
        factors: two activations.
        over: axes of each, that of the batch counted, which are summed over.
        along: axes of each that are heads, the batch first.
        place: for names and lines.
        name: of the layer that sums; empty for one of the place.

    Raises:
        ExportError: more products than hardware should hold, or more axes than a transpose has.
    """
    (x, heads, rows), (y, _, columns) = (
        _ordered(builder, factor, tuple(summed), tuple(held), place)
        for factor, summed, held in zip(factors, over, along, strict=True)
    )
    numbers = math.prod(factors[0].shape[axis - 1] for axis in over[0])
    high, wide, deep = (math.prod(sizes) for sizes in (rows, columns, heads))
    if deep * high * wide * numbers > _MAX_PRODUCTS:
        raise refuse(
            "dot_general",
            place.source,
            f"it multiplies {deep * high * wide * numbers} pairs of activations, each by a multiplier of its own, and "
            f"{_MAX_PRODUCTS} are what is unrolled",
            "multiply smaller matrices, as those of windows, or write x @ kernel with kernel from the parameters",
        )
    head = (deep,) if deep > 1 else ()
    if deep * high * wide > 1:
        ones = (1,) * len(head)
        x = upsample(builder, _reshaped(builder, x, (*head, high, numbers), place), (*ones, wide), place)
        y = upsample(builder, _reshaped(builder, y, (*head, 1, wide * numbers), place), (*ones, high), place)
        y = _reshaped(builder, y, (*head, high * wide, numbers), place)
    else:
        x, y = (_reshaped(builder, factor, (numbers,), place) for factor in (x, y))
    pairs = pairwise(builder, Multiply, x, y, place)
    kernel = Weight(np.ones((numbers, 1), np.float32), ONE)
    total = builder.emit(
        Dense, name or place.name("product"), inputs=(pairs.name,), shape=(*pairs.shape[:-1], 1), source=place.source,
        kernel=kernel,
    )  # fmt: skip
    return _reshaped(builder, total, (*heads, *rows, *columns) or (1,), place)


def _ordered(
    builder: Builder, x: Tensor, over: tuple[int, ...], along: tuple[int, ...], place: Place
) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """Heads first, then rows, then what is summed over; the sizes of heads and of rows."""
    free = tuple(axis for axis in range(len(x.shape) + 1) if axis not in (*over, *along))
    heads, rows = (tuple(x.shape[axis - 1] for axis in axes) for axes in (along[1:], free))
    return permuted(builder, x, (*along, *free, *over), place), heads, rows


def _reshaped(builder: Builder, x: Tensor, shape: tuple[int, ...], place: Place) -> Tensor:
    node = builder.nodes[x.name]
    name = node.inputs[0] if isinstance(node, Reshape) else x.name  # a stream takes no flatten on the way
    if builder.nodes[name].shape == shape:
        return Tensor(name, shape)
    return builder.emit(Reshape, place.name("reshape"), inputs=(name,), shape=shape, source=place.source)
