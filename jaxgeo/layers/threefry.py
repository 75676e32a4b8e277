"""Random bits by Threefry-2x32, JAX's own generator, written so that XLA makes one vectorised loop of it.

On CPUs JAX runs the rounds as a loop over arrays, through memory. Masks of dropout are made of little else; written
out, the same bits come several times as fast (`docs/decisions/0008-blocks-in-parts.md` has the figures).

References:
    Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11 (doi:10.1145/2063384.2063405).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, UInt32

_ROUNDS, _GROUP = 20, 4
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def random_words(key: PRNGKeyArray, count: int) -> UInt32[Array, " {count}"]:
    """Independent uniform words: those of the counters (0, 0), (1, 0), ... under a key made from `key`.

    Args:
        key: of any implementation.
        count: at most 2^32.
    """
    seed = jax.random.bits(key, (2,), jnp.uint32)
    counter = jax.lax.iota(jnp.uint32, count)
    first, second = threefry((seed[0], seed[1]), (counter, jnp.zeros_like(counter)))
    return first ^ second


def threefry(
    key: tuple[UInt32[Array, "#*shape"], UInt32[Array, "#*shape"]],
    counter: tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]],
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """The block cipher with 20 rounds: two words out of a counter of two words, under a key of two words."""
    keys = (*key, key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for i in range(_ROUNDS):
        group, place = divmod(i, _GROUP)
        turn = _ROTATIONS[group % 2][place]
        x = x + y
        y = ((y << turn) | (y >> (32 - turn))) ^ x
        if place == _GROUP - 1:
            x = x + keys[(group + 1) % 3]
            y = y + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y
