"""The formats in which a network leaves the bridge: HLS, Verilog, Keras, ONNX, or a file of words for hardware."""

from pathlib import Path
from typing import Literal

import numpy as np

from fpga_bridge.typed_graph.graph import Graph
from fpga_bridge.typed_graph.wrapping import wrapped_weights
from jaxgeo.errors import ConfigError, check_one_of
from jaxgeo.files import make_folder, write_bytes_atomically

Format = Literal["hls", "verilog", "keras", "onnx", "npz"]


def export(
    graph: Graph,
    format: Format,
    folder: Path,
    *,
    name: str = "network",
    settings: object = None,
    testbench: np.ndarray | None = None,
    start: str | None = None,
) -> list[str]:
    """Write a network below a folder, and return what there is to say about it, a sentence each.

    What its formats make of weights that they cannot hold is said first, see `fpga_bridge.typed_graph.wrapping`.

    Args:
        graph: from `fpga_bridge.networks.load_graph`, `fpga_bridge.tracing.trace` or
            `fpga_bridge.keras_files.qkeras_files`.
        format: hls (a project of hls4ml), verilog (sources and their README), keras (`<name>.keras`), onnx
            (`<name>.onnx`) or npz (`<name>.npz`; `fpga_bridge.hardware_weights.load_hardware_weights` reads it).
        folder: made where missing.
        name: of the top function or module, and of the files.
        settings: `HlsSettings` for hls; None for its defaults.
        testbench: samples for hls, see `export_hls`.
        start: for verilog, the node whose value becomes the input port; None for the whole network.

    Raises:
        ConfigError: an unknown format, or options that the format does not have.
        ExportError: what the format cannot carry; names layer and line, and what would work.
        RunFolderError: where the folder cannot be written.
    """
    check_one_of("the format of an export", format, Format)
    if format != "hls" and (settings is not None or testbench is not None):
        raise ConfigError(f"backend, reuse and test bench are of the format hls, got {format}; leave them out")
    if format != "verilog" and start is not None:
        raise ConfigError(f"a start within the network is of the format verilog, got {format}; leave it out")
    hls = format == "hls"
    said = _hls(graph, folder, name, settings, testbench) if hls else _write(graph, format, folder, name, start)
    return [*wrapped_weights(graph), *said]


def _write(graph: Graph, format: Format, folder: Path, name: str, start: str | None) -> list[str]:
    folder = make_folder(Path(folder))
    if format == "verilog":
        from fpga_bridge.circuits.verilog_export import write_verilog

        design = write_verilog(graph, folder, name=name, start=start)
        return [f"Verilog of {design.name} in {folder}: latency {design.latency_cycles} cycles, one sample per cycle"]
    path = folder / f"{name}.{format}"
    if format == "npz":
        from fpga_bridge.hardware_weights import save_hardware_weights

        digest = save_hardware_weights(path, graph)
        return [f"hardware weights in {path}, SHA-256 {digest}"]
    if format == "keras":
        dtype = write_keras(graph, path)
        before = "import fpga_bridge.hls.keras_model before keras.saving.load_model"
        inside = ", and load and call it inside jax.enable_x64(True)" if dtype == "float64" else ""
        return [f"Keras model in {path}, in {dtype}; {before}{inside}"]
    from fpga_bridge.onnx.export import to_onnx
    from fpga_bridge.typed_graph.precision import carrier

    dtype = carrier(graph)
    write_bytes_atomically(path, to_onnx(graph, name, dtype))
    return [f"ONNX model in {path}, in {dtype}"]


def _hls(graph: Graph, folder: Path, name: str, settings: object, testbench: np.ndarray | None) -> list[str]:
    from fpga_bridge.hls.export import HlsSettings, export_hls

    if settings is not None and not isinstance(settings, HlsSettings):
        raise ConfigError(f"settings of hls are HlsSettings, got {type(settings).__name__}")
    project, messages = export_hls(graph, folder, settings, name=name, testbench=testbench)
    backend = (settings or HlsSettings()).backend
    return [*messages, f"HLS project {project.name} for {backend} in {project.folder}"]


def write_keras(graph: Graph, path: Path) -> str:
    """Write the graph as a `.keras` file, in one step, in the narrowest float that is exact, and return that.

    A model in float64 is loaded and called inside `jax.enable_x64(True)`.

    Raises:
        ExportError: quantised sums that fit neither float32 nor float64.
        RunFolderError: where the file cannot be written.
    """
    import tempfile

    import jax

    from fpga_bridge.hls.keras_model import to_keras
    from fpga_bridge.hls.project import quiet
    from fpga_bridge.processes import writing
    from fpga_bridge.typed_graph.precision import carrier

    dtype = carrier(graph)
    with tempfile.TemporaryDirectory(prefix="keras") as scratch, writing(path), quiet():
        whole = Path(scratch) / "model.keras"
        with jax.enable_x64(dtype == "float64"):
            to_keras(graph, dtype=dtype).save(whole)
        write_bytes_atomically(path, whole.read_bytes())
    return dtype
