r"""What the families of one random draw per member share: dropout, DropConnect and non-parametric dropout.

Every such family is a function `draw(key, member) -> params` with finitely many outcomes, and a penalty that stands
for its divergence from the prior. Where a part (a row, a weight) with centre $m$ is kept as $c m$ with probability
$1 - p$ and is zero otherwise, the penalty is, up to a constant,

$$f \frac{|m|^2}{2 s^2}, \qquad f = (1 - p) c^2 \text{ (exact)}, \qquad f = 1 - p \text{ (published)},$$

$s$ being the prior's standard deviation. The exact factor is the second moment of the family that is drawn, $1 / (1 -
p)$ for inverted dropout with $c = 1 / (1 - p)$; the programs of Balabanov, Mehlig and Linander scale the survivors
so, yet weigh the squares by $1 - p$, which is the factor of the unscaled family ($c = 1$). The two agree where
nothing is scaled. The exact form is the divergence itself where the components are apart, ten widths say, which at
the width of the objectives is a hundredth of the prior's scale; nearer to zero it is a lower bound (`mc_dropout`).

References:
    Balabanov, Mehlig and Linander, "Bayesian posterior approximation with stochastic ensembles", arXiv:2212.08123,
    and the programs at https://github.com/oleksandr-balabanov/stochastic-ensembles.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.errors import check_one_of, check_whole
from jaxgeo.layers.dropout import RowDropout, WeightDropout
from jaxgeo.posteriors.base import num_stacked, pick_member
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint
from jaxgeo.training.ensemble import Objective
from jaxgeo.training.examples import CheckedObjective

Divergence: TypeAlias = Literal["exact", "published"]
"""Factor of the squares in an objective: that of the family that is drawn, or that of the published programs."""

Draw: TypeAlias = Callable[[PRNGKeyArray, Any], Any]
"""`draw(key, member)`: one ordinary parameter tree of the family around one member."""

WIDTH = 1e-3
"""Standard deviation of a family's components in units of the prior's: any value gives the same gradients."""


@dataclasses.dataclass(frozen=True)
class Given:
    """`function` with its last arguments given; equal to another of the same, so that a program is compiled once."""

    function: Callable[..., Any]
    settings: tuple[Any, ...]

    def __call__(self, *arguments: Any) -> Any:
        """The function of these arguments, then the given ones."""
        return self.function(*arguments, *self.settings)


def check_divergence(divergence: str) -> None:
    """Refuse an unknown name (`ConfigError`)."""
    check_one_of("divergence", divergence, Divergence)


def narrow_component(width: float) -> float:
    """KL(N(0, width^2) || N(0, 1)) in nats, what each weight adds to a divergence wherever its centre is."""
    return 0.5 * (width**2 - 1.0) - math.log(width)


def dropped_penalty(
    params: Any,
    dropout: RowDropout | WeightDropout,
    coins: Any,
    prior: GaussianPrior,
    width: float,
    divergence: Divergence,
) -> Float[Array, ""]:
    """The divergence of a family that drops parts of kernels, or the published form of it, in nats.

    Args:
        params: the centres.
        dropout: rate and scaling.
        coins: a tree like `params`, the number of parts of each leaf that drop independently.
        prior: of the log joint.
        width: of the components, see `WIDTH`.
        divergence: which factor the squares of what is dropped have.

    Raises:
        ConfigError: an unknown divergence.
    """
    check_divergence(divergence)
    keep = 1.0 - dropout.rate
    coin = -(keep * math.log(keep) + dropout.rate * math.log(dropout.rate))
    factor = keep * dropout.survivor_scale**2 if divergence == "exact" else keep

    def of_leaf(leaf: Any, count: int, scale: float) -> Float[Array, ""]:
        squares = jnp.sum((leaf / scale) ** 2)
        return (factor if count else 1.0) * squares / 2.0 + (leaf.size * narrow_component(width) - count * coin)

    terms = jax.tree.map(of_leaf, params, coins, prior.scales(params))
    return jnp.sum(jnp.stack(jax.tree.leaves(terms)))


def objective_of_draws(
    log_joint: LogJoint, draw: Draw, penalty: Callable[[Any], Float[Array, ""]], num_train: int
) -> Objective:
    """Mean negative log-likelihood of the examples of a batch under one draw plus `penalty(member)` / N, in nats.

    The key of each step makes the draw. Unbiased for both, the choice of the batch and the draw. Objectives of equal
    arguments are equal (draws and penalties that are functions, or `Given`): training with one that is made anew is not
    compiled again.

    Raises:
        ConfigError: `num_train` is below one.
    """
    check_whole("the number of training examples", num_train)

    def check(member: Any, inputs: Any, targets: Any) -> None:
        log_joint.check_data(jax.eval_shape(draw, jax.random.key(0), member), inputs, targets)

    return CheckedObjective(_OfDraws(log_joint, draw, penalty, num_train), check)


@dataclasses.dataclass(frozen=True)
class _OfDraws:
    """The function of `objective_of_draws`, equal where what it is made of is."""

    log_joint: LogJoint
    draw: Draw
    penalty: Callable[[Any], Float[Array, ""]]
    num_train: int

    def __call__(self, member: Any, key: PRNGKeyArray, inputs: Any, targets: Any) -> Float[Array, ""]:
        mean = jnp.mean(self.log_joint.log_likelihoods_of_examples(self.draw(key, member), inputs, targets))
        return -mean + self.penalty(member) / self.num_train


def sample_of_members(draw: Draw) -> Callable[[PRNGKeyArray, Any], Any]:
    """The `sample` of a posterior whose state is a stack of members: one of them, all equally likely, then its draw."""

    def sample(key: PRNGKeyArray, state: Any) -> Any:
        member_key, draw_key = jax.random.split(key)
        return draw(draw_key, pick_member(member_key, state))

    return sample


def draws_of_each(key: PRNGKeyArray, members: Any, draw: Draw, num_draws: int) -> Any:
    """`num_draws` draws of each of M members, stacked as one leading axis of M * num_draws, member slowest.

    Raises:
        ConfigError: fewer than one draw, or leaves without a shared member axis.
    """
    check_whole("the number of draws of each member", num_draws)
    keys = jax.random.split(key, (num_stacked(members), num_draws))
    draws = jax.vmap(jax.vmap(draw, in_axes=(0, None)))(keys, members)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), draws)
