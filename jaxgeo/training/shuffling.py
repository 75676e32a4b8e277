"""Random orders of the examples, drawn anew for every member and epoch: the sort behind them is what they cost."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxgeo.errors import ConfigError

_WORD = 32
_MOST_BITS = 24  # of an index: each round then draws at least 8 others


def shuffled(key: PRNGKeyArray, number: int) -> Int[Array, " {number}"]:
    """The numbers 0 ... number - 1 in random order, int32.

    Places are sorted by random bits, a place in the low bits of the same word: XLA sorts single words on a processor
    several times as fast (`docs/decisions/0010-orders-by-single-words.md`) as words that carry others along, which
    `jax.random.permutation` does. Equal bits leave a pair as it was; each further round, of which there are at least
    two, draws bits anew, so that a pair keeps its order by such chance with a probability below 2^-24 for every
    allowed number.

    Raises:
        ConfigError: fewer than one number, or more than 2^24.
    """
    if not 1 <= number <= 1 << _MOST_BITS:
        raise ConfigError(f"an order is of 1 ... {1 << _MOST_BITS} numbers, got {number}")
    places = jnp.arange(number, dtype=jnp.uint32)
    low = (1 << (number - 1).bit_length()) - 1
    random_bits = _WORD - low.bit_length()
    order = places
    for word_key in jax.random.split(key, max(2, -(-24 // random_bits))):
        words = jax.random.bits(word_key, (number,), jnp.uint32) & jnp.uint32(~low & 0xFFFFFFFF)
        order = order[jax.lax.sort(words | places) & jnp.uint32(low)]
    return order.astype(jnp.int32)
