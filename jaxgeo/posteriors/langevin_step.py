r"""The step of stochastic-gradient Langevin dynamics from the curvature and the noise of the gradients at a mode.

No step is refused, so the step alone decides by how much the draws are spread too widely. In a direction in which minus
the log joint has the curvature $\lambda$, and the gradient of batches (scaled to all examples) the variance V, a
constant step $\epsilon$ has the variance

$$\frac1\lambda \, \frac{1 + \epsilon V n}{1 - \epsilon \lambda k}, \qquad
n = \tfrac14, \; k = \tfrac14 \; \text{(SGLD)}; \qquad
n = \tfrac{1}{2 \alpha}, \; k = \tfrac{1}{4 - 2 \alpha} \; \text{(SGHMC with friction } \alpha \text{)}$$

instead of $1 / \lambda$ (the recursions of `jaxgeo.posteriors.langevin` are linear there). The largest $\lambda$ and
the largest V of all directions bound it: with the share $\tau$ that is allowed on top,
$\epsilon = \tau / (n V + (1 + \tau) k \lambda)$. It must hold when the first draw of a cycle is begun; the first step
of the cycle is as much larger as the cosine says, but at most half of $1 / (k \lambda)$, where the dynamics diverge.
Only the training examples are looked at.

References:
    Welling and Teh, "Bayesian Learning via Stochastic Gradient Langevin Dynamics", ICML 2011, section 4.2, for the two
    kinds of noise.
    Mandt, Hoffman and Blei, "Stochastic Gradient Descent as Approximate Bayesian Inference", arXiv:1704.04289.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray

from jaxgeo.errors import InputError, check_real, check_whole
from jaxgeo.posteriors.langevin import LangevinConfig, cyclical_step
from jaxgeo.posteriors.log_joint import LogJoint
from jaxgeo.posteriors.minibatch import check_batch_size

_SHARE_OF_LIMIT = 0.5
"""Of the step at which the dynamics diverge at the mode: elsewhere the curvature may be larger."""


class Stiffness(NamedTuple):
    """What limits the step, as Python floats."""

    curvature: float
    """largest eigenvalue of the generalised Gauss-Newton matrix of minus the log joint"""
    gradient_noise: float
    """largest eigenvalue of the covariance of the gradient estimated on a batch; 0 where that is all examples"""


def stiffness(
    key: PRNGKeyArray,
    log_joint: LogJoint,
    mode: Any,
    inputs: Any,
    targets: Any,
    batch_size: int,
    iterations: int = 60,
) -> Stiffness:
    """Both by power iteration with products of matrices and vectors, from below; all examples in memory at once.

    Args:
        key: of the first vectors.
        log_joint: network, prior and likelihood.
        mode: a parameter tree near a maximum of the log joint.
        inputs: all training inputs, example axis first.
        targets: one for each.
        batch_size: of the batches on which the gradient is estimated, drawn with replacement.
        iterations: the relative error falls with the ratio of the two largest eigenvalues to twice this power.

    Raises:
        InputError: what `LogJoint.check_data` refuses, or derivatives that are not finite.
        ConfigError: a batch larger than the data, or no iteration.
    """
    number = log_joint.check_data(mode, inputs, targets)
    check_batch_size(batch_size, number)
    check_whole("the number of power iterations", iterations)
    theta, unravel = ravel_pytree(mode)
    precision = ravel_pytree(
        jax.tree.map(lambda leaf, s: jnp.full(leaf.shape, s**-2.0, leaf.dtype), mode, log_joint.prior.scales(mode))
    )[0]

    @jax.jit
    def largest(start: Array, other_start: Array, inputs: Any, targets: Any) -> tuple[Array, Array]:
        def predict(theta: Array) -> Array:
            return log_joint.apply(unravel(theta), inputs)

        def surprisal(predictions: Array) -> Array:
            return -jnp.sum(log_joint.likelihood(predictions, targets))

        predictions, pull = jax.vjp(predict, theta)

        def curvature(v: Array) -> Array:
            _, change = jax.jvp(predict, (theta,), (v,))
            _, bent = jax.jvp(jax.grad(surprisal), (predictions,), (change,))
            return pull(bent)[0] + precision * v

        def losses(theta: Array) -> Array:
            return log_joint.log_likelihoods_of_examples(unravel(theta), inputs, targets)

        _, pull_losses = jax.vjp(losses, theta)

        def noise(v: Array) -> Array:
            _, along = jax.jvp(losses, (theta,), (v,))
            return (number / batch_size) * pull_losses(along - jnp.mean(along))[0]

        def power(product: Any, v: Array) -> Array:
            def step(v: Array, _: None) -> tuple[Array, Array]:
                new = product(v)
                size = jnp.linalg.norm(new)
                return new / jnp.where(size > 0, size, 1.0), size

            return jax.lax.scan(step, v / jnp.linalg.norm(v), None, iterations)[1][-1]

        return power(curvature, start), power(noise, other_start)

    starts = (jax.random.normal(k, theta.shape, theta.dtype) for k in jax.random.split(key))
    curvature, noise = (float(value) for value in largest(*starts, inputs, targets))
    found = Stiffness(curvature, 0.0 if batch_size == number else noise)
    if not np.isfinite(found).all():
        raise InputError(
            f"the curvature and the noise of the gradient must be finite, got {found.curvature} and "
            f"{found.gradient_noise}; look for NaN in the mode, the inputs and the targets"
        )
    return found


def choose_step(found: Stiffness, config: LangevinConfig, inflation: float = 0.1) -> float:
    """The first step of a cycle at which draws are spread too widely by at most a share of their variance.

    Args:
        found: of `stiffness`, at the batch size of the configuration.
        config: cycle, draws and friction; its step size is not looked at.
        inflation: that share, for the stiffest and noisiest direction and the first draw of a cycle.

    Raises:
        ConfigError: a share that is not finite and positive.
    """
    check_real("the share by which the variance may be too large", inflation, above=0.0)
    alpha = config.friction
    noise, bend = (1 / 4, 1 / 4) if alpha is None else (1 / (2 * alpha), 1 / (4 - 2 * alpha))
    at_draw = inflation / (noise * found.gradient_noise + (1 + inflation) * bend * found.curvature)
    first = config.steps_per_cycle - config.draws_per_cycle * config.steps_between
    left = float(cyclical_step(config, jnp.asarray(first))) / config.step_size
    return min(at_draw / left, _SHARE_OF_LIMIT / (bend * found.curvature))
