"""Maxima of images over 2 x 2 pixels whose gradients are quick on a CPU too."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgeo.errors import InputError

POOL = 2


@jax.custom_jvp
def max_pool(x: Float[Array, "*batch row col channel"]) -> Float[Array, "*batch new_row new_col channel"]:
    """Maxima over 2 x 2 pixels, a last odd row or column left out.

    The derivative, forward and backward, is that of the largest pixel; of equal ones the first in the order of rows,
    then columns, as XLA's own. That one is a loop over single numbers on a CPU, and takes most of a training step.

    Raises:
        InputError: fewer than three axes, or fewer than two rows or columns.
    """
    if x.ndim < 3 or min(x.shape[-3:-1]) < POOL:
        raise InputError(
            f"maxima over 2 x 2 pixels need images (..., row, col, channel) of 2 x 2 at least, got {x.shape}"
        )
    window = (*(1,) * (x.ndim - 3), POOL, POOL, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


@max_pool.defjvp
def _max_pool_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = max_pool(*primals)
    # One number of each block is left, so the sum rounds nothing.
    chosen = jnp.where(_first_largest(_blocks(*primals), y), _blocks(*tangents), jnp.zeros((), y.dtype))
    return y, jnp.sum(chosen, axis=(-4, -2))


def _blocks(x: Array) -> Float[Array, "*batch new_row 2 new_col 2 channel"]:
    rows, columns = (n // POOL for n in x.shape[-3:-1])
    inner = x[..., : POOL * rows, : POOL * columns, :]
    return inner.reshape(*x.shape[:-3], rows, POOL, columns, POOL, x.shape[-1])


def _first_largest(blocks: Array, y: Array) -> Bool[Array, "*batch new_row 2 new_col 2 channel"]:
    taken = jnp.zeros(y.shape, bool)
    pairs = []
    for row in range(POOL):
        pair = []
        for column in range(POOL):
            largest = (blocks[..., row, :, column, :] == y) & ~taken
            taken = taken | largest
            pair.append(largest)
        pairs.append(jnp.stack(pair, axis=-2))
    return jnp.stack(pairs, axis=-4)
