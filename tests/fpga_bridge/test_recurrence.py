"""A scan becomes layers of each step: the words of JAX in the graph, the emulation, Keras and simulated Verilog."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from graph_tools import exact_design

from fpga_bridge.circuits import rtl
from fpga_bridge.emulation.emulator import emulate, plan_emulation
from fpga_bridge.estimates.latency import plan_design
from fpga_bridge.hls.keras_model import to_keras
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.recurrent import RoundedCell
from jaxgeo.layers.table_activation import SIGMOID, TANH, lookup

INPUT = FixedPoint(6, 2, True, "RND", "SAT")
WEIGHT = FixedPoint(4, 1, True, "RND", "SAT")
SUM = FixedPoint(6, 3, True, "RND", "SAT")
GATE = FixedPoint(5, 1, True, "RND", "SAT")
STATE = FixedPoint(6, 2, True, "RND", "SAT")
SHAPE = (3, 2)


def gate(x):
    """A table of the library."""
    return lookup(x, SIGMOID, SUM, GATE)


def squash(x):
    """A function between two quantisers, which the trace makes a table."""
    return quantize(jnp.tanh(quantize(x, SUM)), GATE)


CELLS = {
    "simple": nn.SimpleCell(2, activation_fn=squash),
    "residual": nn.SimpleCell(2, activation_fn=squash, residual=True),
    "lstm": nn.LSTMCell(2, gate_fn=gate, activation_fn=squash),
    "optimized lstm": nn.OptimizedLSTMCell(2, gate_fn=gate, activation_fn=squash),
    "gru": nn.GRUCell(2, gate_fn=gate, activation_fn=squash),
    "minimal gated unit": nn.MGUCell(2, gate_fn=gate, activation_fn=squash),
}


def network(cell):
    """The last state, as a pure function with its parameters: weights and inputs are rounded where they are used."""
    model = nn.RNN(RoundedCell(cell, STATE))
    params = model.init(jax.random.key(1), jnp.zeros((1, *SHAPE)))
    params = jax.tree.map(lambda leaf: leaf * 1.5 + 0.2, params)  # biases of zero would hide a mistake

    def apply(params, x):
        rounded = jax.tree.map(lambda leaf: quantize(leaf, WEIGHT), params)
        return model.apply(rounded, quantize(x, INPUT))[:, -1]

    return apply, params


def samples(seed=0, count=200, shape=SHAPE):
    return np.random.default_rng(seed).normal(scale=1.5, size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_of_linen_is_equal_in_jax_the_graph_and_the_emulation(cell):
    apply, params = network(CELLS[cell])
    graph, x = trace(apply, params, SHAPE), samples()
    expected = np.asarray(jax.jit(apply)(params, x))
    assert len(np.unique(expected)) > 12  # not equal for want of variety
    np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(x)), expected)
    np.testing.assert_array_equal(emulate(plan_emulation(graph, exact_design(graph)), x), expected)
    assert "concatenate" not in [node.kind for node in graph]  # of all states the last alone is read


ORDERS = {
    "forwards": {},
    "backwards": dict(reverse=True),
    "backwards, in order": dict(reverse=True, keep_order=True),
    "time first": dict(time_major=True),
    "in pieces": dict(unroll=3),
}


@pytest.mark.parametrize("order", ORDERS)
def test_sequences_may_be_read_in_any_order(order):
    options = ORDERS[order]

    def turned(x):
        return jnp.swapaxes(x, 0, 1) if "time_major" in options else x

    model = nn.RNN(RoundedCell(CELLS["gru"], STATE), **options)
    params = model.init(jax.random.key(1), turned(jnp.zeros((1, *SHAPE))))

    def apply(params, x):
        rounded = jax.tree.map(lambda leaf: quantize(leaf, WEIGHT), params)
        return turned(model.apply(rounded, turned(quantize(x, INPUT))))

    graph, x = trace(apply, params, SHAPE), samples(1)
    np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(x)), jax.jit(apply)(params, x))


def scanned(x):
    """By hand: the state is what was largest so far, the output a product of each step with it."""

    def step(state, row):
        state = jnp.maximum(state, row)
        return state, quantize(state * row[..., ::-1], STATE)

    return jax.lax.scan(step, x[:, 0], jnp.swapaxes(x, 0, 1))[1][1:]


FUNCTIONS = {
    "a scan": lambda x: jnp.swapaxes(scanned(x), 0, 1),
    "some steps of a scan, turned": lambda x: jnp.moveaxis(scanned(x)[::-1, ..., :1], 0, 2),
    "a reversed scan": lambda x: jax.lax.scan(
        lambda state, row: (quantize(state * 0.5 + row, STATE), None), x[:, 0], jnp.swapaxes(x, 0, 1), reverse=True
    )[0],
    "a loop that counts": lambda x: jax.lax.fori_loop(
        0, 3, lambda i, state: quantize(state * 0.5 + jax.lax.dynamic_index_in_dim(x, i, 1, False), STATE), x[:, 0]
    ),
    "an axis in front and back": lambda x: jnp.swapaxes(quantize(jnp.swapaxes(x, 0, 1) * 2, STATE), 0, 1),
    "channels in front": lambda x: jnp.moveaxis(jnp.moveaxis(x, 2, 0)[::-1], 0, 1),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_loops_of_known_length_are_their_steps(case):
    def apply(_, x):
        return FUNCTIONS[case](quantize(x, INPUT))

    graph, x = trace(apply, {}, SHAPE), samples(2)
    expected = np.asarray(jax.jit(apply)({}, x))
    assert len(np.unique(expected)) > 16
    np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(x)), expected)
    np.testing.assert_array_equal(to_keras(graph)(x), expected)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_verilog_of_a_gated_cell_gives_the_words_of_jax(cell, tmp_path):
    apply, params = network(CELLS[cell])
    x = samples(3, 1000, (2, 2))  # two steps: a state of zero, and one of the cell
    design = rtl.emit_verilog(trace(apply, params, (2, 2)), name=cell)
    run = rtl.simulate(design, x, tmp_path)
    expected = np.asarray(jax.jit(apply)(params, x))
    assert rtl.compare(design, run, expected)["equal_share"] == 1.0
    assert len(np.unique(expected)) > 12
    assert run.latency_cycles == design.latency_cycles


def test_a_function_with_a_scan_is_a_circuit_too():
    apply, params = network(nn.GRUCell(2, gate_fn=gate, activation_fn=lambda x: lookup(x, TANH, SUM, GATE)))
    by_function = rtl.emit_function(apply, params, SHAPE)
    by_layers = rtl.emit_verilog(trace(apply, params, SHAPE))
    assert by_function.output_port == by_layers.output_port
    assert by_function.input_port == by_layers.input_port


def test_steps_are_estimated_as_streams():
    apply, params = network(CELLS["lstm"])
    graph = trace(apply, params, SHAPE)
    plan = plan_design(graph, types=plan_types(graph))
    kinds = [process.kind for process in plan.design.processes]
    assert kinds.count("multiply") == 3 * SHAPE[0] - 1  # of the first step the forget gate meets a state of zero
    assert kinds.count("table") == 5 * SHAPE[0] - 1  # which needs no gate


def test_a_state_that_nothing_rounds_is_refused_with_its_bits():
    model = nn.RNN(CELLS["lstm"])
    params = model.init(jax.random.key(1), jnp.zeros((1, 8, 2)))

    def apply(params, x):
        return model.apply(jax.tree.map(lambda leaf: quantize(leaf, WEIGHT), params), quantize(x, INPUT))

    with pytest.raises(ExportError, match=r"multiply.* needs \d+ bits for its sums"):
        plan_types(trace(apply, params, (8, 2)))


def test_what_takes_steps_together_before_the_batch_is_refused():
    def apply(_, x):
        return jnp.cumsum(jnp.swapaxes(quantize(x, INPUT), 0, 1), 0)[0]

    with pytest.raises(ExportError, match=r"test_recurrence.py:\d+ .*steps of a scan.*swapaxes"):
        trace(apply, {}, SHAPE)
