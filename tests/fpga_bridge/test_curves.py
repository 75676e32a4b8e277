"""Functions between two quantisers as tables: the words of JAX, of scipy, of the emulation and of a circuit."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fpga_bridge.circuits import circuit, unroll
from fpga_bridge.emulation.emulator import emulate, plan_emulation
from fpga_bridge.emulation.layer_types import DesignTypes, LayerTypes, hls_config
from fpga_bridge.estimates.latency import plan_design
from fpga_bridge.estimates.resources import estimate
from fpga_bridge.hls.checks import check_io
from fpga_bridge.hls.project import layer_config
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.apply import apply_graph
from fpga_bridge.typed_graph.intervals import Interval
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ConfigError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint, Overflow, Rounding, quantize
from jaxgeo.layers.table_activation import GELU, RECIPROCAL, TANH, lookup, plan_table

INPUT = FixedPoint(8, 4, True, "RND", "SAT")
RESULT = FixedPoint(10, 4, True, "RND", "SAT")

SCIPY = {
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), lambda x: x * scipy.special.ndtr(x)),
    "silu": (jax.nn.silu, lambda x: x * scipy.special.expit(x)),
    "sigmoid": (jax.nn.sigmoid, scipy.special.expit),
    "tanh": (jnp.tanh, np.tanh),
    "softplus": (jax.nn.softplus, lambda x: np.logaddexp(x, 0.0)),
    "elu": (jax.nn.elu, lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    "mish": (jax.nn.mish, lambda x: x * np.tanh(np.logaddexp(x, 0.0))),
    "gelu by tanh": (
        jax.nn.gelu,
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "relu6": (jax.nn.relu6, lambda x: np.clip(x, 0, 6)),
    "hard swish": (jax.nn.hard_swish, lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "soft sign": (jax.nn.soft_sign, lambda x: x / (1 + np.abs(x))),
    "square": (lambda x: x * x, np.square),
    "affine, then tanh": (lambda x: jnp.tanh(1.5 * x - 0.25), lambda x: np.tanh(1.5 * x - 0.25)),
    "where": (lambda x: jnp.where(x >= 0, x + 1.0, 0.5 * x), lambda x: np.where(x >= 0, x + 1, 0.5 * x)),
}


def between(function, input_format=INPUT, result=RESULT):
    return lambda _, x: quantize(function(quantize(x, input_format)), result)


def every_word(format):
    return (np.arange(format.min_word, format.max_word + 1) * format.step).astype(np.float32)[:, None]


def only_table(graph):
    (table,) = (node for node in graph if isinstance(node, ir.Table))
    return table


@pytest.mark.parametrize("name", SCIPY)
def test_a_function_between_quantisers_is_a_table_with_the_words_of_jax_and_of_scipy(name):
    function, reference = SCIPY[name]
    apply = between(function)
    graph = trace(apply, {}, (1,))
    assert [node.kind for node in graph] == ["input", "quantize", "table"]
    x = every_word(INPUT)
    found = np.asarray(apply_graph(graph, jnp.asarray(x)))
    np.testing.assert_array_equal(found, apply({}, jnp.asarray(x)))
    # Another library in float64, rounded to nearest with ties up, as RND does; no value of these is near another tie.
    words = np.floor(reference(x.astype(np.float64)) / RESULT.step + 0.5)
    np.testing.assert_array_equal(found / RESULT.step, np.clip(words, RESULT.min_word, RESULT.max_word))
    assert len(np.unique(found)) > 10


FORMATS = st.builds(
    FixedPoint,
    st.just(6),  # each width is a program of its own for every equation
    st.integers(-1, 5),
    st.booleans(),
    st.sampled_from(Rounding.__args__),
    st.sampled_from(Overflow.__args__),
)


@settings(max_examples=8, deadline=None)
@given(FORMATS, FORMATS, st.sampled_from(["silu", "tanh", "soft sign", "square"]))
@example(FixedPoint(6, 3, True, "RND", "SAT_SYM"), RESULT, "silu")
def test_in_any_formats_a_table_is_what_jax_computes_or_is_refused(source, result, name):
    function = SCIPY[name][0]
    apply = between(function, source, result)
    try:
        graph = trace(apply, {}, (1,))
    except ExportError as error:
        assert "float64" in str(error)  # noqa: PT017  # either outcome is right, by the formats
        return
    table = only_table(graph)
    x = every_word(source)
    np.testing.assert_array_equal(apply_graph(graph, jnp.asarray(x)), apply({}, jnp.asarray(x)))
    patterns = np.arange(len(table.by_pattern))
    words = (patterns ^ (1 << source.width >> 1)) - (1 << source.width >> 1) if source.signed else patterns
    inside = words >= source.min_word
    np.testing.assert_array_equal(table.by_pattern[inside], table.entries.value[words[inside] - source.min_word])


def test_a_table_of_the_model_keeps_its_words_and_gets_a_quantiser_where_it_needs_one():
    table = plan_table(TANH, INPUT, RESULT)
    for before, kinds in (
        (INPUT, ["input", "quantize", "table"]),
        (FixedPoint(8, 4, True, "TRN", "WRAP"), ["input", "quantize", "table"]),
        (FixedPoint(9, 4, True, "RND", "SAT"), ["input", "quantize", "quantize", "table"]),
    ):
        graph = trace(lambda _, x, f=before: lookup(quantize(x, f), TANH, INPUT, RESULT), {}, (1,))
        assert [node.kind for node in graph] == kinds
        np.testing.assert_array_equal(only_table(graph).entries.value, table.values)
    # The table lacks the smallest word of a symmetric format, so what may hold it is rounded again.
    symmetric = FixedPoint(8, 4, True, "RND", "SAT_SYM")
    graph = trace(lambda _, x: lookup(quantize(x, INPUT), TANH, symmetric, RESULT), {}, (1,))
    assert [node.kind for node in graph] == ["input", "quantize", "quantize", "table"]
    # Of a table's result, and of a function's, at once.
    chained = trace(lambda _, x: lookup(lookup(quantize(x, INPUT), GELU, INPUT, INPUT), TANH, INPUT, RESULT), {}, (1,))
    assert [node.kind for node in chained] == ["input", "quantize", "table", "table"]
    rounded = trace(lambda _, x: lookup(jax.nn.silu(quantize(x, INPUT)), TANH, INPUT, RESULT), {}, (1,))
    assert [node.kind for node in rounded] == ["input", "quantize", "table", "table"]
    x = every_word(INPUT)
    expected = lookup(jax.nn.silu(quantize(jnp.asarray(x), INPUT)), TANH, INPUT, RESULT)
    np.testing.assert_array_equal(apply_graph(rounded, jnp.asarray(x)), expected)


def other(x):
    return quantize(x @ jnp.eye(2), INPUT)


REFUSALS = {
    "nothing rounds it": (lambda x: jnp.tanh(quantize(x, INPUT)), r"^tanh at .*where a quantizer reads it"),
    "no quantiser before it": (lambda x: quantize(jnp.tanh(x), RESULT), r"^tanh at .*quantize its input"),
    "it is gathered first": (
        lambda x: quantize(jnp.tanh(quantize(x, INPUT)).reshape(-1, 2, 1), RESULT),
        r"^tanh at .*round its result",
    ),
    "too many words": (
        lambda x: quantize(jnp.tanh(quantize(x, FixedPoint(17, 4))), RESULT),
        r"^tanh at .*ap_fixed<17,4.*2\^17 words.*fewer bits",
    ),
    "two activations": (
        lambda x: quantize(jnp.tanh(quantize(x, INPUT)) * other(quantize(x, INPUT)), RESULT),
        r"^mul at .*joins tanh of one activation to another",
    ),
    "another number for each channel": (
        lambda x: quantize(jnp.tanh(quantize(x, INPUT)) * jnp.arange(2.0)[None], RESULT),
        r"^mul at .*joins tanh",
    ),
    "not a number": (
        lambda x: quantize(jnp.log(quantize(x, INPUT)), RESULT),
        r"^log at .*129 values are not finite.*range where",
    ),
    "a float decides": (
        lambda x: quantize(jax.nn.sigmoid(quantize(x, FixedPoint(8, 6))), FixedPoint(10, 4, True, "TRN", "SAT")),
        r"^logistic at .* of its 256 results .* other ones in float32 than in float64.*AP_RND",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_table_is_refused_by_name_line_and_remedy(case):
    apply, message = REFUSALS[case]
    with pytest.raises(ExportError, match=message) as caught:
        trace(lambda _, x: apply(x), {}, (2,))
    assert Path(__file__).name in str(caught.value)


def test_hls4ml_gets_tables_of_14_bits_and_no_larger_one():
    for bits in (14, 15):
        graph = trace(lambda _, x, n=bits: lookup(x, GELU, FixedPoint(n, 4), RESULT), {}, (1,))
        if bits == 14:
            check_io(graph, "io_stream")
        else:
            with pytest.raises(ExportError, match=r"gelu at .*2\^15 words.*8 to 10 bits, or export Verilog"):
                check_io(graph, "io_parallel")


def network(_, x):
    """Tables behind, between and before other layers, in an image."""
    x = quantize(x, INPUT)
    y = quantize(jax.nn.silu(x), RESULT)
    kernel = (np.random.default_rng(0).integers(-7, 8, (3, 2)) / 8).astype(np.float32)
    y = lookup(
        y @ quantize(jnp.asarray(kernel), FixedPoint(4, 1)),
        GELU,
        FixedPoint(9, 4, True, "RND", "SAT"),
        FixedPoint(7, 2, False),
    )
    return jnp.concatenate([y, lookup(x, RECIPROCAL, INPUT, RESULT)], axis=-1)


@pytest.fixture(scope="module")
def traced():
    x = np.random.default_rng(1).normal(scale=4, size=(40, 2, 2, 3)).astype(np.float32)
    return trace(network, {}, (2, 2, 3)), x, np.asarray(jax.jit(network)({}, x))


def test_types_are_those_of_the_entries_that_are_reached(traced):
    graph, _, _ = traced
    types = plan_types(graph)
    tables = [node for node in graph if isinstance(node, ir.Table)]
    assert [table.function for table in tables] == ["logistic", "gelu", "reciprocal"]
    silu = tables[0].entries.value * 2**6
    assert types[tables[0].name].interval == Interval(int(silu.min()), int(silu.max()), 6)
    assert types[tables[1].name].result == FixedPoint(7, 2, False)
    config = layer_config(graph, types)["LayerName"][tables[0].name]["Precision"]
    assert config["table"] == config["result"] == "ap_fixed<10,4,AP_TRN,AP_WRAP>"


def test_the_emulation_of_the_exact_types_is_the_network(traced):
    graph, x, expected = traced
    types = plan_types(graph)
    exact = {
        node.name: LayerTypes(
            result=None if isinstance(node, ir.Quantize | ir.Table) else types[node.name].result,
            weight=types[node.name].weight if isinstance(node, ir.Dense) else None,
            accum=types[node.name].accumulator,
        )
        for node in graph
    }
    np.testing.assert_array_equal(emulate(plan_emulation(graph, DesignTypes(layers=exact)), x), expected)
    assert len(np.unique(expected)) > 50


def test_a_table_may_write_another_type_but_keeps_its_words_and_addresses(traced):
    graph, x, _ = traced
    graph = ir.Graph(graph.nodes[:3], graph.nodes[2].name)
    coarse = FixedPoint(5, 3, True, "RND_ZERO", "SAT")
    plan = plan_emulation(graph, DesignTypes(layers={graph.output: LayerTypes(result=coarse)}))
    expected = quantize(apply_graph(graph, jnp.asarray(x)), coarse)
    np.testing.assert_array_equal(emulate(plan, x), expected)
    precision = hls_config(graph, plan.design)["LayerName"][graph.output]["Precision"]
    assert (precision["result"], precision["table"]) == (str(coarse), str(RESULT))
    with pytest.raises(ConfigError, match=r"entries of table .* words of ap_fixed<10,4.* cannot be ap_fixed<5,3"):
        plan_emulation(graph, DesignTypes(layers={graph.output: LayerTypes(weight=coarse)}))
    with pytest.raises(ConfigError, match=r"an entry for each word of ap_fixed<8,4.*would read ap_fixed<5,3"):
        plan_emulation(graph, DesignTypes(layers={graph.nodes[1].name: LayerTypes(result=coarse)}))


def test_a_table_that_reads_another_format_or_leaves_its_own_has_no_types(traced):
    quantizer, table = traced[0].nodes[1:3]
    for nodes, message in (
        ((ir.Quantize(name="q", inputs=("input_map",), shape=(2, 2, 3), format=RESULT),
          ir.Table(name="t", inputs=("q",), shape=(2, 2, 3), function="silu", entries=table.entries,
                   input_format=INPUT)), r"inputs in ap_fixed<8,4.*reads ap_fixed<10,4"),
        ((quantizer, ir.Table(name="t", inputs=(quantizer.name,), shape=(2, 2, 3), function="silu",
                              entries=ir.Weight(table.entries.value / 3, RESULT), input_format=INPUT)),
         r"entries in ap_fixed<10,4.*on no fixed-point grid"),
    ):  # fmt: skip
        with pytest.raises(ExportError, match=message):
            plan_types(ir.Graph((traced[0].input, *nodes), "t"))


def test_a_circuit_of_the_graph_computes_the_network(traced):
    graph, x, expected = traced
    da4ml = circuit.import_da4ml()
    unrolled = unroll.unroll(graph, None)
    logic = da4ml.trace.comb_trace(list(unrolled.ports.flat), list(unrolled.outputs.flat), keep_dead_inputs=True)
    words = np.asarray(quantize(jnp.asarray(x), unrolled.format), np.float64).reshape(len(x), -1)
    np.testing.assert_array_equal(logic.predict(words, n_threads=1).reshape(expected.shape), expected)


def test_a_table_costs_a_look_up_a_pixel_and_logic_for_each_channel(traced):
    graph, _, _ = traced
    types = plan_types(graph)
    table = next(node for node in graph if isinstance(node, ir.Table))
    process = next(p for p in plan_design(graph, types=types).design.processes if p.name == table.name)
    assert (process.steps, process.reads.sum(), process.writes.sum()) == (4, 4, 4)
    # Three channels of 10 bits, 256 entries: four LUTs of six inputs for each bit.
    assert estimate(graph, types=types)[table.name].lut == 3 * 10 * 4
