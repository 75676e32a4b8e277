"""The graph as an hls4ml project: converted, compiled by g++ to its C++ emulation, and run in a child process."""

import contextlib
import dataclasses
import io
import itertools
import math
import re
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fpga_bridge.hls.checks import IOType, check_io, check_reuse, check_rounding
from fpga_bridge.hls.fifos import FifoDepths, set_depths, simulated_depths
from fpga_bridge.hls.keras_model import to_keras
from fpga_bridge.hls.layers import register_layers, set_softmax_tables, write_sources
from fpga_bridge.processes import run, writing
from fpga_bridge.typed_graph.graph import (
    Affine,
    Conv,
    Dense,
    Graph,
    Input,
    Node,
    Quantize,
    Rectifier,
    Reshape,
    Softmax,
    Table,
)
from fpga_bridge.typed_graph.precision import FLOAT32_BITS, FLOAT64_BITS, NodeTypes, plan_types
from fpga_bridge.typed_graph.source import refuse
from jaxgeo.errors import ConfigError, ExportError, InputError, ToolMissingError, check_one_of
from jaxgeo.layers.fixed_point import FixedPoint

Backend = Literal["Vivado", "Vitis", "VivadoAccelerator"]


@dataclasses.dataclass(frozen=True)
class HlsProject:
    """A project on disk, with its compiled emulation where `library` is set."""

    folder: Path
    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    exact: bool  # False where a softmax makes the output approximate
    library: Path | None = None
    notes: tuple[str, ...] = ()  # what was chosen on the way, a sentence each


def find_compiler() -> str:
    """The path of g++.

    Raises:
        ToolMissingError: where there is none on the PATH; says how to get it.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise ToolMissingError(
            "the C++ emulation of hls4ml needs g++, which is not on the PATH; install it (Debian or Ubuntu: "
            "`sudo apt install g++`) or leave the export out"
        )
    return compiler


def convert(
    graph: Graph,
    folder: Path,
    *,
    name: str = "network",
    backend: Backend = "Vitis",
    io_type: IOType = "io_parallel",
    part: str | None = None,
    clock_period_ns: float = 5.0,
    types: Mapping[str, NodeTypes] | None = None,
    keras_model: Any = None,
    config: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    fifo_depths: FifoDepths = "default",
) -> HlsProject:
    """Write the HLS C++ of a fully quantised graph into `folder`, by way of Keras and hls4ml.

    Every type is set by name: quantisers as the model states them, everything between two of them wide enough to be
    exact, so that the C++ equals the JAX forward pass bit for bit (a softmax excepted, which hls4ml takes from tables).

    Args:
        graph: from `fpga_bridge.tracing.trace.trace`.
        folder: of the project; made where missing.
        name: of the top function, and of the files made of it: letters, digits and underscores.
        backend: of hls4ml.
        io_type: how layers pass their data on.
        part: of the FPGA; None for the backend's own choice.
        clock_period_ns: that synthesis is to reach.
        types: what `plan_types` gave for this graph, where the caller has it already.
        keras_model: what `to_keras` gave for this graph in float32, likewise.
        config: hls4ml's own configuration instead of the exact types, for example from `layer_types.hls_config`; then
            weights and activations need not be quantised, and the C++ equals `emulator.emulate`, not the JAX network.
        options: further keywords of hls4ml's converter that the backend takes, such as `board`, or `input_type` and
            `output_type` of the AXI streams of VivadoAccelerator (float where not given; double for more than 24 bits).
        fifo_depths: of io_stream; default for a whole image each, as hls4ml has it, or simulated, see `hls.fifos`.

    Raises:
        ConfigError: an unknown backend, io_type or kind of FIFO depths, or a name that no function of C++ can have.
        ExportError: where the graph cannot be carried exactly, hls4ml is known to be wrong (names layer and line), or
            hls4ml itself refuses (in its own words).
        RunFolderError: where the folder cannot be written.
    """
    check_one_of("backend", backend, Backend)
    check_one_of("io_type", io_type, IOType)
    check_one_of("fifo_depths", fifo_depths, FifoDepths)
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ConfigError(f"{name!r} cannot name a function of C++; use letters, digits and underscores")
    if config is None:
        types = plan_types(graph, FLOAT64_BITS) if types is None else types
        config = layer_config(graph, types)
        exact = types[graph.output].exact
    else:
        exact = not any(isinstance(node, Softmax) for node in graph)
    check_io(graph, io_type)
    if types is not None:
        check_rounding(graph, types)
    # Without exact types it is a design of the user's own, with hls4ml's tables, which the emulator computes with too.
    softmaxes = [node for node in graph if isinstance(node, Softmax)]
    logits = {} if types is None else {node.name: types[node.inputs[0]].result for node in softmaxes}
    keras_model = to_keras(graph) if keras_model is None else keras_model
    notes: tuple[str, ...] = ()
    with writing(folder), _hls4ml(f"convert {name} for {backend} with {io_type}"):
        folder.mkdir(parents=True, exist_ok=True)
        import hls4ml  # takes seconds to import and prints while it does

        register_layers(backend)
        model = hls4ml.converters.convert_from_keras_model(
            keras_model,
            output_dir=str(folder),
            project_name=name,
            backend=backend,
            io_type=io_type,
            part=part,
            clock_period=clock_period_ns,
            hls_config=_with_repacking(graph, config),
            bit_exact=False,
            allow_da_fallback=False,
            allow_v2_fallback=True,  # of batch norm, which hls4ml has there only
            **(options or {}),
        )
        _check_layers_left(graph, model)
        check_reuse(graph, model, io_type)
        if backend == "VivadoAccelerator":
            _check_axi(graph, model, options or {})
        set_softmax_tables(model, graph, logits)
        if io_type == "io_stream" and fifo_depths == "simulated":
            depths, note = simulated_depths(model, graph, clock_period_ns)
            set_depths(model, depths)
            notes = (note,)
        model.write()
        write_sources(folder, graph)
    output = graph[graph.output]
    return HlsProject(folder, name, graph.input.shape, output.shape, exact, notes=notes)


@contextlib.contextmanager
def _hls4ml(attempt: str) -> Iterator[None]:
    """Keeps hls4ml quiet; the bare exceptions that it raises come out as `ExportError`, with its last words."""
    with quiet() as said:
        try:
            yield
        except (OSError, ExportError):
            raise
        except Exception as error:
            last_words = " ".join(said.getvalue().split())[-300:]
            raise ExportError(
                f"hls4ml could not {attempt}: {type(error).__name__}: {error}; "
                f"the last that it printed was {last_words!r}; try another backend or io_type"
            ) from error


def _with_repacking(graph: Graph, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with types for what hls4ml puts in a reshape's place where data stream.

    Left alone, copies of such a stream have the type of the model, whatever the reshape's is.
    """
    layers = config.get("LayerName", {})
    reshapes = [node.name for node in graph if isinstance(node, Reshape) and node.name in layers]
    return {**config, "LayerName": {**layers, **{f"repack_{name}": layers[name] for name in reshapes}}}


