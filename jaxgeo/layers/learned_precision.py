r"""Fixed-point rounding whose bits are numbers in an array: many widths in one compiled program, and widths that learn.

`fixed_point.quantize` has its format in the program. Here bits and integer bits are arrays, one for a layer, for each
channel or for each weight, so that one program trains every width, and bits can have a gradient. With integer bits $i$
and bits $b$ (both with the sign, where there is one) the step is $2^{i-b}$, ties go up and what is out of range
saturates: `ap_fixed<b, i, AP_RND, AP_SAT>`, to the bit.

The error $\delta = x - q(x)$ of a rounded value is taken to shrink with the step, $\delta \propto 2^{-b}$, so that
$\partial q / \partial b = \ln 2 \; \delta$, and $\partial q / \partial x = 1$. A value saturated above is
$2^{i-s} - 2^{i-b}$ and has the gradient of that in $b$; neither has one in $x$.

References:
    Sun, Que, Aarrestad, Loncar, Ngadiuba, Luk, Spiropulu, "Gradient-based Automatic Mixed Precision Quantization for
    Neural Networks On-Chip", arXiv:2405.00645, section 3 (the gradient of bits; here the integer bits are given).
    Courbariaux, Bengio, David, "BinaryConnect", arXiv:1511.00363 (one signed bit).
"""

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgeo.errors import check_fields
from jaxgeo.layers.fixed_point import FixedPoint, quantize

COLLECTION = "precision"
"""Name of the linen collection in which bits stand, so that they are trained, or not, apart from the parameters."""

MAX_BITS = 24.0  # of magnitude and sign: what float32 still rounds exactly
Granularity = Literal["layer", "channel", "weight"]


