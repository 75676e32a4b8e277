"""Files of Keras and QKeras as graphs: Keras itself, or a forward pass written in NumPy, computes the same."""

import contextlib
import dataclasses
import json
import warnings
import zipfile

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge import graph as ir
from fpga_bridge.graph_apply import apply_graph
from fpga_bridge.hardware_formats import HardwareFormats, with_formats
from fpga_bridge.hls import project as hls
from fpga_bridge.hls.keras_model import keras, to_keras
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from jaxgeo.errors import ConfigError, CorruptFileError, ExportError, InputError, RunFolderError
from jaxgeo.layers.fixed_point import FixedPoint

TOLERANCE = 2e-5  # sums of at most some hundred float32 products in another order, of values near 1


def values(seed, *shape, scale=1.0):
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(np.float32)


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


@contextlib.contextmanager
def keras_at_work():
    """Keras converts its variables in a way that NumPy 2 deprecates, and adds biases of lower rank."""
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


@pytest.fixture(scope="module", params=[image_model, signal_model])
def model(request):
    with keras_at_work():
        built = request.param()
        # Away from zeros and ones; variances positive.
        built.set_weights([np.abs(values(i, *w.shape, scale=0.4)) + 0.1 for i, w in enumerate(built.weights)])
    return built


def outputs(graph, x, until=None):
    return np.asarray(jax.jit(lambda x: apply_graph(graph, x, until))(jnp.asarray(x)))


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


def bits(number, integer=0, **more):
    return {"class_name": "quantized_bits", "config": {"bits": number, "integer": integer, "alpha": 1, **more}}


def rounded(x, number, integer=0):
    """quantized_bits by its formula: round half to even, clip, two's complement."""
    step = 2.0 ** (integer - number + 1)
    return np.clip(np.rint(x / step), -(2 ** (number - 1)), 2 ** (number - 1) - 1) * step


def relu6(x):
    return np.clip(np.rint(x * 64), 0, 63) / 64


STEM, MASK = values(0, 3, 3, 2, 4, scale=0.3), (values(1, 3, 3, 2, 4) > 0).astype(np.float32)
FOLDED, HEAD, HEAD_BIAS = values(2, 1, 1, 4, 3, scale=0.4), values(3, 27, 5, scale=0.3), values(4, 5, scale=0.3)
NORM = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), values(5, 4, 4), strict=True))
NORM2 = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), values(6, 4, 3), strict=True))
for norm in (NORM, NORM2):
    # Variances are positive, and a rectifier behind the norm should be open for most inputs.
    norm.update(moving_variance=norm["moving_variance"] ** 2 + np.float32(1), beta=np.abs(norm["beta"]))


def entry(kind, before, **config):
    return {"class_name": kind, "config": config, "name": config["name"], "inbound_nodes": [[[before, 0, 0, {}]]]}


def qkeras_layers():
    """A pruned convolution, a norm, a folded convolution and a dense head, as QKeras 0.9 on Keras 2 writes them."""
    conv = {"strides": [1, 1], "padding": "valid", "dilation_rate": [1, 1], "data_format": "channels_last"}
    stem = {
        "name": "stem", "filters": 4, "kernel_size": [3, 3], **conv, "use_bias": False, "activation": "linear",
        "kernel_quantizer": bits(6), "bias_quantizer": bits(6),
    }  # fmt: skip
    return [
        {
            "class_name": "InputLayer",
            "config": {"batch_input_shape": [None, 8, 8, 2], "name": "in"},
            "name": "in",
            "inbound_nodes": [],
        },
        entry("QActivation", "in", name="entry", activation="quantized_bits(8,2,alpha=1)"),
        entry("PruneLowMagnitude", "entry", name="prune_stem", layer={"class_name": "QConv2D", "config": stem}),
        entry("MaxPooling2D", "prune_stem", name="pool", pool_size=[2, 2], strides=[2, 2], padding="valid"),
        entry("BatchNormalization", "pool", name="norm", axis=[3], epsilon=0.001, center=True, scale=True),
        entry("QActivation", "norm", name="act", activation="quantized_relu(6,0)"),
        entry(
            "QConv2DBatchnorm", "act", name="folded", filters=3, kernel_size=[1, 1], **conv, use_bias=False,
            epsilon=0.001, center=True, scale=True, kernel_quantizer=bits(5, 1), bias_quantizer=bits(8, 2),
            activation={"class_name": "quantized_relu", "config": {"bits": 6, "integer": 0, "relu_upper_bound": None}},
        ),
        entry("Flatten", "folded", name="flat"),
        entry("Dropout", "flat", name="drop", rate=0.5),
        entry(
            "QDense", "drop", name="head", units=5, use_bias=True, activation="linear", kernel_quantizer=bits(4),
            bias_quantizer=bits(6),
        ),
    ]  # fmt: skip


