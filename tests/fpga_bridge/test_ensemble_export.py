"""An ensemble by the command line: several files, or stacked parameters, become one design in every format."""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import fpga_bridge.hls.keras_model  # noqa: F401  # the layers that the Keras file names
from fpga_bridge import cli
from fpga_bridge.circuits import rtl
from fpga_bridge.emulation.emulator import emulate, plan_emulation
from fpga_bridge.emulation.layer_types import DesignTypes
from fpga_bridge.hardware_weights import load_hardware_weights
from fpga_bridge.hls import project as hls
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from jaxgeo.files import save_tree
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.layers.quantised_predictive import PredictivePrecision, ensemble_predictive
from jaxgeo.models.mlp import Mlp, MlpConfig, MlpPrecision

sys.path.insert(0, str(Path(__file__).parent))
import onnx_reader  # beside this file

INPUT = FixedPoint(5, 2, True, "RND", "SAT")
WEIGHT = FixedPoint(4, 1, True, "RND", "SAT")
RESULT = FixedPoint(6, 3, True, "RND", "SAT")
LAYER = LinearPrecision(WEIGHT, WEIGHT, RESULT)
CONFIG = MlpConfig(3, (4,), 2, "relu", MlpPrecision(INPUT, (LAYER, LAYER)))
MODEL = Mlp(CONFIG)
X = np.random.default_rng(0).normal(scale=1.5, size=(1000, 3)).astype(np.float32)


def member(seed, config=CONFIG):
    shapes = jax.eval_shape(Mlp(config).init, jax.random.key(0), jnp.zeros((1, 3)))["params"]
    same, own = np.random.default_rng(0), np.random.default_rng(seed + 1)  # members agree for the most part
    return jax.tree.map(
        lambda leaf: (same.normal(size=leaf.shape) + 0.3 * own.normal(size=leaf.shape)).astype(np.float32), shapes
    )


MEMBERS = [member(seed) for seed in range(4)]
STACKED = jax.tree.map(lambda *leaves: np.stack(leaves), *MEMBERS)


@jax.jit
def logits(params, x):
    y = MODEL.apply({"params": params}, x)
    assert isinstance(y, jax.Array)
    return y


