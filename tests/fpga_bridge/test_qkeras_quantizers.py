"""Quantisers of QKeras as formats: against the published formula, searched value by value."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpga_bridge.keras_files.qkeras_quantizers import activation_format, parse_quantizer, quantize_weight
from fpga_bridge.typed_graph.precision import words
from jaxgeo.errors import ConfigError, ExportError
from jaxgeo.layers.fixed_point import quantize


def nearest(x, low, high, step):
    """The nearest of the words low..high times step, by looking at all of them; ties go to the even word."""
    grid = np.arange(low, high + 1)
    distance = np.abs(x[..., None] / step - grid)
    # Of two equally near words the even one: half a word of penalty decides ties and nothing else.
    return grid[np.argmin(distance + 1e-9 * (grid % 2), axis=-1)] * step


def quantizer(kind, **config):
    return parse_quantizer({"class_name": kind, "config": config}, "here")


def samples(seed, scale, step):
    x = np.random.default_rng(seed).normal(scale=scale, size=50).astype(np.float32)
    return np.concatenate([x, np.arange(-20, 20) * np.float32(step / 2)])  # halves of a step: every tie


@settings(max_examples=40)  # each compiles two quantisers
@given(
    bits=st.integers(2, 8),
    integer=st.integers(-2, 4),
    symmetric=st.integers(0, 1),
    keep_negative=st.booleans(),
    shift=st.integers(-3, 3),
    seed=st.integers(0, 1000),
)
def test_quantized_bits_takes_the_nearest_value_of_its_grid(bits, integer, symmetric, keep_negative, shift, seed):
    config = {"bits": bits, "integer": integer, "symmetric": symmetric, "keep_negative": keep_negative}
    unsigned = bits - keep_negative
    step = 2.0 ** (integer - unsigned)
    x = samples(seed, 2.0**integer, step)
    expected = nearest(x.astype(np.float64), keep_negative * (-(2**unsigned) + symmetric), 2**unsigned - 1, step)
    weight = quantize_weight(quantizer("quantized_bits", **config, alpha=2.0**shift), x)
    np.testing.assert_array_equal(weight.value, expected * 2.0**shift)
    # The format is that of the values, the scale included: rounding them once more changes nothing.
    np.testing.assert_array_equal(quantize(jnp.asarray(weight.value), weight.format), weight.value)
    activation = quantize(jnp.asarray(x), activation_format(quantizer("quantized_bits", **config, alpha=1)))
    np.testing.assert_array_equal(activation, expected)


@settings(max_examples=30)  # each compiles three quantisers
@given(bits=st.integers(1, 8), integer=st.integers(-2, 4), seed=st.integers(0, 1000))
def test_activation_quantisers_are_their_published_formulas(bits, integer, seed):
    x = samples(seed, 2.0**integer, 2.0 ** (integer - bits))
    m, m_i = 2.0**bits, 2.0**integer
    relu = m_i * np.clip(np.rint(x * m / m_i) / m, 0, 1 - 1 / m)
    format = activation_format(quantizer("quantized_relu", bits=bits, integer=integer))
    np.testing.assert_array_equal(quantize(jnp.asarray(x), format), relu)
    sigmoid = np.clip(np.rint(np.clip(0.5 * x + 0.5, 0, 1) * m) / m, 0, 1 - 1 / m)
    format = activation_format(quantizer("quantized_sigmoid", bits=bits))
    np.testing.assert_array_equal(quantize(jnp.asarray(0.5 * x + 0.5), format), sigmoid)
    if bits > 1:
        tanh = np.clip(np.rint(np.clip(x, -1, 1) * m / 2) / (m / 2), -1 + 2 / m, 1 - 2 / m)
        format = activation_format(quantizer("quantized_tanh", bits=bits, symmetric=True))
        np.testing.assert_array_equal(quantize(jnp.asarray(x), format), tanh)


@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (12, 5)])
def test_automatic_powers_of_two_minimise_the_squares_of_each_channel(shape):
    x = (np.random.default_rng(0).normal(size=shape) * 2.0 ** np.arange(-4, 1)).astype(np.float32)
    weight = quantize_weight(quantizer("quantized_bits", bits=4, integer=0, alpha="auto_po2"), x)
    assert words(weight)[1] <= weight.format.fraction
    np.testing.assert_array_equal(quantize(jnp.asarray(weight.value), weight.format), weight.value)
    errors = []
    for channel in range(5):
        values, kernel = weight.value[..., channel].astype(np.float64), x[..., channel].astype(np.float64)
        every = []
        for exponent in range(-12, 3):
            step = 2.0**exponent
            rounded = np.sign(kernel) * np.minimum(np.floor(np.abs(kernel) / step + 0.5), 7) * step
            every.append(((rounded - kernel) ** 2).sum())
        used = ((values - kernel) ** 2).sum()
        assert used in every  # sums of the same numbers in the same order
        errors.append(used / min(every))
    # Least squares is rounded to a power of two before the next step, so the best of all powers may be missed by one
    # (a factor below 4 in the squares), but not for most channels.
    assert max(errors) < 4
    assert np.median(errors) == 1


def test_automatic_scales_of_zero_weights_and_of_vectors():
    spec = quantizer("quantized_bits", bits=4, alpha="auto_po2")
    np.testing.assert_array_equal(quantize_weight(spec, np.zeros((3, 2))).value, 0)
    vector = np.array([0.3, -0.001, 0.0, 5.0], np.float32)
    # Each element of a vector has a scale of its own: the result is near it relative to itself.
    value = quantize_weight(spec, vector).value
    assert (np.abs(value[[0, 3]] / vector[[0, 3]] - 1) < 0.5).all()
    frozen = quantizer("quantized_bits", bits=4, alpha="auto_po2", post_training_scale=[[0.5, 2.0]])
    # Steps are scale / 2^(bits - 1): 1/16 and 1/4, seven of them at most.
    np.testing.assert_array_equal(quantize_weight(frozen, np.array([[0.1, -9.0]])).value, [[0.125, -1.75]])


def test_signs_and_powers_of_two():
    x = np.array([-0.7, -0.2, 0.0, 0.2, 0.7, 3.1], np.float32)
    for kind, config, expected in (
        ("binary", {"alpha": 1}, [-1, -1, 1, 1, 1, 1]),
        ("binary", {"alpha": 0.5, "use_01": True}, [0, 0, 0.5, 0.5, 0.5, 0.5]),
        ("ternary", {"alpha": 2}, [-2, 0, 0, 0, 2, 2]),
        ("quantized_bits", {"bits": 1, "alpha": 0.5}, [-0.5, -0.5, 0.5, 0.5, 0.5, 0.5]),
        ("quantized_po2", {"bits": 4, "max_value": 1}, [-0.5, -0.25, 2.0**-8, 0.25, 0.5, 1]),
        ("quantized_relu_po2", {"bits": 3, "max_value": 2}, [2.0**-4, 2.0**-4, 2.0**-4, 0.25, 0.5, 2]),
        (
            "quantized_relu_po2",
            {"bits": 6, "quadratic_approximation": True},
            [2.0**-32, 2.0**-32, 2.0**-32, 0.25, 1, 4],
        ),
    ):
        np.testing.assert_array_equal(quantize_weight(quantizer(kind, **config), x).value, np.float32(expected))


def test_texts_and_objects_are_one_quantiser():
    text = parse_quantizer("quantized_bits(6, 0, 1, alpha=1)", "here")
    named = quantizer("quantized_bits", bits=6, integer=0, symmetric=1, keep_negative=True, alpha=1)
    assert dict(text.parameters) == dict(named.parameters)
    assert parse_quantizer("quantized_relu", "here")["bits"] == 8
    assert parse_quantizer(None, "here") is None


REFUSALS = {
    "quantized_bits(6,0,alpha=0.3)": "alpha 0.3, and only a power of two .* train with alpha=1",
    "quantized_bits(6,0,alpha='auto')": "alpha 'auto', a float for each channel; .*auto_po2",
    "quantized_bits(6,0,qnoise_factor=0.5)": "qnoise_factor 0.5",
    "quantized_bits(4,0,alpha='auto_po2',elements_per_scale=2)": "other axes",
    "quantized_linear(4,0,alpha=2)": "quantized_linear has alpha 2; use quantized_bits",
    "quantized_ulaw(6)": "quantized_ulaw is not known here; use one of quantized_bits",
    "quantized_relu(6)": "is no quantiser of weights",
    "quantized_relu_po2(6,negative_slope=0.5)": "negative slope",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_what_lies_on_no_grid_is_refused_with_a_remedy(text):
    with pytest.raises(ExportError, match=f"here: .*{REFUSALS[text]}"):
        quantize_weight(parse_quantizer(text, "here"), np.ones((2, 2)))


ACTIVATIONS = {
    "quantized_relu(6,0,use_sigmoid=1)": "use_sigmoid",
    "quantized_relu(6,0,negative_slope=0.25)": "negative slope.*LeakyReLU",
    "quantized_relu(6,2,is_quantized_clip=False,relu_upper_bound=1.5)": "upper bound 1.5",
    "quantized_tanh(6,use_real_tanh=True)": "no exact fixed-point form",
    "quantized_bits(6,alpha=2)": "alpha 2 on an activation",
    "quantized_bits(1)": "of one bit is a sign",
    "quantized_po2(4)": "no exact fixed-point form",
}


@pytest.mark.parametrize("text", ACTIVATIONS)
def test_activations_without_a_format_are_refused(text):
    with pytest.raises(ExportError, match=ACTIVATIONS[text]):
        activation_format(parse_quantizer(text, "here"))


@pytest.mark.parametrize(
    "value",
    ["quantized_bits(6", "quantized_bits(bits=__import__('os'))", "f.g(1)", 3, "quantized_bits(*[6])",
     "quantized_bits(6,depth=2)", "quantized_bits(0)", "quantized_bits('6')", "quantized_bits(6,0.5)",
     "binary(1,2,3,4,5,6,7,8,9)"],
)  # fmt: skip
def test_texts_that_are_no_quantiser_are_config_errors(value):
    with pytest.raises(ConfigError, match="here"):
        parse_quantizer(value, "here")


def test_the_older_hyperbolic_tangent_is_told_apart():
    with pytest.raises(ExportError, match=r"QKeras before 0\.9"):
        quantizer("quantized_tanh", bits=6, integer=0, symmetric=0)


def test_every_pair_of_one_bit_settings_is_a_sign():
    for keep_negative, symmetric in itertools.product((True, 1), (0, 1)):
        spec = quantizer("quantized_bits", bits=1, keep_negative=keep_negative, symmetric=symmetric)
        np.testing.assert_array_equal(quantize_weight(spec, np.array([-2.0, 0.0, 2.0])).value, [-1, 1, 1])
