"""Cells before synthesis: multipliers by their digits, queues by their bits, two published designs."""

import dataclasses
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import resources as bench
from benchmarks.svhn_network import svhn_graph
from fpga_bridge.circuits.rtl import Port, RtlDesign
from fpga_bridge.estimates import resources as rs
from fpga_bridge.estimates.latency import HardwareConfig, plan_design
from fpga_bridge.estimates.parts import PARTS, find_part
from fpga_bridge.estimates.resources import Resources, Widths, estimate, fifo_resources, signed_digits, total
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.precision import plan_types
from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint, quantize

SIX = FixedPoint(6, 1)
# After logic synthesis: hls4ml's tutorial, part 6, of the SVHN network.
PUBLISHED = {
    "16 bits": (None, Widths(), {"dsp": 5386, "bram_tiles": 42, "lut": 123948, "ff": 43435}),
    "6 bits": (
        SIX,
        Widths(activation=6, weight=6, weight_fraction=5),
        {"dsp": 353, "bram_tiles": 34, "lut": 118931, "ff": 30702},
    ),
}
BARS = {"dsp": 0.15, "bram_tiles": 0.2, "lut": 0.25, "ff": 0.25}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_svhn_designs_have_about_the_cells_of_their_reports(name):
    weight, widths, report = PUBLISHED[name]
    for seed in range(2):  # the trained weights are not published
        whole = total(estimate(svhn_graph(0.5, weight, seed), widths=widths).values())
        for field, value in report.items():
            assert getattr(whole, field) == pytest.approx(value, rel=BARS[field]), field


def fewest_terms(word: int, bits: int) -> int:
    """By search over all sums of signed powers of two, none of the theory of signed digits."""
    sums, terms = {0}, 0
    while word not in sums:
        terms += 1
        sums |= {old + sign * 2**k for old in sums for sign in (-1, 1) for k in range(bits + 1)}
    return terms


def test_signed_digits_are_the_fewest_powers_of_two_that_sum_to_the_word():
    words = np.arange(-130, 131)
    expected = [fewest_terms(int(word), 8) for word in words]
    np.testing.assert_array_equal(signed_digits(words), expected)


@given(word=st.integers(-(2**20), 2**20), shift=st.integers(0, 8))
def test_signed_digits_do_not_see_sign_and_scale(word, shift):
    digits = signed_digits(np.array([word, -word, word << shift]))
    assert len(set(digits.tolist())) == 1


def test_products_by_zero_and_powers_of_two_cost_nothing():
    words = np.array([0, 1, -2, 64, 1024])
    assert rs.constant_products(words, 16, 16) == Resources()
    in_dsp = rs.constant_products(np.array([0b10101, 0b101, 4]), 16, 16)
    assert in_dsp == Resources(dsp=1.0, lut=16.0)  # three digits; two digits are one addition of 16 bits
    narrow = rs.constant_products(np.array([0b10101] * 100), 6, 6)
    assert narrow.dsp == pytest.approx(100 * rs.NARROW_DSP_SHARE)
    assert narrow.lut > 0


@pytest.mark.parametrize(
    ("bits_a", "bits_b", "tiles"), [
        (27, 18, 1), (18, 27, 1), (16, 16, 1), (28, 18, 2), (18, 28, 2), (27, 19, 2), (35, 27, 2), (32, 32, 4),
    ]
)  # fmt: skip
def test_wide_products_take_several_slices(bits_a, bits_b, tiles):
    assert rs.dsp_tiles(bits_a, bits_b) == rs.dsp_tiles(bits_b, bits_a) == tiles


@given(depth=st.integers(1, 40000), numbers=st.integers(1, 64), bits=st.integers(1, 64))
def test_a_queue_lies_in_shift_registers_or_in_block_ram_that_holds_it(depth, numbers, bits):
    cells = fifo_resources(depth, numbers, bits)
    if depth * bits <= rs.SRL_BITS:
        assert cells.bram18 == 0
        assert cells.lut * 32 >= numbers * bits * (depth if depth > 1 else 0)
    else:
        assert cells.bram18 * 18432 >= numbers * depth * bits
        assert (cells.lut, cells.ff) == (0, 0)


def test_queues_of_the_svhn_report_take_eighty_block_rams_of_which_sixteen_vanish_at_six_bits():
    sixteen = total(fifo_resources(depth, 16, 16) for depth in (900, 900, 225, 169, 169, 36, 16))
    six = total(fifo_resources(d, 16, b) for d, b in ((900, 16), (900, 6), (225, 6), (169, 16), (169, 6), (36, 6)))
    assert (sixteen.bram18, six.bram18) == (80, 64)


