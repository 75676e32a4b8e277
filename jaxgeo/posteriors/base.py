"""The contract that every approximate posterior fulfils, and the family that is nothing but a list of draws."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeAlias

import jax
from jaxtyping import Array, PRNGKeyArray

from jaxgeo.errors import ConfigError, JaxgeoError, check_whole

Apply: TypeAlias = Callable[[Any, Any], Array]
"""A pure network `apply(params, inputs) -> predictions`."""


class NoDensityError(JaxgeoError, NotImplementedError):
    """The family has no density with respect to the parameters, so `log_prob` has no answer."""


class Posterior(NamedTuple):
    """An approximate posterior q(theta | data): three pure functions and a state that they share.

    `sample` returns an ordinary parameter tree; `log_prob` is a normalised log-density in nats, and raises
    `NoDensityError` where the family has none.
    """

    init: Callable[[PRNGKeyArray], Any]
    sample: Callable[[PRNGKeyArray, Any], Any]
    log_prob: Callable[[Any, Any], Array]


def no_density(family: str, reason: str) -> Callable[[Any, Any], Array]:
    """A `log_prob` that refuses: `family` is the subject of the sentence, `reason` follows a colon."""

    def log_prob(state: Any, params: Any) -> NoReturn:
        raise NoDensityError(
            f"{family} has no density: {reason}; compare it with others by its predictions, or take log_joint for "
            f"the unnormalised log posterior of a single parameter tree"
        )

    return log_prob


def sample_many(posterior: Posterior, key: PRNGKeyArray, state: Any, num: int) -> Any:
    """`num` independent draws, stacked as a new leading axis on every leaf.

    Raises:
        ConfigError: `num` is no whole number of at least one.
    """
    check_whole("the number of draws", num)
    return jax.vmap(posterior.sample, in_axes=(0, None))(jax.random.split(key, num), state)


def num_stacked(draws: Any) -> int:
    """Length of the leading axis that all leaves of a stack of parameter trees share.

    Raises:
        ConfigError: no leaves, a scalar leaf, or leaves that disagree.
    """
    lengths = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(draws)}
    if len(lengths) != 1 or None in lengths:
        raise ConfigError(
            f"a stack of parameter trees needs one leading axis that all leaves share, got lengths {lengths}"
        )
    return int(lengths.pop() or 0)


def pick_member(key: PRNGKeyArray, members: Any) -> Any:
    """One parameter tree of a stack, all equally likely."""
    index = jax.random.randint(key, (), 0, num_stacked(members))
    return jax.tree.map(lambda leaf: leaf[index], members)


def normal_like(key: PRNGKeyArray, tree: Any) -> Any:
    """Independent standard normal numbers in the shapes and dtypes of a tree of arrays."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten(
        [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )


def mixture_log_prob(log_density: Callable[[Any, Any], Array]) -> Callable[[Any, Any], Array]:
    """The `log_prob` of a mixture in equal shares, from that of one member; the state is the stack of members."""

    def log_prob(state: Any, params: Any) -> Array:
        densities = jax.vmap(log_density, in_axes=(0, None))(state, params)
        return jax.nn.logsumexp(densities) - math.log(num_stacked(state))

    return log_prob


def draws_posterior(init: Callable[[PRNGKeyArray], Any], family: str, reason: str) -> Posterior:
    """A posterior that is a finite list of equally likely parameter trees: its state is their stack."""
    return Posterior(init, pick_member, no_density(family, reason))
