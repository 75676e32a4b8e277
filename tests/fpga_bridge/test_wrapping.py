"""Weights that a format without saturation wraps are said with layer, number, format and what would hold them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpga_bridge import cli
from fpga_bridge.keras_files.hardware_formats import HardwareFormats, with_formats
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.wrapping import largest, wrapped, wrapped_weights
from jaxgeo.files import save_tree
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.models.mlp import Mlp, MlpConfig

INPUT = FixedPoint(8, 3, True, "RND", "SAT")
NARROW = FixedPoint(8, 1)
FORMATS = st.builds(
    FixedPoint, st.integers(2, 10), st.integers(-2, 9), st.booleans(), st.sampled_from(["TRN", "RND", "RND_ZERO"])
)


@given(format=FORMATS, value=st.floats(-600, 600, width=32))
def test_the_integer_bits_that_are_named_hold_the_number_and_one_fewer_does_not(format, value):
    kernel = np.array([[value]], np.float32)
    weight = ir.Weight(kernel, format, wrapped=largest(wrapped(kernel, format)))
    nodes = ir.Input(name="x", inputs=(), shape=(1,)), ir.Dense(name="y", inputs=("x",), shape=(1,), kernel=weight)

    def lost(integer):
        format_ = dataclasses.replace(format, width=integer + format.fraction, integer=integer)
        return wrapped(np.array([value]), format_) is not None

    said = wrapped_weights(ir.Graph(nodes, "y"))
    assert bool(said) == (wrapped(np.array([value]), format) is not None)
    if said and "a format with a sign" in said[0]:
        assert value < 0
        assert not format.signed
    elif said:
        integer = int(said[0].split(" integer bits")[0].split()[-1])
        assert not lost(integer)
        assert lost(integer - 1)


def test_a_weight_of_the_model_that_wraps_is_named_wherever_it_was_moved():
    kernel = np.array([[0.5, 3.2], [-0.25, 0.75]], np.float32)

    def network(params, x):
        return quantize(x, INPUT) @ quantize(params["dense"]["kernel"], NARROW).T

    (said,) = wrapped_weights(trace(network, {"dense": {"kernel": kernel}}, (2,)))
    assert "the kernel of layer dense" in said
    assert "test_wrapping.py:" in said
    assert "reaches 3.2, which ap_fixed<8,1,AP_TRN,AP_WRAP> wraps to another number; 3 integer bits" in said
    assert wrapped_weights(trace(network, {"dense": {"kernel": kernel / 4}}, (2,))) == []


def test_of_stacked_members_the_one_that_wraps_is_named():
    def member(params, x):
        kernel, bias = (quantize(params["dense"][name], NARROW) for name in ("kernel", "bias"))
        return quantize(x, INPUT) @ kernel + bias[None]

    kernel, bias = np.full((2, 3, 2), 0.5, np.float32), np.full((2, 2), 0.25, np.float32)
    kernel[1, 0, 1], bias[0, 1] = -1.5, 1.25
    stacked = {"dense": {"kernel": kernel, "bias": bias}}
    graph = trace(lambda p, x: jax.vmap(member, (0, None))(p, x).mean(0), stacked, (3,))
    bias_of_first, kernel_of_second = wrapped_weights(graph)
    assert "the bias of layer member_0_dense" in bias_of_first
    assert "reaches 1.25" in bias_of_first
    assert "the kernel of layer member_1_dense" in kernel_of_second
    assert "reaches -1.5" in kernel_of_second


@pytest.fixture
def wide(tmp_path):
    """A perceptron with a weight of 3.2, in float."""
    config = MlpConfig(4, (5,), 3)
    shapes = jax.eval_shape(Mlp(config).init, jax.random.key(0), jnp.zeros((1, 4)))["params"]
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.125, np.float32), shapes)
    params["hidden_0"]["kernel"][1, 2] = 3.2
    (tmp_path / "mlp.json").write_text(json.dumps({"model": "mlp", **dataclasses.asdict(config)}))
    save_tree(tmp_path / "mlp.safetensors", params)
    return tmp_path, config, params


@pytest.mark.parametrize("order", [("export", "--format", "npz"), ("export", "--format", "verilog"), ("layers",)])
def test_the_commands_say_in_a_line_what_wraps(order, wide, capsys):
    folder, config, params = wide
    network = [order[0], str(folder / "mlp.json"), str(folder / "mlp.safetensors"), *order[1:]]
    where = [] if order == ("layers",) else ["--out", str(folder / "out")]
    formats = ["--formats", "ap_fixed<8,3>", "--weight-format"]
    assert cli.main([*network, *where, *formats, "ap_fixed<8,1>"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "wraps" in line)
    assert "kernel of layer hidden_0" in line
    assert "reaches 3.2" in line
    assert "3 integer bits" in line
    for format in ("ap_fixed<8,3>", "ap_fixed<8,1,AP_RND,AP_SAT>"):  # it is held, or cut off, as was asked for
        assert cli.main([*network, *where, *formats, format]) == 0
        assert "wraps" not in capsys.readouterr().out
    graph = trace(Mlp(config).apply, {"params": params}, (4,))
    assert len(wrapped_weights(with_formats(graph, HardwareFormats(weight=NARROW)))) == 1
