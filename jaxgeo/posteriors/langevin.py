r"""Stochastic-gradient Langevin dynamics and Hamiltonian Monte Carlo, with cyclical steps; the draws are the family.

With the log joint $\log p(D, \theta)$, estimated on a batch, one step of size $\epsilon$ is (SGLD)

$$\theta \leftarrow \theta + \tfrac{\epsilon}{2} \nabla \log p + \sqrt{\epsilon}\, \xi, \qquad \xi \sim N(0, 1),$$

or, with a friction $\alpha$ and a momentum $r$ (SGHMC),

$$r \leftarrow (1 - \alpha) r + \sqrt\epsilon\, \nabla \log p + \sqrt{2 \alpha}\, \xi, \qquad
\theta \leftarrow \theta + \sqrt\epsilon\, r .$$

At a constant step $v = \sqrt\epsilon\, r$ is the velocity of the published form; where the step falls, $r$ keeps its
distribution N(0, 1) and $v$ would be left too fast. Step k of a cycle of length K has the size
$\tfrac{\epsilon_0}{2} (\cos(\pi k / K) + 1)$: the large first steps leave a mode, and draws are taken at the small last
ones. No step is accepted or refused, so the draws are those of the posterior only for $\epsilon \to 0$. On a Gaussian
of precision $\lambda$ a constant step, with the whole data set for a batch, has the variance
$1 / (\lambda (1 - \epsilon \lambda / 4))$ (SGLD) or $1 / (\lambda (1 - \epsilon \lambda / (4 - 2 \alpha)))$ (SGHMC),
and diverges from where that is infinite; batches add the noise of their gradients.

References:
    Welling and Teh, "Bayesian Learning via Stochastic Gradient Langevin Dynamics", ICML 2011, equation (4).
    Chen, Fox and Guestrin, "Stochastic Gradient Hamiltonian Monte Carlo", arXiv:1402.4102, equation (15).
    Zhang et al., "Cyclical Stochastic Gradient MCMC for Bayesian Deep Learning", arXiv:1902.03932, equation (1).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxgeo.errors import ConfigError, check_fields, check_real
from jaxgeo.posteriors.base import Posterior, draws_posterior, normal_like
from jaxgeo.posteriors.deep_ensemble import init_members
from jaxgeo.posteriors.log_joint import LogJoint
from jaxgeo.posteriors.minibatch import check_batch_size, random_rows
from jaxgeo.training.examples import check_finite, check_rows


@dataclasses.dataclass(frozen=True)
class LangevinConfig:
    """Chains, cycles, steps."""

    num_chains: int = 4
    num_cycles: int = 4
    steps_per_cycle: int = 1000
    draws_per_cycle: int = 5
    """taken at the end of each cycle"""
    steps_between: int = 10
    """steps before each draw"""
    step_size: float = 1e-4
    """epsilon_0, for the gradient of the whole log joint in nats"""
    friction: float | None = None
    """alpha of SGHMC; None: SGLD"""
    exploration: float = 0.0
    """share of each cycle, from its beginning, without noise"""
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse numbers below one, draws that do not fit in a cycle, impossible rates."""
        counts = "num_chains", "num_cycles", "steps_per_cycle", "draws_per_cycle", "steps_between", "batch_size"
        check_fields(self, **dict.fromkeys(counts, 1))
        if not 0 <= self.exploration < 1:
            raise ConfigError(f"exploration is a share of a cycle in [0, 1), got {self.exploration}")
        quiet = math.ceil(self.exploration * self.steps_per_cycle)
        if self.draws_per_cycle * self.steps_between > self.steps_per_cycle - quiet:
            raise ConfigError(
                f"{self.draws_per_cycle} draws with {self.steps_between} steps before each take more than the "
                f"{self.steps_per_cycle - quiet} steps with noise of a cycle; lengthen the cycle or draw less often"
            )
        check_real("step_size", self.step_size, above=0.0)
        if self.friction is not None and not 0 < self.friction <= 1:
            raise ConfigError(f"friction must lie in (0, 1], or be None for SGLD, got {self.friction}")


