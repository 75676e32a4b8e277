"""What an ensemble of ResNets asks of its accelerators: memory, operations, hours, collectives.

    python -m benchmarks.scale_estimate                              # 50 members of ResNet-20-FRN on 8 accelerators
    python -m benchmarks.scale_estimate --members 64 --accelerators 64 --sustained-tflops 5
    python -m benchmarks.scale_estimate --formulas-only              # a second instead of minutes: nothing is compiled

Closed forms stand beside what XLA says of programs that are compiled here, on a CPU, and not run: operations and memory
of a training step of one member and of a block of vmapped members, and the collectives and memory of the epoch
program on virtual devices, of small perceptrons and of the ResNets themselves on each mesh of the table. The hours
follow from `--sustained-tflops`, a rate that is assumed and not measured; expect small convolutions to sustain a small
part of a peak rate. Numbers are float32. The last line is one JSON object.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.scale_formulas import (
    FLOAT_BYTES,
    Plan,
    activation_bytes,
    mesh_row,
    optimizer_bytes,
    parameters,
    step_flops,
)
from benchmarks.scale_programs import compile_epoch, compile_planned_epoch, compile_step
from jaxgeo.data.cifar import TRAINING_IMAGES
from jaxgeo.errors import ConfigError
from jaxgeo.models.resnet import ResNetConfig
from jaxgeo.training import ensemble

VIRTUAL_DEVICES = 8


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def _flops(count: float) -> str:
    return f"{count / 1e9:.2f} GFLOP" if count >= 1e9 else f"{count / 1e6:.2f} MFLOP"


def print_table(plan: Plan, rows: Sequence[dict[str, int | float]], epochs: Sequence[dict[str, Any]] = ()) -> None:
    """A row for each mesh, by the closed forms; with what XLA says of the epoch on each, its temporary memory too."""
    weights = parameters(plan.network)
    flops = step_flops(plan.network, plan.size, plan.training.batch_size)
    print(
        f"One member: {weights:,} parameters ({_size(FLOAT_BYTES * weights)}), optimiser "
        f"{_size(optimizer_bytes(weights))}; {plan.steps:,} steps of {_flops(flops)} (convolutions and head)\n"
        f"{plan.members} members in blocks of {plan.block} on {plan.accelerators} accelerators, at an assumed "
        f"{plan.sustained_tflops:g} TFLOP/s sustained by each:"
    )
    xla = ["XLA's temporary"] if epochs else []
    heads = ["member x data", "idle", "members a device", "state", "activations", *xla, "images", "sent a step"]
    print(f"| {' | '.join([*heads, 'wall h', 'device h'])} |")
    print("| --- |" + " ---: |" * (len(heads) + 1))
    for row, epoch in zip(rows, epochs or [None] * len(rows), strict=True):
        temporary = [] if epoch is None else [_size(epoch["memory"]["temporary"])]
        cells = [
            f"{row['member']} x {row['data']}", str(row["idle"]), str(row["members_per_device"]),
            _size(row["state_bytes"]), _size(row["activation_bytes"]), *temporary, _size(row["image_bytes"]),
            _size(row["sent_bytes_per_step"]), f"{row['wall_hours']:.1f}", f"{row['accelerator_hours']:.1f}",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


def _told(row: dict[str, Any]) -> str:
    sent = ", ".join(f"{v['count']} {name} of {v['bytes']:,} B" for name, v in row["collectives"].items())
    return (
        f"on {row['member']} x {row['data']} virtual devices: {sent or 'no collectives'} in a step (closed form "
        f"{row['all_reduced_bytes']:,} B); arguments {_size(row['memory']['arguments'])}, temporary "
        f"{_size(row['memory']['temporary'])}"
    )


def check(plan: Plan, epochs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The closed forms beside XLA, of the epochs of the plan and of what is compiled here; printed as it is done."""
    batch = plan.training.batch_size
    flops, kept = step_flops(plan.network, plan.size, batch), activation_bytes(plan.network, plan.size, batch)
    found: dict[str, Any] = {"steps": {}, "epochs": []}
    for title, members in (("one member", None), (f"a block of {plan.block}", plan.block)):
        row = found["steps"][title] = compile_step(plan, members)
        count, held = members or 1, row["memory"]
        row["closed_form_flops"], row["closed_form_activation_bytes"] = count * flops, count * kept
        print(
            f"XLA, a step of {title}: {_flops(row['flops_compiled'])} compiled for a CPU, "
            f"{_flops(row['flops_as_written'])} for an accelerator as written, "
            f"{_flops(count * flops)} in convolutions and head; "
            f"arguments {_size(held['arguments'])}, outputs {_size(held['outputs'])}, "
            f"temporary {_size(held['temporary'])} (activations by the closed form {_size(count * kept)}, kept for the "
            f"gradients as JAX writes them {_size(row['kept_for_gradients_bytes'])})"
        )
    for member, data, members in ((8, 1, 16), (8, 1, 32), (4, 2, 16), (2, 4, 16), (1, 8, 16)):
        row = compile_epoch(member, data, members, devices=jax.devices()[:VIRTUAL_DEVICES])
        found["epochs"].append(row)
        print(f"XLA, an epoch of {members} perceptrons of {row['parameters']:,} parameters {_told(row)}")
    for row in epochs:
        found["epochs"].append(row)
        print(
            f"XLA, an epoch of {plan.members} ResNets of {row['parameters']:,} parameters {_told(row)}; arguments by "
            f"the closed form {_size(row['closed_form_arguments'])}"
        )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale_estimate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--accelerators", type=int, default=8)
    parser.add_argument("--block", type=int, default=2, help="members vmapped together, at most (default 2)")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--pixels", type=int, default=32, help="rows, and columns, of the images (default 32)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=TRAINING_IMAGES)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument(
        "--sustained-tflops", type=float, default=1.0, help="of each accelerator: assumed, not measured (default 1)"
    )
    parser.add_argument("--formulas-only", action="store_true", help="compile nothing")
    args = parser.parse_args(argv)
    if min(args.accelerators, args.pixels) < 1:
        parser.error("--accelerators and --pixels must be at least 1")
    if not (math.isfinite(args.sustained_tflops) and args.sustained_tflops > 0):
        parser.error(f"--sustained-tflops must be positive and finite, got {args.sustained_tflops}")
    try:
        training = ensemble.TrainingConfig(
            epochs=args.epochs, batch_size=args.batch, learning_rate=0.1, schedule="step", warmup_fraction=0.0,
            optimizer="sgd", nesterov=True, members_per_block=args.block,
        )  # fmt: skip
        network = ResNetConfig(depth=args.depth, features=args.width)
        plan = Plan(network, training, args.pixels, args.images, args.members, args.accelerators, args.sustained_tflops)
        shares = [n for n in range(1, args.accelerators + 1) if args.batch % n == 0 and args.accelerators % n == 0]
        rows = [mesh_row(plan, data) for data in shares]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    epochs: list[dict[str, Any]] = []
    if not args.formulas_only:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", max(VIRTUAL_DEVICES, args.accelerators))
        epochs = [compile_planned_epoch(plan, int(row["member"]), int(row["data"])) for row in rows]
    print_table(plan, rows, epochs)
    figures: dict[str, Any] = {"benchmark": "scale_estimate", "jax": jax.__version__, **vars(args)}
    figures |= {
        "parameters": parameters(network),
        "steps": plan.steps,
        "flops_per_step": step_flops(network, plan.size, args.batch),
        "meshes": rows,
    }
    if epochs:
        figures["xla"] = check(plan, epochs)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
