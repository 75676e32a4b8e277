r"""Fixed-point numbers as pure functions: the quantiser that hardware applies, with a straight-through gradient.

A format is `ap_fixed<W, I, Q, O>` of the HLS headers: W bits of which I (the sign included) stand left of the
binary point, so values are $k\,2^{I-W}$ with integer words $k$. `quantize` gives for every finite float the value
that assigning it to that C++ type gives, bit for bit, in all seven rounding and all four overflow modes.

References:
    AMD, "Vitis High-Level Synthesis User Guide" (UG1399), "Arbitrary Precision Fixed-Point Data Types".
    Bengio, Léonard and Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for
    Conditional Computation", arXiv:1308.3432 (the straight-through estimator).
"""

import dataclasses
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Int

from jaxgeo.errors import ConfigError, InputError, check_fields, check_one_of

Rounding = Literal["TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_INF", "RND_MIN_INF", "RND_CONV"]
Overflow = Literal["WRAP", "SAT", "SAT_ZERO", "SAT_SYM"]

_MAX_SCALE = 100  # |W - I| and |I|: beyond, the step or the range leaves float32's exponents


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """A format `ap_fixed<width, integer, rounding, overflow>`; `integer` counts the sign bit.

    As in the headers `integer` may be negative (the leading bits after the binary point are implied) and may exceed
    `width` (values are multiples of a power of two above one). Networks that `fpga_bridge` carries to hardware keep
    `integer` at most `width`, as the tools after it need.

    Attributes:
        width: bits of a word, at least 1.
        integer: bits left of the binary point, the sign bit included where there is one.
        signed: `ap_fixed` (two's complement) or `ap_ufixed`.
        rounding: what happens to bits below the step: TRN floor, TRN_ZERO towards zero; RND, RND_ZERO, RND_INF,
            RND_MIN_INF and RND_CONV round to nearest and send ties up, to zero, away from zero, down, to even.
        overflow: what happens to values out of range: WRAP modulo 2^width steps, SAT to the nearest end, SAT_ZERO to
            zero, SAT_SYM to the nearest end of a symmetric range.

    Raises:
        ConfigError: for a width below 1, bits that are no whole number, a mode that does not exist, or one bit with
            SAT_SYM and a sign (the symmetric range would be zero alone).
    """

    width: int
    integer: int
    signed: bool = True
    rounding: Rounding = "TRN"
    overflow: Overflow = "WRAP"

    def __post_init__(self) -> None:
        check_fields(self, width=1)
        if self.signed and self.overflow == "SAT_SYM" and self.width == 1:
            raise ConfigError(
                "SAT_SYM on one signed bit leaves zero alone; use width 2 or more, or another overflow mode"
            )
        if max(abs(self.fraction), abs(self.integer)) > _MAX_SCALE:
            raise ConfigError(
                f"{self} has values near 2^{self.integer} in steps of 2^{-self.fraction}, which floats cannot hold; "
                f"integer and width - integer must lie within +-{_MAX_SCALE}"
            )

    @classmethod
    def parse(cls, text: str) -> "FixedPoint":
        """Read `ap_fixed<W,I[,AP_Q[,AP_O[,0]]]>`, `ap_ufixed<...>`, `ap_int<W>` or `ap_uint<W>`.

        Also without the prefixes `ap_` and `AP_`, as hls4ml prints them. The inverse of `str`.

        Raises:
            ConfigError: for anything else, and for saturation bits N other than 0.
        """
        match = re.fullmatch(r"(?:ap_)?(u?)(fixed|int)<([^<>]*)>", text.replace(" ", ""))
        fields = match[3].split(",") if match else []
        kind = match[2] if match else ""
        count_is_right = 2 <= len(fields) <= 5 if kind == "fixed" else len(fields) == 1
        if match is None or not count_is_right or not all(re.fullmatch(r"-?\d+", f) for f in fields[:2]):
            raise ConfigError(
                f"cannot read {text!r} as a fixed-point format; write ap_fixed<width,integer>, "
                "ap_ufixed<width,integer,AP_RND,AP_SAT> or ap_int<width>"
            )
        if fields[4:] not in ([], ["0"]):
            raise ConfigError(f"{text!r} asks for {fields[4]} saturation bits; only 0 is supported")
        modes = [field.removeprefix("AP_") for field in fields[2:4]]
        # Before the constructor, where a checker of literal types would be first to complain.
        for name, mode, known in zip(("rounding", "overflow"), modes, (Rounding, Overflow), strict=False):
            check_one_of(name, mode, known)
        width, integer = int(fields[0]), int(fields[-1 if kind == "int" else 1])
        return cls(width, integer, match[1] == "", *modes)  # pyright: ignore[reportArgumentType]

    def __str__(self) -> str:
        name = "ap_fixed" if self.signed else "ap_ufixed"
        return f"{name}<{self.width},{self.integer},AP_{self.rounding},AP_{self.overflow}>"

    @property
    def fraction(self) -> int:
        """Bits after the binary point; negative where the step is above one."""
        return self.width - self.integer

    @property
    def step(self) -> float:
        """Distance of neighbouring values, 2^-fraction."""
        return 2.0**-self.fraction

    @property
    def min_word(self) -> int:
        """Smallest integer word that `quantize` yields."""
        if not self.signed:
            return 0
        return -(2 ** (self.width - 1)) + (self.overflow == "SAT_SYM")

    @property
    def max_word(self) -> int:
        """Largest integer word."""
        return 2 ** (self.width - self.signed) - 1

    @property
    def min(self) -> float:
        """Smallest value that `quantize` yields (exact in float64 up to 53 magnitude bits)."""
        return self.min_word * self.step

    @property
    def max(self) -> float:
        """Largest value."""
        return self.max_word * self.step


