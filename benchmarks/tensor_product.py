"""Fully connected tensor products beside their floor, e3nn-jax and cuequivariance-jax, in float32 on the CPU.

    python -m benchmarks.tensor_product [--quick] [--cores N]

The floor is what no arrangement of dense products avoids: every path has to contract its weights (channels u, v, w)
with the left input, the right input or the product of both, which takes u v w times the dimension 2l+1 of that one per
example. The floor takes the least of the three for every path, joins paths that share an operand (same output: along
the contracted axis; same input: along the free axis), and runs just these matrix products, on ready operands of the
same sizes, in the same run. Coupling the components, laying out and adding up count as overhead of everyone alike.

Candidates alternate within one process; medians count, compilation is apart. "gradient" is that of the sum of squares
by weights and both inputs; its floor is counted as three times the forward floor. Peers get features and weights in
their own layouts. The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from benchmarks import timing

CASES = {
    "32x(0e+1o+2e) batch 64": ("32x0e + 32x1o + 32x2e", 64),
    "8x(0e..4e) batch 64": ("8x0e + 8x1e + 8x2e + 8x3e + 8x4e", 64),
    "128x(0e+1o+2e) batch 16": ("128x0e + 128x1o + 128x2e", 16),
}
# Ours over the floor at most, and e3nn-jax over ours at least.
FLOOR_BARS = {"32x(0e+1o+2e) batch 64": 1.5, "128x(0e+1o+2e) batch 16": 2.0}
E3NN_BARS = {"8x(0e..4e) batch 64": 3.0}


# Long enough for several calls of the same program: the first one finds the caches full of what the others left there.
TURN_SECONDS = 0.02


def floor_products(plan, batch: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Shapes of the matrix products of the floor: the cheapest contraction of every path, joined where possible."""
    joined: dict[tuple[str, int], list[int]] = {}
    for path in plan.paths:
        (m1, m2, m3), (d1, d2, d3) = path.channels, path.sizes
        if d3 == min(d1, d2, d3):
            entry = joined.setdefault(("out", path.out), [batch * d3, 0, m3])
            entry[1] += m1 * m2
        elif d1 <= d2:
            entry = joined.setdefault(("in1", path.in1), [batch * d1, m1, 0])
            entry[2] += m2 * m3
        else:
            entry = joined.setdefault(("in2", path.in2), [batch * d2, m2, 0])
            entry[2] += m1 * m3
    return [((rows, inner), (inner, columns)) for rows, inner, columns in joined.values()]


def e3nn_product(irreps: str):
    import e3nn_jax
    import jax
    from e3nn_jax.legacy import FunctionalFullyConnectedTensorProduct

    product = FunctionalFullyConnectedTensorProduct(*(e3nn_jax.Irreps(irreps),) * 3)

    def one(weights, a, b):
        a, b = e3nn_jax.IrrepsArray(irreps, a), e3nn_jax.IrrepsArray(irreps, b)
        return product.left_right(list(weights), a, b).array

    return jax.vmap(one, in_axes=(None, 0, 0))


def cuequivariance_product(irreps: str, batch: int):
    """The product on flat weights and features in its own order, and how many weights it has."""
    import cuequivariance as cue
    import cuequivariance_jax as cuex
    import jax
    import jax.numpy as jnp

    features = cue.Irreps("O3", irreps)
    polynomial = cue.descriptors.fully_connected_tensor_product(features, features, features).polynomial
    out = [jax.ShapeDtypeStruct((batch, features.dim), jnp.float32)]

    def product(weights, a, b):
        return cuex.segmented_polynomial(polynomial, [weights[None], a, b], out, method="naive")[0]

    return product, polynomial.inputs[0].size


