"""The emulation of fixed-point designs in JAX beside hls4ml's compiled C++: every word compared, and the time.

Networks: the house-number CNN, an ENet-like one (same padding, batch norms, skips, nearest upsampling), the same with
transposed convolutions in place of upsampling, and the HEALPix classifier, each in three designs: `ap_fixed<16,6>`
truncating and wrapping, rounding and saturating, and with an accumulator beyond 53 bits. Inputs are random, and real
ones where JAXGEO_DATA names a folder with `svhn_100.npz` and `camvid_240x152.npz`. `--enet` adds one picture of
152 x 240 through the ENet. `--io-type io_parallel io_stream` compiles each network in both of hls4ml's ways to pass
data, which are other C++ for convolutions, pools and dense layers, and also counts the words of the second that differ
from the first. The time is of the house-number CNN, C++ compiled with -O3 as hls4ml does, in alternating rounds;
compilation is reported apart. Prints tables and, as the last line, one JSON object; exits with status 1 where a word
differs.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.emulation.emulator import EmulationPlan, emulate, plan_emulation
from fpga_bridge.emulation.layer_types import DesignTypes, hls_config
from fpga_bridge.hls import project as hls
from fpga_bridge.hls.checks import IOType
from fpga_bridge.hls.emulate import emulate as call_library
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.graph import Graph
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.models.enet import ENet, ENetConfig
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig
from jaxgeo.models.svhn_cnn import SvhnCnn, SvhnCnnConfig

DESIGNS = {
    "TRN/WRAP": DesignTypes(),
    "RND/SAT": DesignTypes(default=FixedPoint(16, 6, True, "RND", "SAT")),
    "accum 70 bits": DesignTypes(accum=FixedPoint(70, 20)),
}


def random_variables(model: Any, shape: tuple[int, ...], seed: int) -> Any:
    """Variables as training might leave them: norms with statistics of their own, biases that are not zero."""
    variables = model.init(jax.random.key(seed), jnp.zeros((1, *shape)))
    draw = np.random.default_rng(seed)

    def moved(path: Any, leaf: Any) -> Any:
        name = str(getattr(path[-1], "key", path[-1]))
        if name in ("var", "scale"):
            return leaf * jnp.asarray(np.exp(0.3 * draw.normal(size=leaf.shape)), leaf.dtype)
        if name in ("mean", "bias"):
            return leaf + jnp.asarray(0.1 * draw.normal(size=leaf.shape), leaf.dtype)
        return leaf

    return jax.tree_util.tree_map_with_path(moved, variables)


def traced(model: Any, shape: tuple[int, ...], seed: int, *, softmax: bool = False) -> Graph:
    variables = random_variables(model, shape, seed)

    def apply(tree: Any, x: Any) -> Any:
        logits = model.apply(tree, x)
        return jax.nn.softmax(logits) if softmax else logits

    return trace(apply, variables, shape)


def networks() -> dict[str, Callable[[], Graph]]:
    small = ENetConfig(rows=16, columns=24, filters=8, encoder=(1,), decoder=(1,))
    transposed = dataclasses.replace(small, upsampling="transposed")
    return {
        "svhn": lambda: traced(SvhnCnn(SvhnCnnConfig()), (32, 32, 3), 0, softmax=True),
        "enet 16x24": lambda: traced(ENet(small), (16, 24, 3), 1),
        "transposed": lambda: traced(ENet(transposed), (16, 24, 3), 3),
        "healpix": lambda: traced(HealpixClassifier(HealpixClassifierConfig()), (768, 1), 2),
    }


def real_images(folder: Path | None, shape: tuple[int, ...]) -> np.ndarray:
    """Pictures of the shape, as float32; none where there is no folder."""
    none = np.zeros((0, *shape), np.float32)
    if folder is None:
        return none
    if shape == (32, 32, 3):
        return np.load(folder / "svhn_100.npz")["x_standardised"].astype(np.float32)
    if shape == (152, 240, 3):
        from jaxgeo.data.camvid import load_camvid  # its images are decoded, which takes seconds

        return (load_camvid("test", folder).images[:1] / 256).astype(np.float32)
    return none


def inputs_of(shape: tuple[int, ...], count: int, folder: Path | None) -> np.ndarray:
    real = real_images(folder, shape)[:count]
    random = np.random.default_rng(0).normal(size=(count - len(real), *shape)).astype(np.float32)
    return np.concatenate([real, random])


class Projects:
    """hls4ml projects of this run, each compiled once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[tuple[str, str, IOType, int], tuple[hls.HlsProject, float]] = {}

    def __call__(
        self, name: str, graph: Graph, design_name: str, level: int, io_type: IOType = "io_parallel"
    ) -> tuple[hls.HlsProject, float]:
        """The project and the seconds that g++ took."""
        key = name, design_name, io_type, level
        if key not in self._built:
            design, folder = design_of(design_name, io_type), self._folder / str(len(self._built))
            project = hls.convert(graph, folder, io_type=io_type, config=hls_config(graph, design))
            start = time.perf_counter()
            self._built[key] = hls.compile_project(project, f"-O{level}"), time.perf_counter() - start
        return self._built[key]


def design_of(name: str, io_type: IOType) -> DesignTypes:
    return dataclasses.replace(DESIGNS[name], io_type=io_type)


