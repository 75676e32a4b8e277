"""What both readers of a function must see: copies that a larger constant makes, and floats that round themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_tools import interpreted, values

from fpga_bridge.circuits import symbolic
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.apply import apply_graph
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

INPUT, RESULT = FixedPoint(6, 2, True, "RND", "SAT"), FixedPoint(14, 6)
PLACES = np.full((1, 5, 3), 2.0, np.float32)
CHANNELS = np.array([[[1.0, 0.5, -2.0]]], np.float32)
COPIES = {
    "places, by a product": lambda x: jax.lax.mul(x[:, :1], PLACES),
    "places, by a sum": lambda x: x[:, 1:2] + PLACES,
    "places, by a quotient": lambda x: jax.lax.div(x[:, :1], PLACES),
    "places, by a maximum": lambda x: jnp.maximum(x[:, :1], 0.0 * PLACES),
    "places of a maximum": lambda x: jnp.max(x, axis=1, keepdims=True) * PLACES,
    "channels, by a product": lambda x: x[..., :1] * CHANNELS,
    "channels, by a difference": lambda x: CHANNELS - x[..., 2:],
    "both": lambda x: (x[:, :1, :1] * PLACES) + CHANNELS,
}


@pytest.mark.parametrize("case", COPIES)
def test_an_activation_beside_a_larger_constant_is_copied(case):
    def apply(_, x):
        return quantize(COPIES[case](quantize(x, INPUT)), RESULT)

    x = values(0, 7, 5, 3)
    expected = apply(None, jnp.asarray(x))
    assert expected.shape == x.shape
    np.testing.assert_array_equal(apply_graph(trace(apply, {}, (5, 3)), jnp.asarray(x)), expected)
    np.testing.assert_array_equal(interpreted(symbolic.unroll(apply, {}, (5, 3)), x), expected)


def test_a_function_without_a_quantizer_is_not_copied():
    with pytest.raises(ExportError, match=r"a constant with more numbers copies it .* jnp.broadcast_to"):
        trace(lambda _, x: quantize(jax.nn.silu(quantize(x[:, :1], INPUT)) * PLACES, RESULT), {}, (5, 3))


NARROW = {
    "bfloat16": lambda x: x.astype(jnp.bfloat16) * jnp.bfloat16(1.03125),
    "float16": lambda x: (x * 33.03125).astype(jnp.float16),
    "float16, in a table": lambda x: jax.nn.silu(x.astype(jnp.float16)),
    "bfloat16, of a product": lambda x: jnp.matmul(x, PLACES[0, :3], preferred_element_type=jnp.bfloat16),
}


@pytest.mark.parametrize("read", [trace, symbolic.unroll])
@pytest.mark.parametrize("case", NARROW)
def test_floats_narrower_than_float32_are_refused_by_name_and_line(case, read):
    def apply(_, x):
        return quantize(NARROW[case](quantize(x, INPUT)).astype(jnp.float32), RESULT)

    dtype = case.split(",", maxsplit=1)[0]
    with pytest.raises(ExportError, match=rf"at .*test_copies_and_dtypes.py:\d+ .*it computes in {dtype}; use float32"):
        read(apply, {}, (5, 3))
