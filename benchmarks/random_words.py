"""Random bits and orders written out for XLA's CPU loops, beside JAX's own functions for them.

    python -m benchmarks.random_words [--cores 1] [--words 16777216] [--orders 128] [--numbers 2000]

Decisions 0008 and 0010 rest on it. The last line is JSON: per part (`words_row`, `orders_row`) the milliseconds of
both, medians of alternating rounds after one call each, and the median ratio of JAX's time over ours.
"""

import argparse
import json
from collections.abc import Sequence

from benchmarks.timing import alternate, blocking, compiled, median_ms, pin, ratio


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.random_words", description=__doc__)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--words", type=int, default=1 << 24, help="of 32 bits")
    parser.add_argument("--orders", type=int, default=128, help="at once")
    parser.add_argument("--numbers", type=int, default=2000, help="in an order")
    parser.add_argument("--seconds", type=float, default=10.0, help="of rounds for each part, at most")
    args = parser.parse_args(argv)
    pin(args.cores)
    import jax
    import jax.numpy as jnp

    from jaxgeo.layers.threefry import random_words
    from jaxgeo.training.shuffling import shuffled

    key, keys = jax.random.key(0), jax.random.split(jax.random.key(1), args.orders)
    parts = {
        "words": (
            lambda key: random_words(key, args.words), lambda key: jax.random.bits(key, (args.words,), jnp.uint32), key
        ),
        "orders": (
            jax.vmap(lambda key: shuffled(key, args.numbers)),
            jax.vmap(lambda key: jax.random.permutation(key, args.numbers)), keys,
        ),
    }  # fmt: skip
    figures = {"benchmark": "random_words", "jax": jax.__version__} | vars(args)
    for name, (ours, theirs, argument) in parts.items():
        programs = {"ours": ours, "jax": theirs}
        calls = {which: blocking(compiled(made, argument)[0], argument) for which, made in programs.items()}
        times = alternate(calls, repeats=9, seconds=args.seconds)
        row = {f"{which}_ms": median_ms(times, which) for which in calls} | {"ratio": ratio(times, "jax")}
        print(f"{name}: ours {row['ours_ms']:.3g} ms, JAX {row['jax_ms']:.3g} ms, {row['ratio']:.3g} times")
        figures[f"{name}_row"] = row
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
