"""HEAL-SWIN at its published size: forward and training step at batch 1, beside its original and a port.

    python -m benchmarks.heal_swin [--peer CHECKOUT] [--nnx CHECKOUT] [--quick] [--cores 2]

CHECKOUT of --peer is the original program (JanEGerken/HEAL-SWIN, PyTorch), that of --nnx a port to Flax NNX
(aurelio-amerio/HEAL-SWIN-nnx). Every candidate lives in a process of its own, held to the same processors, and they
take turns: a round has one call of each, medians count, and ratios are medians within rounds. A training step is the
forward pass with dropout and stochastic depth, the mean cross-entropy, its gradient, and one step of Adam, in float32.
The original computes in PyTorch as it stands; its weights are ours, and the outputs of both are compared. Peak memory
is the largest resident set of a candidate's process, libraries included. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import bar, pin

CANDIDATES = ("ours", "heal-swin", "heal-swin-nnx")
SPEED_BAR, PLAN_BAR_S, DIFFERENCE_BAR = 1.3, 1.0, 1e-5
NUM_CLASSES = 12
QUICK = {"nside": 32, "window_size": 16, "shift_size": 2, "embed_dim": 24, "depths": [2, 2, 2], "num_heads": [3, 6, 12]}
Calls = dict[str, Callable[[], Any]]


def config_of(quick: bool):
    """The published network; a small one for trying out."""
    from jaxgeo.models.heal_swin import HealSwinConfig

    sizes = {key: tuple(v) if isinstance(v, list) else v for key, v in QUICK.items()} if quick else {}
    return HealSwinConfig(num_classes=NUM_CLASSES, mode="faithful", **sizes)


def inputs_of(config: Any) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(1, config.num_pixels, config.channels)).astype(np.float32)
    return images, generator.integers(0, NUM_CLASSES, (1, config.num_pixels))


def ours(config: Any, folder: Path) -> tuple[Calls, dict[str, Any]]:
    """Ours; leaves its weights, by the original's names, and its output in the folder."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxgeo.models.heal_swin import HealSwin, plan_heal_swin
    from jaxgeo.models.swin_weights import heal_swin_to_torch
    from jaxgeo.training.losses import mean_cross_entropy

    start = time.perf_counter()
    plan = jax.block_until_ready(plan_heal_swin(config))
    plan_s = time.perf_counter() - start
    module = HealSwin(config)
    images, labels = (jnp.asarray(part) for part in inputs_of(config))
    shapes = jax.eval_shape(module.init, jax.random.key(0), plan, images)["params"]
    generator = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.05 * generator.normal(size=leaf.shape), leaf.dtype), shapes)
    np.savez(folder / "weights.npz", **heal_swin_to_torch(config, params))
    optimizer = optax.adam(1e-3)
    state = params, optimizer.init(params)

    @jax.jit
    def forward(params: Any, plan: Any, images: Any) -> Any:
        return module.apply({"params": params}, plan, images)

    def step(state: Any, plan: Any, images: Any, labels: Any, key: Any) -> Any:
        params, moments = state
        keys = jax.random.split(key)

        def loss(params: Any) -> Any:
            rngs = {"dropout": keys[0], "stochastic_depth": keys[1]}
            logits = module.apply({"params": params}, plan, images, deterministic=False, rngs=rngs)
            return mean_cross_entropy(logits, labels)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), value

    start = time.perf_counter()
    np.save(folder / "output.npy", np.asarray(forward(params, plan, images)))
    compile_s = {"forward": time.perf_counter() - start}
    start = time.perf_counter()
    train = jax.jit(step, donate_argnums=0).lower(state, plan, images, labels, jax.random.key(2)).compile()
    compile_s["training"] = time.perf_counter() - start

    def training() -> None:
        nonlocal state
        state, value = train(state, plan, images, labels, jax.random.key(2))
        value.block_until_ready()

    calls = {"forward": lambda: forward(params, plan, images).block_until_ready(), "training": training}
    return calls, {"plan_s": plan_s, "compile_s": compile_s}


def child(name: str, quick: bool, folder: Path, checkout: str) -> None:
    """One candidate: says it is ready, then times one call for every line that comes in."""
    config = config_of(quick)
    if name == "ours":
        calls, notes = ours(config, folder)
    else:
        from benchmarks import heal_swin_peers

        make = heal_swin_peers.original if name == "heal-swin" else heal_swin_peers.nnx_port
        calls, notes = make(config, folder, checkout, *inputs_of(config))
    print(json.dumps(notes), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        calls[line.strip()]()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "peak_gib": peak}), flush=True)


