r"""DropConnect as a variational family on the parameter tree, alone or as an ensemble of such families.

Every weight of a dropped kernel is kept or lost for itself: $w = z\,c\,m$, with $z$ = 1 with probability $1 - p$
(else 0) and $c$ the survivors' scale. Widened as in `mc_dropout`, and where $|c m| \gg \epsilon s$ for the prior's
standard deviation $s$, a weight adds to the divergence

$$KL(q \| N(0, s^2)) = (1 - p) \frac{c^2 m^2}{2 s^2} + \frac{\epsilon^2 - 1}{2} - \log \epsilon - H(p).$$

This is `mc_dropout` with as many coins as weights; the gradient of a centre is the same at the same rate. For
$\epsilon \to 0$ the two components part for every $m \neq 0$; at any width the formula is a lower bound of the
divergence, off by at most H(p) per weight.

Which weights are dropped, in any network, is the rule of `jaxgeo.layers.dropout`. Biases are not, as with `mc_dropout`
(`extra` of `WeightDropout` changes that); the published programs drop those of a dropped layer too.

References:
    Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013.
    Balabanov, Mehlig and Linander, "Bayesian posterior approximation with stochastic ensembles", arXiv:2212.08123.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.layers.dropout import WeightDropout, drop_weights, dropped_weights
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
    dropped_penalty,
    objective_of_draws,
    sample_of_members,
)
from jaxgeo.training.ensemble import Objective


def kl_divergence(params: Any, dropout: WeightDropout, prior: GaussianPrior, width: float = WIDTH) -> Float[Array, ""]:
    r"""KL(q || prior) in nats of the family around `params`, in the limit of components that do not overlap.

    Args:
        params: the centres $m$.
        dropout: rate, scaling and which kernels.
        prior: the Gaussian prior of the log joint.
        width: $\epsilon$, standard deviation of each component in units of the prior's.
    """
    return dropped_penalty(params, dropout, dropped_weights(params, dropout), prior, width, "exact")


def objective(
    log_joint: LogJoint, dropout: WeightDropout, num_train: int, divergence: Divergence = "exact"
) -> Objective:
    """Minus the evidence lower bound per training example, estimated with one fresh mask on one batch.

    As `mc_dropout.objective`, with a coin for each weight; `divergence="published"` weighs the squares of what is
    dropped by 1 - p instead of (1 - p) c^2 (`stochastic_ensemble`), which is a bound no more.

    Raises:
        ConfigError: `num_train` is below one, or an unknown divergence.
    """
    check_divergence(divergence)
    penalty = Given(_penalty, (dropout, log_joint.prior, divergence))
    return objective_of_draws(log_joint, _draw(dropout), penalty, num_train)


def drop_connect(
    init_member: Callable[[PRNGKeyArray], Any],
    dropout: WeightDropout,
    num_members: int = 1,
    train: Callable[[PRNGKeyArray, Any], Any] | None = None,
) -> Posterior:
    """An ensemble of DropConnect families; the state is the stack of their centres, one for each member.

    `sample` picks a member, all equally likely, and draws a mask on its tree. `init` and `train` are as in
    `deep_ensemble`. M members with K draws each, exactly K of every member, are `draws_of_members`.

    Raises:
        ConfigError: fewer than one member.
    """
    init = init_and_train(init_member, num_members, train)
    refusal = no_density("DropConnect", "its masks give finitely many point masses")
    return Posterior(init, sample_of_members(_draw(dropout)), refusal)


def draws_of_members(key: PRNGKeyArray, members: Any, dropout: WeightDropout, num_draws: int) -> Any:
    """`num_draws` draws of each of M members, stacked as one leading axis of M * num_draws, member slowest.

    Raises:
        ConfigError: fewer than one draw.
    """
    return draws_of_each(key, members, _draw(dropout), num_draws)


def _draw(dropout: WeightDropout) -> Draw:
    return Given(drop_weights, (dropout,))


def _penalty(params: Any, dropout: WeightDropout, prior: GaussianPrior, divergence: Divergence) -> Float[Array, ""]:
    return dropped_penalty(params, dropout, dropped_weights(params, dropout), prior, WIDTH, divergence)
