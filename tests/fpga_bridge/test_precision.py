"""Types that lose nothing: intervals bound every value, and what no float or circuit could hold is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from graph_tools import values
from hypothesis import given, settings
from hypothesis import strategies as st

from fpga_bridge.hls.keras_model import to_keras
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.graph import Weight
from fpga_bridge.typed_graph.intervals import Interval
from fpga_bridge.typed_graph.precision import plan_types, words
from jaxgeo.errors import ConfigError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import Dense, LinearPrecision
from jaxgeo.layers.normalization import ChannelAffine, fold_batch_norm

INPUT = FixedPoint(8, 3, rounding="RND", overflow="SAT")
WEIGHT = FixedPoint(6, 1, rounding="RND", overflow="SAT")


formats = st.builds(
    lambda width, integer, **modes: FixedPoint(width, min(integer, width), **modes),
    width=st.integers(3, 9),
    integer=st.integers(-2, 5),
    signed=st.booleans(),
    rounding=st.sampled_from(["TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_INF", "RND_MIN_INF", "RND_CONV"]),
    overflow=st.sampled_from(["WRAP", "SAT", "SAT_ZERO", "SAT_SYM"]),
)


@settings(max_examples=15)  # each compiles two programs
@given(formats, formats, formats, formats, st.integers(0, 2**31 - 1))
def test_a_fixed_point_dense_layer_in_keras_equals_jax_bit_for_bit(inputs, weight, bias, result, seed):
    layer = Dense(3, LinearPrecision(weight, bias, result))
    params = {"kernel": values(seed, 5, 3), "bias": values(seed + 1, 3)}
    x = values(seed + 2, 7, 5, scale=4.0)

    def apply(p, x):
        return layer.apply({"params": p}, quantize(x, inputs))

    graph = trace(apply, params, (5,))
    types = plan_types(graph)
    expected = np.asarray(jax.jit(apply)(params, x))
    with jax.numpy_rank_promotion("allow"):
        np.testing.assert_array_equal(to_keras(graph)(x), expected)
    for node, bound in ((graph.nodes[-2], types[graph.nodes[-2].name].interval), (graph.nodes[-1], None)):
        interval = bound or types[node.name].interval
        assert interval.low <= interval.high
    last = types[graph.output].interval
    assert last.low <= (expected * 2.0**last.fraction).min()
    assert (expected * 2.0**last.fraction).max() <= last.high


@given(st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=5), st.integers(-20, 20))
def test_words_times_the_step_give_the_constant_back(integers, exponent):
    value = (np.array(integers, np.float64) * 2.0**exponent).astype(np.float32)
    found = words(Weight(value))
    assert found is not None
    np.testing.assert_array_equal(found[0] * 2.0 ** -found[1], value)
    if value.any():
        assert (found[0] % 2 == 1).any()  # no smaller number of bits would do


def test_a_constant_without_a_grid_has_no_words():
    assert words(Weight(np.array([1.0, 2.0**-30 * 1.1], np.float32))) is None
    assert words(Weight(np.array([np.inf], np.float32))) is None


@pytest.mark.parametrize(
    ("interval", "width"), [((0, 0), 2), ((-1, 0), 2), ((0, 1), 2), ((-2, 1), 2), ((0, 2), 3), ((-5, 127), 8)]
)
def test_the_narrowest_format_of_an_interval(interval, width):
    format = Interval(*interval, 3).format()
    assert format == FixedPoint(width, width - 3)
    assert format.min_word <= interval[0] <= interval[1] <= format.max_word


def test_multiples_of_large_steps_get_as_many_bits_as_integer_bits():
    assert Interval(-1, 1, -4).format() == FixedPoint(6, 6)


LAYERS = {
    "relu": (nn.relu, (4, 4)),
    "leaky relu": (lambda x: nn.leaky_relu(x, 0.125), (4, 4)),
    "add": (lambda x: nn.relu(x) + x, (4, 4)),
    "slopes of channels": (lambda x: jnp.where(x > 0, x, jnp.array([[[0.5, 0.0, 3.0, -1.25]]]) * x), (4, 4)),
    "even slopes": (lambda x: jnp.where(x > 0, x, jnp.array([[2.0, 4.0]]) * x), (2,)),
    "threshold": (lambda x: jnp.where(x > 0.4375, x, 0.0), (4, 4)),
    "product": (lambda x: x * (x * 0.5 - 1.25), (4, 4)),
    "maximum": (lambda x: jnp.maximum(x, 0.5 * x - 2.0), (4, 4)),
    "minimum": (lambda x: jnp.minimum(x - 0.25, nn.relu(x)), (4, 4)),
    "concatenate": (lambda x: jnp.concatenate([x, quantize(x, WEIGHT)], -1), (4, 4)),
    "average": (lambda x: jnp.mean(x, 1), (4, 4)),
    "average pooling": (lambda x: nn.avg_pool(x, (2,), (2,)), (4, 4)),
    "max pooling": (lambda x: nn.max_pool(x, (3,), (2,), "SAME"), (5, 4)),
    "global maximum": (lambda x: jnp.max(x, 1), (4, 4)),
    "transpose": (lambda x: jnp.swapaxes(x, 1, 2), (4, 3)),
    "affine": (lambda x: x * 0.75 - 0.5, (4, 3)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_intervals_hold_every_value_that_quantised_inputs_can_give(case):
    layers, shape = LAYERS[case]
    graph = trace(lambda p, x: layers(quantize(x, INPUT)), {}, shape)
    types = plan_types(graph)[graph.output]
    x = values(0, 64, *shape, scale=8.0)
    with jax.numpy_rank_promotion("allow"):
        y = np.asarray(to_keras(graph)(x)) * 2.0**types.interval.fraction
    np.testing.assert_array_equal(y, np.round(y))
    assert types.interval.low <= y.min()
    assert y.max() <= types.interval.high
    assert types.result.min_word <= types.interval.low
    assert types.interval.high <= types.result.max_word


def _dense(weight_format, fan_in=16, bits=8):
    kernel = values(0, fan_in, 3)
    inputs = FixedPoint(bits, 3)
    rounded = (lambda k: quantize(k, weight_format)) if weight_format else (lambda k: k)
    return trace(lambda p, x: quantize(x, inputs) @ rounded(p["w"]), {"w": kernel}, (fan_in,))


def _batch_norm():
    """Flax's batch norm with statistics of one layer, unquantised."""
    norm = nn.BatchNorm(use_running_average=True)
    variables = {
        "params": {"scale": values(0, 4), "bias": values(1, 4)},
        "batch_stats": {"mean": values(2, 4), "var": values(3, 4) ** 2},
    }
    with jax.numpy_rank_promotion("allow"):
        return trace(lambda p, x: norm.apply(p, quantize(x, INPUT)), variables, (4,))