def _check_dtype(dtype: Any, format: FixedPoint) -> None:
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"only floating-point arrays can be rounded to {format}, got {dtype}")
    exact_bits = jnp.finfo(dtype).nmant + 1
    if format.width - format.signed > exact_bits:
        raise ConfigError(
            f"{format} has {format.width - format.signed} bits of magnitude but {np.dtype(dtype).name} carries "
            f"{exact_bits} exactly; use a narrower format or a wider float (float64 needs jax_enable_x64)"
        )
    if np.dtype(dtype).itemsize < 4:
        raise InputError(f"{np.dtype(dtype).name} is too coarse for exact fixed point; use float32 or float64")


def _round(x: jax.Array, rounding: str) -> jax.Array:
    """Integer values; every step is exact: x - floor(x) is representable wherever x has a fraction."""
    if rounding == "TRN":
        return jnp.floor(x)
    if rounding == "TRN_ZERO":
        return jnp.trunc(x)
    if rounding == "RND_CONV":
        return jnp.round(x)
    # The magnitude's fraction is exact where x - floor(x) would not be (a small negative x).
    whole = jnp.trunc(x)
    rest = jnp.abs(x - whole)
    ties_outward = {
        "RND": x > 0,
        "RND_ZERO": jnp.zeros_like(x, bool),
        "RND_INF": jnp.ones_like(x, bool),
        "RND_MIN_INF": x < 0,
    }[rounding]
    outward = (rest > 0.5) | ((rest == 0.5) & ties_outward)
    return whole + jnp.where(outward, jnp.sign(x), 0.0)


def _wrap(words: jax.Array, format: FixedPoint) -> jax.Array:
    modulus = 2.0**format.width
    # Each product and difference keeps the low bits of a float on its own grid, so nothing is rounded
    # (except for small negative words, whose 2^width-complement may not fit: those in range are kept as they are).
    low = words - jnp.floor(words / modulus) * modulus
    if format.signed:
        low = jnp.where(low >= modulus / 2, low - modulus, low)
    return jnp.where((words >= format.min_word) & (words <= format.max_word), words, low)


def _rounded(x: jax.Array, format: FixedPoint) -> jax.Array:
    """Words before the overflow mode, as floats; infinite where they leave the float's range."""
    scaled = x * jnp.asarray(2.0**format.fraction, x.dtype)
    # A product that underflows still has a sign, which decides where TRN goes.
    smallest = jnp.asarray(jnp.finfo(x.dtype).tiny, x.dtype)
    scaled = jnp.where((scaled == 0) & (x != 0), jnp.sign(x) * smallest, scaled)
    return jnp.where(jnp.isinf(scaled), scaled, _round(jnp.where(jnp.isinf(scaled), 0.0, scaled), format.rounding))


