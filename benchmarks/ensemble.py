"""Members trained per second: one vmapped program, a loop over single members, and a PyTorch loop.

    python -m benchmarks.ensemble [--quick]

All do equal work: the same number of members of the default HealpixClassifier, data, batch size, Adam and steps,
each member with its own order of examples. JAX minimises what a deep ensemble does, the log joint with its prior;
PyTorch the likelihood alone, which is a little less work. Timed runs alternate within one process; medians count, and
ratios are medians of the ratios within a round. Compilation is apart. The last line is one JSON object with all
figures.
"""

import argparse
import functools
import json
import os
import random
import resource
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.timing import timed
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig
from jaxgeo.posteriors import deep_ensemble
from jaxgeo.posteriors.log_joint import LogJoint, pure_apply
from jaxgeo.training import ensemble, meshes

MODEL = HealpixClassifier(HealpixClassifierConfig())
TORCH_BAR = 3.0


@functools.cache
def objective_for(num_train: int) -> ensemble.Objective:
    """The deep ensemble's own objective; one function for each size, since each new function is compiled anew."""
    log_joint = LogJoint(pure_apply(MODEL, jnp.zeros((1, 768, 1))))
    return deep_ensemble.objective(log_joint, num_train)


def init_member(key):
    return MODEL.init(key, jnp.zeros((1, 768, 1)))["params"]


class JaxEnsemble:
    """M members, `together` in one program or one after another, or one after another on each device at once."""

    def __init__(self, how: str, num_members: int, data, config: ensemble.TrainingConfig) -> None:
        self.data, self.config = data, config
        keys = jax.random.split(jax.random.key(0), num_members)
        devices = jax.devices()
        if how == "together":
            blocks = num_members // ensemble.block_size(num_members, config)
            self.placed = [meshes.spread("member", blocks)]
            self.states = [ensemble.init_ensemble(keys, init_member, config)]
        else:
            count = len(devices) if how == "loop_all_devices" else 1
            each = [meshes.make_mesh(devices=[device]) for device in devices[:count]]
            self.placed = [each[i % count] for i in range(num_members)]
            self.states = [ensemble.init_ensemble(keys[i : i + 1], init_member, config) for i in range(num_members)]
        self.first_call_s = timed(self.run)[1]

    def run(self) -> None:
        """Train every member for one epoch."""
        histories, objective = [], objective_for(len(self.data[1]))
        for i, mesh in enumerate(self.placed):
            self.states[i], history = ensemble.train_epochs(self.states[i], objective, *self.data, self.config, 1, mesh)
            histories.append(history.loss)
        jax.block_until_ready((self.states, histories))
        self.losses = np.concatenate([np.asarray(loss)[0] for loss in histories])


def torch_members(data, config: ensemble.TrainingConfig, form: str, fused: bool):
    """A function that trains `count` PyTorch models for one epoch, one after another."""
    import torch
    from torch import nn

    class Patches(nn.Module):
        """The convolutions as matrix products on reshaped pixels, which PyTorch runs faster than conv1d."""

        def __init__(self) -> None:
            super().__init__()
            self.conv_0, self.conv_1, self.head = nn.Linear(16, 8), nn.Linear(32, 16), nn.Linear(192, 10)

        def forward(self, x):
            x = torch.relu(self.conv_0(x.view(-1, 48, 16)))
            x = torch.relu(self.conv_1(x.view(-1, 12, 32)))
            return self.head(x.flatten(1))

    def convolutions():
        layers = nn.Conv1d(1, 8, 16, 16), nn.ReLU(), nn.Conv1d(8, 16, 4, 4), nn.ReLU()
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(192, 10))

    inputs = torch.from_numpy(np.array(data[0])[..., 0][:, None])
    labels = torch.from_numpy(np.array(data[1])).long()
    loss_of = nn.CrossEntropyLoss()
    models, optimizers = [], []

    def run(count: int) -> None:
        while len(models) < count:
            models.append(convolutions() if form == "conv1d" else Patches())
            optimizers.append(torch.optim.Adam(models[-1].parameters(), config.learning_rate, fused=fused))
        for model, optimizer in zip(models[:count], optimizers, strict=False):
            order = torch.randperm(len(labels))
            for rows in order.split(config.batch_size):
                if len(rows) < config.batch_size:
                    break
                optimizer.zero_grad()
                loss_of(model(inputs[rows]), labels[rows]).backward()
                optimizer.step()

    return run


def quickest_torch(data, config: ensemble.TrainingConfig) -> tuple[Callable[[int], None], dict[str, Any]]:
    """The quickest of several ways to write and run the PyTorch loop, so that the comparison is with its best."""
    import torch

    seconds, runs = {}, {}
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        for form, fused in (("conv1d", False), ("matmul", False), ("matmul", True)):
            name = f"{form}{', fused Adam' if fused else ''}, {threads} thread{'s' * (threads > 1)}"
            runs[name] = threads, torch_members(data, config, form, fused)
            runs[name][1](1)
            seconds[name] = min(timed(lambda run=runs[name][1]: run(1))[1] for _ in range(3))
    best = min(seconds, key=lambda name: seconds[name])
    torch.set_num_threads(runs[best][0])
    return runs[best][1], {"torch": torch.__version__, "torch_form": best, "torch_forms_s": seconds}