def test_a_batch_norm_in_floats_is_refused_in_float64_too():
    with pytest.raises(ExportError, match=r"scales of layer .* not exact"):
        plan_types(_batch_norm(), significand=53)


def test_a_batch_norm_folded_and_quantised_is_exact():
    precision = LinearPrecision(WEIGHT, FixedPoint(8, 3), FixedPoint(9, 4, rounding="RND", overflow="SAT"))
    layer = ChannelAffine(precision)
    params = fold_batch_norm(
        {"scale": values(0, 4), "bias": values(1, 4)}, {"mean": values(2, 4), "var": values(3, 4) ** 2}
    )

    def apply(p, x):
        return layer.apply({"params": p}, quantize(x, INPUT))

    graph = trace(apply, params, (5, 4))
    types = plan_types(graph)
    assert types[graph.output].exact
    x = values(4, 20, 5, 4, scale=3.0)
    with jax.numpy_rank_promotion("allow"):
        np.testing.assert_array_equal(to_keras(graph)(x), jax.jit(apply)(params, x))


def test_constants_folded_exactly_are_taken_and_those_folded_with_loss_are_not():
    def twice(a, b):
        return trace(lambda p, x: quantize(x, INPUT) * p["a"] * p["b"], {"a": np.float32(a), "b": np.float32(b)}, (4,))

    assert plan_types(twice(0.75, -1.5))
    with pytest.raises(ExportError, match="not exact"):
        plan_types(twice(1 + 2.0**-20, 1 + 2.0**-20), significand=53)
    doubled = trace(lambda p, x: quantize(x, INPUT) @ (2.0 * quantize(p["w"], WEIGHT)), {"w": values(0, 4, 3)}, (4,))
    assert plan_types(doubled)


