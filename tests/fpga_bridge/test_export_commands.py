"""Exports by the command line: every format, and wrong orders as one sentence each."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_tools import outputs, values

from fpga_bridge import cli
from fpga_bridge.exports import write_keras
from fpga_bridge.hardware_weights import load_hardware_weights
from fpga_bridge.tracing.trace import trace
from jaxgeo.files import save_arrays, save_tree
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.models.mlp import Mlp, MlpConfig

sys.path.insert(0, str(Path(__file__).parent))
import onnx_reader  # beside this file

INPUT = FixedPoint(8, 3, True, "RND", "SAT")


@pytest.fixture(scope="module")
def perceptron(tmp_path_factory):
    """An MLP as the commands take it: without a precision of its own."""
    folder = tmp_path_factory.mktemp("mlp")
    config = MlpConfig(4, (5,), 3)
    (folder / "mlp.json").write_text(json.dumps({"model": "mlp", **dataclasses.asdict(config)}))
    variables = Mlp(config).init(jax.random.key(0), jnp.zeros((1, 4)))
    save_tree(folder / "mlp.safetensors", jax.tree.map(np.asarray, variables["params"]))
    return folder, config, variables


def command(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_every_format_is_written_by_a_command(perceptron, tmp_path, capsys):
    folder, config, variables = perceptron
    network = (folder / "mlp.json", folder / "mlp.safetensors")
    formats = ("--formats", "ap_fixed<12,4,AP_RND,AP_SAT>", "--out", tmp_path)
    for format, file in (("npz", "network.npz"), ("onnx", "network.onnx"), ("verilog", "README.md")):
        assert command("export", *network, "--format", format, *formats) == 0
        assert str(tmp_path) in capsys.readouterr().out
        assert (tmp_path / file).exists()
    x = values(0, 30, 4)
    exact = onnx_reader.run(onnx_reader.read((tmp_path / "network.onnx").read_bytes()), x)
    words = outputs(load_hardware_weights(tmp_path / "network.npz"), x)
    np.testing.assert_array_equal(words, exact)
    # Rounding of inputs, weights and results to 2^-8, over two layers of at most five terms of size 4.
    np.testing.assert_allclose(exact, Mlp(config).apply(variables, jnp.asarray(x)), atol=0.2)
    assert command("layers", *network) == 0
    assert "float32" in capsys.readouterr().out
    assert command("layers", *network, *formats[:2]) == 0
    assert "hidden_0_rounded" in capsys.readouterr().out
    # What the bridge wrote as Keras is a network of the commands like any other.
    assert command("export", *network, "--format", "keras", *formats) == 0
    assert command("layers", tmp_path / "network.keras") == 0
    assert "hidden_0_rounded         quantize" in capsys.readouterr().out
    assert command("export", tmp_path / "network.keras", "--format", "npz", "--out", tmp_path / "again") == 0
    np.testing.assert_array_equal(outputs(load_hardware_weights(tmp_path / "again/network.npz"), x), words)


@pytest.mark.parametrize("activation", ["tanh", "swish"])
def test_functions_are_looked_up_in_the_format_of_results(activation, tmp_path):
    config = MlpConfig(4, (5,), 3, activation)
    (tmp_path / "mlp.json").write_text(json.dumps({"model": "mlp", **dataclasses.asdict(config)}))
    variables = Mlp(config).init(jax.random.key(0), jnp.zeros((1, 4)))
    save_tree(tmp_path / "mlp.safetensors", jax.tree.map(np.asarray, variables["params"]))
    formats = ("--formats", "ap_fixed<12,4,AP_RND,AP_SAT>", "--out", tmp_path)
    assert command("export", tmp_path / "mlp.json", tmp_path / "mlp.safetensors", "--format", "npz", *formats) == 0
    graph, x = load_hardware_weights(tmp_path / "network.npz"), values(0, 30, 4)
    assert "table" in [node.kind for node in graph]
    # Rounding to 2^-8 of inputs, weights, results and tables, over two layers of at most five terms of size 4.
    np.testing.assert_allclose(outputs(graph, x), Mlp(config).apply(variables, jnp.asarray(x)), atol=0.2)


REFUSALS = {
    "an unknown model": (
        ["--format", "npz"], {"model": "vgg"}, "no network is called 'vgg'; the key model may be healpix",
    ),
    "no formats": (["--format", "npz"], {}, "has no precision, and hardware needs formats; .*--formats"),
    "a board with the wrong backend": (
        ["--formats", "ap_fixed<8,3>", "--board", "zcu102", "--backend", "Vitis"], {}, "VivadoAccelerator, got Vitis",
    ),
    "an unknown board": (["--formats", "ap_fixed<8,3>", "--board", "zcu999"], {}, "no project for board 'zcu999', but"),
    "no part": (["--formats", "ap_fixed<8,3>", "--part", "nonsense"], {}, "'nonsense' is no name .* such as xcu250-fi"),
    "reuse of words": (
        ["--format", "npz", "--formats", "ap_fixed<8,3>", "--reuse-factor", "2"], {}, "format hls, got npz",
    ),
    "a test bench without inputs": (["--formats", "ap_fixed<8,3>", "--testbench", "weights"], {}, "array inputs, got"),
    "no format": (["--formats", "eight"], {}, "cannot read 'eight' as a fixed-point format"),
    "an unsigned weight format": (
        ["--format", "npz", "--formats", "ap_fixed<8,3>", "--weight-format", "ap_ufixed<8,2>"], {},
        r"numbers in the kernel of layer hidden_0 \(.*has no sign .*; take ap_fixed<8,2,.* as --weight-format",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_wrong_orders_are_one_sentence(case, perceptron, tmp_path, capsys):
    options, changes, message = REFUSALS[case]
    folder, config, _ = perceptron
    (tmp_path / "mlp.json").write_text(json.dumps({"model": "mlp", **dataclasses.asdict(config), **changes}))
    options = [folder / "mlp.safetensors" if option == "weights" else option for option in options]
    where = ("--out", tmp_path / "out")
    assert command("export", tmp_path / "mlp.json", folder / "mlp.safetensors", *options, *where) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_a_node_that_is_none_and_parameters_that_are_not_finite_are_refused(perceptron, tmp_path, capsys):
    folder, _, variables = perceptron
    options = ("--formats", "ap_fixed<8,3>", "--format", "verilog", "--start", "nope", "--out", tmp_path / "out")
    assert command("export", folder / "mlp.json", folder / "mlp.safetensors", *options) == 1
    error = capsys.readouterr().err
    assert re.search("no node of the graph is called 'nope'; there are .*hidden_0, hidden_0_rounded", error), error
    spoilt = jax.tree.map(np.array, variables["params"])
    spoilt["hidden_0"]["kernel"][2, 1] = np.nan
    save_tree(tmp_path / "nan.safetensors", spoilt)
    for format in ("onnx", "keras", "npz"):
        where = ("--format", format, "--formats", "ap_fixed<8,3>", "--out", tmp_path / "nan")
        assert command("export", folder / "mlp.json", tmp_path / "nan.safetensors", *where) == 1
        error = capsys.readouterr().err
        assert re.search(r"hidden_0/kernel of .*nan\.safetensors holds 1 NaN or infinite values of 20", error), error
    assert not (tmp_path / "nan").exists()


def test_commands_need_the_parameters_and_the_ladder_a_float_network(perceptron, tmp_path, capsys):
    folder, _, _ = perceptron
    assert command("layers", folder / "mlp.json") == 1
    assert "without its parameters; give their safetensors" in capsys.readouterr().err
    save_arrays(tmp_path / "inputs.safetensors", {"inputs": values(0, 2, 4), "labels": np.arange(2)})
    network = (folder / "mlp.json", folder / "mlp.safetensors", tmp_path / "inputs.safetensors")
    assert command("ladder", *network, "--formats", "ap_fixed<8,3>", "--order", "ring") == 1
    assert "--order says how HEALPix maps are sorted, and the network mlp reads none" in capsys.readouterr().err
    params = {"w": values(0, 4, 3)}
    write_keras(trace(lambda p, x: quantize(x, INPUT) @ quantize(p["w"], INPUT), params, (4,)), tmp_path / "net.keras")
    assert command("ladder", tmp_path / "net.keras", folder / "mlp.safetensors", tmp_path / "inputs.safetensors") == 1
    assert "no form in floating point to climb down from" in capsys.readouterr().err