def _words(x: jax.Array, format: FixedPoint) -> jax.Array:
    """Integer words, still as floats."""
    words = _rounded(x, format)
    inside = (words >= format.min_word) & (words <= format.max_word)
    if format.overflow == "WRAP":
        # Beyond the float's exponents every bit that a word keeps is zero.
        words = _wrap(jnp.where(jnp.isinf(words), 0.0, words), format)
    elif format.overflow == "SAT_ZERO":
        words = jnp.where(inside | jnp.isnan(words), words, 0.0)
    else:
        words = jnp.clip(words, format.min_word, format.max_word)
    # Hardware has one zero.
    return jnp.where(words == 0, 0.0, words)


def _quantize(x: jax.Array, *, format: FixedPoint) -> jax.Array:
    return _words(x, format) * jnp.asarray(format.step, x.dtype)


# A primitive of its own, so that an exporter that reads the jaxpr finds the format and not a cloud of
# multiplications and rounds.
fixed_point_quantize_p = Primitive("fixed_point_quantize")


def _abstract_eval(x: Any, *, format: FixedPoint) -> Any:
    _check_dtype(x.dtype, format)
    return x.update(weak_type=False)  # keeps the axes over which a shard_map value varies


def _jvp(primals: tuple[Any], tangents: tuple[Any], *, format: FixedPoint) -> tuple[Any, Any]:
    (x,), (tangent,) = primals, tangents
    y = fixed_point_quantize_p.bind(x, format=format)
    if isinstance(tangent, ad.Zero) or format.overflow == "WRAP":
        return y, tangent
    words = _rounded(jax.lax.stop_gradient(x), format)
    inside = (words >= format.min_word) & (words <= format.max_word)
    return y, jnp.where(inside, tangent, jnp.zeros_like(tangent))


fixed_point_quantize_p.def_impl(jax.jit(_quantize, static_argnames="format"))
fixed_point_quantize_p.def_abstract_eval(_abstract_eval)
batching.defvectorized(fixed_point_quantize_p)
ad.primitive_jvps[fixed_point_quantize_p] = _jvp
mlir.register_lowering(fixed_point_quantize_p, mlir.lower_fun(_quantize, multiple_results=False))


def quantize(x: Float[Array, "*shape"] | float, format: FixedPoint) -> Float[Array, "*shape"]:
    """The values that assigning `x` to the C++ type `format` gives, bit for bit, in the dtype of `x`.

    Infinite values overflow (to the end of the range, or to zero in the modes WRAP and SAT_ZERO) as in the headers;
    NaN stays NaN, where the headers would make a number of it; zero is always +0; subnormal inputs count as zero.
    The derivative is the straight-through estimator: 1 where the rounded value is in range, 0 where it saturates, and
    1 everywhere under WRAP.

    Args:
        x: float32 or float64, any shape; a number of Python has the default float.
        format: its magnitude bits (width less sign) must fit the significand: 24 bits in float32, 53 in float64.

    Raises:
        ConfigError: for a format that the dtype cannot hold exactly.
        InputError: for another dtype.
    """
    x = jnp.asarray(x) if isinstance(x, float | int) else x
    _check_dtype(x.dtype, format)  # here too: the impl rule does not pass by the abstract evaluation
    return fixed_point_quantize_p.bind(x, format=format)


def _word_dtype(format: FixedPoint) -> Any:
    dtype = jnp.int32 if format.width <= 31 + format.signed else jnp.int64
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ConfigError(f"the words of {format} need int64; use at most 32 bits or switch jax_enable_x64 on")
    return dtype


def to_integers(x: Float[Array, "*shape"], format: FixedPoint) -> Int[Array, "*shape"]:
    """Integer words k of `quantize(x) = k * format.step`: int32 up to 32 bits, else int64. NaN is undefined here.

    Raises:
        ConfigError: where the dtype of `x` cannot hold the format, or int64 is needed and switched off.
        InputError: where `x` is not float32 or float64.
    """
    _check_dtype(x.dtype, format)
    return _words(x, format).astype(_word_dtype(format))


def from_integers(words: Int[Array, "*shape"], format: FixedPoint, dtype: Any = jnp.float32) -> Float[Array, "*shape"]:
    """Values of integer words in the range of the format; exact, the inverse of `to_integers`.

    Raises:
        ConfigError: where `dtype` cannot hold the format exactly.
    """
    _check_dtype(dtype, format)
    return words.astype(dtype) * jnp.asarray(format.step, dtype)
