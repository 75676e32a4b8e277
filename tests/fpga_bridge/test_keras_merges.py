"""Layers of Keras that join activations of different shapes, and its simple recurrence: Keras says the same."""

import json
import warnings

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge.emulation.emulator import emulate, plan_emulation
from fpga_bridge.emulation.layer_types import DesignTypes
from fpga_bridge.hls.keras_model import keras
from fpga_bridge.keras_files.hardware_formats import HardwareFormats, with_formats
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ConfigError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint

IMAGE, SIGNAL = (4, 3, 2), (4, 3)
layers = keras.layers


def saved(function, shape, path):
    entry = layers.Input(shape)
    with jax.numpy_rank_promotion("allow"):  # Keras' own broadcasts
        model = keras.Model(entry, function(entry))
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.5).astype(np.float32))
    with warnings.catch_warnings():  # of Keras about NumPy 2
        warnings.simplefilter("ignore", DeprecationWarning)
        model.save(path)
    return model


def gate(x):
    return layers.GlobalMaxPooling2D()(x)


def top(x):
    return layers.GlobalMaxPooling1D()(x)


MERGES = {
    "an image by a vector": (IMAGE, lambda x: layers.Multiply()([x, gate(x)])),
    "a vector to an image": (IMAGE, lambda x: layers.Add()([gate(x), x, x])),
    "channels by one": (IMAGE, lambda x: layers.Maximum()([x, layers.Dense(1)(x)])),
    "a row by a column": (
        IMAGE, lambda x: layers.Minimum()([layers.MaxPooling2D((4, 1))(x), layers.MaxPooling2D((1, 3))(x)])
    ),
    "a difference": (IMAGE, lambda x: layers.Subtract()([x, gate(x)])),
    "an average of two": (SIGNAL, lambda x: layers.Average()([x, layers.ReLU()(x)])),
    "vectors by each other": (SIGNAL, lambda x: layers.Dot(1)([top(x), layers.GlobalAveragePooling1D()(x)])),
    "places by a vector": (SIGNAL, lambda x: layers.Dot((2, 1))([x, top(x)])),
    "a vector by places": (SIGNAL, lambda x: layers.Dot((-1, -1))([top(x), x])),
    "matrices by rows": (SIGNAL, lambda x: layers.Dot(2)([x, layers.ReLU()(x)])),
    "matrices by columns": (SIGNAL, lambda x: layers.Dot(1)([x, layers.Dense(2)(x)])),
    "a matrix of rows by an image": (SIGNAL, lambda x: layers.Dot((1, 1))([x, layers.Reshape((4, 3, 1))(x)])),
    "steps": (SIGNAL, layers.SimpleRNN(2, "relu")),
    "steps from the end": (SIGNAL, layers.SimpleRNN(5, "linear", go_backwards=True, use_bias=False)),
    "all steps": (SIGNAL, layers.SimpleRNN(2, "relu", return_sequences=True)),
    "all steps from the end": (SIGNAL, layers.SimpleRNN(2, "relu", return_sequences=True, go_backwards=True)),
}  # fmt: skip


@pytest.mark.parametrize("case", MERGES)
def test_the_graph_of_a_file_computes_what_keras_does(case, tmp_path):
    shape, function = MERGES[case]
    model = saved(function, shape, tmp_path / "model.keras")
    graph = load_keras_graph(tmp_path / "model.keras")
    x = np.random.default_rng(1).normal(size=(20, *shape)).astype(np.float32)
    with jax.numpy_rank_promotion("allow"):
        expected = np.asarray(model(x))
    assert graph[graph.output].shape == expected.shape[1:]
    # Sums of at most some ten float32 products in another order.
    np.testing.assert_allclose(apply_graph(graph, jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)


def test_an_average_of_three_is_known_to_be_rounded_and_one_of_two_is_not(tmp_path):
    for count, rounded in ((2, False), (3, True), (4, False)):
        saved(lambda x, count=count: layers.Average()([x] * count), SIGNAL, tmp_path / "model.keras")
        (scale,) = (node.scale for node in load_keras_graph(tmp_path / "model.keras") if isinstance(node, ir.Affine))
        assert scale.rounded is rounded


REFUSED = {
    "lengths": (lambda x: layers.Dot(1, normalize=True)([top(x), top(x)]), r"\(Dot\).*lengths.*normalize=False"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_form_is_refused_with_a_remedy(case, tmp_path):
    function, message = REFUSED[case]
    saved(function, SIGNAL, tmp_path / "model.keras")
    with pytest.raises(ExportError, match=message):
        load_keras_graph(tmp_path / "model.keras")


def recurrent_file(path, **config):
    """A QSimpleRNN of QKeras, which rounds its weights and its state."""
    settings = {"name": "cell", "units": 2, "activation": "quantized_relu(5,1)"}
    settings |= {f"{name}_quantizer": "quantized_bits(4,1,alpha=1)" for name in ("kernel", "recurrent", "bias")}
    entries = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, *SIGNAL], "name": "in"}},
        {"class_name": "QSimpleRNN", "config": settings | config},
    ]
    rng = np.random.default_rng(0)
    arrays = {"kernel": (3, 2), "recurrent_kernel": (2, 2), "bias": (2,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": entries}})
        group = file.create_group("model_weights/cell")
        group.attrs["weight_names"] = [f"cell/quantized_simple_rnn_cell/{name}:0" for name in arrays]
        for name, array in arrays.items():
            group[f"cell/quantized_simple_rnn_cell/{name}:0"] = array
    return arrays


def test_a_quantised_recurrence_is_its_formula_and_exact_in_the_emulation(tmp_path):
    arrays = recurrent_file(tmp_path / "net.h5", state_quantizer="quantized_bits(3,1,alpha=1)")
    input_format = FixedPoint(6, 3, True, "RND", "SAT")
    graph = with_formats(load_keras_graph(tmp_path / "net.h5"), HardwareFormats(input=input_format))
    kernel, recurrent, bias = (np.clip(np.rint(array * 4), -8, 7) / 4 for array in arrays.values())
    x = np.random.default_rng(1).normal(size=(200, *SIGNAL)).astype(np.float32)
    state = np.zeros((200, 2))
    for step in np.swapaxes(np.clip(np.floor(x * 8 + 0.5), -32, 31) / 8, 0, 1):
        coarse = np.clip(np.rint(state * 2), -4, 3) / 2
        state = np.clip(np.rint((step @ kernel + bias + coarse @ recurrent) * 16), 0, 31) / 16
    assert len(np.unique(state)) > 20
    np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(x)), state)
    assert all(types.exact for types in plan_types(graph).values())
    wide = DesignTypes(default=FixedPoint(32, 12))  # more than any sum needs
    np.testing.assert_array_equal(emulate(plan_emulation(graph, wide), x), state)


def test_a_state_that_lasts_is_refused_and_steps_without_an_axis_are_a_mistake(tmp_path):
    recurrent_file(tmp_path / "net.h5", stateful=True)
    with pytest.raises(ExportError, match=r"'cell' \(QSimpleRNN\) of net.h5 has stateful; .*RoundedCell"):
        load_keras_graph(tmp_path / "net.h5")
    recurrent_file(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "a") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace(json.dumps([None, *SIGNAL]), "[null, 3]")
    with pytest.raises(ConfigError, match=r"'cell' \(QSimpleRNN\) of net.h5 needs an axis of steps"):
        load_keras_graph(tmp_path / "net.h5")
