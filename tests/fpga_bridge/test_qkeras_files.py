"""Files of Keras and QKeras as graphs: Keras itself, or a forward pass written in NumPy, computes the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_tools import keras_at_work, outputs, values
from qkeras_network import (
    FOLDED,
    HEAD,
    HEAD_BIAS,
    MASK,
    NORM,
    NORM2,
    STEM,
    bits,
    entry,
    qkeras_arrays,
    qkeras_layers,
    write_model,
)

from fpga_bridge.hls import project as hls
from fpga_bridge.hls.keras_model import keras, to_keras
from fpga_bridge.keras_files.hardware_formats import HardwareFormats, with_formats
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from jaxgeo.errors import InputError
from jaxgeo.layers.fixed_point import FixedPoint

TOLERANCE = 2e-5  # sums of at most some hundred float32 products in another order, of values near 1


# Random initial values would be compiled for each shape, and are replaced anyway.
PLAIN = {"kernel_initializer": "zeros"}
DEPTHWISE = {"depthwise_initializer": "zeros"}
SEPARABLE = {**DEPTHWISE, "pointwise_initializer": "zeros"}


def image_model():
    """Every layer over two axes that has a form in hardware; one is used twice."""
    layers = keras.layers
    x = entry = keras.Input((8, 7, 3), name="image")
    x = layers.Conv2D(4, (3, 2), strides=(2, 1), padding="same", activation="relu", name="stem", **PLAIN)(x)
    x = layers.BatchNormalization(epsilon=0.01, name="norm")(x)
    shared = layers.Conv2D(4, 3, padding="same", use_bias=False, name="shared", **PLAIN)
    x = layers.Add(name="sum")([x, shared(x), shared(layers.LeakyReLU(0.25)(x))])
    y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise", **DEPTHWISE)(
        layers.Dropout(0.5)(x)
    )
    z = layers.SeparableConv2D(5, 3, padding="same", depth_multiplier=2, name="separable", **SEPARABLE)(x)
    x = layers.Concatenate(name="joined")([y, z])
    x = layers.UpSampling2D((2, 1))(layers.ReLU()(x))
    x = layers.MaxPooling2D(3, 2, padding="same")(layers.ZeroPadding2D(((0, 1), (1, 2)))(x))
    x = layers.AveragePooling2D((1, 2))(layers.Permute((2, 1, 3))(x))
    y = layers.Concatenate()(
        [layers.GlobalAveragePooling2D(keepdims=True)(x), layers.GlobalMaxPooling2D(keepdims=True)(x)]
    )
    y = layers.Dense(6, activation="linear", **PLAIN)(layers.Reshape((-1,))(y))
    x = layers.BatchNormalization(scale=False)(layers.Dense(6, name="head", **PLAIN)(layers.Flatten()(x)))
    return keras.Model(entry, layers.Softmax()(layers.Add()([x, y])))


def signal_model():
    """Every layer over one axis, as a Sequential model."""
    layers = keras.layers
    return keras.Sequential([
        keras.Input((18, 2)), layers.ZeroPadding1D((1, 2)), layers.Conv1D(4, 3, strides=2, **PLAIN),
        layers.UpSampling1D(2), layers.BatchNormalization(center=False), layers.Activation("relu"),
        layers.MaxPooling1D(2), layers.SeparableConv1D(3, 3, **SEPARABLE),
        layers.AveragePooling1D(2, padding="same"), layers.GlobalMaxPooling1D(),
        layers.Dense(3, activation="softmax", **PLAIN),
    ])  # fmt: skip


@pytest.fixture(scope="module", params=[image_model, signal_model])
def model(request):
    with keras_at_work():
        built = request.param()
        # Away from zeros and ones; variances positive.
        built.set_weights([np.abs(values(i, *w.shape, scale=0.4)) + 0.1 for i, w in enumerate(built.weights)])
    return built


def test_every_file_of_keras_gives_the_function_of_keras(model, tmp_path):
    x = values(99, 5, *model.input_shape[1:])
    with keras_at_work():
        expected = np.asarray(jax.jit(lambda x: model(x, training=False))(x))
        model.save(tmp_path / "model.keras")
        model.save(tmp_path / "model.h5")
        (tmp_path / "model.json").write_text(model.to_json())
        model.save_weights(tmp_path / "model.weights.h5")
    graph = load_keras_graph(tmp_path / "model.keras")
    np.testing.assert_allclose(outputs(graph, x), expected, rtol=TOLERANCE, atol=TOLERANCE)
    for files in (("model.h5",), ("model.json", "model.weights.h5"), ("model.json", "model.h5")):
        other = load_keras_graph(*(tmp_path / name for name in files))
        for node, same in zip(graph, other, strict=True):
            for field in dataclasses.fields(node):
                value, again = getattr(node, field.name), getattr(same, field.name)
                if isinstance(value, ir.Weight):
                    np.testing.assert_array_equal(again.value, value.value)
                elif field.name != "source":
                    assert again == value


def test_what_the_bridge_writes_as_keras_comes_back_as_the_same_graph(tmp_path):
    def weight(*shape):
        return ir.Weight(np.round(values(len(shape), *shape) * 8) / 8)

    nodes = (
        ir.Input(name="x", inputs=(), shape=(4,)),
        ir.Dense(name="a", inputs=("x",), shape=(3,), kernel=weight(4, 3), bias=weight(3)),
        ir.Affine(name="b", inputs=("a",), shape=(3,), scale=weight(3), offset=weight(3)),
    )
    with keras_at_work():
        to_keras(ir.Graph(nodes, "b")).save(tmp_path / "model.keras")
    graph = load_keras_graph(tmp_path / "model.keras")
    assert [(n.name, n.kind, n.inputs) for n in graph] == [(n.name, n.kind, n.inputs) for n in nodes]
    for field in ("scale", "offset"):
        back, original = getattr(graph["b"], field), getattr(nodes[2], field)
        # Mean 0, variance 1 and epsilon 0 fold without rounding, and are known to.
        assert not back.rounded
        np.testing.assert_array_equal(back.value, original.value)


def rounded(x, number, integer=0):
    """quantized_bits by its formula: round half to even, clip, two's complement."""
    step = 2.0 ** (integer - number + 1)
    return np.clip(np.rint(x / step), -(2 ** (number - 1)), 2 ** (number - 1) - 1) * step


