"""Losses and scores from logits, in nats; each keeps the batch axes unless it says that it averages."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer


def cross_entropy(logits: Float[Array, "*batch class"], labels: Integer[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Negative log-likelihood -log softmax(logits)[label] of each example, in nats.

    Finite for any finite logits: the largest logit is subtracted before the exponential. A label outside
    0 .. classes - 1 matches no class and gives the log-normaliser instead, which nothing bounds below: what takes data
    calls `examples.check_labels`.
    """
    # A masked sum and not a gather: the transpose of a gather is a scatter, serial on a CPU.
    hit = labels[..., None] == jnp.arange(logits.shape[-1]).reshape((1,) * labels.ndim + (-1,))
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)


def mean_cross_entropy(
    logits: Float[Array, "*batch class"],
    labels: Integer[Array, "*batch"],
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Average negative log-likelihood in nats; with `weights`, sum(w * nll) / sum(w), and 0 where all are 0."""
    losses = cross_entropy(logits, labels)
    if weights is None:
        return jnp.mean(losses)
    total = jnp.sum(weights)
    # An empty batch (all padding) contributes nothing; dividing by 1 keeps its gradient finite as well.
    return jnp.sum(weights * losses) / jnp.where(total == 0, 1.0, total)


def accuracy(logits: Float[Array, "*batch class"], labels: Integer[Array, "*batch"]) -> Float[Array, ""]:
    """Share of examples whose largest logit is at the label; of equal logits the first counts."""
    return jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype))
