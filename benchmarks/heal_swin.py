"""HEAL-SWIN at its published size: forward and training step at batch 1, beside its original and a port.

    python -m benchmarks.heal_swin [--peer CHECKOUT] [--nnx CHECKOUT] [--nside 256 128] [--workloads forward training]
        [--rounds 5] [--cores 2] [--device cpu] [--quick]

CHECKOUT of --peer is the original program (JanEGerken/HEAL-SWIN), which needs PyTorch, healpy and einops in this
environment, that of --nnx a port to Flax NNX (aurelio-amerio/HEAL-SWIN-nnx). Every candidate lives in a process of its
own, held to the same processors. A training step is the forward pass with dropout and stochastic depth, the mean
cross-entropy, its gradient, and one step of Adam, in float32. The original computes in PyTorch as it stands; its
weights are ours, and the outputs of both are compared.

Candidates take turns: a round has one call of each, medians count, and ratios are medians within rounds. Training at
the published size (nside 256) is the exception: 24 GiB do not hold two of them, so they train one after the other, and
a ratio is one of medians; at nside 128 they take turns again. Peak memory is the largest resident set of a candidate's
process, libraries and compilation included, by itself for the forward pass and for training; with --device cuda it is
the peak of what the framework held on the device, and the original goes through torch.compile.

A candidate whose process runs out of memory (killed, or by its own error) says so in its place; one that is not given
is "not measured". One that fails otherwise is reported with its error, and the exit status is 1. Bars of such
candidates are neither met nor missed (null). The last line is one JSON object in any case.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import bar, pin, unjudged
from benchmarks.turns import Calls, Candidate, serve

CANDIDATES = ("ours", "heal-swin", "heal-swin-nnx")
WORKLOADS = ("forward", "training")
TOGETHER = 128  # the largest nside of which several candidates that train fit side by side
SPEED_BAR, PLAN_BAR_S, DIFFERENCE_BAR = 1.3, 1.0, 1e-5
NUM_CLASSES = 12
DEVICES = ("cpu", "cuda")
NOT_MEASURED = "not measured"
QUICK = {"nside": 32, "window_size": 16, "shift_size": 2, "embed_dim": 24, "depths": [2, 2, 2], "num_heads": [3, 6, 12]}


def config_of(nside: int):
    """The published network, for maps of any nside; at 32 a small one for trying out."""
    from jaxgeo.models.heal_swin import HealSwinConfig

    sizes = {key: tuple(v) if isinstance(v, list) else v for key, v in QUICK.items()} if nside == 32 else {}
    sizes["nside"] = nside
    return HealSwinConfig(num_classes=NUM_CLASSES, mode="faithful", **sizes)


def inputs_of(config: Any) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(1, config.num_pixels, config.channels)).astype(np.float32)
    return images, generator.integers(0, NUM_CLASSES, (1, config.num_pixels))


def leave_weights(config: Any, folder: Path) -> None:
    """Random weights by the original's names, for all candidates that can take them."""
    import jax
    import jax.numpy as jnp

    from jaxgeo.models.heal_swin import HealSwin, plan_heal_swin
    from jaxgeo.models.swin_weights import heal_swin_to_torch

    image = jax.ShapeDtypeStruct((1, config.num_pixels, config.channels), jnp.float32)
    plan = plan_heal_swin(config)
    shapes = jax.eval_shape(lambda x: HealSwin(config).init(jax.random.key(0), plan, x), image)["params"]
    generator = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.05 * generator.normal(size=leaf.shape), leaf.dtype), shapes)
    np.savez(folder / "weights.npz", **heal_swin_to_torch(config, params))


