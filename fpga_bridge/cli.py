"""Commands of the bridge: what is in a network, how far its numbers stray on the way to gates, and its export.

A network is a JSON file of its configuration (precision included, and the key `model` where it is not the HEALPix
classifier) with a safetensors file of its parameters, as `jaxgeo study` writes them; or a file of Keras or QKeras
(`.h5`, `.keras`, or the `.json` of an architecture with the `.h5` of its weights). Several files of parameters, or one
of stacked arrays (an axis of members in front of each), are an ensemble in one design: its members read the same
input, and the design puts out the mean of their outputs. An operation that the bridge lacks
is one sentence with its name, its line and what to use instead.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxgeo
from fpga_bridge.estimates.estimate_commands import add_commands
from jaxgeo import console
from jaxgeo.errors import ConfigError
from jaxgeo.files import load_arrays

_BACKENDS = ("Vivado", "Vitis", "VivadoAccelerator")
_FORMATS = ("input", "weight", "affine", "result")
_SETTINGS = {"backend": "Vitis", "io_type": "io_parallel", "strategy": "Latency", "reuse_factor": 1, "part": None,
             "board": None, "clock_period_ns": 5.0, "fifo_depths": None}  # fmt: skip


def _graph(args: argparse.Namespace) -> Any:
    """The graph of the network, with the formats of the command line where it has none of its own."""
    from fpga_bridge.networks import load_graph  # --help need not wait for JAX
    from jaxgeo.layers.fixed_point import FixedPoint

    named = {key: getattr(args, f"{key}_format") or args.formats for key in _FORMATS}
    formats = {key: None if text is None else FixedPoint.parse(text) for key, text in named.items()}
    if getattr(args, "entropy_bits", None) is not None:
        return _believed(args, any(formats.values()))
    graph = load_graph(args.config, args.params, formats["result"])
    if any(formats.values()):
        from fpga_bridge.keras_files.hardware_formats import HardwareFormats, with_formats

        graph = with_formats(graph, HardwareFormats(**formats))
    return graph


def _believed(args: argparse.Namespace, formats: bool) -> Any:
    """The graph of what the members believe, in place of the mean of their outputs."""
    from fpga_bridge.networks import is_keras, load_network
    from fpga_bridge.tracing.trace import trace
    from fpga_bridge.typed_graph.precision import FLOAT64_BITS, plan_types

    if formats or is_keras(args.config):
        raise ConfigError(
            f"--entropy-bits is of networks of jaxgeo with a precision of their own, got {args.config}"
            f"{' with --formats' if formats else ''}; leave it out for the mean of the outputs"
        )
    network = load_network(args.config, args.params, needs_precision=True)
    mean = trace(network.apply(), network.variables, network.input_shape)
    # The mean of the members' logits has the range of theirs.
    logits = plan_types(mean, FLOAT64_BITS)[mean.output].result
    apply = network.predictive(args.entropy_bits, max(logits.integer, 1))
    return trace(apply, network.variables, network.input_shape)


def _has_formats(args: argparse.Namespace) -> bool:
    """Whether the network is one for hardware: by its configuration, its kind of file, or the command line."""
    from fpga_bridge.networks import is_keras, load_config

    asked = args.formats or args.input_format
    return bool(asked) or is_keras(args.config) or getattr(load_config(args.config)[1], "precision", None) is not None


def run_layers(args: argparse.Namespace) -> int:
    """Print the layers of the network and their types, float32 where it has none."""
    from fpga_bridge.networks import is_keras
    from fpga_bridge.typed_graph.precision import FLOAT64_BITS, plan_types

    types = {}
    graph = _graph(args)
    # A file of Keras may leave its input or its norms in floating point; it is listed all the same.
    if _has_formats(args) and not (is_keras(args.config) and args.formats is None):
        types = plan_types(graph, FLOAT64_BITS)
    for node in graph:
        format = types[node.name].result if types else getattr(node, "format", "float32")
        print(f"{node.name:24} {node.kind:12} {node.shape!s:16} {format}")
    _print_wrapped(graph)
    return 0


def _print_wrapped(graph: Any) -> None:
    """A line for each array of weights that its format cannot hold."""
    from fpga_bridge.typed_graph.wrapping import wrapped_weights

    for line in wrapped_weights(graph):
        print(line)


def run_export(args: argparse.Namespace) -> int:
    """Write the network in one of the formats."""
    from fpga_bridge.networks import load_network

    if not _has_formats(args) and args.format not in ("keras", "onnx"):
        load_network(args.config, args.params, needs_precision=True)  # says which key is missing
    from fpga_bridge.exports import export

    asked = {key: getattr(args, key) for key in _SETTINGS if getattr(args, key) is not None}
    settings, testbench = None, None
    if args.format == "hls" or asked:
        from fpga_bridge.hls.export import HlsSettings

        # A board is driven through AXI streams, which one backend alone writes.
        implied = {} if args.board is None else {"backend": "VivadoAccelerator"}
        settings = HlsSettings(**{**_SETTINGS, **implied, **asked})
    if args.testbench is not None:
        arrays = load_arrays(args.testbench)
        if "inputs" not in arrays:
            raise ConfigError(f"{args.testbench} must hold the array inputs, got {sorted(arrays)}")
        testbench = arrays["inputs"]
    graph = _graph(args)
    messages = export(graph, args.format, args.out, settings=settings, testbench=testbench, start=args.start)
    for message in messages:
        print(message)
    if args.entropy_bits is not None:
        print(f"outputs: probabilities of {graph[graph.output].shape[-1] - 2} classes, their entropy and the mutual "
              "information of members, in nats")  # fmt: skip
    return 0


def run_ladder(args: argparse.Namespace) -> int:
    """Print the error at each rung; the last line is one JSON object."""
    from fpga_bridge.networks import is_keras, load_network
    from fpga_bridge.study import export_stage

    export_stage.check_tools(args.rtl)
    if is_keras(args.config):
        raise ConfigError(
            f"{args.config} is a file of Keras, whose network has no form in floating point to climb down from; the "
            "ladder takes networks of jaxgeo, and export takes this one"
        )
    formats = any(getattr(args, f"{key}_format") for key in _FORMATS) or args.formats
    network = load_network(args.config, args.params, needs_precision=not formats)
    arrays = load_arrays(args.inputs)
    if not {"inputs", "labels"} <= set(arrays):
        raise ConfigError(f"{args.inputs} must hold the arrays inputs and labels, got {sorted(arrays)}")
    healpix = network.name == "healpix_classifier"
    if healpix:
        from fpga_bridge.checks import check_maps

        check_maps(network.config, arrays["inputs"], args.order or "nested")
    elif args.order is not None:
        raise ConfigError(
            f"--order says how HEALPix maps are sorted, and the network {network.name} reads none; leave it out"
        )
    if healpix and network.members is None and not formats and (args.backend, args.io_type) == ("Vitis", "io_parallel"):
        result = _classifier_ladder(args, network, arrays)
    else:
        result = _plain_ladder(args, network, arrays, bool(formats))
    _print_wrapped(_graph(args))
    print(f"{'rung':20} {'max error':>10} {'mean error':>10} {'top-1':>7} {'bit-equal':>9}")
    for rung in result["ladder"]:
        errors = f"{rung['max_abs_error']:10.3g} {rung['mean_abs_error']:10.3g} {rung['top1_agreement']:7.2%}"
        print(f"{rung['name']:20} {errors} {rung['equal_share']:9.2%}")
    print(json.dumps(result))
    return 0 if result["bit_for_bit"] == 1.0 else 1


def _classifier_ladder(args: argparse.Namespace, network: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    from fpga_bridge.study import export_stage

    params = network.variables["params"]
    return export_stage(
        config=network.config,
        params=params,
        quantised_params=params,
        inputs=np.asarray(arrays["inputs"], np.float32),
        labels=np.asarray(arrays["labels"]),
        workdir=args.out,
        rtl=args.rtl,
    )


def _plain_ladder(args: argparse.Namespace, network: Any, arrays: dict[str, Any], formats: bool) -> dict[str, Any]:
    import dataclasses

    from fpga_bridge.checks import check_labels, check_samples
    from fpga_bridge.ladder import climb
    from fpga_bridge.study import layer_table

    if args.rtl:
        raise ConfigError(
            f"--rtl simulates the head of a HEALPix classifier with a precision of its own, behind C++ for Vitis with "
            f"io_parallel, got {network.name}, {args.backend} and {args.io_type}; leave out --rtl, or the other options"
        )
    inputs = np.asarray(arrays["inputs"])
    check_samples(network.input_shape, inputs)
    labels = np.asarray(arrays["labels"])
    graph = _graph(args)
    check_labels(labels, network.config.num_classes, (len(inputs), *graph[graph.output].shape[:-1]))
    ladder = climb(
        network.apply(precision=False), graph if formats else network.apply(), network.variables, inputs,
        args.out / "hls", labels=labels, backend=args.backend, io_type=args.io_type,
    )  # fmt: skip
    return {
        "model": network.name,
        "carrier": ladder.carrier,
        "num_images": len(inputs),
        "ladder": [dataclasses.asdict(rung) for rung in ladder.rungs],
        "bit_for_bit": min(rung.bit_for_bit for rung in ladder.rungs if rung.bit_for_bit is not None),
        "layers": layer_table(ladder),
    }


def _add_export_options(export: argparse.ArgumentParser) -> None:
    export.add_argument(
        "--format",
        choices=("hls", "verilog", "keras", "onnx", "npz"),
        default="hls",
        help="an HLS project (where not given), unrolled Verilog, a Keras file, an ONNX file, or hardware words with "
        "their formats",
    )
    export.add_argument(
        "--backend", choices=_BACKENDS, help="of hls4ml; where not given, Vitis, or VivadoAccelerator for a board"
    )
    export.add_argument("--io-type", choices=("io_parallel", "io_stream"), help="io_parallel where not given")
    export.add_argument("--strategy", choices=("Latency", "Resource"), help="Latency where not given")
    export.add_argument("--reuse-factor", type=int, help="times that a multiplier is used; 1 where not given")
    export.add_argument("--part", help="FPGA part, such as xcu250-figd2104-2L-e")
    export.add_argument("--board", help="such as pynq-z2 or zcu102; implies VivadoAccelerator")
    export.add_argument("--clock-period-ns", type=float, help="that synthesis is to reach; 5 where not given")
    export.add_argument(
        "--fifo-depths",
        choices=("default", "simulated"),
        help="of io_stream: hls4ml's own, a whole image each, or by simulation, which is taken where not given",
    )
    export.add_argument("--testbench", type=Path, help="safetensors with the array inputs for the HLS test bench")
    export.add_argument("--start", help="of Verilog: the node whose value becomes the input port")
    export.add_argument(
        "--entropy-bits",
        type=int,
        help="put out mean probabilities, their entropy and the members' mutual information, by tables of so many "
        "bits, in place of the mean of the outputs",
    )


def _add_formats(command: argparse.ArgumentParser) -> None:
    command.add_argument("--formats", help="such as ap_fixed<16,6>, for all that the network leaves in float")
    for kind in _FORMATS:
        functions = "; tanh, sigmoid and the like are looked up in it" if kind == "result" else ""
        command.add_argument(f"--{kind}-format", help=f"for {kind}s only{functions}")


def run_capabilities(args: argparse.Namespace) -> int:
    """Print what becomes of each layer on the way through hls4ml."""
    import dataclasses

    from fpga_bridge.capabilities.table import capability_table, table_lines

    rows = [
        row for row in capability_table() if args.backend in (None, row.backend) and args.io_type in (None, row.io_type)
    ]
    print(json.dumps([dataclasses.asdict(row) for row in rows]) if args.json else "\n".join(table_lines(rows)))
    return 0


def _add_capabilities(commands: Any) -> None:
    capabilities = commands.add_parser(
        "capabilities",
        help="say which layers hls4ml carries bit for bit, which are rewritten, and which refused",
        description="Print what becomes of each layer for each backend and way to pass data on, and why.",
    )
    capabilities.add_argument("--backend", choices=_BACKENDS, help="all where not given")
    capabilities.add_argument("--io-type", choices=("io_parallel", "io_stream"), help="both where not given")
    capabilities.add_argument("--json", action="store_true", help="a list of rows as JSON instead of the table")
    capabilities.set_defaults(run=run_capabilities)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 after a deliberate error, 130 or 143 when interrupted."""
    return console.exit_status("fpga-bridge", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="fpga-bridge", description=__doc__)
    parser.add_argument("--version", action="version", version=f"fpga-bridge of jaxgeo {jaxgeo.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    layers = commands.add_parser(
        "layers",
        help="list the layers of a network and their types",
        description="Print a line for each layer: name, kind, shape, and its fixed-point type or float32.",
    )
    export = commands.add_parser(
        "export",
        help="write a network for hardware: HLS, Verilog, Keras, ONNX or words",
        description="Write a network, or the mean of an ensemble, for hardware, equal to its JAX function bit for bit; "
        "what cannot be is refused with its layer and what would work.",
    )
    ladder = commands.add_parser(
        "ladder",
        help="run float64, float32, fixed point, Keras and C++ side by side",
        description="Run the same samples through float64, float32, fixed point, Keras and compiled C++, and print the "
        "error at each step; the last line is one JSON object, and the exit status 1 where a word differs.",
    )
    for command, run in ((layers, run_layers), (export, run_export), (ladder, run_ladder)):
        command.add_argument("config", type=Path, help="JSON of a configuration, or a file of Keras")
        count = None if command is ladder else "*"
        several = "" if command is ladder else ", or one file for each member"
        text = f"safetensors of parameters, or those of an ensemble stacked{several}; or .h5 of weights"
        command.add_argument("params", type=Path, nargs=count, help=text)
        command.set_defaults(run=run)
    for command in (layers, export, ladder):
        _add_formats(command)
    ladder.add_argument(
        "inputs", type=Path, help="safetensors with the arrays inputs and labels, of images or of pixels"
    )
    ladder.add_argument(
        "--order",
        choices=("nested", "ring"),
        help="of HEALPix maps in the file, nested where not given, which the network needs",
    )
    ladder.add_argument("--backend", choices=_BACKENDS, default="Vitis", help="of hls4ml; Vitis where not given")
    ladder.add_argument(
        "--io-type", choices=("io_parallel", "io_stream"), default="io_parallel", help="io_parallel where not given"
    )
    ladder.add_argument("--rtl", action="store_true", help="also simulate the head as Verilog")
    for command in (export, ladder):
        command.add_argument(
            "--out", type=Path, default=Path("hls_project"), help="folder; hls_project where not given"
        )
    _add_export_options(export)
    for command in add_commands(commands, _graph):
        _add_formats(command)
    _add_capabilities(commands)
    args = parser.parse_args(argv)
    return args.run(args)
