"""The types of a design as users of hls4ml write them, one for each part of each layer, and hls4ml's config of them.

Nothing here makes a network exact: a type is what the user says, `ap_fixed<16,6>` unless he says otherwise, and
`fpga_bridge.emulation.emulator` computes what the hardware then does. The same config drives the emulation and hls4ml,
which gets every type by name, so that it infers none.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from fpga_bridge.estimates.reuse import Strategy
from fpga_bridge.typed_graph.graph import (
    Add,
    Affine,
    Concatenate,
    Conv,
    Dense,
    GlobalPool,
    Graph,
    Input,
    Multiply,
    Node,
    Pairwise,
    Pool,
    Quantize,
    Rectifier,
    Reshape,
    Softmax,
    Table,
    Transpose,
    Upsample,
    ZeroInsert,
    ZeroPad,
)
from fpga_bridge.typed_graph.intervals import Interval
from fpga_bridge.typed_graph.precision import parameter, words
from jaxgeo.errors import ConfigError, check_fields
from jaxgeo.layers.fixed_point import FixedPoint

Auto = Literal["auto"]
SoftmaxKind = Literal["stable", "latency", "argmax"]
DEFAULT = FixedPoint(16, 6)
_TABLE = FixedPoint(18, 8, True, "RND", "SAT")
_PASSING = (Reshape, Transpose, Upsample, ZeroInsert, ZeroPad)


@dataclasses.dataclass(frozen=True)
class SoftmaxTypes:
    """Of a softmax: which implementation, and the types around its two tables (the defaults are hls4ml's).

    Raises:
        ConfigError: a setting of another type; as for the two classes below.
    """

    implementation: SoftmaxKind = "stable"
    table_size: int = 1024
    exp_table: FixedPoint = _TABLE
    inv_table: FixedPoint = _TABLE
    inv_input: FixedPoint = _TABLE  # of the sum, which addresses the second table
    accum: FixedPoint = _TABLE  # of the exponentials and their partial sums

    def __post_init__(self) -> None:
        check_fields(self, table_size=1)


@dataclasses.dataclass(frozen=True)
class LayerTypes:
    """What differs from the model's default in one layer; None is the default, "auto" what hls4ml would infer.

    Attributes:
        result: of what the layer writes.
        weight: of kernels, and of the scales of a batch norm.
        bias: of biases, and of the offsets of a batch norm.
        accum: of each product and each partial sum; in pooling of the window's sum or maximum.
        slope: of a rectifier, its slopes or its threshold; None for the narrowest type that holds it.
        reuse_factor: products that one multiplier makes; with Resource it sets the order of additions.
        softmax: implementation and tables.
    """

    result: FixedPoint | Auto | None = None
    weight: FixedPoint | None = None
    bias: FixedPoint | None = None
    accum: FixedPoint | Auto | None = None
    slope: FixedPoint | None = None
    strategy: Strategy | None = None
    reuse_factor: int | None = None
    softmax: SoftmaxTypes | None = None

    def __post_init__(self) -> None:
        check_fields(self, reuse_factor=1)


@dataclasses.dataclass(frozen=True)
class DesignTypes:
    """A whole design: the default of every type, and layers that differ by name.

    The defaults are those of hls4ml's `config_from_keras_model(granularity="model")`. A quantiser of the model keeps
    its own format, and the layer that it alone reads writes that format at once.

    Attributes:
        default: of every result, weight, bias and accumulator that is not named.
        accum: of dense layers and convolutions; "auto" also of means.
        layers: what differs, by the name of the layer.
        strategy: of dense layers and convolutions.
        reuse_factor: likewise.
        io_type: how layers pass their data on.
    """

    default: FixedPoint = DEFAULT
    accum: FixedPoint | Auto | None = None
    layers: Mapping[str, LayerTypes] = dataclasses.field(default_factory=dict)
    strategy: Strategy = "Latency"
    reuse_factor: int = 1
    io_type: Literal["io_parallel", "io_stream"] = "io_parallel"

    def __post_init__(self) -> None:
        check_fields(self, reuse_factor=1)


@dataclasses.dataclass(frozen=True)
class ResolvedTypes:
    """Every type of one layer, decided."""

    result: FixedPoint
    weight: FixedPoint
    bias: FixedPoint
    accum: FixedPoint
    slope: FixedPoint
    strategy: Strategy
    reuse_factor: int
    softmax: SoftmaxTypes


def resolve_types(graph: Graph, design: DesignTypes) -> dict[str, ResolvedTypes]:
    """The types of every node of a graph.

    Raises:
        ConfigError: for a layer that the graph lacks, a type that a layer cannot have (a reshape keeps its input's), or
            a reuse factor that does not divide the products of a Resource layer.
    """
    unknown = sorted(set(design.layers) - {node.name for node in graph})
    if unknown:
        raise ConfigError(
            f"the design names {', '.join(unknown)}, but the network has only the layers "
            f"{', '.join(node.name for node in graph)}"
        )
    resolved: dict[str, ResolvedTypes] = {}
    for node in graph:
        resolved[node.name] = _resolve(graph, node, design, [resolved[name] for name in node.inputs])
    return resolved


def is_identity(node: Node) -> bool:
    """Whether hls4ml drops the layer with its type: a batch norm of scales 1 and offsets 0."""
    return isinstance(node, Affine) and bool((node.scale.value == 1).all()) and not node.offset.value.any()


def _resolve(graph: Graph, node: Node, design: DesignTypes, inputs: list[ResolvedTypes]) -> ResolvedTypes:
    own = design.layers.get(node.name, LayerTypes())
    weight, bias = own.weight or design.default, own.bias or design.default
    accum = own.accum or design.default
    if own.accum is None and design.accum is not None and (design.accum == "auto" or isinstance(node, Dense | Conv)):
        accum = design.accum
    sources = [types.result for types in inputs]
    if isinstance(node, Table):
        weight = _table_format(node, own, sources[0])
    inferred = _inferred(graph, node, sources, weight, bias)
    if accum == "auto":
        accum = inferred or design.default
    result = own.result or _given(graph, node, design)
    if result == "auto":
        result = sources[0] if isinstance(node, Pool | GlobalPool) else inferred or design.default
    passing = is_identity(node) or isinstance(node, _PASSING)
    if passing:
        if own.result not in (None, sources[0]):
            raise ConfigError(
                f"layer {node.name} ({node.source}) passes on what it reads, so its type is that of its input, "
                f"{sources[0]}, and cannot be {own.result}; type the layer before or after it"
            )
        result = sources[0]
    types = ResolvedTypes(
        result=result,
        weight=weight,
        bias=bias,
        accum=accum,
        slope=own.slope or _slope(node, design.default),
        strategy=own.strategy or design.strategy,
        reuse_factor=own.reuse_factor or design.reuse_factor,
        softmax=own.softmax or SoftmaxTypes(),
    )
    _check_reuse(node, types)
    return types


def _table_format(node: Table, own: LayerTypes, source: FixedPoint) -> FixedPoint:
    """The type of a table's entries, which is the network's own as its addresses are."""
    if not node.reads(source):
        raise ConfigError(
            f"the table {node.name} ({node.source}) has an entry for each word of {node.input_format}, but would read "
            f"{source}; leave the quantizer before it its format"
        )
    format = node.entries.format
    if format is None or own.weight not in (None, format):
        raise ConfigError(
            f"the entries of table {node.name} ({node.source}) are words of {format} and cannot be {own.weight}; give "
            "the quantizer behind the function another format in the model, or a type to the table's result"
        )
    return format


def _given(graph: Graph, node: Node, design: DesignTypes) -> FixedPoint:
    """The result of a node that the design does not name: a quantiser's own format, or the default."""
    if isinstance(node, Quantize):
        return node.format
    if isinstance(node, Table) and node.entries.format is not None:
        return node.entries.format
    readers = graph.consumers(node.name)
    formats = {reader.format for reader in readers if isinstance(reader, Quantize)}
    alone = len(formats) == 1 and all(isinstance(reader, Quantize) for reader in readers)
    if alone and (isinstance(node, Input) or (isinstance(node, Dense | Conv | Affine) and graph.output != node.name)):
        return formats.pop()
    return design.default


def _inferred(  # noqa: PLR0911  # one for each kind of layer
    graph: Graph, node: Node, inputs: list[FixedPoint], weight: FixedPoint, bias: FixedPoint
) -> FixedPoint | None:
    """What hls4ml infers for "auto": wide enough for everything that the types before could hold."""
    if isinstance(node, Dense | Conv):
        growth = math.ceil(math.log2(math.prod(node.kernel.value.shape[:-1])))
        product = _product(inputs[0], weight)
        return _sum(FixedPoint(product.width + growth, product.integer + growth, product.signed), bias)
    if isinstance(node, Affine):
        return _sum(_product(inputs[0], weight), bias)
    if isinstance(node, Multiply):
        return _product(*inputs)
    if isinstance(node, Add):
        return _sum(*inputs)
    if isinstance(node, Pairwise) and inputs[0] != inputs[1]:
        joint = _union(*inputs)
        return FixedPoint(joint.width, joint.integer, joint.signed)
    if isinstance(node, Table):
        return weight
    if isinstance(node, Concatenate):
        return _union(inputs[0], inputs[1])
    if isinstance(node, Pool | GlobalPool) and node.reduce == "average":
        window = graph[node.inputs[0]].shape[:-1] if isinstance(node, GlobalPool) else node.window
        growth = math.ceil(math.log2(math.prod(window)))
        return FixedPoint(inputs[0].width + 2 * growth, inputs[0].integer + growth, inputs[0].signed)
    return inputs[0] if inputs else None


def _product(a: FixedPoint, b: FixedPoint) -> FixedPoint:
    return FixedPoint(a.width + b.width, a.integer + b.integer, a.signed or b.signed)


def _joint_integer(a: FixedPoint, b: FixedPoint) -> int:
    """Integer bits for both: an unsigned one beside a signed one needs room for a sign."""
    return max(a.integer + (b.signed and not a.signed), b.integer + (a.signed and not b.signed))


def _sum(a: FixedPoint, b: FixedPoint) -> FixedPoint:
    integer = _joint_integer(a, b) + 1
    return FixedPoint(integer + max(a.fraction, b.fraction), integer, a.signed or b.signed)


def _union(a: FixedPoint, b: FixedPoint) -> FixedPoint:
    if a == b:
        return a
    integer = _joint_integer(a, b)
    rounding = a.rounding if a.rounding != "TRN" else b.rounding
    overflow = a.overflow if a.overflow != "WRAP" else b.overflow
    return FixedPoint(integer + max(a.fraction, b.fraction), integer, a.signed or b.signed, rounding, overflow)


def _slope(node: Node, default: FixedPoint) -> FixedPoint:
    if not isinstance(node, Rectifier):
        return default
    exact = words(parameter(node))
    if exact is None or np.abs(exact[0]).max() >= 1 << 8:
        return default
    return Interval(min(int(exact[0].min()), 0), max(int(exact[0].max()), 0), exact[1]).format()


def _check_reuse(node: Node, types: ResolvedTypes) -> None:
    if not isinstance(node, Dense | Conv) or types.strategy == "Latency" or types.reuse_factor == 1:
        return
    fan_in = math.prod(node.kernel.value.shape[:-1])
    if types.reuse_factor < 1 or fan_in % types.reuse_factor:
        divisors = [d for d in range(1, fan_in + 1) if fan_in % d == 0]
        nearest = min(divisors, key=lambda d: abs(d - types.reuse_factor))
        raise ConfigError(
            f"layer {node.name} ({node.source}) makes {fan_in} products for each output, which a reuse factor of "
            f"{types.reuse_factor} does not divide; the nearest that does is {nearest}"
        )


def hls_config(graph: Graph, design: DesignTypes) -> dict[str, Any]:
    """The design as hls4ml's configuration, every type by layer name.

    Raises:
        ConfigError: as `resolve_types`.
    """
    layers: dict[str, Any] = {}
    for node_name, types in resolve_types(graph, design).items():
        node = graph[node_name]
        precision = {"default": types.result, "result": types.result}
        entry: dict[str, Any] = {"Strategy": types.strategy, "ReuseFactor": types.reuse_factor}
        if isinstance(node, Dense | Conv):
            precision |= {"weight": types.weight, "bias": types.bias, "accum": types.accum}
        elif isinstance(node, Affine):
            precision |= {"scale": types.weight, "bias": types.bias}
        elif isinstance(node, Pool | GlobalPool):
            precision["accum"] = types.accum
        elif isinstance(node, Table):
            precision["table"] = types.weight
        elif isinstance(node, Rectifier):
            precision["param"] = types.slope
        elif isinstance(node, Softmax):
            softmax = types.softmax
            precision["accum"] = softmax.accum
            entry |= {
                "Implementation": softmax.implementation,
                "TableSize": softmax.table_size,
                "exp_table_t": str(softmax.exp_table),
                "inv_table_t": str(softmax.inv_table),
                "inv_inp_t": str(softmax.inv_input),
            }
        layers[node_name] = entry | {"Precision": {key: str(value) for key, value in precision.items()}}
    model = {"Precision": str(design.default), "ReuseFactor": design.reuse_factor, "Strategy": design.strategy}
    return {"Model": model, "LayerName": layers}
