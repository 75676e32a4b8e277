"""What the hls4ml route can carry, asked of the bridge itself: each layer is exact, rewritten, approximate or refused.

No row is written by hand. Each case of `jax_cases` and `keras_cases` beside this module is traced, typed and checked as
an export would be, and the row says what came out; the tests then compile every case that is taken, for both ways to
pass data and for Vitis and Vivado, and compare with JAX bit for bit. VivadoAccelerator puts an AXI wrapper around the
C++ of Vivado; its streams carry float32, so that outputs of more than 24 bits are refused there, whatever
layer writes them: JAX in float32 has none, so that here all backends fare alike.
"""

import dataclasses
import functools
from typing import Literal, get_args

from fpga_bridge.capabilities import jax_cases, keras_cases
from fpga_bridge.capabilities.jax_cases import INPUT, Case
from fpga_bridge.hls.checks import IOType, check_io
from fpga_bridge.hls.layers import softmax_error
from fpga_bridge.hls.project import Backend
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.graph import Graph
from fpga_bridge.typed_graph.precision import FLOAT32_BITS, NodeTypes, plan_types
from fpga_bridge.typed_graph.source import RefusedOperationError
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import quantize

Status = Literal["bit-exact", "rewritten", "approximate", "refused"]
CASES = (*jax_cases.CASES, *keras_cases.CASES)
BACKENDS: tuple[Backend, ...] = get_args(Backend)
IO_TYPES: tuple[IOType, ...] = get_args(IOType)


_MEANINGS: dict[Status, str] = {
    "bit-exact": "the compiled C++ gives every word that JAX gives",
    "rewritten": "bit-exact too, by layers that hls4ml computes right in the place of one that it lacks or gets wrong",
    "approximate": "by hls4ml's tables, within the error that is named; the last layer of a network only",
    "refused": "an export stops before any C++ is written, with this reason and, behind the semicolon, what would work",
}
_NOTES = (
    f"Numbers in brackets count layers by io type and backend ({', '.join(BACKENDS)}), which fare alike where none",
    f"is named. Inputs are quantized, here to {INPUT}; a layer without a quantizer behind it",
    "keeps all bits of its sums, up to what float32 holds. With wider types, which JAX computes in float64,",
    "VivadoAccelerator refuses outputs of more than 24 bits. fpga_bridge.circuits.rtl.emit_function writes Verilog",
    "without hls4ml, and takes more, larger products of activations among it.",
)


@dataclasses.dataclass(frozen=True)
class Capability:
    """What becomes of one layer.

    Attributes:
        layer: its name.
        variant: of the layer.
        backend: of hls4ml.
        io_type: how layers pass their data on.
        status: bit-exact; rewritten, which is bit-exact too, as other layers; approximate, by hls4ml's tables; refused.
        detail: how it is rewritten or approximated, or why it is refused and what would work.
        nodes: kinds of the nodes of `fpga_bridge.typed_graph.graph` that carry it; none where the trace refuses it.
    """

    layer: str
    variant: str
    backend: Backend
    io_type: IOType
    status: Status
    detail: str
    nodes: tuple[str, ...]


def case_graph(case: Case) -> Graph:
    """The graph of a case, its input quantized.

    Raises:
        ExportError: where the bridge has no form for it.
    """
    return trace(lambda _, x: case.apply(quantize(x, INPUT)), {}, case.shape)


@functools.cache
def _planned(case: Case) -> tuple[Graph, dict[str, NodeTypes]] | ExportError:
    """The graph with its types, or what the bridge says instead."""
    try:
        graph = case_graph(case)
        return graph, plan_types(graph, FLOAT32_BITS)
    except ExportError as error:
        return error


def capability(case: Case, backend: Backend, io_type: IOType) -> Capability:
    """What becomes of one case on one backend, with data passed in one way."""
    row = functools.partial(Capability, case.layer, case.variant, backend, io_type)
    planned = _planned(case)
    if isinstance(planned, ExportError):
        return row("refused", _reason(planned), ())
    graph, types = planned
    nodes = tuple(node.kind for node in graph)
    try:
        check_io(graph, io_type)
    except ExportError as error:
        return row("refused", _reason(error), nodes)
    if not types[graph.output].exact:
        classes = graph[graph.output].shape[-1]
        error = f"each probability within {softmax_error(classes):.4f} of {classes} classes, by hls4ml's tables"
        return row("approximate", error, nodes)
    if case.rewriting:
        return row("rewritten", case.rewriting, nodes)
    return row("bit-exact", "", nodes)


def _reason(error: ExportError) -> str:
    """Why, and what would work, without the line of the case."""
    if isinstance(error, RefusedOperationError):
        return f"{error.operation}: {error.why}; {error.instead}"
    return str(error)


def capability_table() -> list[Capability]:
    """A row for each case, backend and way to pass data on."""
    return [capability(case, backend, io_type) for case in CASES for backend in BACKENDS for io_type in IO_TYPES]


def table_lines(rows: list[Capability]) -> list[str]:
    """The table as text, a line for the io types that fare alike; a backend is named where it fares unlike another."""
    lines = [f"{'layer':30} {'variant':32} {'io type':11} what becomes of it"]
    every = {row.backend for row in rows}
    for layer, variant in dict.fromkeys((row.layer, row.variant) for row in rows):
        mine = [row for row in rows if (row.layer, row.variant) == (layer, variant)]
        for status, detail in dict.fromkeys((row.status, row.detail) for row in mine):
            alike = [row for row in mine if (row.status, row.detail) == (status, detail)]
            for io_types, backends in _grouped(alike).items():
                how = "both" if len(io_types) == len(IO_TYPES) else ", ".join(io_types)
                where = "" if every == set(backends) else f"{', '.join(backends)} alone: "
                outcome = f"{status}: {detail}" if detail else status
                lines.append(f"{layer:30} {variant:32} {how:11} {where}{outcome}")
    counts = {status: sum(row.status == status for row in rows) for status in get_args(Status)}
    return [*lines, "", *(f"{status} ({counts[status]}): {meaning}" for status, meaning in _MEANINGS.items()), *_NOTES]


def _grouped(rows: list[Capability]) -> dict[tuple[str, ...], list[str]]:
    """Backends by the io types that they share."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for backend in dict.fromkeys(row.backend for row in rows):
        io_types = tuple(row.io_type for row in rows if row.backend == backend)
        groups.setdefault(io_types, []).append(backend)
    return groups