def ours(config: Any, folder: Path) -> tuple[Calls, dict[str, Any]]:
    """Ours; a forward pass leaves its output in the folder."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxgeo.models.heal_swin import HealSwin, plan_heal_swin
    from jaxgeo.models.swin_weights import heal_swin_from_torch
    from jaxgeo.training.losses import mean_cross_entropy

    start = time.perf_counter()
    plan = jax.block_until_ready(plan_heal_swin(config))
    plan_s = time.perf_counter() - start
    module = HealSwin(config)
    images, labels = (jnp.asarray(part) for part in inputs_of(config))
    with np.load(folder / "weights.npz", allow_pickle=False) as archive:
        params = jax.tree.map(jnp.asarray, heal_swin_from_torch(config, {key: archive[key] for key in archive.files}))
    optimizer = optax.adam(1e-3)
    state: Any = None
    train: Any = None

    @jax.jit
    def forward(params: Any, plan: Any, images: Any) -> Any:
        return module.apply({"params": params}, plan, images)

    def step(state: Any, plan: Any, images: Any, labels: Any, key: Any) -> Any:
        params, moments = state
        keys = jax.random.split(key)

        def loss(params: Any) -> Any:
            rngs = {"dropout": keys[0], "stochastic_depth": keys[1]}
            logits = module.apply({"params": params}, plan, images, train=True, rngs=rngs)
            return mean_cross_entropy(logits, labels)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), value

    def infer() -> None:
        forward(params, plan, images).block_until_ready()

    def training() -> None:
        nonlocal state, train, params
        if train is None:
            state = params, optimizer.init(params)
            params = None
            train = jax.jit(step, donate_argnums=0).lower(state, plan, images, labels, jax.random.key(2)).compile()
        state, value = train(state, plan, images, labels, jax.random.key(2))
        value.block_until_ready()

    def leave_output() -> None:
        np.save(folder / "output.npy", np.asarray(forward(params, plan, images)))

    def peak_gib() -> float:
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**30

    return {"forward": infer, "training": training, "output": leave_output, "peak": peak_gib}, {"plan_s": plan_s}


def child(name: str, nside: int, folder: Path, checkout: str, device: str) -> int:
    """One candidate: says it is ready, then times one call for every line that comes in; its exit status."""
    config = config_of(nside)
    if name == "weights":
        leave_weights(config, folder)
        return 0

    def make() -> tuple[Calls, dict[str, Any]]:
        if name == "ours":
            return ours(config, folder)
        from benchmarks import heal_swin_peers

        peer = heal_swin_peers.original if name == "heal-swin" else heal_swin_peers.nnx_port
        return peer(config, folder, checkout, *inputs_of(config), device)

    return serve(make, None if device == "cpu" else "peak")


def command_of(name: str, nside: int, folder: Path, checkout: str = "", device: str = "cpu") -> list[str]:
    return [sys.executable, "-m", "benchmarks.heal_swin", "--child", name, str(nside), str(folder), checkout, device]


def take_turns(what: str, candidates: list[Candidate], rounds: int) -> dict[str, dict[str, Any]]:
    """By name: the seconds of the rounds, those of the first call, and the peak; None where a process came to its end.

    The first call compiles what is to be compiled, and the second touches all memory once more: neither counts.
    """
    times: dict[str, list[float | None]] = {candidate.name: [] for candidate in candidates}
    for turn in range(rounds + 2):
        for candidate in candidates if turn % 2 else candidates[::-1]:
            times[candidate.name].append(candidate.time(what))
    return {
        candidate.name: {
            "s": None if None in times[candidate.name] else times[candidate.name][2:],
            "first_s": times[candidate.name][0],
            "peak_gib": candidate.peak_gib,
            "note": candidate.fate,
        }
        for candidate in candidates
    }


def measure(nside: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Rows, notes and bars of one size."""
    checkouts = {"ours": "", "heal-swin": args.peer, "heal-swin-nnx": args.nnx}
    names = [name for name in CANDIDATES if checkouts[name] is not None]
    subprocess.run(command_of("weights", nside, folder), check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    rows: list[dict[str, Any]] = []
    bars: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    for what in args.workloads:
        alone = what == "training" and nside > TOGETHER
        timed: dict[str, dict[str, Any]] = {}
        for group in [[name] for name in names] if alone else [names]:
            candidates = [
                Candidate(name, command_of(name, nside, folder, str(checkouts[name]), args.device), args.device)
                for name in group
            ]
            timed |= take_turns(what, candidates, args.rounds)
            for candidate in candidates:
                notes[candidate.name] = candidate.notes | notes.get(candidate.name, {})
                if what == "forward" and candidate.name != "heal-swin-nnx":  # whose weights are its own
                    candidate.time("output")
                    notes[candidate.name] |= {} if candidate.found is None else {"difference": candidate.found}
            for candidate in candidates:
                candidate.close()
        rows.append(row_of(nside, what, timed, alone, bars))
    if "plan_s" in notes["ours"]:
        bars["plan"] = bar(notes["ours"]["plan_s"], PLAN_BAR_S, at_most=True)
    if "difference" in notes.get("heal-swin", {}):
        bars["difference"] = bar(notes["heal-swin"]["difference"], DIFFERENCE_BAR, at_most=True)
    return {"nside": nside, "rows": rows, "notes": notes, "bars": bars}


def row_of(
    nside: int, what: str, timed: dict[str, dict[str, Any]], alone: bool, bars: dict[str, Any]
) -> dict[str, Any]:
    """Medians and ratios of one workload; its bars are added to `bars`, those that cannot be judged as null."""
    mine = timed["ours"]
    known, ours_s = mine["s"] is not None, statistics.median(mine["s"] or [0.0])
    row: dict[str, Any] = {
        "what": what,
        "ours_s": ours_s if known else None,
        "first_s": mine["first_s"],
        "note": mine["note"],
        "peers": {},
    }
    row["ns_per_pixel"] = ours_s / config_of(nside).num_pixels * 1e9 if known else None
    row["peak_gib"] = mine["peak_gib"] if known else None
    for name in CANDIDATES[1:]:
        other = timed.get(name, {"s": None, "note": NOT_MEASURED})
        speed, memory = f"{what}, {name}", f"{what}, memory beside {name}"
        if other["s"] is None or not known:
            median = None if other["s"] is None else statistics.median(other["s"])
            row["peers"][name] = {"s": median, "ratio": None, "peak_gib": other.get("peak_gib"), "note": other["note"]}
            for key, needed, at_most in ((speed, SPEED_BAR, False), (memory, 1.0, True)):
                bars[key] = unjudged(needed, at_most=at_most)
            continue
        median = statistics.median(other["s"])
        pairs = zip(mine["s"], other["s"], strict=True)
        ratio = median / ours_s if alone else statistics.median(b / a for a, b in pairs)
        row["peers"][name] = {"s": median, "ratio": ratio, "peak_gib": other["peak_gib"], "note": ""}
        bars[speed] = bar(ratio, SPEED_BAR)
        bars[memory] = bar(mine["peak_gib"] / other["peak_gib"], 1.0, at_most=True)
    return row


def failures(sizes: Sequence[dict[str, Any]]) -> list[str]:
    """What ended otherwise than it should: any error of a candidate, and want of memory of ours."""
    found = []
    for size in sizes:
        for row in size["rows"]:
            notes = {"ours": row["note"]} | {name: peer["note"] for name, peer in row["peers"].items()}
            for name, note in notes.items():
                if note.startswith("failed") or (name == "ours" and note):
                    found.append(f"{name}, {row['what']} at nside {size['nside']}: {note}")
    return found


def show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"HEAL-SWIN, nside {found['nside']}, batch 1, float32 (ratio: peer over ours)")
    for column in ("", "ours s", "ns per pixel", "peak GiB", *CANDIDATES[1:]):
        table.add_column(column, justify="right")
    for row in found["rows"]:
        cells = []
        for peer in row["peers"].values():
            times = "" if peer["ratio"] is None else f" ({peer['ratio']:.2f}x)"
            short = peer["note"].split(":")[0]
            cells.append(short if peer["s"] is None else f"{peer['s']:.2f}{times}, {peer['peak_gib']:.1f} GiB")
        own = (row["note"].split(":")[0], "", "")
        if row["ours_s"] is not None:
            own = f"{row['ours_s']:.2f}", f"{row['ns_per_pixel']:.0f}", f"{row['peak_gib']:.1f}"
        table.add_row(row["what"], *own, *cells)
    Console(width=120).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heal_swin", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--peer",
        type=Path,
        help="checkout of the original; needs torch and einops beside what is installed here: pip install torch einops",
    )
    parser.add_argument("--nnx", type=Path, help="checkout of the port to Flax NNX")
    parser.add_argument("--rounds", type=int, default=5, help="of each of forward and training")
    parser.add_argument("--cores", type=int, default=2, help="processors that all candidates are held to")
    parser.add_argument(
        "--nside", type=int, nargs="+", default=[256, 128], help="of the maps; 256 is the published one"
    )
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="cuda: all candidates on the first GPU, the original through torch.compile; needs JAX and PyTorch with "
        "CUDA, and was written without such a machine at hand, so it is untried",
    )
    parser.add_argument("--quick", action="store_true", help="a small network at nside 32, to try this out")
    parser.add_argument(
        "--child", nargs=5, metavar=("NAME", "NSIDE", "FOLDER", "CHECKOUT", "DEVICE"), help=argparse.SUPPRESS
    )
    args = parser.parse_args(argv)
    if args.child:
        name, nside, folder, checkout, device = args.child
        return child(name, int(nside), Path(folder), checkout, device)
    if args.rounds < 1 or args.cores < 1:
        parser.error(f"--rounds and --cores must be above 0, got {args.rounds} and {args.cores}")
    for checkout in (args.peer, args.nnx):
        if checkout is not None and not checkout.is_dir():
            parser.error(f"a checkout of sources is a folder, got {checkout}")
    pin(min(args.cores, os.cpu_count() or 1))
    sizes, failed = [], []
    for nside in [32] if args.quick else args.nside:
        try:
            with tempfile.TemporaryDirectory() as folder:
                sizes.append(measure(nside, args, Path(folder)))
        except subprocess.CalledProcessError as error:
            failed.append(f"weights at nside {nside}: failed with status {error.returncode}")
            continue
        show(sizes[-1])
    failed += failures(sizes)
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    settings = {"quick": args.quick, "cores": args.cores, "device": args.device}
    print(json.dumps({"benchmark": "heal_swin"} | settings | {"sizes": sizes, "failures": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