def test_reuse_divides_the_multipliers_and_asks_for_memory():
    graph = svhn_graph(0.0)
    once = estimate(graph)
    shared = estimate(graph, HardwareConfig("Resource", 8, {"dense1": 8}))
    assert shared["dense1"].dsp == 96 * 42 / 8
    assert shared["dense1"].bram18 > once["dense1"].bram18 == 0
    assert shared["conv3"].dsp < once["conv3"].dsp
    small = plan_design(graph)
    small = dataclasses.replace(small, design=small.design.with_depths([2] * len(small.design.fifos)))
    assert estimate(graph, plan=small)["fifos"].bram18 == 0 < once["fifos"].bram18


def test_a_batch_norm_costs_where_it_cannot_be_folded():
    widths = PUBLISHED["6 bits"][1]
    assert "norm1" not in estimate(svhn_graph())
    assert estimate(svhn_graph(weight=SIX), widths=widths)["norm1"].dsp > 0


@pytest.mark.parametrize(("format", "cells"), [
    (FixedPoint(16, 6), Resources(dsp=3, ff=3 * 32)),
    (FixedPoint(9, 3), Resources(lut=3 * 81, ff=3 * 18)),
    (FixedPoint(25, 3), Resources(dsp=3 * 2, ff=3 * 50)),
])  # fmt: skip
def test_a_product_of_activations_takes_the_slices_of_its_width_for_each_channel(format, cells):
    def apply(_, x):
        x = quantize(x, format)
        return x * x[..., ::-1]

    graph = trace(apply, {}, (5, 3))
    assert estimate(graph, types=plan_types(graph, 60))["multiply"] == cells


def test_every_kind_of_layer_is_counted():
    def apply(params, x):
        y = jnp.maximum(x @ jnp.ones((4, 4), jnp.float32), 0.0) + x
        y = jnp.where(y > 0, y, y * jnp.arange(2.0, 6.0)[None, None, None])
        return jnp.concatenate([y, y * jnp.arange(1.0, 5.0)[None, None, None]], axis=-1).reshape(x.shape[0], -1)

    graph = trace(apply, {}, (3, 3, 4))
    found = estimate(graph)
    kinds = {node.kind for node in graph if node.name in found}
    assert {"dense", "relu", "add", "prelu", "affine"} <= kinds
    assert found["prelu"].dsp == 4  # a multiplier for each channel, of slopes from memory
    assert total(found.values()).lut > 0


# What `python -m benchmarks.resources` printed: da4ml's estimate and register bits; LUTs and flip-flops by Yosys.
COUNTED = [
    (411, 177, 486, 170),
    (1854, 639, 2109, 564),
    (1632, 405, 1874, 394),
    (1176, 228, 1312, 197),
    (426, 196, 499, 192),
    (1846, 516, 2167, 516),
]


@pytest.mark.parametrize(("lut_estimate", "register_bits", "lut", "ff"), COUNTED)
def test_unrolled_designs_have_about_the_cells_that_yosys_counted(lut_estimate, register_bits, lut, ff):
    port = Port((True,), (6,), (0,))
    design = RtlDesign("counted", MappingProxyType({}), SIX, (1,), (1,), port, port, 1, lut_estimate, register_bits)
    cost = rs.unrolled_cost(design)
    assert cost.lut == pytest.approx(lut, rel=0.25)  # what is promised of the estimate
    assert cost.ff == pytest.approx(ff, rel=0.25)
    assert (cost.dsp, cost.bram18) == (0, 0)


def test_the_bench_fits_the_factor_with_the_smallest_worst_error():
    counted, estimated = np.array([10.0, 12.0, 30.0]), np.array([10.0, 10.0, 20.0])
    best = bench.factor(counted, estimated)
    worst = [np.abs(f * estimated / counted - 1).max() for f in np.linspace(0.5, 2, 3001)]
    assert np.abs(best * estimated / counted - 1).max() <= min(worst) + 1e-9


def test_parts_are_found_by_their_names_and_boards():
    assert find_part("xczu9eg-ffvb1156-2-e") is find_part("ZCU102") is PARTS["xczu9eg"]
    with pytest.raises(ConfigError, match=r"no part is called 'xc9'; known are xcu250 \(Alveo U250\)"):
        find_part("xc9")
    with pytest.raises(ConfigError, match="must be a whole number of at least 1"):
        Widths(weight=0)


def test_a_kernel_of_its_own_format_is_counted_in_its_words():
    entry = ir.Input(name="x", inputs=(), shape=(4,))
    kernel = ir.Weight(np.full((4, 2), 0.25, np.float32), FixedPoint(16, 6))  # a power of two
    graph = ir.Graph((entry, ir.Dense(name="head", inputs=("x",), shape=(2,), kernel=kernel)), "head")
    assert estimate(graph)["head"].dsp == 0
    other = ir.Weight(np.full((4, 2), 0.30078125, np.float32), FixedPoint(16, 6))  # 308 = 2^8 + 2^6 - 2^4 + 2^2
    graph = ir.Graph((entry, ir.Dense(name="head", inputs=("x",), shape=(2,), kernel=other)), "head")
    assert estimate(graph)["head"].dsp == 8
