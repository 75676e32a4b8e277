"""The whole chain on a small classifier: float64, float32, fixed point, Keras, C++, RTL; as function and as command."""

import dataclasses
import json
import os
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_tools import CONFIG, FORMAT, classifier_params

from fpga_bridge import cli, ladder, study
from fpga_bridge.hls.keras_model import import_keras, keras, to_keras
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.precision import FLOAT64_BITS, carrier, plan_types
from jaxgeo.errors import ConfigError, InputError, ToolMissingError
from jaxgeo.files import save_arrays
from jaxgeo.layers.fixed_point import FixedPoint, quantize

IMAGES = np.random.default_rng(0).normal(size=(40, 48, 1)).astype(np.float32)
LABELS = np.arange(40) % 4


@pytest.fixture(scope="module")
def params():
    return classifier_params()


def test_the_export_stage_is_equal_bit_for_bit_down_to_rtl(params, tmp_path):
    steps = []
    result = study.export_stage(
        config=CONFIG,
        params=params,
        quantised_params=params,
        inputs=IMAGES,
        labels=LABELS,
        workdir=tmp_path / "export",
        progress=lambda done, total, values: steps.append((done, total)),
    )
    assert steps == [(step, 8) for step in range(1, 9)]
    json.dumps(result)
    assert result["bit_for_bit"] == 1.0
    assert result["carrier"] == "float32"
    rungs = {rung["name"]: rung for rung in result["ladder"]}
    assert list(rungs) == ["float32", "fixed point in JAX", "Keras", "hls4ml C++", "RTL of the head"]
    assert 0 < rungs["float32"]["max_abs_error"] < 1e-5  # float32 on numbers of order 1
    assert rungs["float32"]["bit_for_bit"] is None
    # Half a step of the result, and what the same roundings before it grow to.
    assert 2.0**-6 < rungs["fixed point in JAX"]["max_abs_error"] < 1.0
    for name in ("Keras", "hls4ml C++", "RTL of the head"):
        assert rungs[name]["num_equal"] == rungs[name]["num_values"] == 160
        assert rungs[name]["max_abs_error"] == 0.0
    assert result["rtl"]["initiation_interval"] == 1
    assert result["rtl"]["latency_cycles"] >= 1
    assert {row["name"]: row["weight"] for row in result["layers"]}["head"] == "ap_fixed<8,3,AP_TRN,AP_WRAP>"


@pytest.fixture
def network_files(params, tmp_path):
    tree = dataclasses.asdict(CONFIG)
    tree["precision"]["input"] = str(FORMAT)
    config, weights, inputs = tmp_path / "config.json", tmp_path / "params.safetensors", tmp_path / "inputs.safetensors"
    config.write_text(json.dumps(tree))
    named = {"/".join(str(k.key) for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    save_arrays(weights, named)
    save_arrays(inputs, {"inputs": IMAGES, "labels": LABELS})
    return config, weights, inputs


def test_the_commands_list_export_and_climb(network_files, tmp_path, capsys):
    config, weights, inputs = map(str, network_files)
    assert cli.main(["layers", config, weights]) == 0
    assert "conv_0_dense" in capsys.readouterr().out
    assert cli.main(["export", config, weights, "--out", str(tmp_path / "project"), "--backend", "Vivado"]) == 0
    assert (tmp_path / "project/firmware/network.cpp").exists()
    capsys.readouterr()
    assert cli.main(["ladder", config, weights, inputs, "--out", str(tmp_path / "ladder")]) == 0
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1])["bit_for_bit"] == 1.0
    assert "100.00%" in out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda config, weights, inputs: config.write_text("{"), "not a readable JSON"),
        (lambda config, weights, inputs: config.write_text('{"depth": 3}'), "does not describe .*depth"),
        (lambda config, weights, inputs: config.write_text("{}"), "no precision"),
    ],
)
def test_a_wrong_config_is_one_sentence_and_status_1(network_files, spoil, message, capsys):
    spoil(*network_files)
    config, weights, _ = map(str, network_files)
    assert cli.main(["export", config, weights]) == 1
    error = capsys.readouterr().err
    assert error.startswith("fpga-bridge: ")
    assert re.search(message, error)


