"""An hls4ml project with the choices of a user: strategy, reuse, part or board, and a test bench with real inputs."""

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.estimates.parts import full_part_name
from fpga_bridge.estimates.reuse import Strategy, closest_reuse_factor
from fpga_bridge.hls import project as hls
from fpga_bridge.hls.fifos import FifoDepths
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.graph import Conv, Dense, Graph
from fpga_bridge.typed_graph.precision import FLOAT64_BITS, carrier, plan_types
from jaxgeo.errors import ConfigError, ExportError, InputError, check_fields, check_real
from jaxgeo.files import make_folder, write_bytes_atomically


@dataclasses.dataclass(frozen=True)
class HlsSettings:
    """What hls4ml is asked for.

    Attributes:
        backend: Vitis, Vivado, or VivadoAccelerator, whose projects carry the network with AXI streams to a board.
        io_type: how layers pass their data on.
        strategy: Latency unrolls every product; Resource shares multipliers and keeps weights in block RAM.
        reuse_factor: times that a multiplier is used; under Resource each layer takes the valid factor nearest to it.
        part: of the FPGA, as its maker spells it, or a device that `full_part_name` knows; None for that of the board,
            or the backend's own choice.
        board: of VivadoAccelerator: pynq-z2, zcu102, alveo-u50, -u200, -u250 or -u280.
        clock_period_ns: that synthesis is to reach.
        fifo_depths: of io_stream: simulated (see `fpga_bridge.hls.fifos`), or default for hls4ml's own, a whole image
            each; None for simulated where there are streams.

    Raises:
        ConfigError: settings that contradict each other or do not exist.
    """

    backend: hls.Backend = "Vitis"
    io_type: hls.IOType = "io_parallel"
    strategy: Strategy = "Latency"
    reuse_factor: int = 1
    part: str | None = None
    board: str | None = None
    clock_period_ns: float = 5.0
    fifo_depths: FifoDepths | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, reuse_factor=1)
        check_real("clock_period_ns", self.clock_period_ns, above=0.0)
        if self.board is not None and self.backend != "VivadoAccelerator":
            raise ConfigError(
                f"board {self.board!r} is for the backend VivadoAccelerator, got {self.backend}; give part instead, "
                "or take that backend"
            )
        if self.board is not None and self.part is not None:
            raise ConfigError(f"board {self.board!r} has its own part; leave out part {self.part!r}")
        if self.part is not None:
            full_part_name(self.part)
        if self.fifo_depths is not None and self.io_type != "io_stream":
            raise ConfigError(f"{self.io_type} passes data without FIFOs; leave their depths out, or take io_stream")
        if self.backend == "VivadoAccelerator" and self.board is None:
            raise ConfigError("the backend VivadoAccelerator needs a board, for example pynq-z2 or zcu102")


def supported_boards() -> tuple[str, ...]:
    """The boards that hls4ml as it is installed here has projects for."""
    import importlib.util

    spec = importlib.util.find_spec("hls4ml")
    if spec is None or spec.origin is None:
        raise ExportError("hls4ml is not installed here; install the extra with `pip install 'jaxgeo[fpga]'`")
    path = Path(spec.origin).parent / "backends/vivado_accelerator/supported_boards.json"
    return tuple(json.loads(path.read_text()))


def reuse_factors(graph: Graph, wanted: int, io_type: hls.IOType) -> tuple[dict[str, int], list[str]]:
    """The reuse factor of each layer with products, and a sentence for each that differs from the one asked for.

    A multiplier of a convolution in io_parallel gets one output to serve, see `fpga_bridge.hls.checks.check_reuse`.

    Raises:
        ConfigError: for a factor below 1.
    """
    factors, messages = {}, []
    for node in graph:
        if isinstance(node, Dense | Conv):
            *inputs, outputs = node.kernel.value.shape
            of_one = io_type == "io_parallel" and len(node.shape) > 1
            reuse = closest_reuse_factor(math.prod(inputs), 1 if of_one else outputs, wanted, f"layer {node.name}")
            factors[node.name] = reuse.used
            limit = "; in io_parallel a multiplier of a convolution serves one output" if of_one else ""
            messages += [reuse.message + limit] if reuse.message else []
    return factors, messages


