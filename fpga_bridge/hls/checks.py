"""What hls4ml 1.3 takes and then computes wrongly, aborts on, or hands to g++ broken: refused here, by name.

Everything that this module lets pass is compiled and compared with JAX, case by case, in the tests of
`fpga_bridge.capabilities.table`.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

from fpga_bridge.hls.layers import nearest_is_exact
from fpga_bridge.typed_graph.graph import (
    Concatenate,
    Conv,
    Dense,
    Graph,
    Node,
    Pool,
    Quantize,
    Reshape,
    Softmax,
    Table,
    Upsample,
)
from fpga_bridge.typed_graph.precision import NodeTypes
from fpga_bridge.typed_graph.source import RefusedOperationError, refuse

IOType = Literal["io_parallel", "io_stream"]
_MAX_READERS = 7  # copies that hls4ml's C++ makes of one stream
_MAX_JOINED_AXES = 3
_MAX_TABLE_BITS = 14  # hls4ml holds every entry in logic, once for each number of a pixel


def check_io(graph: Graph, io_type: IOType) -> None:
    """Refuse what hls4ml 1.3 is known to compute wrongly, or to abort on, in this way of passing data.

    Raises:
        ExportError: names the operation and the line, and says what would work.
    """
    for node in graph:
        error = _refusal(graph, node) or (_stream_refusal if io_type == "io_stream" else _parallel_refusal)(graph, node)
        if error is not None:
            raise error


def check_rounding(graph: Graph, types: Mapping[str, NodeTypes]) -> None:
    """Refuse a quantizer of numbers that all lie below half of its step: the headers of ap_fixed stop there.

    Raises:
        ExportError: names the quantizer and its line, and says what would work.
    """
    for node in graph:
        if not isinstance(node, Quantize) or node.format.rounding == "TRN":
            continue
        source = types[node.inputs[0]].result
        if source.fraction - node.format.fraction > source.width:
            raise refuse(
                "quantize",
                node.source,
                f"it rounds {source} to {node.format}, of whose steps those numbers are less than half, and there the "
                "headers of ap_fixed stop",
                "leave out the quantizer before it, or round by TRN",
            )


def check_reuse(graph: Graph, model: Any, io_type: IOType) -> None:
    """Refuse multipliers of a convolution in io_parallel that more than one output would share.

    Those of Vitis then leave out products without a word, and those of Vivado stop at an assertion.

    Args:
        graph: that the model was made of.
        model: hls4ml's, with its strategies and reuse factors chosen.
        io_type: how layers pass their data on.

    Raises:
        ExportError: names the layer and its line, and says what would work.
    """
    for node in graph:
        if io_type == "io_stream" or not isinstance(node, Conv | Dense) or len(node.shape) == 1:
            continue
        layer, products = model.graph.get(node.name), math.prod(node.kernel.value.shape[:-1])
        if layer is None or layer.get_attr("strategy", "latency").lower() == "latency":
            continue
        reuse = int(layer.get_attr("reuse_factor", 1))
        if reuse > products:
            raise refuse(
                node.kind,
                node.source,
                f"hls4ml's parallel convolutions are wrong with a reuse factor of {reuse}, more than the {products} "
                "products of an output",
                f"use a factor of at most {products}, or io_stream",
            )


def _refusal(graph: Graph, node: Node) -> RefusedOperationError | None:
    """What neither way of passing data allows."""
    match node:
        case Concatenate() if len(node.inputs) != 2:
            why = f"hls4ml joins two at a time, not {len(node.inputs)}"
            return refuse("concatenate", node.source, why, "join pair by pair")
        case Concatenate() if len(node.shape) > _MAX_JOINED_AXES:
            why = f"hls4ml joins arrays of at most {_MAX_JOINED_AXES} axes"
            return refuse("concatenate", node.source, why, "reshape first")
        case Table() if node.input_format.width > _MAX_TABLE_BITS:
            return refuse(
                node.function,
                node.source,
                f"its input {node.input_format} has 2^{node.input_format.width} words, and hls4ml holds a table in "
                f"logic, for which more than 2^{_MAX_TABLE_BITS} entries are too many",
                "quantize its input to 8 to 10 bits, or export Verilog",
            )
        case Softmax() if graph.output != node.name:
            return refuse(
                "softmax",
                node.source,
                "hls4ml takes it from tables, so what follows would not be exact",
                "end the network with it, or export the logits",
            )
    return None


def _parallel_refusal(graph: Graph, node: Node) -> RefusedOperationError | None:
    if isinstance(node, Upsample) and not nearest_is_exact(graph, node):
        return refuse(
            "nearest upsampling",
            node.source,
            f"hls4ml's arithmetic misses pixels at {node.shape[:-1]}",
            "use io_stream, or upsample twice by smaller factors behind a convolution each",
        )
    return None


def _stream_refusal(graph: Graph, node: Node) -> RefusedOperationError | None:
    readers = graph.consumers(node.name)
    if sum(reader.inputs.count(node.name) for reader in readers) + (node.name == graph.output) > _MAX_READERS:
        return refuse(
            node.kind,
            node.source,
            f"more than {_MAX_READERS} layers read it, and hls4ml copies a stream {_MAX_READERS} times at most",
            "use io_parallel, or let some of them read it behind a scale of 1",
        )
    match node:
        case Reshape() if len(node.shape) > 1 and not _repacks(graph[node.inputs[0]].shape[-1], node.shape[-1]):
            return refuse(
                "reshape",
                node.source,
                f"hls4ml repacks a stream of {graph[node.inputs[0]].shape[-1]} channels into one of {node.shape[-1]} "
                "wrongly, as neither number divides the other",
                "use io_parallel, or numbers of channels of which one divides the other",
            )
        case Reshape() if len(node.shape) == 1 and not all(
            isinstance(reader, Dense | Concatenate) for reader in readers
        ):
            return refuse(
                "flatten",
                node.source,
                "hls4ml leaves the stream in pixels, and of what reads it only a dense layer and a concatenate expect "
                "that",
                "flatten right before a dense layer, after relu and quantizer, or use io_parallel",
            )
        case Conv() | Pool():
            return _window_refusal(node)
    return None


def _window_refusal(node: Conv | Pool) -> RefusedOperationError | None:
    if isinstance(node, Conv):
        if not _skips_rows(node):
            return None
        return refuse(
            "convolution",
            node.source,
            f"hls4ml streams a window of a single row without its stride of {node.strides[0]} along rows",
            "give the kernel a second row, of zeros, and the image another row below, or use io_parallel",
        )
    if node.padding == "same":
        return refuse(
            "padded pooling",
            node.source,
            "hls4ml's streaming pool aborts on it, and its input may be negative, so that zeros are no padding",
            "put a relu or an unsigned quantizer before it, or use padding='VALID' or io_parallel",
        )
    if len(node.window) > 1 and node.window != node.strides:
        return refuse(
            "overlapping pooling",
            node.source,
            f"over two axes hls4ml's streaming pool aborts where window {node.window} and strides {node.strides} "
            "differ",
            "use equal ones or io_parallel",
        )
    return None


def _skips_rows(node: Conv) -> bool:
    """Whether hls4ml takes a convolution over rows and columns for one over columns; pointwise it has another."""
    window = node.kernel.value.shape[:-2]
    return len(window) == 2 and window[0] == 1 and window[1] > 1 and node.strides[0] > 1


def _repacks(one: int, other: int) -> bool:
    return max(one, other) % min(one, other) == 0