class Candidate:
    """A child process that takes turns."""

    def __init__(self, name: str, quick: bool, folder: Path, checkout: str) -> None:
        command = [sys.executable, "-m", "benchmarks.heal_swin", "--child", name, str(folder), checkout]
        self._process = subprocess.Popen(
            [*command, "--quick"] if quick else command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.name, self.peak_gib = name, 0.0
        self.notes = self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit(f"the process of {self.name} ended with status {self._process.wait()}")
        return json.loads(line)

    def time(self, what: str) -> float:
        """Seconds of one call."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.peak_gib = answer["peak_gib"]
        return answer["seconds"]

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    checkouts = {"ours": "", "heal-swin": args.peer, "heal-swin-nnx": args.nnx}
    names = [name for name in CANDIDATES if checkouts[name] is not None]
    candidates = [Candidate(name, args.quick, folder, str(checkouts[name])) for name in names]  # ours leaves weights
    rows, bars = [], {}
    pixels = config_of(args.quick).num_pixels
    for what in ("forward", "training"):
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(args.rounds + 1):
            for candidate in candidates if turn % 2 else candidates[::-1]:
                seconds = candidate.time(what)
                if turn:  # the first call warms up
                    times[candidate.name].append(seconds)
        row: dict[str, Any] = {"what": what, "ours_s": statistics.median(times["ours"]), "peers": {}}
        row["ns_per_pixel"] = row["ours_s"] / pixels * 1e9
        for name in names[1:]:
            ratio = statistics.median(b / a for a, b in zip(times["ours"], times[name], strict=True))
            row["peers"][name] = {"s": statistics.median(times[name]), "ratio": ratio}
            bars[f"{what}, {name}"] = bar(ratio, SPEED_BAR)
        rows.append(row)
    memory = {candidate.name: candidate.peak_gib for candidate in candidates}
    if len(names) > 1:
        most = min(value for name, value in memory.items() if name != "ours")
        bars["peak memory"] = bar(memory["ours"] / most, 1.0, at_most=True)
    notes = {candidate.name: candidate.notes for candidate in candidates}
    bars["plan"] = bar(notes["ours"]["plan_s"], PLAN_BAR_S, at_most=True)
    if "heal-swin" in notes:
        bars["difference"] = bar(notes["heal-swin"]["difference"], DIFFERENCE_BAR, at_most=True)
    for candidate in candidates:
        candidate.close()
    return {"rows": rows, "peak_gib": memory, "notes": notes, "bars": bars}


def show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="HEAL-SWIN, batch 1, float32 (ratio: peer over ours)")
    for column in ("", "ours s", "ns per pixel", *CANDIDATES[1:]):
        table.add_column(column, justify="right")
    for row in found["rows"]:
        peers = [row["peers"].get(name) for name in CANDIDATES[1:]]
        cells = [f"{peer['s']:.2f} ({peer['ratio']:.2f}x)" if peer else "" for peer in peers]
        table.add_row(row["what"], f"{row['ours_s']:.2f}", f"{row['ns_per_pixel']:.0f}", *cells)
    memory = [f"{found['peak_gib'][name]:.1f}" if name in found["peak_gib"] else "" for name in CANDIDATES]
    table.add_row("peak GiB", memory[0], "", *memory[1:])
    Console(width=120).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heal_swin", description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, help="checkout of the original, which needs PyTorch, healpy and einops")
    parser.add_argument("--nnx", type=Path, help="checkout of the port to Flax NNX")
    parser.add_argument("--rounds", type=int, default=5, help="of each of forward and training")
    parser.add_argument("--cores", type=int, default=2, help="processors that all candidates are held to")
    parser.add_argument("--quick", action="store_true", help="a small network, to try this out")
    parser.add_argument("--child", nargs=3, metavar=("NAME", "FOLDER", "CHECKOUT"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child[0], args.quick, Path(args.child[1]), args.child[2])
        return 0
    pin(min(args.cores, os.cpu_count() or 1))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    show(found)
    print(json.dumps({"benchmark": "heal_swin", "quick": args.quick, "cores": args.cores} | found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
