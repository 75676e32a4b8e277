r"""Integer words of fixed-point numbers: exact sums, products and conversions, up to 127 bits, in any program.

A number is $k\,2^{-f}$ with an integer word $k$. `convert` takes words from one grid to a format of the HLS headers in
every rounding and overflow mode. Formats may be Python integers, then the program holds what they ask for and nothing
else, or arrays of integers, then one program serves many precisions under `vmap`. Words are arrays of signed integers
of 16, 32 or 64 bits, or `Wide`, two limbs of 64 bits; the operators of both are the same. Everything of 64 bits needs
`jax.enable_x64(True)`.

References:
    AMD, "Vitis High-Level Synthesis User Guide" (UG1399), "Arbitrary Precision Fixed-Point Data Types".
"""

import dataclasses
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint, Overflow, Rounding

ROUNDINGS: tuple[str, ...] = get_args(Rounding)
OVERFLOWS: tuple[str, ...] = get_args(Overflow)
MAX_BITS = 127  # of a word: two limbs less the sign that an unsigned format needs


class Format(NamedTuple):
    """A format as integers: Python's, or arrays of one shape for many precisions at once.

    `rounding` and `overflow` are positions in `ROUNDINGS` and `OVERFLOWS`; `signed` is 0 or 1.
    """

    width: Any
    fraction: Any
    signed: Any
    rounding: Any
    overflow: Any

    @classmethod
    def of(cls, format: FixedPoint) -> "Format":
        """The integers of a named format."""
        modes = ROUNDINGS.index(format.rounding), OVERFLOWS.index(format.overflow)
        return cls(format.width, format.fraction, int(format.signed), *modes)

    @property
    def traced(self) -> bool:
        """Whether the format is data of the program."""
        return not all(isinstance(field, int) for field in self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Wide:
    """Integers of 128 bits in two's complement: `high` int64 and `low` uint64, of one shape."""

    high: Any
    low: Any

    @classmethod
    def of(cls, value: Any) -> "Wide":
        """From a Python integer, an array of signed integers, or itself."""
        if isinstance(value, Wide):
            return value
        if isinstance(value, int):
            return cls(jnp.int64(value >> 64), jnp.uint64(value % 2**64))
        words = jnp.asarray(value, jnp.int64)
        return cls(words >> 63, words.astype(jnp.uint64))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array of numbers."""
        return self.high.shape

    def __getitem__(self, index: Any) -> "Wide":
        return Wide(self.high[index], self.low[index])

    def __add__(self, other: Any) -> "Wide":
        other = Wide.of(other)
        low = self.low + other.low
        return Wide(self.high + other.high + (low < other.low).astype(jnp.int64), low)

    def __neg__(self) -> "Wide":
        return Wide(~self.high, ~self.low) + 1

    def __sub__(self, other: Any) -> "Wide":
        return self + -Wide.of(other)

    def __and__(self, other: Any) -> "Wide":
        other = Wide.of(other)
        return Wide(self.high & other.high, self.low & other.low)

    def __or__(self, other: Any) -> "Wide":
        other = Wide.of(other)
        return Wide(self.high | other.high, self.low | other.low)

    def __lshift__(self, count: Any) -> "Wide":
        count = jnp.asarray(count, jnp.uint64)
        far = count >= 64
        near = jnp.where(far, jnp.uint64(0), count)
        # A shift by 64 - near with near = 0 would leave the word; in two steps it does not.
        carried = (self.low >> jnp.uint64(1)) >> (jnp.uint64(63) - near)
        high = (self.high.astype(jnp.uint64) << near) | carried
        moved = self.low << jnp.where(far, count - jnp.uint64(64), jnp.uint64(0))
        return Wide(jnp.where(far, moved, high).astype(jnp.int64), jnp.where(far, jnp.uint64(0), self.low << near))

    def __rshift__(self, count: Any) -> "Wide":
        count = jnp.asarray(count, jnp.int64)
        far = count >= 64
        near = jnp.where(far, 0, count)
        carried = (self.high.astype(jnp.uint64) << jnp.uint64(1)) << (63 - near).astype(jnp.uint64)
        low = (self.low >> near.astype(jnp.uint64)) | carried
        moved = (self.high >> jnp.where(far, count - 64, 0)).astype(jnp.uint64)
        return Wide(self.high >> jnp.where(far, 63, near), jnp.where(far, moved, low))

    def __lt__(self, other: Any) -> Any:
        other = Wide.of(other)
        return (self.high < other.high) | ((self.high == other.high) & (self.low < other.low))

    def __gt__(self, other: Any) -> Any:
        return Wide.of(other) < self

    def nonzero(self) -> Any:
        """Where the number is not zero."""
        return (self.high != 0) | (self.low != 0)

    def narrow(self) -> Any:
        """The low 64 bits, signed: the number itself where it has no more."""
        return self.low.astype(jnp.int64)


Words = Any  # jax.Array of signed integers, or Wide


def bits_of(words: Words) -> int:
    """Bits of one element of the carrier."""
    return 128 if isinstance(words, Wide) else 8 * words.dtype.itemsize


def carrier(bits: int) -> Any:
    """The smallest carrier whose elements hold signed words of that many bits: a dtype, or `Wide`.

    Raises:
        ConfigError: beyond `MAX_BITS`.
    """
    for dtype in (jnp.int16, jnp.int32, jnp.int64):
        if bits <= 8 * np.dtype(dtype).itemsize:
            return dtype
    if bits <= MAX_BITS:
        return Wide
    raise ConfigError(f"words need {bits} bits, more than the {MAX_BITS} that two limbs hold; use narrower types")


def as_carrier(words: Words, kind: Any) -> Words:
    """The words in another carrier, modulo its size where it is smaller."""
    if kind is Wide:
        return Wide.of(words)
    if isinstance(words, Wide):
        words = words.narrow()
    return words.astype(kind)


def select(mask: Any, yes: Words, no: Words) -> Words:
    """`jnp.where` for words."""
    if isinstance(yes, Wide) or isinstance(no, Wide):
        yes, no = Wide.of(yes), Wide.of(no)
        return Wide(jnp.where(mask, yes.high, no.high), jnp.where(mask, yes.low, no.low))
    return jnp.where(mask, yes, no)


def multiply(a: Words, b: Words) -> Wide:
    """Products of words of at most 64 bits, exact in 128."""
    a, b = jnp.asarray(a, jnp.int64), jnp.asarray(b, jnp.int64)
    mask = jnp.int64(2**32 - 1)
    a_low, a_high, b_low, b_high = a & mask, a >> 32, b & mask, b >> 32
    ends = Wide(a_high * b_high, a_low.astype(jnp.uint64) * b_low.astype(jnp.uint64))
    return ends + (Wide.of(a_low * b_high) << 32) + (Wide.of(a_high * b_low) << 32)


def _constant(value: Any, like: Words) -> Words:
    """An integer, or an array of them, in the carrier of `like`."""
    if isinstance(like, Wide):
        return Wide.of(value)
    return jnp.asarray(value, like.dtype)


def _nonzero(words: Words) -> Any:
    return words.nonzero() if isinstance(words, Wide) else words != 0


def _ones(count: Any, like: Words) -> Words:
    """`2**count - 1` in the carrier of `like`, count below its bits."""
    if isinstance(count, int):
        return _constant(2**count - 1, like)
    count = count if isinstance(like, Wide) else count.astype(like.dtype)
    return (_constant(1, like) << count) - _constant(1, like)


def places(count: Any, like: Words) -> Any:
    """A number of places in the dtype that shifts of the carrier take."""
    return count if isinstance(like, Wide) else jnp.asarray(count, like.dtype)


def positive(count: Any) -> Any:
    """`max(count, 0)` for an integer of Python's or an array."""
    return max(count, 0) if isinstance(count, int) else jnp.maximum(count, 0)


def round_away(words: Words, count: Any, rounding: Any) -> Words:
    """Words with `count` >= 0 low bits rounded away, in mode `ROUNDINGS[rounding]`."""
    static = isinstance(count, int) and isinstance(rounding, int)
    bits = bits_of(words)
    if isinstance(count, int):
        if count == 0:
            return words
        if rounding == 0 and isinstance(rounding, int):
            return words >> places(min(count, bits - 1), words)
    # Where more bits go than the carrier has, the last of them are collected in one ("sticky") bit first.
    if isinstance(count, int):
        excess = min(max(count - (bits - 1), 0), bits - 1)
        count = min(count, bits - 1)
    else:
        excess = jnp.clip(count - (bits - 1), 0, bits - 1)
        count = jnp.minimum(count, bits - 1)
    if not isinstance(excess, int) or excess:
        dropped = _nonzero(words & _ones(excess, words))
        words = (words >> places(excess, words)) | select(dropped, _constant(1, words), _constant(0, words))
    place = max(count - 1, 0) if isinstance(count, int) else jnp.maximum(count - 1, 0)
    floor = words >> places(count, words)
    half = _nonzero((words >> places(place, words)) & _constant(1, words))
    rest = _nonzero(words & _ones(place, words))
    negative = words < _constant(0, words)
    if static and rounding == 2:
        up = half
    else:
        odd = _nonzero(floor & _constant(1, words))
        ways = {
            "TRN": jnp.zeros_like(half),
            "TRN_ZERO": negative & (half | rest),
            "RND": half,
            "RND_ZERO": half & (rest | negative),
            "RND_INF": half & (rest | ~negative),
            "RND_MIN_INF": half & rest,
            "RND_CONV": half & (rest | odd),
        }
        if isinstance(rounding, int):
            up = ways[ROUNDINGS[rounding]]
        else:
            up = jnp.select([rounding == i for i in range(len(ROUNDINGS))], [ways[name] for name in ROUNDINGS])
    if not isinstance(count, int):
        up = up & (count > 0)
    return floor + select(up, _constant(1, words), _constant(0, words))


def wrap(words: Words, width: Any, signed: Any) -> Words:
    """The low `width` bits as a number, two's complement where `signed`."""
    bits = bits_of(words)
    if isinstance(width, int) and isinstance(signed, int):
        if signed:
            spare = bits - width
            return words if spare <= 0 else (words << places(spare, words)) >> places(spare, words)
        return words & _ones(width, words)
    spare = places(bits - width, words)
    negative = (words << spare) >> spare
    return select(signed != 0, negative, words & _ones(width, words))


def _ends(format: Format, like: Words) -> tuple[Words, Words]:
    """Smallest and largest word of the format in the carrier of `like`."""
    width, _, signed, _, overflow = format
    symmetric = OVERFLOWS.index("SAT_SYM")
    if not format.traced:
        low = -(2 ** (width - 1)) + (overflow == symmetric) if signed else 0
        return _constant(low, like), _constant(2 ** (width - signed) - 1, like)
    high = _ones(width - signed, like)
    low = _constant(0, like) - high - select(overflow == symmetric, _constant(0, like), _constant(1, like))
    return select(signed != 0, low, _constant(0, like)), high


def limit(words: Words, left: Any, format: Format) -> Words:
    """`words * 2**left` with the overflow mode of the format; `left` >= 0.

    Exact although the product itself may not fit the carrier; the format must.
    """
    modes = [OVERFLOWS.index(name) for name in ("WRAP", "SAT", "SAT_ZERO", "SAT_SYM")]
    moved = words if isinstance(left, int) and left == 0 else words << places(left, words)
    if not isinstance(left, int) or left >= bits_of(words):
        gone = left >= bits_of(words)
        moved = select(jnp.asarray(gone), _constant(0, words), moved)
    traced = format.traced
    if not traced and format.overflow == modes[0]:
        return wrap(moved, format.width, format.signed)
    low, high = _ends(format, words)
    most = min(left, bits_of(words) - 1) if isinstance(left, int) else jnp.minimum(left, bits_of(words) - 1)
    zero = _constant(0, words)
    above = words > (high >> places(most, words))
    # Rounded up, and without -low, which a carrier as wide as the format does not hold.
    step = (_constant(1, words) << places(most, words)) - _constant(1, words)
    least = (low + step) >> places(most, words)
    if not isinstance(left, int) or left >= bits_of(words):
        least = select(jnp.asarray(left >= bits_of(words)), zero, least)
    below = words < least
    if not traced:
        ends = (zero, zero) if format.overflow == modes[2] else (low, high)
        return select(above, ends[1], select(below, ends[0], moved))
    to_zero = format.overflow == modes[2]
    clipped = select(above, select(to_zero, zero, high), select(below, select(to_zero, zero, low), moved))
    return select(format.overflow == modes[0], wrap(moved, format.width, format.signed), clipped)


def convert(words: Words, fraction: Any, format: Format) -> Words:
    """Words of `format` that assigning numbers `words * 2**-fraction` to it gives, bit for bit, in the same carrier.

    The carrier must hold the words of the format too, with a bit to spare where the format is unsigned.
    """
    drop = fraction - format.fraction
    return limit(round_away(words, positive(drop), format.rounding), positive(-drop), format)


def assign(words: Words, fraction: Any, format: Format, *, fits: bool = False) -> Words:
    """`convert`, without its limits where the caller knows that nothing overflows."""
    if not fits:
        return convert(words, fraction, format)
    drop = fraction - format.fraction
    words = round_away(words, positive(drop), format.rounding)
    return words << places(positive(-drop), words)
