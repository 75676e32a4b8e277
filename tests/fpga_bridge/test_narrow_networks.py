"""Weights and activations of two and three values, PReLU and thresholds: as streams in C++ and as Verilog."""

import json

import h5py
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge.circuits import circuit, rtl, symbolic
from fpga_bridge.hls import project as hls
from fpga_bridge.keras_files.hardware_formats import HardwareFormats, with_formats
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.typed_graph.apply import apply_graph
from jaxgeo.layers.fixed_point import FixedPoint, quantize

SHAPE = (6, 3)
CONV = {"kernel_size": [3], "strides": [1], "dilation_rate": [1], "data_format": "channels_last", "groups": 1}


def layer(kind, name, **config):
    return {"class_name": kind, "config": {"name": name, **config}}


LAYERS = [
    layer("InputLayer", "in", batch_input_shape=[None, *SHAPE]),
    layer("QActivation", "entry", activation="quantized_bits(6,2,alpha=1)"),
    layer(
        "QConv1D", "signs", filters=4, padding="same", use_bias=False, activation="linear", **CONV,
        kernel_quantizer="binary(alpha=1)",
    ),
    layer("PReLU", "slopes", shared_axes=[1]),
    layer(
        "QConv1D", "thirds", filters=4, padding="valid", use_bias=True, activation="linear", **CONV,
        kernel_quantizer="ternary(alpha=0.5,threshold=0.33)", bias_quantizer="quantized_bits(4,0,alpha=1)",
    ),
    layer("ReLU", "threshold", max_value=None, negative_slope=0.0, threshold=0.75),
    layer("QActivation", "levels", activation="ternary(threshold=1)"),
    layer("Flatten", "flat"),
    layer(
        "QDense", "head", units=3, use_bias=False, activation="linear",
        kernel_quantizer="stochastic_ternary(alpha=1,threshold=0.5)",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The graph with formats, samples, and what it makes of them."""
    path, rng = tmp_path_factory.mktemp("narrow") / "net.h5", np.random.default_rng(0)
    arrays = {
        "signs": {"kernel": rng.normal(size=(3, 3, 4))},
        "slopes": {"alpha": np.array([[0.25, -0.5, 0.0, 1.5]])},
        "thirds": {"kernel": rng.normal(size=(3, 4, 4)), "bias": rng.normal(size=4) / 4},
        "head": {"kernel": rng.normal(size=(16, 3))},
    }
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"name": "n", "layers": LAYERS}})
        for name, members in arrays.items():
            group = file.create_group(f"model_weights/{name}")
            group.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in members]
            for key, array in members.items():
                group[f"{name}/{key}:0"] = array.astype(np.float32)
    weight, result = FixedPoint(8, 3, True, "RND", "SAT"), FixedPoint(10, 5, True, "RND", "SAT")
    graph = with_formats(load_keras_graph(path), HardwareFormats(weight=weight, affine=weight, result=result))
    assert {"conv", "prelu", "thresholdedrelu", "dense"} <= {node.kind for node in graph}
    x = (2.0 * rng.normal(size=(1000, *SHAPE))).astype(np.float32)
    expected = np.asarray(apply_graph(graph, jnp.asarray(x)))
    assert len(np.unique(expected)) > 8  # sums of at most 16 values of -1, 0 and 1
    return graph, x, expected


@pytest.mark.parametrize("io_type", ["io_stream", "io_parallel"])
def test_the_cpp_of_two_and_three_values_is_the_evaluation_in_every_word(io_type, network, tmp_path):
    graph, x, expected = network
    project = hls.compile_project(hls.convert(graph, tmp_path, io_type=io_type), optimization="-O0")
    np.testing.assert_array_equal(hls.emulate(project, x), expected)


def test_the_verilog_of_two_and_three_values_is_the_evaluation_in_every_word(network, tmp_path):
    graph, x, expected = network
    design = rtl.emit_verilog(graph)
    figures = rtl.compare(design, rtl.simulate(design, x, tmp_path), expected)
    assert (figures["equal_share"], figures["values_compared"]) == (1.0, 3000)


CHOICES = {
    "a number, else what is negated": lambda x: jnp.where(x < 0.5, 1.5, -x),
    "zero, else what is negated": lambda x: jnp.where(-x < 0.25, 0.0, -x),
    "what is negated, else a number": lambda x: jnp.where(x < 0.5, -x, 1.5),
    "one of two, one negated": lambda x: jnp.where(x[:, ::-1] < 0.0, x, -x),
    "the larger of a number and what is negated": lambda x: jnp.maximum(-x, 0.5),
}


@pytest.mark.parametrize("case", CHOICES)
def test_circuits_choose_between_numbers_and_what_is_negated(case):
    da4ml = circuit.import_da4ml()
    x = np.arange(-32, 32, dtype=np.float32).reshape(-1, 2) / 8  # the words of the input
    unrolled = symbolic.unroll(lambda _, x: CHOICES[case](quantize(x, FixedPoint(6, 3))), {}, (2,))
    logic = da4ml.trace.comb_trace(list(unrolled.ports.flat), list(unrolled.outputs.flat), keep_dead_inputs=True)
    chosen = logic.predict(x.astype(np.float64), n_threads=1)
    np.testing.assert_array_equal(chosen, CHOICES[case](jnp.asarray(x)))
