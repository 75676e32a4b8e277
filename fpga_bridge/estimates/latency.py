r"""A traced network as a streaming design with cycle counts, before any synthesis.

The structure (pixels, padding, line buffers, forks) follows from the layers; the depth of a pipeline follows from its
adder tree. With strategy Latency a loop over pixels takes one pixel a cycle (or one in `reuse_factor`), and

    module latency = 1 + (pixels - 1) * reuse + depth,    depth = 2 + ceil(ceil(log2(fan in)) / levels per cycle)

Fitted is one constant, `ADDER_NS`, on the three convolutions of the SVHN network at 5 ns (16 bits); the 2 of reading
and writing, and the 12.5 % of the clock that Vivado HLS keeps in reserve, are as in its schedules. With strategy
Resource the loop over pixels is not pipelined: a pixel that completes no window costs `BORDER_CYCLES` (fitted on the
ENet designs, see `enet_latency`), any other costs the reuse factor and the depth on top. These are estimates for hls4ml
1.3 and are held against no synthesis of that version.

References:
    Aarrestad et al., "Fast convolutional neural networks on FPGAs with hls4ml", arXiv:2101.05108.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from fpga_bridge.estimates import stages
from fpga_bridge.estimates.reuse import Reuse, Strategy, closest_reuse_factor
from fpga_bridge.estimates.streams import Design, Fifo, Process
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.precision import NodeTypes
from fpga_bridge.typed_graph.source import refuse
from jaxgeo.errors import ConfigError, check_fields, check_real

ADDER_NS = 0.85  # one level of an adder tree; fitted, any value from 0.73 to 0.875 gives the same SVHN latencies
CLOCK_RESERVE = 0.125
BORDER_CYCLES = 4
SOFTMAX_LOOKUP_CYCLES = 2


@dataclasses.dataclass(frozen=True)
class HardwareConfig:
    """How the layers are to be built.

    Attributes:
        strategy: of hls4ml: Latency unrolls and pipelines, Resource shares multipliers in a loop.
        reuse_factor: uses of each multiplier, for all layers that `reuse_factors` does not name.
        reuse_factors: by the layer's name.
        clock_period_ns: that synthesis is to reach.
        default_width: bits of a number where the network has no formats.
    """

    strategy: Strategy = "Latency"
    reuse_factor: int = 1
    reuse_factors: Mapping[str, int] = dataclasses.field(default_factory=dict)
    clock_period_ns: float = 5.0
    default_width: int = 16

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: for a strategy that there is not, a clock period that is not positive, or a width or a reuse
                factor that is no whole number of at least 1.
        """
        check_fields(self, default_width=1, reuse_factor=1, reuse_factors=1)
        check_real("clock_period_ns", self.clock_period_ns, above=0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class DesignPlan:
    """A design, and what was decided on the way.

    Attributes:
        design: FIFO depths as hls4ml sets them by default: as many words as are written.
        reuse: of each layer with weights.
        layers: process name -> name of the node of the graph that it serves.
    """

    design: Design
    reuse: Mapping[str, Reuse]
    layers: Mapping[str, str]

    @property
    def messages(self) -> tuple[str, ...]:
        """What was not done as asked for, and why."""
        return tuple(reuse.message for reuse in self.reuse.values() if reuse.message)


def adder_levels_per_cycle(clock_period_ns: float) -> int:
    """Levels of an adder tree between two registers."""
    return max(1, int(clock_period_ns * (1 - CLOCK_RESERVE) / ADDER_NS))


def tree_cycles(fan_in: int, clock_period_ns: float) -> int:
    """Cycles of the sum of so many products."""
    levels = max(1, math.ceil(math.log2(max(fan_in, 1))))
    return math.ceil(levels / adder_levels_per_cycle(clock_period_ns))


def fan_in(kernel: np.ndarray) -> int:
    """The most weights other than zero that one output sums: pruned ones leave no adder behind."""
    return max(1, int(np.count_nonzero(kernel.reshape(-1, kernel.shape[-1]), axis=0).max()))


def plan_design(
    graph: ir.Graph, config: HardwareConfig | None = None, types: Mapping[str, NodeTypes] | None = None
) -> DesignPlan:
    """The processes that hls4ml makes of a graph with io_stream, and the FIFOs between them.

    Quantisers, reshapes and a batch norm behind a dense layer or a convolution cost nothing, as in hls4ml.

    Args:
        graph: from `fpga_bridge.tracing.trace.trace`.
        config: None for strategy Latency at 5 ns.
        types: from `precision.plan_types`, for the widths of the FIFOs.

    Raises:
        ConfigError: for a reuse factor of a layer that has no weights.
        ExportError: for a node without a streaming form; names the line.
    """
    config = HardwareConfig() if config is None else config
    weighted = {node.name for node in graph if isinstance(node, ir.Dense | ir.Conv)}
    unknown = sorted(config.reuse_factors.keys() - weighted)
    if unknown:
        raise ConfigError(f"no layer with weights is called {unknown[0]!r}; there are {', '.join(sorted(weighted))}")
    return _Planner(graph, config, types or {}).plan()


@dataclasses.dataclass(frozen=True)
class _Stream:
    """Where the words of a node come out."""

    process: str  # empty for the input of the network
    port: int
    words: int
    numbers: int  # in a word
    width: int  # bits of a number


class _Planner:
    def __init__(self, graph: ir.Graph, config: HardwareConfig, types: Mapping[str, NodeTypes]) -> None:
        self.graph, self.config, self.types = graph, config, types
        self.processes: list[Process] = []
        self.fifos: list[Fifo] = []
        self.reuse: dict[str, Reuse] = {}
        self.layers: dict[str, str] = {}
        self.streams: dict[str, list[_Stream]] = {}  # one for each reader still to come

    def plan(self) -> DesignPlan:
        for node in self.graph:
            sources = [self.streams[name].pop() for name in node.inputs]
            stream = self._input(node) if not sources else self._node(node, sources)
            readers = sum(other.inputs.count(node.name) for other in self.graph) + (node.name == self.graph.output)
            self.streams[node.name] = self._forked(node, stream, readers)
        output = self.streams[self.graph.output][0]
        if not output.process:
            raise ConfigError("the network has no layer that costs a cycle, so there is nothing to plan")
        # What leaves the design is not waited for; it is the last port of its process.
        at = next(i for i, process in enumerate(self.processes) if process.name == output.process)
        open_end = dataclasses.replace(self.processes[at], writes=self.processes[at].writes[: output.port])
        self.processes[at] = open_end
        return DesignPlan(Design(tuple(self.processes), tuple(self.fifos)), self.reuse, self.layers)

    def _input(self, node: ir.Node) -> _Stream:
        vector = len(node.shape) == 1
        words, numbers = (1, node.shape[0]) if vector else (math.prod(node.shape[:-1]), node.shape[-1])
        return _Stream("", 0, words, numbers, self._width(node))

    def _width(self, node: ir.Node) -> int:
        return self.types[node.name].result.width if node.name in self.types else self.config.default_width

    def _forked(self, node: ir.Node, stream: _Stream, readers: int) -> list[_Stream]:
        if readers < 2:
            return [stream]
        name = f"{node.name}_clone"
        process = self._add(stages.clone(name, stream.words, readers), [stream], node)
        return [dataclasses.replace(stream, process=process, port=port) for port in reversed(range(readers))]

    def _add(self, process: Process, sources: list[_Stream], node: ir.Node) -> str:
        """Put a process behind its sources; what comes from outside is always there."""
        inside = [i for i, source in enumerate(sources) if source.process]
        for port, i in enumerate(inside):
            source = sources[i]
            width = source.numbers * source.width
            self.fifos.append(Fifo(source.process, process.name, source.port, port, source.words, width))
        self.processes.append(dataclasses.replace(process, reads=process.reads[inside]))
        self.layers[process.name] = node.name
        return process.name

    def _node(self, node: ir.Node, sources: list[_Stream]) -> _Stream:  # noqa: PLR0911, PLR0912  # by kind
        stream = sources[0]
        name, width, channels = node.name, self._width(node), node.shape[-1]
        match node:
            case ir.Quantize() | ir.Reshape():
                return self._reshaped(node, dataclasses.replace(stream, width=width))
            case ir.Affine() if self._fuses(node):
                return dataclasses.replace(stream, width=width)
            case ir.Dense() if len(node.shape) == 1:
                reuse, cycles = self._product(node)
                process = stages.gather(name, stream.words, 1, depth=cycles + reuse)
                return _Stream(self._add(process, sources, node), 0, 1, node.shape[0], width)
            case ir.Dense():
                stream = self._width_of_words(node, stream, node.kernel.value.shape[0])
                reuse, cycles = self._product(node)
                process = stages.pointwise(name, stream.words, depth=1 + cycles + reuse, interval=reuse, kind="dense")
                return _Stream(self._add(process, [stream], node), 0, stream.words, node.shape[-1], width)
            case ir.Conv() | ir.Pool():
                return self._window(node, stream, width)
            case ir.ZeroPad():
                size, pads = self._size(node.inputs[0]), node.pads
                pads = ((0, 0),) * (2 - len(pads)) + tuple(pads)
                process = stages.padding(name, size, (pads[0][0], pads[1][0]), (pads[0][1], pads[1][1]))
                return self._out(process, sources, node, width)
            case ir.Upsample():
                process = stages.upsampling(name, self._size(node.inputs[0]), _pair(node.factors))
                return self._out(process, sources, node, width)
            case ir.Softmax():
                return self._softmax(node, sources, width)
            case ir.GlobalPool():
                process = stages.gather(name, stream.words, 1, depth=2, kind="globalpool")
                return _Stream(self._add(process, sources, node), 0, 1, node.shape[-1], width)
            case ir.Transpose():
                process = stages.gather(name, stream.words, math.prod(node.shape[:-1]), kind="transpose")
                return self._out(process, sources, node, width)
            case ir.Concatenate() if len(node.shape) == 1:
                return self._out(stages.vector(name, tuple(source.words for source in sources)), sources, node, width)
            case ir.Concatenate() if node.axis < len(node.shape) - 1:
                rows = math.prod(node.shape[: node.axis])
                process = stages.sequence(name, tuple(source.words // rows for source in sources), rows)
                return self._out(process, sources, node, width)
            case _ if isinstance(node, ir.Pairwise | ir.Concatenate | ir.Relu | ir.Rectifier | ir.Affine | ir.Table):
                process = stages.pointwise(name, stream.words, inputs=len(sources), kind=node.kind)
                numbers = channels if isinstance(node, ir.Concatenate) else stream.numbers
                return _Stream(self._add(process, sources, node), 0, stream.words, numbers, width)
        raise refuse(f"a {node.kind}", node.source, "it has no streaming form here", "leave it out of the estimate")

    def _out(self, process: Process, sources: list[_Stream], node: ir.Node, width: int) -> _Stream:
        return _Stream(self._add(process, sources, node), 0, math.prod(node.shape[:-1]), node.shape[-1], width)

    def _fuses(self, node: ir.Affine) -> bool:
        before = self.graph[node.inputs[0]]
        return isinstance(before, ir.Dense | ir.Conv) and len(self.graph.consumers(before.name)) == 1

    def _reshaped(self, node: ir.Node, stream: _Stream) -> _Stream:
        if len(node.shape) == 1:
            return stream  # a vector keeps the words that it comes in; whoever reads it gathers them
        return self._width_of_words(node, stream, node.shape[-1])

    def _width_of_words(self, node: ir.Node, stream: _Stream, numbers: int) -> _Stream:
        if stream.numbers == numbers:
            return stream
        name = f"{node.name}_repack"
        process = stages.repack(name, stream.words, stream.numbers, numbers)
        self._add(process, [stream], node)
        return dataclasses.replace(
            stream, process=name, port=0, words=stream.words * stream.numbers // numbers, numbers=numbers
        )

    def _product(self, node: ir.Dense | ir.Conv) -> tuple[int, int]:
        """Cycles between two products and cycles of the adder tree."""
        kernel = node.kernel.value
        n_in, n_out = kernel.size // kernel.shape[-1], kernel.shape[-1]
        wanted = self.config.reuse_factors.get(node.name, self.config.reuse_factor)
        if self.config.strategy == "Resource":
            reuse = closest_reuse_factor(n_in, n_out, wanted, node.name)
        else:
            reuse = Reuse(wanted, min(wanted, n_in * n_out))
        self.reuse[node.name] = reuse
        return reuse.used, tree_cycles(fan_in(kernel), self.config.clock_period_ns)

    def _size(self, name: str) -> tuple[int, int]:
        shape = self.graph[name].shape
        return (1, shape[0]) if len(shape) == 2 else (shape[0], shape[1])

    def _window(self, node: ir.Conv | ir.Pool, stream: _Stream, width: int) -> _Stream:
        size = self._size(node.inputs[0])
        window = node.kernel.value.shape[:-2] if isinstance(node, ir.Conv) else node.window
        window, strides = _pair(window), _pair(node.strides)
        if node.padding == "same":
            total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, window, strides, strict=True)]
            before, after = (total[0] // 2, total[1] // 2), (total[0] - total[0] // 2, total[1] - total[1] // 2)
            if any(total):
                name = f"{node.name}_pad"
                self._add(stages.padding(name, size, before, after), [stream], node)
                size = (size[0] + total[0], size[1] + total[1])
                stream = dataclasses.replace(stream, process=name, port=0, words=size[0] * size[1])
        if isinstance(node, ir.Pool):
            depth = 2 + tree_cycles(math.prod(window), self.config.clock_period_ns)
            process = stages.windowed(node.name, size, window, strides, depth=depth, kind="pool")
            return self._out(process, [stream], node, width)
        reuse, cycles = self._product(node)
        if self.config.strategy == "Resource":
            busy = (BORDER_CYCLES, BORDER_CYCLES + reuse + cycles)
            process = stages.windowed(node.name, size, window, strides, busy=busy)
        else:
            process = stages.windowed(node.name, size, window, strides, depth=1 + cycles + reuse)
            process = dataclasses.replace(process, interval=reuse)
        return self._out(process, [stream], node, width)

    def _softmax(self, node: ir.Softmax, sources: list[_Stream], width: int) -> _Stream:
        # Read, look up exp, sum, look up 1 / x, multiply: the "stable" form with two tables.
        words, classes = math.prod(node.shape[:-1]), node.shape[-1]
        cycles = 2 + 2 * SOFTMAX_LOOKUP_CYCLES + tree_cycles(classes, self.config.clock_period_ns)
        if words == 1:
            process = stages.gather(node.name, sources[0].words, 1, depth=cycles, kind="softmax")
            return _Stream(self._add(process, sources, node), 0, 1, classes, width)
        process = stages.pointwise(node.name, words, depth=cycles, kind="softmax")
        return self._out(process, sources, node, width)


def _pair(axes: Sequence[int]) -> tuple[int, int]:
    """A signal is an image of one row."""
    return (1, axes[0]) if len(axes) == 1 else (axes[0], axes[1])
