"""Costs as exact integers, and the bound with a gradient above them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import InputError
from jaxgeo.layers.fixed_point import FixedPoint, to_integers
from jaxgeo.layers.learned_precision import MatrixLayer
from jaxgeo.training.bit_cost import effective_bits, layer_cost, network_cost, soft_bit_operations, weight_words

LAYERS = (MatrixLayer("conv", "input", 9, 8, 3), MatrixLayer("head", "conv", 1, 3, 2))
SOFT = jax.jit(lambda params, bits: soft_bit_operations(LAYERS, params, bits))
SLOPE = jax.jit(jax.grad(lambda bits, params: soft_bit_operations(LAYERS, params, bits)))


def network(seed, weight_bits=6.0, result_bits=5.0):
    rng = np.random.default_rng(seed)
    params = {
        "conv": {"kernel": jnp.asarray(rng.uniform(-1, 1, (2, 2, 2, 3)), jnp.float32)},
        "head": {"kernel": jnp.asarray(rng.uniform(-1, 1, (3, 2)), jnp.float32)},
    }

    def entry(bits, integer=0.0):
        return {"bits": jnp.asarray(bits, jnp.float32), "integer": jnp.asarray(integer, jnp.float32)}

    bits = {name: {"kernel_bits": entry(weight_bits, 1.0)} for name in params}
    return params, {**bits, "input_bits": entry(8.0), "conv_result": entry(result_bits)}


@given(st.integers(-(2**40), 2**40))
def test_effective_bits_are_those_between_the_ends_of_the_binary_number(word):
    digits = f"{abs(word):b}".strip("0")
    assert effective_bits(np.asarray([word])).tolist() == [len(digits)]


@settings(max_examples=10)  # each format compiles
@given(width=st.integers(2, 12), integer=st.integers(-3, 4), seed=st.integers(0, 1000))
def test_words_are_those_of_the_fixed_format(width, integer, seed):
    kernel = jnp.asarray(np.random.default_rng(seed).normal(size=30) * 2.0**integer, jnp.float32)
    expected = to_integers(kernel, FixedPoint(width, integer, True, "RND", "SAT"))
    np.testing.assert_array_equal(weight_words(kernel, float(width), float(integer)), expected)


def test_a_layer_by_hand():
    layer = MatrixLayer("dense", "input", 4, 2, 3)
    words = np.asarray([[0, 8, 5], [-6, 1, -7]])  # 0, 1 and 3 bits; 2, 1 and 3 bits
    assert layer_cost(layer, words, 12, 11, 10) == ("dense", 5, 10 * 10, 3)
    assert layer_cost(layer, words, 12, 11, 10, streamed=False) == ("dense", 20, 400, 12)
    # One operand below ten bits: lookup tables.
    assert layer_cost(layer, words, 9, 11, 10).wide == layer_cost(layer, words, 12, 9, 8).wide == 0
    with pytest.raises(InputError, match=r"the kernel of dense has 2 x 3 weights, got an array \(2, 2\)"):
        layer_cost(layer, words[:, :2], 12, 11, 10)


@given(seed=st.integers(0, 1000), bits=st.integers(1, 9))
def test_the_soft_cost_is_a_bound_and_at_most_the_bits_of_the_formats(seed, bits):
    params, precision = network(seed, float(bits))
    exact = sum(cost.bit_operations for cost in network_cost(LAYERS, params, precision))
    soft = float(SOFT(params, precision))
    # One bit is binary: one bit of magnitude and not none.
    assert exact <= soft <= max(bits - 1, 1) * (24 * 8 + 6 * 5)


def test_the_gradient_in_bits_counts_what_one_bit_more_would_cost():
    params, precision = network(0)
    slope = SLOPE(precision, params)
    live = {name: int((weight_words(params[name]["kernel"], 6.0, 1.0) != 0).sum()) for name in params}
    assert float(slope["conv"]["kernel_bits"]["bits"]) == live["conv"] * 8
    assert float(slope["head"]["kernel_bits"]["bits"]) == live["head"] * 5
    # Of the results: the bits of the weights that they meet.
    without = {**params, "head": jax.tree.map(jnp.zeros_like, params["head"])}
    head = float(SOFT(params, precision)) - float(SOFT(without, precision))
    assert float(slope["conv_result"]["bits"]) == head / 5
    assert float(slope["conv"]["kernel_bits"]["integer"]) == 0
