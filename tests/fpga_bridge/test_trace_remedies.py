"""What the trace refuses says what is true, and what it names as the remedy is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fpga_bridge.circuits import symbolic
from fpga_bridge.tracing.trace import trace
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

FORMAT = FixedPoint(8, 3)


def values(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def drop(x, key):
    return nn.Dropout(0.5, deterministic=False).apply({}, quantize(x, FORMAT), rngs={"dropout": key})


RANDOM = {
    "a key in the code": (lambda p, x: drop(x, jax.random.key(0)), {}),
    "a key in the parameters": (lambda p, x: drop(x, p["key"]), {"key": jax.random.key(0)}),
    "an old key in the parameters": (lambda p, x: drop(x, p["key"]), {"key": jax.random.PRNGKey(0)}),
}


@pytest.mark.parametrize("read", [trace, symbolic.unroll])
@pytest.mark.parametrize("case", RANDOM)
def test_random_bits_are_refused_by_name_and_line(case, read):
    apply, params = RANDOM[case]
    with pytest.raises(ExportError, match=r"random bits at .*test_trace_remedies.py:\d+ .*deterministic=True"):
        read(apply, params, (3,))


def test_a_key_that_nothing_reads_is_no_random_bit():
    graph = trace(lambda p, x: x @ p["kernel"], {"kernel": values(3, 2), "key": jax.random.key(0)}, (3,))
    assert [node.kind for node in graph] == ["input", "dense"]


def test_slopes_in_two_factors_are_refused_with_the_form_that_is_taken():
    def network(slope):
        def apply(p, x):
            y = 2.5 * quantize(x, FORMAT) + 1.0
            return jnp.where(y > 0, y, slope(p["a"], y))

        return apply

    kernel = {"a": values(1, 3)}
    with pytest.raises(ExportError, match=r"PReLU jnp.where\(x > 0, x, slope \* x\)"):
        trace(network(lambda a, y: a * y * 0.5), kernel, (3,))
    graph = trace(network(lambda a, y: a * 0.5 * y), kernel, (3,))
    assert [node.kind for node in graph] == ["input", "quantize", "affine", "prelu"]
