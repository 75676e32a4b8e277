"""Rounding with bits in arrays: the fixed formats to the bit, and the gradients that the definitions say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.learned_precision import (
    BitQuantizer,
    VariableBits,
    fake_quantize,
    integer_bits,
    total_bits,
)

RND = jax.jit(fake_quantize, static_argnums=3)


def scalar(value):
    return jnp.asarray(float(value), jnp.float32)


@settings(max_examples=12)  # each format compiles
@given(
    width=st.integers(2, 16), integer=st.integers(-6, 8), signed=st.booleans(), seed=st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_any_width_in_one_program_is_the_fixed_format_bit_for_bit(width, integer, signed, seed):
    rng = np.random.default_rng(seed)
    step = 2.0 ** (integer - width)
    # Everywhere in and around the range, and on all ties.
    words = np.concatenate([rng.normal(scale=2.0**width, size=40), np.arange(-20, 20) / 2])
    x = jnp.asarray(words * step, jnp.float32)
    found = RND(x, scalar(width), scalar(integer), signed)
    np.testing.assert_array_equal(found, quantize(x, FixedPoint(width, integer, signed, "RND", "SAT")))


def test_one_unsigned_bit_is_the_fixed_format_too():
    x = jnp.linspace(-2, 3, 41)
    np.testing.assert_array_equal(
        RND(x, scalar(1), scalar(1), False), quantize(x, FixedPoint(1, 1, False, "RND", "SAT"))
    )


def test_one_signed_bit_is_binary_and_lies_on_the_grid_of_two():
    x = jnp.asarray([-3.0, -0.01, 0.0, 0.01, 5.0])
    found = RND(x, scalar(1), scalar(-1), True)
    np.testing.assert_array_equal(found, [-0.125, -0.125, 0.0, 0.125, 0.125])
    np.testing.assert_array_equal(quantize(found, FixedPoint(2, -1, True, "RND", "SAT")), found)


def test_no_bits_drop_the_value():
    x = jnp.asarray([-1.0, 0.3, 7.0])
    for bits in (0.0, -2.0, 0.4):
        for signed in (True, False):
            np.testing.assert_array_equal(RND(x, scalar(bits), scalar(2), signed), jnp.zeros(3))


def test_each_channel_or_weight_may_have_bits_of_its_own():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    bits, integer = jnp.asarray([[2.0, 5.0, 9.0]]), jnp.asarray([[1.0, 2.0, 3.0]])
    found = RND(x, bits, integer, True)
    for channel in range(3):
        format = FixedPoint(int(bits[0, channel]), int(integer[0, channel]), True, "RND", "SAT")
        np.testing.assert_array_equal(found[:, channel], quantize(x[:, channel], format))


def test_many_widths_under_vmap_are_each_width_alone():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)
    widths = jnp.arange(1.0, 9.0)
    together = jax.jit(jax.vmap(lambda width: fake_quantize(x, width, scalar(2))))(widths)
    for width, found in zip(widths, together, strict=True):
        np.testing.assert_array_equal(found, RND(x, width, scalar(2), True))


def test_the_gradient_is_straight_through_inside_and_nothing_where_saturated():
    x = jnp.asarray([-9.0, -4.0, -0.3, 0.2, 3.4, 9.0])  # ap_fixed<4,3>: -4 ... 3.5 in halves
    slope = jax.jit(jax.vmap(jax.grad(fake_quantize), (0, None, None)))(x, scalar(4), scalar(3))
    np.testing.assert_array_equal(slope, [0, 1, 1, 1, 1, 0])


def test_the_gradient_in_bits_is_that_of_an_error_that_shrinks_with_the_step():
    x = jnp.asarray([-9.0, -0.3, 0.2, 3.4, 9.0])
    q = RND(x, scalar(4), scalar(3), True)
    slopes = jax.jit(jax.vmap(jax.grad(fake_quantize, (1, 2)), (0, None, None)))
    slope, by_integer = slopes(x, scalar(4), scalar(3))
    expected = np.log(2) * np.asarray([0.0, -0.3 - q[1], 0.2 - q[2], 3.4 - q[3], 0.5])
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)  # float32

    # Above the range the value is 2^2 - 2^(3 - b): the derivative is that of a smooth function of b.
    def saturated(bits):
        return 2.0**2 - 2.0 ** (3 - bits)

    np.testing.assert_allclose(slope[-1], (saturated(4 + 1e-4) - saturated(4 - 1e-4)) / 2e-4, rtol=1e-4)
    # Integer bits are given, not learned.
    np.testing.assert_array_equal(by_integer, jnp.zeros(5))


@jax.jit
@jax.value_and_grad
def mean_squared_error(bits, x):
    return jnp.mean((fake_quantize(x, bits, scalar(1)) - x) ** 2)


@given(width=st.integers(3, 12), seed=st.integers(0, 2**31 - 1))
def test_a_step_of_the_bits_along_their_gradient_makes_the_mean_squared_error_smaller(width, seed):
    # Below the largest value of 3 bits, so that nothing saturates.
    x = jnp.asarray(np.random.default_rng(seed).uniform(-0.7, 0.7, 64), jnp.float32)
    value, slope = mean_squared_error(scalar(width), x)
    # d/db of the mean of delta^2 is -2 ln 2 times it: more bits, less error, at any width.
    np.testing.assert_allclose(slope, -2 * np.log(2) * value, rtol=1e-3)  # float32, sums of 64
    assert mean_squared_error(scalar(width + 2), x)[0] < value


@given(exponent=st.integers(-10, 10), share=st.floats(0.5625, 0.984375, width=32), signed=st.booleans())
def test_integer_bits_hold_the_largest_magnitude_and_one_fewer_would_not(exponent, share, signed):
    largest = share * 2.0**exponent
    bits = float(integer_bits(jnp.asarray(largest, jnp.float32), signed))
    assert 2 ** (bits - signed - 1) < largest <= 2 ** (bits - signed)


@pytest.mark.parametrize(("granularity", "shape"), [("layer", ()), ("channel", (1, 3)), ("weight", (4, 3))])
def test_a_quantizer_begins_with_a_range_that_holds_what_it_sees(granularity, shape):
    x = jnp.asarray([[0.9, 3.0, 0.1]] * 4)
    found, variables = BitQuantizer(12.0, granularity=granularity).init_with_output(jax.random.key(0), x)
    assert variables["precision"]["bits"].shape == variables["precision"]["integer"].shape == shape
    np.testing.assert_allclose(found, x, atol=2.0 ** (3 - 12) / 2)  # half a step of the coarsest
    assert float(total_bits(variables["precision"])) == 12 * np.prod(shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": 0.5}, "weight must be a finite number from 1 to 24.0, got 0.5"),
        ({"activation": float("nan")}, "activation must be a finite number from 1 to 24.0, got nan"),
        ({"input": 25.0}, "input must be a finite number from 1 to 24.0, got 25"),
    ],
)
def test_impossible_bits_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(VariableBits(), **changes)