def relu6(x):
    return np.clip(np.rint(x * 64), 0, 63) / 64


@pytest.fixture(scope="module")
def qkeras_file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("qkeras") / "net.h5", qkeras_layers(), qkeras_arrays())


def scale_and_offset(norm):
    scale = norm["gamma"] / np.sqrt(norm["moving_variance"].astype(np.float64) + 0.001)
    return scale, norm["beta"] - norm["moving_mean"] * scale


def reference(x):
    """The network in NumPy, float64; the outputs and how near the values before its roundings came to a tie."""
    x = rounded(x, 8, 2)
    kernel = rounded(STEM, 6) * MASK
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    x = np.einsum("nijcab,abco->nijo", windows, kernel)
    x = x.reshape(len(x), 3, 2, 3, 2, 4).max(axis=(2, 4))
    scale, offset = scale_and_offset(NORM)
    before = x * scale + offset
    tie = np.abs((before * 64) % 1 - 0.5).min()
    scale, offset = scale_and_offset(NORM2)
    x = relu6(relu6(before) @ rounded(FOLDED[0, 0] * scale, 5, 1) + rounded(offset, 8, 2))
    return x.reshape(len(x), -1) @ rounded(HEAD, 4) + rounded(HEAD_BIAS, 6), tie


def test_a_qkeras_file_computes_its_published_formulas(qkeras_file):
    graph = load_keras_graph(qkeras_file)
    assert [node.name for node in graph] == [
        "in", "entry", "stem", "pool", "norm", "act", "folded", "folded_activation", "flat", "head",
    ]  # fmt: skip
    assert str(graph["norm"].source) == "net.h5:5"
    assert graph["stem"].kernel.format == FixedPoint(6, 1, True, "RND_CONV", "SAT")
    assert graph["norm"].scale.rounded
    assert graph["act"].format == FixedPoint(6, 0, False, "RND_CONV", "SAT")
    x = values(7, 40, 8, 8, 2)
    expected, tie = reference(x)
    # In steps; float32 errs by less than 1e-5 of them, so that no rounding is decided by it: equal bit for bit.
    assert tie > 2e-5
    np.testing.assert_array_equal(outputs(graph, x), expected)


