"""Verilog of a small fixed-point network by da4ml, and its simulation held against the JAX network bit for bit.

The network is unrolled in space: every weight is a few adders, no multiplier and no memory, one sample per clock cycle.
That suits heads and small networks; the latency is the number of pipeline registers.

References:
    Sun et al., "da4ml: Distributed Arithmetic for Real-time Neural Networks on FPGAs", arXiv:2507.04535.
"""

import dataclasses
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fpga_bridge import graph as ir
from fpga_bridge.verilator import compile_simulation, row_bytes, run_simulation
from jaxgeo.errors import ExportError, InputError, ToolMissingError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

_ROUNDING = ("TRN", "RND")
_OVERFLOW = ("WRAP", "SAT", "SAT_SYM")


@dataclasses.dataclass(frozen=True)
class Port:
    """Words packed side by side, the first in the lowest bits; bits, sign and step of each word."""

    signed: tuple[bool, ...]
    widths: tuple[int, ...]
    fractions: tuple[int, ...]

    @property
    def bits(self) -> int:
        """Width of the whole port."""
        return sum(self.widths)

    def pack(self, values: Float[np.ndarray, "sample word"]) -> np.ndarray:
        """Rows (sample, byte) of values that lie on the grid of each word."""
        widths = np.array(self.widths)
        words = np.round(values * 2.0 ** np.array(self.fractions)[None]).astype(np.int64)
        # One byte per bit, all words side by side: padded to the widest, then the padding is dropped.
        bits = (words[..., None] >> np.arange(max(self.widths))[None, None]) & 1
        flat = bits.astype(np.uint8)[:, np.arange(max(self.widths))[None] < widths[:, None]]
        rows = np.zeros((len(values), 8 * row_bytes(self.bits)), np.uint8)
        rows[:, : self.bits] = flat
        return np.packbits(rows, axis=1, bitorder="little")

    def unpack(self, rows: np.ndarray) -> Float[np.ndarray, "sample word"]:
        """Values of rows (sample, byte)."""
        flat = np.unpackbits(rows, axis=1, bitorder="little")
        ends = np.cumsum([0, *self.widths])
        values = np.zeros((len(rows), len(self.widths)))
        for i, (signed, width, fraction) in enumerate(zip(self.signed, self.widths, self.fractions, strict=True)):
            weights = 2.0 ** np.arange(width)
            if signed:
                weights[-1:] *= -1
            values[:, i] = flat[:, ends[i] : ends[i + 1]] @ weights * 2.0**-fraction
        return values


@dataclasses.dataclass(frozen=True, eq=False)
class RtlDesign:
    """Verilog of one network.

    Attributes:
        name: of the top module; its ports are `clk`, `model_inp` and `model_out`.
        sources: file name -> Verilog.
        input_format: to which `simulate` rounds its inputs.
        input_shape: of one sample.
        output_shape: of one sample.
        input_port: layout of `model_inp`.
        output_port: layout of `model_out`.
        latency_cycles: rising edges from the one that takes an input to the one that shows its output, as designed.
        lut_estimate: da4ml's cost model, in LUTs of an AMD FPGA; not a synthesis result.
        register_bits: flip-flops of the pipeline.
    """

    name: str
    sources: Mapping[str, str]
    input_format: FixedPoint
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    input_port: Port
    output_port: Port
    latency_cycles: int
    lut_estimate: int
    register_bits: int


@dataclasses.dataclass(frozen=True, eq=False)
class RtlRun:
    """What a simulation gave: outputs (sample, *output_shape), and cycles as measured, not as designed.

    Random words, a new one at every cycle, come out as they do when each is held still until the pipeline has settled,
    `latency_cycles` rising edges after the one that takes them: so the initiation interval is 1.
    """

    outputs: np.ndarray
    latency_cycles: int
    initiation_interval: int
    verilator_compile_s: float
    simulate_s: float


