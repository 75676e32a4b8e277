"""Maxima of images over 2 x 2 pixels whose gradients are quick on a CPU too."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo.errors import InputError

POOL = 2


@jax.custom_jvp
def max_pool(x: Float[Array, "*batch row column channel"]) -> Float[Array, "*batch new_row new_col channel"]:
    """Maxima over 2 x 2 pixels, a last odd row or column left out.

    The derivative, forward and backward, is that of the largest pixel; of equal ones the first in the order of rows,
    then columns, as XLA's own. That one is a loop over single numbers on a CPU, and takes most of a training step.

    Raises:
        InputError: fewer than three axes, or fewer than two rows or columns.
    """
    if x.ndim < 3 or min(x.shape[-3:-1]) < POOL:
        raise InputError(
            f"maxima over 2 x 2 pixels need images (..., row, column, channel) of 2 x 2 at least, got {x.shape}"
        )
    window = (*(1,) * (x.ndim - 3), POOL, POOL, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


@max_pool.defjvp
def _max_pool_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = max_pool(*primals)
    blocks = _blocks(*primals)
    largest = blocks == y[..., :, None, :, None, :]
    # Of the largest the first has the highest rank: no joining of parts, which XLA would compute anew for each number.
    rank = jnp.where(
        largest,
        jnp.asarray([[4, 3], [2, 1]], jnp.int8).reshape((1,) * (y.ndim - 3) + (1, POOL, 1, POOL, 1)),
        jnp.int8(0),
    )
    chosen = largest & (rank == jnp.max(rank, axis=(-4, -2), keepdims=True))
    # One number of each block is left, so the sum rounds nothing.
    return y, jnp.sum(jnp.where(chosen, _blocks(*tangents), jnp.zeros((), y.dtype)), axis=(-4, -2))


def _blocks(x: Array) -> Float[Array, "*batch new_row 2 new_col 2 channel"]:
    rows, columns = (n // POOL for n in x.shape[-3:-1])
    inner = x[..., : POOL * rows, : POOL * columns, :]
    return inner.reshape(*x.shape[:-3], rows, POOL, columns, POOL, x.shape[-1])
