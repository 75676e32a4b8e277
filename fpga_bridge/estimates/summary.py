"""Cycles and resources of a traced network in one record: what is known before any synthesis."""

import dataclasses
from collections.abc import Mapping

from fpga_bridge.estimates.dataflow import Run, simulate
from fpga_bridge.estimates.fifo_depths import free_running_depths, lean_depths, minimal_depths
from fpga_bridge.estimates.latency import DesignPlan, HardwareConfig, plan_design
from fpga_bridge.estimates.parts import Part
from fpga_bridge.estimates.reports import Report, relative_error, table
from fpga_bridge.estimates.resources import Resources, Widths, estimate, total
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.precision import NodeTypes

_FRAMES = 3
_STEPS = 100_000  # of a frame, up to which FIFOs are made as small as they can be
_ASSUMED = (
    "the network does not state all of its formats, so 16 bits are assumed for activations, weights and sums; give it "
    "formats (--formats, or a precision in its configuration) for an estimate of what will be built"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """A design with its times and its cells.

    Attributes:
        plan: processes and FIFOs; the depths delay no frame.
        run: simulated, several frames behind each other.
        layers: cells of each layer, and of the FIFOs under `fifos`.
        least_depths: of the FIFOs, such that the design just does not deadlock; None where they were not searched.
        part: to compare with.
        clock_period_ns: of the design.
        messages: a sentence for each thing that is not as asked for, or that was assumed.
    """

    plan: DesignPlan
    run: Run
    layers: Mapping[str, Resources]
    least_depths: tuple[int, ...] | None
    part: Part
    clock_period_ns: float
    messages: tuple[str, ...] = ()

    @property
    def resources(self) -> Resources:
        """Of the whole design."""
        return total(self.layers.values())


def estimate_network(
    graph: ir.Graph,
    part: Part,
    config: HardwareConfig | None = None,
    types: Mapping[str, NodeTypes] | None = None,
    widths: Widths | None = None,
) -> Estimate:
    """Plan, simulate and count a network with io_stream.

    FIFOs get the least depths that delay no frame, found by the simulation, not hls4ml's default of a whole image
    each; in networks of more than 100,000 steps a frame their peak filling, which is quicker to find, and the depths at
    which a deadlock begins are not searched.

    Args:
        graph: from `fpga_bridge.tracing.trace.trace`.
        part: of the FPGA.
        config: None for strategy Latency at 5 ns.
        types: from `precision.plan_types`, where the network states formats.
        widths: where it does not; None for 16 bits, which a message then says.

    Raises:
        ConfigError: for a config that does not suit the network.
        ExportError: for a node without a streaming form; names the line.
    """
    config = HardwareConfig() if config is None else config
    plan = plan_design(graph, config, types)
    small = sum(process.steps for process in plan.design.processes) <= _STEPS
    depths = lean_depths(plan.design) if small else free_running_depths(plan.design)
    plan = dataclasses.replace(plan, design=plan.design.with_depths(depths))
    layers = estimate(graph, config, types, widths=widths, plan=plan, multiplier=part.multiplier)
    least = minimal_depths(plan.design) if small else None
    messages = plan.messages if types or widths else (*plan.messages, _ASSUMED)
    return Estimate(plan, simulate(plan.design, _FRAMES), layers, least, part, config.clock_period_ns, messages)


def lines(estimated: Estimate) -> list[str]:
    """The estimate as text: a row for each process, each layer's cells, the whole against the part."""
    found = [f"{'process':24} {'kind':11} {'steps':>8} {'cycles':>9} {'starts':>9} {'ends':>9}"]
    for process in estimated.plan.design.processes:
        steps = process.steps
        start, end = estimated.run.starts[process.name][0], estimated.run.ends[process.name][steps - 1]
        found.append(f"{process.name:24} {process.kind:11} {steps:8} {process.latency:9} {start:9} {end:9}")
    found.append(f"\n{'FIFO':40} {'words':>7} {'at least':>9}")
    fifos = estimated.plan.design.fifos
    for fifo, least in zip(fifos, estimated.least_depths or ("not sought",) * len(fifos), strict=True):
        found.append(f"{fifo.name:40} {fifo.depth:7} {least:>9}")
    found.append(f"\n{'layer':24} {'DSP':>8} {'LUT':>9} {'FF':>9} {'BRAM':>7}")
    for name, cells in estimated.layers.items():
        found.append(f"{name:24} {cells.dsp:8.0f} {cells.lut:9.0f} {cells.ff:9.0f} {cells.bram_tiles:7.1f}")
    cells, part = estimated.resources, estimated.part
    shares = (cells.dsp / part.dsp, cells.lut / part.lut, cells.ff / part.ff, cells.bram_tiles / part.bram_tiles)
    found.append(f"{'whole':24} {cells.dsp:8.0f} {cells.lut:9.0f} {cells.ff:9.0f} {cells.bram_tiles:7.1f}")
    found.append(f"{'of ' + part.name:24} {shares[0]:8.1%} {shares[1]:9.1%} {shares[2]:9.1%} {shares[3]:7.1%}")
    run, clock = estimated.run, estimated.clock_period_ns
    found.append(
        f"latency {run.latency} cycles ({run.latency * clock / 1000:.3f} us), a new frame each {run.interval} cycles "
        f"({1e9 / (run.interval * clock):.0f} frames a second), a batch of 10 in {run.batch_cycles(10)} cycles"
    )
    if max(shares) > 1:
        found.append(f"this is more than {part.name} holds: raise the reuse factor, or narrow the formats")
    return found + [f"note: {message}" for message in estimated.messages]


def report_lines(reports: Mapping[str, Report], estimated: Estimate | None = None) -> list[str]:
    """Reports side by side, behind the estimate where there is one.

    Args:
        reports: by a name for the column.
        estimated: of the same network.
    """
    cells = Resources() if estimated is None else estimated.resources
    cycles = (0, 0) if estimated is None else (estimated.run.latency, estimated.run.interval)
    titles = "".join(f" {name[-16:]:>16}" + (f" {'error':>8}" if estimated else "") for name in reports)
    found = [f"{'':12}" + (f" {'estimate':>10}" if estimated else "") + titles]
    for name, guess, said in table(cells, cycles, reports):
        row = f"{name:12}" + (f" {guess:10.0f}" if estimated else "")
        for value in said.values():
            row += f" {'-' if value is None else format(value, '.10g'):>16}"
            if estimated:
                row += f" {'-' if not value else format(relative_error(guess, value), '.1%'):>8}"
        found.append(row)
    for name, report in reports.items():
        about = [
            f"part {report.part}" if report.part else "",
            f"clock {report.clock_period_ns:g} ns" if report.clock_period_ns else "",
        ]
        found.append(f"{name}: {report.kind}" + "".join(f", {text}" for text in about if text))
        found += [f"  {module:60} {latency:9}" for module, latency in report.module_latency.items()]
    return found
