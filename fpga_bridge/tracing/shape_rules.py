"""Equations that move or reduce: pooling, reshape, transpose, concatenate."""

import dataclasses
import math
from typing import Any

import numpy as np

from fpga_bridge.tracing.linear_rules import affine, padding_of, permuted
from fpga_bridge.tracing.pointwise_rules import pairwise, softmax_part
from fpga_bridge.tracing.resampling_rules import complete_repeat, repeated, zero_pad
from fpga_bridge.tracing.selection_rules import ONE, select
from fpga_bridge.tracing.values import Builder, Const, Partial, Tensor, Value, tensor
from fpga_bridge.typed_graph.graph import Concatenate, Conv, Dense, GlobalPool, Maximum, Pool, Reshape, Source, Weight
from fpga_bridge.typed_graph.source import Place, refuse


def lower_reduce(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """Global pooling, a sum over channels, or a part of softmax.

    Raises:
        ExportError: other axes.
    """
    maximum = equation.primitive.name == "reduce_max"
    axes = tuple(equation.params["axes"])
    part = inputs[0]
    if isinstance(part, Partial):
        if axes == (len(part.base.shape),):
            return softmax_part("exp_sum", part.base, place)
        raise refuse(part.operation, part.source, part.why, part.instead)
    x = tensor(part)
    rank = len(x.shape) + 1
    if maximum and axes == (rank - 1,):
        return softmax_part("max", x, place)
    if axes == (rank - 1,):
        kernel = Weight(np.ones((x.shape[-1], 1), np.float32), ONE)
        shape = (*x.shape[:-1], 1)
        y = builder.emit(Dense, place.name("sum"), inputs=(x.name,), shape=shape, source=place.source, kernel=kernel)
        return _without_channels(builder, y, equation, place)
    if axes != tuple(range(1, rank - 1)) or rank not in (3, 4):
        raise refuse(
            equation.primitive.name,
            place.source,
            f"it runs over axes {axes} of an array with {rank}",
            "reduce over the channels alone, or over all axes between the batch and the channels, one or two of them, "
            "or emit Verilog by fpga_bridge.circuits.rtl.emit_function",
        )
    fields = dict(inputs=(x.name,), shape=x.shape[-1:], source=place.source)
    if maximum:
        return builder.emit(GlobalPool, place.name("max_pool"), reduce="max", **fields)
    pooled = builder.emit(GlobalPool, place.name("average_pool"), reduce="average", **fields)
    return _sum_part("sum", pooled, int(np.prod(x.shape[:-1])), place)


def lower_channel_maximum(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """The largest channel of each place: of two halves, of their halves, and so on, which streams."""
    x = tensor(inputs[0])
    places = [np.arange(size) for size in x.shape[:-1]]
    while (width := x.shape[-1]) > 1:
        half = -(-width // 2)  # the channel in the middle may be in both
        first, last = (
            select(builder, x, [*places, np.arange(start, start + half)], "half", place) for start in (0, width - half)
        )
        x = pairwise(builder, Maximum, first, last, place)
    return _without_channels(builder, x, equation, place)


def lower_pixel_sum(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """The sum of all pixels: zeros make their number a power of two, by which their mean is multiplied, exactly."""
    x = tensor(inputs[0])
    sizes = [1 << (size - 1).bit_length() for size in x.shape[:-1]]
    x = zero_pad(builder, x, [(0, size - old) for size, old in zip(sizes, x.shape, strict=False)], place)
    mean = builder.emit(
        GlobalPool, place.name("average_pool"), inputs=(x.name,), shape=x.shape[-1:], source=place.source,
        reduce="average",
    )  # fmt: skip
    count = np.float32(math.prod(sizes))
    return affine(builder, mean, place, "sum", Const(np.asarray(count)), scale=np.full(x.shape[-1], count))


def lower_window_sum(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """The sums of windows: a convolution of ones, each channel by itself."""
    x, params = tensor(inputs[0]), equation.params
    window, strides = tuple(params["window_dimensions"][1:-1]), tuple(params["window_strides"][1:-1])
    ones = np.broadcast_to(np.eye(x.shape[-1], dtype=np.float32), (*window, x.shape[-1], x.shape[-1]))
    return builder.emit(
        Conv, place.name("sum"), inputs=(x.name,), shape=tuple(equation.outvars[0].aval.shape[1:]), source=place.source,
        kernel=Weight(ones, ONE), strides=strides, padding="valid",
    )  # fmt: skip


def _without_channels(builder: Builder, x: Tensor, equation: Any, place: Place) -> Value:
    """One channel as none."""
    if len(x.shape) > 1:
        return builder.emit(Reshape, place.name("reshape"), inputs=(x.name,), shape=x.shape[:-1], source=place.source)
    name = equation.primitive.name
    why = "it leaves one number of a sample, without an axis"
    return Partial("number", x, name, place.source, why, "keep the axis of the channels, by keepdims=True")


def _sum_part(kind: str, pooled: Tensor, count: int, place: Place) -> Partial:
    return Partial(
        kind,
        pooled,
        "sum",
        place.source,
        "a sum over neighbours that is not divided by their number",
        "use the mean",
        count,
    )


def lower_reduce_window(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """Pooling over windows.

    Raises:
        ExportError: windows over the batch or the channels, with holes, or means over padding.
    """
    x = tensor(inputs[0])
    params = equation.params
    window, strides = tuple(params["window_dimensions"]), tuple(params["window_strides"])
    pads = [tuple(pad) for pad in params["padding"]]
    rank = len(x.shape) + 1
    if (
        rank not in (3, 4)
        or any(d != 1 for d in (*params["base_dilation"], *params["window_dilation"]))
        or any(n != 1 for n in (window[0], window[-1], strides[0], strides[-1]))
    ):
        raise refuse(
            equation.primitive.name,
            place.source,
            f"its window {window} with strides {strides} is not one over one or two axes between batch and channels",
            "pool over space only, without dilation",
        )
    maximum = equation.primitive.name == "reduce_window_max"
    operation = "max pooling" if maximum else "average pooling"
    window, strides = window[1:-1], strides[1:-1]
    padding = padding_of(x.shape[:-1], window, strides=strides, pads=pads[1:-1], operation=operation, place=place)
    if not maximum and padding == "same":
        raise refuse(
            operation,
            place.source,
            "its windows reach beyond the border: with the padding counted its means are none of Keras, and without it "
            "they are of fewer numbers there, which is rarely exact in binary",
            "use padding='VALID', behind jnp.pad where zeros are to count in the mean",
        )
    pooled = builder.emit(
        Pool,
        place.name("max_pool" if maximum else "average_pool"),
        inputs=(x.name,),
        shape=tuple(equation.outvars[0].aval.shape[1:]),
        source=place.source,
        reduce="max" if maximum else "average",
        window=window,
        strides=strides,
        padding=padding,
    )
    return pooled if maximum else _sum_part("window_sum", pooled, int(np.prod(window)), place)


def lower_reshape(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """The axes of a sample under another shape.

    Raises:
        ExportError: a shape that moves numbers between samples, or one number without an axis.
    """
    if isinstance(inputs[0], Partial):
        if inputs[0].kind == "repeat":
            return complete_repeat(builder, equation, inputs[0], place)
        if inputs[0].kind == "number":
            return _with_axes(builder, equation, inputs[0], place)
        return inputs[0]  # an axis of one, for the maximum or the sum of a softmax
    x = tensor(inputs[0])
    new, old = equation.outvars[0].aval.shape, equation.invars[0].aval.shape
    name = equation.primitive.name
    if new[:1] != old[:1] or int(np.prod(new)) != int(np.prod(old)):
        why = "it repeats values" if np.prod(new) != np.prod(old) else "it merges the batch axis with others"
        raise refuse(name, place.source, why, "reshape the axes of one sample only")
    if not new[1:]:
        raise refuse(name, place.source, "it leaves one number without an axis", "keep the channel axis")
    if new == old:
        return x
    before = builder.nodes[x.name]
    inputs_ = before.inputs if isinstance(before, Reshape) else (x.name,)
    if tuple(new[1:]) == builder.nodes[inputs_[0]].shape:
        return Tensor(inputs_[0], tuple(new[1:]))
    return builder.emit(Reshape, place.name("reshape"), inputs=inputs_, shape=tuple(new[1:]), source=place.source)


def _with_axes(builder: Builder, equation: Any, number: Partial, place: Place) -> Value:
    """A number of a sample under axes of one."""
    shape = tuple(equation.outvars[0].aval.shape[1:])
    if not shape or math.prod(shape) != 1:
        raise refuse(number.operation, number.source, number.why, number.instead)
    if shape == number.base.shape:
        return number.base
    return builder.emit(Reshape, place.name("reshape"), inputs=(number.base.name,), shape=shape, source=place.source)


def lower_broadcast_in_dim(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """An axis of one, which is a reshape; or copies, which a reshape makes to nearest upsampling.

    Raises:
        ExportError: axes in another order.
    """
    dimensions = equation.params["broadcast_dimensions"]
    if tuple(dimensions) != tuple(sorted(dimensions)):
        raise refuse("broadcast_in_dim", place.source, "it permutes axes", "use transpose")
    if isinstance(inputs[0], Tensor) and math.prod(equation.outvars[0].aval.shape) > math.prod(
        equation.invars[0].aval.shape
    ):
        return repeated(builder, equation, inputs[0], place)
    return lower_reshape(builder, equation, inputs, place)


def lower_transpose(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """The axes of a sample permuted.

    Raises:
        ExportError: a batch that does not stay in front.
    """
    x, perm = inputs[0], tuple(equation.params["permutation"])
    if perm == tuple(range(len(perm))):
        return x
    if isinstance(x, Partial) and x.kind == "moved":
        order = tuple(x.order[axis] for axis in perm)
        return dataclasses.replace(x, order=order) if order[0] else permuted(builder, x.base, order, place)
    if isinstance(x, Partial):
        raise refuse(x.operation, x.source, x.why, x.instead)
    x = tensor(x)
    if perm[0] != 0:
        raise refuse("transpose", place.source, "it moves the batch axis", "permute the axes of one sample only")
    return permuted(builder, x, perm, place)


def lower_concatenate(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """Activations joined along an axis of a sample.

    Raises:
        ExportError: samples joined, or constants among the activations.
    """
    axis = int(equation.params["dimension"])  # jnp.roll gives a number of NumPy
    inputs = [value for value in inputs if not isinstance(value, Const) or value.array.size]
    if len(inputs) == 1:
        return inputs[0]
    if axis == 0 or not all(isinstance(value, Tensor) for value in inputs):
        why = "it joins along the batch axis" if axis == 0 else "it joins a constant to an activation"
        raise refuse("concatenate", place.source, why, "join activations along the axes of one sample")
    return join(builder, [tensor(value) for value in inputs], axis - 1, place.name("concatenate"), place.source)


def join(builder: Builder, parts: list[Tensor], axis: int, name: str, source: Source) -> Tensor:
    """Activations joined along `axis`, one after the other: hls4ml joins two at a time."""
    joined = parts[0]
    for count, part in enumerate(parts[1:], 2):
        shape = list(joined.shape)
        shape[axis] += part.shape[axis]
        joined = builder.emit(
            Concatenate,
            name if count == len(parts) else f"{name}_of_{count}",
            inputs=(joined.name, part.name),
            shape=tuple(shape),
            source=source,
            axis=axis,
        )
    return joined


def lower_pass(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """Nothing to do in hardware."""
    return inputs[0]


def lower_convert(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A dtype that changes no value.

    Raises:
        ExportError: a dtype other than a float.
    """
    dtype = np.dtype(equation.params["new_dtype"])
    if dtype not in (np.float32, np.float64):
        raise refuse(
            "convert_element_type", place.source, f"it computes in {dtype.name}", "use float32 and fixed-point formats"
        )
    return inputs[0]
