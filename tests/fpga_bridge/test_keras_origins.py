"""Keras files whose layers are called, or are, something else than their names promise: refused, not read as those."""

import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_tools import keras_at_work, values

from fpga_bridge.hls.keras_model import keras
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.typed_graph.apply import apply_graph
from jaxgeo.errors import ExportError

layers, ops = keras.layers, keras.ops


class Dense(layers.Dense):
    """Called as the layer of Keras, and another function."""

    def call(self, inputs):
        return 2 * super().call(inputs)


def hgq_dense(x):
    """Of a package that quantises otherwise than QKeras, and calls its layers alike."""
    from hgq.layers import QDense

    return QDense(3)(x)


REFUSED = {
    "a dropout that draws at inference": (
        lambda x: layers.Dropout(0.5)(x, training=True), r"layer 'dropout.*called with training=True"
    ),
    "a norm by the statistics of its batch": (
        lambda x: layers.BatchNormalization()(x, training=True), r"'batch_norm.*called with training=True"
    ),
    "a number in a sum": (lambda x: x + 0.5, r"layer 'add.*called with the argument 0.5"),
    "a layer of one's own": (Dense(3), r"layer 'dense.* is Dense of .*test_keras_origins, which may"),
    "a layer of HGQ": (hgq_dense, r"layer 'q_dense.* is QDense of hgq\..* which may compute anything else"),
    "a weighted mean": (
        lambda x: ops.average(x, axis=0, weights=layers.ReLU()(x)), r"'average.*the operation Average of keras.ops"
    ),
}  # fmt: skip


def saved(function, path):
    entry = layers.Input((4,))
    with keras_at_work():
        model = keras.Model(entry, function(entry))
        model.save(path)
    return model


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_the_layer_of_that_name_is_refused(case, tmp_path):
    function, message = REFUSED[case]
    saved(function, tmp_path / "model.keras")
    with pytest.raises(ExportError, match=message):
        load_keras_graph(tmp_path / "model.keras")


def test_operations_that_are_layers_by_other_names_are_read(tmp_path):
    def network(x):
        y = ops.concatenate([x + layers.ReLU()(x), ops.maximum(x, x * x)], axis=-1)
        return ops.softmax(y - ops.minimum(y, y), axis=-1)

    model = saved(network, tmp_path / "model.keras")
    x = values(0, 9, 4)
    with jax.numpy_rank_promotion("allow"):
        expected = np.asarray(model(x))
    # A softmax of 8 numbers, in float32 in either.
    np.testing.assert_allclose(apply_graph(load_keras_graph(tmp_path / "model.keras"), jnp.asarray(x)), expected, 1e-5)


def test_calls_of_keras_2_are_held_to_the_same(tmp_path):
    """The fourth member of a connection is what the layer was called with."""
    path = tmp_path / "model.keras"
    saved(layers.Dropout(0.5), path)
    with zipfile.ZipFile(path) as archive:
        whole = json.loads(archive.read("config.json"))
        weights = archive.read("model.weights.h5")
    source = whole["config"]["layers"][0]["config"]["name"]
    for given, refused in (({}, False), ({"training": False}, False), ({"training": True}, True)):
        whole["config"]["layers"][1]["inbound_nodes"] = [[[source, 0, 0, given]]]
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(whole))
            archive.writestr("model.weights.h5", weights)
        if refused:
            with pytest.raises(ExportError, match="called with training=True"):
                load_keras_graph(path)
        else:
            assert [node.kind for node in load_keras_graph(path)] == ["input"]
