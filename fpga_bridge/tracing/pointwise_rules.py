"""Equations that act number by number, the quantiser among them, and the parts of a softmax."""

from typing import Any

import numpy as np

from fpga_bridge.tracing.resampling_rules import expanded
from fpga_bridge.tracing.values import Builder, Partial, Tensor, Value, tensor
from fpga_bridge.typed_graph.graph import Multiply, Node, Quantize
from fpga_bridge.typed_graph.source import Place, refuse


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
