"""One equation of the jaxpr -> nodes of the graph, or an error that names the equation.

Axis 0 of every activation is the batch; the last axis holds the channels. Half-seen patterns (the exponential of a
softmax, the sum of a mean) travel as `Partial` until the equation that completes them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fpga_bridge.tracing import (
    curve_rules,
    linear_rules,
    member_rules,
    pointwise_rules,
    product_rules,
    rectifier_rules,
    resampling_rules,
    selection_rules,
    shape_rules,
    step_rules,
)
from fpga_bridge.tracing.values import Builder, Const, Curve, Operand, Partial, Tensor, Value, completed
from fpga_bridge.typed_graph.source import Place, RefusedOperationError, refuse

_SUPPORTED = (
    "dense, convolution, batch norm, rectifiers, pooling, nearest upsampling, zero padding, add, multiply, "
    "maximum, minimum, concatenate, slice, gather, reshape, transpose, softmax"
)
_TABLE = "or quantize its input (8 to 10 bits) and its result, so that it is a table"
_INSTEAD = {
    "tanh": f"use relu or leaky_relu, {_TABLE}",
    "logistic": (
        f"use relu or leaky_relu; for a probability export the logits and apply the sigmoid afterwards; {_TABLE}"
    ),
    "erf": f"use relu instead of gelu, {_TABLE}",
    "erfc": f"use relu instead of gelu, {_TABLE}",
    "log": "export the logits and take log_softmax afterwards",
    "rsqrt": (
        "instead of a layer norm use a batch norm, which folds into ChannelAffine of jaxgeo.layers.normalization, "
        f"{_TABLE}"
    ),
    "tile": "repeat pixels next to themselves, by jnp.repeat(x, factor, axis)",
    "sort": "export what it sorts, and sort afterwards; or use jnp.maximum and jnp.minimum of pairs",
    "cumsum": "use a dense layer",
    "while": "write the loop with a fixed number of passes",
    "cond": "compute both branches or fix the choice before export",
}


Rule = Callable[[Builder, Any, list[Value], Place], Value]
_RULES: dict[str, Rule] = {
    "dot_general": product_rules.lower_dot_general,
    "conv_general_dilated": linear_rules.lower_convolution,
    "add": linear_rules.lower_add,
    "add_any": linear_rules.lower_add,
    "sub": linear_rules.lower_sub,
    "mul": linear_rules.lower_mul,
    "div": linear_rules.lower_div,
    "neg": linear_rules.lower_neg,
    "max": rectifier_rules.lower_max,
    "min": rectifier_rules.lower_min,
    "square": pointwise_rules.lower_square,
    "integer_pow": pointwise_rules.lower_square,
    "ge": rectifier_rules.lower_compare,
    "gt": rectifier_rules.lower_compare,
    "le": rectifier_rules.lower_compare,
    "lt": rectifier_rules.lower_compare,
    "select_n": rectifier_rules.lower_select_n,
    "exp": pointwise_rules.lower_exp,
    "reduce_max": shape_rules.lower_reduce,
    "reduce_sum": shape_rules.lower_reduce,
    "reduce_window_max": shape_rules.lower_reduce_window,
    "reduce_window_sum": shape_rules.lower_reduce_window,
    "reshape": shape_rules.lower_reshape,
    "squeeze": shape_rules.lower_reshape,
    "expand_dims": shape_rules.lower_reshape,
    "broadcast_in_dim": shape_rules.lower_broadcast_in_dim,
    "transpose": shape_rules.lower_transpose,
    "concatenate": shape_rules.lower_concatenate,
    "slice": selection_rules.lower_slice,
    "dynamic_slice": selection_rules.lower_dynamic_slice,
    "rev": selection_rules.lower_rev,
    "gather": resampling_rules.lower_gather,
    "pad": resampling_rules.lower_pad,
    "convert_element_type": shape_rules.lower_convert,
    "copy": shape_rules.lower_pass,
    "copy_p": shape_rules.lower_pass,
    "stop_gradient": shape_rules.lower_pass,
    "fixed_point_quantize": pointwise_rules.lower_quantize,
    "fixed_point_table": curve_rules.lower_table,
}

# What an equation is that was half of a pattern, where nothing completes it.
_WHOLE: dict[str, Rule] = {
    "reduce_max": shape_rules.lower_channel_maximum,
    "reduce_sum": shape_rules.lower_pixel_sum,
    "reduce_window_sum": shape_rules.lower_window_sum,
}

# What computes number by number of two arrays, one of which JAX may copy along axes of one.
_BY_NUMBER = frozenset({
    "add", "add_any", "atan2", "div", "eq", "ge", "gt", "le", "lt", "max", "min", "mul", "ne", "pow", "rem", "sub",
})  # fmt: skip

# Which equation may read which half-seen pattern; any other reader gets the pattern's own error.
_COMPLETIONS = {
    *((kind, name) for kind in ("max", "exp_sum") for name in ("reshape", "broadcast_in_dim", "stop_gradient", "copy")),
    *(("number", name) for name in ("reshape", "broadcast_in_dim", "stop_gradient", "copy")),
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
    ("repeat", "reshape"),
    ("moved", "transpose"),
    *((kind, "transpose") for kind in ("positive", "negative", "curve")),  # jax.vmap puts axes of members in front
}


def lower(builder: Builder, equation: Any, inputs: list[Any], place: Place) -> Operand:
    """The value of an equation that depends on the input of the network."""
    empty = equation.outvars[0].aval
    if not empty.size:  # half of a roll by nothing, edges of no width
        return Const(np.zeros(empty.shape, np.float32))
    for rule in (step_rules.lower_steps, member_rules.lower_members):
        parts = rule(builder, equation, inputs, place, lower)
        if parts is not None:
            return parts
    result = _lower(builder, equation, inputs, place)
    if isinstance(result, Tensor) and result not in inputs:
        builder.origins.setdefault(result.name, (equation, inputs))
    if isinstance(result, Partial) and result.kind in ("max", "shifted", "sum", "window_sum"):
        # Once, however many read it.
        whole = functools.cache(functools.partial(_as_layers, builder, equation, inputs, place))
        return dataclasses.replace(result, whole=whole)
    return result


def _as_layers(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """What is a part of a softmax or of a mean, where none follows."""
    name = equation.primitive.name
    rule = _WHOLE.get(name, _RULES[name])
    return rule(builder, equation, [completed(value) for value in inputs], place)


def _lower(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """As a curve where it can be nothing else, or where it is no layer."""
    name = equation.primitive.name
    inputs = _copied(builder, equation, inputs, place)
    if name == "fixed_point_quantize":
        table = curve_rules.lower_quantized(builder, inputs[0], equation.params["format"], place)
        if table is not None:
            return table
    if name == "fixed_point_table" and isinstance(inputs[0], Curve):
        return curve_rules.lower_table(builder, equation, inputs, place)
    if curve_rules.is_function(name) or any(isinstance(value, Curve) for value in inputs):
        curve = curve_rules.lower_curve(builder, equation, inputs, place)
        if curve is not None:
            return curve
    try:
        return _lower_to_layer(builder, equation, inputs, place)
    except RefusedOperationError as refused:
        curve = curve_rules.lower_curve(builder, equation, inputs, place, refused)
        found = curve or curve_rules.lower_looked_up(builder, equation, inputs, place)
        if found is None:
            raise
        return found


def _copied(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> list[Value]:
    """The inputs, an activation that a larger constant copies along axes of one being copied."""
    name, result = equation.primitive.name, equation.outvars[0].aval
    sizes = [
        atom.aval.size for atom, value in zip(equation.invars, inputs, strict=True) if not isinstance(value, Const)
    ]
    if name not in _BY_NUMBER or result.size == max(sizes):
        return inputs
    copies: list[Value] = []
    for value in map(completed, inputs):
        if isinstance(value, Partial):
            why = "a constant with more numbers copies it along an axis of one"
            raise refuse(name, place.source, why, "copy what a quantizer has rounded, by jnp.broadcast_to")
        is_tensor = isinstance(value, Tensor)
        copies.append(resampling_rules.expanded(builder, value, tuple(result.shape[1:]), place) if is_tensor else value)
    return copies


def _lower_to_layer(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """As what completes a pattern, or of patterns that are layers too."""
    try:
        return _apply_rule(builder, equation, inputs, place)
    except RefusedOperationError:
        if not any(isinstance(value, Partial) and value.whole is not None for value in inputs):
            raise
    return _apply_rule(builder, equation, [completed(value) for value in inputs], place)


def _apply_rule(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    name = equation.primitive.name
    for value in inputs:
        if isinstance(value, Partial) and (value.kind, name) not in _COMPLETIONS:
            raise refuse(value.operation, value.source, value.why, value.instead)
    rule = _RULES.get(name)
    if rule is None:
        raise refuse(name, place.source, "the bridge has no such layer", _INSTEAD.get(name, f"use {_SUPPORTED}"))
    return rule(builder, equation, inputs, place)
