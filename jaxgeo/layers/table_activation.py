r"""Scalar functions of fixed-point numbers as tables: from each input word to an output word, as in hardware.

A table holds for every word k of the input format the value $f(k\,2^{-F})$, computed in float64 and rounded once to the
output format. So the activation is exact by construction, in JAX and in any circuit that holds the same words; the
derivative is that of f (straight-through in both roundings), zero where the input leaves its format.

References:
    Duarte et al., "Fast inference of deep neural networks in FPGAs for particle physics", arXiv:1804.06913 (tables
    for activations); Bengio, Léonard and Courville, arXiv:1308.3432 (the straight-through estimator).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.fixed_point import FixedPoint, to_integers

MAX_INPUT_BITS = 16  # 65,536 entries; each bit more doubles the memory that hardware spends


@dataclasses.dataclass(frozen=True)
class ScalarFunction:
    """A function of one real number, and its derivative, in float64 NumPy.

    Infinite values are taken as the ends of the output format; a derivative that is not finite counts as zero.
    Functions are the same where their names and both callables are: keep them at a module's top level.
    """

    name: str
    value: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * scipy.special.ndtr(x)


def _gelu_derivative(x: np.ndarray) -> np.ndarray:
    return scipy.special.ndtr(x) + x * np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)


def _sigmoid_derivative(x: np.ndarray) -> np.ndarray:
    return scipy.special.expit(x) * scipy.special.expit(-x)


def _silu(x: np.ndarray) -> np.ndarray:
    return x * scipy.special.expit(x)


def _silu_derivative(x: np.ndarray) -> np.ndarray:
    return scipy.special.expit(x) + x * _sigmoid_derivative(x)


def _positive(x: np.ndarray, at_zero: float) -> np.ndarray:
    """The sign bit's half of a word has no reciprocal root; its entries are those of zero."""
    return np.where(x > 0, x, at_zero)


def _reciprocal(x: np.ndarray) -> np.ndarray:
    return np.where(x == 0, np.inf, 1.0 / np.where(x == 0, 1.0, x))


def _reciprocal_derivative(x: np.ndarray) -> np.ndarray:
    return np.where(x == 0, 0.0, -1.0 / np.where(x == 0, 1.0, x) ** 2)


def _rsqrt(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, 1.0 / np.sqrt(_positive(x, 1.0)), np.inf)


def _rsqrt_derivative(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, -0.5 * _positive(x, 1.0) ** -1.5, 0.0)


def _surprise(x: np.ndarray) -> np.ndarray:
    return scipy.special.entr(np.maximum(x, 0.0))


def _surprise_derivative(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, -np.log(_positive(x, 1.0)) - 1.0, 0.0)


EXP = ScalarFunction("exp", np.exp, np.exp)
TANH = ScalarFunction("tanh", np.tanh, lambda x: 1.0 - np.tanh(x) ** 2)
SIGMOID = ScalarFunction("sigmoid", scipy.special.expit, _sigmoid_derivative)
GELU = ScalarFunction("gelu", _gelu, _gelu_derivative)
SILU = ScalarFunction("silu", _silu, _silu_derivative)
RECIPROCAL = ScalarFunction("reciprocal", _reciprocal, _reciprocal_derivative)
"""1 / x; the end of the output format at zero."""
RSQRT = ScalarFunction("rsqrt", _rsqrt, _rsqrt_derivative)
"""x^(-1/2); the end of the output format at zero and below."""
ENTROPY = ScalarFunction("entropy", _surprise, _surprise_derivative)
"""-x ln x in nats, one term of an entropy; zero at zero and below."""


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Words of a function, plan of one activation; two tables are equal where formats and words are.

    Attributes:
        name: of the function.
        input_format: to which inputs are rounded.
        output_format: whose words the table holds.
        words: int64 (entry,), entry i for the input word `input_format.min_word + i`.
        slopes: float64 (entry,), derivatives at the entries' inputs.
    """

    name: str
    input_format: FixedPoint
    output_format: FixedPoint
    words: np.ndarray
    slopes: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """Float64 (entry,): what the words stand for."""
        return self.words * self.output_format.step

    @functools.cached_property
    def _key(self) -> tuple[Any, ...]:
        formats = self.name, self.input_format, self.output_format
        return (*formats, self.words.tobytes(), self.slopes.tobytes())

    def __eq__(self, other: object) -> bool:
        """By content, as JAX's caches of compiled programs need."""
        return isinstance(other, Table) and self._key == other._key

    def __hash__(self) -> int:
        """Of the content."""
        return hash(self._key)


def round_words(values: np.ndarray, format: FixedPoint) -> np.ndarray:
    """Integer words of float64 values in NumPy, the same as `to_integers`; infinities overflow.

    Args:
        values: float64, any shape.
        format: at most 53 bits of magnitude.

    Raises:
        InputError: for NaN, or an infinity where the format wraps.
    """
    values = np.asarray(values, np.float64)
    if np.isnan(values).any() or (format.overflow == "WRAP" and np.isinf(values).any()):
        raise InputError(f"{int((~np.isfinite(values)).sum())} values are not finite and have no word in {format}")
    scaled = values * 2.0**format.fraction
    finite = np.clip(np.nan_to_num(scaled, posinf=2.0**60, neginf=-(2.0**60)), -(2.0**60), 2.0**60)
    low = np.floor(finite)
    rest = finite - low
    up = {
        "TRN": np.zeros_like(rest, bool),
        "TRN_ZERO": (finite < 0) & (rest > 0),
        "RND": rest >= 0.5,
        "RND_ZERO": (rest > 0.5) | ((rest == 0.5) & (finite < 0)),
        "RND_INF": (rest > 0.5) | ((rest == 0.5) & (finite > 0)),
        "RND_MIN_INF": rest > 0.5,
        "RND_CONV": (rest > 0.5) | ((rest == 0.5) & (low % 2 != 0)),
    }[format.rounding]
    words = low.astype(np.int64) + up
    if format.overflow == "WRAP":
        modulus = 1 << format.width
        words = words % modulus
        return np.where(words > format.max_word, words - modulus, words)
    inside = (words >= format.min_word) & (words <= format.max_word)
    if format.overflow == "SAT_ZERO":
        return np.where(inside, words, 0)
    return np.clip(words, format.min_word, format.max_word)


