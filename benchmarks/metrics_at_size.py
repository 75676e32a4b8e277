"""Every streamed score of 50,000 images, 1,000 classes and 64 members: seconds, and memory above what was there before.

    python -m benchmarks.metrics_at_size [--images 5000]

Predictions are made block by block from a seed, in float32: logits of the class that is right for four images of five,
common to all members, plus noise of each member's own; a second set of draws plays the reference. Making them is timed
apart. Memory is the largest resident size of the process less that before the first block, so blocks of inputs count
too; the bar of 2 GiB is for that sum. A table is printed, and as the last line one JSON object with all figures.
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import psutil
from rich.console import Console
from rich.table import Table

from jaxgeo.metrics.streaming import add, block_sums, measures

BAR_MIB = 2048.0


@jax.jit(static_argnames=("members", "reference_draws", "size", "classes"))
def make_block(key: jax.Array, members: int, reference_draws: int, size: int, classes: int):
    label_key, right_key, wrong_key, common_key, own_key, reference_key = jax.random.split(key, 6)
    labels = jax.random.randint(label_key, (size,), 0, classes)
    seen = jnp.where(
        jax.random.uniform(right_key, (size,)) < 0.8, labels, jax.random.randint(wrong_key, (size,), 0, classes)
    )
    common = jax.random.normal(common_key, (size, classes)) + 9 * jax.nn.one_hot(seen, classes)

    def draws(draw_key: jax.Array, count: int):
        return jax.nn.log_softmax(common[None] + jax.random.normal(draw_key, (count, size, classes)))

    return draws(own_key, members), labels, draws(reference_key, reference_draws)


def blocks(args: argparse.Namespace) -> Iterator[tuple[jax.Array, ...]]:
    for i, start in enumerate(range(0, args.images, args.block)):
        size = min(args.block, args.images - start)
        key = jax.random.fold_in(jax.random.key(args.seed), i)
        yield make_block(key, args.members, args.reference_draws, size, args.classes)


def run(args: argparse.Namespace) -> dict[str, Any]:
    before = psutil.Process().memory_info().rss
    total, making_s, scoring_s, first_s = None, 0.0, 0.0, 0.0
    stream = blocks(args)
    while True:
        start = time.perf_counter()
        block = jax.block_until_ready(next(stream, None))
        made = time.perf_counter()
        if block is None:
            break
        sums = block_sums(*block, groups=args.groups, tolerance=1e-3 if args.check else None)
        total = sums if total is None else add(total, sums)
        seconds = time.perf_counter() - made
        making_s, scoring_s = making_s + made - start, scoring_s + seconds
        first_s = first_s or seconds
        # A block is let go before the next one is made.
        del block
    above = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before / 2**20
    inputs = 4 * (args.members + args.reference_draws) * min(args.block, args.images) * args.classes / 2**20
    return {
        "benchmark": "metrics_at_size",
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        **vars(args),
        "scoring_s": scoring_s,
        "first_block_s": first_s,
        "making_s": making_s,
        "images_per_s": args.images / scoring_s,
        "block_of_inputs_mib": inputs,
        "peak_above_start_mib": above,
        "within_2_gib": above < BAR_MIB,
        "measures": {name: measure.to_dict() for name, measure in measures(total).items()},
    }


def table(figures: dict[str, Any]) -> Table:
    """Seconds and memory beside their bar, then every score."""
    sizes = ("images", "classes", "members")
    shown = Table(title=f"{' x '.join(f'{figures[name]} {name}' for name in sizes)}, streamed")
    for heading in ("what", "value", "bar"):
        shown.add_column(heading, justify="left" if heading == "what" else "right")
    for what, value, bar in (
        ("scoring, s", f"{figures['scoring_s']:.1f}", ""),
        ("making the inputs, s", f"{figures['making_s']:.1f}", ""),
        ("images scored per second", f"{figures['images_per_s']:.4g}", ""),
        ("a block of inputs, MiB", f"{figures['block_of_inputs_mib']:.0f}", ""),
        ("most memory above the start, MiB", f"{figures['peak_above_start_mib']:.0f}", f"< {BAR_MIB:.0f}"),
    ):
        shown.add_row(what, value, bar)
    shown.add_section()
    for name, measure in figures["measures"].items():
        shown.add_row(name.replace("_", " "), f"{measure['value']:.6g}", "")
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics_at_size", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--reference-draws", type=int, default=4)
    parser.add_argument("--block", type=int, default=500, help="images at a time")
    parser.add_argument("--groups", type=int, default=1, help="of members, for Monte Carlo errors; 1 leaves them out")
    parser.add_argument("--check", action="store_true", help="look for NaN and unnormalised rows, as by default")
    parser.add_argument("--seed", type=int, default=0)
    figures = run(parser.parse_args(argv))
    Console(width=120).print(table(figures))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