def compare(
    projects: Projects,
    name: str,
    graph: Graph,
    design_name: str,
    images: np.ndarray,
    level: int,
    io_types: Sequence[IOType],
) -> list[dict[str, Any]]:
    """A row for each way to pass data: words of the C++ that differ from ours, and from the C++ of the first way."""
    rows, first = [], None
    for io_type in io_types:
        project, seconds = projects(name, graph, design_name, level, io_type)
        ours = emulate(plan_emulation(graph, design_of(design_name, io_type)), images)
        theirs = hls.emulate(project, images, timeout_s=3600.0)
        first = theirs if first is None else first
        row = {
            "network": name,
            "design": design_name,
            "io_type": io_type,
            "images": len(images),
            "words": ours.size,
            "distinct": len(np.unique(theirs)),
            "differing": int((ours != theirs).sum()),
            "differing_from_first_io_type": int((first != theirs).sum()),
            "compile_cpp_s": seconds,
        }
        print(
            f"{name:12} {design_name:14} {io_type:11} {row['images']:6} {row['words']:9} {row['distinct']:9} "
            f"{row['differing']:10} {row['differing_from_first_io_type']:10}",
            flush=True,
        )
        rows.append(row)
    return rows


def run_cpp(project: hls.HlsProject, images: np.ndarray) -> np.ndarray:
    """The compiled function on each image in turn, in this process: no start of another one is timed."""
    assert project.library is not None
    outputs = call_library(
        str(project.library.resolve()), f"{project.name}_double", math.prod(project.output_shape), images
    )
    return outputs.reshape(len(images), *project.output_shape)


def timing(plan: EmulationPlan, project: hls.HlsProject, images: np.ndarray, rounds: int) -> dict[str, Any]:
    """Medians over rounds in which both run, after warm-up: the C++ image by image on one core, ours on all.

    The words of what is timed are compared too.
    """
    start = time.perf_counter()
    emulated = emulate(plan, images)
    first = time.perf_counter() - start
    differing = int((emulated != run_cpp(project, images)).sum())
    ours, theirs, ratios = [], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        run_cpp(project, images)
        theirs.append(time.perf_counter() - start)
        start = time.perf_counter()
        for _ in range(5):
            emulate(plan, images)
        ours.append((time.perf_counter() - start) / 5)
        ratios.append(theirs[-1] / ours[-1])
    return {
        "batch": len(images),
        "words": emulated.size,
        "differing": differing,
        "first_call_s": first,
        "ours_us_per_image": statistics.median(ours) / len(images) * 1e6,
        "cpp_us_per_image": statistics.median(theirs) / len(images) * 1e6,
        "ratio": statistics.median(ratios),
        "cores": len(os.sched_getaffinity(0)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emulator", description=__doc__)
    parser.add_argument("--images", type=int, default=1000, help="inputs of each comparison")
    parser.add_argument("--batch", type=int, default=256, help="inputs of the timing")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing")
    parser.add_argument("--networks", nargs="*", default=[*networks()], choices=[*networks()], help="to compare")
    parser.add_argument("--designs", nargs="*", default=[*DESIGNS], choices=[*DESIGNS], help="to compare")
    parser.add_argument(
        "--io-type", nargs="+", default=["io_parallel"], choices=get_args(IOType), help="ways to pass data, to compare"
    )
    parser.add_argument("--no-timing", action="store_true", help="compare words only")
    parser.add_argument("--enet", action="store_true", help="also one 152 x 240 picture through the ENet")
    parser.add_argument("--optimization", type=int, default=1, help="level of g++ where only words are compared")
    args = parser.parse_args(argv)
    folder = Path(os.environ["JAXGEO_DATA"]) if "JAXGEO_DATA" in os.environ else None
    rows, result, level = [], {}, args.optimization
    with tempfile.TemporaryDirectory() as work:
        projects = Projects(Path(work))
        print(
            f"{'network':12} {'design':14} {'io type':11} {'images':>6} {'words':>9} {'distinct':>9} {'differing':>10} "
            f"{'from first':>10}",
            flush=True,
        )
        for name in args.networks:
            graph = networks()[name]()
            images = inputs_of(graph.input.shape, args.images, folder)
            for design in args.designs:
                rows += compare(projects, name, graph, design, images, level, args.io_type)
        if args.enet:
            graph, picture = traced(ENet(ENetConfig()), (152, 240, 3), 3), inputs_of((152, 240, 3), 1, folder)
            rows += compare(projects, "enet 152x240", graph, "TRN/WRAP", picture, level, args.io_type)
        if not args.no_timing:
            graph = networks()["svhn"]()
            project, seconds = projects("svhn", graph, "TRN/WRAP", 3)
            images = inputs_of((32, 32, 3), args.batch, folder)
            result = timing(plan_emulation(graph, DESIGNS["TRN/WRAP"]), project, images, args.rounds)
            result["compile_cpp_s"] = seconds
            print(
                f"svhn, batch {result['batch']}: emulator {result['ours_us_per_image']:.0f} us per image, C++ -O3 "
                f"{result['cpp_us_per_image']:.0f} us, ratio {result['ratio']:.1f} on {result['cores']} cores; first "
                f"call {result['first_call_s']:.1f} s, g++ {seconds:.0f} s; {result['differing']} of {result['words']} "
                "words differ"
            )
    differing = sum(row["differing"] for row in rows) + result.get("differing", 0)
    print(json.dumps({"differing": differing, "comparisons": rows, "timing": result}))
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
