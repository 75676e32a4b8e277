"""Derivatives of one example's predictions and of its log-likelihood in them, and their sums over all examples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo.posteriors.log_joint import Likelihood, LogJoint


def output_curvature(likelihood: Likelihood, predictions: Array, target: Array) -> Float[Array, "output output"]:
    """Minus the Hessian of one example's log-likelihood in its predictions (1, *output), all outputs in one axis."""

    def negative_log_likelihood(flat: Array) -> Array:
        return -jnp.sum(likelihood(flat.reshape(predictions.shape), target[None]))

    return jax.hessian(negative_log_likelihood)(predictions.reshape(-1))


def derivatives(
    log_joint: LogJoint, to_params: Callable[[Array], Any], theta: Array, x: Any, y: Array
) -> tuple[Float[Array, "output weight"], Float[Array, "output output"]]:
    """Jacobian of one example's predictions, and minus the Hessian of its log-likelihood in them."""

    def predict(theta: Array) -> Array:
        return log_joint.apply(to_params(theta), jax.tree.map(lambda leaf: leaf[None], x))

    jacobian = jax.jacrev(lambda theta: predict(theta).reshape(-1))(theta)
    return jacobian, output_curvature(log_joint.likelihood, predict(theta), y)


def sum_over_examples(term: Callable[[Any, Array], Any], inputs: Any, targets: Array) -> Any:
    """One example after another: a Jacobian has as many entries as outputs times weights."""
    like = jax.eval_shape(term, jax.tree.map(lambda leaf: leaf[0], inputs), targets[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    @jax.jit
    def run(inputs: Any, targets: Array) -> Any:
        def add(total: Any, example: tuple[Any, Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, term(*example)), None

        return jax.lax.scan(add, zeros, (inputs, targets))[0]

    return run(inputs, targets)
