r"""Mean-field Gaussian variational inference: an independent normal distribution for each weight.

$q(w) = \prod_i N(w_i; m_i, \sigma_i^2)$, alone or as an equal-weight mixture of such families. A member is the tree
`{"mean": params, "log_scale": params}` with $\log \sigma$ in the place of each weight. A draw is $m + \sigma z$ with
standard normal $z$, so that its gradient reaches both (reparameterisation), and

$$KL(q \| p) = \sum_i \frac{\sigma_i^2 + m_i^2}{2 s_i^2} - \frac12 - \log \frac{\sigma_i}{s_i}$$

for the prior $N(0, s_i^2)$. Where the posterior is Gaussian with precision $\Lambda$ and mean $\mu$, the best member is
$m = \mu$, $\sigma_i^2 = 1 / \Lambda_{ii}$: right if $\Lambda$ is diagonal, and narrower than the margins if not.

References:
    Graves, "Practical Variational Inference for Neural Networks", NeurIPS 2011.
    Blundell et al., "Weight Uncertainty in Neural Networks", arXiv:1505.05424.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.errors import ConfigError, check_real
from jaxgeo.posteriors.base import Posterior, mixture_log_prob, normal_like
from jaxgeo.posteriors.deep_ensemble import init_and_train
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint
from jaxgeo.posteriors.stochastic_ensemble import Given, draws_of_each, objective_of_draws, sample_of_members
from jaxgeo.training.ensemble import Objective


def init_gaussian(
    init_member: Callable[[PRNGKeyArray], Any], initial_scale: float = 1e-2
) -> Callable[[PRNGKeyArray], dict[str, Any]]:
    """From the initial parameters of a network to those of a family around them, all of one standard deviation.

    Raises:
        ConfigError: `initial_scale` is not finite and positive.
    """
    check_real("the initial scale of a mean-field family", initial_scale, above=0.0)

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        mean = init_member(key)
        return {
            "mean": mean,
            "log_scale": jax.tree.map(lambda leaf: jnp.full_like(leaf, math.log(initial_scale)), mean),
        }

    return init


def draw_gaussian(key: PRNGKeyArray, member: Any) -> Any:
    """One draw, an ordinary parameter tree; differentiable in the member."""
    noise = normal_like(key, member["mean"])
    return jax.tree.map(lambda m, s, z: m + jnp.exp(s) * z, member["mean"], member["log_scale"], noise)


def kl_divergence(member: Any, prior: GaussianPrior) -> Float[Array, ""]:
    """KL(q || prior) in nats, in closed form.

    Raises:
        ConfigError: not a member, but a network's own parameters, say.
    """
    if not (isinstance(member, Mapping) and set(member) == {"mean", "log_scale"}):
        raise ConfigError(
            f"a member of a mean-field family is a tree {{'mean': params, 'log_scale': params}}, got "
            f"{sorted(map(str, member)) if isinstance(member, Mapping) else type(member).__name__}; see init_gaussian"
        )

    def of_leaf(mean: Any, log_scale: Any, prior_scale: float) -> Float[Array, ""]:
        log_ratio = log_scale - math.log(prior_scale)
        return jnp.sum((jnp.exp(2 * log_ratio) + (mean / prior_scale) ** 2 - 1.0) / 2.0 - log_ratio)

    terms = jax.tree.map(of_leaf, member["mean"], member["log_scale"], prior.scales(member["mean"]))
    return jnp.sum(jnp.stack(jax.tree.leaves(terms)))


def objective(log_joint: LogJoint, num_train: int) -> Objective:
    """Minus the evidence lower bound per training example, estimated with one draw on one batch.

    A function of a member (`init_gaussian`), which `jaxgeo.training.ensemble` trains like any tree.

    Raises:
        ConfigError: `num_train` is below one.
    """
    return objective_of_draws(log_joint, draw_gaussian, Given(kl_divergence, (log_joint.prior,)), num_train)


def log_density(member: Any, params: Any) -> Float[Array, ""]:
    """Log-density of a parameter tree under one member, in nats."""
    terms = jax.tree.map(
        lambda w, mean, log_scale: jnp.sum(jax.scipy.stats.norm.logpdf(w, mean, jnp.exp(log_scale))),
        params,
        member["mean"],
        member["log_scale"],
    )
    return jnp.sum(jnp.stack(jax.tree.leaves(terms)))


def mean_field(
    init_member: Callable[[PRNGKeyArray], Any],
    num_members: int = 1,
    train: Callable[[PRNGKeyArray, Any], Any] | None = None,
    initial_scale: float = 1e-2,
) -> Posterior:
    """An equal-weight mixture of mean-field families, with its density; the state is the stack of members.

    Args:
        init_member: initial parameters of one network from a key; a member is the family around it.
        num_members: at least one.
        train: as in `deep_ensemble`, on the stack of members.
        initial_scale: standard deviation of every weight before training.

    Raises:
        ConfigError: fewer than one member, or an impossible scale.
    """
    init = init_and_train(init_gaussian(init_member, initial_scale), num_members, train)
    return Posterior(init, sample_of_members(draw_gaussian), mixture_log_prob(log_density))


def draws_of_members(key: PRNGKeyArray, members: Any, num_draws: int) -> Any:
    """`num_draws` draws of each of M members, stacked as one leading axis of M * num_draws, member slowest.

    Raises:
        ConfigError: fewer than one draw.
    """
    return draws_of_each(key, members, draw_gaussian, num_draws)
