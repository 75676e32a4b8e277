r"""Monte Carlo dropout as a variational family on the parameter tree, alone or as an ensemble of such families.

A row $w$ of a dropped kernel, or a channel at all its taps, is $z\,c\,m$, with $z$ = 1 with probability $1 - p$ (else
0) and $c$ the survivors' scale. Point masses have infinite divergence from a Gaussian prior, so each is widened to a
Gaussian of standard deviation $\epsilon s$, $s$ being the prior's:
$q(w) = (1 - p) N(c m, \epsilon^2 s^2) + p N(0, \epsilon^2 s^2)$. Where the two components do not overlap (many columns,
$|c m| \gg \epsilon s$), the entropy of the mixture is the entropy of a component plus that of the coin, and

$$KL(q \| N(0, s^2)) = (1 - p) \frac{c^2 |m|^2}{2 s^2}
+ K \left( \frac{\epsilon^2 - 1}{2} - \log \epsilon \right) - H(p),$$

for K weights that share a coin: those of a row, or with `RowDropout(unit="channel")` those of an input channel at all
taps. Only the first term depends on $m$, so the width never enters the gradient and draws use $\epsilon \to 0$. In
general the formula is a lower bound of the divergence, off by at most H(p) per coin. Which weights are dropped, in any
network, is the rule of `jaxgeo.layers.dropout`; masks and divergence count the same.

The published programs drop the outputs of an affine layer, its bias with them, before a rectifier. That is the same
draw as dropping the rows of the next kernel; their squares, weighed by $1 - p$, are those of the layer before and of
its bias, here those of the kernel whose rows drop. After a convolution they toss a coin for every channel and pixel,
which no single tree of parameters can express: `unit="channel"` drops a channel from the whole plane, `unit="row"` from
single taps of the next kernel.

References:
    Gal and Ghahramani, "Dropout as a Bayesian Approximation", arXiv:1506.02142 (appendix).
    Balabanov, Mehlig and Linander, "Bayesian posterior approximation with stochastic ensembles", arXiv:2212.08123.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.layers.dropout import RowDropout, drop_rows, dropped_rows
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


def kl_divergence(params: Any, dropout: RowDropout, prior: GaussianPrior, width: float = WIDTH) -> Float[Array, ""]:
    r"""KL(q || prior) in nats of the family around `params`, in the limit of components that do not overlap.

    Args:
        params: the centres $m$.
        dropout: rate, scaling and which rows or channels.
        prior: the Gaussian prior of the log joint.
        width: $\epsilon$, standard deviation of each component in units of the prior's.
    """
    return dropped_penalty(params, dropout, dropped_rows(params, dropout), prior, width, "exact")


def objective(log_joint: LogJoint, dropout: RowDropout, num_train: int, divergence: Divergence = "exact") -> Objective:
    """Minus the evidence lower bound per training example, estimated with one fresh mask on one batch.

    The mean negative log-likelihood of the batch under the drawn tree, plus KL(q || prior) / N: unbiased for
    both, the choice of the batch and the mask. The key of each step draws the mask. With `divergence="published"`
    the squares of what is dropped weigh 1 - p instead of (1 - p) c^2 (`stochastic_ensemble`), which is a bound no more.

    Raises:
        ConfigError: `num_train` is below one, or an unknown divergence.
    """
    check_divergence(divergence)
    penalty = Given(_penalty, (dropout, log_joint.prior, divergence))
    return objective_of_draws(log_joint, _draw(dropout), penalty, num_train)


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
    refusal = no_density("MC dropout", "its masks give finitely many point masses")
    return Posterior(init, sample_of_members(_draw(dropout)), refusal)


def draws_of_members(key: PRNGKeyArray, members: Any, dropout: RowDropout, num_draws: int) -> Any:
    """`num_draws` draws of each of M members, stacked as one leading axis of M * num_draws, member slowest.

    Raises:
        ConfigError: fewer than one draw.
    """
    return draws_of_each(key, members, _draw(dropout), num_draws)


def _draw(dropout: RowDropout) -> Draw:
    return Given(drop_rows, (dropout,))


def _penalty(params: Any, dropout: RowDropout, prior: GaussianPrior, divergence: Divergence) -> Float[Array, ""]:
    return dropped_penalty(params, dropout, dropped_rows(params, dropout), prior, WIDTH, divergence)
