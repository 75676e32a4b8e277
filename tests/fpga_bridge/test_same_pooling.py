"""Padded max pooling as zeros and a pooling without padding: the same numbers, wherever no input can be negative.

Compiled C++ of both ways to pass data is compared in `test_capabilities`, case by case.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from fpga_bridge.hls.checks import check_io
from fpga_bridge.keras_files.hardware_formats import HardwareFormats, with_formats
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.precision import plan_types
from fpga_bridge.typed_graph.same_pooling import pad_by_zeros
from fpga_bridge.typed_graph.source import RefusedOperationError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

SIGNED = FixedPoint(8, 3, True, "RND", "SAT")
UNSIGNED = FixedPoint(8, 3, False, "RND", "SAT")
WRAPPED = FixedPoint(9, 3, True, "RND", "WRAP")  # half as far as UNSIGNED
WIDE = FixedPoint(10, 4, True, "RND", "WRAP")  # as far as UNSIGNED


def pool(x, size=2):
    window = (size,) * (x.ndim - 2)
    return nn.max_pool(x, window, window, "SAME")


def pools(graph):
    return [node for node in graph if isinstance(node, ir.Pool)]


@settings(deadline=None, max_examples=40)
@given(data=st.data(), rank=st.sampled_from([1, 2]), seed=st.integers(0, 2**31 - 1))
def test_zeros_and_a_valid_pooling_are_a_padded_one(data, rank, seed):
    axis = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
    sizes, window, strides = zip(*(data.draw(axis) for _ in range(rank)), strict=True)
    x = np.maximum(np.random.default_rng(seed).normal(size=(2, *sizes, 3)), 0).astype(np.float32)
    expected = nn.max_pool(jnp.asarray(x), window, strides, "SAME")
    nodes = (
        ir.Input(name="x", inputs=(), shape=x.shape[1:]),
        ir.Relu(name="r", inputs=("x",), shape=x.shape[1:]),
        ir.Pool(name="p", inputs=("r",), shape=expected.shape[1:], reduce="max", window=window, strides=strides,
                padding="same"),
    )  # fmt: skip
    graph = pad_by_zeros(ir.Graph(nodes, "p"))
    assert [node.kind for node in graph] == ["input", "relu", "zeropad", "pool"]
    assert graph["p"].padding == "valid"
    np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(x)), expected)


KNOWN = {
    "relu": lambda x: nn.relu(quantize(x, SIGNED)),
    "relu of floats": nn.relu,
    "a threshold": lambda x: jnp.where(x > 0.5, x, 0.0),
    "an unsigned quantizer": lambda x: quantize(x, UNSIGNED),
    "saturation behind relu": lambda x: quantize(nn.relu(quantize(x, SIGNED)), SIGNED),
    "a sum of two": lambda x: nn.relu(quantize(x, SIGNED)) + quantize(x, UNSIGNED),
    "upsampling": lambda x: jnp.repeat(quantize(x, UNSIGNED), 2, axis=1),
    "weights of one sign": lambda x: quantize(x, UNSIGNED) @ jnp.full((2, 3), 0.5),
    "a scale of one sign": lambda x: quantize(x, UNSIGNED) * 0.5 + 1.0,
    "wrapping that never wraps": lambda x: quantize(quantize(x, UNSIGNED), WIDE),
    "an offset above the range": lambda x: quantize(x, SIGNED) + 4.0,
    "a table": lambda x: quantize(jax.nn.sigmoid(quantize(x, SIGNED)), SIGNED),
    "a product of unsigned": lambda x: quantize(x, UNSIGNED) * quantize(2 * x, UNSIGNED),
    "a maximum with an unsigned": lambda x: jnp.maximum(quantize(x, SIGNED), quantize(2 * x, UNSIGNED)),
    "a pooling before": lambda x: pool(quantize(x, UNSIGNED)),
}
UNKNOWN = {
    "a signed quantizer": lambda x: quantize(x, SIGNED),
    "floats": lambda x: x,
    "wrapping": lambda x: quantize(quantize(x, UNSIGNED), WRAPPED),
    "a sum with a signed one": lambda x: quantize(x, UNSIGNED) + quantize(x, SIGNED),
    "weights of two signs": lambda x: quantize(x, UNSIGNED) @ jnp.asarray([[0.5, -0.5], [0.5, 0.5]]),
    "an offset within the range": lambda x: quantize(x, SIGNED) + 1.0,
    "a minimum with a signed one": lambda x: jnp.minimum(quantize(x, SIGNED), quantize(2 * x, UNSIGNED)),
    "leaky relu": lambda x: nn.leaky_relu(quantize(x, SIGNED), 0.25),
}


@pytest.mark.parametrize("case", KNOWN)
def test_where_no_input_is_negative_no_padded_pooling_is_left(case):
    graph = trace(lambda _, x: pool(KNOWN[case](x)), {}, (5, 7, 2))
    assert all(node.padding == "valid" for node in pools(graph))
    assert any(isinstance(node, ir.ZeroPad) for node in graph)
    check_io(graph, "io_stream")
    check_io(graph, "io_parallel")
    x = np.random.default_rng(0).normal(scale=4.0, size=(6, 5, 7, 2)).astype(np.float32)
    expected = pool(KNOWN[case](jnp.asarray(x)))
    assert float(expected.max()) > 0
    np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(x)), expected)


@pytest.mark.parametrize("case", UNKNOWN)
def test_where_an_input_may_be_negative_the_padded_pooling_stays_and_streams_refuse_it(case):
    graph = trace(lambda _, x: pool(UNKNOWN[case](x)), {}, (5, 7, 2))
    assert [node.padding for node in pools(graph)] == ["same"]
    check_io(graph, "io_parallel")
    with pytest.raises(RefusedOperationError, match=r"padded pooling at .*test_same_pooling.py:\d+.* put a relu or an"):
        check_io(graph, "io_stream")


def test_formats_given_later_tell_the_sign_too():
    graph = trace(lambda _, x: pool(x), {}, (5, 7, 2))
    assert pools(graph)[0].padding == "same"
    assert pools(with_formats(graph, HardwareFormats(input=SIGNED)))[0].padding == "same"
    formed = with_formats(graph, HardwareFormats(input=UNSIGNED))
    assert pools(formed)[0].padding == "valid"
    types = plan_types(formed)
    assert types[formed.output].result == dataclasses.replace(UNSIGNED, rounding="TRN", overflow="WRAP")


def test_zeros_get_a_name_of_their_own_and_unpadded_pools_stay_as_they_are():
    graph = trace(lambda _, x: pool(pool(nn.relu(x)), 3), {}, (6, 4, 2))
    assert [node.kind for node in graph] == ["input", "relu", "pool", "zeropad", "pool"]  # 6 x 4 needs no zeros
    nodes = [*graph.nodes[:2], dataclasses.replace(graph.nodes[2], name="max_pool_1_pad")]
    last = dataclasses.replace(graph.nodes[4], inputs=("max_pool_1_pad",), padding="same")
    again = pad_by_zeros(ir.Graph((*nodes, last), last.name))
    assert [node.name for node in again][2:] == ["max_pool_1_pad", "max_pool_1_pad_1", "max_pool_1"]
