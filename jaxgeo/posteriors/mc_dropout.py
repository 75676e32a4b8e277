r"""Monte Carlo dropout as a variational family on the parameter tree, alone or as an ensemble of such families.

A row $w$ of a dropped kernel is $z\,c\,m$, with $z$ = 1 with probability $1 - p$ (else 0) and $c$ the survivors'
scale. Point masses have infinite divergence from a Gaussian prior, so each is widened to a Gaussian of standard
deviation $\epsilon s$, $s$ being the prior's: $q(w) = (1 - p) N(c m, \epsilon^2 s^2) + p N(0, \epsilon^2 s^2)$.
Where the two components do not overlap (many columns, $|c m| \gg \epsilon s$), the entropy of the mixture is the
entropy of a component plus that of the coin, and

$$KL(q \| N(0, s^2)) = (1 - p) \frac{c^2 |m|^2}{2 s^2}
+ K \left( \frac{\epsilon^2 - 1}{2} - \log \epsilon \right) - H(p),$$

for K columns. Only the first term depends on $m$, so the width never enters the gradient and draws use
$\epsilon \to 0$. In general the formula is a lower bound of the divergence, off by at most H(p) per row.

References:
    Gal and Ghahramani, "Dropout as a Bayesian Approximation", arXiv:1506.02142 (appendix).
    Balabanov, Mehlig and Linander, "Bayesian posterior approximation with stochastic ensembles", arXiv:2212.08123.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.errors import ConfigError
from jaxgeo.layers.dropout import RowDropout, drop_rows, dropped_rows
from jaxgeo.posteriors.base import Posterior, no_density, pick_member
from jaxgeo.posteriors.deep_ensemble import init_and_train
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint
from jaxgeo.training.ensemble import Objective

WIDTH = 1e-3  # epsilon: any value gives the same gradients


def kl_divergence(params: Any, dropout: RowDropout, prior: GaussianPrior, width: float = WIDTH) -> Float[Array, ""]:
    r"""KL(q || prior) in nats of the family around `params`, in the limit of components that do not overlap.

    Args:
        params: the centres $m$.
        dropout: rate, scaling and which rows.
        prior: the Gaussian prior of the log joint.
        width: $\epsilon$, standard deviation of each component in units of the prior's.
    """
    keep = 1.0 - dropout.rate
    coin = -(keep * math.log(keep) + dropout.rate * math.log(dropout.rate))
    per_weight = 0.5 * (width**2 - 1.0) - math.log(width)

    def of_leaf(leaf: Any, rows: int, scale: float) -> Float[Array, ""]:
        second_moment = keep * dropout.survivor_scale**2 if rows else 1.0
        return second_moment * jnp.sum((leaf / scale) ** 2) / 2.0 + (leaf.size * per_weight - rows * coin)

    terms = jax.tree.map(of_leaf, params, dropped_rows(params, dropout), prior.scales(params))
    return jnp.sum(jnp.stack(jax.tree.leaves(terms)))


def objective(log_joint: LogJoint, dropout: RowDropout, num_train: int) -> Objective:
    """Minus the evidence lower bound per training example, estimated with one fresh mask on one batch.

    The mean negative log-likelihood of the batch under the drawn tree, plus KL(q || prior) / N: unbiased for
    both, the choice of the batch and the mask. The key of each step draws the mask.

    Raises:
        ConfigError: `num_train` is below one.
    """
    if num_train < 1:
        raise ConfigError(f"the number of training examples must be at least 1, got {num_train}")

    def objective(params: Any, key: PRNGKeyArray, inputs: Any, targets: Any) -> Float[Array, ""]:
        drawn = drop_rows(key, params, dropout)
        mean = jnp.mean(log_joint.likelihood(log_joint.apply(drawn, inputs), targets))
        return -mean + kl_divergence(params, dropout, log_joint.prior) / num_train

    return objective


def mc_dropout(
    init_member: Callable[[PRNGKeyArray], Any],
    dropout: RowDropout,
    num_members: int = 1,
    train: Callable[[PRNGKeyArray, Any], Any] | None = None,
) -> Posterior:
    """An ensemble of dropout families; the state is the stack of their centres, one for each member.

    `sample` picks a member, all equally likely, and draws a mask on its tree. `init` and `train` are as in
    `deep_ensemble`. M members with K draws each, exactly K of every member, are `draws_of_members`.

    Raises:
        ConfigError: fewer than one member.
    """
    init = init_and_train(init_member, num_members, train)

    def sample(key: PRNGKeyArray, state: Any) -> Any:
        member_key, mask_key = jax.random.split(key)
        return drop_rows(mask_key, pick_member(member_key, state), dropout)

    return Posterior(init, sample, no_density("MC dropout", "its masks give finitely many point masses"))


def draws_of_members(key: PRNGKeyArray, members: Any, dropout: RowDropout, num_draws: int) -> Any:
    """`num_draws` draws of each of M members, stacked as one leading axis of M * num_draws, member slowest.

    Raises:
        ConfigError: fewer than one draw.
    """
    if num_draws < 1:
        raise ConfigError(f"the number of draws of each member must be at least 1, got {num_draws}")
    num_members = jax.tree.leaves(members)[0].shape[0]
    keys = jax.random.split(key, (num_members, num_draws))
    draw = jax.vmap(jax.vmap(lambda k, params: drop_rows(k, params, dropout), in_axes=(0, None)))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), draw(keys, members))
