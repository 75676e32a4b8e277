"""Convolutions of Keras files with holes, in groups and transposed, and activations of two and three values."""

import json

import h5py
import numpy as np
import pytest
from graph_tools import keras_at_work, outputs, values

from fpga_bridge.hls import project as hls
from fpga_bridge.hls.keras_model import keras
from fpga_bridge.keras_files.hardware_formats import HardwareFormats, with_formats
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.errors import ConfigError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint

TOLERANCE = 2e-5  # sums of at most some hundred float32 products in another order, of values near 1
LAYERS = {
    "holes": ((7, 6, 2), lambda: keras.layers.Conv2D(4, (3, 2), dilation_rate=(2, 3), padding="same")),
    "holes, valid": ((7, 8, 2), lambda: keras.layers.Conv2D(3, 2, dilation_rate=3, use_bias=False)),
    "groups": ((5, 6, 4), lambda: keras.layers.Conv2D(6, 3, groups=2, strides=2, padding="same")),
    "groups with holes": ((9, 6), lambda: keras.layers.Conv1D(6, 3, groups=3, dilation_rate=2)),
    "depthwise with holes": ((6, 7, 3), lambda: keras.layers.DepthwiseConv2D(2, dilation_rate=(2, 2))),
    "transposed": ((4, 5, 3), lambda: keras.layers.Conv2DTranspose(2, 3, strides=2, padding="same")),
    "transposed, even": ((3, 4, 2), lambda: keras.layers.Conv2DTranspose(3, (4, 2), strides=(2, 1), padding="same")),
    "transposed, valid": ((4, 3, 2), lambda: keras.layers.Conv2DTranspose(2, (3, 2), strides=2)),
    "transposed, sparse": ((3, 3, 2), lambda: keras.layers.Conv2DTranspose(2, (1, 2), strides=3)),
    "transposed, sparse, same": ((3, 3, 2), lambda: keras.layers.Conv2DTranspose(2, 2, strides=3, padding="same")),
    "transposed, longer": (
        (3, 4, 2), lambda: keras.layers.Conv2DTranspose(2, (3, 2), strides=(3, 2), output_padding=(2, 1)),
    ),
    "transposed, same, longer": (
        (3, 4, 2),
        lambda: keras.layers.Conv2DTranspose(2, (3, 4), strides=(3, 2), padding="same", output_padding=(0, 1)),
    ),
    "transposed with holes": ((4, 2), lambda: keras.layers.Conv1DTranspose(3, 3, dilation_rate=2, padding="same")),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_a_convolution_of_keras_is_one_convolution_with_zeros(case, tmp_path):
    shape, layer = LAYERS[case]
    x = values(0, 3, *shape)
    with keras_at_work():
        model = keras.Sequential([keras.Input(shape), layer()])
        model.set_weights([values(i, *weight.shape) for i, weight in enumerate(model.weights, 1)])
        expected = np.asarray(model(x))
        model.save(tmp_path / "net.keras")
    graph = load_keras_graph(tmp_path / "net.keras")
    assert sum(isinstance(node, ir.Conv) for node in graph) == 1
    np.testing.assert_allclose(outputs(graph, x), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_an_output_padding_beyond_the_stride_and_groups_are_named(tmp_path):
    spec = {"name": "up", "filters": 2, "kernel_size": [2, 2], "strides": [2, 2], "padding": "valid"}
    for change, error, message in (
        ({"output_padding": [1, 2]}, ConfigError, r"'up' .*output_padding must be below the strides \(2, 2\)"),
        ({"groups": 2}, ExportError, r"'up' \(Conv2DTranspose\) .* has groups; use .*for each group"),
    ):
        with pytest.raises(error, match=message):
            load_keras_graph(one_layer_file(tmp_path / "net.h5", "Conv2DTranspose", spec | change, (4, 4, 2)))


def one_layer_file(path, kind, config, shape):
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, *shape], "name": "in"}},
        {"class_name": kind, "config": config},
    ]
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"name": "n", "layers": layers}})
        file.create_group("model_weights")
    return path


def activation_file(path, activation, shape=(40,)):
    return one_layer_file(path, "QActivation", {"name": "levels", "activation": activation}, shape)


LEVELS = {
    "binary": lambda x: np.where(x < 0, -1.0, 1.0),
    "binary(1)": lambda x: np.where(x < 0, 0.0, 1.0),
    "stochastic_binary()": lambda x: np.where(x < 0, -1.0, 1.0),
    "binary(alpha=4)": lambda x: np.where(x < 0, -4.0, 4.0),
    "ternary": lambda x: np.sign(x) * (np.abs(x) >= np.float32(0.33)),
    "ternary(threshold=0.5)": lambda x: np.sign(x) * (np.abs(x) >= 0.5),
    "ternary(alpha=0.25,threshold=2)": lambda x: 0.25 * np.sign(x) * (np.abs(x) >= 2),
}


@pytest.mark.parametrize("text", LEVELS)
def test_activations_of_two_and_three_values_are_their_formulas_at_every_edge(text, tmp_path):
    graph = load_keras_graph(activation_file(tmp_path / "net.h5", text))
    edges = np.array([1e-30, 0.33, 0.5, 2.0], np.float32)
    edges = np.concatenate([edges, np.nextafter(edges, np.float32(9)), np.nextafter(edges, np.float32(0)), np.zeros(1)])
    x = np.concatenate([edges, -edges, values(0, 54, scale=2.0)]).reshape(2, 40).astype(np.float32)
    expected = LEVELS[text](x)
    assert len(np.unique(expected)) in (2, 3)
    np.testing.assert_array_equal(outputs(graph, x), expected)


@pytest.mark.parametrize("text", ["ternary(threshold=-1)", "ternary(alpha=0.3)", "binary(alpha='auto')"])
def test_activations_of_other_values_are_refused(text, tmp_path):
    with pytest.raises(ExportError, match=r"has the threshold|has alpha"):
        load_keras_graph(activation_file(tmp_path / "net.h5", text))


def test_three_values_and_two_are_those_of_the_compiled_cpp(tmp_path):
    format = FixedPoint(9, 4)
    x = np.arange(format.min_word, format.max_word + 1).reshape(1, -1, 64).transpose(1, 0, 2)[:, 0] * format.step
    for text in ("ternary", "binary"):
        graph = load_keras_graph(activation_file(tmp_path / f"{text}.h5", text, (64,)))
        graph = with_formats(graph, HardwareFormats.uniform(format))
        expected = LEVELS[text](x)
        np.testing.assert_array_equal(outputs(graph, x.astype(np.float32)), expected)
        project = hls.compile_project(hls.convert(graph, tmp_path / text), optimization="-O0")
        np.testing.assert_array_equal(hls.emulate(project, x.astype(np.float32)), expected)
