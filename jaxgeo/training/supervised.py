"""Training of one network on batches that do not fit at once: accumulated gradients, an averaged copy, a pure step.

A loss returns a sum and its weight, not a mean. So the gradient of a batch that is taken in parts is that of the whole
batch, also where the parts have unequal numbers of valid pixels.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgeo.errors import ConfigError, InputError, check_fields, check_real
from jaxgeo.training.loss_scales import LossScale, adjusted, all_finite, init_loss_scale
from jaxgeo.training.schedules import learning_rates

Params: TypeAlias = PyTree
Batch: TypeAlias = PyTree

Optimizer = Literal["adam", "adamw", "sgd"]
Decay = Literal["constant", "cosine"]

SumLoss: TypeAlias = Callable[[Params, Any, Batch], tuple[Array, Array]]
"""`loss(params, key, batch) -> (sum of losses, sum of weights)`, two scalars; the key is for dropout."""


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
    """Optimiser, schedule and batches of one training run.

    Raises:
        ConfigError: a number out of its range; the message names it.
    """

    steps: int = 1000
    """updates of the parameters in all"""
    batch_size: int = 4
    """examples in an update"""
    micro_batches: int = 1
    """parts that the examples of an update are taken in, to save memory; the gradient is that of the whole"""
    optimizer: Optimizer = "adamw"
    """sgd has Nesterov momentum 0.9"""
    learning_rate: float = 5e-4
    """at its peak"""
    schedule: Decay = "cosine"
    """after warming up; the cosine ends at 0 one step after the last"""
    warmup_steps: int = 50
    """steps in which the rate rises linearly"""
    weight_decay: float = 0.01
    """decoupled; of adamw only, and of matrices only: biases, norms and scales are left alone"""
    clip_norm: float = 0.0
    """largest norm of a gradient; 0 leaves it as it is"""
    average_decay: float = 0.0
    """of an exponential average of the parameters, which is then what is judged; 0 keeps none"""
    loss_scaling: bool = False
    """derivatives are of the loss times a factor that adapts itself (`loss_scales`), for networks in float16"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, steps=1, batch_size=1, micro_batches=1, warmup_steps=0, weight_decay=0, clip_norm=0)
        if self.batch_size % self.micro_batches:
            raise ConfigError(
                f"micro_batches must divide batch_size, so that all parts have one shape, got {self.micro_batches} "
                f"parts of {self.batch_size} examples"
            )
        check_real("learning_rate", self.learning_rate, above=0.0)
        if self.warmup_steps >= self.steps:
            raise ConfigError(f"warmup_steps must lie in 0 ... {self.steps - 1}, got {self.warmup_steps}")
        if not 0 <= self.average_decay < 1:
            raise ConfigError(f"average_decay must lie in [0, 1), got {self.average_decay}; 0 keeps no average")


class SupervisedState(NamedTuple):
    """All that training goes on from."""

    params: Params
    average: Params  # exponential average of `params`, without bias; None where none is kept
    opt_state: PyTree
    step: Int[Array, ""]  # updates made, or left out by the scale of the loss
    key: Key[Array, ""]  # source of all masks; never changes
    loss_scale: LossScale | None = None  # None where the loss is not scaled

    @property
    def judged(self) -> Params:
        """The parameters to predict with."""
        return self.params if self.average is None else self.average


def learning_rate_schedule(config: SupervisedConfig) -> optax.Schedule:
    """Learning rate at each step."""
    return learning_rates(config.schedule, config.learning_rate, config.steps, config.warmup_steps)


def make_optimizer(config: SupervisedConfig) -> optax.GradientTransformation:
    """The optimiser with its schedule, and clipping before it where that is asked for."""
    rate = learning_rate_schedule(config)
    if config.optimizer == "adamw":
        optimizer = optax.adamw(rate, weight_decay=config.weight_decay, mask=decayed)
    elif config.optimizer == "adam":
        optimizer = optax.adam(rate)
    else:
        optimizer = optax.sgd(rate, momentum=0.9, nesterov=True)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer) if config.clip_norm else optimizer


