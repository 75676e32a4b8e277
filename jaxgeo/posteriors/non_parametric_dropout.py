r"""Non-parametric dropout as a variational family on the parameter tree, alone or as an ensemble of such families.

A member is a pair of networks, and each unit (`jaxgeo.layers.unit_choice`: the column of a kernel with its bias) is
the first's, $m_1$, or the second's, $m_2$, with probability 1/2. Widened as in `mc_dropout`,
$q(w) = \tfrac12 N(m_1, \epsilon^2 s^2) + \tfrac12 N(m_2, \epsilon^2 s^2)$ with the prior's standard deviation $s$,
which may differ from weight to weight. Where the two do not overlap ($|m_1 - m_2| \gg \epsilon s$), a unit of K
weights adds

$$KL(q \| N(0, s^2)) = \frac12 \sum_{k = 1}^{K} \frac{m_{1k}^2 + m_{2k}^2}{2 s_k^2}
+ K \left( \frac{\epsilon^2 - 1}{2} - \log \epsilon \right) - \log 2.$$

The factor 1/2 of both copies is also that of the published programs: nothing is scaled, so the exact and the published
divergence are the same. In general the formula is a lower bound, off by at most log 2 per unit; where the copies
coincide the family is a deterministic network, and the formula is too small by just that.

References:
    Balabanov, Mehlig and Linander, "Bayesian posterior approximation with stochastic ensembles", arXiv:2212.08123.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.layers.unit_choice import BOTH_COPIES, UnitChoice, check_pair, choose, init_pair, unit_group, units
from jaxgeo.posteriors.base import Posterior, no_density
from jaxgeo.posteriors.deep_ensemble import init_and_train
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint
from jaxgeo.posteriors.stochastic_ensemble import (
    WIDTH,
    Divergence,
    Draw,
    Given,
    check_divergence,
    draws_of_each,
    narrow_component,
    objective_of_draws,
    sample_of_members,
)
from jaxgeo.training.ensemble import Objective


def kl_divergence(
    pair: Any, prior: GaussianPrior, choice: UnitChoice = BOTH_COPIES, width: float = WIDTH
) -> Float[Array, ""]:
    r"""KL(q || prior) in nats of the family of a pair, in the limit of components that do not overlap.

    Args:
        pair: `{"first": params, "second": params}`, the centres $m_1$ and $m_2$.
        prior: the Gaussian prior of the log joint.
        choice: which modules are always the first's; the second's copies of those do not count.
        width: $\epsilon$, standard deviation of each component in units of the prior's.

    Raises:
        ConfigError: not a pair, or impossible `fixed`.
    """
    first, second = check_pair(pair)
    coins = sum(units(first, choice).values())

    def of_leaf(path: tuple[Any, ...], one: Any, other: Any, scale: float) -> Float[Array, ""]:
        squares = jnp.sum((one / scale) ** 2)
        if unit_group(path, one, choice) is not None:
            squares = (squares + jnp.sum((other / scale) ** 2)) / 2.0
        return squares / 2.0 + one.size * narrow_component(width)

    terms = jax.tree_util.tree_map_with_path(of_leaf, first, second, prior.scales(first))
    return jnp.sum(jnp.stack(jax.tree.leaves(terms))) - coins * math.log(2.0)


def objective(
    log_joint: LogJoint, num_train: int, choice: UnitChoice = BOTH_COPIES, divergence: Divergence = "exact"
) -> Objective:
    """Minus the evidence lower bound per training example, estimated with one fresh choice on one batch.

    A function of a pair (`init_pair`), which `jaxgeo.training.ensemble` trains like any tree. Both values of
    `divergence` are the same function here.

    Raises:
        ConfigError: `num_train` is below one, or an unknown divergence.
    """
    check_divergence(divergence)
    penalty = Given(kl_divergence, (log_joint.prior, choice))
    return objective_of_draws(log_joint, _draw(choice), penalty, num_train)


def non_parametric_dropout(
    init_member: Callable[[PRNGKeyArray], Any],
    num_members: int = 1,
    train: Callable[[PRNGKeyArray, Any], Any] | None = None,
    choice: UnitChoice = BOTH_COPIES,
) -> Posterior:
    """An ensemble of non-parametric dropout families; the state is the stack of their pairs.

    Args:
        init_member: initial parameters of ONE network from a key; a member is a pair of them.
        num_members: at least one.
        train: as in `deep_ensemble`, on the stack of pairs.
        choice: which modules are always the first's.

    Raises:
        ConfigError: fewer than one member.
    """
    init = init_and_train(init_pair(init_member), num_members, train)
    refusal = no_density("non-parametric dropout", "its choices give finitely many point masses")
    return Posterior(init, sample_of_members(_draw(choice)), refusal)


def draws_of_members(key: PRNGKeyArray, members: Any, num_draws: int, choice: UnitChoice = BOTH_COPIES) -> Any:
    """`num_draws` draws of each of M pairs, stacked as one leading axis of M * num_draws, member slowest.

    Raises:
        ConfigError: fewer than one draw.
    """
    return draws_of_each(key, members, _draw(choice), num_draws)


def _draw(choice: UnitChoice) -> Draw:
    return Given(choose, (choice,))
