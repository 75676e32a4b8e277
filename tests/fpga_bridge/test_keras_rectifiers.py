"""Rectifiers and pairs of activations from files that Keras saved."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge.hls.keras_model import keras
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.typed_graph.apply import apply_graph
from jaxgeo.errors import ExportError

SHAPE = (4, 3)
layers = keras.layers


def saved(function, path):
    entry = layers.Input(SHAPE)
    with jax.numpy_rank_promotion("allow"):  # Keras' own broadcasts
        model = keras.Model(entry, function(entry))
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape).astype(np.float32))
    with warnings.catch_warnings():  # of Keras about NumPy 2
        warnings.simplefilter("ignore", DeprecationWarning)
        model.save(path)
    return model


def three(x):
    return [x, layers.ReLU()(x), layers.LeakyReLU(0.25)(x)]


READ = {
    "slopes of channels": (layers.PReLU(shared_axes=[1]), ["prelu"]),
    "threshold": (layers.ReLU(threshold=0.5), ["thresholdedrelu"]),
    "product": (lambda x: layers.Multiply()(three(x)), ["relu", "multiply", "leakyrelu", "multiply"]),
    "maximum": (lambda x: layers.Maximum()(three(x)), ["relu", "maximum", "leakyrelu", "maximum"]),
    "minimum": (lambda x: layers.Minimum()(three(x)), ["relu", "minimum", "leakyrelu", "minimum"]),
}


@pytest.mark.parametrize("case", READ)
def test_the_graph_of_a_file_computes_what_keras_does(case, tmp_path):
    function, kinds = READ[case]
    model = saved(function, tmp_path / "model.keras")
    graph = load_keras_graph(tmp_path / "model.keras")
    assert sorted(node.kind for node in graph) == sorted(["input", *kinds])
    x = np.random.default_rng(1).normal(size=(50, *SHAPE)).astype(np.float32)
    with jax.numpy_rank_promotion("allow"):
        np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(x)), model(x))


REFUSED = {
    "slopes of places": (layers.PReLU(), r"other slopes at other places.*shared_axes"),
    "slope and threshold": (layers.ReLU(negative_slope=0.5, threshold=0.5), "clipped or shifted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_exact_form_is_refused_with_a_remedy(case, tmp_path):
    function, message = REFUSED[case]
    saved(function, tmp_path / "model.keras")
    with pytest.raises(ExportError, match=message):
        load_keras_graph(tmp_path / "model.keras")
