"""Equations that are affine in the input: dense layers, convolutions, batch norms, sums."""

import dataclasses
from typing import Any, Literal

import numpy as np

from fpga_bridge.tracing.pointwise_rules import pairwise, softmax_part
from fpga_bridge.tracing.resampling_rules import insert_zeros, interpolation, ungrouped, with_holes, zero_pad
from fpga_bridge.tracing.values import Builder, Const, Partial, Tensor, Value, completed, tensor, weight
from fpga_bridge.typed_graph.graph import Add, Affine, Conv, Dense, Multiply, Reshape, Softmax, Transpose, Weight
from fpga_bridge.typed_graph.source import Place, refuse


def layer_name(const: Const, place: Place, fallback: str) -> str:
    """The path of the parameters that the weight was made of, without the leaf's own name."""
    if const.origin:
        path = sorted(const.origin)[0]
        return "_".join(path[:-1] or path)
    return place.name(fallback)


def lower_weighted_sum(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """`x @ kernel` as a dense layer, or as a convolution where a reshape made patches.

    Raises:
        ExportError: other axes than the last, or an interpolation as a matrix.
    """
    (lhs_contract, rhs_contract), (lhs_batch, _) = equation.params["dimension_numbers"]
    x, kernel = inputs
    if isinstance(x, Const) and (operation := interpolation(x)) is not None:
        raise refuse(
            operation,
            place.source,
            "it interpolates between pixels, and hls4ml has upsampling to the nearest only",
            'use jax.image.resize(x, shape, "nearest") or jnp.repeat, and a convolution behind it to smooth',
        )
    if isinstance(x, Const) and isinstance(kernel, Tensor):
        return _weight_on_the_left(builder, equation, kernel, x, place)
    assert isinstance(x, Tensor)
    assert isinstance(kernel, Const)  # of two activations there is another rule
    rank = len(x.shape) + 1
    if len(lhs_contract) == 1 and lhs_contract[0] not in (0, rank - 1):
        axis, lhs_contract = int(lhs_contract[0]), (rank - 1,)
        x = permuted(builder, x, (*(i for i in range(rank) if i != axis), axis), place)
    if lhs_batch or tuple(lhs_contract) != (rank - 1,) or kernel.array.ndim != 2:
        raise refuse(
            "dot_general",
            place.source,
            f"it contracts axes {tuple(lhs_contract)} of {rank} with a kernel of shape {kernel.array.shape}",
            "contract the last axis with a matrix (transpose or flatten first)",
        )
    matrix = kernel.array if tuple(rhs_contract) == (0,) else kernel.array.T
    shape = (*x.shape[:-1], matrix.shape[1])
    name = layer_name(kernel, place, "dense")
    patches = _patch_convolution(builder, x, name, weight(kernel, matrix), place)
    if patches is not None:
        return patches
    return builder.emit(
        Dense, name, inputs=(x.name,), shape=shape, source=place.source, kernel=weight(kernel, matrix), bias=None
    )


def _weight_on_the_left(builder: Builder, equation: Any, x: Tensor, kernel: Const, place: Place) -> Partial:
    """A dense layer along the axis that is summed over, until a transpose brings the batch back to the front."""
    (over, along), (batched, _) = equation.params["dimension_numbers"]
    rank, whole = len(x.shape) + 1, kernel.array.ndim
    if batched or len(along) != 1 or along[0] == 0 or whole < 2:
        raise refuse(
            "dot_general",
            place.source,
            f"it contracts axes {tuple(along)} of {rank} with a weight of shape {kernel.array.shape} on the left",
            "contract one axis of a sample with a matrix, which the other axes share",
        )
    free = [axis for axis in range(whole) if axis != over[0]]
    sizes = tuple(kernel.array.shape[axis] for axis in free)
    matrix = kernel.array.transpose(over[0], *free).reshape(x.shape[along[0] - 1], -1)
    rest = [axis for axis in range(rank) if axis != along[0]]
    if along[0] != rank - 1:
        x = permuted(builder, x, (*rest, along[0]), place)
    y = builder.emit(
        Dense, layer_name(kernel, place, "dense"), inputs=(x.name,), shape=(*x.shape[:-1], matrix.shape[1]),
        source=place.source, kernel=weight(kernel, matrix), bias=None,
    )  # fmt: skip
    if len(sizes) > 1:
        y = builder.emit(
            Reshape, place.name("reshape"), inputs=(y.name,), shape=(*x.shape[:-1], *sizes), source=place.source
        )
    return Partial(
        "moved",
        y,
        "dot_general",
        place.source,
        "a weight on the left puts its own axes before the batch",
        'write x @ kernel, or move the batch to the front at once, as jnp.einsum("bsc,sd->bdc", x, kernel) does',
        order=(*range(rank - 1, rank - 1 + len(sizes)), *range(rank - 1)),
    )


def permuted(builder: Builder, x: Tensor, perm: tuple[int, ...], place: Place) -> Tensor:
    """The axes of a sample in another order; `perm` counts that of the batch, which stays."""
    if perm == tuple(range(len(perm))):
        return x
    return builder.emit(
        Transpose, place.name("transpose"), inputs=(x.name,), shape=tuple(x.shape[i - 1] for i in perm[1:]),
        source=place.source, perm=tuple(i - 1 for i in perm[1:]),
    )  # fmt: skip


def _patch_convolution(builder: Builder, x: Tensor, name: str, kernel: Weight, place: Place) -> Tensor | None:
    """Reshape (P, C) -> (P/k, k C), then a matrix: a convolution of kernel = stride = k, which streams."""
    node = builder.nodes[x.name]
    if not isinstance(node, Reshape) or len(x.shape) != 2:
        return None
    before = builder.nodes[node.inputs[0]].shape
    if len(before) != 2 or x.shape[0] == 0 or before[0] % x.shape[0] or before[0] == x.shape[0]:
        return None
    size = before[0] // x.shape[0]
    return builder.emit(
        Conv,
        name,
        inputs=node.inputs,
        shape=(x.shape[0], kernel.value.shape[1]),
        source=place.source,
        kernel=dataclasses.replace(kernel, value=kernel.value.reshape(size, before[1], -1)),
        strides=(size,),
        padding="valid",
    )


def lower_convolution(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A convolution over one or two axes, channels last; transposed, dilated and grouped ones with zeros.

    Raises:
        ExportError: a kernel that is not known, channels elsewhere, groups of the batch, or a padding that is neither.
    """
    params = equation.params
    x, kernel = inputs
    if not isinstance(x, Tensor) or not isinstance(kernel, Const):
        raise refuse("conv_general_dilated", place.source, "its kernel is not a parameter", "convolve with a parameter")
    spec = params["dimension_numbers"]
    rank = len(x.shape) + 1
    spatial = tuple(range(1, rank - 1))
    in_order = (0, rank - 1, *spatial)
    if params["batch_group_count"] != 1:
        raise refuse(
            "conv_general_dilated",
            place.source,
            f"its kernels differ between {params['batch_group_count']} parts of the batch",
            "use groups of channels, by feature_group_count",
        )
    if rank not in (3, 4) or tuple(spec.lhs_spec) != in_order or tuple(spec.out_spec) != in_order:
        raise refuse(
            "conv_general_dilated",
            place.source,
            f"its input has {rank - 2} spatial axes in the layout {tuple(spec.lhs_spec)}",
            "use one or two spatial axes, channels last",
        )
    taps = np.transpose(kernel.array, (*spec.rhs_spec[2:], spec.rhs_spec[1], spec.rhs_spec[0]))
    taps = ungrouped(with_holes(taps, tuple(params["rhs_dilation"])), params["feature_group_count"])
    x = insert_zeros(builder, x, tuple(params["lhs_dilation"]), place)
    strides = tuple(params["window_strides"])
    padding = padding_name(x.shape[:-1], taps.shape[:-2], strides, params["padding"])
    if padding is None:
        x, padding = zero_pad(builder, x, [tuple(pad) for pad in params["padding"]], place), "valid"
    return builder.emit(
        Conv,
        layer_name(kernel, place, "conv"),
        inputs=(x.name,),
        shape=tuple(equation.outvars[0].aval.shape[1:]),
        source=place.source,
        kernel=weight(kernel, taps),
        strides=strides,
        padding=padding,
    )


def padding_of(
    sizes: tuple[int, ...],
    window: tuple[int, ...],
    *,
    strides: tuple[int, ...],
    pads: Any,
    operation: str,
    place: Place,
) -> Literal["valid", "same"]:
    """The padding by name, computed as Keras does.

    Raises:
        ExportError: for any other padding.
    """
    name = padding_name(sizes, window, strides, pads)
    if name is None:
        pads = [tuple(pad) for pad in pads]
        raise refuse(operation, place.source, f"it pads by {pads}", "use padding='SAME' or padding='VALID'")
    return name


def padding_name(
    sizes: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...], pads: Any
) -> Literal["valid", "same"] | None:
    """What Keras calls a padding; None where it has no name for it."""
    pads = [tuple(pad) for pad in pads]
    if all(pad == (0, 0) for pad in pads):
        return "valid"
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, window, strides, strict=True)]
    return "same" if pads == [(total // 2, total - total // 2) for total in totals] else None


def per_channel(const: Const, x: Tensor, operation: str, place: Place) -> np.ndarray:
    """The constant as one number for each channel."""
    shape = (1,) * (len(x.shape) + 1 - const.array.ndim) + const.array.shape
    if any(n != 1 for n in shape[:-1]):
        reduced = const.array.reshape(-1, shape[-1])
        if not (reduced == reduced[:1]).all():
            raise refuse(
                operation,
                place.source,
                f"its constant of shape {const.array.shape} differs between positions",
                "use one number for each channel (the last axis), or a dense layer on the flattened map",
            )
        flat = reduced[0]
    else:
        flat = const.array.reshape(shape[-1])
    return np.broadcast_to(flat, x.shape[-1:]).astype(np.float32)


def affine(
    builder: Builder,
    x: Tensor,
    place: Place,
    operation: str,
    const: Const,
    *,
    scale: np.ndarray | None = None,
    offset: np.ndarray | None = None,
) -> Tensor:
    """`x * scale + offset`, folded into the affine map that made `x` where there is one."""
    before = builder.nodes[x.name]
    width = x.shape[-1]
    name = layer_name(const, place, operation)
    old_scale = Weight(np.ones(width, np.float32))
    old_offset = Weight(np.zeros(width, np.float32))
    source, inputs = place.source, (x.name,)
    if isinstance(before, Affine):
        old_scale, old_offset, inputs = before.scale, before.offset, before.inputs
    new_scale, new_offset = old_scale, old_offset
    if scale is not None:
        plain = (old_scale.value == 1).all()
        product = old_scale.value.astype(np.float64) * scale
        new_scale = _folded(product, const, None if plain else old_scale)
        if old_offset.value.any():
            new_offset = _folded(old_offset.value.astype(np.float64) * scale, const, old_offset)
    if offset is not None:
        plain = not old_offset.value.any()
        total = old_offset.value.astype(np.float64) + offset
        new_offset = _folded(total, const, None if plain else old_offset)
    if isinstance(before, Affine) and not const.origin:
        return builder.amend(x, scale=new_scale, offset=new_offset)
    return builder.emit(Affine, name, inputs=inputs, shape=x.shape, source=source, scale=new_scale, offset=new_offset)


def _folded(exact: np.ndarray, const: Const, old: Weight | None) -> Weight:
    """What is left of a constant and of the one that it met, if any."""
    value = exact.astype(np.float32)
    rounded = const.rounded or not np.array_equal(value, exact, equal_nan=True)
    if old is None:
        return dataclasses.replace(weight(const, value), rounded=rounded)
    return Weight(value, None, rounded or old.rounded)


def lower_mul(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A product of activations, a scale for each channel, or the end of a mean."""
    x, const = inputs if isinstance(inputs[1], Const) else inputs[::-1]
    if isinstance(x, Partial) and isinstance(const, Const):
        return _mean(builder, x, const, const.array.astype(np.float64), place)
    if isinstance(x, Tensor) and isinstance(const, Tensor):
        return pairwise(builder, Multiply, x, const, place)
    assert isinstance(x, Tensor)
    assert isinstance(const, Const)  # half of a pattern, which only a constant completes, is refused before the rules
    if not const.origin and not const.array.any():
        return Const(np.zeros(equation.outvars[0].aval.shape, np.float32))
    return affine(builder, x, place, "scale", const, scale=per_channel(const, x, "mul", place))


def lower_div(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A softmax, a mean, or a scale.

    Raises:
        ExportError: a quotient of activations that is none of these.
    """
    x, divisor = inputs
    if isinstance(x, Partial) and isinstance(divisor, Partial):
        if (x.kind, divisor.kind) == ("exp", "exp_sum") and x.base == divisor.base:
            return builder.emit(
                Softmax, place.name("softmax"), inputs=(x.base.name,), shape=x.base.shape, source=x.source
            )
    elif isinstance(x, Partial) and isinstance(divisor, Const):
        return _mean(builder, x, divisor, np.asarray(1.0 / divisor.array.astype(np.float64)), place)
    elif isinstance(x, Tensor) and isinstance(divisor, Const):
        factor = inverse(divisor)
        return affine(builder, x, place, "scale", factor, scale=per_channel(factor, x, "div", place))
    raise refuse("div", place.source, "it divides by an activation", "only a softmax over the last axis may do so")


def inverse(divisor: Const) -> Const:
    """1 over a constant, in float32."""
    whole = divisor.array.astype(np.float64)
    values = np.asarray(1.0 / whole, np.float32)
    rounded = divisor.rounded or not (values.astype(np.float64) * whole == 1).all()
    return Const(values, divisor.origin, rounded=rounded)


def _mean(builder: Builder, total: Partial, const: Const, factor: np.ndarray, place: Place) -> Tensor:
    """A sum divided by the number of its terms, or by more, as where each is a sum of members."""
    share = factor * total.count
    if total.kind not in ("sum", "window_sum") or not (share == share.flat[0]).all():
        raise refuse(total.operation, total.source, total.why, total.instead)
    mean = builder.emit_node(builder.nodes[total.base.name], place.name("average_pool"))
    if np.allclose(share, 1.0, rtol=1e-6):
        return mean
    if total.count & (total.count - 1):  # no mean of so many is exact, and their sum is
        mean, share = tensor(completed(total)), factor
    scale = np.float32(share.flat[0])
    whole = Const(np.asarray(scale), const.origin, rounded=const.rounded or bool(scale != share.flat[0]))
    return affine(builder, mean, place, "scale", whole, scale=np.full(mean.shape[-1], scale))


def lower_add(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A sum of activations, a bias, or an offset for each channel.

    Raises:
        ExportError: a part of a pattern that no sum completes, or an offset that differs between places.
    """
    first, other = inputs if isinstance(inputs[0], Tensor) else inputs[::-1]
    x = tensor(first)
    if isinstance(other, Tensor):
        return pairwise(builder, Add, x, other, place)
    if not isinstance(other, Const):
        raise refuse(other.operation, other.source, other.why, other.instead)
    if not other.origin and not other.array.any():
        return x
    values = per_channel(other, x, "add", place)
    before = builder.nodes[x.name]
    if isinstance(before, Dense | Conv) and before.bias is None:
        return builder.amend(x, bias=weight(other, values))
    return affine(builder, x, place, "offset", other, offset=values)


def lower_sub(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A negative offset, the sum with a negative activation, or a part of softmax.

    Raises:
        ExportError: as for `lower_add`.
    """
    x, other = inputs
    if isinstance(other, Partial) and other.kind == "max" and other.base == x:
        return softmax_part("shifted", other.base, place)
    if isinstance(x, Tensor) and isinstance(other, Const):
        return affine(builder, x, place, "offset", other, offset=-per_channel(other, x, "sub", place))
    if isinstance(x, Const) and isinstance(other, Tensor):
        return affine(
            builder, _negative(builder, other, place), place, "offset", x, offset=per_channel(x, other, "sub", place)
        )
    if isinstance(x, Tensor) and isinstance(other, Tensor):
        return lower_add(builder, equation, [x, _negative(builder, other, place)], place)
    part = x if isinstance(x, Partial) else other
    assert isinstance(part, Partial)  # of two constants the trace knows the difference
    raise refuse(part.operation, part.source, part.why, part.instead)


def lower_neg(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A scale of -1."""
    return _negative(builder, tensor(inputs[0]), place)


def _negative(builder: Builder, x: Tensor, place: Place) -> Tensor:
    return affine(builder, x, place, "scale", Const(np.full((), -1, np.float32)), scale=-np.ones(x.shape[-1]))
