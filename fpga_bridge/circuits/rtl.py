"""Verilog of a small fixed-point network by da4ml, and its simulation held against the JAX network bit for bit.

The network is unrolled in space, one sample per clock cycle: every weight is a few adders; only products of two
activations take multipliers, and only tables take memory. That suits heads and small networks; the latency is the
number of pipeline registers.

References:
    Sun et al., "da4ml: Distributed Arithmetic for Real-time Neural Networks on FPGAs", arXiv:2507.04535.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fpga_bridge.circuits import symbolic, unroll
from fpga_bridge.circuits.circuit import import_da4ml
from fpga_bridge.circuits.pipeline import pipelined, verilog_of
from fpga_bridge.circuits.verilator import compile_simulation, row_bytes, run_simulation
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.errors import ExportError, InputError
from jaxgeo.layers.fixed_point import FixedPoint, quantize


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
        graph: from `fpga_bridge.tracing.trace`; what `fpga_bridge.circuits.unroll` knows.
        name: letters, digits and underscores; the top module is called `<name>_rtl`, which no Verilog keyword is.
        start: the node whose value becomes the input port, for example the features before a head; None for the whole
            network, whose input must be quantised at once.
        stage_delay: levels of adders between two pipeline registers.

    Raises:
        ExportError: for a node, a rounding or an overflow mode that da4ml lacks, or weights that are not quantised.
        ToolMissingError: where da4ml is not installed.
    """
    top = _top(name)
    ports, format, outputs = unroll.unroll(graph, start)
    return _design(top, ports, format, outputs, stage_delay)


def emit_function(
    apply: Callable, params: Any, input_shape: tuple[int, ...], name: str = "network", stage_delay: float = 5.0
) -> RtlDesign:
    """Unroll a pure function into pipelined Verilog: sums and products of activations, wiring and tables included.

    Args:
        apply: pure; float32 inputs (batch, *input_shape) to one array (batch, ...), see
            `fpga_bridge.circuits.symbolic`.
        params: any pytree of arrays.
        input_shape: of one sample.
        name: letters, digits and underscores; the top module is called `<name>_rtl`.
        stage_delay: levels of adders between two pipeline registers; a product of two activations takes as many levels
            as the wider factor has bits and is never cut, so it sets the clock where there is one.

    Raises:
        ExportError: for an operation that is neither exact nor a table; names it, the model's line, and what to use.
        InputError: where the function does not return one array that depends on its input.
        ToolMissingError: where da4ml is not installed.
    """
    top = _top(name)
    return _design(top, *symbolic.unroll(apply, params, input_shape), stage_delay)


def _top(name: str) -> str:
    import_da4ml()
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ExportError(f"{name!r} cannot name a Verilog module; use letters, digits and underscores")
    return f"{name}_rtl"


def _design(name: str, ports: np.ndarray, format: FixedPoint, outputs: np.ndarray, stage_delay: float) -> RtlDesign:
    da4ml = import_da4ml()
    logic = da4ml.trace.comb_trace(list(ports.flat), list(outputs.flat), keep_dead_inputs=True)
    pipeline = pipelined(logic, stage_delay)
    kifs = [np.array([da4ml.types.minimal_kif(q) for q in qints]) for qints in (pipeline.inp_qint, pipeline.out_qint)]
    inputs, results = (
        Port(tuple(bool(s) for s in k[:, 0]), tuple(int(w) for w in k.sum(axis=1)), tuple(int(f) for f in k[:, 2]))
        for k in kifs
    )
    return RtlDesign(
        name=name,
        sources=verilog_of(pipeline, name),
        input_format=format,
        input_shape=tuple(ports.shape),
        output_shape=tuple(outputs.shape),
        input_port=inputs,
        output_port=results,
        latency_cycles=len(pipeline.solutions),
        lut_estimate=round(pipeline.cost),
        register_bits=int(pipeline.reg_bits),
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
