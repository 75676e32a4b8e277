"""The segmentation S2CNN with 204k parameters: tables, compilation, one image forward, one training step.

    python -m benchmarks.segmentation_s2cnn [--peer PATH] [--rounds 5] [--quick] [--no-training]

PATH is a checkout of the original program (JanEGerken/sem_seg_s2cnn), which then runs the same weights and image in a
process of its own; see `segmentation_s2cnn_peer`. Its calls and ours take turns, and ratios are medians within rounds.
Both run in float32 on the processors that this process may use. `faithful` is the original's function, aliases
included, and its output is compared; `correct` is the library's default. The bar is judged by our slowest variant as it
predicts, with the kernels' spectra kept; beside it stands the call that computes them anew, as the original does.
The last line is one JSON object.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from benchmarks.timing import all_met, bar, blocking, timed, unjudged
from benchmarks.turns import Candidate
from jaxgeo.models.s2cnn import precompute_kernels
from jaxgeo.models.s2cnn_segmenter import S2CNNSegmenter, S2CNNSegmenterConfig, plan_s2cnn_segmenter
from jaxgeo.models.s2cnn_weights import params_to_torch

PEER_BAR, TABLES_BAR_S = 20.0, 20.0
# Of the outputs' norm. One float32 rounding is 6e-8, and eight convolutions with sums of up to some thousand terms on
# either side leave some 1e-7; a wrong sign, scale or alias anywhere leaves 1e-2 and more.
DIFFERENCE_BAR = 1e-5
PEER_FILE = "examples/mnist_sem_seg/models.py"
QUICK: dict[str, Any] = {"input_bandlimit": 8, "bandlimits": (7, 6, 5, 4, 5, 6, 7), "output_bandlimit": 8}
Row = dict[str, Any]


class Prediction(NamedTuple):
    """A variant's row of the table, and what it is compared by."""

    row: Row
    params: Any
    output: np.ndarray
    calls: dict[str, Callable[[], Any]]  # with the kernels' spectra computed within the call, and before it


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Any, dict[str, float]]:
    """A compiled program, and the seconds that tracing and compiling took, as long and as processor time."""
    start, start_cpu = time.perf_counter(), time.process_time()
    program = jax.jit(function).lower(*arguments).compile()
    return program, {"compile_s": time.perf_counter() - start, "compile_cpu_s": time.process_time() - start_cpu}


def steady(program: Callable[..., Any], *arguments: Any, repeats: int = 5) -> float:
    """Median seconds after one call to warm up."""
    timed(lambda: program(*arguments))
    return statistics.median(timed(lambda: program(*arguments))[1] for _ in range(repeats))


def variants(quick: bool) -> dict[str, S2CNNSegmenterConfig]:
    base = dataclasses.replace(S2CNNSegmenterConfig(), **(QUICK if quick else {}))
    return {
        "faithful": dataclasses.replace(base, mode="faithful"),
        "correct": base,
        "correct, Gauss-Legendre": dataclasses.replace(base, latitudes="gauss_legendre"),
    }


def random_params(model: S2CNNSegmenter, plan: Any, images: jax.Array) -> Any:
    """Uniform in [-1, 1] like the original's, without compiling the network."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), plan, images)["params"]
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.uniform(-1, 1, leaf.shape), leaf.dtype), shapes)


def bench_prediction(name: str, config: S2CNNSegmenterConfig, images: jax.Array) -> Prediction:
    plan, tables_s = timed(lambda: plan_s2cnn_segmenter(config))
    model = S2CNNSegmenter(config)
    variables = {"params": random_params(model, plan, images)}
    cached, precompute_s = timed(lambda: precompute_kernels(model, variables, plan, images))
    program, compile_seconds = compiled(model.apply, cached, plan, images)
    forward_s = steady(program, cached, plan, images)
    output = np.asarray(program(cached, plan, images))
    whole, whole_seconds = compiled(model.apply, variables, plan, images)
    row = {
        "variant": name,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables)),
        "tables_s": tables_s,
        "tables_mb": sum(leaf.nbytes for leaf in jax.tree.leaves(plan)) / 1e6,
        "spectra_first_call_s": precompute_s,
        **compile_seconds,
        "forward_s": forward_s,
        **{f"uncached_{key}": value for key, value in whole_seconds.items()},
        "uncached_forward_s": steady(whole, variables, plan, images),
    }
    calls = {"within": blocking(whole, variables, plan, images), "before": blocking(program, cached, plan, images)}
    return Prediction(row, variables["params"], output, calls)


def bench_training(config: S2CNNSegmenterConfig, images: jax.Array) -> Row:
    """One step of Adam on one image."""
    plan, model = plan_s2cnn_segmenter(config), S2CNNSegmenter(config)
    params = random_params(model, plan, images)
    labels = jnp.zeros((len(images), 2 * config.output_bandlimit, 2 * config.output_bandlimit), jnp.int32)
    optimiser = optax.adam(1e-3)

    def step(params: Any, state: Any, plan: Any, images: jax.Array) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            logits: Any = model.apply({"params": params}, plan, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimiser.init(params)
    program, seconds = compiled(step, params, state, plan, images)
    return {
        **seconds,
        "step_s": steady(program, params, state, plan, images, repeats=3),
        "temporary_mb": program.memory_analysis().temp_size_in_bytes / 1e6,
    }


def run_peer(
    checkout: Path, config: S2CNNSegmenterConfig, images: jax.Array, found: dict[str, Prediction], rounds: int
) -> Row:
    """The original's seconds, ratios to ours by variant and kind of call, and how far our output is from its own."""
    model = {
        "b_in": config.input_bandlimit,
        "f_in": config.channels,
        "fs": list(config.features),
        "b_ls": list(config.bandlimits),
        "b_out": config.output_bandlimit,
        "f_out": config.num_classes,
        "kernel_max_beta": list(config.kernel_max_beta),
        "use_skips": config.shortcuts,
    }
    ours = {(name, kind): call for name, one in found.items() for kind, call in one.calls.items()}
    with tempfile.TemporaryDirectory() as folder:
        weights, result = Path(folder) / "weights.npz", Path(folder) / "output.npy"
        arrays: dict[str, Any] = {
            f"weights/{key}": value for key, value in params_to_torch(found["faithful"].params).items()
        }
        images_first = np.ascontiguousarray(np.moveaxis(np.asarray(images), -1, 1))
        np.savez(weights, config_json=json.dumps(model), input=images_first, **arrays)
        command = [sys.executable, "-m", "benchmarks.segmentation_s2cnn_peer", str(checkout), str(weights), str(result)]
        original = Candidate("original", command)
        seconds, times = [], {key: [] for key in ours}
        for _ in range(rounds):
            seconds.append(original.time("forward"))
            for key, call in ours.items():
                times[key].append(timed(call)[1])
        original.close()
        if original.fate:
            raise SystemExit(f"the original {original.fate}")
        output = np.moveaxis(np.load(result, allow_pickle=False), 1, -1)
    ratios: dict[str, dict[str, float]] = {name: {} for name in found}
    for (name, kind), taken in times.items():
        ratios[name][kind] = statistics.median(theirs / mine for theirs, mine in zip(seconds, taken, strict=True))
    return {
        "first_call_s": original.notes["first_call_s"],
        "forward_s": statistics.median(seconds),
        "ratios": ratios,
        "relative_difference": float(np.linalg.norm(found["faithful"].output - output) / np.linalg.norm(output)),
    }


