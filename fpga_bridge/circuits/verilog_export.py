"""Verilog of a network as a folder that another project can take: sources, and a README of ports and latency."""

import re
from pathlib import Path

from fpga_bridge.circuits.rtl import Port, RtlDesign, emit_verilog
from fpga_bridge.typed_graph.graph import Graph
from jaxgeo.files import make_folder, write_bytes_atomically


def write_verilog(graph: Graph, folder: Path, *, name: str = "network", start: str | None = None) -> RtlDesign:
    """Write `<module>.v` for each module below `src/`, and `README.md`.

    Args:
        graph: as `fpga_bridge.circuits.rtl.emit_verilog` takes it.
        folder: made where missing.
        name: of the network; the top module is `<name>_rtl`.
        start: the node whose value becomes the input port; None for the whole network.

    Raises:
        ExportError: for what RTL cannot carry, with the line.
        ToolMissingError: where da4ml is not installed.
        RunFolderError: where the folder cannot be written.
    """
    design = emit_verilog(graph, name=name, start=start)
    write_design(design, folder)
    return design


def write_design(design: RtlDesign, folder: Path) -> None:
    """Write the sources below `src/`, and `README.md`.

    Raises:
        RunFolderError: where the folder cannot be written.
    """
    sources = make_folder(make_folder(Path(folder)) / "src")
    for file, text in design.sources.items():
        write_bytes_atomically(sources / file, text.encode())
    write_bytes_atomically(Path(folder) / "README.md", readme(design).encode())


def readme(design: RtlDesign) -> str:
    """What who instantiates the top module has to know."""
    clocked = re.search(r"\bclk\b", design.sources[f"{design.name}.v"]) is not None
    clock = "| `clk` | in | 1 | rising edge |\n" if clocked else ""
    return (
        f"# {design.name}\n\n"
        f"Top module `{design.name}` in `src/{design.name}.v`; every file below `src/` belongs to it.\n\n"
        "| port | direction | bits | content |\n|---|---|---|---|\n"
        f"{clock}"
        f"| `model_inp` | in | {design.input_port.bits} | sample of shape {design.input_shape} |\n"
        f"| `model_out` | out | {design.output_port.bits} | output of shape {design.output_shape} |\n\n"
        f"- Latency: {design.latency_cycles} rising edges of the clock from the one that takes a sample to the one "
        "that shows its output.\n"
        "- Initiation interval: 1; a new sample may come at every cycle. There is no valid or ready.\n"
        f"- Inputs are words of {design.input_format}.\n"
        f"- Size as da4ml estimates it, not from synthesis: {design.lut_estimate} LUTs; {design.register_bits} "
        "flip-flops of the pipeline.\n\n"
        "Words lie side by side, the first of a sample (row-major order) in the lowest bits; a value is its word times "
        "2^-fraction.\n\n"
        "| port | words | layout |\n|---|---|---|\n" + _layout("model_inp", design.input_port)
        + _layout("model_out", design.output_port)
    )  # fmt: skip


def _layout(name: str, port: Port) -> str:
    """One row for each run of words of one type."""
    rows, first = [], 0
    types = list(zip(port.signed, port.widths, port.fractions, strict=True))
    for i in range(1, len(types) + 1):
        if i == len(types) or types[i] != types[first]:
            signed, width, fraction = types[first]
            kind = "two's complement" if signed else "unsigned"
            low = sum(port.widths[:first])
            rows.append(
                f"| `{name}` | {first} to {i - 1} | from bit {low}, {width} bits each, {kind}, fraction {fraction} |\n"
            )
            first = i
    return "".join(rows)