def emit_verilog(
    graph: ir.Graph, name: str = "network", start: str | None = None, stage_delay: float = 5.0
) -> RtlDesign:
    """Unroll a traced fixed-point network, or its part behind the node `start`, into pipelined Verilog.

    Args:
        graph: from `fpga_bridge.trace`; dense, valid convolution, relu, add, concatenate, reshape, transpose and
            quantize nodes.
        name: letters, digits and underscores; the top module is called `<name>_rtl`, which no Verilog keyword is.
        start: the node whose value becomes the input port, for example the features before a head; None for the whole
            network, whose input must be quantised at once.
        stage_delay: levels of adders between two pipeline registers.

    Raises:
        ExportError: for a node, a rounding or an overflow mode that da4ml lacks, or weights that are not quantised.
        ToolMissingError: where da4ml is not installed.
    """
    da4ml = _import_da4ml()
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ExportError(f"{name!r} cannot name a Verilog module; use letters, digits and underscores")
    name = f"{name}_rtl"
    entry, format = _entry(graph, start)
    full = np.full(entry.shape, 0)
    ports = da4ml.trace.FixedVariableArray.from_kif(
        full + format.signed,
        full + (format.integer - format.signed),
        full + format.fraction,
        da4ml.trace.HWConfig(1, -1, -1),
    )
    values: dict[str, Any] = {entry.name: ports}
    for node in graph:
        if node.name not in values and node.inputs and all(source in values for source in node.inputs):
            values[node.name] = _unroll(node, [values[source] for source in node.inputs])
    if graph.output not in values:
        raise ExportError(f"the output {graph.output!r} depends on more than {entry.name!r}; start at another node")
    output = values[graph.output]
    pipeline = da4ml.trace.to_pipeline(
        da4ml.trace.comb_trace(ports, output, keep_dead_inputs=True), stage_delay, verbose=False
    )
    library = {p.name: p.read_text() for p in Path(da4ml.codegen.rtl.verilog.__file__).parent.glob("source/*.v")}
    modules = da4ml.codegen.rtl.verilog.pipeline_logic_gen(pipeline, name)
    kifs = [np.array([da4ml.types.minimal_kif(q) for q in qints]) for qints in (pipeline.inp_qint, pipeline.out_qint)]
    inputs, outputs = (
        Port(tuple(bool(s) for s in k[:, 0]), tuple(int(w) for w in k.sum(axis=1)), tuple(int(f) for f in k[:, 2]))
        for k in kifs
    )
    return RtlDesign(
        name=name,
        sources={f"{module}.v": text for module, text in modules.items()} | library,
        input_format=format,
        input_shape=tuple(entry.shape),
        output_shape=tuple(graph[graph.output].shape),
        input_port=inputs,
        output_port=outputs,
        latency_cycles=len(pipeline.solutions),
        lut_estimate=round(pipeline.cost),
        register_bits=int(pipeline.reg_bits),
    )


def _import_da4ml() -> Any:
    """Here and not above: da4ml belongs to an extra, and its absence deserves a sentence."""
    try:
        import da4ml.cmvm
        import da4ml.codegen.rtl.verilog
        import da4ml.trace
        import da4ml.types
    except ImportError as error:
        raise ToolMissingError(
            f"{error.name} is not installed here, and RTL is made with it; "
            "install the extra with `pip install 'jaxgeo[fpga]'`"
        ) from error
    return da4ml


def _entry(graph: ir.Graph, start: str | None) -> tuple[ir.Node, FixedPoint]:
    """The node whose value stands at the input port, and its format."""
    if start is None:
        readers = graph.consumers(graph.input.name)
        if len(readers) != 1 or not isinstance(readers[0], ir.Quantize):
            raise ExportError(
                f"the input {graph.input.name!r} is not quantised at once, so its port has no width; "
                "quantise it first in the model, or start at a quantised node"
            )
        return readers[0], readers[0].format
    node = entry = graph[start]
    while isinstance(node, ir.Reshape | ir.Transpose | ir.Relu):
        node = graph[node.inputs[0]]
    if not isinstance(node, ir.Quantize):
        raise ExportError(f"the value of {start!r} has no fixed-point format of its own; start behind a quantised node")
    return entry, node.format


