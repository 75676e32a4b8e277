r"""SWAG: a Gaussian fitted to the weights that stochastic gradient descent passes at a constant rate.

From T snapshots $\theta_i$ with running means $\bar\theta_i$, and the last K deviations $D$, columns
$\theta_i - \bar\theta_i$,

$$q = N\left(\bar\theta_T,\; \tfrac12 \mathrm{diag}(\overline{\theta^2} - \bar\theta^2)
+ \tfrac{1}{2 (K - 1)} D D^T\right).$$

With several members (MultiSWAG) the mixture of theirs in equal shares. What the snapshots spread over depends on the
learning rate and the batch size, not on the posterior alone.

References:
    Maddox et al., "A Simple Baseline for Bayesian Uncertainty in Deep Learning", arXiv:1902.02476, algorithm 1.
    Wilson and Izmailov, "Bayesian Deep Learning and a Probabilistic Perspective of Generalization", arXiv:2002.08791.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxgeo.errors import ConfigError, check_fields, check_real
from jaxgeo.posteriors.base import Posterior, mixture_log_prob, normal_like, num_stacked
from jaxgeo.posteriors.deep_ensemble import init_and_train
from jaxgeo.posteriors.log_joint import LogJoint
from jaxgeo.posteriors.minibatch import check_batch_size, random_rows
from jaxgeo.posteriors.stochastic_ensemble import sample_of_members
from jaxgeo.training.ensemble import Objective
from jaxgeo.training.examples import check_data, check_finite, check_rows

_LEAST_VARIANCE = 1e-30
"""Of the diagonal part: a weight that never moved has a density still."""


@dataclasses.dataclass(frozen=True)
class SwagConfig:
    """How the snapshots are taken."""

    num_snapshots: int = 20
    """T"""
    rank: int = 20
    """K: deviations that are kept"""
    steps_between: int = 50
    """steps of gradient descent before each snapshot, usually one epoch"""
    learning_rate: float = 1e-2
    """constant"""
    momentum: float = 0.9
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse sizes and rates that give no covariance."""
        check_fields(self, num_snapshots=1, rank=1, steps_between=1, batch_size=1)
        if not 2 <= self.rank <= self.num_snapshots:
            raise ConfigError(
                f"rank must lie between 2 and num_snapshots, got rank {self.rank} and {self.num_snapshots} snapshots"
            )
        check_real("learning_rate", self.learning_rate, above=0.0)
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must lie in [0, 1), got {self.momentum}")


class SwagState(NamedTuple):
    """Moments of the snapshots so far, of one member."""

    number: Int[Array, ""]  # of snapshots
    mean: Any
    squares: Any  # sums of squared deviations from the mean
    deviations: Any  # a leading axis of K; slots not yet filled are zero


def no_snapshots(params: Any, rank: int) -> SwagState:
    """The moments of no snapshots, for trees like `params`."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    deviations = jax.tree.map(lambda leaf: jnp.zeros((rank, *leaf.shape), leaf.dtype), params)
    return SwagState(jnp.zeros((), jnp.int32), zeros, zeros, deviations)


def add_snapshot(state: SwagState, params: Any) -> SwagState:
    """The moments with one snapshot more; of the deviations it replaces the oldest."""
    slot = jnp.mod(state.number, num_stacked(state.deviations))
    number = state.number + 1
    # Welford's update: the difference of two mean squares would lose the digits of a small variance.
    mean = jax.tree.map(lambda m, w: m + (w - m) / number, state.mean, params)
    squares = jax.tree.map(lambda q, w, old, new: q + (w - old) * (w - new), state.squares, params, state.mean, mean)
    deviations = jax.tree.map(lambda d, w, m: d.at[slot].set(w - m), state.deviations, params, mean)
    return SwagState(number, mean, squares, deviations)


def _half_variance(state: SwagState) -> Any:
    half = 1.0 / (2.0 * jnp.maximum(state.number, 1))
    return jax.tree.map(lambda q: jnp.maximum(q * half, _LEAST_VARIANCE), state.squares)


def _root_factor(state: SwagState) -> Float[Array, ""]:
    kept = jnp.minimum(state.number, num_stacked(state.deviations))
    return 1.0 / jnp.sqrt(2.0 * jnp.maximum(kept - 1, 1))


def draw_swag(key: PRNGKeyArray, state: SwagState) -> Any:
    """One draw, an ordinary parameter tree."""
    diagonal_key, rank_key = jax.random.split(key)
    along = _root_factor(state) * jax.random.normal(rank_key, (num_stacked(state.deviations),))
    return jax.tree.map(
        lambda m, half, z, d: m + jnp.sqrt(half) * z + jnp.tensordot(along.astype(m.dtype), d, axes=1),
        state.mean, _half_variance(state), normal_like(diagonal_key, state.mean), state.deviations,
    )  # fmt: skip


def log_density(state: SwagState, params: Any) -> Float[Array, ""]:
    """Log-density of a parameter tree under one member, in nats, by Woodbury's identity: no matrix above K x K."""
    difference = ravel_pytree(params)[0] - ravel_pytree(state.mean)[0]
    diagonal = ravel_pytree(_half_variance(state))[0]
    root = jax.vmap(lambda tree: ravel_pytree(tree)[0])(state.deviations) * _root_factor(state)
    scaled_root, scaled = root / jnp.sqrt(diagonal)[None], difference / jnp.sqrt(diagonal)
    inner = jnp.linalg.cholesky(jnp.eye(root.shape[0], dtype=root.dtype) + scaled_root @ scaled_root.T)
    explained = jax.scipy.linalg.solve_triangular(inner, scaled_root @ scaled, lower=True)
    log_det = jnp.sum(jnp.log(diagonal)) + 2.0 * jnp.sum(jnp.log(jnp.diagonal(inner)))
    squares = jnp.sum(scaled**2) - jnp.sum(explained**2)
    return -0.5 * (squares + log_det + difference.size * math.log(2 * math.pi))


