"""Files of Keras and QKeras that hardware cannot take or that are damaged: one sentence each, with what would work."""

import zipfile

import h5py
import numpy as np
import pytest
from qkeras_network import HEAD, bits, entry, qkeras_arrays, qkeras_layers, write_model

from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from jaxgeo.errors import ConfigError, CorruptFileError, ExportError, RunFolderError


@pytest.fixture(scope="module")
def qkeras_file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("qkeras") / "net.h5", qkeras_layers(), qkeras_arrays())


def spoilt(path, **changes):
    """The file with settings of its layers changed."""
    layers = qkeras_layers()
    for layer in layers:
        config = layer["config"].get("layer", layer)["config"]
        config.update(changes.get(config["name"], {}))
    return write_model(path, layers, qkeras_arrays())


SETTINGS = {
    "alpha": ({"head": {"bias_quantizer": bits(4, alpha=0.3)}}, r"'head' \(QDense\) of bad.h5, bias: .*alpha 0.3"),
    "automatic alpha": ({"head": {"bias_quantizer": bits(4, alpha="auto")}}, "alpha 'auto', a float for each"),
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
    for kind in ("Lambda", "TFOpLambda", "ConvLSTM2D"):
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
