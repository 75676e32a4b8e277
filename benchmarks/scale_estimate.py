"""What an ensemble of ResNets asks of its accelerators: memory, operations, hours, collectives.

    python -m benchmarks.scale_estimate                              # 50 members of ResNet-20-FRN on 8 accelerators
    python -m benchmarks.scale_estimate --members 64 --accelerators 64 --sustained-tflops 5
    python -m benchmarks.scale_estimate --formulas-only              # a second instead of minutes: nothing is compiled

Closed forms stand beside what XLA says of programs that are compiled here, on a CPU, and not run: operations and memory
of a training step of one member and of a block of vmapped members, and the collectives and memory of the epoch
program on virtual devices (a small perceptron there: what is sent depends on the number of parameters alone). The
hours follow from `--sustained-tflops`, a rate that is assumed and not measured; expect small convolutions to sustain a
small part of a peak rate. Numbers are float32. The last line is one JSON object.
"""

import argparse
import functools
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jaxgeo.errors import ConfigError
from jaxgeo.models.mlp import Mlp, MlpConfig
from jaxgeo.models.resnet import STAGES, ResNet, ResNetConfig, init_resnet
from jaxgeo.posteriors import deep_ensemble
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint, pure_apply
from jaxgeo.training import ensemble, meshes

FLOAT_BYTES = 4
VIRTUAL_DEVICES = 8
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_ITEM_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}


