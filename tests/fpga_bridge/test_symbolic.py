# ruff: noqa: PLW0108  -- the lambdas are lines of a model, which errors must name
"""Every primitive on da4ml variables gives the words of JAX; what is not exact is refused by name and line.

The logic is run by da4ml's own interpreter, a second reading of the same operations that needs no compiler.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from graph_tools import interpreted
from hypothesis import given, settings
from hypothesis import strategies as st

from fpga_bridge.circuits import rtl, symbolic, unroll
from fpga_bridge.tracing.trace import trace
from jaxgeo.errors import ExportError, InputError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.table_activation import EXP, GELU, RECIPROCAL, lookup

INPUT = FixedPoint(6, 3, True, "RND", "SAT")
WEIGHT = FixedPoint(5, 2, True, "RND", "SAT")


def samples(shape, seed=0, count=64):
    return np.random.default_rng(seed).uniform(-4.5, 4.5, (count, *shape)).astype(np.float32)


def kernel(*shape, seed=5):
    values = np.random.default_rng(seed).uniform(-2, 2, shape)
    return quantize(jnp.asarray(values, jnp.float32), WEIGHT)


INDICES = np.array([3, 0, 0, 2])
MASK = np.array([[True, False, True], [False, False, True]])


def _attention(x):
    scores = quantize(jnp.einsum("bqc,bkc->bqk", x, x) / 4, INPUT)
    return jnp.einsum("bqk,bkc->bqc", scores, x)


CASES = {
    "sum and difference": (lambda x: x[:, ::-1] - x + 0.5, (3,)),
    "constant minus": (lambda x: 1.25 - x, (3,)),
    "negative": (lambda x: -x, (3,)),
    "scale": (lambda x: x * jnp.asarray([[0.375, -2.0, 0.0]]), (3,)),
    "product of activations": (lambda x: x * x[:, ::-1], (4,)),
    "square": (lambda x: jnp.square(x) + x**2, (3,)),
    "absolute value": (lambda x: jnp.abs(x), (3,)),
    "divided by a power of two": (lambda x: x / -4.0, (3,)),
    "maximum of two": (lambda x: jnp.maximum(x, x[:, ::-1] / 2), (4,)),
    "minimum and clip": (lambda x: jnp.clip(jnp.minimum(x, x[:, ::-1]), -1.5, 2.25), (4,)),
    "relu": (lambda x: nn.relu(x), (3,)),
    "leaky relu": (lambda x: nn.leaky_relu(x, 0.25), (3,)),
    "where by sign": (lambda x: jnp.where(x >= 0.5, x, jnp.where(x < -1, 2 * x, 0.0)), (5,)),
    "where greater of two": (lambda x: jnp.where(x > x[:, ::-1], 1.0, x), (4,)),
    "where less or equal": (lambda x: jnp.where(x <= x[:, ::-1], x, -x), (4,)),
    "where by a mask": (lambda x: jnp.where(MASK[None], x, 0.0), (2, 3)),
    "dense": (lambda x: x @ kernel(4, 3) + kernel(3)[None], (4,)),
    "dense from the left": (lambda x: jnp.einsum("oi,bi->bo", kernel(3, 4), x), (4,)),
    "batch of kernels": (lambda x: jnp.einsum("bmi,mio->bmo", x, kernel(2, 3, 4)), (2, 3)),
    "scores and values": (_attention, (3, 2)),
    "gather": (lambda x: x[:, INDICES], (4, 2)),
    "roll": (lambda x: jnp.roll(x, 1, axis=1), (4, 2)),
    "split and concatenate": (lambda x: jnp.concatenate(jnp.split(x, 2, axis=1)[::-1], axis=1), (4, 2)),
    "pad": (lambda x: jnp.pad(x, ((0, 0), (1, 2)), constant_values=0.5), (3,)),
    "strided slice": (lambda x: x[:, 1::2], (5,)),
    "reshape through the batch": (lambda x: x.reshape(-1, 2).reshape(x.shape[0], 3, 2).swapaxes(1, 2), (6,)),
    "repeat": (lambda x: jnp.repeat(x, 2, axis=1), (3,)),
    "sums": (lambda x: jnp.sum(x, axis=1) + jnp.mean(x, axis=1), (4, 3)),
    "maxima": (lambda x: jnp.max(x, axis=2) - jnp.min(x, axis=2), (2, 5)),
    "maximum pooling": (lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"), (5, 4, 2)),
    "average pooling": (lambda x: nn.avg_pool(x, (2, 2), (2, 2)), (4, 4, 2)),
    "convolution": (lambda x: _convolution(x, kernel(3, 2, 2, 3), (2, 1), "SAME"), (5, 4, 2)),
    "depthwise convolution": (lambda x: _convolution(x, kernel(3, 3, 1, 4), (1, 1), "VALID", 2), (4, 4, 2)),
    "dilated convolution": (lambda x: _convolution(x, kernel(2, 2, 1, 2), (1, 1), ((1, 0), (0, 1)), 1, 2), (4, 4, 1)),
    "table": (lambda x: lookup(x, GELU, INPUT, FixedPoint(8, 3, True, "RND", "SAT")), (3,)),
    "table of a negative": (lambda x: lookup(-x, EXP, INPUT, FixedPoint(8, 5, False, "RND", "SAT")), (3,)),
    "table of a coarser sum": (
        lambda x: lookup(2 * jnp.sum(x, 1), RECIPROCAL, FixedPoint(7, 5), FixedPoint(8, 3, True, "RND", "SAT")),
        (3, 2),
    ),
    "wrap and truncate": (lambda x: quantize(3 * x, FixedPoint(5, 2, True, "TRN", "WRAP")), (3,)),
    "symmetric": (lambda x: quantize(-x, FixedPoint(4, 2, True, "RND", "SAT_SYM")), (3,)),
    "loop": (lambda x: jax.lax.fori_loop(0, 3, lambda i, x: x[:, ::-1] + 1.0, x), (3,)),
    "under vmap": (lambda x: jax.vmap(lambda k: x @ k, out_axes=1)(kernel(2, 3, 4)), (3,)),
}


def _convolution(x, weights, strides, padding, groups=1, dilation=1):
    return jax.lax.conv_general_dilated(
        x,
        weights,
        strides,
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@pytest.mark.parametrize("case", CASES)
def test_wires_carry_the_words_of_jax(case):
    function, shape = CASES[case]
    apply = lambda _, x: function(quantize(x, INPUT))  # noqa: E731
    x = samples(shape)
    with jax.numpy_rank_promotion("allow"):
        expected = np.asarray(jax.jit(apply)(None, x))
        unrolled = symbolic.unroll(apply, None, shape)
    assert unrolled.outputs.shape == expected.shape[1:]
    np.testing.assert_array_equal(interpreted(unrolled, x), expected)
    assert len(np.unique(expected)) > 3  # not equal for want of variety


# The graph of layers, which Keras needs too, gives the same wires.
LAYERS = {
    "same convolution": (lambda x: _convolution(x, kernel(3, 3, 2, 2), (2, 2), "SAME"), (5, 4, 2)),
    "leaky relu": (lambda x: nn.leaky_relu(x, 0.25), (3,)),
    "slopes of channels": (lambda x: jnp.where(x > 0, x, kernel(3)[None, None] * x), (2, 3)),
    "threshold": (lambda x: jnp.where(x > 0.75, x, 0.0), (3,)),
    "pairs": (lambda x: jnp.maximum(x * x[:, ::-1], jnp.minimum(x, x[:, ::-1])), (4,)),
    "upsampling": (lambda x: jnp.repeat(jnp.repeat(x, 2, axis=1), 3, axis=2), (2, 2, 2)),
    "padding": (lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))), (2, 3, 2)),
    "transposed convolution": (lambda x: jax.lax.conv_transpose(x, kernel(3, 2, 2), (2,), "SAME"), (4, 2)),
    "affine": (lambda x: x * kernel(3)[None, None] + kernel(3, seed=6)[None, None], (2, 3)),
    "maximum pooling": (lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"), (5, 4, 2)),
    "average pooling": (lambda x: nn.avg_pool(x, (2,), (2,)), (4, 2)),
    "global average": (lambda x: jnp.mean(x, axis=(1, 2)), (2, 2, 3)),
    "global maximum": (lambda x: jnp.max(x, axis=1), (5, 3)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_a_graph_of_layers_and_the_function_are_the_same_circuit(case):
    function, shape = LAYERS[case]
    apply = lambda _, x: function(quantize(x, INPUT))  # noqa: E731
    x = samples(shape, seed=1)
    graph = trace(apply, None, shape)
    by_layers, by_function = unroll.unroll(graph, None), symbolic.unroll(apply, None, shape)
    np.testing.assert_array_equal(interpreted(by_layers, x), interpreted(by_function, x))
    np.testing.assert_array_equal(interpreted(by_layers, x), apply(None, jnp.asarray(x)))


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**31 - 1),
    bits=st.tuples(st.integers(2, 8), st.integers(2, 6), st.integers(2, 12)),
    points=st.tuples(st.integers(-1, 3), st.integers(0, 3), st.integers(0, 6)),
    modes=st.tuples(st.sampled_from(["TRN", "RND"]), st.sampled_from(["WRAP", "SAT", "SAT_SYM"])),
    signed=st.booleans(),
)
def test_dense_layers_of_any_format_are_exact(seed, bits, points, modes, signed):
    first = FixedPoint(bits[0], points[0], signed, "RND", "SAT")
    result = FixedPoint(bits[2], points[2], True, *modes)
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)

    def apply(weights, x):
        return quantize(quantize(x, first) @ quantize(weights, FixedPoint(bits[1], points[1])), result)

    x = (rng.normal(size=(100, 5)) * first.max).astype(np.float32)
    np.testing.assert_array_equal(interpreted(symbolic.unroll(apply, weights, (5,)), x), apply(weights, jnp.asarray(x)))


REFUSED = {
    "exp": (
        lambda x: jnp.exp(quantize(x, INPUT)),
        r"exp at .*test_symbolic.py:\d+ .* not exact; look it up in a table",
    ),
    "raw input": (lambda x: x + 1.0, r"add at .* before anything has rounded it.*begin the model with quantize"),
    "two formats": (lambda x: quantize(x, INPUT) + quantize(x, WEIGHT), "a port has one format"),
    "no quantiser": (lambda x: x[:, ::-1], "an input that no quantiser has rounded"),
    "third": (lambda x: quantize(x, INPUT) / 3.0, r"div at .* its divisor 3 is no power of two; multiply by"),
    "quotient": (lambda x: 1.0 / quantize(x, INPUT), r"its divisor is not known.*RECIPROCAL"),
    "cube": (lambda x: quantize(x, INPUT) ** 3, "its exponent is 3"),
    "rounded constant": (lambda x: quantize(x, INPUT) * (jnp.ones(1) / 3)[None], "float arithmetic that is not exact"),
    "many bits": (
        lambda x: quantize(x, INPUT) @ np.full((3, 1), 1 / 3, np.float32),
        r"need \d+ bits, but float32.* exact to 24",
    ),
    "infinite": (lambda x: jnp.maximum(quantize(x, INPUT), -jnp.inf), "a constant that is not finite"),
    "rounding": (lambda x: quantize(x, FixedPoint(4, 2, True, "RND_CONV", "SAT")), "AP_TRN and AP_RND"),
    "indices": (lambda x: x[:, quantize(x, INPUT)[0].astype(int)], "it computes in int"),
    "sorted": (lambda x: jnp.sort(quantize(x, INPUT)), "sort at .* use a maximum"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_exact_is_refused_by_name(case):
    function, message = REFUSED[case]
    with pytest.raises(ExportError, match=message):
        symbolic.unroll(lambda _, x: function(x), None, (3,))


STEPS = {
    "floor": (jnp.floor, lambda x: quantize(x, FixedPoint(8, 8))),
    "and": (lambda x: jnp.where((x > 0) & (x < 1), x, 0.0), lambda x: jnp.where(x > 0, jnp.where(x < 1, x, 0.0), 0.0)),
    "or": (lambda x: jnp.where((x > 1) | (x < 0), x, 0.5), lambda x: jnp.where(x > 1, x, jnp.where(x < 0, x, 0.5))),
    "not": (lambda x: jnp.where(~(x > 1), x, 0.0), lambda x: jnp.where(x > 1, 0.0, x)),
    "round": (jnp.round, None),
    "sign": (jnp.sign, None),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_one_number_name_remedies_that_are_taken(name):
    function, otherwise = STEPS[name]
    x = (np.arange(INPUT.min_word, INPUT.max_word + 1) * INPUT.step).astype(np.float32)[:, None]

    def network(function):
        return lambda _, x: quantize(function(quantize(x, INPUT)), WEIGHT)

    with pytest.raises(ExportError, match=rf"{name} at .* the circuit has no such operation; .*emit_verilog its trace"):
        symbolic.unroll(network(function), None, (1,))
    expected = network(function)(None, jnp.asarray(x))
    np.testing.assert_array_equal(interpreted(unroll.unroll(trace(network(function), None, (1,)), None), x), expected)
    if otherwise is not None:
        np.testing.assert_array_equal(interpreted(symbolic.unroll(network(otherwise), None, (1,)), x), expected)


def test_a_sum_beyond_float32_and_a_constant_function_are_refused():
    wide = FixedPoint(16, 8, True, "RND", "SAT")

    def apply(_, x):
        x = quantize(x, wide)
        return jnp.einsum("bi,bi->b", x, x)[:, None]

    with pytest.raises(ExportError, match=r"dot_general at .* its sums need 3\d bits.*round its inputs"):
        symbolic.unroll(apply, None, (4,))
    with pytest.raises(InputError, match="does not depend on its input"):
        rtl.emit_function(lambda _, x: jnp.zeros((x.shape[0], 2)), None, (3,))


@pytest.mark.parametrize("function", [lambda x: x, lambda x: -x, lambda x: 0.5 - 1.25 * x])
@pytest.mark.parametrize(("rounding", "width", "integer"), [("TRN", 9, 4), ("RND", 9, 6), ("RND", 5, 5), ("TRN", 6, 3)])
def test_negative_numbers_wrap_to_the_whole_range_of_a_wider_format_without_a_sign(rounding, width, integer, function):
    narrow, wide = FixedPoint(4, 1, True, "RND", "SAT"), FixedPoint(width, integer, False, rounding, "WRAP")
    x = (np.arange(narrow.min_word, narrow.max_word + 1) * narrow.step).astype(np.float32)[:, None]

    def network(_, x):
        return quantize(function(quantize(x, narrow)), wide)

    expected = np.asarray(network(None, jnp.asarray(x)))
    assert expected.max() > wide.max / 2  # some number has wrapped
    np.testing.assert_array_equal(interpreted(symbolic.unroll(network, {}, (1,)), x), expected)
