"""Tables of scalar functions, entry by entry, against second computations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.table_activation import (
    ENTROPY,
    EXP,
    GELU,
    RECIPROCAL,
    RSQRT,
    SIGMOID,
    SILU,
    TANH,
    ScalarFunction,
    lookup,
    plan_table,
    round_words,
)

IN = FixedPoint(8, 3, True, "RND", "SAT")
OUT = FixedPoint(9, 3, True, "RND", "SAT")

# One number at a time by the standard library, as whoever reads the definition would.
BY_DEFINITION = {
    EXP: math.exp,
    TANH: math.tanh,
    SIGMOID: lambda x: 1 / (1 + math.exp(-x)),
    GELU: lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    SILU: lambda x: x / (1 + math.exp(-x)),
    RECIPROCAL: lambda x: 1 / x if x else math.inf,
    RSQRT: lambda x: 1 / math.sqrt(x) if x > 0 else math.inf,
    ENTROPY: lambda x: -x * math.log(x) if x > 0 else 0.0,
}


def words_of(format: FixedPoint) -> np.ndarray:
    return np.arange(format.min_word, format.max_word + 1)


@pytest.mark.parametrize("function", BY_DEFINITION, ids=lambda function: function.name)
def test_every_entry_is_the_rounded_value_and_jax_finds_it(function):
    inputs = words_of(IN) * IN.step
    expected = []
    for x in inputs:
        y = BY_DEFINITION[function](float(x))
        word = OUT.max_word if math.isinf(y) else math.floor(y * 64 + 0.5)
        expected.append(min(max(word, OUT.min_word), OUT.max_word) / 64)
    found = jax.jit(lambda x: lookup(x, function, IN, OUT))(jnp.asarray(inputs, jnp.float32))
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


@pytest.mark.parametrize("function", [EXP, TANH, SIGMOID, GELU, SILU, ENTROPY], ids=lambda function: function.name)
def test_the_derivative_is_that_of_the_function(function):
    x = jnp.asarray(words_of(IN) * IN.step, jnp.float32)
    if function is ENTROPY:
        x = x[x > 0]
    slopes = jax.grad(lambda x: jnp.sum(lookup(x, function, IN, OUT)))(x)
    at, step = np.asarray(x, np.float64), 1e-5
    difference = (function.value(at + step) - function.value(at - step)) / (2 * step)
    # Central differences err by step^2 f''' / 6, below 1e-6 but for the entropy near zero; float32 by 6e-8 relative.
    np.testing.assert_allclose(slopes, difference, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("function", "power"), [(RECIPROCAL, -1.0), (RSQRT, -0.5)], ids=["reciprocal", "rsqrt"])
def test_derivatives_of_powers_are_powers_and_zero_at_the_pole(function, power):
    x = jnp.asarray([0.0, 0.25, 1.0, 2.0], jnp.float32)
    slopes = jax.grad(lambda x: jnp.sum(lookup(x, function, IN, OUT)))(x)
    np.testing.assert_array_equal(
        slopes, [0.0, *(power * np.array([0.25, 1.0, 2.0]) ** (power - 1)).astype(np.float32)]
    )


def test_inputs_are_rounded_first_and_saturated_ones_have_no_derivative():
    x = jnp.asarray([0.49 * IN.step, 0.5 * IN.step, 100.0, -100.0], jnp.float32)
    np.testing.assert_array_equal(lookup(x, TANH, IN, OUT), lookup(quantize(x, IN), TANH, IN, OUT))
    slopes = jax.grad(lambda x: jnp.sum(lookup(x, EXP, IN, OUT)))(x)
    assert (slopes[:2] > 0.9).all()
    np.testing.assert_array_equal(slopes[2:], 0.0)


def test_nan_stays_nan_and_vmap_is_the_same_table():
    with jax.debug_nans(False):
        assert jnp.isnan(lookup(jnp.asarray([jnp.nan], jnp.float32), EXP, IN, OUT))[0]
    x = jnp.asarray(words_of(IN).reshape(16, 16) * IN.step, jnp.float32)
    np.testing.assert_array_equal(jax.vmap(lambda x: lookup(x, GELU, IN, OUT))(x), lookup(x, GELU, IN, OUT))


def test_an_exporter_finds_one_primitive_with_the_words():
    jaxpr = jax.make_jaxpr(lambda x: lookup(x, EXP, IN, OUT))(jnp.zeros(3))
    (equation,) = jaxpr.eqns
    assert equation.primitive.name == "fixed_point_table"
    table = equation.params["table"]
    assert table == plan_table(EXP, IN, OUT)
    assert hash(table) == hash(plan_table(EXP, IN, OUT))
    assert table != plan_table(TANH, IN, OUT)
    assert table.words.shape == (256,)


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**31 - 1),
    format=st.builds(
        FixedPoint,
        st.integers(2, 20),
        st.integers(-2, 12),
        st.booleans(),
        st.sampled_from(["TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_INF", "RND_MIN_INF", "RND_CONV"]),
        st.sampled_from(["WRAP", "SAT", "SAT_ZERO", "SAT_SYM"]),
    ),
)
def test_numpy_rounds_as_the_quantiser_of_jax(seed, format):
    rng = np.random.default_rng(seed)
    # Halves of steps, so that ties are frequent; twice the range, so that some overflow; all exact in float32.
    values = rng.integers(-(2**22), 2**22, 64) % (4 << format.width) * format.step / 4 - format.max
    values = values.astype(np.float32)
    np.testing.assert_array_equal(round_words(values, format) * format.step, quantize(jnp.asarray(values), format))


def test_impossible_tables_are_refused():
    with pytest.raises(ConfigError, match=r"would have 2\^17 entries; round its inputs to at most 16 bits"):
        plan_table(EXP, FixedPoint(17, 3), OUT)
    with pytest.raises(ConfigError, match="do not fit float32 exactly"):
        plan_table(EXP, IN, FixedPoint(26, 3))
    with pytest.raises(ConfigError, match=r"reciprocal over .* 1 values are not finite"):
        plan_table(RECIPROCAL, IN, FixedPoint(8, 3, True, "RND", "WRAP"))
    logarithm = ScalarFunction("log", np.log, lambda x: 1 / x)
    with pytest.raises(ConfigError, match=r"log over .* are not finite.*restrict the inputs"):
        plan_table(logarithm, IN, OUT)
    whole = ScalarFunction("sum", np.sum, np.cos)
    with pytest.raises(ConfigError, match="has to work entry by entry"):
        plan_table(whole, IN, OUT)
    with pytest.raises(InputError, match="takes float32 or float64, got float16"):
        lookup(jnp.zeros(2, jnp.float16), EXP, IN, OUT)
