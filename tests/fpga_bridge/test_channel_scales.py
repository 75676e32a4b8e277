"""Kernels of QKeras whose scale is no power of two: a file, its formulas in NumPy, and the words that hardware gets."""

import json

import h5py
import numpy as np
import pytest
from graph_tools import keras_at_work, outputs, values

from fpga_bridge.hls.keras_model import keras
from fpga_bridge.keras_files.channel_scales import channel_scaled
from fpga_bridge.keras_files.hardware_formats import HardwareFormats, with_formats
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.keras_files.qkeras_quantizers import parse_quantizer
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.precision import plan_types, words
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import FixedPoint

EPSILON = np.float32(1e-7)
ULPS = 4 * 2.0**-24  # of a sum in another order, a quotient and a product


def least_squares(x, q):
    axes = tuple(range(x.ndim - 1))
    return (x * q).mean(axes, keepdims=True) / ((q * q).mean(axes, keepdims=True) + EPSILON)


def signs(x):
    return np.where(x < 0, np.float32(-1), np.float32(1))


def ternary(x, unrolls=5):
    scale = 2 * np.abs(x).max(tuple(range(x.ndim - 1)), keepdims=True) / 3
    for _ in range(unrolls):
        q = np.sign(x) * (np.abs(scale * np.rint(x / scale)) >= scale / 2)
        scale = least_squares(x, q)
    return scale * q


def spread(x, bits, integer):
    """Of `quantized_bits`: levels from -L to L, the largest of which is the largest weight of its channel."""
    m, m_i, levels = 2.0 ** (bits - 1), 2.0**integer, 2 * (2 ** (bits - 1) - 1)
    scale = 2 * np.abs(x / m_i).max(tuple(range(x.ndim - 1)), keepdims=True) / levels
    return scale * m * (m_i * np.sign(x) * np.floor(np.abs(x / m_i) / scale + 0.5) / m)


def rounded(x, bits, integer):
    m = 2.0 ** (bits - 1 - integer)
    return np.clip(np.rint(x * m), -m * 2.0**integer, m * 2.0**integer - 1) / m


FORMULAS = {
    "quantized_bits(4,0,1,alpha='auto')": lambda x: spread(x, 4, 0),
    "quantized_bits(6,2,1,alpha='auto')": lambda x: spread(x, 6, 2),
    "binary(alpha='auto')": lambda x: least_squares(x, signs(x)) * signs(x),
    "binary(1,alpha='auto')": lambda x: least_squares(x, (signs(x) + 1) / 2) * (signs(x) + 1) / 2,
    "quantized_bits(5,0,1,alpha='auto')": lambda x: spread(x, 5, 0),
    "ternary(alpha='auto')": ternary,
    "ternary(alpha='auto',number_of_unrolls=1)": lambda x: ternary(x, 1),
    "ternary(alpha=0.3,threshold=0.5)": lambda x: np.float32(0.3) * np.sign(x) * (np.abs(x) >= 0.5),
    "quantized_bits(5,1,alpha=-0.7)": lambda x: np.float32(-0.7) * rounded(x, 5, 1),
    "quantized_bits(5,1,alpha=[0.75,3,0.5])": lambda x: np.float32([0.75, 3, 0.5]) * rounded(x, 5, 1),
}


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("shape", [(40, 3), (3, 2, 4, 3)])
def test_words_times_scales_are_the_formula(text, shape):
    x = values(0, *shape) * np.float32([0.1, 1.0, 3.0])
    found = channel_scaled(parse_quantizer(text, "here"), x)
    np.testing.assert_allclose(found.kernel.value * found.scale.value, FORMULAS[text](x), rtol=ULPS)
    held = found.kernel.value / found.kernel.format.step
    assert (held == np.rint(held)).all()
    assert found.kernel.format.min_word <= held.min() <= held.max() <= found.kernel.format.max_word
    assert found.scale.value.shape == (3,)


def test_a_channel_of_zeros_has_words_of_zero():
    x = np.zeros((4, 2), np.float32)
    x[:, 1] = 1
    for text in ("ternary(alpha='auto')", "quantized_bits(4,0,1,alpha='auto')"):
        found = channel_scaled(parse_quantizer(text, "here"), x)
        assert not (found.kernel.value * found.scale.value)[:, 0].any()


def test_a_scale_that_training_left_is_taken_as_it_is():
    text = {"class_name": "quantized_bits", "config": {"bits": 4, "alpha": "auto", "post_training_scale": [[0.6, 2.0]]}}
    x = np.array([[0.1, -9.0]], np.float32)
    found = channel_scaled(parse_quantizer(text, "here"), x)
    # Steps are scale / 2^(bits - 1): 0.075 and 1/4, seven of them at most.
    np.testing.assert_allclose(found.kernel.value * found.scale.value, [[0.075, -1.75]], rtol=ULPS)


