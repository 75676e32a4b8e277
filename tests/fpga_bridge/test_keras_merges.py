"""Layers of Keras that join activations of different shapes: Keras says the same."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge.hls.keras_model import keras
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from jaxgeo.errors import ExportError

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
