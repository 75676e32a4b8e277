"""Adaptation of step size and mass during the warm-up, from what all chains saw together.

One step size serves all chains, so that the chains of a device take the same number of leapfrogs and none waits for
another. The updates are NumPyro's (dual averaging and Welford's sums in Stan's windows), applied to all chains at once;
what differs from NumPyro's own warm-up:

* No heuristic looks for a first step size, neither at the start nor after a window: dual averaging begins at the step
  size that it is given or has come to. It is drawn towards that step size and not towards ten times it, since the step
  size is known from the run and not from one trial step.
* Variances are shrunk towards a thousandth of their mean and not towards an absolute 1e-3.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.infer.hmc_util import build_adaptation_schedule, dual_averaging, welford_covariance

from jaxgeo.posteriors.hmc_state import HmcConfig, HmcState

LEAST_ACCEPTANCE = 0.02  # of a chain that rejects: bounds its weight in the harmonic mean


def start_averaging(step_size: Array) -> Float[Array, "5"]:
    """The state of the dual averaging that begins at this step size: log step, mean, mean gradient, count, centre."""
    init, _ = dual_averaging()
    start: Any = jnp.log(step_size)
    return jnp.stack([jnp.asarray(value, step_size.dtype) for value in init(start)])


def adapt(config: HmcConfig, state: HmcState, acceptance: Float[Array, " chain"]) -> HmcState:
    """Step size and mass after a transition of the warm-up, from what all chains saw; nothing before and afterwards.

    The step size aims at the harmonic mean of the chains' acceptances, so that one chain that is stuck where the
    step is too long is not outvoted by the others (Hoffman, Radul and Sountsov, "An Adaptive-MCMC Scheme for Setting
    Trajectory Lengths in Hamiltonian Monte Carlo", AISTATS 2021).
    """
    if config.num_warmup == config.num_burn_in:
        return state
    _, update = dual_averaging()
    pooled = 1.0 / jnp.mean(1.0 / jnp.maximum(acceptance, LEAST_ACCEPTANCE))
    log_step, mean, gradient, count, centre = state.averaging
    averaging = jnp.stack(
        [
            jnp.asarray(value, state.averaging.dtype)
            for value in update(config.target_acceptance - pooled, (log_step, mean, gradient, count, centre))
        ]
    )
    last = state.iteration == config.num_warmup - 1
    step_size = jnp.exp(jnp.where(last, averaging[1], averaging[0]))
    adapted = state._replace(step_size=step_size, averaging=averaging)
    if config.adapt_mass:
        adapted = adapt_mass(config, adapted)
    adapts = (state.iteration >= config.num_burn_in) & (state.iteration < config.num_warmup)
    return jax.tree.map(lambda old, new: jnp.where(adapts, new, old), state, adapted)


def adapt_mass(config: HmcConfig, state: HmcState) -> HmcState:
    """Variances over all chains of the slow windows of Stan's schedule; the step size starts anew after each."""
    length = config.num_warmup - config.num_burn_in
    windows = build_adaptation_schedule(length)[1:-1]
    inside, ends = np.zeros(length, bool), np.zeros(length, bool)
    for window in windows:
        inside[window.start : window.end + 1] = True
        ends[window.end] = True
    now = jnp.clip(state.iteration - config.num_burn_in, 0, length - 1)
    _, update, final = welford_covariance(diagonal=True)
    before = (state.welford_mean, state.welford_m2, state.welford_count)
    after, _ = jax.lax.scan(lambda sums, position: (update(position, sums), None), before, state.position)
    mean, m2, count = jax.tree.map(lambda old, new: jnp.where(jnp.asarray(inside)[now], new, old), before, after)

    def renew(state: HmcState) -> HmcState:
        variance: Any = final((mean, m2, count), regularize=False)[0]
        # Stan shrinks towards an absolute 1e-3, which would swamp a posterior that is narrow against its prior.
        weight = count / (count + 5.0)
        variance = weight * variance + (1.0 - weight) * 1e-3 * jnp.mean(variance)
        return state._replace(
            inverse_mass=variance.astype(state.inverse_mass.dtype),
            averaging=start_averaging(state.step_size),
            welford_mean=jnp.zeros_like(mean),
            welford_m2=jnp.zeros_like(m2),
            welford_count=jnp.zeros_like(count),
        )

    state = state._replace(welford_mean=mean, welford_m2=m2, welford_count=count)
    return jax.lax.cond(jnp.asarray(ends)[now], renew, lambda state: state, state)