def test_a_whole_batch_norm_with_quantisers_is_folded_from_quantised_parameters(tmp_path):
    norm = entry(
        "QBatchNormalization", "in", name="head", axis=[3], epsilon=0.001, beta_quantizer="quantized_po2(5)",
        gamma_quantizer="quantized_bits(8,2,alpha=1)", mean_quantizer=None, variance_quantizer=bits(6, 2),
        inverse_quantizer="quantized_bits(8,2,alpha=1)",
    )  # fmt: skip
    parameters = {f"head/{name}:0": array[:2] for name, array in NORM.items()}
    path = write_model(tmp_path / "norm.h5", [qkeras_layers()[0], norm], {"head": parameters})
    node = load_keras_graph(path)["head"]
    gamma, beta, mean, variance = (NORM[n][:2] for n in ("gamma", "beta", "moving_mean", "moving_variance"))
    scale = rounded(rounded(gamma, 8, 2) / np.sqrt(rounded(variance, 6, 2) + 0.001), 8, 2)
    np.testing.assert_array_equal(node.scale.value, scale)
    power = np.sign(beta) * 2.0 ** np.clip(np.rint(np.log2(np.abs(beta))), -8, 7)
    np.testing.assert_allclose(node.offset.value, power - mean * scale, rtol=1e-6)  # rounded once to float32


@pytest.fixture(scope="module")
def hardware(qkeras_file, tmp_path_factory):
    """The file with hls4ml's default type for what has none, and its compiled C++."""
    graph = with_formats(load_keras_graph(qkeras_file), HardwareFormats.uniform(FixedPoint(16, 6)))
    folder = tmp_path_factory.mktemp("hls") / "project"
    return graph, hls.compile_project(hls.convert(graph, folder), optimization="-O0")


def test_the_cpp_of_a_qkeras_file_equals_the_evaluation_of_its_graph(hardware):
    graph, project = hardware
    names = [node.name for node in graph]
    # Rounded by the network itself: the input, the folded norm's input before a maximum.
    assert "in_rounded" not in names
    assert {"stem_rounded", "head_rounded"} <= set(names)
    x = values(8, 60, 8, 8, 2, scale=2.0)
    expected = outputs(graph, x)
    assert len(np.unique(expected)) > 50
    np.testing.assert_array_equal(hls.emulate(project, x), expected)


def test_formats_are_given_to_what_has_none_only(qkeras_file):
    graph = load_keras_graph(qkeras_file)
    assert [n.name for n in with_formats(graph, HardwareFormats())] == [n.name for n in graph]
    wide = with_formats(graph, HardwareFormats(affine=FixedPoint(12, 4), weight=FixedPoint(3, 1)))
    assert wide["norm"].scale.format == FixedPoint(12, 4)
    assert wide["stem"].kernel is graph["stem"].kernel
    x = values(7, 10, 8, 8, 2)
    step = np.abs(outputs(wide, x, "norm") - outputs(graph, x, "norm")).max()
    # Truncation to 2^-8 in scale and offset, values of at most 8 in between.
    assert 0 < step < 9 * 2.0**-8


def test_the_evaluation_refuses_other_inputs_and_unknown_nodes(qkeras_file):
    graph = load_keras_graph(qkeras_file)
    with pytest.raises(InputError, match=r"samples of shape \(8, 8, 2\), got float32 of shape \(1, 8, 8, 1\)"):
        apply_graph(graph, jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(InputError, match="called 'nobody'; there are in, entry"):
        apply_graph(graph, jnp.zeros((1, 8, 8, 2)), "nobody")
