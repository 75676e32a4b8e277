"""The commands `estimate` and `report`: a network before synthesis, and what the tools said afterwards."""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxgeo.errors import ConfigError
from jaxgeo.files import make_folder, write_bytes_atomically

GraphOf = Callable[[argparse.Namespace], Any]


def add_commands(commands: Any, graph_of: GraphOf) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Add both to the subparsers of a command line, and return them.

    Args:
        commands: what `add_subparsers` gave.
        graph_of: the graph of the network that `config` and `params` of the arguments name.
    """
    what = "predict cycles, FIFO depths and resources of a streaming design (io_stream) before synthesis"
    estimate = commands.add_parser("estimate", help=what, description=what)
    estimate.add_argument("config", type=Path, help="JSON of a configuration, or a file of Keras")
    estimate.add_argument(
        "params", type=Path, nargs="*", help="safetensors of the parameters, of each member of an ensemble; or .h5"
    )
    estimate.add_argument("--pictures", type=Path, help="folder for timeline.png and resources.png")
    estimate.set_defaults(run=lambda args: run_estimate(args, graph_of))
    report = commands.add_parser(
        "report",
        help="read reports of Vivado or Vitis HLS, beside the estimate",
        description="Print cycles and resources of the reports of a synthesis, beside those estimated for a network.",
    )
    report.add_argument("file", type=Path, nargs="+", help="csynth.xml, csynth.rpt or vivado_synth.rpt")
    network = "a network to estimate beside them: its config and its params, as the other commands take them"
    report.add_argument("--network", type=Path, nargs="+", metavar=("CONFIG", "PARAMS"), help=network)
    report.set_defaults(run=lambda args: run_report(args, graph_of))
    for command in (estimate, report):
        command.add_argument("--part", help="FPGA part, such as xcu250-figd2104-2L-e; xcu250 where not given")
        command.add_argument("--board", help="such as pynq-z2 or zcu102, in place of its part")
        streaming = "the only one that is predicted: of io_parallel hls4ml's own reports tell"
        command.add_argument("--io-type", choices=("io_stream",), default="io_stream", help=streaming)
        command.add_argument("--clock-period-ns", type=float, default=5.0, help="5 where not given")
        command.add_argument("--strategy", choices=("Latency", "Resource"), default="Latency", help="of hls4ml")
        command.add_argument("--reuse-factor", type=int, default=1, help="times that a multiplier is used")
        command.add_argument(
            "--layer-reuse", action="append", default=[], metavar="NAME=FACTOR", help="for one layer; may be repeated"
        )
    return estimate, report


def run_estimate(args: argparse.Namespace, graph_of: GraphOf) -> int:
    """Print cycles, FIFOs and resources of the network; draw them where asked to."""
    from fpga_bridge.estimates.summary import lines  # --help need not wait for JAX

    estimated = _estimate(args, graph_of)
    print("\n".join(lines(estimated)))
    if args.pictures is not None:
        from fpga_bridge.estimates.pictures import draw_resources, draw_timeline

        folder = make_folder(args.pictures)
        figures = {
            "timeline.png": draw_timeline(estimated.run, args.clock_period_ns),
            "resources.png": draw_resources(estimated.layers, estimated.part),
        }
        for name, figure in figures.items():
            page = io.BytesIO()
            figure.savefig(page, format="png")
            write_bytes_atomically(folder / name, page.getvalue())
    return 0


def run_report(args: argparse.Namespace, graph_of: GraphOf) -> int:
    """Print reports side by side, and the estimate where the network is given too."""
    from fpga_bridge.estimates.reports import read_report
    from fpga_bridge.estimates.summary import report_lines

    reports = {str(path): read_report(path) for path in args.file}
    estimated = None
    if args.network is not None:
        args.config, *args.params = args.network
        estimated = _estimate(args, graph_of)
    print("\n".join(report_lines(reports, estimated)))
    return 0


def _estimate(args: argparse.Namespace, graph_of: GraphOf) -> Any:
    from fpga_bridge.estimates.latency import HardwareConfig
    from fpga_bridge.estimates.parts import find_part
    from fpga_bridge.estimates.summary import estimate_network
    from fpga_bridge.typed_graph.graph import states_formats
    from fpga_bridge.typed_graph.precision import FLOAT64_BITS, plan_types

    if args.part is not None and args.board is not None:
        raise ConfigError(f"board {args.board!r} has its own part; leave out part {args.part!r}")
    part = find_part(args.part or args.board or "xcu250")
    own = dict(_layer_reuse(text) for text in args.layer_reuse)
    hardware = HardwareConfig(args.strategy, args.reuse_factor, own, args.clock_period_ns)
    graph = graph_of(args)
    types = plan_types(graph, FLOAT64_BITS) if states_formats(graph) else None
    return estimate_network(graph, part, hardware, types)


def _layer_reuse(text: str) -> tuple[str, int]:
    name, _, factor = text.rpartition("=")
    if not name or not (factor.isascii() and factor.isdigit()):
        raise ConfigError(f"--layer-reuse takes NAME=FACTOR, for example conv_0=8, got {text!r}")
    return name, int(factor)