def export_hls(
    graph: Graph,
    folder: Path,
    settings: HlsSettings | None = None,
    *,
    name: str = "network",
    testbench: np.ndarray | None = None,
) -> tuple[hls.HlsProject, list[str]]:
    """Write an hls4ml project, and say what could not be as asked.

    Args:
        graph: with formats everywhere.
        folder: of the project.
        settings: None for the defaults.
        name: of the top function.
        testbench: samples `(sample, *shape)` that become `tb_data/tb_input_features.dat`, with the outputs of the graph
            in `tb_data/tb_output_predictions.dat`, which the project's test bench reads.

    Returns:
        The project, not compiled, and messages: layers whose reuse factor differs from the one asked for, and what
        FIFOs the project has.

    Raises:
        ConfigError: an unknown board, or a name that no function of C++ can have.
        InputError: samples of another shape, none, or not finite.
        ExportError, RunFolderError: as for `fpga_bridge.hls.project.convert`.
    """
    settings = settings or HlsSettings()
    options: dict[str, Any] = {}
    if settings.board is not None:
        board = settings.board.lower()
        if board not in supported_boards():
            raise ConfigError(f"hls4ml has no project for board {settings.board!r}, but for {supported_boards()}")
        options["board"] = board
    if testbench is not None:
        testbench = _checked(graph, testbench)
    types = plan_types(graph, FLOAT64_BITS)
    config = hls.layer_config(graph, types)
    config["Model"].update(ReuseFactor=settings.reuse_factor, Strategy=settings.strategy)
    factors, messages = reuse_factors(graph, settings.reuse_factor, settings.io_type)
    if settings.strategy == "Latency":
        # Products are unrolled, and any factor only slows the pipeline's start.
        factors, messages = dict.fromkeys(factors, settings.reuse_factor), []
    for layer, factor in factors.items():
        config["LayerName"][layer] |= {"ReuseFactor": factor, "Strategy": settings.strategy}
    project = hls.convert(
        graph,
        folder,
        name=name,
        backend=settings.backend,
        io_type=settings.io_type,
        part=None if settings.part is None else full_part_name(settings.part),
        clock_period_ns=settings.clock_period_ns,
        types=types,
        config=config,
        options=options,
        fifo_depths=settings.fifo_depths or "simulated",
    )
    if testbench is not None:
        write_testbench(graph, folder, testbench)
    return dataclasses.replace(project, exact=types[graph.output].exact), [*messages, *project.notes]


def _checked(graph: Graph, samples: np.ndarray) -> np.ndarray:
    samples = np.asarray(samples)
    if samples.shape[1:] != graph.input.shape or not len(samples) or not np.isfinite(samples).all():
        raise InputError(
            f"the test bench needs finite samples of shape {graph.input.shape}, at least one, got an array "
            f"{samples.shape}" + ("" if np.isfinite(samples).all() else " with NaN or infinities")
        )
    return np.asarray(samples, np.float32)


def predictions(graph: Graph, samples: np.ndarray) -> np.ndarray:
    """Outputs of the graph, exact: in float32 where that holds every sum, else in float64.

    Raises:
        ExportError: where float64 does not either.
    """
    dtype = carrier(graph)
    with jax.enable_x64(dtype == "float64"):
        return np.asarray(jax.jit(lambda x: apply_graph(graph, x))(jnp.asarray(samples, dtype)))


def write_testbench(graph: Graph, folder: Path, samples: np.ndarray) -> None:
    """Write `tb_data/tb_input_features.dat` and `tb_output_predictions.dat`, one sample a line, as hls4ml's C++ reads.

    Raises:
        InputError: samples of another shape, none, or not finite.
        RunFolderError: where the folder cannot be written.
    """
    samples = _checked(graph, samples)
    data = make_folder(Path(folder) / "tb_data")
    for file, rows in (("tb_input_features", samples), ("tb_output_predictions", predictions(graph, samples))):
        text = io.BytesIO()
        np.savetxt(text, rows.reshape(len(rows), -1), fmt="%.17g")  # enough digits to come back as the same float64
        write_bytes_atomically(data / f"{file}.dat", text.getvalue())