@dataclasses.dataclass(frozen=True)
class VariableBits:
    """Bits in the collection `precision` in place of fixed formats; these are the first ones.

    Raises:
        ConfigError: bits out of 1 ... 24, or an unknown granularity.
    """

    weight: float = 8.0
    bias: float = 16.0
    activation: float = 8.0
    input: float = 8.0
    signed_input: bool = False
    granularity: Granularity = "layer"
    """of the kernels: one number for a layer, for each output channel or for each weight"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        bits = 1, MAX_BITS
        check_fields(self, weight=bits, bias=bits, activation=bits, input=bits)


Rounding: TypeAlias = FixedPoint | float | None
"""How a value is rounded: to a fixed format, to variable bits of which this is the first number, or not."""


class MatrixLayer(NamedTuple):
    """A dense layer or a convolution, as costs count it."""

    name: str
    source: str  # whose rounded values it multiplies: `input` or the name of a layer
    positions: int  # pixels at which its kernel is used for one example; 1 for a dense layer
    fan_in: int  # products in one sum
    features: int


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _fake_quantize(x: Array, bits: Array, integer: Array, signed: bool) -> Array:
    return _quantized(x, bits, integer, signed)[0]


def _quantized(x: Array, bits: Array, integer: Array, signed: bool) -> tuple[Array, Array, Array, Array]:
    """Values, steps, and where values are below and above the range."""
    whole = jnp.clip(jnp.round(bits), 0.0, MAX_BITS)
    # exp2 of a float is not exact on every backend; a power of two that a rounding to bits is made with must be.
    exponent = (jnp.round(integer) - whole).astype(jnp.int32)
    step = jnp.ldexp(jnp.ones_like(x), jnp.broadcast_to(exponent, x.shape))
    words = jnp.floor(x / step + 0.5)
    # Beyond 2^23 words every float is whole already, and adding a half would round it.
    words = jnp.where(jnp.abs(x / step) < 2.0**23, words, x / step)
    count = jnp.ldexp(jnp.ones_like(whole), (whole - signed).astype(jnp.int32))
    highest, lowest = jnp.ceil(count) - 1.0, -jnp.ceil(count) if signed else jnp.zeros_like(count)
    lowest = jnp.where(whole < 1, 0.0, lowest)
    highest = jnp.where(whole < 1, 0.0, highest)
    above, below = words > highest, words < lowest
    values = jnp.clip(words, lowest, highest) * step
    if signed:
        one = jnp.broadcast_to(whole == 1, x.shape)
        values = jnp.where(one, jnp.sign(x) * 0.5 * step, values)
        above, below = jnp.where(one, x > step, above), jnp.where(one, x < -step, below)
    # Hardware has one zero.
    return jnp.where(values == 0, 0.0, values), step, below, above


@_fake_quantize.defjvp
def _fake_quantize_jvp(signed: bool, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, bits, integer = primals
    x_dot, bits_dot, _ = tangents
    values, step, below, above = _quantized(x, bits, integer, signed)
    inside = ~(below | above)
    by_bits = math.log(2) * jnp.where(inside, x - values, jnp.where(above, step, 0.0))
    return values, jnp.where(inside, x_dot, 0.0) + by_bits * bits_dot


def fake_quantize(
    x: Float[Array, "*shape"], bits: Float[Array, "*wide"], integer: Float[Array, "*wide"], signed: bool = True
) -> Float[Array, "*shape"]:
    """Values of `ap_fixed<bits, integer, AP_RND, AP_SAT>` (`ap_ufixed` without sign), bits and integer as arrays.

    Both are rounded to whole numbers here. Bits of 0 or less give zero: the value is dropped. One signed bit is binary
    as networks have it, plus or minus half of its step 2^(integer - 1), and not the two's complement -1 and 0; an
    exact zero, such as a pruned weight, stays zero.

    Args:
        x: float32, any shape; finite.
        bits: of a word, of the shape of `x` or one that broadcasts to it without new axes; its gradient is as above.
        integer: bits left of the point, likewise; without a gradient.
        signed: whether one of both is the sign.
    """
    return _fake_quantize(x, bits, integer, signed)


class BitQuantizer(nn.Module):
    """`fake_quantize` with `bits` and `integer` in the collection `precision`.

    The first integer bits hold the values that `init` sees, for each number of bits apart.
    """

    initial_bits: float
    signed: bool = True
    granularity: Granularity = "layer"

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The rounded values."""
        axes = {"layer": tuple(range(x.ndim)), "channel": tuple(range(x.ndim - 1)), "weight": ()}[self.granularity]
        keep = self.granularity != "layer"

        def fit() -> Array:
            return integer_bits(jnp.max(jnp.abs(x), axis=axes, keepdims=keep), self.signed)

        integer = self.variable(COLLECTION, "integer", fit)
        bits = self.variable(COLLECTION, "bits", lambda: jnp.full(integer.value.shape, self.initial_bits, jnp.float32))
        return fake_quantize(x, bits.value, integer.value, self.signed)


def integer_bits(largest: Float[Array, "*shape"], signed: bool = True) -> Float[Array, "*shape"]:
    """Fewest integer bits whose range reaches magnitudes `largest`; for 0 those of the range +-1."""
    _, exponent = jnp.frexp(largest)
    return jnp.where(largest > 0, exponent, 0).astype(jnp.float32) + float(signed)


def rounded(name: str, x: Array, format: Rounding, *, signed: bool = True, granularity: Granularity = "layer") -> Array:
    """`x` rounded as asked; inside of a compact linen method, of which a `BitQuantizer` of that name becomes a part."""
    if format is None:
        return x
    if isinstance(format, FixedPoint):
        return quantize(x, format)
    return BitQuantizer(format, signed, granularity, name=name)(x)


def total_bits(collection: Any) -> Float[Array, ""]:
    """Sum of all bits of a collection `precision`, the term that keeps unused bits from standing still."""
    leaves = jax.tree_util.tree_leaves_with_path(collection)
    found = [jnp.sum(jnp.maximum(leaf, 0.0)) for path, leaf in leaves if path[-1].key == "bits"]
    return jnp.sum(jnp.stack(found))
