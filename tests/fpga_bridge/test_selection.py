"""Slices, rolls, reversals and gathers as layers of ones and zeros: equal to NumPy's indexing, or refused by name.

The same cases in compiled C++ are those of `fpga_bridge.capabilities.jax_cases`, in test_capabilities.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

INPUT = FixedPoint(8, 3, rounding="RND", overflow="SAT")
SHAPES = ((7,), (5, 3), (4, 6, 2))


def traced(choose, shape):
    return trace(lambda _, x: choose(x), {}, shape)


def evaluated(graph, shape):
    """Numbers that are all different, and what the graph makes of them."""
    x = np.random.default_rng(0).permutation(2 * int(np.prod(shape))).reshape(2, *shape).astype(np.float32)
    return x, np.asarray(apply_graph(graph, jnp.asarray(x)))


def places(draw, size):
    start = draw(st.integers(0, size - 1))
    return slice(start, draw(st.integers(start + 1, size)), draw(st.integers(1, 3)))


@settings(max_examples=20)
@given(st.data())
def test_a_slice_is_numpys_slice_by_ones_and_zeros(data):
    shape = data.draw(st.sampled_from(SHAPES))
    chosen = (slice(None), *(places(data.draw, size) for size in shape))
    graph = traced(lambda x: x[chosen], shape)
    x, outputs = evaluated(graph, shape)
    np.testing.assert_array_equal(outputs, x[chosen])
    for node in graph.nodes[1:]:
        assert isinstance(node, ir.Dense | ir.Conv)  # which stream
        kernel = node.kernel.value.reshape(-1, node.shape[-1])
        assert ((kernel != 0).sum(0) == 1).all()
        assert (kernel.max(0) == 1).all()


@settings(max_examples=20)
@given(st.data())
def test_a_gather_along_one_axis_is_numpys_take(data):
    shape = data.draw(st.sampled_from(SHAPES))
    axis = data.draw(st.integers(1, len(shape)))
    table = np.array(data.draw(st.lists(st.integers(0, shape[axis - 1] - 1), min_size=1, max_size=9)))
    graph = traced(lambda x: jnp.take(x, table, axis=axis), shape)
    x, outputs = evaluated(graph, shape)
    np.testing.assert_array_equal(outputs, np.take(x, table, axis=axis))


@settings(max_examples=10)
@given(shape=st.sampled_from(SHAPES), axis=st.integers(1, 3), shift=st.integers(-9, 9))
def test_rolls_and_reversals_are_numpys(shape, axis, shift):
    axis = min(axis, len(shape))
    for ours, numpys in ((jnp.roll, np.roll), (lambda x, _, axis: jnp.flip(x, axis), lambda x, _, a: np.flip(x, a))):
        graph = traced(lambda x, ours=ours: ours(x, shift, axis), shape)
        x, outputs = evaluated(graph, shape)
        np.testing.assert_array_equal(outputs, numpys(x, shift, axis))


@pytest.mark.parametrize(
    ("choose", "expected", "kinds"),
    [
        (lambda x: x[:, 2], lambda x: x[:, 2], ["conv", "reshape"]),
        # JAX moves a slice that would leave the array until it lies within.
        (lambda x: jax.lax.dynamic_slice(x, (0, 4, 0), (x.shape[0], 2, 3)), lambda x: x[:, 3:5], ["conv"]),
        (lambda x: x[:, ::-1][:, 1:], lambda x: x[:, 3::-1], ["transpose", "dense", "transpose", "conv"]),
    ],
)
def test_single_places_starts_beyond_the_end_and_slices_of_reversals(choose, expected, kinds):
    graph = traced(choose, (5, 3))
    x, outputs = evaluated(graph, (5, 3))
    np.testing.assert_array_equal(outputs, expected(x))
    assert [node.kind for node in graph.nodes[1:]] == kinds


def test_uneven_factors_of_nearest_upsampling_choose_pixels_too():
    graph = traced(lambda x: jax.image.resize(x, (x.shape[0], 6, 6, 2), "nearest"), (4, 6, 2))
    x, outputs = evaluated(graph, (4, 6, 2))
    # Pixel i covers the middle of the larger one: (i + 1/2) 4/6, in integers.
    np.testing.assert_array_equal(outputs, x[:, (2 * np.arange(6) + 1) * 4 // 12])


def test_a_choice_keeps_every_word_and_its_type():
    graph = traced(lambda x: quantize(x, INPUT)[:, 1:4:2, ::-1], (5, 3))
    types = plan_types(graph)
    chosen = types[graph.output]
    assert (chosen.interval.low, chosen.interval.high) == (INPUT.min_word, INPUT.max_word)
    assert (chosen.result.width, chosen.result.integer) == (INPUT.width, INPUT.integer)


@pytest.mark.parametrize(
    ("choose", "shape", "message"),
    [
        (lambda x: x[::-1], (4,), r"rev at .*samples of the batch.*outside of the network"),
        (lambda x: x[:, jnp.array([0, 9])], (4, 2), r"gather at .*places outside of \(4, 2\)"),
        (lambda x: x[:, jnp.array([1, 0]), jnp.array([0, 1])], (4, 2), r"gather at .*one axis after the other"),
        (lambda x: x[:, ::-1], (200, 1), r"rev at .*hold 40000 ones and zeros, of at most 16384; choose places before"),
        (lambda x: x[:, 1:], (2, 2, 2, 2), r"slice at .*a sample of 4 axes is no image; reshape first"),
    ],
)
def test_choices_that_are_no_layer_are_refused_by_name(choose, shape, message):
    with pytest.raises(ExportError, match=message):
        traced(choose, shape)
