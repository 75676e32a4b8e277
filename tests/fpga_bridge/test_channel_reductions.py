"""Sums, means and maxima over channels or pixels as layers, and what they make: a softmax and a norm by tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_tools import interpreted

from fpga_bridge.circuits.unroll import unroll
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.quantised_predictive import PredictivePrecision, predictive, probabilities

INPUT = FixedPoint(8, 3, True, "RND", "SAT")
SHAPES = [(5,), (3, 4), (2, 3, 7)]
TAKEN = {
    "maximum": lambda x: jnp.max(x, axis=-1, keepdims=True),
    "below the maximum": lambda x: x - jnp.max(x, axis=-1, keepdims=True),
    "twice the maximum": lambda x: 2.0 * jnp.max(x, axis=-1, keepdims=True) + x,
    "the larger of two maxima": lambda x: jnp.maximum(x, jnp.max(-x, axis=-1, keepdims=True)),
    "sum": lambda x: jnp.sum(x, axis=-1, keepdims=True),
    "from the sum": lambda x: x - jnp.sum(x * x, axis=-1)[..., None],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", TAKEN)
def test_reductions_over_channels_are_exact_layers(case, shape):
    def network(_, x):
        return TAKEN[case](quantize(x, INPUT))

    graph = trace(network, {}, shape)
    assert all(types.exact for types in plan_types(graph).values())
    x = jnp.asarray(2.0 * np.random.default_rng(0).normal(size=(64, *shape)), jnp.float32)
    np.testing.assert_array_equal(apply_graph(graph, x), network({}, x))


PIXEL_SUMS = {
    "places": (lambda x: jnp.sum(x, axis=1), (5, 3)),
    "pixels": (lambda x: jnp.sum(x, axis=(1, 2)), (3, 4, 2)),
    "times the input": (lambda x: jnp.sum(x, axis=1, keepdims=True) * x, (5, 3)),
    "half of it": (lambda x: jnp.sum(x, axis=1) * 0.5, (7, 2)),
    "and more": (lambda x: jnp.sum(x, axis=(1, 2)) / 4 + 1.0, (3, 3, 2)),
    "windows": (lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 1), (1, 2, 1), "VALID"), (8, 3)),
    "a mean stays one": (lambda x: jnp.mean(x, axis=(1, 2)), (2, 4, 3)),
}


@pytest.mark.parametrize("case", PIXEL_SUMS)
def test_sums_of_pixels_are_exact_layers_and_the_same_on_wires(case):
    function, shape = PIXEL_SUMS[case]

    def network(_, x):
        return function(quantize(x, INPUT))

    graph = trace(network, {}, shape)
    assert all(types.exact for types in plan_types(graph).values())
    x = jnp.asarray(2.0 * np.random.default_rng(0).normal(size=(64, *shape)), jnp.float32)
    expected = np.asarray(network({}, x))
    np.testing.assert_array_equal(apply_graph(graph, x), expected)
    np.testing.assert_array_equal(interpreted(unroll(graph, None), np.asarray(x)), expected)
    assert ("zeropad" in [node.kind for node in graph]) == (case not in ("windows", "a mean stays one"))


def test_a_maximum_is_made_once_and_a_softmax_stays_a_softmax():
    def network(_, x):
        below = quantize(x, INPUT) - jnp.max(quantize(x, INPUT), axis=-1, keepdims=True)
        return jnp.concatenate([below, 2.0 * below], axis=-1)

    kinds = [node.kind for node in trace(network, {}, (8,))]
    assert kinds.count("maximum") == 3  # of 4, 2 and 1 channels
    kinds = [node.kind for node in trace(lambda _, x: jax.nn.softmax(quantize(x, INPUT)), {}, (8,))]
    assert kinds == ["input", "quantize", "softmax"]


def test_places_without_channels_are_an_activation():
    graph = trace(lambda _, x: jnp.max(x, axis=-1) + jnp.sum(x, axis=-1), {}, (3, 4))
    assert graph[graph.output].shape == (3,)


@pytest.mark.parametrize("reduce", [jnp.max, jnp.sum])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_number_of_a_sample_is_no_activation(reduce, factor):
    with pytest.raises(ExportError, match=r"test_channel_reductions.py:\d+ .*one number of a sample.*keepdims=True"):
        trace(lambda _, x: reduce(x, axis=-1) * factor, {}, (4,))


@pytest.mark.parametrize("classes", [1, 2, 3, 10])
def test_probabilities_and_entropy_by_tables_are_layers_that_give_the_same_words(classes):
    formats = PredictivePrecision.uniform(7, classes, 3)

    def network(_, x):
        logits = quantize(x, INPUT).reshape(len(x), 4, classes)
        members = predictive(jnp.moveaxis(logits, 1, 0), formats)
        return jnp.concatenate([*members, probabilities(logits[:, 0], formats)], axis=-1)

    graph = trace(network, {}, (4 * classes,))
    assert all(types.exact for types in plan_types(graph).values())
    x = jnp.asarray(1.5 * np.random.default_rng(classes).normal(size=(256, 4 * classes)), jnp.float32)
    expected = network({}, x)
    assert np.ptp(expected[:, max(classes, 2)]) > 0.2  # nats of entropy
    np.testing.assert_array_equal(jax.jit(lambda x: apply_graph(graph, x))(x), expected)
    tables = {node.function for node in graph if isinstance(node, ir.Table)}
    assert tables == ({"sigmoid", "entropy"} if classes == 1 else {"exp", "reciprocal", "entropy"})


def over_members_and_pixels(members):
    kernel = np.random.default_rng(members).integers(-8, 8, (members, 2, 3)).astype(np.float32)

    def network(kernel, x):
        each = jax.vmap(lambda k: quantize(x, INPUT) @ quantize(k, FixedPoint(4, 4)))(kernel)
        return jnp.mean(each, axis=(0, 2))

    return network, kernel


def test_a_mean_over_members_and_pixels_together_is_a_mean_of_each():
    network, kernel = over_members_and_pixels(4)
    graph = trace(network, kernel, (8, 2))
    assert all(types.exact for types in plan_types(graph).values())
    x = jnp.asarray(np.random.default_rng(1).normal(size=(64, 8, 2)), jnp.float32)
    np.testing.assert_array_equal(apply_graph(graph, x), network(kernel, x))
    network, kernel = over_members_and_pixels(3)
    with pytest.raises(ExportError, match=r"scales of layer scale .*float arithmetic that is not exact"):
        plan_types(trace(network, kernel, (8, 2)))
