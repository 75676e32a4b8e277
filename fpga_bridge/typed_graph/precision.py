r"""Exact fixed-point types for every node of a graph, by interval arithmetic on integer words.

A value is an integer number of steps $2^{-f}$ in an interval; weights are known, so sums are bounded by what they
really are and not by their formats. A sum whose partial sums stay below $2^{24}$ steps in any order is exact in
float32, which is what makes JAX, Keras and the circuit equal bit for bit.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

from fpga_bridge.typed_graph.graph import (
    Affine,
    Concatenate,
    Conv,
    Dense,
    GlobalPool,
    Graph,
    Input,
    LeakyRelu,
    Node,
    Pairwise,
    Pool,
    PRelu,
    Quantize,
    Rectifier,
    Relu,
    Reshape,
    Softmax,
    Table,
    ThresholdedRelu,
    Upsample,
    Weight,
    ZeroInsert,
    ZeroPad,
    states_formats,
)
from fpga_bridge.typed_graph.intervals import Interval, pairwise, union
from fpga_bridge.typed_graph.source import refuse
from jaxgeo.errors import ConfigError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.table_activation import round_words

FLOAT32_BITS = 24
FLOAT64_BITS = 53
_MAX_FRACTION = 60  # bits after the point of a constant that hardware would hold


class TooWideError(ExportError):
    """Sums that a float does not hold."""


@dataclasses.dataclass(frozen=True)
class NodeTypes:
    """Types of one layer in hardware; `exact` is False from the first softmax on."""

    result: FixedPoint
    interval: Interval
    accumulator: FixedPoint | None = None
    weight: FixedPoint | None = None
    bias: FixedPoint | None = None
    exact: bool = True
    bound: int = 0  # largest magnitude of any partial sum, in steps of the interval


def plan_types(graph: Graph, significand: int = FLOAT32_BITS) -> dict[str, NodeTypes]:
    """The types of every node, such that nothing is rounded between two quantisers.

    Args:
        graph: from `fpga_bridge.tracing.trace.trace`.
        significand: bits that JAX and Keras compute with: 24 in float32, 53 in float64.

    Raises:
        ExportError: where a value has no fixed-point format (an input or a weight that is not quantised), where
            floats could not hold a sum exactly, or where hls4ml would round differently; names the layer and line.
        ConfigError: for a format with more integer bits than bits.
    """
    types: dict[str, NodeTypes] = {}
    for node in graph:
        _check_formats(node)
        inputs = [types[name] for name in node.inputs]
        types[node.name] = _types(graph, node, inputs)
        _check_significand(node, types[node.name], inputs, significand)
    return types


def carrier(graph: Graph) -> Literal["float32", "float64"]:
    """The narrowest float that holds every sum; float32 where formats are missing, so that nothing is exact anyway.

    Raises:
        ExportError: where the graph states its formats and its sums fit neither; names the layer and line.
    """
    floats: tuple[tuple[int, Literal["float32", "float64"]], ...] = (FLOAT32_BITS, "float32"), (FLOAT64_BITS, "float64")
    for bits, dtype in floats:
        try:
            plan_types(graph, bits)
        except TooWideError:
            if bits == FLOAT64_BITS and states_formats(graph):
                raise
        except ExportError:
            break
        else:
            return dtype
    return "float32"


def _types(graph: Graph, node: Node, inputs: list[NodeTypes]) -> NodeTypes:  # noqa: PLR0911, PLR0912  # by kind
    if isinstance(node, Input):
        return _input_types(graph, node)
    if isinstance(node, Softmax):
        # 18 bits with 2 before the point: probabilities, as hls4ml's tables give them.
        return NodeTypes(FixedPoint(18, 2, True, "RND", "SAT"), Interval(0, 1 << 16, 16), exact=False)
    exact = all(t.exact for t in inputs)
    if isinstance(node, Upsample | Reshape):
        # One type in and out, its modes included: in hls4ml's C++ one template argument, and one array by two names.
        return NodeTypes(inputs[0].result, inputs[0].interval, exact=exact)
    if isinstance(node, Quantize):
        return NodeTypes(node.format, _quantized(inputs[0].interval, node.format), exact=exact)
    if isinstance(node, Dense | Conv):
        return _matrix_types(node, inputs[0], exact)
    if isinstance(node, Affine):
        return _affine_types(node, inputs[0], exact)
    if isinstance(node, Table):
        return _table_types(node, inputs[0], exact)
    interval = inputs[0].interval
    accumulator = weight = None
    if isinstance(node, Relu):
        interval = Interval(max(interval.low, 0), max(interval.high, 0), interval.fraction)
    elif isinstance(node, ZeroPad | ZeroInsert):
        interval = Interval(min(interval.low, 0), max(interval.high, 0), interval.fraction)
    elif isinstance(node, LeakyRelu | PRelu):
        interval, weight = _leaky(node, interval)
    elif isinstance(node, ThresholdedRelu):
        weight = _threshold_format(node)
        interval = Interval(min(interval.low, 0), max(interval.high, 0), interval.fraction)
    elif isinstance(node, Pairwise):
        interval = pairwise(node, inputs[0].interval, inputs[1].interval)
    elif isinstance(node, Concatenate):
        interval = union([t.interval for t in inputs])
    elif isinstance(node, Pool | GlobalPool):
        if node.reduce == "average":
            interval, accumulator = _average(graph, node, interval)
        elif isinstance(node, Pool) and node.padding == "same" and not inputs[0].result.signed:
            why = "hls4ml pads an unsigned type by half its range"
            raise refuse("max pooling", node.source, why, "pad by zeros: same_pooling.pad_by_zeros")
        else:
            accumulator = inputs[0].result
    averages = isinstance(node, Pool | GlobalPool) and node.reduce == "average"
    keeps_type = not isinstance(node, Pairwise | Concatenate | LeakyRelu | PRelu) and not averages
    result = _plain(inputs[0].result) if keeps_type else interval.rounded_format()
    return NodeTypes(result, interval, accumulator, weight, exact=exact)


def _table_types(node: Table, x: NodeTypes, exact: bool) -> NodeTypes:
    """A table writes the format of its entries, and only of those that its input reaches."""
    format = node.entries.format
    if format is None or not node.reads(x.result):
        raise ExportError(
            f"the table {node.name} ({node.source}) is of inputs in {node.input_format} and needs a format of its "
            f"results, but reads {x.result} and has {format}; set a quantizer to {node.input_format} before it"
        )
    if (round_words(node.entries.value, format) * format.step != node.entries.value).any():
        raise _not_on_grid(node, f"entries in {format}")
    low, high = node.reach(x.interval.low, x.interval.high, format.fraction)
    return NodeTypes(_plain(format), Interval(low, high, format.fraction), weight=_plain(format), exact=exact)


def _plain(format: FixedPoint) -> FixedPoint:
    """The same values without modes: nothing is rounded on the way."""
    return FixedPoint(format.width, format.integer, format.signed)


def _input_types(graph: Graph, node: Node) -> NodeTypes:
    consumers = graph.consumers(node.name)
    formats = {consumer.format for consumer in consumers if isinstance(consumer, Quantize)}
    if len(formats) != 1 or not all(isinstance(consumer, Quantize) for consumer in consumers):
        raise ExportError(
            f"the input is read by {', '.join(f'{c.name} ({c.source})' for c in consumers)} without one common "
            "fixed-point format, which the first register of a circuit needs; begin the model with "
            "quantize(x, FixedPoint(...)), for example a precision with ap_fixed<10,3,AP_RND,AP_SAT> for its input"
        )
    format = formats.pop()
    return NodeTypes(format, Interval(format.min_word, format.max_word, format.fraction))


def _quantized(interval: Interval, format: FixedPoint) -> Interval:
    whole = Interval(format.min_word, format.max_word, format.fraction)
    if interval.fraction > format.fraction:
        step = 1 << (interval.fraction - format.fraction)
        low, high = interval.low // step, -(-interval.high // step)
    else:
        fine = interval.at(format.fraction)
        low, high = fine.low, fine.high
    if low >= whole.low and high <= whole.high:
        return Interval(low, high, format.fraction)
    if format.overflow in ("SAT", "SAT_SYM"):
        clip = [min(max(word, whole.low), whole.high) for word in (low, high)]
        return Interval(clip[0], clip[1], format.fraction)
    return whole


def words(weight: Weight, limit: int = 40) -> tuple[np.ndarray, int] | None:
    """A constant as integers and the bits after the point, the fewest; None beyond `limit` bits."""
    value = weight.value.astype(np.float64)
    if not value.any():
        return value.astype(np.int64), 0
    if not np.isfinite(value).all():
        return None
    mantissa, exponent = np.frexp(value[value != 0])
    odd = (mantissa * 2.0**53).astype(np.int64)
    trailing = np.log2((odd & -odd).astype(np.float64)).astype(int)
    fraction = int(np.max(53 - exponent - trailing))
    if abs(fraction) > _MAX_FRACTION:
        return None
    scaled = value * 2.0**fraction
    if np.abs(scaled).max() >= 2.0**limit:
        return None
    return scaled.astype(np.int64), fraction


def _check_formats(node: Node) -> None:
    """`ap_fixed<W,I>` of the headers takes I > W; what we hand to the tools after them does not."""
    formats = {"values": node.format} if isinstance(node, Quantize) else {}
    if isinstance(node, Table):
        formats["inputs"] = node.input_format
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if isinstance(value, Weight) and value.format is not None:
            formats[field.name] = value.format
    for what, format in formats.items():
        if format.integer > format.width:
            kind = "ap_fixed" if format.signed else "ap_ufixed"
            raise ConfigError(
                f"the {what} of layer {node.name} ({node.source}) have the format {format} with {format.integer} "
                f"integer bits of {format.width} bits in all, but generated hardware needs at most as many integer "
                f"bits as bits; {kind}<{format.integer},{format.integer}> has the same range, "
                f"{kind}<{format.width},{format.width}> the same size"
            )


def _words_or_refuse(node: Node, weight: Weight, what: str) -> tuple[np.ndarray, int]:
    result = words(weight)
    if result is None:
        raise _not_on_grid(node, what)
    if weight.rounded:
        remedy = (
            "quantise scale and offset in the model, after all arithmetic (of a batch norm: fold_batch_norm of "
            "jaxgeo.layers.normalization makes the parameters of a ChannelAffine with a precision; of a file of Keras: "
            "state a format, by --affine-format or with_formats), or fold them into the layer before"
            if isinstance(node, Affine)
            else "quantise them in the model after all arithmetic, for example quantize(kernel, FixedPoint(8, 2))"
        )
        raise ExportError(
            f"the {what} of layer {node.name} ({node.source}) come out of float arithmetic that is not exact, so JAX, "
            f"Keras and the circuit would not agree on them: {remedy}"
        )
    return result


def _not_on_grid(node: Node, what: str) -> ExportError:
    return ExportError(
        f"the {what} of layer {node.name} ({node.source}) lie on no fixed-point grid; quantise them in the model, "
        "for example quantize(kernel, FixedPoint(8, 2, rounding='RND', overflow='SAT')), and fine-tune"
    )


def _weight_format(weight: Weight | None, integers: np.ndarray, fraction: int) -> FixedPoint:
    if weight is not None and weight.format is not None:
        return _plain(weight.format)
    return Interval(int(min(integers.min(), 0)), int(max(integers.max(), 0)), fraction).format()


def _matrix_types(node: Dense | Conv, x: NodeTypes, exact: bool) -> NodeTypes:
    kernel, kernel_fraction = _words_or_refuse(node, node.kernel, "weights")
    fraction = x.interval.fraction + kernel_fraction
    flat = kernel.reshape(-1, kernel.shape[-1]).astype(object)  # Python integers: no overflow
    x_low, x_high = x.interval.low, x.interval.high
    if isinstance(node, Conv) and node.padding == "same":
        x_low, x_high = min(x_low, 0), max(x_high, 0)
    positive, negative = np.maximum(flat, 0).sum(0), np.minimum(flat, 0).sum(0)
    low = positive * x_low + negative * x_high
    high = positive * x_high + negative * x_low
    bound = (positive - negative) * max(abs(x_low), abs(x_high))
    bias_format = FixedPoint(2, 2)
    if node.bias is not None:
        bias, bias_fraction = _words_or_refuse(node, node.bias, "biases")
        bias_format = _weight_format(node.bias, bias, bias_fraction)
        common = max(fraction, bias_fraction)
        shift = 1 << (common - fraction)
        offset = bias.astype(object) * (1 << (common - bias_fraction))
        low, high, bound = low * shift + offset, high * shift + offset, bound * shift + np.abs(offset)
        fraction = common
    interval = Interval(int(low.min()), int(high.max()), fraction)
    # Wide enough for every partial sum in any order.
    accumulator = Interval(-int(bound.max()), int(bound.max()), fraction).rounded_format()
    return NodeTypes(
        interval.rounded_format(),
        interval,
        accumulator,
        _weight_format(node.kernel, kernel, kernel_fraction),
        bias_format,
        exact,
        int(bound.max()),
    )


def _check_significand(node: Node, types: NodeTypes, inputs: list[NodeTypes], significand: int) -> None:
    bound = max(types.bound, types.interval.bound)
    if bound <= 1 << significand:
        return
    advice = "round its inputs to fewer bits first"
    if isinstance(node, Dense | Conv) and types.weight is not None:
        fan_in = math.prod(node.kernel.value.shape[:-1])
        width = types.weight.width
        spare = max(significand - math.ceil(math.log2(max(fan_in, 2))) - width + 1, 2)
        if width > 16:
            advice = f"its weights have {width} bits, because the model does not round them; 8 bits would do"
        else:
            advice = (
                f"inputs of {inputs[0].result.width} bits meet weights of {width} bits, {fan_in} to a sum; inputs of "
                f"{spare} bits would do"
            )
    elif isinstance(node, Affine):
        advice = "quantise scale and offset in the model (of a batch norm: scale / sqrt(var + epsilon) and the rest)"
    name = "float32" if significand == FLOAT32_BITS else f"a float of {significand} bits"
    raise TooWideError(
        f"layer {node.name} ({node.source}) needs {bound.bit_length()} bits for its sums, but {name}, in which JAX and "
        f"Keras compute, is exact to {significand}: {advice}"
    )


def _affine_types(node: Affine, x: NodeTypes, exact: bool) -> NodeTypes:
    scale, scale_fraction = _words_or_refuse(node, node.scale, "scales")
    offset, offset_fraction = _words_or_refuse(node, node.offset, "offsets")
    product_fraction = x.interval.fraction + scale_fraction
    fraction = max(product_fraction, offset_fraction)
    up, up_offset = 1 << (fraction - product_fraction), 1 << (fraction - offset_fraction)
    ends = [scale.astype(object) * end * up for end in (x.interval.low, x.interval.high)]
    shift = offset.astype(object) * up_offset
    low, high = np.minimum(*ends) + shift, np.maximum(*ends) + shift
    bound = np.maximum(np.abs(ends[0]), np.abs(ends[1])) + np.abs(shift)
    interval = Interval(int(low.min()), int(high.max()), fraction)
    return NodeTypes(
        interval.rounded_format(),
        interval,
        None,
        _weight_format(node.scale, scale, scale_fraction),
        _weight_format(node.offset, offset, offset_fraction),
        exact,
        int(bound.max()),
    )


def parameter(node: Rectifier) -> Weight:
    """The slopes or the threshold as a constant array."""
    if isinstance(node, PRelu):
        return node.slope
    return Weight(np.array([node.slope if isinstance(node, LeakyRelu) else node.threshold], np.float32))


def _leaky(node: LeakyRelu | PRelu, x: Interval) -> tuple[Interval, FixedPoint]:
    """What is written, and the format of the slopes."""
    weight = parameter(node)
    slopes, fraction = _words_or_refuse(node, weight, "slope")
    if isinstance(node, LeakyRelu) and abs(int(slopes[0])) >= 1 << 8:
        near = 2.0 ** round(math.log2(abs(node.slope)))
        raise refuse(
            "leaky_relu",
            node.source,
            f"its slope {node.slope:.6g} has more than 8 significant bits, so its products outgrow float32",
            f"use a slope such as {near:g}, a shift in hardware",
        )
    product_fraction = x.fraction + fraction
    fine = x.at(max(x.fraction, product_fraction))
    below = [min(x.low, 0) * int(s) << (fine.fraction - product_fraction) for s in (slopes.min(), slopes.max())]
    return Interval(min(0, *below), max(fine.high, 0, *below), fine.fraction), _weight_format(weight, slopes, fraction)


def _threshold_format(node: ThresholdedRelu) -> FixedPoint:
    weight = parameter(node)
    return _weight_format(weight, *_words_or_refuse(node, weight, "threshold"))


def _average(graph: Graph, node: Pool | GlobalPool, x: Interval) -> tuple[Interval, FixedPoint]:
    window = graph[node.inputs[0]].shape[:-1] if isinstance(node, GlobalPool) else node.window
    count = math.prod(window)
    if count & (count - 1):
        raise refuse(
            "average pooling",
            node.source,
            f"a mean of {count} numbers is not exact in binary, and hls4ml truncates where JAX rounds",
            f"pool over a power of two ({1 << count.bit_length() - 1} or {1 << count.bit_length()}), or fold the mean "
            "into the next dense layer",
        )
    bits = count.bit_length() - 1
    total = Interval(x.low * count, x.high * count, x.fraction)
    # Room for the sum before the division and for the new fraction bits after it.
    return Interval(x.low * count, x.high * count, x.fraction + bits), total.at(x.fraction + bits).rounded_format()
