"""ResNet-20 with batch norms on its way to hardware: types, cycles and cells at full size; project and C++ where asked.

The weights are He et al.'s initial ones with norms of the batch's own statistics, folded and rounded; what is measured
here (exactness, steps, cells of unpruned layers) does not ask for trained ones. With --compile the streaming C++ of
hls4ml is compiled and held against the JAX network, every word.

References:
    He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.estimates.dataflow import simulate
from fpga_bridge.estimates.fifo_depths import free_running_depths
from fpga_bridge.estimates.latency import HardwareConfig, plan_design
from fpga_bridge.estimates.parts import find_part
from fpga_bridge.estimates.resources import estimate, total
from fpga_bridge.hls import project as hls
from fpga_bridge.hls.export import HlsSettings, export_hls
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.models.batch_norm_resnet import BatchNormResNet, BatchNormResNetConfig, init_batch_norm_resnet
from jaxgeo.training.batch_norm_folding import fold_norms
from jaxgeo.training.resnet_precision import choose_resnet_precision


def quantised_resnet(
    config: BatchNormResNetConfig, weight_bits: int, result_bits: int, images: jax.Array
) -> tuple[BatchNormResNet, dict[str, Any]]:
    """A network in fixed point and its parameters, norms set to the statistics of the images."""
    variables = init_batch_norm_resnet(jax.random.key(0), config)
    settled = BatchNormResNet(dataclasses.replace(config, momentum=0.0))
    _, changed = jax.jit(lambda v, x: settled.apply(v, x, train=True, mutable=["batch_stats"]))(variables, images)
    folded, params = fold_norms(config, {**variables, **changed})
    formats = choose_resnet_precision(folded, params, images, weight_bits, result_bits)
    return BatchNormResNet(dataclasses.replace(folded, precision=formats)), params


def multiplications(graph: ir.Graph) -> int:
    """Of all layers for one image."""
    pixels = {node.name: int(np.prod(node.shape[:-1])) for node in graph}
    return sum(pixels[node.name] * node.kernel.value.size for node in graph if isinstance(node, ir.Conv | ir.Dense))


def clocked(function: Any, *arguments: Any, **options: Any) -> tuple[Any, float]:
    """The result and the seconds it took."""
    start = time.perf_counter()
    return function(*arguments, **options), time.perf_counter() - start


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one network."""
    config = BatchNormResNetConfig(
        depth=args.depth, filters=args.filters, size=args.size, shortcut=args.shortcut, padding=args.padding
    )
    shape = (32, args.size, args.size, config.channels)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape) / 256, jnp.float32)
    network, params = quantised_resnet(config, args.bits, args.bits, images)
    graph, trace_s = clocked(trace, network.apply, {"params": params}, shape[1:])
    types, types_s = clocked(plan_types, graph)
    found: dict[str, Any] = {
        "depth": args.depth,
        "shortcut": args.shortcut,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "multiplications": multiplications(graph),
        "nodes": len(graph.nodes),
        "exact": types[graph.output].exact,
        "widest_sum_bits": max(t.accumulator.width for t in types.values() if t.accumulator is not None),
        "trace_s": trace_s,
        "types_s": types_s,
    }
    hardware = HardwareConfig(strategy=args.strategy, reuse_factor=args.reuse)
    start = time.perf_counter()
    plan = plan_design(graph, hardware, types)
    # The filling that delays no step; the search for the least depths takes hundreds of simulations.
    plan = dataclasses.replace(plan, design=plan.design.with_depths(free_running_depths(plan.design)))
    run = simulate(plan.design, 2)
    cells = total(estimate(graph, hardware, types, plan=plan, multiplier=find_part(args.part).multiplier).values())
    found |= {
        "strategy": args.strategy,
        "reuse_factor": args.reuse,
        "latency_cycles": run.latency,
        "interval_cycles": run.interval,
        "dsp": round(cells.dsp),
        "lut": round(cells.lut),
        "ff": round(cells.ff),
        "bram_tiles": cells.bram_tiles,
        "estimate_s": time.perf_counter() - start,
    }
    if not args.project and not args.compile:
        return found
    with tempfile.TemporaryDirectory(prefix="resnet") as folder:
        settings = HlsSettings(
            io_type="io_stream", strategy=args.strategy, reuse_factor=args.reuse, backend=args.backend
        )
        (project, _), found["project_s"] = clocked(export_hls, graph, Path(folder) / "project", settings)
        if args.compile:
            project, found["compile_s"] = clocked(hls.compile_project, project, args.optimization)
            x = np.asarray(images[: args.images])
            outputs, found["cpp_s_per_image"] = clocked(hls.emulate, project, x, timeout_s=3600.0)
            found["cpp_s_per_image"] /= len(x)
            expected = np.asarray(jax.jit(network.apply)({"params": params}, x))
            found["words"] = expected.size
            found["distinct_words"] = len(np.unique(expected))
            found["equal_words"] = int((outputs == expected).sum())
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures as a table, and as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resnet_fpga", description=__doc__)
    parser.add_argument("--depth", type=int, default=20, help="6 n + 2 layers")
    parser.add_argument("--filters", type=int, default=16, help="of the first stage")
    parser.add_argument("--size", type=int, default=32, help="rows and columns of the images")
    parser.add_argument("--bits", type=int, default=8, help="of weights and of results")
    parser.add_argument("--shortcut", choices=("projection", "zeros"), default="projection")
    parser.add_argument("--padding", choices=("symmetric", "same"), default="symmetric")
    parser.add_argument("--strategy", choices=("Latency", "Resource"), default="Resource", help="of hls4ml")
    parser.add_argument("--reuse", type=int, default=72, help="uses of each multiplier")
    parser.add_argument("--backend", choices=("Vitis", "Vivado"), default="Vitis")
    parser.add_argument("--part", default="xcu250", help="or a board, to compare with")
    parser.add_argument("--project", action="store_true", help="write the project of hls4ml")
    parser.add_argument(
        "--compile", action="store_true", help="compile its C++ too and compare every word; takes minutes"
    )
    parser.add_argument("--optimization", default="-O1", help="of g++")
    parser.add_argument("--images", type=int, default=2, help="that go through the C++")
    found = bench(parser.parse_args(argv))
    for name, value in found.items():
        print(f"{name:20} {value:>14.3f}" if isinstance(value, float) else f"{name:20} {value!s:>14}")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
