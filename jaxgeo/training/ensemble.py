"""Many members trained at once: one compiled program for the steps of an epoch of all of them.

Each member has its own key, and from it its own first parameters, order of examples and dropout masks. Members go
through the program in blocks of a fixed size, vmapped inside a block and looped over between blocks; which size is
quickest depends on machine and network, and `benchmarks.ensemble --block` times it. The block is also the unit that is
spread over devices: in the tests, on virtual CPU devices, 2 and 8 devices give the same bits, and one device differs
from them by rounding.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from jaxgeo.errors import ConfigError, InputError, check_fields, check_real
from jaxgeo.training.examples import check_data
from jaxgeo.training.meshes import largest_divisor, put
from jaxgeo.training.schedules import Schedule, learning_rates
from jaxgeo.training.shuffling import shuffled

Params: TypeAlias = PyTree
"""A tree of arrays (or of their shapes, where only those matter) as `module.apply({"params": params}, x)` takes it."""

Objective: TypeAlias = Callable[[Params, Any, Any, Any], Array]
"""Loss of ONE member on one batch, nats per example: `objective(params, key, inputs, labels)`, a scalar.

The key is for dropout masks and may be ignored."""

Optimizer = Literal["adam", "adamw", "sgd"]

Progress: TypeAlias = Callable[[int, int, Mapping[str, float]], None]
"""`progress(done, total, values)`, called now and then by what takes long."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Optimiser and schedule, the same for every member.

    The examples that do not fill a last batch are left out of that epoch; the order is drawn anew in every epoch
    and for every member, so none is left out for good.
    """

    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 5e-3  # at its peak
    schedule: Schedule = "cosine"
    warmup_fraction: float = 0.05  # of all steps, rising linearly from 0
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0  # decoupled, adamw only
    members_per_block: int = 2  # at most; see `block_size`
    nesterov: bool = False  # look ahead with the momentum, sgd only

    def __post_init__(self) -> None:
        check_fields(self, epochs=1, batch_size=1, members_per_block=1, weight_decay=0)
        check_real("learning_rate", self.learning_rate, above=0.0)
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(
                f"warmup_fraction is a share of all steps in [0, 1), got {self.warmup_fraction}; 0 switches it off"
            )
        if self.schedule == "step" and self.warmup_fraction >= 0.5:
            raise ConfigError(
                f"the schedule 'step' lowers the rate at half of all steps, so warming up must have ended before: "
                f"warmup_fraction must be below 0.5, got {self.warmup_fraction}"
            )
        if self.weight_decay and self.optimizer != "adamw":
            raise ConfigError(
                f"weight_decay {self.weight_decay} needs optimizer 'adamw', got {self.optimizer!r}, which ignores it"
            )
        if self.nesterov and self.optimizer != "sgd":
            raise ConfigError(f"nesterov is a form of the momentum of 'sgd', got optimizer {self.optimizer!r}")


class EnsembleState(NamedTuple):
    """All that training goes on from; every leaf but `epoch` has a leading member axis."""

    params: Params
    opt_state: PyTree[Array]
    epoch: Int[Array, ""]  # epochs finished
    keys: Key[Array, " member"]  # source of each member's orders and masks; never changes


class History(NamedTuple):
    """What training saw, one row per epoch."""

    loss: Float[Array, "epoch member"]  # mean over the epoch's batches, before each batch's own step


def steps_per_epoch(config: TrainingConfig, num_examples: int) -> int:
    """Full batches in one epoch.

    Raises:
        ConfigError: not even one batch can be filled.
    """
    if config.batch_size > num_examples:
        raise ConfigError(
            f"batch_size {config.batch_size} is larger than the {num_examples} training examples; "
            f"use a batch_size of at most {num_examples}"
        )
    return num_examples // config.batch_size


def learning_rate_schedule(config: TrainingConfig, num_examples: int) -> optax.Schedule:
    """Learning rate at each step, as `schedules.learning_rates` has it."""
    steps = config.epochs * steps_per_epoch(config, num_examples)
    return learning_rates(config.schedule, config.learning_rate, steps, int(config.warmup_fraction * steps))


def make_optimizer(config: TrainingConfig, num_examples: int) -> optax.GradientTransformation:
    """The optimiser of one member on a training set of `num_examples`."""
    rate = learning_rate_schedule(config, num_examples)
    if config.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=config.weight_decay)
    if config.optimizer == "adam":
        return optax.adam(rate)
    return optax.sgd(rate, momentum=0.9, nesterov=config.nesterov)


def block_size(num_members: int, config: TrainingConfig) -> int:
    """Members vmapped together: the largest divisor of `num_members` up to `members_per_block`.

    Raises:
        ConfigError: no members.
    """
    if num_members < 1:
        raise ConfigError(f"an ensemble needs at least 1 member, got {num_members}")
    return largest_divisor(num_members, config.members_per_block)


def init_ensemble(
    keys: Key[Array, " member"], init_fn: Callable[[Array], Params], config: TrainingConfig
) -> EnsembleState:
    """Untrained members, one per key.

    Args:
        keys: the seed of each member; two members with the same key are the same for ever.
        init_fn: parameters of one member from a key.
        config: its optimiser decides what the state carries.

    Raises:
        ConfigError: no keys.
        InputError: not one key for each member, such as a single one.
    """
    if keys.ndim != 1 or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise InputError(
            f"members need a key each, along one axis, as jax.random.split(jax.random.key(0), M) makes them for M "
            f"members, got {keys.dtype} of shape {keys.shape}"
        )
    block_size(keys.shape[0], config)
    # Member after member through a program of one: it is compiled once, whatever their number. The random numbers of
    # an initialisation take longer to compile than to draw.
    members = [_init_member(key, init_fn, config) for key in keys]
    params, opt_state, keys = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    return EnsembleState(params, opt_state, jnp.zeros((), jnp.int32), keys)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _init_member(key, init_fn, config):
    # The optimiser's state has the same form for any number of examples; only its schedule needs the true one.
    optimizer = make_optimizer(config, config.batch_size)
    init_key, train_key = jax.random.split(key)
    params = init_fn(init_key)
    return params, optimizer.init(params), train_key


def _member_steps(params, opt_state, total, key, epoch, first, stop, inputs, labels, *, objective, config, shards):
    num_examples = labels.shape[0]
    steps = steps_per_epoch(config, num_examples)
    optimizer = make_optimizer(config, num_examples)
    # Folded in and not split off one after another: a step's randomness depends on its epoch and number alone, so
    # training that stops anywhere and goes on elsewhere is the same bit for bit.
    order_key, mask_key = jax.random.split(jax.random.fold_in(key, epoch))
    batches = shuffled(order_key, num_examples)[: steps * config.batch_size].reshape(steps, config.batch_size)

    def step(index, carry):
        params, opt_state, total = carry
        rows = batches[index]
        if shards > 1:  # each device its share of the batch, all with the same mask
            share = config.batch_size // shards
            rows = jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index("data") * share, share)
        loss, gradients = jax.value_and_grad(objective)(
            params, jax.random.fold_in(mask_key, index), inputs[rows], labels[rows]
        )
        if shards > 1:  # an objective is a mean over its examples and what does not depend on them
            loss, gradients = jax.lax.pmean((loss, gradients), "data")
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, total + loss

    # Bounds that only the run knows: any stretch of an epoch is the same compiled step, and so the same bits.
    return jax.lax.fori_loop(first, stop, step, (params, opt_state, total))


@functools.partial(
    jax.jit, static_argnames=("objective", "config", "block", "mesh"), donate_argnames=("state", "totals")
)
def _steps(state, totals, inputs, labels, first, stop, blocks_per_device, *, objective, config, block, mesh):
    shards = 1 if mesh is None else mesh.shape.get("data", 1)
    one: Any = functools.partial(_member_steps, objective=objective, config=config, shards=shards)

    def all_blocks(members, keys, blocks_per_device, *shared):
        # A block is read from where it is then written to: the state is held once.
        def train_block(i, members):
            *parts, own_keys = jax.tree.map(
                lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, i * block, block), (*members, keys)
            )
            trained = jax.vmap(one, in_axes=(0,) * 4 + (None,) * len(shared))(*parts, own_keys, *shared)
            return jax.tree.map(
                lambda leaf, new: jax.lax.dynamic_update_slice_in_dim(leaf, new, i * block, 0), members, trained
            )

        return jax.lax.fori_loop(0, blocks_per_device, train_block, members)

    if mesh is not None:
        member, everywhere = PartitionSpec("member"), PartitionSpec()
        all_blocks = jax.shard_map(
            all_blocks, mesh=mesh, in_specs=(member, member, *(everywhere,) * 6), out_specs=member, check_vma=False
        )
    members = state.params, state.opt_state, totals
    params, opt_state, totals = all_blocks(
        members, state.keys, blocks_per_device, state.epoch, first, stop, inputs, labels
    )
    # The epoch counts once its last step is done.
    done = state.epoch + (stop == steps_per_epoch(config, labels.shape[0]))
    return EnsembleState(params, opt_state, done, state.keys), totals


class Steps(NamedTuple):
    """Training of an ensemble on data that are checked, and placed on their devices."""

    number: int  # of an epoch
    run: Callable[[EnsembleState, Float[Array, " member"], int, int], tuple[EnsembleState, Float[Array, " member"]]]
    """Do the steps `first` to `stop - 1` of the epoch in which a state is: (state, sums of the losses of the steps
    before in this epoch, first, stop), both donated, to (state, sums). The last step of an epoch counts it. Whether
    an epoch is run in one call or in several, the bits are the same."""
    no_losses: Callable[[], Float[Array, " member"]]  # the sums before an epoch


def plan_steps(
    state: EnsembleState,
    objective: Objective,
    inputs: Shaped[Array, "example ..."],
    labels: Shaped[Array, "..."],
    config: TrainingConfig,
    mesh: Mesh | None = None,
) -> Steps:
    """What `train_epochs` runs, for those who stop within an epoch; arguments and errors are the same.

    The state is looked at only; with a mesh, one that is run must lie as `place` puts it.
    """
    members, devices = state.keys.shape[0], 1
    block = block_size(members, config)
    member = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state.params)
    number = steps_per_epoch(config, check_data(objective, member, inputs, labels))
    if mesh is not None:
        if "member" not in mesh.shape:
            raise ConfigError(f"members are spread over a mesh axis 'member', got axes {tuple(mesh.shape)}")
        if config.batch_size % mesh.shape.get("data", 1):
            raise ConfigError(
                f"a batch of {config.batch_size} cannot be shared evenly by the {mesh.shape['data']} devices along the "
                f"mesh axis 'data'; its size must divide the batch"
            )
        devices = mesh.shape["member"]
        if (members // block) % devices:
            raise ConfigError(
                f"{members} members in blocks of {block} cannot be shared evenly by {devices} devices; "
                f"spread('member', {members // block}) gives a mesh that works"
            )
        inputs, labels = put((inputs, labels), mesh, PartitionSpec())
    # Counted at run time: a loop that is known to run once is unrolled, and its rounding would depend on the devices.
    blocks_per_device = members // block // devices

    def run(state: EnsembleState, totals: Array, first: int, stop: int) -> tuple[EnsembleState, Array]:
        return _steps(
            state, totals, inputs, labels, first, stop, blocks_per_device, objective=objective, config=config,
            block=block, mesh=mesh,
        )  # fmt: skip

    def no_losses() -> Array:
        totals = jnp.zeros(members, jnp.float32)
        return totals if mesh is None else put(totals, mesh, PartitionSpec("member"))

    return Steps(number, run, no_losses)


def place(state: EnsembleState, mesh: Mesh) -> EnsembleState:
    """The same state with its members spread over the mesh axis `member`, the epoch on every device."""
    by_member = PartitionSpec("member")
    members = put((state.params, state.opt_state, state.keys), mesh, by_member)
    return EnsembleState(members[0], members[1], put(state.epoch, mesh, PartitionSpec()), members[2])


def train_epochs(
    state: EnsembleState,
    objective: Objective,
    inputs: Shaped[Array, "example ..."],
    labels: Shaped[Array, "..."],
    config: TrainingConfig,
    num_epochs: int,
    mesh: Mesh | None = None,
) -> tuple[EnsembleState, History]:
    """Train every member for `num_epochs` more epochs.

    One compiled program runs one epoch, whatever `num_epochs`, so that n + m epochs in two calls equal n + m in one
    bit for bit. The schedule ends at `config.epochs`; beyond it a constant rate goes on, while that of a
    cosine is 0 and nothing more is learnt.

    Args:
        state: donated; its buffers must not be used after the call.
        objective: loss of one member on one batch. Define it once: each new function is compiled anew.
        inputs: all training inputs, on every device.
        labels: those of each input, example axis first: classes, classes of pixels or regression targets.
        config: the one the state was made with.
        num_epochs: 0 gives the state back.
        mesh: spreads blocks of members over its axis `member`, and the examples of each batch over `data`: an
            objective must be a mean over its examples, as those of this library are. Other axes repeat the work.
            Without one, the default device.

    Raises:
        ConfigError: a batch larger than the data, or a mesh that does not divide the blocks or the batch.
        InputError: inputs and labels of different lengths, or labels that the objective knows to be none.
    """
    steps = plan_steps(state, objective, inputs, labels, config, mesh)
    return _whole_epochs(steps, state if mesh is None else place(state, mesh), num_epochs)


def _whole_epochs(steps: Steps, state: EnsembleState, number: int) -> tuple[EnsembleState, History]:
    rows = []
    for _ in range(number):
        state, totals = steps.run(state, steps.no_losses(), 0, steps.number)
        rows.append(totals / steps.number)
    return state, History(jnp.stack(rows) if rows else jnp.zeros((0, state.keys.shape[0]), jnp.float32))


def fit(
    state: EnsembleState,
    objective: Objective,
    inputs: Shaped[Array, "example ..."],
    labels: Shaped[Array, "..."],
    config: TrainingConfig,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
    epochs_per_report: int = 5,
) -> tuple[EnsembleState, History]:
    """Train from `state.epoch` to `config.epochs`, reporting on the way.

    `progress` receives epochs done, epochs in all, and `loss` (mean over members, last epoch) and
    `images_per_second` (summed over members; the first report includes compilation). A state that is finished comes
    back as it is. Arguments are those of `train_epochs`. For each objective it is compiled once;
    those of `jaxgeo.posteriors` that are made anew of the same parts are equal, a function defined anew is another.

    Raises:
        ConfigError: fewer than one epoch for each report; or as `train_epochs`.
        InputError: as `train_epochs`.
    """
    if epochs_per_report < 1:
        raise ConfigError(f"epochs_per_report must be at least 1, got {epochs_per_report}")
    steps = plan_steps(state, objective, inputs, labels, config, mesh)
    done, total = int(state.epoch), config.epochs
    images = state.keys.shape[0] * steps.number * config.batch_size
    if mesh is not None:
        state = place(state, mesh)
    rows = [jnp.zeros((0, state.keys.shape[0]), jnp.float32)]
    while done < total:
        count = min(epochs_per_report, total - done)
        start = time.perf_counter()
        state, history = _whole_epochs(steps, state, count)
        loss = float(jnp.mean(history.loss[-1]))
        elapsed = time.perf_counter() - start
        rows.append(history.loss)
        done += count
        if progress is not None:
            progress(done, total, {"loss": loss, "images_per_second": count * images / elapsed})
    return state, History(jnp.concatenate(rows))
