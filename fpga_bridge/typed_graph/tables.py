"""The look-up tables of hls4ml's activations, entry by entry: exponential, inverse, hyperbolic tangent, sigmoid.

Tables are made in float32, as the C++ makes them when it starts, and then rounded to the type of their entries; what is
returned are the words of that type (int64). Two kinds of addresses exist: those of a softmax are the top bits of the
argument's word, those of tanh and sigmoid the argument in steps of a 128th or a 64th. The last two are for networks of
one's own that hls4ml computes by its tables: no layer of the graph has them, as its curves are exact tables.

Tables of the network itself, `Table` of `graph.py`, have an entry for every word, and `look_up` reads them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint, to_integers


def address_bits(size: int) -> int:
    """Bits of the addresses of a table.

    Raises:
        ConfigError: for a size below 2 or not a power of two, whose last entries hls4ml would never read.
    """
    if size < 2 or size & (size - 1):
        near = 2 ** max(round(np.log2(max(size, 2))), 1)
        raise ConfigError(f"a table needs a power of two of entries, at least 2, got {size}; {near} would work")
    return size.bit_length() - 1


_CHUNK = 1 << 12  # one program for each format serves arrays of every shape
_assign = jax.jit(to_integers, static_argnames="format")


def words_of(values: np.ndarray, format: FixedPoint) -> np.ndarray:
    """Words that assigning float64 values to the type gives, as int64; infinities go to the end of the range."""
    flat = np.asarray(values, np.float64).ravel()
    padded = np.pad(flat, (0, -len(flat) % _CHUNK)).reshape(-1, _CHUNK)
    with jax.enable_x64(True), jax.debug_nans(False):
        words = [np.asarray(_assign(jnp.asarray(chunk), format), np.int64) for chunk in padded]
    return np.concatenate(words)[: len(flat)].reshape(np.shape(values))


def look_up(x: jax.Array, entries: jax.Array, format: FixedPoint) -> jax.Array:
    """Entries for numbers that are rounded to a format; entry i is that of the word `format.min_word + i`."""
    return jnp.take(entries.astype(x.dtype), to_integers(x, format) - format.min_word, mode="clip")


def addressed_values(argument: FixedPoint, size: int) -> np.ndarray:
    """The float32 argument that each address of a softmax's table stands for: its bits on top, zeros below.

    Raises:
        ConfigError: more entries than the argument has values.
    """
    bits = address_bits(size)
    if bits > argument.width:
        raise ConfigError(
            f"a table of {size} entries needs {bits} address bits, but its argument {argument} has {argument.width}; "
            f"use at most {2**argument.width} entries"
        )
    words = np.arange(size, dtype=np.int64)
    if argument.signed:
        words = np.where(words >= size // 2, words - size, words)
    return np.ldexp(words.astype(np.float64), argument.width - bits - argument.fraction).astype(np.float32)


def exp_table(argument: FixedPoint, entry: FixedPoint, size: int, *, negative: bool) -> np.ndarray:
    """Words of exp(x), or exp(-x) where `negative`, at each address: the first table of a softmax."""
    x = addressed_values(argument, size).astype(np.float64)
    with np.errstate(over="ignore"):
        return words_of(np.exp(-x if negative else x).astype(np.float32).astype(np.float64), entry)


def inverse_table(argument: FixedPoint, entry: FixedPoint, size: int) -> np.ndarray:
    """Words of 1/x at each address: the second table of a softmax; 1/0 is infinite, as in C++."""
    with np.errstate(divide="ignore"):
        return words_of((np.float32(1) / addressed_values(argument, size)).astype(np.float64), entry)


def _centred(size: int, reach: float) -> np.ndarray:
    steps = np.arange(size, dtype=np.float64) - size / 2
    return (2 * reach * steps / size).astype(np.float32)


def tanh_table(entry: FixedPoint, size: int = 1024) -> np.ndarray:
    """Words of tanh(x) on `size` points from -4 up to 4."""
    return words_of(np.tanh(_centred(size, 4.0).astype(np.float64)).astype(np.float32).astype(np.float64), entry)


def sigmoid_table(entry: FixedPoint, size: int = 1024) -> np.ndarray:
    """Words of 1 / (1 + exp(-x)) on `size` points from -8 up to 8."""
    x = _centred(size, 8.0).astype(np.float64)
    below = np.float32(1) + np.exp(-x).astype(np.float32)
    return words_of((1.0 / below.astype(np.float64)).astype(np.float32).astype(np.float64), entry)