def measure(name: str, direction: str, args) -> timing.Row:
    import jax
    import jax.numpy as jnp

    from jaxgeo.layers import tensor_product

    irreps, batch = CASES[name]
    plan = tensor_product.plan_tensor_product(irreps, irreps, irreps)
    keys = iter(jax.random.split(jax.random.key(0), 1000))
    x1, x2 = (jax.random.normal(next(keys), (batch, plan.irreps_in1.dim)) for _ in range(2))
    weights = tuple(jax.random.normal(next(keys), path.channels) for path in plan.paths)
    missing: dict[str, dict[str, Any]] = {}
    runs: dict[str, tuple] = {
        "ours": (
            lambda w, a, b: tensor_product.fully_connected_tensor_product(plan, w, a, b),
            (weights, x1, x2),
        ),
        "e3nn-jax": (e3nn_product(irreps), (weights, x1, x2)),
    }
    try:
        product, size = cuequivariance_product(irreps, batch)
        runs["cuequivariance-jax"] = (product, (jax.random.normal(next(keys), (size,)), x1, x2))
    except ImportError:
        missing["cuequivariance-jax"] = {"ms": None, "ratio": None, "note": "not installed"}
    operands = [tuple(jax.random.normal(next(keys), shape) for shape in pair) for pair in floor_products(plan, batch)]
    programs, compile_s, outputs = {}, {}, {}
    for key, (function, arguments) in runs.items():
        timed = gradient_of(function) if direction == "gradient" else function
        programs[key], compile_s[key] = timing.compiled(timed, *arguments)
        outputs[key] = programs[key](*arguments)
    floor, _ = timing.compiled(lambda pairs: [a @ b for a, b in pairs], operands)
    calls = {key: timing.blocking(programs[key], *runs[key][1]) for key in runs}
    calls["floor"] = timing.blocking(floor, operands)
    times = timing.alternate(calls, args.repeats, args.seconds, TURN_SECONDS)
    difference = jax.tree.map(
        lambda a, b: float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))), outputs["ours"], outputs["e3nn-jax"]
    )
    passes = 3 if direction == "gradient" else 1
    over_floor = 1 / timing.ratio(times, "floor") / passes
    peers = {
        key: {"ms": timing.median_ms(times, key), "ratio": timing.ratio(times, key), "note": ""}
        for key in runs
        if key != "ours"
    }
    bars = {}
    if direction == "forward":
        if name in FLOOR_BARS:
            bars["times the floor"] = timing.bar(over_floor, FLOOR_BARS[name], at_most=True)
        if name in E3NN_BARS:
            bars["times e3nn-jax's speed"] = timing.bar(peers["e3nn-jax"]["ratio"], E3NN_BARS[name])
    return {
        "part": name,
        "direction": direction,
        "cores": args.cores,
        "dtype": "float32",
        "ours_ms": timing.median_ms(times),
        "compile_s": compile_s["ours"],
        "peer_compile_s": {key: value for key, value in compile_s.items() if key != "ours"},
        "max_error": max(jax.tree.leaves(difference)),  # relative to e3nn-jax with equal weights
        "floor_ms": timing.median_ms(times, "floor") * passes,
        "floor_mflop": sum(2 * a[0] * a[1] * b[1] for a, b in floor_products(plan, batch)) * passes / 1e6,
        "times_floor": over_floor,
        "peers": peers | missing,
        "bars": bars,
    }


def gradient_of(product):
    import jax
    import jax.numpy as jnp

    return jax.grad(lambda *arguments: jnp.sum(product(*arguments) ** 2), argnums=(0, 1, 2))


def show(rows: list[timing.Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="fully connected tensor products, float32 (ratio: peer over ours)")
    for column in (
        "case",
        "direction",
        "ours ms",
        "floor ms",
        "x floor",
        "e3nn-jax",
        "cuequivariance-jax",
        "compile s",
    ):
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        cells = [row["part"], row["direction"], f"{row['ours_ms']:.2f}", f"{row['floor_ms']:.2f}"]
        cells.append(f"{row['times_floor']:.2f}")
        for peer in ("e3nn-jax", "cuequivariance-jax"):
            entry = row["peers"][peer]
            cells.append(entry["note"] or f"{entry['ms']:.2f} ({entry['ratio']:.2f}x)")
        table.add_row(*cells, f"{row['compile_s']:.1f}")
    Console(width=140).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tensor_product", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=31, help="alternating rounds of each case")
    parser.add_argument("--seconds", type=float, default=10.0, help="no more rounds of a case after this time")
    parser.add_argument("--cores", type=int, default=1, help="cores that the process is held to")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="forward only, 7 rounds")
    args = parser.parse_args(argv)
    timing.check_counts(parser, args, "repeats", "cores")
    directions = ["forward", "gradient"]
    if args.quick:
        args.repeats, args.seconds, directions = 7, 3.0, ["forward"]
    timing.pin(args.cores)
    rows = [measure(name, direction, args) for name in args.cases for direction in directions]
    show(rows)
    import jax

    figures: dict[str, Any] = {"benchmark": "tensor_product", "jax": jax.__version__, "cores": args.cores}
    print(json.dumps(figures | {"rows": rows, "bars": timing.worst_bars(rows)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