@functools.lru_cache(maxsize=256)
def plan_table(function: ScalarFunction, input_format: FixedPoint, output_format: FixedPoint) -> Table:
    """The table of a function: every input word, in float64, rounded once.

    Raises:
        ConfigError: for inputs of more than 16 bits, outputs of more than 24 bits of magnitude (float32 would not hold
            them), or a function that is NaN, or infinite under WRAP, within the range of the inputs.
    """
    if input_format.width > MAX_INPUT_BITS:
        raise ConfigError(
            f"a table of {function.name} over {input_format} would have 2^{input_format.width} entries; "
            f"round its inputs to at most {MAX_INPUT_BITS} bits, better 8 to 10"
        )
    if output_format.width - output_format.signed > 24:
        raise ConfigError(
            f"entries of {output_format} do not fit float32 exactly; give the table of {function.name} an output of "
            "at most 24 bits of magnitude"
        )
    inputs = np.arange(input_format.min_word, input_format.max_word + 1) * input_format.step
    with np.errstate(all="ignore"):  # what is not finite is refused or taken as an end of the range
        values, slopes = np.asarray(function.value(inputs)), np.asarray(function.derivative(inputs))
    if values.shape != inputs.shape or slopes.shape != inputs.shape:
        raise ConfigError(
            f"the function {function.name} gave arrays {values.shape} and {slopes.shape} for {inputs.shape} inputs; "
            "it has to work entry by entry"
        )
    try:
        words = round_words(values, output_format)
    except InputError as error:
        raise ConfigError(f"{function.name} over {input_format}: {error}; restrict the inputs or saturate") from error
    slopes = np.where(np.isfinite(slopes), slopes, 0.0)
    words.setflags(write=False)
    slopes.setflags(write=False)
    return Table(function.name, input_format, output_format, words, slopes)


def _entries(x: jax.Array, table: Table) -> jax.Array:
    return to_integers(x, table.input_format) - table.input_format.min_word


def _lookup(x: jax.Array, *, table: Table) -> jax.Array:
    values = jnp.asarray(table.values, x.dtype)
    found = jnp.take(values, _entries(jnp.where(jnp.isnan(x), jnp.zeros_like(x), x), table), mode="clip")
    return jnp.where(jnp.isnan(x), x, found)


# A primitive of its own, so that an exporter finds the words and not a gather from a constant.
fixed_point_table_p = Primitive("fixed_point_table")


def _check_dtype(dtype: Any, table: Table) -> None:
    if not jnp.issubdtype(dtype, jnp.floating) or np.dtype(dtype).itemsize < 4:
        raise InputError(f"a table of {table.name} takes float32 or float64, got {np.dtype(dtype).name}")


def _abstract_eval(x: Any, *, table: Table) -> Any:
    _check_dtype(x.dtype, table)
    return x.update(weak_type=False)


def _jvp(primals: tuple[Any], tangents: tuple[Any], *, table: Table) -> tuple[Any, Any]:
    (x,), (tangent,) = primals, tangents
    y = fixed_point_table_p.bind(x, table=table)
    if isinstance(tangent, ad.Zero):
        return y, tangent
    x = jax.lax.stop_gradient(x)
    slope = jnp.take(jnp.asarray(table.slopes, x.dtype), _entries(x, table), mode="clip")
    inside = (x >= table.input_format.min) & (x <= table.input_format.max)
    return y, jnp.where(inside, slope * tangent, jnp.zeros_like(tangent))


fixed_point_table_p.def_impl(jax.jit(_lookup, static_argnames="table"))
fixed_point_table_p.def_abstract_eval(_abstract_eval)
batching.defvectorized(fixed_point_table_p)
ad.primitive_jvps[fixed_point_table_p] = _jvp
mlir.register_lowering(fixed_point_table_p, mlir.lower_fun(_lookup, multiple_results=False))


def lookup(
    x: Float[Array, "*shape"], function: ScalarFunction, input_format: FixedPoint, output_format: FixedPoint
) -> Float[Array, "*shape"]:
    """`function(quantize(x, input_format))`, rounded to `output_format`, from a table of every input word.

    Args:
        x: float32 or float64, any shape; NaN stays NaN.
        function: one of this module's, or your own.
        input_format: at most 16 bits.
        output_format: at most 24 bits of magnitude.

    Raises:
        ConfigError: see `plan_table`.
        InputError: where `x` is not float32 or float64.
    """
    table = plan_table(function, input_format, output_format)
    _check_dtype(x.dtype, table)  # here too: eager calls do not pass by the abstract evaluation
    return fixed_point_table_p.bind(x, table=table)