class Convolution(NamedTuple):
    """One convolution of a network, padded as XLA's SAME."""

    kernel: int
    inputs: int  # channels
    outputs: int
    size: int  # rows, and columns, of what comes in
    stride: int = 1
    shares_input: bool = False  # with another convolution: a projection reads what its block's first layer reads

    @property
    def new_size(self) -> int:
        """Rows, and columns, of what goes out."""
        return -(-self.size // self.stride)

    @property
    def weights(self) -> int:
        """Of the kernel and its bias."""
        return self.kernel**2 * self.inputs * self.outputs + self.outputs

    @property
    def taps(self) -> int:
        """Pairs of an output row and a kernel row that meet a row of the image, and not the padding."""
        behind = max((self.new_size - 1) * self.stride + self.kernel - self.size, 0)
        first = -(behind // 2)
        return sum(
            0 <= first + row * self.stride + tap < self.size
            for row in range(self.new_size)
            for tap in range(self.kernel)
        )

    @property
    def flops(self) -> int:
        """Of one image: two (a product and a sum) for each tap, input and output channel; padding costs nothing."""
        return 2 * self.taps**2 * self.inputs * self.outputs


def convolutions(config: ResNetConfig, size: int) -> list[Convolution]:
    """All convolutions of a ResNet on images of `size` x `size` pixels; the stem is first."""
    found, channels = [Convolution(3, config.channels, config.width, size)], config.width
    for stage in range(STAGES):
        for block in range(config.blocks):
            features, stride = config.width << stage, 2 if stage and not block else 1
            first = Convolution(3, channels, features, size, stride)
            found += [first, Convolution(3, features, features, first.new_size)]
            if stride > 1 or channels != features:
                found.append(Convolution(1, channels, features, size, stride, shares_input=True))
            channels, size = features, first.new_size
    return found


def parameters(config: ResNetConfig) -> int:
    """Weights of one ResNet: kernels and biases, two or three numbers a channel for the norms, the head."""
    norm = 3 if config.norm == "tau" else 2
    features = config.width << (STAGES - 1)
    layers = sum(layer.weights + norm * layer.outputs for layer in convolutions(config, 32))
    return layers + (features + 1) * config.num_classes


def step_flops(config: ResNetConfig, size: int, batch: int) -> int:
    """Operations of the convolutions and the head in one training step of one member.

    Forward, gradient of the kernel and gradient of the images cost the same; no gradient of the first images is asked
    for.
    """
    layers = convolutions(config, size)
    head = 2 * (config.width << (STAGES - 1)) * config.num_classes
    return batch * (3 * (sum(layer.flops for layer in layers) + head) - layers[0].flops)


def activation_bytes(config: ResNetConfig, size: int, batch: int) -> int:
    """What the gradients of one member read again, at the least: what goes into and comes out of each convolution."""
    values = 0
    for layer in convolutions(config, size):
        values += layer.outputs * layer.new_size**2
        values += 0 if layer.shares_input else layer.inputs * layer.size**2
    return FLOAT_BYTES * batch * values


def optimizer_bytes(weights: int) -> int:
    """State of SGD with momentum: one number for each weight, and the count of steps."""
    return FLOAT_BYTES * (weights + 1)


def reduced_bytes(weights: int, block: int, data: int) -> int:
    """What one all-reduce over the axis `data` is given in a step: gradients and loss of a block of members."""
    return FLOAT_BYTES * block * (weights + 1) if data > 1 else 0


def ring_bytes(reduced: int, data: int) -> float:
    """What each device sends in a ring all-reduce: 2 (D - 1) / D of the array.

    References:
        Patarasuk and Yuan, "Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations", 2009.
    """
    return 2 * (data - 1) / data * reduced


class Plan(NamedTuple):
    """What is asked about."""

    network: ResNetConfig
    training: ensemble.TrainingConfig
    size: int  # rows, and columns, of the images
    images: int
    members: int
    accelerators: int
    sustained_tflops: float

    @property
    def block(self) -> int:
        """Members vmapped together."""
        return ensemble.block_size(self.members, self.training)

    @property
    def steps(self) -> int:
        """Of one member, in the whole run."""
        return self.training.epochs * ensemble.steps_per_epoch(self.training, self.images)


def mesh_row(plan: Plan, data: int) -> dict[str, int | float]:
    """What one device holds and does where each batch is shared by `data` devices.

    Raises:
        ConfigError: more devices along `data` than there are, or than divide the batch.
    """
    if data > plan.accelerators or plan.training.batch_size % data:
        raise ConfigError(
            f"a batch of {plan.training.batch_size} cannot be shared by {data} of {plan.accelerators} devices; "
            f"the number must divide the batch and be at most {plan.accelerators}"
        )
    weights = parameters(plan.network)
    member = meshes.largest_divisor(plan.members // plan.block, plan.accelerators // data)
    on_device = plan.members // member
    reduced = reduced_bytes(weights, plan.block, data)
    steps = plan.steps * on_device // plan.block  # of blocks, one after another
    state = on_device * (FLOAT_BYTES * weights + optimizer_bytes(weights))
    flops = step_flops(plan.network, plan.size, plan.training.batch_size) * plan.block / data
    hours = steps * flops / (plan.sustained_tflops * 1e12) / 3600
    return {
        "member": member,
        "data": data,
        "idle": plan.accelerators - member * data,
        "members_per_device": on_device,
        "parameter_bytes": on_device * FLOAT_BYTES * weights,
        "optimizer_bytes": on_device * optimizer_bytes(weights),
        "state_bytes": state,  # once: the epoch program writes members where it read them
        "gradient_bytes": FLOAT_BYTES * plan.block * weights,
        "activation_bytes": activation_bytes(plan.network, plan.size, plan.training.batch_size // data) * plan.block,
        "image_bytes": FLOAT_BYTES * plan.images * plan.size**2 * plan.network.channels,
        "steps_per_device": steps,
        "flops_per_step": flops,
        "collective_bytes_along_member": 0,
        "all_reduced_bytes": reduced,
        "sent_bytes_per_step": ring_bytes(reduced, data),
        "wall_hours": hours,
        "accelerator_hours": hours * member * data,
        "accelerator_hours_with_idle": hours * plan.accelerators,
    }


def collectives(hlo: str) -> dict[str, dict[str, int]]:
    """Collective operations in the text of a compiled program: how many of each, and the bytes of their results.

    Each is counted as often as it is written; what is written in the body of a loop runs once in each turn.

    Raises:
        ConfigError: a result of a type whose size is not known here.
    """
    found: dict[str, dict[str, int]] = {}
    pattern = rf"^\s*(?:ROOT )?%?\S+ = (.+?) ({'|'.join(COLLECTIVES)})(?:-start)?\("
    for result, name in re.findall(pattern, hlo, re.MULTILINE):
        size = 0
        for item, shape in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", result):
            if item not in _ITEM_BYTES:
                raise ConfigError(f"the size of {item} in {name} is not known; known are {', '.join(_ITEM_BYTES)}")
            size += _ITEM_BYTES[item] * math.prod(int(n) for n in shape.split(",") if n)
        row = found.setdefault(name, {"count": 0, "bytes": 0})
        row["count"] += 1
        row["bytes"] += size
    return found


def memory(compiled: Any) -> dict[str, int]:
    """Bytes on each device by XLA's own account."""
    told = compiled.memory_analysis()
    return {
        "arguments": told.argument_size_in_bytes,
        "outputs": told.output_size_in_bytes,
        "of_these_the_same": told.alias_size_in_bytes,
        "temporary": told.temp_size_in_bytes,
    }


def compile_step(plan: Plan, members: int | None) -> dict[str, Any]:
    """XLA's account of one training step of one member (None) or of so many vmapped; nothing is run."""
    image = (plan.size, plan.size, plan.network.channels)
    apply = pure_apply(ResNet(plan.network), jax.ShapeDtypeStruct((1, *image), jnp.float32))
    objective = deep_ensemble.objective(LogJoint(apply, GaussianPrior(5**-0.5, fan_in=False)), plan.images)
    optimizer = ensemble.make_optimizer(plan.training, plan.images)

    def step(params, opt_state, key, inputs, labels):
        loss, gradients = jax.value_and_grad(objective)(params, key, inputs, labels)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    def start(key, images, labels):
        params = init_resnet(key, plan.network)
        return params, optimizer.init(params), key, images, labels

    def arguments(key):
        batch = plan.training.batch_size
        return start(key, jnp.zeros((batch, *image)), jnp.zeros(batch, jnp.int32))

    one = jax.random.key(0)
    if members is None:
        shapes = jax.eval_shape(arguments, one)
    else:
        # The members of a block look at different images: each has its own order.
        shapes, step = jax.eval_shape(jax.vmap(arguments), jax.random.split(one, members)), jax.vmap(step)
    traced: Any = jax.jit(step, donate_argnums=(0, 1)).trace(*shapes)
    compiled: Any = traced.lower().compile()
    # On a CPU convolutions of few channels do more operations in less time; on an accelerator they are XLA's own.
    written: Any = traced.lower(lowering_platforms=("cuda",))
    return {
        "flops_as_written": written.cost_analysis()["flops"],
        "flops_compiled": compiled.cost_analysis()["flops"],
        "memory": memory(compiled),
        "optimizer_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes[1])),
    }


def compile_epoch(
    member: int, data: int, members: int, widths: tuple[int, ...] = (256,), devices: Sequence[Any] | None = None
) -> dict[str, Any]:
    """XLA's account of the epoch program of the library on a mesh: a perceptron, blocks of two members, two batches.

    Args:
        member: devices along this axis of the mesh.
        data: devices along this one.
        members: of the ensemble.
        widths: of the perceptron's hidden layers.
        devices: to take the mesh from; by default all.
    """
    training = ensemble.TrainingConfig(
        batch_size=16, optimizer="sgd", warmup_fraction=0.0, schedule="constant", members_per_block=2
    )
    model, example = Mlp(MlpConfig(widths=widths)), jax.ShapeDtypeStruct((1, 16), jnp.float32)
    objective = deep_ensemble.objective(LogJoint(pure_apply(model, example)), 32)

    def init(key: Any) -> Any:
        return model.init(key, jnp.zeros(example.shape))["params"]

    mesh = meshes.make_mesh(member=member, data=data, devices=devices)
    return {"member": member, "data": data, "members": members} | _epoch_on(
        mesh, init, objective, training, members, (32, 16)
    )


def compile_planned_epoch(plan: Plan, member: int, data: int) -> dict[str, Any]:
    """XLA's account of the epoch program of the plan itself, all its members and images, on a mesh; nothing is run.

    Args:
        plan: what is asked about.
        member: devices along this axis of the mesh.
        data: devices along this one.
    """
    image = (plan.size, plan.size, plan.network.channels)
    apply = pure_apply(ResNet(plan.network), jax.ShapeDtypeStruct((1, *image), jnp.float32))
    objective = deep_ensemble.objective(LogJoint(apply, GaussianPrior(5**-0.5, fan_in=False)), plan.images)
    mesh = meshes.make_mesh(member=member, data=data, devices=jax.devices()[: member * data])
    init = functools.partial(init_resnet, config=plan.network)
    found = _epoch_on(mesh, init, objective, plan.training, plan.members, (plan.images, *image))
    row = mesh_row(plan, data)
    # What each device is given: its members with their optimisers and a key of 8 bytes each, and all images and labels.
    given = row["state_bytes"] + 8 * plan.members // member + row["image_bytes"] + FLOAT_BYTES * plan.images
    return {"member": member, "data": data, "members": plan.members, "closed_form_arguments": given} | found


def _epoch_on(
    mesh: Any, init: Callable, objective: Any, training: ensemble.TrainingConfig, members: int, inputs: tuple[int, ...]
) -> dict[str, Any]:
    """The very program that `train_epochs` calls, which takes the number of blocks at run time."""

    def made(keys: Any) -> ensemble.EnsembleState:
        return ensemble.init_ensemble(keys, init, training)

    def on(spec: PartitionSpec) -> Callable[[Any], Any]:
        return lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    state = jax.eval_shape(made, jax.eval_shape(lambda: jax.random.split(jax.random.key(0), members)))
    weights = sum(leaf.size for leaf in jax.tree.leaves(state.params)) // members
    everywhere = on(PartitionSpec())
    by_member = on(PartitionSpec("member"))
    params, opt_state = jax.tree.map(by_member, (state.params, state.opt_state))
    placed = ensemble.EnsembleState(params, opt_state, everywhere(state.epoch), by_member(state.keys))
    data_shapes = (
        everywhere(jax.ShapeDtypeStruct(inputs, jnp.float32)),
        everywhere(jax.ShapeDtypeStruct(inputs[:1], jnp.int32)),
    )
    block = ensemble.block_size(members, training)
    lowered: Any = ensemble._epoch.lower(
        placed, *data_shapes, members // block // mesh.shape["member"], objective=objective, config=training,
        block=block, mesh=mesh,
    )  # fmt: skip
    compiled = lowered.compile()
    return {
        "parameters": weights,
        "collectives": collectives(compiled.as_text()),
        "memory": memory(compiled),
        "all_reduced_bytes": reduced_bytes(weights, block, mesh.shape["data"]),
    }


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def _flops(count: float) -> str:
    return f"{count / 1e9:.2f} GFLOP" if count >= 1e9 else f"{count / 1e6:.2f} MFLOP"


def print_formulas(plan: Plan, rows: Sequence[dict[str, int | float]]) -> None:
    """The part that needs no compiler."""
    weights = parameters(plan.network)
    flops = step_flops(plan.network, plan.size, plan.training.batch_size)
    print(
        f"One member: {weights:,} parameters ({_size(FLOAT_BYTES * weights)}), optimiser "
        f"{_size(optimizer_bytes(weights))}; {plan.steps:,} steps of {_flops(flops)} (convolutions and head)\n"
        f"{plan.members} members in blocks of {plan.block} on {plan.accelerators} accelerators, at an assumed "
        f"{plan.sustained_tflops:g} TFLOP/s sustained by each:"
    )
    print(
        "| member x data | idle | members a device | state | activations | images | sent a step | wall h | device h |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        sizes = [_size(row[f"{name}_bytes"]) for name in ("state", "activation", "image")]
        print(
            f"| {row['member']} x {row['data']} | {row['idle']} | {row['members_per_device']} | {' | '.join(sizes)} | "
            f"{_size(row['sent_bytes_per_step'])} | {row['wall_hours']:.1f} | {row['accelerator_hours']:.1f} |"
        )


def _told(row: dict[str, Any]) -> str:
    sent = ", ".join(f"{v['count']} {name} of {v['bytes']:,} B" for name, v in row["collectives"].items())
    return (
        f"on {row['member']} x {row['data']} virtual devices: {sent or 'no collectives'} in a step (closed form "
        f"{row['all_reduced_bytes']:,} B); arguments {_size(row['memory']['arguments'])}, temporary "
        f"{_size(row['memory']['temporary'])}"
    )


def _most_shares(plan: Plan) -> int:
    """Devices along `data`: as many as the virtual ones and the batch allow."""
    return math.gcd(plan.training.batch_size, min(plan.accelerators, VIRTUAL_DEVICES))


def check(plan: Plan) -> dict[str, Any]:
    """The closed forms beside XLA; what was compiled is printed as it is done."""
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
            f"temporary {_size(held['temporary'])} (activations by the closed form {_size(count * kept)})"
        )
    for member, data, members in ((8, 1, 16), (8, 1, 32), (4, 2, 16), (2, 4, 16), (1, 8, 16)):
        row = compile_epoch(member, data, members)
        found["epochs"].append(row)
        print(f"XLA, an epoch of {members} perceptrons of {row['parameters']:,} parameters {_told(row)}")
    wanted = mesh_row(plan, 1)["member"], 1
    for member, data in dict.fromkeys([wanted, (1, _most_shares(plan))]):
        row = compile_planned_epoch(plan, member, data)
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
    parser.add_argument("--images", type=int, default=40_960)
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
        network = ResNetConfig(depth=args.depth, width=args.width)
        plan = Plan(network, training, args.pixels, args.images, args.members, args.accelerators, args.sustained_tflops)
        shares = [n for n in range(1, args.accelerators + 1) if args.batch % n == 0 and args.accelerators % n == 0]
        rows = [mesh_row(plan, data) for data in shares]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_formulas(plan, rows)
    figures: dict[str, Any] = {"benchmark": "scale_estimate", "jax": jax.__version__, **vars(args)}
    figures |= {
        "parameters": parameters(network),
        "steps": plan.steps,
        "flops_per_step": step_flops(network, plan.size, args.batch),
        "meshes": rows,
    }
    if not args.formulas_only:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", VIRTUAL_DEVICES)
        figures["xla"] = check(plan)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
