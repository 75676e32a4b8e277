"""FIFO depths of an io_stream project from our simulation of the very processes that hls4ml is about to write.

hls4ml gives each stream as many words as an image has pixels; its own pass that makes them smaller needs a
co-simulation by the vendor's tool. Here the layers of its model, forks and paddings included, become a design of
`fpga_bridge.estimates`, whose depths delay no frame in the simulation; what enters and leaves the network keeps the
depth of hls4ml. The simulation is of latencies estimated before any synthesis (see `estimates.latency`).
"""

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from fpga_bridge.estimates import stages
from fpga_bridge.estimates.fifo_depths import lean_depths, quick_depths
from fpga_bridge.estimates.latency import BORDER_CYCLES, SOFTMAX_LOOKUP_CYCLES, fan_in, tree_cycles
from fpga_bridge.estimates.streams import Design, Fifo, Process
from fpga_bridge.typed_graph.graph import Graph
from jaxgeo.errors import ExportError

FifoDepths = Literal["default", "simulated"]
LEAN_WORK = 500_000  # steps of a frame times FIFOs, up to which seconds make every FIFO as small as it can be
MAX_STEPS = 20_000_000  # beyond, a simulation takes minutes
_POINTWISE = ("Activation", "ApplyAlpha", "BatchNormalization", "HardActivation", "ParametrizedActivation", "PReLU",
              "UnaryLUT")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Stream:
    """Where the words of a tensor come out; `process` is empty for what enters the network."""

    process: str
    port: int
    words: int
    tensor: str  # whose variable hls4ml gives the FIFO


@dataclasses.dataclass(frozen=True, eq=False)
class StreamDesign:
    """What hls4ml is about to write.

    Attributes:
        design: with hls4ml's own depths.
        tensors: of hls4ml's model, one for each FIFO of the design: the key of its variable in `output_vars`.
    """

    design: Design
    tensors: tuple[str, ...]


def stream_design(model: Any, graph: Graph, clock_period_ns: float) -> StreamDesign:
    """The processes of hls4ml's converted model, one for each layer that has a loop, and the streams between them.

    Args:
        model: of hls4ml, converted for io_stream.
        graph: that it was made of; layers with weights have the names of its nodes.
        clock_period_ns: that synthesis is to reach.

    Raises:
        ExportError: for a class of layers without a form in the simulation; names the layer.
    """
    processes: list[Process] = []
    fifos: list[Fifo] = []
    tensors: list[str] = []
    streams: dict[str, _Stream] = {}
    taken: set[tuple[str, int]] = set()
    for layer in model.get_layers():
        if layer.class_name == "Input":
            words = math.prod(layer.get_output_variable().shape[:-1])
            streams |= {name: _Stream("", 0, words, name) for name in layer.outputs}
            continue
        sources = [streams[name] for name in layer.inputs]
        if layer.class_name == "Reshape":  # another name of the same stream
            streams[layer.outputs[0]] = sources[0]
            continue
        process = _process(layer, graph, sources, clock_period_ns)
        inside = [i for i, source in enumerate(sources) if source.process]
        for port, i in enumerate(inside):
            source = sources[i]
            depth = int(model.output_vars[source.tensor].pragma[1])
            fifos.append(Fifo(source.process, layer.name, source.port, port, depth))
            tensors.append(source.tensor)
            taken.add((source.process, source.port))
        processes.append(dataclasses.replace(process, reads=process.reads[inside]))
        for port, name in enumerate(layer.outputs):
            streams[name] = _Stream(layer.name, port, int(process.writes[port].sum()), name)
    return StreamDesign(_without_open_ends(processes, fifos, taken), tuple(tensors))


def _without_open_ends(processes: list[Process], fifos: list[Fifo], taken: set[tuple[str, int]]) -> Design:
    """What leaves the network is not waited for."""
    kept = {p.name: [port for port in range(len(p.writes)) if (p.name, port) in taken] for p in processes}
    closed = [dataclasses.replace(p, writes=p.writes[kept[p.name]]) for p in processes]
    joined = [dataclasses.replace(fifo, output=kept[fifo.source].index(fifo.output)) for fifo in fifos]
    return Design(tuple(closed), tuple(joined))


