"""Recurrent layers of Keras and QKeras files: Keras says the same of its own, cells in NumPy of those of QKeras."""

import dataclasses
import json
import warnings

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from graph_tools import exact_design

from fpga_bridge import cli
from fpga_bridge.emulation.emulator import emulate, plan_emulation
from fpga_bridge.hls.keras_model import keras
from fpga_bridge.keras_files.hardware_formats import HardwareFormats, with_formats
from fpga_bridge.keras_files.qkeras_files import load_keras_graph
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ConfigError, CorruptFileError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint

SHAPE = (3, 2)
layers = keras.layers


def saved(function, path, batch_shape=(None, *SHAPE)):
    """A model in float64, its weights in eighths."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():  # of Keras about NumPy 2
        warnings.simplefilter("ignore", DeprecationWarning)
        entry = layers.Input(batch_shape=batch_shape, dtype="float64")
        model = keras.Model(entry, function(entry))
        rng = np.random.default_rng(0)
        for weight in model.trainable_weights:
            weight.assign(rng.integers(-12, 13, weight.shape) / 8)
        for suffix in ("keras", "h5"):
            model.save(path.with_suffix(f".{suffix}"))
    return model


def facts(graph):
    """Of a graph all that its file decides."""
    return [
        {
            field.name: value.value.tolist() if isinstance(value := getattr(node, field.name), ir.Weight) else value
            for field in dataclasses.fields(node) if field.name != "source"
        }
        for node in graph
    ]  # fmt: skip


def lstm(units=2, activation="relu", gate="linear", **options):
    return layers.LSTM(units, activation, gate, dtype="float64", **options)


def gru(units=2, activation="relu", gate="linear", **options):
    return layers.GRU(units, activation, gate, dtype="float64", **options)


def both(layer, **options):
    return layers.Bidirectional(layer, dtype="float64", **options)


READ = {
    "simple": layers.SimpleRNN(2, "relu", dtype="float64"),
    "simple, all from the end": layers.SimpleRNN(
        5, "linear", return_sequences=True, go_backwards=True, use_bias=False, dtype="float64"
    ),
    "lstm": lstm(),
    "lstm, other gates, all from the end": lstm(3, "linear", "relu", return_sequences=True, go_backwards=True),
    "lstm, no bias": lstm(use_bias=False),
    "gru": gru(),
    "gru, no bias, from the end": gru(3, "linear", "relu", go_backwards=True, use_bias=False),
    "gru, reset before": gru(reset_after=False),
    "gru, reset before, no bias": gru(use_bias=False, reset_after=False, return_sequences=True),
    "both ways": both(lstm()),
    "both ways, all, added": both(gru(return_sequences=True), merge_mode="sum"),
    "both ways, multiplied": both(lstm(), merge_mode="mul"),
    "both ways, averaged": both(layers.SimpleRNN(2, "relu", dtype="float64"), merge_mode="ave"),
    "two cells": both(lstm(), backward_layer=gru(3, go_backwards=True, use_bias=False)),
    "two cells, all, the first turned": both(
        gru(return_sequences=True, go_backwards=True), backward_layer=lstm(return_sequences=True)
    ),
    "one after another": lambda x: gru(name="z")(both(lstm(return_sequences=True), name="a")(x)),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_the_graph_of_a_file_computes_what_keras_does(case, tmp_path):
    model = saved(READ[case], tmp_path / "model")
    graph = load_keras_graph(tmp_path / "model.keras")
    assert facts(load_keras_graph(tmp_path / "model.h5")) == facts(graph)
    x = np.random.default_rng(1).integers(-8, 9, (200, *SHAPE)) / 8
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        expected = np.asarray(model(x))
        found = np.asarray(apply_graph(graph, jnp.asarray(x)))
    assert len(np.unique(expected)) > 12
    # Products grow beyond 53 bits; some ten sums of them in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def entries(kind, **config):
    return [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, *SHAPE], "name": "in"}},
        {"class_name": kind, "config": {"name": "cell", **config}},
    ]


def qkeras_file(path, kind, columns, places=("cell/quantized_cell",), **config):
    """A layer as QKeras on Keras 2 writes it, its arrays under one place or two."""
    settings = {"units": 2} | {f"{name}_quantizer": "quantized_bits(4,1,alpha=1)" for name in QUANTIZERS}
    shapes = {"kernel": (2, 2 * columns), "recurrent_kernel": (2, 2 * columns), "bias": (2 * columns,)}
    if config.get("reset_after"):
        shapes["bias"] = (2, 2 * columns)
    rng = np.random.default_rng(0)
    arrays = {f"{place}/{name}:0": values(rng, shapes[name]) for place in places for name in shapes}
    write_h5(path, entries(kind, **settings | config), arrays)
    return [weight_bits(array) for array in arrays.values()]


def values(rng, shape):
    return rng.normal(size=shape).astype(np.float32)


def write_h5(path, layers, arrays):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
        group = file.create_group("model_weights/cell")
        group.attrs["weight_names"] = list(arrays)
        for name, array in arrays.items():
            group[name] = array


QUANTIZERS = ("kernel", "recurrent", "bias")
INPUT = FixedPoint(6, 3, True, "RND", "SAT")
STATE = "quantized_bits(4,1,alpha=1)"


def weight_bits(x):
    """`quantized_bits(4,1)`: quarters."""
    return np.clip(np.rint(x * 4), -8, 7) / 4


def inputs():
    """Samples, and the words of them, a step at a time."""
    x = np.random.default_rng(1).normal(size=(200, *SHAPE), scale=2).astype(np.float32)
    return x, np.swapaxes(np.clip(np.floor(x * 8 + 0.5), -32, 31) / 8, 0, 1)


def hard_tanh_5_bits(x):
    return np.clip(np.rint(np.clip(x, -1, 1) * 16), -16, 15) / 16


def hard_sigmoid(x):
    return np.clip(0.5 * x + 0.5, 0, 1)


def hard_sigmoid_4_bits(x):
    return np.clip(np.rint(hard_sigmoid(x) * 16), 0, 15) / 16


def simple_cell(kernel, recurrent, bias, x):
    states, state = [], np.zeros((200, 2))
    for row in x:
        coarse = weight_bits(state)
        state = np.clip(np.rint((row @ kernel + bias + coarse @ recurrent) * 16), 0, 31) / 16
        states.append(state)
    return states


def lstm_cell(kernel, recurrent, bias, x):
    states, state, carry = [], np.zeros((200, 2)), np.zeros((200, 2))
    for row in x:
        state, carry = weight_bits(state), weight_bits(carry)
        i, f, c, o = np.split(row @ kernel + state @ recurrent + bias, 4, -1)
        carry = hard_sigmoid(f) * carry + hard_sigmoid(i) * hard_tanh_5_bits(c)
        state = hard_sigmoid(o) * hard_tanh_5_bits(carry)
        states.append(state)
    return states


def gru_cell(kernel, recurrent, bias, x, sigmoid=hard_sigmoid_4_bits, tanh=hard_tanh_5_bits):
    states, state = [], np.zeros((200, 2))
    first, second = bias if bias.ndim > 1 else (bias, None)
    for row in x:
        state = weight_bits(state)
        if second is not None:
            z, r, h = np.split(row @ kernel + first, 3, -1)
            z2, r2, h2 = np.split(state @ recurrent + second, 3, -1)
            z, r = sigmoid(z + z2), sigmoid(r + r2)
            h = tanh(h + r * h2)
        else:
            z, r, h = np.split(row @ kernel + first, 3, -1)
            z, r = sigmoid(z + state @ recurrent[:, :2]), sigmoid(r + state @ recurrent[:, 2:4])
            h = tanh(h + (r * state) @ recurrent[:, 4:])
        state = z * state + (1 - z) * h
        states.append(state)
    return states


GATES = {"activation": "quantized_tanh(5)", "recurrent_activation": "quantized_sigmoid(4)", "state_quantizer": STATE}
QUANTISED = {
    "simple": ("QSimpleRNN", 1, simple_cell, {"activation": "quantized_relu(5,1)", "state_quantizer": STATE}),
    "lstm": ("QLSTM", 4, lstm_cell, {**GATES, "recurrent_activation": "hard_sigmoid"}),
    "gru": ("QGRU", 3, gru_cell, {**GATES, "reset_after": False}),
    "gru, reset after": ("QGRU", 3, gru_cell, {**GATES, "reset_after": True}),
}


@pytest.mark.parametrize("case", QUANTISED)
def test_a_quantised_cell_is_that_of_qkeras_and_exact_in_the_emulation(case, tmp_path):
    kind, columns, cell, config = QUANTISED[case]
    arrays = qkeras_file(tmp_path / "net.h5", kind, columns, **config)
    graph = with_formats(load_keras_graph(tmp_path / "net.h5"), HardwareFormats(input=INPUT))
    x, steps = inputs()
    state = cell(*arrays, steps)[-1]
    assert len(np.unique(state)) > 12
    np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(x)), state)
    assert all(types.exact for types in plan_types(graph).values())
    np.testing.assert_array_equal(emulate(plan_emulation(graph, exact_design(graph)), x), state)


def test_both_ways_of_a_file_of_keras_2_are_two_cells_of_one_configuration(tmp_path):
    places = ("cell/forward_qgru/quantized_cell", "cell/backward_qgru/quantized_cell")
    inner = {**GATES, "units": 2, "name": "qgru", "return_sequences": True}
    inner |= {f"{name}_quantizer": STATE for name in QUANTIZERS}
    layer = {"class_name": "QGRU", "config": inner}
    arrays = qkeras_file(tmp_path / "net.h5", "QBidirectional", 3, places, layer=layer)
    graph = load_keras_graph(tmp_path / "net.h5")
    _, steps = inputs()
    there, back = gru_cell(*arrays[:3], steps), gru_cell(*arrays[3:], steps[::-1])[::-1]
    expected = np.concatenate([np.stack(there, 1), np.stack(back, 1)], -1)
    rounded = np.ascontiguousarray(np.swapaxes(steps, 0, 1), np.float32)
    np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(rounded)), expected)


TABLE = FixedPoint(8, 3, True, "RND", "SAT")


def in_table_format(x):
    return np.clip(np.floor(x * 32 + 0.5), -128, 127) / 32


def test_tanh_and_sigmoid_are_tables_where_a_format_is_stated(tmp_path):
    model = saved(layers.LSTM(2), tmp_path / "model")
    graph = with_formats(load_keras_graph(tmp_path / "model.keras", tables=TABLE), HardwareFormats.uniform(TABLE))
    x, _ = inputs()
    kernel, recurrent, bias = (in_table_format(np.asarray(w)) for w in model.weights)
    state, carry, r = np.zeros((200, 2)), np.zeros((200, 2)), in_table_format
    for row in np.swapaxes(r(x), 0, 1):
        i, f, c, o = np.split(r(r(row @ kernel + bias) + r(state @ recurrent)), 4, -1)
        i, f, o = (r(scipy.special.expit(gate)) for gate in (i, f, o))
        carry = r(r(f * carry) + r(i * r(np.tanh(c))))
        state = r(o * r(np.tanh(carry)))
    assert len(np.unique(state)) > 20
    np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(x)), state)
    assert all(types.exact for types in plan_types(graph).values())
    assert not [node for node in graph if node.kind == "quantize" and graph[node.inputs[0]].kind == "table"]


def test_the_command_takes_the_format_of_tables_from_that_of_results(tmp_path, capsys):
    saved(layers.GRU(2), tmp_path / "model")
    assert cli.main(["layers", str(tmp_path / "model.keras"), "--formats", f"{TABLE}"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert sum("table" in line and line[-1].startswith("ap_fixed<8,3") for line in lines) == 3 * SHAPE[0]
    assert cli.main(["layers", str(tmp_path / "model.keras")]) == 1
    assert "has the activation sigmoid" in capsys.readouterr().err


def test_real_functions_of_qkeras_are_tables_of_its_formats(tmp_path):
    config = {
        **GATES, "activation": "quantized_tanh(5,use_real_tanh=True)",
        "recurrent_activation": {"class_name": "quantized_sigmoid", "config": {"bits": 4, "use_real_sigmoid": True}},
    }  # fmt: skip
    arrays = qkeras_file(tmp_path / "net.h5", "QGRU", 3, **config)
    graph = load_keras_graph(tmp_path / "net.h5", tables=TABLE)
    _, steps = inputs()
    state = gru_cell(
        *arrays,
        steps,
        sigmoid=lambda x: np.clip(np.rint(scipy.special.expit(in_table_format(x)) * 16), 0, 15) / 16,
        tanh=lambda x: np.clip(np.rint(np.tanh(in_table_format(x)) * 16), -16, 15) / 16,
    )[-1]
    rounded = np.ascontiguousarray(np.swapaxes(steps, 0, 1), np.float32)
    np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(rounded)), state)
    with pytest.raises(ExportError, match=r"quantized_sigmoid .* hard form, or state a format .*--result-format"):
        load_keras_graph(tmp_path / "net.h5")
    with pytest.raises(ConfigError, match=r"'cell' \(QGRU\) of net.h5: a table of sigmoid .* at most 16 bits"):
        load_keras_graph(tmp_path / "net.h5", tables=FixedPoint(18, 8))


def from_state(x):
    return layers.LSTM(2, "relu", "linear")(x, initial_state=[layers.GlobalMaxPooling1D()(x)] * 2)


REFUSED = {
    "tanh": (layers.LSTM(2), r"\(LSTM\) of .* has the activation sigmoid; use relu.* or state a format in which"),
    "hard sigmoid of Keras": (layers.GRU(2, "relu", "hard_sigmoid"), r"\(GRU\).* activation hard_sigmoid; use relu"),
    "a state that lasts": (layers.SimpleRNN(2, "relu", stateful=True), r"\(SimpleRNN\).* stateful; .*RoundedCell"),
    "a state put out": (lambda x: lstm(return_state=True)(x)[0], r"\(LSTM\).* has return_state; .*RoundedCell"),
    "a state put in": (from_state, r"\(LSTM\) of model.keras reads 3 tensors"),
    "two outputs": (lambda x: both(lstm(), merge_mode=None)(x)[0], r"\(Bidirectional\).*merge_mode None.*use concat"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_exact_form_is_refused_with_a_remedy(case, tmp_path):
    function, message = REFUSED[case]
    saved(function, tmp_path / "model", (1, *SHAPE))
    with pytest.raises(ExportError, match=message):
        load_keras_graph(tmp_path / "model.keras")


RELU = {"activation": "relu", "recurrent_activation": "relu", "units": 2}
INNER = {"class_name": "GRU", "config": RELU}
SETTINGS = {
    "no quantiser": ("QGRU", {**RELU, "recurrent_quantizer": None}, ExportError, "no recurrent_quantizer, and QKeras"),
    "a state of ones": ("QLSTM", {**RELU, "state_quantizer": "binary(alpha=1)"}, ExportError, "its state by binary; "),
    "time first": ("QLSTM", {**RELU, "time_major": True}, ExportError, "has time_major"),
    "nothing": ("Bidirectional", {}, ConfigError, "its forward_layer must be a layer with class_name and config"),
    "others": ("Bidirectional", {"layer": {"class_name": "Dense", "config": {}}}, ExportError, "class Dense; use it"),
    "the same way": (
        "Bidirectional", {"layer": INNER, "backward_layer": INNER}, ConfigError,
        r"one has go_backwards, got .* and \[False, False\]"
    ),
    "other numbers": (
        "Bidirectional", {"layer": {**INNER, "config": {**RELU, "dtype": "float16"}}}, ExportError,
        r"\(GRU\) of net.h5 computes in float16"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_an_impossible_setting_is_named(case, tmp_path):
    kind, config, error, message = SETTINGS[case]
    qkeras_file(tmp_path / "net.h5", kind, 4 if kind == "QLSTM" else 3, **config)
    with pytest.raises(error, match=message):
        load_keras_graph(tmp_path / "net.h5")


def test_steps_without_an_axis_are_a_mistake(tmp_path):
    qkeras_file(tmp_path / "net.h5", "QLSTM", 4, **GATES)
    with h5py.File(tmp_path / "net.h5", "a") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace(json.dumps([None, *SHAPE]), "[null, 3]")
    with pytest.raises(ConfigError, match=r"'cell' \(QLSTM\) of net.h5 needs an axis of steps"):
        load_keras_graph(tmp_path / "net.h5")


PLACES = ("cell/there/lstm_cell", "cell/back/lstm_cell")
DAMAGED = {
    "there": (f"{PLACES[0]}/bias:0", None, r"layer 'there' \(LSTM\) of net.h5: its bias of shape \(8,\) is missing"),
    "back": (f"{PLACES[1]}/kernel:0", None, r"layer 'backward_there' \(LSTM\).* kernel of shape \(2, 8\) is missing"),
    "shape": (f"{PLACES[1]}/bias:0", np.ones(6), r"layer 'backward_there' .* bias must be of shape \(8,\) .* got \(6,"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_arrays_that_are_missing_or_do_not_fit_are_named(case, tmp_path):
    name, array, message = DAMAGED[case]
    inner = {"class_name": "LSTM", "config": {**RELU, "name": "there"}}
    qkeras_file(tmp_path / "net.h5", "Bidirectional", 4, PLACES, layer=inner)
    load_keras_graph(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "a") as file:
        group = file["model_weights/cell"]
        del group[name]
        if array is None:
            group.attrs["weight_names"] = [n for n in group.attrs["weight_names"] if n != name]
        else:
            group[name] = array
    with pytest.raises(CorruptFileError, match=message):
        load_keras_graph(tmp_path / "net.h5")