LAYERS = {
    "QDense": (lambda: keras.layers.Dense(3), (6,), {"units": 3}, 0, "kernel"),
    "QConv2D": (
        lambda: keras.layers.Conv2D(4, (2, 3), groups=2, padding="same"), (4, 5, 2),
        {"filters": 4, "kernel_size": [2, 3], "groups": 2, "padding": "same"}, 0, "kernel",
    ),
    "QConv1D": (
        lambda: keras.layers.Conv1D(3, 2, strides=2), (7, 2), {"filters": 3, "kernel_size": [2], "strides": [2]}, 0,
        "kernel",
    ),
    "QDepthwiseConv2D": (
        lambda: keras.layers.DepthwiseConv2D(2, depth_multiplier=3), (4, 5, 2),
        {"kernel_size": [2, 2], "depth_multiplier": 3}, 0, "depthwise_kernel",
    ),
    "QSeparableConv2D": (
        lambda: keras.layers.SeparableConv2D(3, 2, depth_multiplier=2), (4, 5, 2),
        {"filters": 3, "kernel_size": [2, 2], "depth_multiplier": 2}, 1, "depthwise_kernel",
    ),
}  # fmt: skip


def written(path, kind, config, shape, arrays):
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, *shape], "name": "in"}},
        {
            "class_name": kind,
            "config": {"name": "layer", "strides": [1] * (len(shape) - 1), "padding": "valid"} | config,
        },
    ]
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"name": "n", "layers": layers}})
        group = file.create_group("model_weights").create_group("layer")
        group.attrs["weight_names"] = [f"layer/{name}:0".encode() for name in arrays]
        for name, array in arrays.items():
            group[f"layer/{name}:0"] = array
    return path


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("text", ["ternary(alpha='auto')", "quantized_bits(5,0,1,alpha='auto')"])
def test_a_file_computes_with_the_dequantised_kernel(kind, text, tmp_path):
    make, shape, config, pointwise, name = LAYERS[kind]
    x = values(0, 5, *shape)
    with keras_at_work():
        model = keras.Sequential([keras.Input(shape), make()])
        stored = [values(i, *weight.shape) for i, weight in enumerate(model.weights, 1)]
        kernels = 1 + pointwise
        model.set_weights([FORMULAS[text](w) if i < kernels else w for i, w in enumerate(stored)])
        expected = np.asarray(model(x))
    names = [name, "pointwise_kernel", "bias"] if pointwise else [name, "bias"]
    quantizers = {f"{part}_quantizer": text for part in ("kernel", "depthwise", "pointwise")}
    arrays = dict(zip(names, stored, strict=True))
    graph = load_keras_graph(written(tmp_path / "net.h5", kind, config | quantizers, shape, arrays))
    assert [type(node) for node in graph][1:] == [ir.Dense if kind == "QDense" else ir.Conv, ir.Affine] * kernels
    np.testing.assert_allclose(outputs(graph, x), expected, rtol=1e-5, atol=1e-5)  # sums of some ten float32 products

    # With a format for what is float in it, all is exact; the words of the kernel stay those of the file.
    fixed = with_formats(graph, HardwareFormats.uniform(FixedPoint(12, 4, True, "RND", "SAT")))
    types = plan_types(fixed, 53)
    for node, exact in zip(graph.nodes[1::2], [n for n in fixed if isinstance(n, ir.Dense | ir.Conv)], strict=True):
        np.testing.assert_array_equal(node.kernel.value, exact.kernel.value)
        assert types[exact.name].weight.width == (5 if "bits" in text else 2)


def test_scales_that_are_powers_of_two_need_no_format(tmp_path):
    config = {"units": 2, "use_bias": False, "kernel_quantizer": "quantized_bits(4,0,alpha=[0.5,4])"}
    graph = load_keras_graph(written(tmp_path / "net.h5", "QDense", config, (3,), {"kernel": values(0, 3, 2)}))
    assert words(graph[graph.output].scale)[1] == 1


REFUSED = {
    "a bias": ("QDense", {"units": 2, "bias_quantizer": "quantized_bits(4,0,1,alpha='auto')"}, "bias: .*auto_po2"),
    "another axis": ("QDense", {"units": 2, "kernel_quantizer": "binary(alpha='auto',scale_axis=0)"}, "other axes"),
    "too many": ("QDense", {"units": 2, "kernel_quantizer": "binary(alpha=[1,2,3])"}, "are none of 2 channels; give"),
    "one bit": ("QDense", {"units": 2, "kernel_quantizer": "quantized_bits(1,0,1,alpha='auto')"}, "use 2 bits or more"),
    "threshold": ("QDense", {"units": 2, "kernel_quantizer": "ternary(alpha='auto',threshold=1)"}, "leave the thresh"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_scales_that_are_none_of_the_channels_are_refused_by_name(case, tmp_path):
    kind, config, message = REFUSED[case]
    path = written(tmp_path / "net.h5", kind, config, (3,), {"kernel": values(0, 3, 2), "bias": values(1, 2)})
    with pytest.raises(ExportError, match=f"layer 'layer' .*{message}"):
        load_keras_graph(path)
