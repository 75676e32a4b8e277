"""One whole frame of 240 x 152 through the C++ of the quantised ENet: every word of every pixel against JAX.

    JAXGEO_DATA=<folder> python -m benchmarks.enet_frame [--filters 4] [--bits 8] [--state <run>/filters_4]
    JAXGEO_DATA=<folder> python -m benchmarks.enet_frame --file <published>.h5

The network is traced, converted by hls4ml with io_stream, and compiled by g++; then one frame (of CamVid where
JAXGEO_DATA names its file, else random bytes) goes through both. Weights are those of a fine-tuned network of
`benchmarks.papers.enet` (--state, with --bits), or random ones whose statistics come from the frame. --file takes a
Keras file instead, such as the QKeras networks of arXiv:2205.07690: what it leaves in floating point gets
`ap_fixed<16,6>`, as hls4ml would give it, and a softmax at its end, which decides no class, is left out. Printed are
the numbers of words, of words that differ, and the seconds of each step; the last line is one JSON object. Status 1
where a single word differs. With `--types default` it is the emulator's words that the C++ is held against.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.papers import enet_training as training
from fpga_bridge.emulation.emulator import emulate, plan_emulation
from fpga_bridge.emulation.layer_types import DesignTypes, hls_config
from fpga_bridge.hls import project as hls
from fpga_bridge.keras_files.hardware_formats import HardwareFormats, with_formats
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.precision import FLOAT32_BITS, FLOAT64_BITS, plan_types
from jaxgeo import files
from jaxgeo.data.camvid import FILE, load_camvid
from jaxgeo.data.driving import COLUMNS, ROWS, network_input
from jaxgeo.data.root import data_root
from jaxgeo.errors import InputError, JaxgeoError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.models.enet import ENet, ENetConfig, init_enet
from jaxgeo.training import enet_precision as precision
from jaxgeo.training.batch_norm_folding import fold_norms


def load_frame() -> tuple[str, np.ndarray]:
    """A real frame where there is one, and what it is called."""
    folder = data_root()
    if folder is not None and (folder / FILE).is_file():
        held = load_camvid("test", folder)
        return held.names[len(held.names) // 2], held.images[len(held.images) // 2][None]
    return "random bytes", np.random.default_rng(0).integers(0, 256, (1, ROWS, COLUMNS, 3)).astype(np.uint8)


def load_network(args: argparse.Namespace, x: jax.Array) -> tuple[ENetConfig, Any]:
    """A fine-tuned network of the study, or a random one with statistics of the frame."""
    config = ENetConfig(filters=args.filters, upsampling=args.upsampling)
    variables = init_enet(jax.random.key(0), config)
    if args.state is None:
        network = ENet(dataclasses.replace(config, momentum=0.0))
        seen = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"])[1])(variables, x)
        variables = {"params": variables["params"], **jax.device_get(seen)}
        folded, params = fold_norms(config, variables)
        bits = precision.uniform_bits(folded, args.bits)
        formats = precision.choose_enet_precision(folded, params, x, bits)
        return dataclasses.replace(folded, precision=formats), params
    # Formats come from the network that was folded, weights from the fine-tuned one, as in the study.
    held = load_camvid("train")
    folded, params = fold_norms(config, training.stored_variables(args.state / "float.state", variables))
    name = f"{args.bits} bits"
    quantised, _ = training.variant_config(name, args.state, folded, params, held)
    return quantised, training.stored_params(args.state / f"{name.replace(' ', '_')}.state", params)


def load_file(path: Path, shape: tuple[int, ...]) -> ir.Graph:
    """The network of a Keras file with a format for everything, up to its logits."""
    graph = with_formats(load_keras_graph(path), HardwareFormats.uniform(FixedPoint(16, 6)))
    if graph.input.shape != shape:
        raise InputError(f"{path} takes samples of shape {graph.input.shape}, a frame has {shape}")
    last = graph[graph.output]
    if isinstance(last, ir.Softmax):
        return ir.Graph(tuple(node for node in graph if node.name != last.name), last.inputs[0])
    return graph


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures of one run."""
    frame, image = load_frame()
    x = jnp.asarray(network_input(image))
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[name], clock = now - clock, now
        print(f"  {name}: {seconds[name]:.1f} s", file=sys.stderr, flush=True)

    if args.file is not None:
        graph = load_file(args.file, x.shape[1:])
        lap("network")
        with jax.enable_x64(True):  # sums of so many bits are beyond float32
            expected = np.asarray(jax.jit(lambda x: apply_graph(graph, x))(jnp.asarray(x, jnp.float64)))
        lap("fixed point in JAX")
    else:
        config, params = load_network(args, x)
        network = ENet(config)
        lap("network")
        expected = np.asarray(jax.jit(network.apply)({"params": params}, x))
        lap("fixed point in JAX")
        graph = trace(lambda p, x: network.apply({"params": p}, x), params, x.shape[1:])
    types = config_of_design = None
    if args.types == "default":
        design = DesignTypes(io_type="io_stream")
        config_of_design = hls_config(graph, design)
        expected = np.asarray(emulate(plan_emulation(graph, design), np.asarray(x)))
    else:
        types = plan_types(graph, FLOAT32_BITS if args.file is None else FLOAT64_BITS)
    lap("types")
    project = hls.convert(graph, folder, name="enet", io_type="io_stream", types=types, config=config_of_design)
    lap("hls4ml")
    project = hls.compile_project(project)
    lap("g++")
    outputs = hls.emulate(project, np.asarray(x), timeout_s=args.timeout)
    lap("C++")
    head = graph[graph.output]
    assert isinstance(head, ir.Quantize)
    words = outputs / head.format.step
    if not np.array_equal(words, np.round(words)):
        raise InputError(f"the C++ gave values that are no words of {head.format}")
    different = int((outputs != expected).sum())
    weights = args.file.name if args.file is not None else "random" if args.state is None else "fine-tuned"
    return {
        "frame": frame,
        **({} if args.file else {"filters": args.filters, "bits": args.bits, "upsampling": args.upsampling}),
        "weights": weights,
        "types": args.types,
        "words": int(outputs.size),
        "different": different,
        "distinct": len(np.unique(expected)),
        "classes_different": int((outputs.argmax(-1) != expected.argmax(-1)).sum()),
        "exact": project.exact,
        "seconds": seconds,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Compare one frame; 0 where all words are equal."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.enet_frame",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--filters", type=int, default=4)
    parser.add_argument("--bits", type=int, default=8, help="of weights and results")
    parser.add_argument("--upsampling", choices=("nearest", "transposed"), default="nearest")
    parser.add_argument("--state", type=Path, help="folder of one number of filters of benchmarks.papers.enet")
    parser.add_argument("--file", type=Path, help="a Keras file (.h5, .keras) instead; the options above do not count")
    parser.add_argument(
        "--types",
        choices=("exact", "default"),
        default="exact",
        help="of the layers: wide enough to equal JAX, or hls4ml's own ap_fixed<16,6>, beside the emulator",
    )
    parser.add_argument("--out", type=Path, help="folder of the project; by default a temporary one")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for the C++")
    args = parser.parse_args(argv)
    try:
        if args.out is not None:
            found = compare(args, files.make_folder(args.out))
        else:
            with tempfile.TemporaryDirectory() as folder:
                found = compare(args, Path(folder))
    except JaxgeoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{found['words'] - found['different']} of {found['words']} words of {found['frame']} are equal")
    print(json.dumps(found))
    return 1 if found["different"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