def _weight(weight: ir.Weight, node: ir.Node) -> np.ndarray:
    if weight.format is None:
        raise ExportError(
            f"the weights of {node.name!r} ({node.source}) are not quantised, and hardware holds fixed point only; "
            "give the layer a precision"
        )
    return np.asarray(quantize(jnp.asarray(weight.value, jnp.float32), weight.format), np.float64)


def _affine(x: Any, kernel: ir.Weight, bias: ir.Weight | None, node: ir.Node) -> Any:
    """`x @ kernel + bias` over the last axis; positions whose inputs look alike share one solution."""
    da4ml = _import_da4ml()
    matrix = _weight(kernel, node)
    matrix = matrix.reshape(-1, matrix.shape[-1])
    rows = x._vars.reshape(-1, len(matrix))
    solved: dict[Any, Any] = {}
    results = []
    for row in rows:
        ranges = tuple((float(v.low), float(v.high), float(v.step)) for v in row)
        latencies = tuple(float(v.latency) for v in row)
        if (ranges, latencies) not in solved:
            solved[ranges, latencies] = da4ml.cmvm.solve(
                np.ascontiguousarray(matrix, np.float32),
                qintervals=[da4ml.types.QInterval(*r) for r in ranges],
                latencies=list(latencies),
                adder_size=x.hwconf.adder_size,
                carry_size=x.hwconf.carry_size,
            )
        results.append(solved[ranges, latencies](row))
    y = np.array(results).reshape(*x.shape[:-1], matrix.shape[1])
    if bias is not None:
        y = y + np.broadcast_to(_weight(bias, node), y.shape)
    return da4ml.trace.FixedVariableArray(y, hwconf=x.hwconf)


def _windows(node: ir.Conv, shape: tuple[int, ...]) -> np.ndarray:
    """Flat indices (*position, window * channel) of what each output of a convolution reads."""
    indices = np.arange(np.prod(shape)).reshape(shape)
    window = node.kernel.value.shape[: len(shape) - 1]
    axes = tuple(range(len(window)))
    views = np.lib.stride_tricks.sliding_window_view(indices, window, axis=axes)
    views = views[tuple(slice(None, None, stride) for stride in node.strides)]
    # (*position, channel, *window) -> (*position, *window, channel), as the kernel lies.
    views = np.moveaxis(views, len(window), -1)
    return views.reshape(*views.shape[: len(window)], -1)


def _unroll(node: ir.Node, inputs: list[Any]) -> Any:  # noqa: PLR0911  (one return for each kind of node)
    """The symbolic value of one node."""
    x = inputs[0]
    match node:
        case ir.Quantize():
            format = node.format
            if format.rounding not in _ROUNDING or format.overflow not in _OVERFLOW:
                raise ExportError(
                    f"{node.name!r} ({node.source}) rounds to {format}, but RTL by da4ml knows AP_TRN and AP_RND, "
                    "AP_WRAP, AP_SAT and AP_SAT_SYM only; use one of these"
                )
            integer = format.integer - format.signed
            return x.quantize(int(format.signed), integer, format.fraction, format.overflow, format.rounding)
        case ir.Dense():
            return _affine(x, node.kernel, node.bias, node)
        case ir.Conv() if node.padding == "valid":
            return _affine(x.reshape(-1)[_windows(node, x.shape)], node.kernel, node.bias, node)
        case ir.Relu():
            return x.relu()
        case ir.Add():
            return x + inputs[1]
        case ir.Concatenate():
            return np.concatenate(inputs, axis=node.axis)
        case ir.Reshape():
            return x.reshape(node.shape)
        case ir.Transpose():
            return x.transpose(node.perm)
    raise ExportError(
        f"{node.name!r} ({node.source}) is a {node.kind}, which the RTL path does not unroll; it carries dense, "
        "valid convolution, relu, add, concatenate, reshape, transpose and quantize: start behind this node, "
        "or use hls4ml for it"
    )


