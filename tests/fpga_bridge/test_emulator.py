"""The emulation of designs against hls4ml's compiled C++, every word, and against itself for ensembles."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from graph_tools import values
from hypothesis import given, settings
from hypothesis import strategies as st

from fpga_bridge.emulation.emulator import emulate, emulate_words, plan_emulation, plan_members
from fpga_bridge.emulation.layer_types import DesignTypes, LayerTypes, SoftmaxTypes, hls_config, resolve_types
from fpga_bridge.hls import project as hls
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.errors import ConfigError, ExportError, InputError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

SHAPE = (10, 9, 2)
SATURATING = FixedPoint(14, 5, True, "RND", "SAT")
ADDRESS = FixedPoint(9, 4, True, "RND_CONV", "SAT")


def convolve(x, kernel, padding, strides=(1, 1)):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def network(p, x):
    """Convolutions of both paddings, norms, pairs of all kinds, joined channels, pools, dense layers, softmax."""
    x = convolve(x, p["stem"]["kernel"], "SAME", (2, 1)) + p["stem"]["bias"][None, None, None]
    x = nn.relu(x * p["norm"]["scale"][None, None, None] + p["norm"]["offset"][None, None, None])
    y = convolve(x, p["branch"]["kernel"], "SAME")
    y = jnp.concatenate([nn.leaky_relu(x + y, 0.3), y * jnp.minimum(x, y)], axis=-1)
    y = nn.max_pool(y, (2, 2), (2, 2), "SAME")
    y = jnp.repeat(jnp.repeat(y, 2, axis=1), 2, axis=2)
    y = nn.avg_pool(convolve(y, p["deep"]["kernel"], "VALID"), (2, 2), (2, 2))
    z = jnp.mean(y, axis=(1, 2))
    z = jnp.concatenate([z, jnp.maximum(-z, jnp.max(y, axis=(1, 2)))], axis=-1)
    y = jnp.concatenate([z, y.reshape(y.shape[0], -1)], axis=-1)
    y = jnp.where(y > 0.3, y, 0.0)
    y = y @ p["hidden"]["kernel"] + p["hidden"]["bias"][None]
    y = jnp.where(y > 0, y, p["hidden_prelu"]["slope"][None] * y)
    y = quantize(nn.silu(quantize(y, ADDRESS)), SATURATING)
    return nn.softmax(y @ p["head"]["kernel"])


def parameters(seed=0):
    return {
        "stem": {"kernel": values(seed, 3, 3, 2, 4, scale=0.6), "bias": values(seed + 1, 4)},
        "norm": {"scale": values(seed + 2, 4), "offset": values(seed + 3, 4)},
        "branch": {"kernel": values(seed + 4, 3, 1, 4, 4, scale=0.4)},
        "deep": {"kernel": values(seed + 5, 3, 3, 8, 3, scale=0.3)},
        "hidden": {"kernel": values(seed + 6, 30, 6, scale=0.5), "bias": values(seed + 7, 6)},
        "hidden_prelu": {"slope": values(seed + 9, 6)},
        "head": {"kernel": values(seed + 8, 6, 4)},
    }


LAYERS = {
    "branch": LayerTypes(accum=FixedPoint(70, 20)),
    "deep": LayerTypes(accum=FixedPoint(15, 5, True, "RND_CONV", "SAT"), weight=FixedPoint(9, 2, True, "RND", "SAT")),
    "norm": LayerTypes(weight=FixedPoint(11, 3), result=FixedPoint(13, 4, True, "TRN_ZERO", "SAT_SYM")),
    "prelu": LayerTypes(slope=FixedPoint(7, 3, True, "RND", "SAT"), result=FixedPoint(17, 6, True, "RND", "WRAP")),
    "multiply": LayerTypes(result=FixedPoint(21, 7, True, "RND_INF", "SAT")),
    "minimum": LayerTypes(result=FixedPoint(12, 3, True, "TRN", "SAT_ZERO")),
    "maximum": LayerTypes(result="auto"),
    "hidden": LayerTypes(accum="auto", result=FixedPoint(18, 7, True, "RND_INF", "WRAP")),
    "logistic": LayerTypes(result=FixedPoint(12, 4, True, "RND_ZERO", "WRAP")),
    "head": LayerTypes(strategy="Resource", reuse_factor=3, accum=FixedPoint(12, 4, True, "TRN", "SAT")),
    "softmax": LayerTypes(result=FixedPoint(16, 2), softmax=SoftmaxTypes(table_size=256)),
}
DESIGN = DesignTypes(layers=LAYERS)


@pytest.fixture(scope="module")
def graph():
    return trace(network, parameters(), SHAPE)


@pytest.fixture(scope="module")
def compiled(graph, tmp_path_factory):
    """One project for all comparisons: its layers differ in strategy, modes and widths."""
    folder = tmp_path_factory.mktemp("emulator") / "project"
    return hls.compile_project(hls.convert(graph, folder, config=hls_config(graph, DESIGN)), "-O0")


@pytest.fixture(scope="module")
def plan(graph):
    return plan_emulation(graph, DESIGN)


def test_every_word_equals_the_compiled_cpp(plan, compiled):
    inputs = values(20, 64, *SHAPE, scale=3.0)
    outputs = emulate(plan, inputs)
    expected = hls.emulate(compiled, inputs)
    assert len(np.unique(expected)) > 30
    np.testing.assert_array_equal(outputs, expected)


def test_batches_and_threads_change_nothing(plan):
    inputs = values(21, 64, *SHAPE)
    words = emulate_words(plan, inputs, threads=1)
    np.testing.assert_array_equal(emulate_words(plan, inputs, batch_size=16, threads=2), words)
    np.testing.assert_array_equal(emulate(plan, inputs), words * plan.output_format.step)


def logits(p, x):
    x = nn.relu(convolve(x, p["stem"]["kernel"], "VALID", (2, 2)) + p["stem"]["bias"][None, None, None])
    x = nn.avg_pool(x, (2, 2), (2, 2))
    x = x * p["norm"]["scale"][None, None, None] + p["norm"]["offset"][None, None, None]
    return x.reshape(x.shape[0], -1) @ p["head"]["kernel"]


def small(seed):
    whole = parameters(seed)
    return {key: whole[key] for key in ("stem", "norm")} | {"head": {"kernel": values(seed, 16, 3)}}


def test_members_of_one_design_are_as_if_alone():
    plans = [plan_emulation(trace(logits, small(seed), SHAPE)) for seed in range(2)]
    inputs = values(22, 5, *SHAPE)
    together = plan_members(plans)(inputs)
    for plan, outputs in zip(plans, together, strict=True):
        np.testing.assert_array_equal(outputs, emulate(plan, inputs))


def test_many_precisions_in_one_program_are_as_if_alone():
    """Formats as data: widths, points, signs of the modes and accumulators that need two limbs beside narrow ones."""
    graph = trace(logits, small(0), SHAPE)
    designs = [
        DesignTypes(),
        DesignTypes(default=FixedPoint(9, 4, True, "RND", "SAT")),
        DesignTypes(default=FixedPoint(20, 7, True, "RND_CONV", "WRAP"), accum=FixedPoint(66, 30)),
        DesignTypes(default=FixedPoint(12, 14, True, "TRN_ZERO", "SAT_ZERO")),
    ]
    plans = [plan_emulation(graph, design) for design in designs]
    inputs = values(23, 5, *SHAPE, scale=2.0)
    for plan, outputs in zip(plans, plan_members(plans)(inputs), strict=True):
        np.testing.assert_array_equal(outputs, emulate(plan, inputs))


def wrapped(word: int, format: FixedPoint) -> int:
    low = word % 2**format.width
    return low - 2**format.width if format.signed and low >= 2 ** (format.width - 1) else low


@settings(max_examples=8)
@given(
    seed=st.integers(0, 1000),
    width=st.integers(4, 20),
    integer=st.integers(0, 8),
    accum=st.tuples(st.integers(4, 40), st.integers(0, 12)),
)
def test_a_dense_layer_is_its_definition_in_pythons_integers(seed, width, integer, accum):
    default, sums = FixedPoint(width, integer), FixedPoint(*accum)
    kernel, inputs = values(seed, 5, 2, scale=0.7), values(seed + 1, 3, 5)
    graph = trace(lambda p, x: x @ p["kernel"], {"kernel": kernel}, (5,))
    plan = plan_emulation(graph, DesignTypes(default=default, accum=sums))
    step = 2.0**default.fraction
    weights = [[wrapped(int(np.floor(float(f"{v:.{max(default.fraction, 0)}f}") * step)), default) for v in row]
               for row in kernel]  # fmt: skip
    cut = 2 * default.fraction - sums.fraction
    expected = []
    for sample in inputs:
        x = [wrapped(int(np.floor(float(v) * step)), default) for v in sample]
        row = []
        for j in range(2):
            products = [x[i] * weights[i][j] for i in range(5)]
            total = wrapped(sum(p >> cut if cut >= 0 else p << -cut for p in products), sums)
            drop = sums.fraction - default.fraction
            row.append(wrapped(total >> drop if drop >= 0 else total << -drop, default))
        expected.append(row)
    np.testing.assert_array_equal(emulate_words(plan, inputs), expected)


def test_impossible_designs_and_inputs_are_named(graph):
    def refused(match, **layers):
        with pytest.raises(ConfigError, match=match):
            plan_emulation(graph, DesignTypes(layers=layers))

    refused("names stemm, but the network has only the layers .*stem", stemm=LayerTypes())
    refused(r"layer upsample .*passes on what it reads", upsample=LayerTypes(result=FixedPoint(3, 1)))
    refused(r"makes 6 products .* reuse factor of 4 does not divide; the nearest that does is 3",
            head=LayerTypes(strategy="Resource", reuse_factor=4))  # fmt: skip
    refused("writes .*, but results of more than 64 bits", stem=LayerTypes(result=FixedPoint(65, 6)))
    refused("reads ap_fixed<1,1,.* which is a sign alone", head=LayerTypes(result=FixedPoint(1, 1)))
    refused(r"constants of layer stem \(.*60", stem=LayerTypes(weight=FixedPoint(60, 6)))
    refused("needs sums of 71 bits", average_pool=LayerTypes(accum=FixedPoint(70, 6)))
    one = trace(lambda p, x: x @ p, values(0, 5, 2), (5,))
    types = LayerTypes(weight=FixedPoint(8, 2), accum=FixedPoint(160, 60))
    with pytest.raises(
        ConfigError, match=r"layer \w+ .*test_emulator.py:\d+\): words need \d+ bits, more than the 127"
    ):
        plan_emulation(one, DesignTypes(default=FixedPoint(50, 50), layers={one.output: types}))
    plan = plan_emulation(graph)
    for shape in ((1, 9, 2), (0, 10, 9, 2)):
        with pytest.raises(InputError, match=re.escape(f"of shape (10, 9, 2), at least one, got an array {shape}")):
            emulate(plan, np.zeros(shape, np.float32))
    with pytest.raises(ConfigError, match=r"batch_size .*got 0"):
        emulate(plan, values(0, 1, *SHAPE), batch_size=0)
    with pytest.raises(InputError, match="finite"):
        emulate(plan, np.full((1, *SHAPE), np.nan, np.float32))
    with pytest.raises(InputError, match="at least one plan"):
        plan_members([])
    other = plan_emulation(trace(logits, small(0), SHAPE))
    with pytest.raises(InputError, match="member 1 has other layers"):
        plan_members([plan, other])

    def broken(p, x):  # by a constant of the code, as parameters are finite
        return network(p | {"head": p["head"] | {"kernel": jnp.full((6, 4), jnp.inf)}}, x)

    with pytest.raises(ExportError, match=r"constant of layer dense .* is not finite"):
        plan_emulation(trace(broken, parameters(), SHAPE))


def test_the_types_of_hls4mls_inference():
    """The rules of hls4ml for "auto", by hand: products and sums grow by what they can hold."""
    graph = trace(
        lambda p, x: x @ p["kernel"] + p["bias"][None], {"kernel": values(0, 5, 2), "bias": values(1, 2)}, (5,)
    )
    types = resolve_types(graph, DesignTypes(accum="auto"))
    (dense,) = [node.name for node in graph if node.kind == "dense"]
    # 16 + 16 bits, ceil(log2(5)) = 3 for the terms, 1 for the bias.
    assert types[dense].accum == FixedPoint(36, 16)
    assert types[dense].result == FixedPoint(16, 6)
    named = dataclasses.replace(DesignTypes(), layers={dense: LayerTypes(result="auto")})
    assert resolve_types(graph, named)[dense].result == FixedPoint(36, 16)


@pytest.mark.parametrize("width", [16, 44])
def test_a_layer_whose_weights_are_all_zero_puts_out_its_bias(width):
    bias = np.array([0.5, -1.25, 0.0], np.float32)
    fields = {"kernel": ir.Weight(np.zeros((2, 3), np.float32)), "bias": ir.Weight(bias)}
    dense = ir.Dense(name="y", inputs=("x",), shape=(3,), **fields)
    graph = ir.Graph((ir.Input(name="x", inputs=(), shape=(2,)), dense), "y")
    plan = plan_emulation(graph, DesignTypes(default=FixedPoint(width, 12)))
    np.testing.assert_array_equal(emulate(plan, values(0, 5, 2)), np.tile(bias, (5, 1)))
