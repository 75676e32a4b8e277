"""Resources predicted before synthesis beside counted ones: da4ml designs under Yosys, the SVHN network's reports.

Unrolled designs of several sizes and widths become Verilog and are synthesised by Yosys for UltraScale+; the factors
of `fpga_bridge.estimates.resources.unrolled_cost` are fitted again on them and checked with each design left out.
Prints tables, then one JSON object as the last line.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.svhn_network import svhn_graph
from fpga_bridge.circuits.rtl import RtlDesign, emit_verilog
from fpga_bridge.circuits.yosys import synthesise
from fpga_bridge.estimates import resources
from fpga_bridge.estimates.parts import find_part
from fpga_bridge.estimates.resources import Widths, estimate, total, unrolled_cost
from fpga_bridge.tracing.trace import trace
from jaxgeo.layers.fixed_point import FixedPoint, quantize

ROW = "{:>22} {:>9} {:>9} {:>8} {:>9} {:>9} {:>8}"


class Case(NamedTuple):
    """A small network to unroll: its name, its input's shape and its function."""

    name: str
    shape: tuple[int, ...]
    apply: Callable


def cases(seed: int = 0) -> list[Case]:
    """Dense layers of several sizes and widths, two layers with a relu, and convolutions."""
    rng = np.random.default_rng(seed)

    def weights(bits: int, *shape: int) -> jax.Array:
        return quantize(jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32), FixedPoint(bits, 1, True, "RND", "SAT"))

    def word(bits: int, signed: bool = True) -> FixedPoint:
        return FixedPoint(bits, 3, signed, "RND", "SAT")

    def dense(n_in: int, n_out: int, bits: int) -> Case:
        kernel, inner = weights(bits, n_in, n_out), FixedPoint(bits, 1, True, "RND", "SAT")

        def apply(params: Any, x: jax.Array) -> jax.Array:
            return quantize(quantize(x, inner) @ quantize(kernel, inner), word(bits + 2))

        return Case(f"dense {n_in}x{n_out}, {bits} bits", (n_in,), apply)

    def two(n_in: int, hidden: int, n_out: int, bits: int) -> Case:
        first, second = weights(bits, n_in, hidden), weights(bits, hidden, n_out)
        inner = FixedPoint(bits, 1, True, "RND", "SAT")

        def apply(params: Any, x: jax.Array) -> jax.Array:
            y = quantize(jnp.maximum(quantize(x, inner) @ quantize(first, inner), 0.0), word(bits, signed=False))
            return quantize(y @ quantize(second, inner), word(bits + 2))

        return Case(f"dense {n_in}x{hidden}x{n_out}, {bits} bits", (n_in,), apply)

    def conv(size: int, channels: int, filters: int, bits: int) -> Case:
        kernel, inner = weights(bits, 3, 3, channels, filters), FixedPoint(bits, 1, True, "RND", "SAT")

        def apply(params: Any, x: jax.Array) -> jax.Array:
            y = jax.lax.conv_general_dilated(
                quantize(x, inner), quantize(kernel, inner), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return quantize(y, word(bits + 2))

        return Case(f"conv {size}x{size}x{channels}, 3x3x{filters}, {bits} bits", (size, size, channels), apply)

    return [
        dense(8, 8, 4),
        dense(16, 10, 6),
        dense(10, 8, 8),
        two(8, 10, 5, 5),
        conv(4, 1, 2, 4),
        conv(4, 2, 3, 5),
        dense(16, 16, 4),
        dense(32, 16, 6),
    ]


def unrolled(chosen: Sequence[Case], stage_delay: float) -> list[tuple[str, RtlDesign]]:
    """The designs of the cases."""
    return [
        (case.name, emit_verilog(trace(case.apply, {}, case.shape), f"case{i}", stage_delay=stage_delay))
        for i, case in enumerate(chosen)
    ]


def factor(counted: np.ndarray, estimated: np.ndarray) -> float:
    """The one factor whose largest relative error over the designs is the smallest."""
    ratios = counted / estimated
    return float(2 * ratios.min() * ratios.max() / (ratios.min() + ratios.max()))


def bench_unrolled(stage_delay: float, few: int | None) -> dict[str, Any]:
    """One line for each design."""
    designs = unrolled(cases()[:few], stage_delay)
    counted, estimated, errors = [], [], []
    print(ROW.format("design", "LUT", "estimate", "error", "FF", "estimate", "error"))
    for name, design in designs:
        with tempfile.TemporaryDirectory() as folder:
            found = synthesise(design, Path(folder))
        cost = unrolled_cost(design)
        counted.append((found.lut, found.ff + found.shift_register))
        estimated.append((design.lut_estimate, design.register_bits))
        lut, ff = cost.lut / counted[-1][0] - 1, cost.ff / counted[-1][1] - 1
        errors.append((abs(lut), abs(ff)))
        print(
            ROW.format(name, counted[-1][0], round(cost.lut), f"{lut:.1%}", counted[-1][1], round(cost.ff), f"{ff:.1%}")
        )
    counts, raw = np.array(counted, float), np.array(estimated, float)
    fitted = [factor(counts[:, i], raw[:, i]) for i in range(2)]
    left_out = []
    for i in range(len(counts)):
        rest = np.arange(len(counts)) != i
        again = [factor(counts[rest, j], raw[rest, j]) for j in range(2)]
        left_out.append(float(np.max(np.abs(np.array(again) * raw[i] / counts[i] - 1))))
    print(f"best factors on these designs: LUT {fitted[0]:.3f}, FF {fitted[1]:.3f}; each left out: {max(left_out):.1%}")
    worst = np.max(errors, axis=0)
    return {
        "designs": len(designs),
        "worst_lut_error": float(worst[0]),
        "worst_ff_error": float(worst[1]),
        "fitted_factors": fitted,
        "worst_error_left_out": max(left_out),
    }


def bench_svhn(path: Path, seeds: int = 3) -> dict[str, Any]:
    """Both designs of the report; random weights of the same sizes stand for the trained ones."""
    designs = json.loads(path.read_text())["designs"]
    six = FixedPoint(6, 1)
    table = (
        ("16-bit, 50 % pruned", None, Widths()),
        ("6-bit QKeras, 50 % pruned", six, Widths(activation=6, weight=6, weight_fraction=5)),
    )
    part, result = find_part("xcu250"), {}
    for name, weight, widths in table:
        found = [total(estimate(svhn_graph(0.5, weight, seed), widths=widths).values()) for seed in range(seeds)]
        report = designs[name]["synthesis"]
        print(f"\n{name} on {part.board}: after synthesis, estimate (mean of {seeds} draws of weights), error")
        result[name] = {}
        for key, field in (("DSP", "dsp"), ("BRAM_tiles", "bram_tiles"), ("LUT", "lut"), ("FF", "ff")):
            guess = float(np.mean([getattr(one, field) for one in found]))
            error = guess / report[key] - 1
            print(f"{key:>12} {report[key]:9} {guess:9.0f} {error:8.1%}")
            result[name][key] = error
        layers = estimate(svhn_graph(0.5, weight, 0), widths=widths)
        per_layer = designs[name]["csynth_dsp_per_layer"]
        print(
            "DSP by layer (csynth, estimate):", ", ".join(f"{k} {v} {layers[k].dsp:.0f}" for k, v in per_layer.items())
        )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resources", description=__doc__)
    data = os.environ.get("JAXGEO_DATA")
    parser.add_argument(
        "--svhn", type=Path, help="JSON of the SVHN reports (default: svhn_hls_reports.json in JAXGEO_DATA)"
    )
    parser.add_argument("--stage-delay", type=float, default=5.0, help="levels of adders between two registers")
    parser.add_argument("--few", type=int, help="only so many of the unrolled designs, the small ones first")
    args = parser.parse_args(argv)
    result: dict[str, Any] = {"unrolled": bench_unrolled(args.stage_delay, args.few)}
    svhn = args.svhn or (Path(data) / "svhn_hls_reports.json" if data else None)
    if svhn is not None and svhn.exists():
        result["svhn"] = bench_svhn(svhn)
    result["factors"] = {"lut": resources.UNROLLED_LUT_FACTOR, "ff": resources.UNROLLED_FF_FACTOR}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