def _check_layers_left(graph: Graph, model: Any) -> None:
    """Refuse a network of which hls4ml leaves nothing: its C++ would name one variable as input and as output."""
    inputs, outputs = ({v.name for v in of} for of in (model.get_input_variables(), model.get_output_variables()))
    if inputs & outputs:
        output = graph[graph.output]
        raise refuse(
            output.kind,
            output.source,
            "the network has no layer: its output is its input, for which hls4ml writes C++ that does not compile",
            "put a layer between them, or wire the input through",
        )


def _check_axi(graph: Graph, model: Any, options: Mapping[str, Any]) -> None:
    """Refuse inputs and outputs that the wrapper of VivadoAccelerator, whose streams carry floats, would round."""
    ends = (
        ("input_type", "reads", graph.input, model.get_input_variables()),
        ("output_type", "writes", graph[graph.output], model.get_output_variables()),
    )
    for option, verb, node, (variable,) in ends:
        precision = variable.type.precision
        if options.get(option, "float") == "float" and precision.width - precision.signed > FLOAT32_BITS:
            raise refuse(
                node.kind,
                node.source,
                f"it {verb} {precision}, and the AXI streams of VivadoAccelerator carry float32, which holds "
                f"{FLOAT32_BITS} bits beside the sign",
                f"quantize it to fewer bits, or convert with options={{'{option}': 'double'}}",
            )


def compile_project(project: HlsProject, optimization: str = "-O1") -> HlsProject:
    """Compile the emulation, a shared library, with g++; of VivadoAccelerator with the AXI wrapper around the network.

    All sources are one translation unit: hls4ml's headers, which take longer than a small network, are read once.

    Raises:
        ToolMissingError: where g++ is missing.
        ExportError: where g++ rejects the generated code; the end of its message is given.
        RunFolderError: where the disk is full.
    """
    compiler = find_compiler()
    library = project.folder / "firmware" / f"{project.name}.so"
    sources = [f"firmware/{project.name}{ending}.cpp" for ending in ("", "_axi")]
    included = [("-include", source) for source in sources if (project.folder / source).exists()]
    command = [
        *(compiler, optimization, "-fPIC", "-shared", "-std=c++14", "-w", "-fno-gnu-unique"),
        "-Ifirmware/ap_types/",
        f'-DWEIGHTS_DIR="{(project.folder / "firmware" / "weights").resolve()}"',
        *(*itertools.chain(*included), f"{project.name}_bridge.cpp"),
        *("-o", str(library.resolve())),
    ]
    run(command, project.folder, f"g++ rejected the HLS project in {project.folder}")
    return dataclasses.replace(project, library=library)


