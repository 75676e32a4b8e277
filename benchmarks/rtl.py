"""Five networks as Verilog, held against JAX word by word, and counted by Yosys.

A perceptron, a small convolutional network, the head of a HEALPix classifier, a block of window attention, and an
ensemble of heads with its entropy on chip beside one of its members. For each: how many output words of Verilator equal
those of JAX, cycles of latency as predicted and as measured, LUTs as da4ml estimates them and cells as Yosys maps them.
Prints a table, then one JSON object as the last line.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fpga_bridge.circuits import rtl, yosys
from fpga_bridge.tracing.trace import trace
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import Dense, LinearPrecision
from jaxgeo.layers.quantised_predictive import PredictivePrecision, ensemble_predictive
from jaxgeo.layers.quantised_window_attention import BlockPrecision, QuantisedSwinBlock
from jaxgeo.layers.window_plan import plan_windows
from jaxgeo.models.healpix_classifier import ClassifierPrecision, HealpixClassifier, HealpixClassifierConfig
from jaxgeo.models.mlp import Mlp, MlpConfig, MlpPrecision

INPUT = FixedPoint(6, 3, True, "RND", "SAT")
WEIGHT = FixedPoint(4, 1, True, "RND", "SAT")
RESULT = FixedPoint(8, 4, True, "RND", "SAT")
LAYER = LinearPrecision(WEIGHT, RESULT, RESULT)


@dataclasses.dataclass(frozen=True)
class Case:
    """A design, the inputs it takes, and what JAX makes of them."""

    design: rtl.RtlDesign
    inputs: np.ndarray
    expected: np.ndarray


class ConvNet(nn.Module):
    """Convolution 3x3, maximum of 2x2, affine map."""

    channels: int = 2
    num_classes: int = 4

    @nn.compact
    def __call__(self, x):
        """Logits of pictures (batch, row, column, 1)."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (3, 3, 1, self.channels), jnp.float32)
        x = jax.lax.conv_general_dilated(
            quantize(x, INPUT), quantize(kernel, WEIGHT), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = nn.max_pool(nn.relu(quantize(x, RESULT)), (2, 2), (2, 2))
        return Dense(self.num_classes, LAYER, name="output")(x.reshape(*x.shape[:-3], -1))


def drawn(shapes: Any, seed: int, scale: float = 0.5) -> Any:
    """Normal numbers in the place of every parameter."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) * scale).astype(np.float32), shapes)


def of_function(name: str, apply: Callable, params: Any, inputs: np.ndarray, stage_delay: float = 5.0) -> Case:
    design = rtl.emit_function(apply, params, inputs.shape[1:], name, stage_delay)
    return Case(design, inputs, np.asarray(jax.jit(apply)(params, inputs)))


def of_module(name: str, module: nn.Module, inputs: np.ndarray, seed: int, *before: Any, delay: float = 5.0) -> Case:
    def apply(variables: Any, x: Any) -> Any:
        return module.apply(variables, *before, x)

    shapes = jax.eval_shape(module.init, jax.random.key(0), *before, jnp.zeros((1, *inputs.shape[1:])))
    return of_function(name, apply, drawn(shapes, seed), inputs, delay)


def healpix_head(inputs: np.ndarray, seed: int) -> Case:
    """The head alone, as the study exports it: its inputs are the features of maps, computed in JAX."""
    formats = ClassifierPrecision(INPUT, (LAYER, LAYER))
    model = HealpixClassifier(HealpixClassifierConfig(5, 4, 1, (4,), (16,), formats))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 192, 1)))["params"]
    params = drawn(shapes, seed)
    apply = lambda params, x: model.apply({"params": params}, x)  # noqa: E731
    graph = trace(apply, params, (192, 1))
    design = rtl.emit_verilog(graph, "head", start=graph["head"].inputs[0])
    _, state = model.apply({"params": params}, inputs, capture_intermediates=True)
    features = jax.nn.relu(state["intermediates"]["conv_0"]["__call__"][0]).reshape(len(inputs), -1)
    return Case(design, np.asarray(features), np.asarray(jax.jit(apply)(params, inputs)))


def ensemble(members: int, inputs: np.ndarray, seed: int) -> Case:
    """Heads on one input, and their mean probabilities and entropy."""
    head, formats = Dense(3, LAYER), PredictivePrecision.uniform(8, 3)
    shapes = jax.eval_shape(head.init, jax.random.key(0), jnp.zeros((1, *inputs.shape[1:])))
    trees = [drawn(shapes, seed + member) for member in range(members)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    believed = ensemble_predictive(lambda variables, x: head.apply(variables, quantize(x, INPUT)), formats)

    def apply(stacked: Any, x: Any) -> Any:
        found = believed(stacked, x)
        return jnp.concatenate([found.probabilities, found.entropy], axis=-1)

    return of_function(f"ensemble_{members}", apply, stacked, inputs)


def cases(samples: int, seed: int) -> dict[str, Callable[[], Case]]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=(samples, *shape)).astype(np.float32)

    mlp = Mlp(MlpConfig(8, (8, 8), 4, "relu", MlpPrecision(INPUT, (LAYER,) * 3)))
    bias_index = np.arange(4)[:, None] - np.arange(4)[None] + 3
    plan = plan_windows(4, 4, bias_index=bias_index)
    formats = dataclasses.replace(BlockPrecision.uniform(6), weight=WEIGHT)
    block = QuantisedSwinBlock(formats, 1, 7, 2.0, "pre")
    return {
        "perceptron": lambda: of_module("perceptron", mlp, normal(8), seed),
        "convolutional": lambda: of_module("convolutional", ConvNet(), normal(8, 8, 1), seed),
        "healpix head": lambda: healpix_head(normal(192, 1), seed),
        "one head with entropy": lambda: ensemble(1, normal(12), seed),
        "four heads with entropy": lambda: ensemble(4, normal(12), seed),
        "window attention": lambda: of_module("attention", block, normal(4, 4), seed, plan, delay=10.0),
    }


def bench(case: Case, folder: Path, most_luts: int) -> dict[str, Any]:
    """Simulate and, where the estimate is not above `most_luts`, synthesise."""
    run = rtl.simulate(case.design, case.inputs, folder)
    figures = rtl.compare(case.design, run, case.expected)
    row: dict[str, Any] = {
        "values_compared": figures["values_compared"],
        "equal_share": figures["equal_share"],
        "distinct_values": len(np.unique(case.expected)),
        "latency_predicted": case.design.latency_cycles,
        "latency_measured": figures["latency_cycles"],
        "da4ml_lut": case.design.lut_estimate,
        "da4ml_ff": case.design.register_bits,
        "verilator_compile_s": run.verilator_compile_s,
    }
    kinds = ("lut", "ff", "shift_register", "carry", "dsp")
    if case.design.lut_estimate > most_luts:
        return row | dict.fromkeys([f"yosys_{kind}" for kind in kinds])
    counts = yosys.synthesise(case.design, folder / "yosys")
    return row | {f"yosys_{kind}": getattr(counts, kind) for kind in kinds} | {"yosys_s": counts.synthesis_s}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rtl", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1000, help="inputs pushed through each design (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (default 0)")
    parser.add_argument("--designs", nargs="*", help="beginnings of the designs' names; all where not given")
    parser.add_argument(
        "--most-luts",
        type=int,
        default=8000,
        help="designs of which da4ml estimates more are not given to Yosys, which takes minutes (default 8000)",
    )
    args = parser.parse_args(argv)
    rows: dict[str, dict[str, Any]] = {}
    print(
        f"{'design':24} {'equal':>15} {'cycles':>7} {'da4ml LUT':>9}   Yosys LUT / FF / SRL / CARRY / DSP", flush=True
    )
    for name, make in cases(args.samples, args.seed).items():
        if args.designs and not any(name.startswith(each) for each in args.designs):
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = rows[name] = bench(make(), Path(folder), args.most_luts)
        equal = f"{round(row['equal_share'] * row['values_compared'])} of {row['values_compared']}"
        cycles = f"{row['latency_predicted']}/{row['latency_measured']}"
        cells = [str(row[f"yosys_{kind}"] or 0) for kind in ("lut", "ff", "shift_register", "carry", "dsp")]
        found = "not synthesised" if row["yosys_lut"] is None else " / ".join(cells)
        print(f"{name:24} {equal:>15} {cycles:>7} {row['da4ml_lut']:9}   {found}", flush=True)
    print(json.dumps({"samples": args.samples, "seed": args.seed, "designs": rows}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