def decayed(params: Params) -> PyTree:
    """Which parameters weight decay may touch: those with two axes or more."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def init_supervised(key: Key[Array, ""], params: Params, config: SupervisedConfig) -> SupervisedState:
    """The state before the first step.

    Args:
        key: of dropout masks.
        params: initial or loaded parameters.
        config: of the training.
    """
    average = jax.tree.map(jnp.zeros_like, params) if config.average_decay else None
    scale = init_loss_scale() if config.loss_scaling else None
    return SupervisedState(params, average, make_optimizer(config).init(params), jnp.zeros((), jnp.int32), key, scale)


def supervised_step(
    state: SupervisedState, loss: SumLoss, batch: Batch, config: SupervisedConfig
) -> tuple[SupervisedState, Float[Array, ""]]:
    """One update, and the mean loss before it; a pure function, to be compiled with `loss` and `config` static.

    Where the loss is scaled and a derivative is not finite, nothing is learnt from the batch.

    Args:
        state: is not changed; give its buffers away where memory is short (`donate_argnums`).
        loss: sum and weight of one part of the batch.
        batch: arrays with the examples as their first axis.
        config: of the training.

    Raises:
        InputError: arrays of other lengths than `config.batch_size`.
    """
    wrong = {leaf.shape for leaf in jax.tree.leaves(batch) if leaf.shape[:1] != (config.batch_size,)}
    if wrong:
        raise InputError(f"a batch has {config.batch_size} examples on the first axis of each array, got {wrong}")
    count = config.micro_batches
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), count)
    factor = None if state.loss_scale is None else state.loss_scale.factor

    def scaled(params: Params, key: Any, part: Batch) -> tuple[Array, tuple[Array, Array]]:
        total, weight = loss(params, key, part)
        return total if factor is None else total * factor.astype(total.dtype), (total, weight)

    value_and_grad = _values_and_gradient(scaled)
    if count == 1:
        (total, weight), gradient = value_and_grad(state.params, keys[0], batch)
    else:
        parts = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), batch)
        shapes = jax.eval_shape(value_and_grad, state.params, keys[0], jax.tree.map(lambda leaf: leaf[0], parts))

        def add(sums: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, value_and_grad(state.params, *part)), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        ((total, weight), gradient), _ = jax.lax.scan(add, zeros, (keys, parts))
    # A batch without a valid pixel has the gradient 0, not 0 / 0.
    scale = 1 / jnp.where(weight == 0, 1, weight)
    back = scale if factor is None else scale / factor
    gradient = jax.tree.map(lambda leaf: leaf * back.astype(leaf.dtype), gradient)
    updates, opt_state = make_optimizer(config).update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
        # Weights d^(n-1), ..., d, 1 over their sum: from the first update on an average, of nothing but parameters.
        made = state.step + 1 if state.loss_scale is None else state.step + 1 - state.loss_scale.left_out
        share = (1 - config.average_decay) / (1 - config.average_decay ** made.astype(jnp.float32))
        average = jax.tree.map(lambda old, new: old + share.astype(old.dtype) * (new - old), average, params)
    loss_scale = state.loss_scale
    if loss_scale is not None:
        finite, kept = all_finite(gradient), (state.params, state.average, state.opt_state)
        params, average, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (params, average, opt_state), kept
        )
        loss_scale = adjusted(loss_scale, finite)
    return SupervisedState(params, average, opt_state, state.step + 1, state.key, loss_scale), total * scale


def _values_and_gradient(loss: Callable[..., tuple[Array, tuple[Array, Array]]]) -> Callable[..., Any]:
    """`f(params, key, part)` -> ((sum, weight), gradient of what the loss returns beside them)."""
    value_and_grad = jax.value_and_grad(loss, has_aux=True)

    def values_and_gradient(*arguments: Any) -> Any:
        (_, values), gradient = value_and_grad(*arguments)
        return values, gradient

    return values_and_gradient
