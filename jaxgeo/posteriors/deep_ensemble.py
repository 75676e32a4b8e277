"""Deep ensembles: members trained from different initial weights to maxima of the same log joint.

The family of Lakshminarayanan et al., arXiv:1612.01474, without adversarial training: draws are the members. An
ensemble of one member is the point estimate, the maximum a posteriori (MAP): every draw is it.
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from jaxgeo.errors import check_whole
from jaxgeo.posteriors.base import Posterior, draws_posterior
from jaxgeo.posteriors.log_joint import LogJoint
from jaxgeo.training.ensemble import Objective
from jaxgeo.training.examples import check_finite


def objective(log_joint: LogJoint, num_train: int) -> Objective:
    """What one member minimises: -log_joint / N, estimated on a batch (`LogJoint.objective`)."""
    return log_joint.objective(num_train)


def init_members(init_member: Callable[[PRNGKeyArray], Any], key: PRNGKeyArray, num_members: int) -> Any:
    """Initial parameters of all members, stacked; one key each.

    Raises:
        ConfigError: fewer than one member.
    """
    check_whole("the number of members", num_members)
    return jax.vmap(init_member)(jax.random.split(key, num_members))


def init_and_train(
    init_member: Callable[[PRNGKeyArray], Any],
    num_members: int,
    train: Callable[[PRNGKeyArray, Any], Any] | None,
) -> Callable[[PRNGKeyArray], Any]:
    """The `init` of a posterior of members: from a key to their stack, trained where it is told how.

    Raises:
        ConfigError: fewer than one member.
        InputError: by `init`, where what was trained is not finite: a member diverged.
    """
    check_whole("the number of members", num_members)

    def init(key: PRNGKeyArray) -> Any:
        init_key, train_key = jax.random.split(key)
        members = init_members(init_member, init_key, num_members)
        if train is None:
            return members
        trained = train(train_key, members)
        check_finite("trained members (the first axis; take a smaller learning rate where one diverges)", trained)
        return trained

    return init


def deep_ensemble(
    init_member: Callable[[PRNGKeyArray], Any],
    num_members: int,
    train: Callable[[PRNGKeyArray, Any], Any] | None = None,
) -> Posterior:
    """Equal-weight point masses on the members; the state is their stack of parameter trees.

    Args:
        init_member: initial parameters of one member from a key.
        num_members: at least one.
        train: `train(key, members) -> members`, run by `init`. Without it `init` returns the untrained members,
            and the caller trains that stack and passes it to `sample`.

    Raises:
        ConfigError: fewer than one member.
    """
    init = init_and_train(init_member, num_members, train)
    return draws_posterior(init, "a deep ensemble", "it is a mixture of point masses on its members")
