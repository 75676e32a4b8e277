"""Entropy and Kullback-Leibler divergence of categorical distributions, from log-probabilities, in nats.

Log-probabilities of 16 bits are judged in 32 (`at_least_float32`): what is measured is then the distributions as they
were stored, while a sum of 16 bits stands still once it is a few hundred times its terms.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def at_least_float32(values: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The same numbers in float32, or as they are in a wider type."""
    array = jnp.asarray(values)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


@jax.jit
def entropy(log_p: Float[Array, "*batch class"]) -> Float[Array, "*batch"]:
    """Shannon entropy `-sum p log p`, with `0 log 0 = 0` also where `log p` is minus infinity."""
    log_p = at_least_float32(log_p)
    p = jnp.exp(log_p)
    return -jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, log_p, 0), 0), axis=-1)


@jax.jit
def kl_divergence(log_p: Float[Array, "*batch class"], log_q: Float[Array, "*batch class"]) -> Float[Array, "*batch"]:
    """Relative entropy `sum p log(p / q)`; infinite where q excludes what p allows.

    Summed as `p log(p / q) - p + q`, whose every term is at least zero: nearly equal distributions keep their
    relative accuracy in float32, and rounding in the normalisation does not make the result negative.
    """
    log_p, log_q = at_least_float32(log_p), at_least_float32(log_q)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    possible = p > 0
    log_ratio = jnp.where(possible, log_q, 0) - jnp.where(possible, log_p, 0)
    # exp(t) - 1 - t loses its digits near t = 0 unless expm1 is used; for large t it would overflow.
    near = jnp.abs(log_ratio) < 0.5
    small = jnp.where(near, log_ratio, 0)
    far = jnp.where(possible & ~near, q - p - p * jnp.where(near, 0, log_ratio), q)
    return jnp.sum(jnp.where(possible & near, p * (jnp.expm1(small) - small), far), axis=-1)