def test_the_ladder_command_names_the_arrays_that_it_needs(network_files, tmp_path, capsys):
    config, weights, inputs = network_files
    save_arrays(inputs, {"maps": IMAGES})
    assert cli.main(["ladder", str(config), str(weights), str(inputs), "--out", str(tmp_path)]) == 1
    assert "inputs and labels, got ['maps']" in capsys.readouterr().err


def test_a_config_without_precision_cannot_be_exported(params, tmp_path):
    config = dataclasses.replace(CONFIG, precision=None)
    with pytest.raises(ConfigError, match="ClassifierPrecision"):
        study.export_stage(
            config=config, params=params, quantised_params=params, inputs=IMAGES, labels=LABELS, workdir=tmp_path
        )


def test_sums_beyond_float32_are_carried_in_float64_and_stay_equal():
    wide = FixedPoint(20, 4)

    def apply(p, x):
        return quantize(x, wide) @ quantize(p["w"], FixedPoint(12, 3))

    params = {"w": np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)}
    x = np.random.default_rng(1).normal(size=(30, 64)).astype(np.float32)
    graph = trace(apply, params, (64,))
    types, dtype = plan_types(graph, FLOAT64_BITS), carrier(graph)
    assert dtype == "float64"
    exact = ladder.forward(apply, params, x, dtype)
    model, outputs = ladder.keras_forward(graph, x, dtype)
    np.testing.assert_array_equal(outputs, exact)
    np.testing.assert_array_equal(ladder.features(model, "w", x, dtype), exact)
    # On the grid that the types promise, which float32 would have left.
    steps = exact * 2.0 ** types["w"].interval.fraction
    np.testing.assert_array_equal(steps, np.round(steps))
    assert not np.array_equal(ladder.forward(apply, params, x), exact)


@pytest.mark.parametrize("images", [np.zeros((0, 48, 1)), np.full((2, 48, 1), np.nan)])
def test_a_ladder_without_finite_samples_is_refused(images, tmp_path):
    with pytest.raises(InputError, match=r"at least one sample|finite"):
        ladder.climb(lambda p, x: x, lambda p, x: x, {}, images, tmp_path)


def test_rungs_of_different_shapes_are_refused():
    with pytest.raises(InputError, match="outputs of b must be finite and of shape"):
        ladder.compare_rungs({"a": np.zeros((2, 3)), "b": np.zeros((2, 4))})


def test_rungs_count_equal_values_and_decisions():
    outputs = {"a": np.array([[1.0, 0.0], [0.0, 2.0]]), "b": np.array([[1.0, 0.5], [0.0, 2.0]])}
    outputs["c"] = outputs["b"] - np.array([[2.0, 0.0], [0.0, 0.0]])
    first, second = ladder.compare_rungs(outputs, ("c",), np.array([0, 1]))
    assert (first.max_abs_error, first.mean_abs_error, first.num_equal, first.bit_for_bit) == (0.5, 0.125, 3, None)
    assert (second.max_abs_error, second.top1_agreement, second.equal_share) == (2.0, 0.5, 0.75)
    assert (second.compared_with, second.bit_for_bit, second.accuracy, second.max_abs_error_to_float64) == (
        "b", 0.75, 0.5, 2.0,
    )  # fmt: skip


def test_a_saved_keras_model_keeps_its_quantisers(tmp_path):
    graph = trace(lambda p, x: quantize(x, FORMAT), {}, (3,))
    model = to_keras(graph)
    copy = keras.Model.from_config(model.get_config())
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(copy(x), quantize(jnp.asarray(x), FORMAT))
    assert copy.get_layer("quantize").format == FORMAT
    assert copy.get_layer("quantize").compute_output_shape((None, 3)) == (None, 3)


def test_a_variable_that_asks_for_another_backend_is_refused_and_kept(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(ToolMissingError, match=r"KERAS_BACKEND is 'torch'.*unset the variable"):
        import_keras()
    assert os.environ["KERAS_BACKEND"] == "torch"


def test_keras_on_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ToolMissingError, match=r"runs on tensorflow.*KERAS_BACKEND=jax"):
        import_keras()
