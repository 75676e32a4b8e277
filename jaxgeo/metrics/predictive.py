"""The predictive distribution of a set of draws, and that of the set without one group at a time."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo.metrics.checks import check_distributions, check_groups
from jaxgeo.metrics.information import at_least_float32, entropy


class Predictive(NamedTuple):
    """What the metrics need to know of the draws: two averages over them.

    Leave-one-out versions carry a leading axis of groups on both fields.
    """

    log_mean: Float[Array, "*batch class"]
    expected_entropy: Float[Array, "*batch"]


def mean_log_probs(
    log_probs: Float[Array, "draw *batch class"], name: str = "log_probs"
) -> Float[Array, "*batch class"]:
    """Logarithm of the probabilities averaged over draws (Bayesian model average), computed in log space.

    Args:
        log_probs: log-softmax outputs in nats, one slice per draw.
        name: what the caller calls them, for the message.

    Raises:
        InputError: no draws, images or classes, or, outside of `jax.jit`, what are no log-probabilities.
    """
    check_distributions(log_probs, name)
    return _log_mean(log_probs)


def summarize(log_probs: Float[Array, "draw *batch class"]) -> Predictive:
    """Both averages over all draws."""
    return Predictive(mean_log_probs(log_probs), jnp.mean(entropy(log_probs), axis=0))


def group_log_means(
    log_probs: Float[Array, "draw *batch class"], groups: int | None = None
) -> Float[Array, "group *batch class"]:
    """The predictive of each group of consecutive draws: a member's masks, a chain's or a block's draws.

    Raises:
        InputError: the draws do not fall into `groups` equal groups.
    """
    groups = check_groups(log_probs.shape[0], groups)
    return _log_means(log_probs, groups)


def leave_one_out(log_probs: Float[Array, "draw *batch class"], groups: int | None = None) -> Predictive:
    """Averages over the draws without group g, for every g at once.

    Work and memory are those of the draws themselves: the sum without a group is what comes before it plus what
    comes after it. (Subtracting from the total would lose a class that only the left-out group finds likely.)

    Args:
        log_probs: at least two groups of draws, consecutive along the first axis.
        groups: number of equal groups; None leaves out one draw at a time.

    Returns:
        Predictive with a leading axis of groups on both fields.

    Raises:
        InputError: fewer than two groups, or unequal ones.
    """
    return _without_each(log_probs, check_groups(log_probs.shape[0], groups, at_least=2))


@jax.jit
def _log_mean(log_probs: Float[Array, "draw *batch class"]) -> Float[Array, "*batch class"]:
    return jax.nn.logsumexp(at_least_float32(log_probs), axis=0) - jnp.log(log_probs.shape[0])


@functools.partial(jax.jit, static_argnums=1)
def _log_means(log_probs: Float[Array, "draw *batch class"], groups: int) -> Float[Array, "group *batch class"]:
    return jax.vmap(_log_mean)(log_probs.reshape(groups, -1, *log_probs.shape[1:]))


@functools.partial(jax.jit, static_argnums=1)
def _without_each(log_probs: Float[Array, "draw *batch class"], groups: int) -> Predictive:
    means = _log_means(log_probs, groups)
    nothing = jnp.full_like(means[0], -jnp.inf)
    _, before = jax.lax.scan(_add_and_return_old, nothing, means)
    _, after = jax.lax.scan(_add_and_return_old, nothing, means, reverse=True)
    log_mean = jnp.logaddexp(before, after) - jnp.log(groups - 1)
    entropies = entropy(log_probs).reshape(groups, -1, *log_probs.shape[1:-1]).mean(axis=1)
    expected = (jnp.sum(entropies, axis=0, keepdims=True) - entropies) / (groups - 1)
    return Predictive(log_mean, expected)


def _add_and_return_old(
    total: Float[Array, "*batch class"], new: Float[Array, "*batch class"]
) -> tuple[Float[Array, "*batch class"], Float[Array, "*batch class"]]:
    return jnp.logaddexp(total, new), total