def cyclical_step(config: LangevinConfig, step: Int[Array, ""]) -> Float[Array, ""]:
    """Step size at a step counted from the beginning of its cycle."""
    return 0.5 * config.step_size * (jnp.cos(jnp.pi * step / config.steps_per_cycle) + 1.0)


def sample_chain(
    key: PRNGKeyArray, start: Any, log_joint: LogJoint, inputs: Any, targets: Any, config: LangevinConfig
) -> Any:
    """The draws of one chain, stacked: `num_cycles * draws_per_cycle`, in the order of time.

    Args:
        key: draws batches and noise.
        start: parameter tree to start from.
        log_joint: what is sampled.
        inputs: all training inputs, example axis first.
        targets: one for each.
        config: cycles and steps.

    Raises:
        ConfigError: a batch larger than the data.
        InputError: what `LogJoint.check_data` refuses.
    """
    number = log_joint.check_data(start, inputs, targets)
    check_batch_size(config.batch_size, number)
    objective = log_joint.objective(number)

    def step(carry: Any, at: tuple[Array, PRNGKeyArray]) -> tuple[Any, None]:
        params, momentum = carry
        index, key = at
        rows_key, noise_key = jax.random.split(key)
        rows = random_rows(rows_key, number, config.batch_size)
        gradient = jax.grad(objective)(params, None, jax.tree.map(lambda x: x[rows], inputs), targets[rows])
        size = cyclical_step(config, index)
        warm = jnp.where(index >= config.exploration * config.steps_per_cycle, 1.0, 0.0)
        noise = normal_like(noise_key, params)
        root = jnp.sqrt(size)
        if config.friction is None:
            moved = jax.tree.map(lambda w, g, z: w - 0.5 * size * number * g + warm * root * z, params, gradient, noise)
            return (moved, momentum), None
        alpha = config.friction
        kick = warm * math.sqrt(2 * alpha)
        momentum = jax.tree.map(
            lambda r, g, z: (1 - alpha) * r - root * number * g + kick * z, momentum, gradient, noise
        )
        return (jax.tree.map(lambda w, r: w + root * r, params, momentum), momentum), None

    waiting = config.steps_per_cycle - config.draws_per_cycle * config.steps_between

    def cycle(carry: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        steps, keys = jnp.arange(config.steps_per_cycle), jax.random.split(key, config.steps_per_cycle)
        carry, _ = jax.lax.scan(step, carry, (steps[:waiting], keys[:waiting]))

        def draw(carry: Any, at: Any) -> tuple[Any, Any]:
            carry, _ = jax.lax.scan(step, carry, at)
            return carry, carry[0]

        shape = config.draws_per_cycle, config.steps_between
        return jax.lax.scan(draw, carry, (steps[waiting:].reshape(shape), keys[waiting:].reshape(shape)))

    still = jax.tree.map(jnp.zeros_like, start)
    _, draws = jax.lax.scan(cycle, (start, still), jax.random.split(key, config.num_cycles))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), draws)


def langevin(
    init_member: Callable[[PRNGKeyArray], Any], log_joint: LogJoint, inputs: Any, targets: Any, config: LangevinConfig
) -> Posterior:
    """The draws of several chains in equal shares; the state is their stack, chain slowest.

    Args:
        init_member: where each chain starts, from a key of its own.
        log_joint: what is sampled.
        inputs: all training inputs, example axis first.
        targets: one for each.
        config: chains, cycles and steps.

    Raises:
        ConfigError: a batch larger than the data.
        InputError: inputs and targets of different numbers; `init` also raises what `LogJoint.check_data` does, and
            refuses chains that left the finite numbers.
    """
    check_batch_size(config.batch_size, check_rows(inputs, targets))

    def init(key: PRNGKeyArray) -> Any:
        start_key, chain_key = jax.random.split(key)
        starts = init_members(init_member, start_key, config.num_chains)
        chains = jax.vmap(lambda k, start: sample_chain(k, start, log_joint, inputs, targets, config))
        draws = jax.jit(chains)(jax.random.split(chain_key, config.num_chains), starts)
        check_finite(f"the draws (take steps below {config.step_size} where chains diverge)", draws)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), draws)

    return draws_posterior(init, "Langevin dynamics", "its draws are a finite list")
