"""One equation of the jaxpr -> nodes of the graph, or an error that names the equation.

Axis 0 of every activation is the batch; the last axis holds the channels. Half-seen patterns (the exponential of a
softmax, the sum of a mean) travel as `Partial` until the equation that completes them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fpga_bridge.graph import (
    Add,
    Affine,
    Concatenate,
    Conv,
    Dense,
    GlobalPool,
    LeakyRelu,
    Pool,
    Quantize,
    Relu,
    Reshape,
    Softmax,
    Source,
    Transpose,
    Weight,
)
from fpga_bridge.source import refuse
from fpga_bridge.values import Builder, Const, Partial, Tensor, Value, weight
from jaxgeo.errors import ExportError


class Place(NamedTuple):
    """Where an equation comes from: the line, and the module path of its name stack."""

    source: Source
    scope: str

    def name(self, operation: str) -> str:
        """`conv_0_relu` for a relu inside the module conv_0; the outermost module is the model and left out."""
        return "_".join([*self.scope.split("/")[1:], operation])


_SUPPORTED = "dense, convolution, batch norm, relu, leaky relu, pooling, add, concatenate, reshape, transpose, softmax"
_INSTEAD = {
    "tanh": "use relu or leaky_relu",
    "logistic": "use relu or leaky_relu; for a probability export the logits and apply the sigmoid afterwards",
    "erf": "use relu instead of gelu",
    "exp": "only the exponential of a softmax over the last axis is known",
    "log": "export the logits and take log_softmax afterwards",
    "gather": "choose pixels before the network, or reshape so that neighbours are consecutive",
    "dynamic_slice": "choose pixels before the network, or reshape so that neighbours are consecutive",
    "slice": "use strides in a convolution or in a pooling",
    "pad": "use padding='SAME' of the convolution",
    "sort": "use max pooling",
    "cumsum": "use a dense layer",
    "while": "write the loop with a fixed number of passes",
    "scan": "write the loop with a fixed number of passes",
    "cond": "compute both branches or fix the choice before export",
}


def lower(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """The value of an equation that depends on the input of the network."""
    name = equation.primitive.name
    for value in inputs:
        if isinstance(value, Partial) and (value.kind, name) not in _COMPLETIONS:
            raise refuse(value.operation, value.source, value.why, value.instead)
    rule = _RULES.get(name)
    if rule is None:
        raise refuse(name, place.source, "the bridge has no such layer", _INSTEAD.get(name, f"use {_SUPPORTED}"))
    return rule(builder, equation, inputs, place)


# ----- affine maps ---------------------------------------------------------------------------------------------------


def _layer_name(const: Const, place: Place, fallback: str) -> str:
    """The path of the parameters that the weight was made of, without the leaf's own name."""
    if const.origin:
        path = sorted(const.origin)[0]
        return "_".join(path[:-1] or path)
    return place.name(fallback)


def _dot_general(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    (lhs_contract, rhs_contract), (lhs_batch, _) = equation.params["dimension_numbers"]
    x, kernel = inputs
    if not isinstance(x, Tensor) or not isinstance(kernel, Const):
        what = "a product of two activations" if isinstance(kernel, Tensor) else "a weight on the left"
        raise refuse("dot_general", place.source, f"it is {what}", "write x @ kernel with kernel from the parameters")
    rank = len(x.shape) + 1
    if lhs_batch or tuple(lhs_contract) != (rank - 1,) or kernel.array.ndim != 2:
        raise refuse(
            "dot_general",
            place.source,
            f"it contracts axes {tuple(lhs_contract)} of {rank} with a kernel of shape {kernel.array.shape}",
            "contract the last axis with a matrix (transpose or flatten first)",
        )
    matrix = kernel.array if tuple(rhs_contract) == (0,) else kernel.array.T
    shape = (*x.shape[:-1], matrix.shape[1])
    name = _layer_name(kernel, place, "dense")
    patches = _patch_convolution(builder, x, name, weight(kernel, matrix), place)
    if patches is not None:
        return patches
    return builder.emit(
        Dense, name, inputs=(x.name,), shape=shape, source=place.source, kernel=weight(kernel, matrix), bias=None
    )


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
        kernel=Weight(kernel.value.reshape(size, before[1], -1), kernel.format),
        strides=(size,),
        padding="valid",
    )


