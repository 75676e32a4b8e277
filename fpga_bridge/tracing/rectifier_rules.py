"""Maxima, minima and choices by a sign or a threshold: what rectifies, and pairs of activations."""

from typing import Any

import numpy as np

from fpga_bridge.tracing.linear_rules import inverse, per_channel
from fpga_bridge.tracing.pointwise_rules import pairwise
from fpga_bridge.tracing.values import Builder, Const, Partial, Tensor, Value, weight
from fpga_bridge.typed_graph.graph import Affine, LeakyRelu, Maximum, Minimum, PRelu, Relu, ThresholdedRelu, Weight
from fpga_bridge.typed_graph.source import Place, refuse

_OF_CONSTANTS = "use relu, or saturate by the range of a quantizer"
_CHOICES = (
    "use relu, leaky_relu, a PReLU jnp.where(x > 0, x, slope * x) with one factor, or jnp.where(x > threshold, x, 0)"
)


def lower_max(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A relu, or the larger of two activations.

    Raises:
        ExportError: a maximum with a constant other than zero.
    """
    x, other = inputs if isinstance(inputs[1], Const) else inputs[::-1]
    if isinstance(other, Const) and np.isneginf(other.array).all():
        return x
    if isinstance(other, Const) and isinstance(x, Tensor) and not other.array.any():
        return builder.emit(Relu, place.name("relu"), inputs=(x.name,), shape=x.shape, source=place.source)
    if isinstance(other, Tensor) and isinstance(x, Tensor):
        return pairwise(builder, Maximum, x, other, place)
    raise refuse("max", place.source, "of maxima with a constant only that with zero is a layer", _OF_CONSTANTS)


def lower_min(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """The smaller of two activations.

    Raises:
        ExportError: a minimum with a constant.
    """
    x, other = inputs
    if isinstance(other, Tensor) and isinstance(x, Tensor):
        return pairwise(builder, Minimum, x, other, place)
    raise refuse("min", place.source, "the minimum with a constant is no layer", _OF_CONSTANTS)


def lower_compare(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """The mask of a rectifier: where a number lies above or below a threshold, mostly zero.

    Raises:
        ExportError: a comparison with more than one number.
    """
    x, other = inputs
    name = equation.primitive.name
    single = isinstance(other, Const) and other.array.size > 0 and bool((other.array == other.array.flat[0]).all())
    if not isinstance(x, Tensor) or not isinstance(other, Const) or not single:
        raise refuse(name, place.source, "an activation can be compared with one number only", _CHOICES)
    kind = "positive" if name in ("ge", "gt") else "negative"
    threshold = float(other.array.flat[0])
    return Partial(kind, x, name, place.source, "a comparison alone is no layer", _CHOICES, threshold=threshold)


def lower_select_n(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A rectifier.

    Raises:
        ExportError: a choice that is none, or a threshold that hls4ml computes otherwise.
    """
    error = refuse("select_n", place.source, "it chooses by the input", _CHOICES)
    mask, *cases = inputs
    if not isinstance(mask, Partial) or len(cases) != 2:
        raise error
    below, above = cases if mask.kind == "positive" else cases[::-1]
    x = mask.base
    if above != x:
        raise error
    fields = dict(inputs=(x.name,), shape=x.shape, source=place.source)
    zero = isinstance(below, Const) and not below.array.any()
    if mask.threshold:
        if not zero:
            raise error
        _check_threshold(mask)
        return builder.emit(ThresholdedRelu, place.name("thresholded_relu"), threshold=mask.threshold, **fields)
    if zero:
        return builder.emit(Relu, place.name("relu"), **fields)
    slopes = _slopes(builder, below, x, place) if isinstance(below, Tensor) else None
    if slopes is None:
        raise error
    first = float(slopes.value[0])
    if 0 < first < 1 and (slopes.value == slopes.value[0]).all():
        return builder.emit(LeakyRelu, place.name("leaky_relu"), slope=first, **fields)
    return builder.emit(PRelu, place.name("prelu"), slope=slopes, **fields)


def _check_threshold(mask: Partial) -> None:
    """Refuse what the layer of hls4ml is not."""
    if mask.operation in ("ge", "lt"):
        why = "hls4ml keeps what is greater than a threshold, and not what equals it"
        raise refuse(mask.operation, mask.source, why, "write x > threshold, with a threshold one step lower")
    if mask.threshold < 0:
        why = f"its threshold {mask.threshold:g} is negative, and Keras and hls4ml take none below zero"
        raise refuse(mask.operation, mask.source, why, "use a threshold of at least 0")


def _slopes(builder: Builder, below: Tensor, x: Tensor, place: Place) -> Weight | None:
    """The factors by which `below` is made of `x`, one for each channel; None where it is something else."""
    node = builder.nodes[below.name]
    if not isinstance(node, Affine):
        return None
    equation, sources = builder.origins.get(below.name, (None, []))
    # Not the scales of the node: they were folded into those of the affine map that made x, where one did.
    if equation is not None and equation.primitive.name in ("mul", "div") and x in sources:
        (const,) = (value for value in sources if isinstance(value, Const))
        const = inverse(const) if equation.primitive.name == "div" else const
        return weight(const, per_channel(const, x, "mul", place))
    return node.scale if node.inputs == (x.name,) and not node.offset.value.any() else None
