"""The mean of members on a grid: a shift where their number is a power of two, else a table of their sum."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.table_activation import MAX_INPUT_BITS, ScalarFunction, lookup


@functools.cache
def _share(count: int) -> ScalarFunction:
    """The same object for the same number, as tables are told apart by it."""
    return ScalarFunction(
        f"mean_of_{count}", lambda total: total / count, lambda total: np.full(total.shape, 1.0 / count)
    )


def rounded_mean(values: Float[Array, "member *shape"], format: FixedPoint) -> Float[Array, "*shape"]:
    """Mean over the first axis of words of a format, rounded once to that format.

    1/3 is no binary number, but a sum of words is one, and has few values: the table holds what each of them, divided
    exactly, is rounded to. So JAX and a circuit agree in every bit, whatever the number of members.

    Args:
        values: words of `format`, one slice per member.
        format: of each and of their mean; its rounding is that of the mean.

    Raises:
        ConfigError: no member; or a sum of too many bits for a table.
    """
    count = len(values)
    if not count:
        raise ConfigError("a mean needs at least one member, got none")
    total = jnp.sum(values, axis=0)
    if count & (count - 1) == 0:
        return quantize(total / count, format)
    carry = (count - 1).bit_length()
    if format.width + carry > MAX_INPUT_BITS:
        below = 1 << (carry - 1)
        raise ConfigError(
            f"a mean over {count} members is a table of their sum, which has {format.width + carry} bits of words in "
            f"{format}, and a table takes at most {MAX_INPUT_BITS}; round the members to {MAX_INPUT_BITS - carry} "
            f"bits, or take {below} or {2 * below} of them, over which a mean is a shift"
        )
    whole = FixedPoint(format.width + carry, format.integer + carry, format.signed)
    return lookup(total, _share(count), whole, format)