def _convolution(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    params = equation.params
    x, kernel = inputs
    if not isinstance(x, Tensor) or not isinstance(kernel, Const):
        raise refuse("conv_general_dilated", place.source, "its kernel is not a parameter", "convolve with a parameter")
    spec = params["dimension_numbers"]
    rank = len(x.shape) + 1
    spatial = tuple(range(1, rank - 1))
    in_order = (0, rank - 1, *spatial)
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        raise refuse(
            "grouped convolution",
            place.source,
            "hls4ml computes it wrongly without a word",
            "use one group, or one convolution for each group on its own channels joined by concatenate",
        )
    if any(d != 1 for d in (*params["rhs_dilation"], *params["lhs_dilation"])):
        raise refuse(
            "dilated convolution",
            place.source,
            "hls4ml computes it wrongly without a word where it streams",
            "use a larger kernel, or a stride and a second convolution (no transposed convolution either)",
        )
    if rank not in (3, 4) or tuple(spec.lhs_spec) != in_order or tuple(spec.out_spec) != in_order:
        raise refuse(
            "conv_general_dilated",
            place.source,
            f"its input has {rank - 2} spatial axes in the layout {tuple(spec.lhs_spec)}",
            "use one or two spatial axes, channels last",
        )
    taps = np.transpose(kernel.array, (*spec.rhs_spec[2:], spec.rhs_spec[1], spec.rhs_spec[0]))
    strides = tuple(params["window_strides"])
    return builder.emit(
        Conv,
        _layer_name(kernel, place, "conv"),
        inputs=(x.name,),
        shape=tuple(equation.outvars[0].aval.shape[1:]),
        source=place.source,
        kernel=weight(kernel, taps),
        strides=strides,
        padding=_padding(x.shape[:-1], taps.shape[:-2], strides, params["padding"], "convolution", place),
    )


def _padding(
    sizes: tuple[int, ...],
    window: tuple[int, ...],
    strides: tuple[int, ...],
    pads: Any,
    operation: str,
    place: Place,
) -> str:
    pads = [tuple(pad) for pad in pads]
    if all(pad == (0, 0) for pad in pads):
        return "valid"
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, window, strides, strict=True)]
    if pads == [(total // 2, total - total // 2) for total in totals]:
        return "same"
    raise refuse(operation, place.source, f"it pads by {pads}", "use padding='SAME' or padding='VALID'")


def _per_channel(const: Const, x: Tensor, operation: str, place: Place) -> np.ndarray:
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


def _affine(
    builder: Builder,
    x: Tensor,
    place: Place,
    operation: str,
    const: Const,
    scale: np.ndarray | None,
    offset: np.ndarray | None,
) -> Tensor:
    """`x * scale + offset`, folded into the affine map that made `x` where there is one."""
    before = builder.nodes[x.name]
    width = x.shape[-1]
    name = _layer_name(const, place, operation)
    old_scale = Weight(np.ones(width, np.float32))
    old_offset = Weight(np.zeros(width, np.float32))
    source, inputs = place.source, (x.name,)
    if isinstance(before, Affine):
        old_scale, old_offset, inputs = before.scale, before.offset, before.inputs
    new_scale, new_offset = old_scale, old_offset
    if scale is not None:
        plain = (old_scale.value == 1).all()
        product = old_scale.value.astype(np.float64) * scale
        new_scale = Weight(product.astype(np.float32), const.format if plain else None)
        if old_offset.value.any():
            new_offset = Weight((old_offset.value.astype(np.float64) * scale).astype(np.float32))
    if offset is not None:
        plain = not old_offset.value.any()
        total = old_offset.value.astype(np.float64) + offset
        new_offset = Weight(total.astype(np.float32), const.format if plain else None)
    if isinstance(before, Affine) and not const.origin:
        return builder.amend(x, scale=new_scale, offset=new_offset)
    return builder.emit(
        Affine, name, inputs=inputs, shape=x.shape, source=source, scale=new_scale, offset=new_offset
    )


def _mul(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    x, const = inputs if isinstance(inputs[1], Const) else inputs[::-1]
    if isinstance(x, Partial) and isinstance(const, Const):
        return _mean(builder, x, const.array, place)
    if not isinstance(x, Tensor) or not isinstance(const, Const):
        raise refuse("mul", place.source, "it multiplies two activations", "gate by a constant, or use a dense layer")
    return _affine(builder, x, place, "scale", const, _per_channel(const, x, "mul", place), None)


def _div(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    x, divisor = inputs
    if isinstance(x, Partial) and isinstance(divisor, Partial):
        if (x.kind, divisor.kind) == ("exp", "exp_sum") and x.base == divisor.base:
            return builder.emit(
                Softmax, place.name("softmax"), inputs=(x.base.name,), shape=x.base.shape, source=x.source
            )
    elif isinstance(x, Partial) and isinstance(divisor, Const):
        return _mean(builder, x, 1.0 / divisor.array.astype(np.float64), place)
    elif isinstance(x, Tensor) and isinstance(divisor, Const):
        inverse = Const((1.0 / divisor.array.astype(np.float64)).astype(np.float32), divisor.origin)
        return _affine(builder, x, place, "scale", inverse, _per_channel(inverse, x, "div", place), None)
    raise refuse("div", place.source, "it divides by an activation", "only a softmax over the last axis may do so")


def _mean(builder: Builder, total: Partial, factor: np.ndarray, place: Place) -> Tensor:
    """A sum divided by the number of its terms."""
    node = builder.nodes[total.base.name]
    if total.kind not in ("sum", "window_sum") or not np.allclose(factor * total.count, 1.0, rtol=1e-6):
        raise refuse(total.operation, total.source, total.why, total.instead)
    return builder.emit_node(node, place.name("average_pool"))


def _add(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    x, other = inputs if isinstance(inputs[0], Tensor) else inputs[::-1]
    if isinstance(other, Tensor):
        if x.shape != other.shape:
            raise refuse("add", place.source, f"shapes {x.shape} and {other.shape} differ", "add equal shapes")
        return builder.emit(
            Add, place.name("add"), inputs=(x.name, other.name), shape=x.shape, source=place.source
        )
    values = _per_channel(other, x, "add", place)
    before = builder.nodes[x.name]
    if isinstance(before, Dense | Conv) and before.bias is None:
        return builder.amend(x, bias=Weight(values, other.format))
    return _affine(builder, x, place, "offset", other, None, values)


def _sub(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    x, other = inputs
    if isinstance(other, Partial) and other.kind == "max" and other.base == x:
        return _softmax_part("shifted", x, place)
    if isinstance(x, Tensor) and isinstance(other, Const):
        return _affine(builder, x, place, "offset", other, None, -_per_channel(other, x, "sub", place))
    if isinstance(x, Const) and isinstance(other, Tensor):
        negative = _affine(builder, other, place, "scale", Const(np.float32(-1)), np.float32(-1), None)
        return _affine(builder, negative, place, "offset", x, None, _per_channel(x, other, "sub", place))
    raise refuse("sub", place.source, "it subtracts two activations", "learn the sign: add, after a dense layer")


def _neg(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    (x,) = inputs
    return _affine(builder, x, place, "scale", Const(np.float32(-1)), -np.ones(x.shape[-1], np.float32), None)


# ----- activations ---------------------------------------------------------------------------------------------------


def _max(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    x, other = inputs if isinstance(inputs[1], Const) else inputs[::-1]
    if isinstance(other, Const) and isinstance(x, Partial) and np.isneginf(other.array).all():
        return x
    if isinstance(other, Const) and isinstance(x, Tensor) and not other.array.any():
        return builder.emit(Relu, place.name("relu"), inputs=(x.name,), shape=x.shape, source=place.source)
    raise refuse("max", place.source, "only the maximum with zero is a layer", "use relu, or pooling over neighbours")


def _compare(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    x, other = inputs
    name = equation.primitive.name
    if not isinstance(x, Tensor) or not isinstance(other, Const) or other.array.any():
        raise refuse(name, place.source, "only signs can be compared, in relu and leaky_relu", "use relu or leaky_relu")
    kind = "positive" if name in ("ge", "gt") else "negative"
    return Partial(kind, x, name, place.source, "a comparison alone is no layer", "use relu or leaky_relu")


def _select_n(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    error = refuse("select_n", place.source, "it chooses by the input", "use relu or leaky_relu")
    mask, *cases = inputs
    if not isinstance(mask, Partial) or len(cases) != 2:
        raise error
    below, above = cases if mask.kind == "positive" else cases[::-1]
    x = mask.base
    if above != x:
        raise error
    if isinstance(below, Const) and not below.array.any():
        return builder.emit(Relu, place.name("relu"), inputs=(x.name,), shape=x.shape, source=place.source)
    node = builder.nodes[below.name] if isinstance(below, Tensor) else None
    if isinstance(node, Affine):
        factors = node.scale.value
        before = builder.nodes[x.name]
        if node.inputs != (x.name,) and isinstance(before, Affine) and node.inputs == before.inputs:
            # The multiplication was folded into the affine map that made x; its slope is the ratio.
            ratio = node.scale.value / np.where(before.scale.value == 0, 1, before.scale.value)
            same = np.allclose(node.offset.value, before.offset.value * ratio, rtol=1e-6)
            factors = ratio if same else np.zeros(0)
        elif node.inputs != (x.name,) or node.offset.value.any():
            raise error
        if factors.size and np.allclose(factors, factors[0], rtol=1e-6) and factors[0] < 1:
            return builder.emit(
                LeakyRelu,
                place.name("leaky_relu"),
                inputs=(x.name,),
                shape=x.shape,
                source=place.source,
                slope=float(np.float32(factors[0])),
            )
    raise error


def _softmax_part(kind: str, base: Tensor, place: Place) -> Partial:
    operation = {"max": "reduce_max", "shifted": "sub", "exp": "exp", "exp_sum": "reduce_sum"}[kind]
    return Partial(
        kind,
        base,
        operation,
        place.source,
        "over the last axis it is known only as a part of softmax",
        "use jax.nn.softmax, or export the logits and compute the rest afterwards",
    )


def _exp(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    (x,) = inputs
    if isinstance(x, Partial):
        return _softmax_part("exp", x.base, place)
    if isinstance(x, Tensor):
        raise refuse("exp", place.source, "the bridge has no such layer", _INSTEAD["exp"])
    raise AssertionError("constants are evaluated before the rules")


def _quantize(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    (x,) = inputs
    return builder.emit(
        Quantize,
        place.name("quantize"),
        inputs=(x.name,),
        shape=x.shape,
        source=place.source,
        format=equation.params["format"],
    )


# ----- pooling -------------------------------------------------------------------------------------------------------


def _reduce(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    (x,) = inputs
    maximum = equation.primitive.name == "reduce_max"
    axes = tuple(equation.params["axes"])
    if isinstance(x, Partial):
        if not maximum and x.kind == "exp" and axes == (len(x.base.shape),):
            return _softmax_part("exp_sum", x.base, place)
        raise refuse(x.operation, x.source, x.why, x.instead)
    rank = len(x.shape) + 1
    if maximum and axes == (rank - 1,):
        return _softmax_part("max", x, place)
    if axes != tuple(range(1, rank - 1)) or rank not in (3, 4):
        raise refuse(
            equation.primitive.name,
            place.source,
            f"it runs over axes {axes} of an array with {rank}",
            "reduce over all axes between the batch and the channels, one or two of them",
        )
    fields = dict(inputs=(x.name,), shape=x.shape[-1:], source=place.source)
    if maximum:
        return builder.emit(GlobalPool, place.name("max_pool"), reduce="max", **fields)
    pooled = builder.emit(GlobalPool, place.name("average_pool"), reduce="average", **fields)
    return _sum_part("sum", pooled, int(np.prod(x.shape[:-1])), place)


def _sum_part(kind: str, pooled: Tensor, count: int, place: Place) -> Partial:
    return Partial(
        kind, pooled, "sum", place.source, "a sum over neighbours that is not divided by their number", "use the mean", count
    )


def _reduce_window(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    x = inputs[0]
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
    padding = _padding(x.shape[:-1], window, strides, pads[1:-1], operation, place)
    if not maximum and padding == "same":
        raise refuse(
            operation, place.source, "padded pixels would count in the mean here and not in Keras", "use padding='VALID'"
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


# ----- shapes --------------------------------------------------------------------------------------------------------


def _reshape(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    x = inputs[0]
    new, old = equation.outvars[0].aval.shape, equation.invars[0].aval.shape
    if isinstance(x, Partial):  # keepdims and broadcasts inside softmax; a mean with keepdims
        if x.kind not in ("sum", "window_sum"):
            return x
        reshaped = builder.emit(
            Reshape, place.name("reshape"), inputs=(x.base.name,), shape=tuple(new[1:]), source=place.source
        )
        del reshaped
        raise refuse(x.operation, x.source, x.why, "use the mean, without keepdims, and reshape it afterwards")
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


def _broadcast_in_dim(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    dimensions = equation.params["broadcast_dimensions"]
    if tuple(dimensions) != tuple(sorted(dimensions)):
        raise refuse("broadcast_in_dim", place.source, "it permutes axes", "use transpose")
    return _reshape(builder, equation, inputs, place)


def _transpose(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    (x,) = inputs
    perm = tuple(equation.params["permutation"])
    if perm[0] != 0:
        raise refuse("transpose", place.source, "it moves the batch axis", "permute the axes of one sample only")
    if perm == tuple(range(len(perm))):
        return x
    return builder.emit(
        Transpose,
        place.name("transpose"),
        inputs=(x.name,),
        shape=tuple(x.shape[i - 1] for i in perm[1:]),
        source=place.source,
        perm=tuple(i - 1 for i in perm[1:]),
    )


def _concatenate(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    axis = equation.params["dimension"]
    if axis == 0 or not all(isinstance(value, Tensor) for value in inputs):
        why = "it joins along the batch axis" if axis == 0 else "it joins a constant to an activation"
        raise refuse("concatenate", place.source, why, "join activations along the axes of one sample")
    return builder.emit(
        Concatenate,
        place.name("concatenate"),
        inputs=tuple(value.name for value in inputs),
        shape=tuple(equation.outvars[0].aval.shape[1:]),
        source=place.source,
        axis=axis - 1,
    )


def _pass(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    return inputs[0]


def _convert(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    dtype = np.dtype(equation.params["new_dtype"])
    if dtype not in (np.float32, np.float64):
        raise refuse(
            "convert_element_type", place.source, f"it computes in {dtype.name}", "use float32 and fixed-point formats"
        )
    return inputs[0]


Rule = Callable[[Builder, Any, list[Value], Place], Value]
_RULES: dict[str, Rule] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "add": _add,
    "add_any": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "max": _max,
    "ge": _compare,
    "gt": _compare,
    "le": _compare,
    "lt": _compare,
    "select_n": _select_n,
    "exp": _exp,
    "reduce_max": _reduce,
    "reduce_sum": _reduce,
    "reduce_window_max": _reduce_window,
    "reduce_window_sum": _reduce_window,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "broadcast_in_dim": _broadcast_in_dim,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "convert_element_type": _convert,
    "copy": _pass,
    "copy_p": _pass,
    "stop_gradient": _pass,
    "fixed_point_quantize": _quantize,
}

# Which equation may read which half-seen pattern; any other reader gets the pattern's own error.
_COMPLETIONS = {
    *((kind, name) for kind in ("max", "exp_sum") for name in ("reshape", "broadcast_in_dim", "stop_gradient", "copy")),
    ("max", "max"),
    ("max", "sub"),
    ("shifted", "exp"),
    ("exp", "reduce_sum"),
    ("exp", "div"),
    ("exp_sum", "div"),
    ("sum", "div"),
    ("sum", "mul"),
    ("window_sum", "div"),
    ("window_sum", "mul"),
    ("positive", "select_n"),
    ("negative", "select_n"),
}
__all__ = ["ExportError", "Place", "lower"]
