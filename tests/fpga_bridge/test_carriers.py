"""Where float32 does not hold the sums of a network, what leaves the bridge computes in float64 or is refused."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge.exports import export, write_keras
from fpga_bridge.hls.export import predictions
from fpga_bridge.hls.keras_model import keras
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.onnx.export import to_onnx
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.precision import carrier
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

sys.path.insert(0, str(Path(__file__).parent))
import onnx_reader  # beside this file

KERNEL = {"w": np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)}
SAMPLES = np.random.default_rng(1).normal(size=(20, 64)).astype(np.float32)


def graph_of(bits, weight_bits):
    """64 terms to a sum."""
    x, w = FixedPoint(bits, 4, True, "RND", "SAT"), FixedPoint(weight_bits, 3, True, "RND", "SAT")
    return trace(lambda p, values: quantize(values, x) @ quantize(p["w"], w), KERNEL, (64,))


def words(graph):
    """The outputs on the grid of their sums, in float64, whose 53 bits hold them."""
    with jax.enable_x64(True):
        return np.asarray(apply_graph(graph, jnp.asarray(SAMPLES, jnp.float64)))


@pytest.mark.parametrize(("bits", "dtype"), [(8, "float32"), (18, "float64")])
def test_every_way_out_computes_in_the_float_that_holds_the_sums(bits, dtype, tmp_path):
    graph = graph_of(bits, bits)
    expected = words(graph)
    assert carrier(graph) == dtype
    assert (apply_graph(graph, jnp.asarray(SAMPLES)) == expected).all() == (dtype == "float32")
    np.testing.assert_array_equal(predictions(graph, SAMPLES), expected)

    (message,) = export(graph, "onnx", tmp_path)
    assert message.endswith(f"in {dtype}")
    model = onnx_reader.read((tmp_path / "network.onnx").read_bytes())
    np.testing.assert_array_equal(onnx_reader.run(model, SAMPLES.astype(dtype)), expected)

    (message,) = export(graph, "keras", tmp_path)
    assert f"in {dtype};" in message
    assert ("jax.enable_x64(True)" in message) == (dtype == "float64")
    with jax.enable_x64(dtype == "float64"), jax.numpy_rank_promotion("allow"):
        loaded = keras.saving.load_model(tmp_path / "network.keras")
        np.testing.assert_array_equal(loaded(jnp.asarray(SAMPLES, dtype)), expected)
    np.testing.assert_array_equal(words(load_keras_graph(tmp_path / "network.keras")), expected)


def test_a_quantised_network_that_no_float_holds_is_refused(tmp_path):
    kernel = np.full((64, 1), 1 + 2.0**-23, np.float32)
    kernel[0] = 2.0**-30
    nodes = (
        ir.Input(name="x", inputs=(), shape=(64,)),
        ir.Quantize(name="rounded", inputs=("x",), shape=(64,), format=FixedPoint(32, 4)),
        ir.Dense(name="w", inputs=("rounded",), shape=(1,), kernel=ir.Weight(kernel, FixedPoint(32, 2))),
    )
    graph = ir.Graph(nodes, "w")
    for write in (to_onnx, lambda graph: write_keras(graph, tmp_path / "net.keras")):
        with pytest.raises(ExportError, match=r"layer w .* needs 67 bits for its sums"):
            write(graph)
    assert not list(tmp_path.iterdir())


def test_a_network_without_formats_leaves_in_float32():
    graph = trace(lambda p, x: x @ p["w"], KERNEL, (64,))
    assert carrier(graph) == "float32"
    np.testing.assert_allclose(
        onnx_reader.run(onnx_reader.read(to_onnx(graph)), SAMPLES), SAMPLES @ KERNEL["w"], rtol=1e-5, atol=1e-5
    )  # 64 products of float32 in another order
