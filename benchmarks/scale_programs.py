"""What XLA says of the programs that train an ensemble: operations, memory and collectives; nothing is run."""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.scale_formulas import FLOAT_BYTES, Plan, mesh_row, reduced_bytes
from jaxgeo.errors import ConfigError
from jaxgeo.models.mlp import Mlp, MlpConfig
from jaxgeo.models.resnet import ResNet, init_resnet
from jaxgeo.posteriors import deep_ensemble
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint, pure_apply
from jaxgeo.training import ensemble, meshes

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


def kept_bytes(loss: Callable[..., Any], params: Any, *rest: Any) -> int:
    """What JAX keeps of a loss for its gradient by the first argument, from shapes alone; nothing is compiled.

    Each value that a derivative reads again is kept as it was written, whether or not it could be made anew from
    another one. Compilers may keep less; XLA on a CPU seldom does.
    """
    kept = jax.eval_shape(lambda *given: jax.vjp(lambda params: loss(params, *given[1:]), given[0])[1], params, *rest)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


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
    params, _, *rest = shapes = jax.eval_shape(arguments, one)
    kept = (members or 1) * kept_bytes(objective, params, *rest)
    if members is not None:
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
        "kept_for_gradients_bytes": kept,
        "optimizer_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes[1])),
    }


def compile_epoch(
    member: int, data: int, members: int, features: tuple[int, ...] = (256,), devices: Sequence[Any] | None = None
) -> dict[str, Any]:
    """XLA's account of the epoch program of the library on a mesh: a perceptron, blocks of two members, two batches.

    Args:
        member: devices along this axis of the mesh.
        data: devices along this one.
        members: of the ensemble.
        features: of the perceptron's hidden layers.
        devices: to take the mesh from; by default all.
    """
    training = ensemble.TrainingConfig(
        batch_size=16, optimizer="sgd", warmup_fraction=0.0, schedule="constant", members_per_block=2
    )
    model, example = Mlp(MlpConfig(features=features)), jax.ShapeDtypeStruct((1, 16), jnp.float32)
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
    # What each device is given: its members with their optimisers, a key of 8 bytes and a sum of losses each, and all
    # images and labels.
    own = row["state_bytes"] + (8 + FLOAT_BYTES) * plan.members // member
    given = own + row["image_bytes"] + FLOAT_BYTES * plan.images
    return {"member": member, "data": data, "members": plan.members, "closed_form_arguments": given} | found


def _epoch_on(
    mesh: Any, init: Callable, objective: Any, training: ensemble.TrainingConfig, members: int, inputs: tuple[int, ...]
) -> dict[str, Any]:
    """The very program that `train_epochs` calls, which takes its steps and the number of blocks at run time."""

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
    steps = ensemble.steps_per_epoch(training, inputs[0])
    lowered: Any = ensemble._steps.lower(
        placed, by_member(jax.ShapeDtypeStruct((members,), jnp.float32)), *data_shapes, 0, steps,
        members // block // mesh.shape["member"], objective=objective, config=training, block=block, mesh=mesh,
    )  # fmt: skip
    compiled = lowered.compile()
    return {
        "parameters": weights,
        "collectives": collectives(compiled.as_text()),
        "memory": memory(compiled),
        "all_reduced_bytes": reduced_bytes(weights, block, mesh.shape["data"]),
    }
