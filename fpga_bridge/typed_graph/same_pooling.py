"""Max pooling with padding "same" as zeros around its input and a pooling without padding, where no input is negative.

Padding of a maximum is by minus infinity, which fixed point has not: hls4ml takes half the range of an unsigned type,
and aborts in a stream. Zeros do the same to numbers of at least zero, since each window holds one of them; so what is
unsigned, or comes from a relu, needs no padded pooling on any way to hardware.
"""

import dataclasses
from collections.abc import Iterable

from fpga_bridge.typed_graph.graph import (
    Add,
    Affine,
    Concatenate,
    Conv,
    Dense,
    GlobalPool,
    Graph,
    Maximum,
    Minimum,
    Multiply,
    Node,
    Pool,
    Quantize,
    Relu,
    Reshape,
    Softmax,
    Table,
    ThresholdedRelu,
    Transpose,
    Upsample,
    ZeroInsert,
    ZeroPad,
    unique_name,
)
from fpga_bridge.typed_graph.precision import FLOAT64_BITS, plan_types
from jaxgeo.errors import ConfigError, ExportError

_MOVES = (Concatenate, Reshape, Transpose, Upsample, ZeroPad, ZeroInsert)
_KEEPS_SIGNS = (*_MOVES, Add, Multiply, Minimum, Pool, GlobalPool)


def pad_by_zeros(graph: Graph) -> Graph:
    """The graph with every max pooling of padding "same" replaced whose input is known not to be negative.

    It is known from rectifiers, unsigned formats and what keeps signs; else from the intervals of `plan_types`, where
    the formats of all that lies before the pooling are known. What cannot be known stays as it is.

    Args:
        graph: any.
    """
    nodes: list[Node] = []
    positive: set[str] = set()
    names = {node.name.lower() for node in graph}
    for found in graph:
        node = found
        if (
            isinstance(node, Pool)
            and (node.reduce, node.padding) == ("max", "same")
            and (node.inputs[0] in positive or _never_negative(nodes, node.inputs[0]))
        ):
            before = graph[node.inputs[0]].shape
            pads = _zeros(before[:-1], node)
            name = unique_name(f"{node.name}_pad", names)
            shape = tuple(n + sum(pad) for n, pad in zip(before, (*pads, (0, 0)), strict=True))
            nodes.append(ZeroPad(name=name, inputs=node.inputs, shape=shape, source=node.source, pads=pads))
            node = dataclasses.replace(node, inputs=(name,), padding="valid")
            positive.add(name)
        if _keeps_above_zero(node, [name in positive for name in node.inputs]):
            positive.add(node.name)
        nodes.append(node)
    return Graph(tuple(nodes), graph.output)


def _zeros(sizes: Iterable[int], node: Pool) -> tuple[tuple[int, int], ...]:
    """Before and after each axis, the odd one after it."""
    axes = zip(sizes, node.window, node.strides, strict=True)
    totals = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k, stride in axes]
    return tuple((total // 2, total - total // 2) for total in totals)


def _keeps_above_zero(node: Node, inputs: list[bool]) -> bool:  # noqa: PLR0911  # one for each kind
    """Whether a node cannot write a negative number, given which of its inputs cannot be negative."""
    match node:
        case Relu() | ThresholdedRelu() | Softmax():
            return True
        case Quantize():
            # Saturation leaves a sign as it is; wrapping does not.
            return not node.format.signed or (all(inputs) and node.format.overflow != "WRAP")
        case Table():
            first = max(-node.input_format.min_word, 0) if all(inputs) else 0
            return bool((node.entries.value[first:] >= 0).all())
        case Dense() | Conv():
            parts = [node.kernel.value] if node.bias is None else [node.kernel.value, node.bias.value]
            return all(inputs) and all(bool((part >= 0).all()) for part in parts)
        case Maximum():
            return any(inputs)
        case Affine():
            return all(inputs) and bool(min(node.scale.value.min(), node.offset.value.min()) >= 0)
        case _ if isinstance(node, _KEEPS_SIGNS):
            return all(inputs)
    return False


def _never_negative(nodes: list[Node], name: str) -> bool:
    """Whether the exact intervals say so; False where a format is missing."""
    needed = {name}
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.inputs)
    part = Graph(tuple(node for node in nodes if node.name in needed), name)
    try:
        return plan_types(part, FLOAT64_BITS)[name].interval.low >= 0
    except (ExportError, ConfigError):  # without formats nothing is known, and nothing is rewritten
        return False