def qkeras_arrays():
    return {
        "prune_stem": {"stem/kernel:0": STEM, "prune_stem/mask:0": MASK, "prune_stem/threshold:0": np.float32(0.1)},
        "norm": {f"norm/{name}:0": array for name, array in NORM.items()},
        "folded": {"folded/kernel:0": FOLDED, "folded/iteration:0": np.int64(3)}
        | {f"folded/{name}:0": array for name, array in NORM2.items()},
        "head": {"head/kernel:0": HEAD, "head/bias:0": HEAD_BIAS},
    }


def write_model(path, layers, arrays, model_class="Model"):
    config = {"name": "net", "layers": layers, "input_layers": [["in", 0, 0]], "output_layers": [["head", 0, 0]]}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": model_class, "config": config})
        root = file.create_group("model_weights")
        for layer, members in arrays.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in members]
            for name, array in members.items():
                group[name] = array
    return path


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
    return graph, hls.compile_project(hls.convert(graph, tmp_path_factory.mktemp("hls") / "project"))


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
    with pytest.raises(InputError, match="no node 'nobody'; its nodes are in, entry"):
        apply_graph(graph, jnp.zeros((1, 8, 8, 2)), "nobody")


def spoilt(path, **changes):
    """The file with settings of its layers changed."""
    layers = qkeras_layers()
    for layer in layers:
        config = layer["config"].get("layer", layer)["config"]
        config.update(changes.get(config["name"], {}))
    return write_model(path, layers, qkeras_arrays())


