"""Upsampling, zero padding, transposed and dilated convolution: traced, typed, and equal bit for bit in C++."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from graph_tools import values
from hypothesis import given, settings
from hypothesis import strategies as st

from fpga_bridge import ladder
from fpga_bridge.hls import project as hls
from fpga_bridge.hls.keras_model import to_keras
from fpga_bridge.hls.layers import nearest_is_exact
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

INPUT = FixedPoint(8, 3, rounding="RND", overflow="SAT")
WEIGHT = FixedPoint(6, 2, rounding="RND", overflow="SAT")
HIDDEN = FixedPoint(9, 4, rounding="RND_CONV", overflow="SAT_SYM")
UNSIGNED = FixedPoint(7, 3, False, "RND", "SAT")


def kinds(graph):
    return [type(node).__name__ for node in graph.nodes[1:]]


def by_repeat(x, factors):
    for axis, factor in enumerate(factors, 1):
        x = jnp.repeat(x, factor, axis=axis)
    return x


def by_resize(x, factors):
    shape = (x.shape[0], *(n * f for n, f in zip(x.shape[1:-1], factors, strict=True)), x.shape[-1])
    return jax.image.resize(x, shape, "nearest")


def by_broadcast(x, factors):
    shape = [x.shape[0]]
    for n, factor in zip(x.shape[1:-1], factors, strict=True):
        shape += [n, factor]
    x = jnp.expand_dims(x, tuple(range(2, 2 * len(factors) + 1, 2)))
    x = jnp.broadcast_to(x, (*shape, x.shape[-1]))
    return x.reshape(x.shape[0], *(a * b for a, b in zip(shape[1::2], shape[2::2], strict=True)), x.shape[-1])


@pytest.mark.parametrize("way", [by_repeat, by_resize, by_broadcast])
@pytest.mark.parametrize(
    ("shape", "factors"), [((3, 5, 2), (2, 3)), ((3, 1, 2), (1, 4)), ((6, 3), (4,)), ((4, 1), (2,))]
)
def test_each_way_to_upsample_is_one_node_and_numpys_repeat(way, shape, factors):
    graph = trace(lambda p, x: way(x, factors), {}, shape)
    assert kinds(graph) == ["Upsample"]
    node = graph[graph.output]
    assert node.factors == factors
    x = values(0, 2, *shape)
    expected = x
    for axis, factor in enumerate(factors, 1):
        expected = np.repeat(expected, factor, axis)
    assert node.shape == expected.shape[1:]
    np.testing.assert_array_equal(np.asarray(to_keras(graph)(x)), expected)


def test_a_repeat_behind_a_real_reshape_keeps_the_reshape():
    graph = trace(lambda p, x: jnp.repeat(x.reshape(-1, 6, 2), 2, axis=1), {}, (2, 3, 2))
    assert kinds(graph) == ["Reshape", "Upsample"]
    x = values(1, 2, 2, 3, 2)
    np.testing.assert_array_equal(np.asarray(to_keras(graph)(x)), np.repeat(x.reshape(2, 6, 2), 2, 1))


CONVOLUTIONS = {
    "transposed": (lambda x, k: jax.lax.conv_transpose(x, k, (2, 2), "SAME"), ["ZeroInsert", "ZeroPad", "Conv"]),
    "transposed, valid": (
        lambda x, k: jax.lax.conv_transpose(x, k, (3, 2), "VALID"),
        ["ZeroInsert", "ZeroPad", "Conv"],
    ),
    "dilated": (lambda x, k: _convolve(x, k, "SAME", rhs_dilation=(2, 3)), ["Conv"]),
    "dilated and transposed": (
        lambda x, k: _convolve(x, k, ((2, 1), (0, 3)), lhs_dilation=(2, 1), rhs_dilation=(1, 2)),
        ["ZeroInsert", "ZeroPad", "Conv"],
    ),
    "explicitly padded": (lambda x, k: _convolve(x, k, ((1, 1), (1, 1)), strides=(2, 2)), ["ZeroPad", "Conv"]),
    "padded apart": (
        lambda x, k: _convolve(jnp.pad(x, ((0, 0), (1, 0), (2, 1), (0, 0))), k, "VALID"),
        ["ZeroPad", "Conv"],
    ),
}


def _convolve(x, kernel, padding, strides=(1, 1), **dilations):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **dilations
    )


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_with_holes_become_convolutions_with_zeros(name):
    function, expected = CONVOLUTIONS[name]
    params = {"layer": {"kernel": values(2, 3, 2, 2, 3)}}
    graph = trace(lambda p, x: function(x, p["layer"]["kernel"]), params, (7, 8, 2))
    assert kinds(graph) == expected
    assert graph.output == "layer"
    x = values(3, 2, 7, 8, 2)
    reference = np.asarray(function(jnp.asarray(x), jnp.asarray(params["layer"]["kernel"])))
    # Sums of twelve products of numbers near one, in another order.
    np.testing.assert_allclose(np.asarray(to_keras(graph)(x)), reference, atol=1e-5)


@given(
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    low=st.integers(0, 2),
    high=st.integers(0, 2),
)
@settings(max_examples=10)
def test_lax_pad_with_an_interior_is_zero_insertion_and_zero_padding(sizes, strides, low, high):
    config = ((0, 0, 0), (low, high, strides[0] - 1), (high, low, strides[1] - 1), (0, 0, 0))
    graph = trace(lambda p, x: nn.relu(jax.lax.pad(x, np.float32(0), config)), {}, (*sizes, 1))
    x = np.abs(values(4, 1, *sizes, 1)) + 1
    padded = np.asarray(jax.lax.pad(x, np.float32(0), config))
    np.testing.assert_array_equal(np.asarray(to_keras(graph)(x)), padded)
    assert graph[graph.output].shape == padded.shape[1:]


def test_types_of_upsampled_values_are_those_of_the_pixels_and_padding_adds_zero():
    def network(p, x):
        x = quantize(nn.relu(quantize(x, INPUT)) + 1.0, UNSIGNED)
        return jnp.pad(jnp.repeat(x, 2, axis=1), ((0, 0), (1, 0), (0, 0)))

    graph = trace(network, {}, (4, 2))
    types = plan_types(graph)
    up, pad = graph.nodes[-2:]
    assert types[up.name].interval.low > 0
    assert types[up.name].result == UNSIGNED
    assert types[pad.name].interval.low == 0
    assert types[pad.name].interval.high == types[up.name].interval.high


def image_network(p, x):
    """Everything that streams, over two axes."""
    x = quantize(x, INPUT)
    skip = quantize(_convolve(x, quantize(p["down"]["kernel"], WEIGHT), "SAME"), UNSIGNED)
    y = nn.max_pool(skip, (2, 2), (2, 2))
    y = _convolve(y, quantize(p["dilated"]["kernel"], WEIGHT), "SAME", rhs_dilation=(2, 1))
    y = nn.relu(quantize(y, HIDDEN))
    y = jax.image.resize(y, (y.shape[0], 6, 8, 3), "nearest")
    y = quantize(y + skip, HIDDEN)
    y = jnp.pad(y, ((0, 0), (0, 1), (1, 0), (0, 0)))
    y = jax.lax.conv_transpose(y, quantize(p["up"]["kernel"], WEIGHT), (2, 3), "SAME")
    y = quantize(y + quantize(p["up"]["bias"], WEIGHT)[None, None, None], HIDDEN)
    y = _convolve(y, quantize(p["strided"]["kernel"], WEIGHT), ((1, 0), (1, 1)), strides=(2, 2))
    return jnp.repeat(quantize(y, HIDDEN), 3, axis=2)


IMAGE_PARAMS = {
    "down": {"kernel": values(0, 3, 3, 2, 3)},
    "dilated": {"kernel": values(1, 2, 3, 3, 3)},
    "up": {"kernel": values(2, 3, 3, 3, 2, scale=0.3), "bias": values(3, 2)},
    "strided": {"kernel": values(4, 2, 3, 2, 2)},
}


def signal_network(p, x):
    """The same over one axis."""
    x = quantize(x, INPUT)
    y = jnp.repeat(nn.relu(x), 4, axis=1)
    y = jnp.pad(y, ((0, 0), (2, 1), (0, 0)))
    y = jax.lax.conv_transpose(
        y, quantize(p["up"]["kernel"], WEIGHT), (2,), "VALID", dimension_numbers=("NHC", "HIO", "NHC")
    )
    return jnp.repeat(quantize(y, HIDDEN), 2, axis=1)


SIGNAL_PARAMS = {"up": {"kernel": values(5, 3, 2, 3)}}
CASES = [(image_network, IMAGE_PARAMS, (6, 8, 2), io) for io in ("io_parallel", "io_stream")]
CASES += [(signal_network, SIGNAL_PARAMS, (5, 2), "io_stream")]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """Inputs, what JAX makes of them and what the compiled C++ does, for every case."""
    results = []
    for number, (network, params, shape, io_type) in enumerate(CASES):
        graph = trace(network, params, shape)
        folder = tmp_path_factory.mktemp(f"project_{number}")
        # Without optimisation: g++ takes longer than the few samples.
        project = hls.compile_project(hls.convert(graph, folder, io_type=io_type), optimization="-O0")
        x = values(9, 10, *shape, scale=3.0)
        results.append((np.asarray(jax.jit(network)(params, x)), hls.emulate(project, x), graph, x))
    return results


@pytest.mark.parametrize("case", range(len(CASES)))
def test_resampling_in_compiled_cpp_equals_jax_bit_for_bit(case, emulated):
    expected, outputs, graph, x = emulated[case]
    assert outputs.shape == expected.shape
    assert len(np.unique(expected)) > 20  # neither saturated nor zero all over
    np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_array_equal(ladder.keras_forward(graph, x)[1], expected)
    assert {"Upsample", "ZeroPad", "ZeroInsert"} <= set(kinds(graph))


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (lambda x: jax.image.resize(x, (x.shape[0], 8, 8, 2), "bilinear"), "bilinear upsampling.*nearest"),
        (lambda x: jax.image.resize(x, (x.shape[0], 8, 8, 2), "cubic"), "cubic upsampling.*nearest"),
        (lambda x: jnp.tile(x, (1, 2, 1, 1)), "tile.*jnp.repeat"),
        (lambda x: jnp.repeat(x, 2, axis=3), "broadcast_in_dim.*spatial axes"),
        (lambda x: jnp.repeat(x, 2, axis=0)[: x.shape[0]], "broadcast_in_dim.*one sample"),
        (lambda x: jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=1.0), "pad.*zeros"),
        (lambda x: jax.lax.pad(x, np.float32(0), ((0, 0, 0), (-1, 0, 0), (0, 0, 0), (0, 0, 0))), "pad.*SAME"),
        (lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 0), (1, 0))), "pad.*spatial axes"),
    ],
)
def test_what_cannot_be_resampled_exactly_is_refused_by_name(layers, words):
    with pytest.raises(ExportError, match=words):
        trace(lambda p, x: layers(x), {}, (4, 4, 2))


@given(old=st.integers(1, 300), factor=st.integers(1, 8))
def test_hls4mls_division_by_shifting_is_right_at_the_sizes_of_images(old, factor):
    graph = ir.Graph(
        (
            ir.Input(name="x", inputs=(), shape=(old, 1)),
            ir.Upsample(name="y", inputs=("x",), shape=(old * factor, 1), factors=(factor,)),
        ),
        "y",
    )
    assert nearest_is_exact(graph, graph["y"])


def test_sizes_at_which_hls4ml_would_miss_pixels_are_refused_in_parallel(tmp_path):
    graph = trace(lambda p, x: jnp.repeat(quantize(x, INPUT), 2, axis=1), {}, (20000, 1))
    assert not nearest_is_exact(graph, graph[graph.output])
    with pytest.raises(ExportError, match=r"nearest upsampling at .* use io_stream"):
        hls.convert(graph, tmp_path)
