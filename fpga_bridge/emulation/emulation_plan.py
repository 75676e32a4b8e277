"""A layer of a design before any input comes: words of its constants, its tables, and bounds of every number."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from fpga_bridge.emulation.layer_types import ResolvedTypes, is_identity
from fpga_bridge.emulation.products import accumulator_bound, format_bits, signed_bits
from fpga_bridge.typed_graph.graph import (
    Add,
    Affine,
    Concatenate,
    Conv,
    Dense,
    GlobalPool,
    Graph,
    Input,
    LeakyRelu,
    Maximum,
    Minimum,
    Multiply,
    Node,
    Pairwise,
    Pool,
    PRelu,
    Rectifier,
    Relu,
    Softmax,
    Table,
    ThresholdedRelu,
    Weight,
    ZeroInsert,
    ZeroPad,
)
from fpga_bridge.typed_graph.tables import exp_table, inverse_table, words_of
from jaxgeo.errors import ConfigError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedLayer:
    """One layer of one network: its types, its constants as int64 words, and what its output can be."""

    node: Node
    types: ResolvedTypes
    sources: tuple[FixedPoint, ...]
    arrays: dict[str, np.ndarray]
    intervals: tuple[tuple[int, int], ...]  # smallest and largest word of each input
    interval: tuple[int, int]  # and of the output
    middle_bits: int  # of what is computed on the way
    fits: bool  # nothing overflows when the result is assigned
    plain_sum: bool = False


def plan_layer(graph: Graph, node: Node, types: ResolvedTypes, inputs: list[PlannedLayer]) -> PlannedLayer:
    """One layer whose inputs are planned.

    Raises:
        ConfigError: for numbers wider than the emulation computes with, or tables that their argument cannot address.
        ExportError: for constants that are not finite.
    """
    if max(format_bits(types.result), *(format_bits(layer.types.result) for layer in inputs), 0) > 64:
        raise ConfigError(
            f"layer {node.name} ({node.source}) writes {types.result}, but results of more than 64 bits are not "
            "emulated; only accumulators may be wider"
        )
    sources = tuple(layer.types.result for layer in inputs)
    intervals = tuple(layer.interval for layer in inputs)
    arrays = _constants(node, types, sources)
    exact, fraction, middle = _range(graph, node, types, sources, intervals, arrays)
    interval, fits = _assigned_range(exact, fraction, types.result)
    if isinstance(node, Concatenate):
        ranges = [_assigned_range(i, s.fraction, types.result) for i, s in zip(intervals, sources, strict=True)]
        interval = min(r[0][0] for r in ranges), max(r[0][1] for r in ranges)
        fits = all(r[1] for r in ranges)
    elif isinstance(node, Softmax | LeakyRelu | PRelu):
        interval, fits = (types.result.min_word, types.result.max_word), False
    plain = isinstance(node, Pool | GlobalPool) and _sums_plainly(graph, node, types.accum, sources[0], intervals[0])
    middle = max(middle, format_bits(types.result), signed_bits(*interval))
    if isinstance(node, Pool | GlobalPool | Softmax) and middle > 64:
        raise ConfigError(
            f"layer {node.name} ({node.source}) needs sums of {middle} bits, but those of {node.kind} are emulated up "
            "to 64; use a narrower accumulator"
        )
    return PlannedLayer(node, types, sources, arrays, intervals, interval, middle, fits, plain)


def _constants(node: Node, types: ResolvedTypes, sources: tuple[FixedPoint, ...]) -> dict[str, np.ndarray]:
    match node:
        case Dense() | Conv():
            bias = node.bias or Weight(np.zeros(node.kernel.value.shape[-1], np.float32))
            return {
                "kernel": _stored_words(node, node.kernel, types.weight),
                "bias": _stored_words(node, bias, types.bias),
            }
        case Affine():
            return {
                "kernel": _stored_words(node, node.scale, types.weight),
                "bias": _stored_words(node, node.offset, types.bias),
            }
        case Table():
            return {"table": _words(node, node.by_pattern, types.weight)}
        case _ if isinstance(node, Rectifier):
            return {"slope": _rectifier_words(node, types.slope)}
        case Softmax():
            return _softmax_constants(node, types, sources[0])
    return {}


def _rectifier_words(node: Rectifier, format: FixedPoint) -> np.ndarray:
    if isinstance(node, PRelu):
        return _stored_words(node, node.slope, format)
    # A number in the C++ itself.
    return _words(node, np.array([node.slope if isinstance(node, LeakyRelu) else node.threshold]), format)


def _words(node: Node, values: np.ndarray, format: FixedPoint) -> np.ndarray:
    try:
        return words_of(values, format)
    except ConfigError as error:
        raise ConfigError(f"constants of layer {node.name} ({node.source}): {error}") from error


def _stored_words(node: Node, weight: Weight, format: FixedPoint) -> np.ndarray:
    """Words of constants as the C++ reads them: from decimals, as many after the point as the type has bits."""
    values = weight.value.astype(np.float64)
    if not np.isfinite(values).all():
        raise ExportError(f"a constant of layer {node.name} ({node.source}) is not finite; retrain, or mend it")
    digits = max(format.fraction, 0)
    read = np.array([float(f"{value:.{digits}f}") for value in values.ravel()]).reshape(values.shape)
    return _words(node, read, format)


def _softmax_constants(node: Softmax, types: ResolvedTypes, source: FixedPoint) -> dict[str, np.ndarray]:
    softmax = types.softmax
    if softmax.implementation == "argmax":
        return {"one": words_of(np.ones(()), types.result)}
    # hls4ml shortens tables that a narrow word cannot address.
    size = min(softmax.table_size, 2 ** min(source.width, softmax.inv_table.width))
    stable = softmax.implementation == "stable"
    if stable and source.width == source.signed:
        raise ConfigError(
            f"softmax {node.name} ({node.source}) reads {source}, which is a sign alone, and its differences have no "
            "bit to address a table; give the layer before it 2 bits or more"
        )
    argument, exp_size = source, size
    if stable:
        argument = FixedPoint(source.width - source.signed, source.integer - source.signed, False)
        exp_size = min(size, 2**argument.width) if source.signed else size
    powers = exp_table(argument, softmax.exp_table, exp_size, negative=stable)
    return {
        "exp": words_of(np.ldexp(powers.astype(np.float64), -softmax.exp_table.fraction), softmax.accum),
        "inverse": inverse_table(softmax.inv_input, softmax.inv_table, size),
    }


def _range(  # noqa: PLR0911  # one for each kind of node
    graph: Graph, node: Node, types: ResolvedTypes, sources: Any, intervals: Any, arrays: dict[str, np.ndarray]
) -> tuple[tuple[int, int], int, int]:
    """What a layer computes before it assigns its result: smallest and largest word, fraction, and bits on the way."""
    match node:
        case Input():
            return (types.result.min_word, types.result.max_word), types.result.fraction, 0
        case Dense() | Conv():
            fractions = sources[0].fraction, types.weight.fraction, types.bias.fraction
            kernel = arrays["kernel"].reshape(-1, arrays["kernel"].shape[-1])
            reach = with_padding(node, intervals[0])
            bound = accumulator_bound(kernel, arrays["bias"], reach, fractions, types.accum)
            full = (types.accum.min_word, types.accum.max_word)
            ends = full if bound is None else (max(full[0], -bound), min(full[1], bound))
            return ends, types.accum.fraction, signed_bits(*ends)
        case Affine() if is_identity(node):
            return intervals[0], sources[0].fraction, 0
        case Affine():
            return _affine_range(types, sources[0], intervals[0], arrays)
        case Relu():
            low, high = intervals[0]
            return (max(low, 0), max(high, 0)), sources[0].fraction, signed_bits(low, high)
        case Table():
            low, high = intervals[0]
            ends = node.reach(low, high, types.weight.fraction)
            return ends, types.weight.fraction, signed_bits(*ends)
        case _ if isinstance(node, Rectifier):
            return _rectifier_range(node, types, sources[0], intervals[0], arrays["slope"])
        case _ if isinstance(node, Pairwise):
            return _pairwise_range(node, sources, intervals)
        case Pool() | GlobalPool():
            return _pool_range(graph, node, types, sources[0], intervals[0])
        case Softmax():
            softmax = types.softmax
            bits = format_bits(sources[0]) + 1
            if softmax.implementation != "argmax":
                sums = max(format_bits(softmax.accum) + 1, format_bits(softmax.inv_input))
                bits = max(bits, sums, format_bits(softmax.accum) + format_bits(softmax.inv_table))
            return (types.result.min_word, types.result.max_word), types.result.fraction, bits
        case ZeroPad() | ZeroInsert():
            return (min(intervals[0][0], 0), max(intervals[0][1], 0)), sources[0].fraction, 0
    low, high = min(i[0] for i in intervals), max(i[1] for i in intervals)
    bits = [
        signed_bits(*i) + max(types.result.fraction - s.fraction, 0) for i, s in zip(intervals, sources, strict=True)
    ]
    return (low, high), sources[0].fraction, min(max(bits), 64)


def with_padding(node: Node, interval: tuple[int, int]) -> tuple[int, int]:
    """Smallest and largest word that the products of a layer meet: zeros are among them where it pads."""
    if isinstance(node, Conv) and node.padding == "same":
        return min(interval[0], 0), max(interval[1], 0)
    return interval


def _rectifier_range(
    node: Rectifier, types: ResolvedTypes, source: FixedPoint, interval: tuple[int, int], slopes: np.ndarray
) -> tuple[tuple[int, int], int, int]:
    if isinstance(node, ThresholdedRelu):
        fraction = max(source.fraction, types.slope.fraction)
        compared = [*(end << (fraction - source.fraction) for end in interval),
                    int(slopes[0]) << (fraction - types.slope.fraction)]  # fmt: skip
        ends = min(interval[0], 0), max(interval[1], 0)
        return ends, source.fraction, signed_bits(min(compared), max(compared))
    reach, slope = max(abs(end) for end in interval), int(np.abs(slopes).max())
    shift = max(types.result.fraction - source.fraction, 0)
    bits = max(signed_bits(-reach * slope, reach * slope), signed_bits(*interval) + shift)
    return interval, source.fraction, bits


def _pairwise_range(
    node: Pairwise, sources: Sequence[FixedPoint], intervals: Sequence[tuple[int, int]]
) -> tuple[tuple[int, int], int, int]:
    if isinstance(node, Multiply):
        products = [x * y for x in intervals[0] for y in intervals[1]]
        ends = min(products), max(products)
        return ends, sources[0].fraction + sources[1].fraction, max(signed_bits(*e) for e in (ends, *intervals))
    fraction = max(source.fraction for source in sources)
    lows, highs = (
        [interval[end] << (fraction - source.fraction) for interval, source in zip(intervals, sources, strict=True)]
        for end in (0, 1)
    )
    match node:
        case Add():
            ends = sum(lows), sum(highs)
        case Maximum():
            ends = max(lows), max(highs)
        case Minimum():
            ends = min(lows), min(highs)
    return ends, fraction, max(signed_bits(*ends), *map(signed_bits, lows, highs))


def _affine_range(types: ResolvedTypes, source: FixedPoint, interval: tuple[int, int], arrays: Any) -> Any:
    product_fraction = source.fraction + types.weight.fraction
    fraction = max(product_fraction, types.bias.fraction)
    scale = arrays["kernel"].astype(object) << (fraction - product_fraction)
    offset = arrays["bias"].astype(object) << (fraction - types.bias.fraction)
    ends = [scale * end for end in interval]
    low, high = np.minimum(*ends) + offset, np.maximum(*ends) + offset
    reach = max(np.abs(ends[0]).max(), np.abs(ends[1]).max(), np.abs(offset).max())
    bounds = int(low.min()), int(high.max())
    constants = max(signed_bits(int(a.min()), int(a.max())) for a in arrays.values())
    return bounds, fraction, max(signed_bits(*bounds), signed_bits(-int(reach), int(reach)), constants)


def _pool_range(
    graph: Graph, node: Pool | GlobalPool, types: ResolvedTypes, source: FixedPoint, interval: tuple[int, int]
) -> tuple[tuple[int, int], int, int]:
    accum = types.accum
    fraction = max(source.fraction, accum.fraction)
    shift = fraction - source.fraction, fraction - accum.fraction
    bits = max(format_bits(source) + shift[0], format_bits(accum) + shift[1]) + 1
    if node.reduce == "max":
        if isinstance(node, Pool) and node.padding == "same":
            edge = 1 << (source.width - 1)
            interval = (
                min(interval[0], -edge) if source.signed else interval[0],
                max(interval[1], edge * (not source.signed)),
            )
        ends, _ = _assigned_range(interval, source.fraction, accum)
        return ends, accum.fraction, bits
    if _sums_plainly(graph, node, accum, source, interval):
        return (interval[0] << shift[0], interval[1] << shift[0]), accum.fraction, bits
    return (accum.min_word, accum.max_word), accum.fraction, bits


def _sums_plainly(graph: Graph, node: Any, accum: FixedPoint, source: FixedPoint, interval: tuple[int, int]) -> bool:
    """Whether a mean's partial sums neither overflow nor are rounded."""
    window = graph[node.inputs[0]].shape[:-1] if isinstance(node, GlobalPool) else node.window
    count, shift = int(np.prod(window)), accum.fraction - source.fraction
    if node.reduce != "average" or shift < 0:
        return False
    low, high = min(interval[0], 0) * count << shift, max(interval[1], 0) * count << shift
    return low >= accum.min_word and high <= accum.max_word


def _assigned_range(interval: tuple[int, int], fraction: int, format: FixedPoint) -> tuple[tuple[int, int], bool]:
    """Words after assignment to a format, and whether none overflows."""
    cut = fraction - format.fraction
    low, high = interval
    if cut > 0:
        low, high = low >> cut, -(-high >> cut)
    else:
        low, high = low << -cut, high << -cut
    if low >= format.min_word and high <= format.max_word:
        return (low, high), True
    if format.overflow in ("SAT", "SAT_SYM"):
        ends = [min(max(end, format.min_word), format.max_word) for end in (low, high)]
        return (ends[0], ends[1]), False
    return (format.min_word, format.max_word), False