def _process(layer: Any, graph: Graph, sources: list[_Stream], clock_period_ns: float) -> Process:  # noqa: PLR0911, PLR0912  # by kind
    name, kind, words = layer.name, layer.class_name, sources[0].words

    def numbers(*names: str, default: int = 1) -> tuple[int, int]:
        first, second = (int(layer.get_attr(key, default)) for key in names)
        return first, second

    size = numbers("in_height", "in_width")
    match kind:
        case "Clone":
            return stages.clone(name, words, len(layer.outputs))
        case "ZeroPadding1D" | "ZeroPadding2D":
            before, after = numbers("pad_top", "pad_left", default=0), numbers("pad_bottom", "pad_right", default=0)
            return stages.padding(name, size, before, after)
        case "Conv1D" | "Conv2D" | "PointwiseConv1D" | "PointwiseConv2D":
            window, strides = numbers("filt_height", "filt_width"), numbers("stride_height", "stride_width")
            reuse, cycles = _product(layer, graph, clock_period_ns)
            if layer.get_attr("strategy", "latency").lower() == "resource":
                busy = (BORDER_CYCLES, BORDER_CYCLES + reuse + cycles)
                return stages.windowed(name, size, window, strides, busy=busy)
            process = stages.windowed(name, size, window, strides, depth=1 + cycles + reuse)
            return dataclasses.replace(process, interval=reuse)
        case "Pooling1D" | "Pooling2D":
            window, strides = numbers("pool_height", "pool_width"), numbers("stride_height", "stride_width")
            depth = 2 + tree_cycles(math.prod(window), clock_period_ns)
            return stages.windowed(name, size, window, strides, depth=depth, kind="pool")
        case "GlobalPooling1D" | "GlobalPooling2D":
            return stages.gather(name, words, 1, kind="globalpool")
        case "Dense":
            reuse, cycles = _product(layer, graph, clock_period_ns)
            return stages.gather(name, words, 1, depth=cycles + reuse)
        case "Softmax":
            classes = layer.get_output_variable().shape[-1]
            depth = 2 + 2 * SOFTMAX_LOOKUP_CYCLES + tree_cycles(classes, clock_period_ns)
            return stages.pointwise(name, words, depth=depth, kind="softmax")
        case "Concatenate" if len(layer.get_output_variable().shape) == 1:
            return stages.vector(name, tuple(source.words for source in sources))
        case "Concatenate" if (axis := _axis(layer)) < len(layer.get_output_variable().shape) - 1:
            rows = math.prod(layer.get_output_variable().shape[:axis])
            return stages.sequence(name, tuple(source.words // rows for source in sources), rows)
        case "Transpose":
            return stages.gather(name, words, math.prod(layer.get_output_variable().shape[:-1]), kind="transpose")
        case "Repack":
            shape = layer.get_output_variable().shape
            return stages.repack(name, words, math.prod(shape) // words, shape[-1])
        case "Merge" | "Concatenate":
            return stages.pointwise(name, words, inputs=len(sources), kind="merge")
        case "Resize":
            new = numbers("out_height", "out_width")
            return stages.upsampling(name, size, (new[0] // size[0], new[1] // size[1]))
        case "HlsZeroInsertion":  # ours
            return _zero_insertion(name, size, numbers("stride_height", "stride_width"))
        case _ if kind in _POINTWISE:
            return stages.pointwise(name, words, kind=kind)
    raise ExportError(f"the layer {name} of hls4ml's class {kind} has no form in the simulation")


def _axis(layer: Any) -> int:
    """Of a sample, along which a layer joins."""
    axis = int(layer.get_attr("axis"))
    return axis - 1 if axis > 0 else len(layer.get_output_variable().shape) + axis


def _product(layer: Any, graph: Graph, clock_period_ns: float) -> tuple[int, int]:
    """Cycles between two products and cycles of the adder tree."""
    node: Any = graph[layer.name]
    return int(layer.get_attr("reuse_factor", 1)), tree_cycles(fan_in(node.kernel.value), clock_period_ns)


def _zero_insertion(name: str, size: tuple[int, int], strides: tuple[int, int]) -> Process:
    """A pixel or zeros at every step: see the C++ of `fpga_bridge.hls.layers`."""
    axes = [np.arange((n - 1) * stride + 1) % stride == 0 for n, stride in zip(size, strides, strict=True)]
    reads = (axes[0][:, None] & axes[1][None]).reshape(1, -1)
    return Process(name, reads, np.ones_like(reads), kind="zeroinsert")


def simulated_depths(model: Any, graph: Graph, clock_period_ns: float) -> tuple[dict[str, int], str]:
    """Depths for the variables of hls4ml's model, by tensor, and a sentence about them; none where hls4ml's own stay.

    Where steps of a frame times FIFOs are at most `LEAN_WORK` they are those of `lean_depths`, else of `quick_depths`,
    none deeper than hls4ml has it. Beyond `MAX_STEPS`, or with a layer that the simulation lacks, the sentence says so.

    Args:
        model: of hls4ml, converted for io_stream.
        graph: that it was made of.
        clock_period_ns: that synthesis is to reach.
    """
    try:
        streams = stream_design(model, graph, clock_period_ns)
    except ExportError as error:  # nothing is lost but block RAM
        return {}, f"FIFO depths are hls4ml's own: {error}"
    design = streams.design
    steps = sum(process.steps for process in design.processes)
    if steps > MAX_STEPS:
        return {}, f"FIFO depths are hls4ml's own: a frame takes {steps} steps, and {MAX_STEPS} is what is simulated"
    lean = steps * len(design.fifos) <= LEAN_WORK
    found = lean_depths(design) if lean else quick_depths(design)
    own = [fifo.depth or 0 for fifo in design.fifos]
    depths = [min(pair) for pair in zip(found, own, strict=True)]
    how = "" if lean else f" ({steps} steps a frame, so each alone was not made as small as it can be)"
    said = f"{len(depths)} FIFOs hold {sum(depths)} words by simulation, where hls4ml's own depths are {sum(own)}{how}"
    return dict(zip(streams.tensors, depths, strict=True)), said


def set_depths(model: Any, depths: dict[str, int]) -> None:
    """Give the streams of hls4ml's model these depths, as its own optimisation of FIFO depths does.

    Args:
        model: of hls4ml, converted for io_stream.
        depths: in words, by tensor.
    """
    for tensor, depth in depths.items():
        variable = model.output_vars[tensor]
        variable.pragma = (variable.pragma[0], depth)
