"""Functions with tables and products as Verilog: an ensemble's entropy, a perceptron with tanh, window attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpga_bridge.circuits import circuit, pipeline, rtl, symbolic
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.layers.quantised_predictive import PredictivePrecision, ensemble_predictive
from jaxgeo.layers.quantised_window_attention import BlockPrecision, QuantisedSwinBlock
from jaxgeo.layers.window_plan import plan_windows
from jaxgeo.models.mlp import Mlp, MlpConfig, MlpPrecision

INPUT = FixedPoint(5, 3, True, "RND", "SAT")
WEIGHT = FixedPoint(4, 1, True, "RND", "SAT")
RESULT = FixedPoint(7, 3, True, "RND", "SAT")


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (0.6 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


def heads():
    """Two members of two classes, what they believe, and a product of two activations."""
    believed = ensemble_predictive(
        lambda kernel, x: quantize(quantize(x, INPUT) @ quantize(kernel, WEIGHT), RESULT),
        PredictivePrecision.uniform(5, 2, 3),
    )

    def apply(stacked, x):
        found = believed(stacked, x)
        product = found.probabilities[:, :1] * found.probabilities[:, 1:]
        return jnp.concatenate([*found, product], axis=-1)

    return apply, drawn(jax.ShapeDtypeStruct((2, 3, 2), jnp.float32))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    apply, params = heads()
    x = (2 * np.random.default_rng(1).normal(size=(1000, 3))).astype(np.float32)
    design = rtl.emit_function(apply, params, (3,), "heads", 4.0)
    run = rtl.simulate(design, x, tmp_path_factory.mktemp("heads"))
    return design, run, np.asarray(jax.jit(apply)(params, x))


def test_the_entropy_of_an_ensemble_on_chip_is_that_of_jax_in_every_bit(simulated):
    design, run, expected = simulated
    figures = rtl.compare(design, run, expected)
    assert (figures["equal_share"], figures["max_abs_error"], figures["values_compared"]) == (1.0, 0.0, 5000)
    assert len(np.unique(expected, axis=0)) > 20  # not equal for want of variety
    assert np.ptp(expected[:, 2]) > 0.4  # nats


def test_latency_in_cycles_is_that_of_the_pipeline_with_tables_too(simulated):
    design, run, _ = simulated
    assert design.latency_cycles > 2
    assert (run.latency_cycles, run.initiation_interval) == (design.latency_cycles, 1)


def test_tables_are_modules_of_their_own_and_need_no_file(simulated):
    sources = simulated[0].sources
    tables = {name for name in sources if "_table" in name}
    assert len(tables) >= 3  # exp, 1/x, -p ln p
    assert all(f"module {name.removesuffix('.v')} (" in sources[name] for name in tables)
    assert not any("readmem" in text or "lookup_table" in text for text in sources.values())


def interpreted(unrolled, x):
    da4ml = circuit.import_da4ml()
    logic = da4ml.trace.comb_trace(list(unrolled.ports.flat), list(unrolled.outputs.flat), keep_dead_inputs=True)
    words = np.asarray(quantize(jnp.asarray(x), unrolled.format), np.float64).reshape(len(x), -1)
    return logic.predict(words, n_threads=1).reshape(len(x), *unrolled.outputs.shape), logic, words


def test_a_perceptron_with_tables_of_tanh_is_exact():
    layer = LinearPrecision(WEIGHT, RESULT, RESULT)
    model = Mlp(MlpConfig(4, (5,), 3, "tanh", MlpPrecision(INPUT, (layer, layer))))
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4))))
    x = np.random.default_rng(2).normal(size=(1000, 4)).astype(np.float32)
    found, _, _ = interpreted(symbolic.unroll(model.apply, variables, (4,)), x)
    np.testing.assert_array_equal(found, jax.jit(model.apply)(variables, x))


def test_shifted_and_masked_window_attention_is_exact():
    index = np.abs(np.arange(2)[:, None] - np.arange(2)[None])
    plan = plan_windows(4, 2, source=np.roll(np.arange(4), 1), labels=[0, 0, 0, 1], bias_index=index)
    block = QuantisedSwinBlock(BlockPrecision.uniform(6, 2), 2, 2, 1.0, "pre")
    variables = drawn(jax.eval_shape(block.init, jax.random.key(0), plan, jnp.zeros((1, 4, 2))))

    def apply(variables, x):
        return block.apply(variables, plan, x)

    x = np.random.default_rng(3).normal(size=(1000, 4, 2)).astype(np.float32)
    found, _, _ = interpreted(symbolic.unroll(apply, variables, (4, 2)), x)
    expected = np.asarray(jax.jit(apply)(variables, x))
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 20


def test_longer_stages_make_fewer_of_the_same_logic():
    apply, params = heads()
    x = (2 * np.random.default_rng(4).normal(size=(20, 3))).astype(np.float32)
    expected, logic, words = interpreted(symbolic.unroll(apply, params, (3,)), x)
    cut = [pipeline.pipelined(logic, delay) for delay in (2.0, 5.0, 12.0)]
    stages = [len(each.solutions) for each in cut]
    assert stages == sorted(stages, reverse=True)
    assert stages[0] > stages[-1]
    for each in cut:
        np.testing.assert_array_equal([each(row).astype(np.float64) for row in words], expected)


def test_a_table_whose_length_is_not_its_input_is_refused():
    with pytest.raises(ExportError, match="the table t has 3 entries, but its input 2 bits"):
        list(pipeline._table_module("t", ["0", "1", "X"], 2, 1))
    with pytest.raises(ExportError, match="'2 b' cannot name a Verilog module"):
        rtl.emit_function(*heads(), (3,), name="2 b")
