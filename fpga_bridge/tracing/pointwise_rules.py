"""Equations that act on each number alone, the quantiser among them, and the parts of a softmax."""

from typing import Any

import numpy as np

from fpga_bridge.graph import Affine, LeakyRelu, Maximum, Minimum, Multiply, Node, Quantize, Relu
from fpga_bridge.source import Place, refuse
from fpga_bridge.tracing.resampling_rules import expanded
from fpga_bridge.tracing.values import Builder, Const, Partial, Tensor, Value, tensor

_OF_CONSTANTS = "use relu, or saturate by the range of a quantizer"


def lower_max(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A relu, or the larger of two activations."""
    x, other = inputs if isinstance(inputs[1], Const) else inputs[::-1]
    if isinstance(other, Const) and isinstance(x, Partial) and np.isneginf(other.array).all():
        return x
    if isinstance(other, Const) and isinstance(x, Tensor) and not other.array.any():
        return builder.emit(Relu, place.name("relu"), inputs=(x.name,), shape=x.shape, source=place.source)
    if isinstance(other, Tensor) and isinstance(x, Tensor):
        return pairwise(builder, Maximum, x, other, place)
    raise refuse("max", place.source, "of maxima with a constant only that with zero is a layer", _OF_CONSTANTS)


def lower_min(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """The smaller of two activations."""
    x, other = inputs
    if isinstance(other, Tensor) and isinstance(x, Tensor):
        return pairwise(builder, Minimum, x, other, place)
    raise refuse("min", place.source, "the minimum with a constant is no layer", _OF_CONSTANTS)


def lower_square(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A product with itself."""
    exponent = equation.params.get("y", 2)
    if exponent != 2:
        raise refuse(equation.primitive.name, place.source, f"its exponent is {exponent}", "use x * x, or a table")
    x = tensor(inputs[0])
    return pairwise(builder, Multiply, x, x, place)


def pairwise(builder: Builder, node_type: type[Node], x: Tensor, other: Tensor, place: Place) -> Tensor:
    """Two activations number by number; axes of one are copied first."""
    name = place.name(node_type.__name__.lower())
    shape = np.broadcast_shapes(x.shape, other.shape)
    x, other = (expanded(builder, value, shape, place) for value in (x, other))
    return builder.emit(node_type, name, inputs=(x.name, other.name), shape=x.shape, source=place.source)


def lower_compare(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """The mask of a relu or a leaky relu."""
    x, other = inputs
    name = equation.primitive.name
    if not isinstance(x, Tensor) or not isinstance(other, Const) or other.array.any():
        raise refuse(name, place.source, "only signs can be compared, in relu and leaky_relu", "use relu or leaky_relu")
    kind = "positive" if name in ("ge", "gt") else "negative"
    return Partial(kind, x, name, place.source, "a comparison alone is no layer", "use relu or leaky_relu")


def lower_select_n(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A relu or a leaky relu."""
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
        if factors.size and np.allclose(factors, factors[0], rtol=1e-6) and 0 < factors[0] < 1:
            return builder.emit(
                LeakyRelu,
                place.name("leaky_relu"),
                inputs=(x.name,),
                shape=x.shape,
                source=place.source,
                slope=float(np.float32(factors[0])),
            )
    raise error


def softmax_part(kind: str, base: Tensor, place: Place) -> Partial:
    """Half of a softmax of `base`: its maximum, what is left after subtracting it, the exponential, or their sum."""
    operation = {"max": "reduce_max", "shifted": "sub", "exp": "exp", "exp_sum": "reduce_sum"}[kind]
    return Partial(
        kind,
        base,
        operation,
        place.source,
        "over the last axis it is known only as a part of softmax",
        "use jax.nn.softmax, or export the logits and compute the rest afterwards",
    )


def lower_exp(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A part of softmax."""
    part = inputs[0]
    if isinstance(part, Partial):
        return softmax_part("exp", part.base, place)
    raise refuse(
        "exp",
        place.source,
        "only the exponential of a softmax over the last axis is known",
        "use jax.nn.softmax, or export the logits and compute the rest afterwards",
    )


def lower_quantize(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A fixed-point quantiser."""
    x = tensor(inputs[0])
    return builder.emit(
        Quantize,
        place.name("quantize"),
        inputs=(x.name,),
        shape=x.shape,
        source=place.source,
        format=equation.params["format"],
    )