def judge_peer(peer: Row) -> dict[str, Row]:
    """The original against our slowest variant, with the kernels' spectra kept and computed within the call."""
    slowest = {kind: min(ratios[kind] for ratios in peer["ratios"].values()) for kind in ("within", "before")}
    speed = bar(slowest["before"], PEER_BAR) | {"ratio_within": slowest["within"]}
    return {"speed": speed, "relative_difference": bar(peer["relative_difference"], DIFFERENCE_BAR, at_most=True)}


def show(rows: Sequence[Row]) -> None:
    table = Table("variant", "tables s (MB)", "compile s", "forward s", "without cached spectra s")
    for row in rows:
        table.add_row(
            row["variant"],
            f"{row['tables_s']:.2f} ({row['tables_mb']:.0f})",
            f"{row['compile_s']:.1f}",
            f"{row['forward_s']:.3f}",
            f"{row['uncached_forward_s']:.3f}",
        )
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.segmentation_s2cnn",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peer", type=Path, help="checkout of the original program")
    parser.add_argument("--rounds", type=int, default=5, help="in which ours and the original's calls take turns")
    parser.add_argument("--quick", action="store_true", help="small bandlimits, to see that it runs")
    parser.add_argument("--no-training", action="store_true", help="leave the training step out")
    parser.add_argument("--variants", nargs="*", help="some of: faithful, correct, 'correct, Gauss-Legendre'")
    args = parser.parse_args(argv)
    configs = variants(args.quick)
    chosen = args.variants or list(configs)
    if unknown := [name for name in chosen if name not in configs]:
        parser.error(f"there is no variant {unknown[0]!r}; there are {', '.join(map(repr, configs))}")
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    if args.peer is not None and "faithful" not in chosen:
        parser.error("--peer compares outputs with the variant 'faithful', which is not among those chosen")
    if args.peer is not None and not (args.peer / PEER_FILE).is_file():
        parser.error(f"{args.peer} is no checkout of the original program: it has no {PEER_FILE}")
    size = 2 * configs["faithful"].input_bandlimit
    images = jnp.asarray(np.random.default_rng(1).uniform(0, 1, (1, size, size, 1)), jnp.float32)
    report: Row = {"benchmark": "segmentation_s2cnn", "quick": args.quick, "cores": len(os.sched_getaffinity(0))}
    found = {name: bench_prediction(name, configs[name], images) for name in chosen}
    rows = [prediction.row for prediction in found.values()]
    show(rows)
    report["rows"] = rows
    if not args.no_training:
        report["training"] = bench_training(configs["correct"], images)
        print(
            "training step: {step_s:.2f} s, {temporary_mb:.0f} MB, compiled in {compile_s:.0f} s".format(
                **report["training"]
            )
        )
    report["bars"] = {"tables_s": bar(max(row["tables_s"] for row in rows), TABLES_BAR_S, at_most=True)}
    if args.peer is not None:
        peer = run_peer(args.peer, configs["faithful"], images, found, args.rounds)
        report["peer"] = peer
        report["bars"] |= judge_peer(peer)
        print(
            f"original: {peer['forward_s']:.1f} s forward ({peer['first_call_s']:.0f} s with tables that we gave it), "
            f"{report['bars']['speed']['ratio']:.0f} times our slowest variant with kept spectra, "
            f"{report['bars']['speed']['ratio_within']:.0f} times with spectra computed anew; outputs differ by "
            f"{peer['relative_difference']:.1e} (at most {DIFFERENCE_BAR:g})"
        )
    else:
        report["bars"]["speed"] = unjudged(PEER_BAR)
        report["bars"]["relative_difference"] = unjudged(DIFFERENCE_BAR, at_most=True)
    report["met"] = all_met(report["bars"])
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
