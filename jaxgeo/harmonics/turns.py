"""Much work in several turns of one program, which take up little memory and stay in a processor's cache."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped


def in_turns(
    function: Callable[..., Array], arrays: tuple[Shaped[Array, "..."], ...], most: int, axis: int
) -> Shaped[Array, "..."]:
    """`function(*arrays)`, at most `most` entries of one axis at a time.

    Args:
        function: of arrays with equally many entries along the axis, whose result has as many along it. What it gives
            for an entry depends on that entry alone.
        arrays: its arguments.
        most: entries of a turn, all where there are no more.
        axis: counted from the start or, negative, from the end, in arguments and result alike.
    """
    count = arrays[0].shape[axis]
    if count <= most:
        return function(*arrays)
    turns = -(-count // most)
    width = -(-count // turns)

    def turn(step: Array, out: Array) -> Array:
        first = jnp.minimum(step * width, count - width)  # the last turn may do some again
        some = (jax.lax.dynamic_slice_in_dim(x, first, width, axis) for x in arrays)
        return jax.lax.dynamic_update_slice_in_dim(out, function(*some), first, axis)

    result = jax.eval_shape(function, *(_shortened(x, width, axis) for x in arrays))
    whole = list(result.shape)
    whole[axis] = count
    return jax.lax.fori_loop(0, turns, turn, jax.lax.empty(tuple(whole), result.dtype))


def _shortened(x: Array, width: int, axis: int) -> jax.ShapeDtypeStruct:
    shape = list(x.shape)
    shape[axis] = width
    return jax.ShapeDtypeStruct(tuple(shape), x.dtype)
