"""Batches for the families that follow a noisy gradient."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxgeo.errors import ConfigError, check_whole


def check_batch_size(batch_size: int, num_examples: int) -> None:
    """Refuse a batch without examples or with more than there are (`ConfigError`)."""
    check_whole("batch_size", batch_size)
    if batch_size > num_examples:
        raise ConfigError(f"batch_size must lie between 1 and the {num_examples} training examples, got {batch_size}")


def random_rows(key: PRNGKeyArray, num_examples: int, batch_size: int) -> Int[Array, " batch"]:
    """Rows of one batch: each uniform and independent of the others, or, in a full batch, every row once."""
    if batch_size == num_examples:
        return jnp.arange(num_examples)
    return jax.random.randint(key, (batch_size,), 0, num_examples)