def collect_snapshots(
    key: PRNGKeyArray, objective: Objective, params: Any, inputs: Any, targets: Any, config: SwagConfig
) -> SwagState:
    """Gradient descent from `params` at a constant rate, and the moments of its snapshots.

    Args:
        key: draws the batches (`minibatch.random_rows`) and what the objective draws.
        objective: loss of one network on a batch, nats per example (`LogJoint.objective`).
        params: where to start, usually a trained network.
        inputs: all training inputs, example axis first.
        targets: one for each.
        config: number and distance of the snapshots, rate and batch.

    Raises:
        ConfigError: a batch larger than the data.
        InputError: inputs and targets of different numbers, or targets that the objective refuses.
    """
    number = check_data(objective, params, inputs, targets)
    check_batch_size(config.batch_size, number)
    optimizer = optax.sgd(config.learning_rate, momentum=config.momentum or None)

    def step(carry: Any, key: PRNGKeyArray) -> tuple[Any, None]:
        params, opt_state = carry
        rows_key, loss_key = jax.random.split(key)
        rows = random_rows(rows_key, number, config.batch_size)
        gradients = jax.grad(objective)(params, loss_key, jax.tree.map(lambda x: x[rows], inputs), targets[rows])
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def snapshot(carry: Any, key: PRNGKeyArray) -> tuple[Any, None]:
        (params, opt_state), state = carry
        walked, _ = jax.lax.scan(step, (params, opt_state), jax.random.split(key, config.steps_between))
        return (walked, add_snapshot(state, walked[0])), None

    start = (params, optimizer.init(params)), no_snapshots(params, config.rank)
    (_, state), _ = jax.lax.scan(snapshot, start, jax.random.split(key, config.num_snapshots))
    return state


def swag(
    init_member: Callable[[PRNGKeyArray], Any],
    log_joint: LogJoint,
    inputs: Any,
    targets: Any,
    config: SwagConfig,
    num_members: int = 1,
    train: Callable[[PRNGKeyArray, Any], Any] | None = None,
) -> Posterior:
    """An equal-weight mixture of SWAG Gaussians, with its density; the state is the stack of `SwagState`.

    Args:
        init_member: initial parameters of one network from a key.
        log_joint: its objective is what the snapshots descend.
        inputs: all training inputs, example axis first.
        targets: one for each.
        config: how the snapshots are taken.
        num_members: at least one.
        train: as in `deep_ensemble`; brings the stack of networks to where the snapshots begin.

    Raises:
        ConfigError: fewer than one member, or a batch larger than the data.
        InputError: inputs and targets of different numbers; `init` also raises what `LogJoint.check_data` does, and
            refuses walks that left the finite numbers.
    """
    start = init_and_train(init_member, num_members, train)
    number = check_rows(inputs, targets)
    objective = log_joint.objective(number)
    check_batch_size(config.batch_size, number)

    def init(key: PRNGKeyArray) -> SwagState:
        start_key, walk_key = jax.random.split(key)
        members = start(start_key)
        walk = jax.vmap(lambda k, params: collect_snapshots(k, objective, params, inputs, targets, config))
        state = jax.jit(walk)(jax.random.split(walk_key, num_members), members)
        check_finite(f"the snapshots (take a learning rate below {config.learning_rate} where members diverge)", state)
        return state

    return Posterior(init, sample_of_members(draw_swag), mixture_log_prob(log_density))