def bench(num_members: int, data, config, repeats: int, torch_run: Callable[[int], None] | None) -> dict[str, Any]:
    ways = {how: JaxEnsemble(how, num_members, data, config) for how in ("together", "loop", "loop_all_devices")}
    # The first epoch from the same keys: the same members up to rounding, or the comparison means nothing.
    error = float(np.abs(ways["together"].losses - ways["loop"].losses).max())
    runs = {how: way.run for how, way in ways.items()}
    if torch_run is not None:
        torch_run(num_members)
        runs["torch"] = lambda: torch_run(num_members)
    times: dict[str, list[float]] = {how: [] for how in runs}
    for i in range(repeats):
        # Shuffled: in a fixed cycle the same one would always find the caches that PyTorch left behind.
        for name in random.Random(i).sample(sorted(runs), len(runs)):
            times[name].append(timed(runs[name])[1])
    row: dict[str, Any] = {"members": num_members, "max_loss_difference": error}
    row["together_first_call_s"] = ways["together"].first_call_s
    for name, values in times.items():
        row[f"{name}_s"] = statistics.median(values)
        row[f"{name}_members_per_s"] = num_members / row[f"{name}_s"]
        if name != "together":
            ratios = [slow / quick for slow, quick in zip(values, times["together"], strict=True)]
            row[f"speedup_over_{name}"] = statistics.median(ratios)
    # One member together and one in a loop are the same executable, and their ratio is noise.
    row["same_program_as_loop"] = num_members == 1
    row["not_slower_than_loop"] = num_members == 1 or row["speedup_over_loop"] >= 1
    if num_members > 1:
        row["not_slower_than_loop_all_devices"] = row["speedup_over_loop_all_devices"] >= 1
    return row


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="members x epochs per second (ratio of the vmapped program over each)")
    for name in ("M", "vmapped", "loop", "loop, all devices", "PyTorch loop", "first call s", "loss difference"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [str(row["members"]), f"{row['together_members_per_s']:.0f}"]
        for name in ("loop", "loop_all_devices", "torch"):
            if f"{name}_s" in row:
                cells.append(f"{row[f'{name}_members_per_s']:.0f} ({row[f'speedup_over_{name}']:.2f}x)")
            else:
                cells.append("not run")
        table.add_row(*cells, f"{row['together_first_call_s']:.1f}", f"{row['max_loss_difference']:.1e}")
    Console(width=120).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ensemble", description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--images", type=int, default=1024, help="training images of one epoch")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--block", type=int, default=ensemble.TrainingConfig().members_per_block, help="members vmapped"
    )
    parser.add_argument("--repeats", type=int, default=9, help="timed runs of each, alternating")
    parser.add_argument("--devices", type=int, default=os.cpu_count(), help="virtual CPU devices; default: the cores")
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch out")
    parser.add_argument("--quick", action="store_true", help="1, 4 and 16 members, 3 runs of each")
    args = parser.parse_args(argv)
    if args.quick:
        args.members, args.repeats = [1, 4, 16], 3
    jax.config.update("jax_num_cpu_devices", args.devices)
    rng = np.random.default_rng(0)
    data = (
        jnp.asarray(rng.normal(size=(args.images, 768, 1)), jnp.float32),
        jnp.asarray(rng.integers(0, 10, args.images)),
    )
    config = ensemble.TrainingConfig(epochs=1000, batch_size=args.batch_size, members_per_block=args.block)
    figures: dict[str, Any] = {"benchmark": "ensemble", "jax": jax.__version__, "devices": len(jax.devices())}
    figures |= {"images": args.images, "batch_size": args.batch_size, "block": args.block, "repeats": args.repeats}
    torch_run = None
    if not args.no_torch:
        try:
            torch_run, about = quickest_torch(data, config)
            figures |= about
        except ImportError:
            print("PyTorch is not installed, so only JAX is timed; pip install torch adds the comparison")
    rows = [bench(members, data, config, args.repeats, torch_run) for members in args.members]
    show(rows)
    figures["rows"] = rows
    figures["vmap_never_slower_than_loop"] = all(row["not_slower_than_loop"] for row in rows)
    if torch_run is not None:
        # With one member there is nothing to train together.
        many = [row for row in rows if row["members"] > 1] or rows
        figures["least_speedup_over_torch"] = min(row["speedup_over_torch"] for row in many)
        figures["three_times_torch"] = figures["least_speedup_over_torch"] >= TORCH_BAR
    figures["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