def emulate(project: HlsProject, inputs: np.ndarray, timeout_s: float = 600.0) -> np.ndarray:
    """Outputs of the compiled C++ for float inputs `(sample, *input_shape)`, as float64 `(sample, *output_shape)`.

    Raises:
        InputError: for inputs of another shape, or none at all.
        ExportError: where the emulation stops; it runs in a child process, so the caller lives on.
        RunFolderError: where the project's folder cannot be written.
    """
    if project.library is None:
        raise InputError(f"the project {project.name} is not compiled; call compile_project first")
    if inputs.shape[1:] != project.input_shape or not len(inputs):
        raise InputError(
            f"the network takes samples of shape {project.input_shape}, at least one, got an array {inputs.shape}"
        )
    source, target = project.folder / "inputs.npy", project.folder / "outputs.npy"
    with writing(project.folder):
        np.save(source, np.asarray(inputs, np.float64))
        target.unlink(missing_ok=True)
    size = math.prod(project.output_shape)
    runner = Path(__file__).with_name("emulate.py")
    # -P: this folder must not come before the standard library, which has a module `trace` too.
    arguments = [project.library.resolve(), f"{project.name}_double", size, source.resolve(), target.resolve()]
    command = [sys.executable, "-P", str(runner), *map(str, arguments)]
    run(command, project.folder, f"the C++ emulation of {project.name} failed", timeout_s=timeout_s)
    return np.load(target, allow_pickle=False).reshape(len(inputs), *project.output_shape)


class _OfOneThread(io.StringIO):
    """Keeps what the thread that made it writes; what other threads write goes where it would have gone."""

    def __init__(self, said: io.StringIO, others: Any) -> None:
        super().__init__()
        self._said, self._others, self._thread = said, others, threading.get_ident()

    def write(self, text: str) -> int:
        target = self._said if threading.get_ident() == self._thread else self._others
        return target.write(text)

    def flush(self) -> None:
        if threading.get_ident() != self._thread:
            self._others.flush()


_QUIET = threading.RLock()  # two threads that replace the same streams would restore them in the wrong order


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Keeps what hls4ml prints in this thread (it prints while it works, and warns about packages of no use here)."""
    said = io.StringIO()
    with (
        _QUIET,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(_OfOneThread(said, sys.stdout)),
        contextlib.redirect_stderr(_OfOneThread(said, sys.stderr)),
    ):
        warnings.simplefilter("ignore")
        yield said


def layer_config(graph: Graph, types: Mapping[str, NodeTypes]) -> dict[str, Any]:
    """hls4ml's configuration: the types of each layer by name, quantisers fused into the layers before them."""
    layers: dict[str, Any] = {}
    for node in graph:
        layer = types[node.name]
        result = _fused_format(graph, node) or layer.result
        if isinstance(node, Input):
            result = layer.result
        precision: dict[str, FixedPoint | None] = {"default": result, "result": result}
        if layer.accumulator is not None:
            precision["accum"] = layer.accumulator
        if isinstance(node, Dense | Conv):
            precision.update({"weight": layer.weight, "bias": layer.bias})
        elif isinstance(node, Affine):
            precision.update({"scale": layer.weight, "bias": layer.bias})
        elif isinstance(node, Table):
            precision["table"] = layer.weight
        elif isinstance(node, Rectifier):
            precision["param"] = layer.weight
        layers[node.name] = {"Precision": {key: str(value) for key, value in precision.items()}}
        if isinstance(node, Softmax):
            tables = _softmax_formats(node)
            layers[node.name]["Precision"]["accum"] = str(tables.pop("accum"))
            layers[node.name] |= {key: str(value) for key, value in tables.items()}
    return {"Model": {"Precision": "ap_fixed<24,12>", "ReuseFactor": 1, "Strategy": "Latency"}, "LayerName": layers}


def _softmax_formats(node: Softmax) -> dict[str, FixedPoint]:
    """Of hls4ml's two tables of 1024 entries: by default that of 1/sum has one entry for each quarter only."""
    carry = math.ceil(math.log2(node.shape[-1] + 1))
    sums = FixedPoint(18, carry, False, "RND", "SAT")
    ones = FixedPoint(18, 1, False, "RND", "SAT")
    return {
        "exp_table_t": ones,
        "accum": FixedPoint(17 + carry, carry, False, "RND", "SAT"),
        "inv_inp_t": sums,
        "inv_table_t": ones,
    }


def _fused_format(graph: Graph, node: Node) -> FixedPoint | None:
    """The format of the quantiser that alone reads this node, where the node can write it itself."""
    if not isinstance(node, Dense | Conv | Affine):
        return None
    consumers = graph.consumers(node.name)
    if len(consumers) == 1 and isinstance(consumers[0], Quantize) and graph.output != node.name:
        return consumers[0].format
    return None
