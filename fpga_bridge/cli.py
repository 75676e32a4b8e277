"""Commands of the bridge: what is in a network, and how far its numbers stray on the way to gates.

The network is described by a JSON file of `HealpixClassifierConfig` (precision included) and a safetensors file of its
parameters, as `jaxgeo study` writes them. The commands know this classifier only, whose operations the bridge carries.
Other models are exported from Python; an operation that the bridge lacks is an `ExportError` there, with the line.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dacite
import numpy as np

from jaxgeo.errors import ConfigError, JaxgeoError
from jaxgeo.files import load_arrays, load_tree
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig


def load_config(path: Path) -> HealpixClassifierConfig:
    """The classifier's config from JSON; formats are objects or texts such as `ap_fixed<12,4,AP_RND,AP_SAT>`.

    Raises:
        ConfigError: for a file that is not JSON, an unknown key or a value of a wrong type.
    """
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a readable JSON file: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} must hold one JSON object with the keys of HealpixClassifierConfig, got {type(tree).__name__}"
        )
    options = dacite.Config(strict=True, cast=[tuple], type_hooks={FixedPoint: _format})
    try:
        return dacite.from_dict(HealpixClassifierConfig, tree, options)
    except (dacite.DaciteError, TypeError) as error:
        raise ConfigError(f"{path} does not describe a HealpixClassifier: {error}") from error


def _format(value: Any) -> Any:
    return FixedPoint.parse(value) if isinstance(value, str) else value


def _network(args: argparse.Namespace, needs_precision: bool = False) -> tuple[HealpixClassifierConfig, dict[str, Any]]:
    from fpga_bridge.checks import check_params  # --help need not wait for JAX

    config, params = load_config(args.config), load_tree(args.params)
    if needs_precision and config.precision is None:
        raise ConfigError(f"{args.config} has no precision, and hardware needs formats; add the key precision")
    check_params(config, params)
    return config, params


def run_layers(args: argparse.Namespace) -> int:
    """Print the layers of the traced network and their types."""
    from fpga_bridge.precision import FLOAT64_BITS, plan_types  # --help need not wait for JAX
    from fpga_bridge.trace import trace

    config, params = _network(args)
    model = HealpixClassifier(config)
    shape = (12 * config.nside**2, config.channels)
    graph = trace(lambda tree, x: model.apply({"params": tree}, x), params, shape)
    types = plan_types(graph, FLOAT64_BITS) if config.precision else {}
    for node in graph:
        result = f"{types[node.name].result}" if types else "float32"
        print(f"{node.name:24} {node.kind:12} {node.shape!s:16} {result}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write the HLS project."""
    from fpga_bridge.hls import convert
    from fpga_bridge.trace import trace

    config, params = _network(args, needs_precision=True)
    model = HealpixClassifier(config)
    shape = (12 * config.nside**2, config.channels)
    graph = trace(lambda tree, x: model.apply({"params": tree}, x), params, shape)
    project = convert(graph, args.folder, backend=args.backend, io_type=args.io_type)
    print(f"HLS project {project.name} for {args.backend} in {project.folder}")
    return 0


def run_ladder(args: argparse.Namespace) -> int:
    """Print the error at each rung; the last line is one JSON object."""
    from fpga_bridge.checks import check_maps
    from fpga_bridge.study import check_tools, export_stage

    check_tools(args.rtl)
    config, params = _network(args, needs_precision=True)
    arrays = load_arrays(args.inputs)
    if not {"inputs", "labels"} <= set(arrays):
        raise ConfigError(f"{args.inputs} must hold the arrays inputs and labels, got {sorted(arrays)}")
    check_maps(config, arrays["inputs"], args.order)
    result = export_stage(
        config=config,
        params=params,
        quantised_params=params,
        inputs=np.asarray(arrays["inputs"], np.float32),
        labels=np.asarray(arrays["labels"]),
        workdir=args.folder,
        rtl=args.rtl,
    )
    print(f"{'rung':20} {'max error':>10} {'mean error':>10} {'top-1':>7} {'bit-equal':>9}")
    for rung in result["ladder"]:
        errors = f"{rung['max_abs_error']:10.3g} {rung['mean_abs_error']:10.3g} {rung['top1_agreement']:7.2%}"
        print(f"{rung['name']:20} {errors} {rung['equal_share']:9.2%}")
    print(json.dumps(result))
    return 0 if result["bit_for_bit"] == 1.0 else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run one command, return its status; a deliberate error is one sentence and status 1."""
    parser = argparse.ArgumentParser(prog="fpga-bridge", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    layers = commands.add_parser("layers", help="list the layers of a network and their types")
    export = commands.add_parser("export", help="write an HLS project by hls4ml")
    ladder = commands.add_parser("ladder", help="run float64, float32, fixed point, Keras and C++ side by side")
    for command, run in ((layers, run_layers), (export, run_export), (ladder, run_ladder)):
        command.add_argument("config", type=Path, help="JSON of HealpixClassifierConfig")
        command.add_argument("params", type=Path, help="safetensors of the parameters")
        command.set_defaults(run=run)
    ladder.add_argument("inputs", type=Path, help="safetensors with the arrays inputs and labels")
    ladder.add_argument(
        "--order",
        choices=("nested", "ring"),
        default="nested",
        help="of the maps in the file; the network needs nested",
    )
    ladder.add_argument("--rtl", action="store_true", help="also simulate the head as Verilog")
    for command in (export, ladder):
        command.add_argument("--folder", type=Path, default=Path("hls_project"), help="where the project goes")
    export.add_argument("--backend", choices=("Vivado", "Vitis"), default="Vitis")
    export.add_argument("--io-type", choices=("io_parallel", "io_stream"), default="io_parallel")
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except JaxgeoError as error:
        print(f"fpga-bridge: {error}", file=sys.stderr)
        return 1