def mean():
    return np.mean([np.asarray(logits(tree, X)) for tree in MEMBERS], axis=0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A configuration, a file for each member, and one of all stacked."""
    folder = tmp_path_factory.mktemp("ensemble")
    paths = [folder / name for name in ("mlp.json", *(f"member_{i}.safetensors" for i in range(4)), "all.safetensors")]
    paths[0].write_text(json.dumps({**dataclasses.asdict(CONFIG), "model": "mlp"}))
    for path, tree in zip(paths[1:], [*MEMBERS, STACKED], strict=True):
        save_tree(path, tree)
    return paths


def export(*arguments):
    assert cli.main(["export", *(str(argument) for argument in arguments)]) == 0


def test_the_cpp_of_four_perceptrons_is_their_mean_in_every_bit(files, tmp_path):
    export(*files[:5], "--format", "hls", "--out", tmp_path)
    project = hls.compile_project(hls.HlsProject(tmp_path, "network", (3,), (2,), True), optimization="-O0")
    expected = mean()
    assert len(np.unique(expected)) > 50  # not equal for want of variety
    np.testing.assert_array_equal(hls.emulate(project, X), expected)


def assert_files_give(folder, expected):
    """Words, ONNX and Keras in a folder."""
    graph = load_hardware_weights(folder / "network.npz")
    np.testing.assert_array_equal(jax.jit(functools.partial(apply_graph, graph))(X), expected)
    model = onnx_reader.read((folder / "network.onnx").read_bytes())
    np.testing.assert_array_equal(onnx_reader.run(model, X), expected)
    with jax.numpy_rank_promotion("allow"):
        network = keras.saving.load_model(folder / "network.keras")
        assert isinstance(network, keras.Model)
        np.testing.assert_array_equal(np.asarray(network(X, training=False)), expected)


def test_words_onnx_and_keras_hold_the_mean_from_many_files_and_from_one(files, tmp_path):
    for format in ("npz", "onnx", "keras"):
        export(*files[:5], "--format", format, "--out", tmp_path)
        export(files[0], files[5], "--format", format, "--out", tmp_path / "stacked")
    expected = mean()
    for folder in (tmp_path, tmp_path / "stacked"):
        assert_files_give(folder, expected)


TWO = jax.tree.map(lambda leaf: leaf[:2], STACKED)


def believed(stacked, x):
    both = ensemble_predictive(logits, PredictivePrecision.uniform(5, 2, RESULT.integer))
    return jnp.concatenate(both(stacked, x), axis=-1)


@pytest.fixture(scope="module")
def beliefs():
    """Probabilities of two classes, entropy and mutual information of two members."""
    expected = np.asarray(jax.jit(believed)(TWO, X))
    assert np.ptp(expected[:, 2]) > 0.2  # nats
    assert len(np.unique(expected[:, 3])) > 3  # members disagree on some
    return expected


def test_verilog_with_entropy_is_jax_in_every_bit(files, beliefs, tmp_path, capsys):
    export(*files[:3], "--format", "verilog", "--entropy-bits", 5, "--out", tmp_path)
    assert "probabilities of 2 classes, their entropy and the mutual information" in capsys.readouterr().out
    design = rtl.emit_verilog(trace(believed, TWO, (3,)))
    assert {path.name: path.read_text() for path in (tmp_path / "src").iterdir()} == dict(design.sources)
    figures = rtl.compare(design, rtl.simulate(design, X, tmp_path / "simulated"), beliefs)
    assert (figures["equal_share"], figures["values_compared"]) == (1.0, 4000)


def test_read_as_layers_the_entropy_costs_what_it_costs_read_as_a_function():
    layers = rtl.emit_verilog(trace(believed, TWO, (3,)))
    function = rtl.emit_function(believed, TWO, (3,))
    assert layers.lut_estimate <= 1.05 * function.lut_estimate  # sums may be paired in another order
    assert layers.latency_cycles <= function.latency_cycles + 1


@pytest.mark.parametrize("io_type", ["io_parallel", "io_stream"])
def test_the_cpp_of_the_entropy_is_jax_in_every_bit(io_type, files, beliefs, tmp_path):
    export(*files[:3], "--entropy-bits", 5, "--io-type", io_type, "--out", tmp_path)
    project = hls.HlsProject(tmp_path, "network", (3,), (4,), True)
    np.testing.assert_array_equal(hls.emulate(hls.compile_project(project, optimization="-O0"), X), beliefs)


def test_the_emulation_of_the_entropy_is_jax_in_every_bit(beliefs):
    plan = plan_emulation(trace(believed, TWO, (3,)), DesignTypes(FixedPoint(40, 16), "auto"))
    np.testing.assert_array_equal(emulate(plan, X), beliefs)


def test_words_onnx_and_keras_hold_the_entropy(files, beliefs, tmp_path):
    for format in ("npz", "onnx", "keras"):
        export(*files[:3], "--entropy-bits", 5, "--format", format, "--out", tmp_path)
    assert_files_give(tmp_path, beliefs)


def test_verilog_of_the_mean_takes_a_sample_at_every_cycle(files, tmp_path):
    export(files[0], files[5], "--format", "verilog", "--out", tmp_path)
    readme = (tmp_path / "README.md").read_text()
    assert "sample of shape (3,)" in readme
    assert "output of shape (2,)" in readme


def test_a_mean_over_three_members_is_rounded_once_to_the_format_of_each(files, tmp_path):
    words = np.stack([np.asarray(logits(tree, X)) for tree in MEMBERS[:3]]) / RESULT.step
    expected = (2 * words.sum(0) + 3) // 6 * RESULT.step  # to nearest; of thirds no half is one
    for format in ("npz", "onnx"):
        export(*files[:4], "--format", format, "--out", tmp_path)
    graph = load_hardware_weights(tmp_path / "network.npz")
    assert [node.function for node in graph if isinstance(node, ir.Table)] == ["mean_of_3"]
    np.testing.assert_array_equal(jax.jit(functools.partial(apply_graph, graph))(X), expected)
    model = onnx_reader.read((tmp_path / "network.onnx").read_bytes())
    np.testing.assert_array_equal(onnx_reader.run(model, X), expected)


def refused(capsys, *arguments):
    assert cli.main(["export", *(str(argument) for argument in arguments)]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_what_no_ensemble_can_be_is_one_sentence(files, tmp_path, capsys):
    folder = ("--out", tmp_path / "project")
    save_tree(tmp_path / "wide.safetensors", member(0, dataclasses.replace(CONFIG, features=(5,))))
    message = refused(capsys, *files[:2], tmp_path / "wide.safetensors", *folder)
    assert "wide.safetensors are not those of the Mlp" in message
    message = refused(capsys, *files[:5], "--entropy-bits", 5, "--formats", "ap_fixed<8,3>", *folder)
    assert "a precision of their own" in message
    message = refused(capsys, files[0], "--format", "verilog", "--entropy-bits", 5, *folder)
    assert "without its parameters" in message
    assert not (tmp_path / "project").exists()