SETTINGS = {
    "alpha": ({"head": {"kernel_quantizer": bits(4, alpha=0.3)}}, r"'head' \(QDense\) of bad.h5, kernel: .*alpha 0.3"),
    "automatic alpha": ({"head": {"kernel_quantizer": bits(4, alpha="auto")}}, "alpha 'auto', a float for each"),
    "activation": ({"stem": {"activation": "tanh"}}, r"'stem' \(QConv2D\) of bad.h5 has the activation tanh; use relu"),
    "channels first": ({"stem": {"data_format": "channels_first"}}, "channels_last"),
    "causal": ({"stem": {"padding": "causal"}}, "padding causal"),
    "axis": ({"norm": {"axis": [1]}}, "normalises along axis"),
    "dtype": ({"norm": {"dtype": {"config": {"name": "mixed_bfloat16"}}}}, "computes in mixed_bfloat16"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_what_hardware_cannot_take_is_refused_by_layer_and_remedy(case, tmp_path):
    changes, message = SETTINGS[case]
    with pytest.raises(ExportError, match=message):
        load_keras_graph(spoilt(tmp_path / "bad.h5", **changes))


CONFIGS = {
    "groups": ({"stem": {"groups": 3}}, "3 groups must divide its 2 channels and its 4 filters"),
    "dilation": ({"stem": {"dilation_rate": [4, 4]}}, r"a window of \(9, 9\) does not fit into \(8, 8\)"),
    "units": ({"head": {"units": None}}, "units must be a whole number of at least 1, got None"),
    "window": ({"stem": {"kernel_size": [3]}}, "kernel_size must be 2 numbers"),
    "too large": ({"stem": {"kernel_size": [9, 9]}}, r"a window of \(9, 9\) does not fit into \(8, 8\)"),
    "quantiser": ({"act": {"activation": "quantized_relu(6,0"}}, "cannot read 'quantized_relu"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_an_impossible_setting_is_named(case, tmp_path):
    changes, message = CONFIGS[case]
    with pytest.raises(ConfigError, match=message):
        load_keras_graph(spoilt(tmp_path / "bad.h5", **changes))


def with_layer(path, layer):
    return write_model(path, [qkeras_layers()[0], layer], {})


def test_code_in_a_file_is_never_run(tmp_path):
    for kind in ("Lambda", "TFOpLambda", "LSTM"):
        with pytest.raises(ExportError, match=rf"'head' \({kind}\) of code.h5 has no form in hardware"):
            load_keras_graph(with_layer(tmp_path / "code.h5", entry(kind, "in", name="head", function="os.abort")))


STRUCTURES = {
    "a loop": ([entry("Flatten", "head", name="head")], "depends on itself"),
    "nobody": ([entry("Flatten", "nobody", name="head")], "comes from 'nobody'"),
    "no such use": ([{**entry("Flatten", "in", name="head"), "inbound_nodes": [[["in", 0, 0, {}]]] * 0}], "its use 0"),
    "no settings": ([{"class_name": "Dense"}], "no class_name and config"),
}


@pytest.mark.parametrize("case", STRUCTURES)
def test_connections_that_lead_nowhere_are_damage(case, tmp_path):
    layers, message = STRUCTURES[case]
    with pytest.raises(CorruptFileError, match=message):
        load_keras_graph(write_model(tmp_path / "bad.h5", [qkeras_layers()[0], *layers], {}))


def test_two_inputs_and_nested_models_are_refused(tmp_path):
    twice = [*qkeras_layers(), {**qkeras_layers()[0], "name": "in2"}]
    twice[-1]["config"] = {**twice[-1]["config"], "name": "in2"}
    with pytest.raises(ExportError, match="2 inputs"):
        load_keras_graph(write_model(tmp_path / "two.h5", twice, qkeras_arrays()))
    with pytest.raises(ExportError, match="class Subclassed has no list of layers"):
        load_keras_graph(write_model(tmp_path / "sub.h5", qkeras_layers(), {}, "Subclassed"))


def changed_arrays(layer, name, array):
    arrays = qkeras_arrays()
    if array is None:
        del arrays[layer][name]
    else:
        arrays[layer][name] = array
    return arrays


ARRAYS = {
    "missing": (("head", "head/bias:0", None), r"'head' \(QDense\) of bad.h5: its bias of shape \(5,\) is missing"),
    "shape": (("head", "head/kernel:0", HEAD[:20]), r"kernel must be of shape \(27, 5\) .* got \(20, 5\)"),
    "NaN": (("head", "head/kernel:0", HEAD * np.nan), "kernel holds NaN or infinities"),
    "variance": (("norm", "norm/moving_variance:0", -np.ones(4, np.float32)), "moving variance is not positive"),
    "text": (("head", "head/bias:0", np.array([b"abc"])), "no array of numbers"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_weights_that_do_not_fit_are_damage(case, tmp_path):
    change, message = ARRAYS[case]
    with pytest.raises(CorruptFileError, match=message):
        load_keras_graph(write_model(tmp_path / "bad.h5", qkeras_layers(), changed_arrays(*change)))


def test_links_to_other_files_are_not_followed(qkeras_file, tmp_path):
    path = tmp_path / "link.h5"
    path.write_bytes(qkeras_file.read_bytes())
    with h5py.File(path, "a") as file:
        del file["model_weights/head/head/bias:0"]
        file["model_weights/head/head/bias:0"] = h5py.ExternalLink(str(qkeras_file), "model_weights/head/head/bias:0")
    with pytest.raises(CorruptFileError, match="a link to somewhere else"):
        load_keras_graph(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_one_sentence(share, qkeras_file, tmp_path):
    data = qkeras_file.read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: int(share * len(data))])
    with pytest.raises(CorruptFileError, match=r"cut\.h5 is no whole HDF5 file of Keras"):
        load_keras_graph(tmp_path / "cut.h5")


def test_other_damage_is_one_sentence(qkeras_file, tmp_path):
    with pytest.raises(RunFolderError, match="cannot be read"):
        load_keras_graph(tmp_path / "nothing.h5")
    (tmp_path / "model.json").write_text('{"class_name": "Sequential", "config":')
    with pytest.raises(CorruptFileError, match="not whole JSON"):
        load_keras_graph(tmp_path / "model.json", qkeras_file)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(CorruptFileError, match="no architecture of Keras"):
        load_keras_graph(tmp_path / "model.json", qkeras_file)
    (tmp_path / "model.json").write_text('{"class_name": "Sequential", "config": {}}')
    with pytest.raises(ConfigError, match=r"without weights; give the \.h5"):
        load_keras_graph(tmp_path / "model.json")
    (tmp_path / "model.keras").write_bytes(b"PK")
    with pytest.raises(CorruptFileError, match=r"no whole \.keras archive"):
        load_keras_graph(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(CorruptFileError, match="no architecture"):
        load_keras_graph(tmp_path / "model.keras")
    with h5py.File(tmp_path / "weights.h5", "w"):
        pass
    with pytest.raises(ConfigError, match="weights without an architecture"):
        load_keras_graph(tmp_path / "weights.h5")