@pytest.mark.parametrize(
    ("apply", "layer"),
    [
        (lambda p, x: quantize(x, FixedPoint(8, 12)), "values of layer quantize"),
        (lambda p, x: quantize(x, INPUT) @ quantize(p["w"], FixedPoint(8, 12)), "kernel of layer w"),
    ],
)
def test_more_integer_bits_than_bits_are_refused(apply, layer):
    message = rf"{layer} .*ap_fixed<8,12,.*12 integer bits of 8.*ap_fixed<12,12>.*ap_fixed<8,8>"
    with pytest.raises(ConfigError, match=message):
        plan_types(trace(apply, {"w": values(0, 4, 3)}, (4,)))


def _unsigned_padded_pooling():
    """As a graph written by hand may have it; those of a trace have zeros around instead."""
    graph = trace(lambda p, x: nn.max_pool(quantize(x, FixedPoint(4, 2, False)), (3,), (2,)), {}, (4, 2))
    padded = dataclasses.replace(graph[graph.output], padding="same", shape=(2, 2))
    return dataclasses.replace(graph, nodes=(*graph.nodes[:-1], padded))


@pytest.mark.parametrize(
    ("make", "words_of_message"),
    [
        (lambda: _dense(None), ("layer w", "on no fixed-point grid|does not round them", "quanti|8 bits")),
        (lambda: _dense(FixedPoint(12, 3), 64, 20), ("layer w", "float32", "inputs of [0-9]+ bits would do")),
        (lambda: trace(lambda p, x: nn.relu(x), {}, (4,)), ("relu", "begin the model", "ap_fixed")),
        (
            lambda: trace(lambda p, x: nn.leaky_relu(quantize(x, INPUT), 0.01), {}, (4,)),
            ("leaky_relu", "slope", "0.0078125"),
        ),
        (lambda: trace(lambda p, x: jnp.mean(quantize(x, INPUT), 1), {}, (3, 2)), ("average", "mean of 3", "2 or 4")),
        (_unsigned_padded_pooling, ("max pooling", "unsigned", "pad_by_zeros")),
        (lambda: trace(lambda p, x: quantize(x, INPUT) * 0.1, {}, (4,)), ("scale", "not exact", "quantise scale")),
        (lambda: trace(lambda p, x: quantize(x, INPUT) / 3.0, {}, (4,)), ("scale", "not exact", "quantise scale")),
        (_batch_norm, ("scales of layer", "not exact", "fold_batch_norm.*ChannelAffine")),
        (
            lambda: trace(lambda p, x: quantize(x, INPUT) @ jnp.exp(p["w"]), {"w": values(0, 4, 3)}, (4,)),
            ("weights of layer w", "not exact", "after all arithmetic"),
        ),
        (lambda: trace(lambda p, x: quantize(x, INPUT) * 1e-30 + 1.0, {}, (4,)), ("scales of layer scale", "grid")),
    ],
)
def test_what_cannot_be_exact_is_refused_with_layer_line_and_remedy(make, words_of_message):
    graph = make()
    with pytest.raises(ExportError, match=words_of_message[0]) as caught:
        plan_types(graph)
    assert __file__ in str(caught.value)
    for word in words_of_message[1:]:
        assert caught.match(word)


def test_sums_too_wide_for_float32_fit_float64():
    graph = _dense(FixedPoint(12, 3), 64, 20)
    assert plan_types(graph, significand=53)["w"].interval.bound > 2**24


def test_a_softmax_is_never_called_exact():
    graph = trace(lambda p, x: nn.softmax(quantize(x, INPUT)), {}, (4,))
    types = plan_types(graph)
    assert not types[graph.output].exact
    assert types["quantize"].exact