def simulate(design: RtlDesign, inputs: Float[np.ndarray, "sample ..."], workdir: Path) -> RtlRun:
    """Compile the design with Verilator and push one sample into it at every clock cycle.

    Latency and initiation interval are read off the simulation, see `RtlRun`, not taken from the design.

    Args:
        design: from `emit_verilog`.
        inputs: samples; rounded to the design's input format.
        workdir: for sources and build products.

    Raises:
        InputError: for inputs of another shape.
        ToolMissingError: for a missing g++, make or Verilator.
        ExportError: where the design does not compile, or takes no sample at every cycle.
    """
    if inputs.ndim != 1 + len(design.input_shape) or inputs.shape[1:] != design.input_shape or not len(inputs):
        raise InputError(f"{design.name} needs samples of shape {design.input_shape}, got an array {inputs.shape}")
    samples = np.asarray(quantize(jnp.asarray(inputs, jnp.float32), design.input_format), np.float64)
    rows = design.input_port.pack(samples.reshape(len(inputs), -1))
    bits = design.input_port.bits, design.output_port.bits
    program, compile_s = compile_simulation(design.sources, design.name, *bits, workdir)
    start = time.perf_counter()
    slack = design.latency_cycles + 8
    # The last row stays at the port until its output has come out.
    stream = run_simulation(program, np.concatenate([rows, np.repeat(rows[-1:], slack, axis=0)]), bits[1])
    simulate_s = time.perf_counter() - start
    latency = _measure_latency(design, program, slack)
    outputs = design.output_port.unpack(stream[latency : latency + len(rows)])
    return RtlRun(outputs.reshape(len(inputs), *design.output_shape), latency, 1, compile_s, simulate_s)


def _measure_latency(design: RtlDesign, program: Path, slack: int, count: int = 32) -> int:
    bits = design.input_port.bits
    words = np.zeros((count, 8 * row_bytes(bits)), np.uint8)
    words[:, :bits] = np.random.default_rng(0).integers(0, 2, (count, bits))
    rows = np.packbits(words, axis=1, bitorder="little")
    streamed = run_simulation(
        program, np.concatenate([rows, np.repeat(rows[-1:], slack, axis=0)]), design.output_port.bits
    )
    settled = run_simulation(program, np.repeat(rows, slack, axis=0), design.output_port.bits)[slack - 1 :: slack]
    shifts = [shift for shift in range(slack) if np.array_equal(streamed[shift : shift + count], settled)]
    if not shifts:
        raise ExportError(
            f"{design.name} does not take a sample at every cycle: its outputs change when inputs follow fast"
        )
    return shifts[0]


def compare(design: RtlDesign, run: RtlRun, expected: Float[np.ndarray, "sample ..."]) -> dict[str, int | float]:
    """Figures of a run beside the outputs of the JAX network.

    Returns:
        `latency_cycles`, `initiation_interval`, `values_compared`, `equal_share` (1.0 where all are equal bit for bit),
        `max_abs_error`, `lut_estimate`, `register_bits`, `verilator_compile_s`, `simulate_s`.

    Raises:
        InputError: where `expected` has another shape than the run's outputs.
    """
    if run.outputs.shape != expected.shape:
        raise InputError(f"the simulation gave outputs {run.outputs.shape}, compared with an array {expected.shape}")
    return {
        "latency_cycles": run.latency_cycles,
        "initiation_interval": run.initiation_interval,
        "values_compared": int(expected.size),
        "equal_share": float(np.mean(run.outputs == expected)),
        "max_abs_error": float(np.max(np.abs(run.outputs - expected))),
        "lut_estimate": design.lut_estimate,
        "register_bits": design.register_bits,
        "verilator_compile_s": run.verilator_compile_s,
        "simulate_s": run.simulate_s,
    }
