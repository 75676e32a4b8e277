"""Words, sums of products and tables against the HLS headers that hls4ml ships, compiled by g++ into one library."""

import itertools
import math
import random
import sys
from fractions import Fraction
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpga_bridge.emulation.emulator import emulate_words, plan_emulation
from fpga_bridge.emulation.layer_types import DesignTypes, LayerTypes, SoftmaxKind, SoftmaxTypes
from fpga_bridge.emulation.products import accumulate, plan_product
from fpga_bridge.emulation.words import Format, Wide, carrier, convert, limit, multiply, round_away
from fpga_bridge.tracing.trace import trace
from fpga_bridge.typed_graph.tables import exp_table, inverse_table, sigmoid_table, tanh_table, words_of
from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint, Overflow, Rounding

sys.path.insert(0, str(Path(__file__).parent))
from hls_headers import change, compile_calls, integers, sample, wide  # beside this file

MODES = list(itertools.product(get_args(Rounding), get_args(Overflow)))
COUNT = 64  # words of each case
FAN_IN, FAN_OUT, BATCH, CLASSES = 7, 3, 32, 5
SOFTMAXES = get_args(SoftmaxKind)


def conversions() -> list[tuple[FixedPoint, FixedPoint]]:
    """Every pair of modes, signed and not, from narrow sources and from ones beyond 53 and 64 bits."""
    draw = random.Random(1)
    cases = []
    for i, (rounding, overflow) in enumerate(MODES):
        width = (draw.randint(2, 20), draw.randint(55, 63), draw.randint(65, 110))[i % 3]
        source = FixedPoint(width, draw.randint(-3, width + 3), bool(i % 2))
        target = draw.randint(2, 24) if i % 5 else draw.randint(40, 62)
        cases.append((source, FixedPoint(target, draw.randint(-4, 12), bool(i % 4 < 3), rounding, overflow)))
    wide = FixedPoint(100, 40)
    return [*cases, (wide, FixedPoint(64, 20, True, "RND_CONV", "SAT"))]


def dense_cases() -> list[tuple[FixedPoint, FixedPoint, FixedPoint, FixedPoint]]:
    """Input, weight, bias, accumulator: each way of multiplying, and accumulators beyond 53 and 64 bits."""
    x16, w16 = FixedPoint(16, 6), FixedPoint(16, 2)
    return [
        (x16, w16, x16, FixedPoint(16, 6)),
        (x16, FixedPoint(12, 1), x16, FixedPoint(14, 5)),
        (x16, w16, x16, FixedPoint(16, 6, True, "RND", "WRAP")),
        (x16, w16, x16, FixedPoint(16, 6, True, "RND_CONV", "SAT")),
        (x16, w16, x16, FixedPoint(18, 4, True, "TRN_ZERO", "SAT_ZERO")),
        (x16, w16, x16, FixedPoint(70, 20)),
        (x16, w16, x16, FixedPoint(60, 12, True, "TRN", "SAT_SYM")),
        (FixedPoint(40, 8), FixedPoint(30, 3), x16, FixedPoint(57, 9, True, "RND", "SAT")),
        (FixedPoint(40, 8), FixedPoint(30, 3), x16, FixedPoint(72, 12)),
        (FixedPoint(40, 8), FixedPoint(30, 3), x16, FixedPoint(80, 14, True, "RND_INF", "SAT")),
        (FixedPoint(16, 6, False), w16, x16, FixedPoint(16, 6, False)),
        (FixedPoint(9, 3), FixedPoint(8, 2), FixedPoint(6, 1), FixedPoint(28, 12)),
    ]


CONVERSIONS, DENSE = conversions(), dense_cases()
TABLE_ARGUMENTS = [FixedPoint(16, 6), FixedPoint(15, 5, False), FixedPoint(18, 8, True, "RND", "SAT")]
ENTRY = FixedPoint(18, 8, True, "RND", "SAT")
TABLES = [(kind, argument) for kind in ("exp", "minus_exp", "inverse") for argument in TABLE_ARGUMENTS]
SOURCE = """
#include "nnet_utils/nnet_dense_latency.h"
#include "nnet_utils/nnet_activation.h"
template <class W, class B, class A> struct dense_config {
    static const unsigned n_in = FAN_IN, n_out = FAN_OUT;
    typedef W weight_t; typedef B bias_t; typedef A accum_t;
    template <class x_T, class y_T> using product = nnet::product::mult<x_T, y_T>;
};
template <class X, class W, class B, class A, bool S> void dense(int n, const word *v, word *y) {
    static X x[FAN_IN]; static W w[FAN_IN * FAN_OUT]; static B b[FAN_OUT]; static A a[FAN_OUT];
    for (int i = 0; i < FAN_IN * FAN_OUT; ++i, v += 2) w[i] = put<W>(v);
    for (int i = 0; i < FAN_OUT; ++i, v += 2) b[i] = put<B>(v);
    for (int j = 0; j < n; ++j) {
        for (int i = 0; i < FAN_IN; ++i, v += 2) x[i] = put<X>(v);
        nnet::dense_latency<X, A, dense_config<W, B, A>>(x, a, w, b);
        for (int i = 0; i < FAN_OUT; ++i, y += 2) get<A, S>(a[i], y);
    }
}
typedef ENTRY entry;
struct table_config {
    static const unsigned exp_table_size = 1024, inv_table_size = 1024;
    static constexpr float exp_scale = 1.0;
    typedef entry exp_table_t; typedef entry inv_table_t; typedef entry table_t;
};
template <class T> void table(int kind, word *y) {
    static entry t[1024];
    if (kind < 2) nnet::init_exp_table<T, table_config>(t, kind == 1);
    else nnet::init_invert_table<T, table_config>(t);
    for (int i = 0; i < 1024; ++i) get<entry, true>(t[i], y + 2 * i);
}
void centred(int kind, word *y) {
    static entry t[1024];
    if (kind) nnet::init_tanh_table<table_config, 1024>(t); else nnet::init_sigmoid_table<table_config, 1024>(t);
    for (int i = 0; i < 1024; ++i) get<entry, true>(t[i], y + 2 * i);
}
struct softmax_config : table_config {
    static const unsigned n_slice = CLASSES;
    typedef entry accum_t; typedef entry inv_inp_t; typedef ap_ufixed<15, 5> inp_norm_t;
};
template <nnet::softmax_implementation I> struct of_kind : softmax_config {
    static const nnet::softmax_implementation implementation = I;
};
template <nnet::softmax_implementation I> void softmax(int n, const word *v, word *y) {
    typedef ap_fixed<16, 6> value;
    value x[CLASSES], z[CLASSES];
    for (int j = 0; j < n; ++j) {
        for (int i = 0; i < CLASSES; ++i, v += 2) x[i] = put<value>(v);
        nnet::softmax<value, value, of_kind<I>>(x, z);
        for (int i = 0; i < CLASSES; ++i, y += 2) get<value, true>(z[i], y);
    }
}
"""


@pytest.fixture(scope="module")
def headers(tmp_path_factory):
    """`run(what, case, count, inputs, outputs)` of the library."""
    calls = [
        [change(a, b) for a, b in CONVERSIONS],
        [f"dense<{x}, {w}, {b}, {a}, {int(a.signed)}>(n, x, y)" for x, w, b, a in DENSE],
        [f"table<{argument}>({('exp', 'minus_exp', 'inverse').index(kind)}, y)" for kind, argument in TABLES],
        ["centred(0, y)", "centred(1, y)"],
        [f"softmax<nnet::softmax_implementation::{kind}>(n, x, y)" for kind in SOFTMAXES],
    ]
    sizes = {"FAN_IN": FAN_IN, "FAN_OUT": FAN_OUT, "CLASSES": CLASSES, "ENTRY": ENTRY}
    defined = "".join(f"#define {name} {value}\n" for name, value in sizes.items())
    return compile_calls(tmp_path_factory.mktemp("headers"), defined + SOURCE, calls)


@pytest.mark.parametrize("case", range(len(CONVERSIONS)), ids=lambda i: f"{CONVERSIONS[i][0]}-{CONVERSIONS[i][1]}")
def test_a_conversion_of_words_equals_the_hls_header(headers, case):
    source, target = CONVERSIONS[case]
    values = sample(source, COUNT, case)
    expected = headers(0, case, COUNT, values, COUNT)
    with jax.enable_x64(True):
        assert integers(convert(wide(values), source.fraction, Format.of(target))) == expected
        if max(source.width + (not source.signed), target.width + (not target.signed)) <= 64:
            words = jnp.asarray(values, jnp.int64)
            assert integers(convert(words, source.fraction, Format.of(target))) == expected


def test_one_program_converts_to_every_format(headers):
    """All formats as data of one program under vmap, in two limbs."""
    values = [sample(source, COUNT, i) for i, (source, _) in enumerate(CONVERSIONS)]
    expected = [headers(0, i, COUNT, row, COUNT) for i, row in enumerate(values)]
    with jax.enable_x64(True):
        rows = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(wide, values))
        formats = Format(*(jnp.asarray(field) for field in zip(*(Format.of(t) for _, t in CONVERSIONS), strict=True)))
        fractions = jnp.asarray([source.fraction for source, _ in CONVERSIONS])
        results = jax.jit(jax.vmap(convert))(rows, fractions, formats)
        for i, row in enumerate(expected):
            assert integers(results[i]) == row


@pytest.mark.parametrize("case", range(len(DENSE)), ids=lambda i: "-".join(map(str, DENSE[i])))
def test_sums_of_products_equal_those_of_the_dense_kernel(headers, case):
    x_type, w_type, b_type, accum = DENSE[case]
    kernel, bias = sample(w_type, FAN_IN * FAN_OUT, case), sample(b_type, FAN_OUT, case + 50)
    x = sample(x_type, FAN_IN * BATCH, case + 100)
    random.Random(case).shuffle(x)
    expected = headers(1, case, BATCH, [*kernel, *bias, *x], BATCH * FAN_OUT)
    weights = np.array(kernel, np.int64).reshape(FAN_IN, FAN_OUT)
    fractions = (x_type.fraction, w_type.fraction, b_type.fraction)
    recipe = plan_product(
        [weights],
        [np.array(bias)],
        intervals=[(x_type.min_word, x_type.max_word)],
        fractions=[fractions],
        accums=[accum],
        reuse_factor=1,
    )
    with jax.enable_x64(True):
        kind = carrier(x_type.width + (not x_type.signed))
        rows = jnp.asarray(x, jnp.int64).astype(kind).reshape(BATCH, FAN_IN).T
        order = jnp.asarray(recipe.rows)
        used = jnp.asarray(weights)[order]
        words = accumulate(
            recipe,
            lambda k: rows[order[k]],
            lambda: rows[order],
            used,
            jnp.asarray(bias, jnp.int64),
            shape=(BATCH,),
            fractions=fractions,
            accum=Format.of(accum),
        )
        got = integers(words)
    assert [got[j * BATCH + i] for i in range(BATCH) for j in range(FAN_OUT)] == expected


def test_each_way_of_multiplying_is_among_the_cases():
    ways = set()
    for x_type, w_type, b_type, accum in DENSE:
        recipe = plan_product(
            [np.full((FAN_IN, FAN_OUT), w_type.min_word)],
            [np.zeros(FAN_OUT, np.int64)],
            intervals=[(x_type.min_word, x_type.max_word)],
            fractions=[(x_type.fraction, w_type.fraction, b_type.fraction)],
            accums=[accum],
            reuse_factor=1,
        )
        ways.add((recipe.way, recipe.kind is Wide))
    assert {("dot", False), ("high", False), ("loop", False), ("loop", True)} <= ways


@pytest.mark.parametrize("case", range(len(TABLES)), ids=lambda i: f"{TABLES[i][0]}-{TABLES[i][1]}")
def test_tables_of_a_softmax_equal_those_of_the_cpp_entry_by_entry(headers, case):
    kind, argument = TABLES[case]
    ours = (
        inverse_table(argument, ENTRY, 1024)
        if kind == "inverse"
        else exp_table(argument, ENTRY, 1024, negative=kind == "minus_exp")
    )
    np.testing.assert_array_equal(ours, headers(2, case, 0, [], 1024))


def test_tables_of_sigmoid_and_tanh_equal_those_of_the_cpp_entry_by_entry(headers):
    np.testing.assert_array_equal(sigmoid_table(ENTRY), headers(3, 0, 0, [], 1024))
    np.testing.assert_array_equal(tanh_table(ENTRY), headers(3, 1, 0, [], 1024))


@pytest.mark.parametrize("case", range(len(SOFTMAXES)), ids=lambda i: SOFTMAXES[i])
def test_each_softmax_equals_the_cpp(headers, case):
    graph = trace(lambda p, x: jax.nn.softmax(x), {}, (CLASSES,))
    types = LayerTypes(softmax=SoftmaxTypes(SOFTMAXES[case]))
    plan = plan_emulation(graph, DesignTypes(layers={"softmax": types}))
    # Within the tables, and beyond them on both sides.
    words = np.random.default_rng(case).normal(size=(BATCH, CLASSES)) * np.geomspace(50, 20000, BATCH)[:, None]
    words = np.clip(words.round(), -(2**15), 2**15 - 1).astype(int)
    expected = headers(4, case, BATCH, words.ravel().tolist(), BATCH * CLASSES)
    assert emulate_words(plan, words / 2**10).ravel().tolist() == expected


big = st.integers(-(2**126), 2**126 - 1)
small = st.integers(-(2**63), 2**63 - 1)


@given(a=big, b=big, count=st.integers(0, 127), x=small, y=small)
def test_two_limbs_compute_as_integers_modulo_2_to_the_128(a, b, count, x, y):
    def folded(value: int) -> int:
        return (value + 2**127) % 2**128 - 2**127

    with jax.enable_x64(True):
        first, second = wide([a]), wide([b])
        assert integers(first + second) == [a + b]
        assert integers(first - second) == [a - b]
        assert integers(first << count) == [folded(a << count)]
        assert integers(first >> count) == [a >> count]
        assert integers(multiply(jnp.asarray([x]), jnp.asarray([y]))) == [x * y]
        assert bool((first < second)[0]) == (a < b)
        assert bool((first > second)[0]) == (a > b)
        # A shift by an array, as under vmap.
        assert integers(first >> jnp.asarray([count])) == [a >> count]


def rounded(value: Fraction, rounding: str) -> int:
    """The definition of each mode, on exact rationals."""
    floor, ceiling = math.floor(value), math.ceil(value)
    inner, outer = (floor, ceiling) if value > 0 else (ceiling, floor)
    if rounding in ("TRN", "TRN_ZERO"):
        return floor if rounding == "TRN" else inner
    if 2 * value != floor + ceiling:
        return round(value)
    ties = {"RND": ceiling, "RND_ZERO": inner, "RND_INF": outer, "RND_MIN_INF": floor, "RND_CONV": round(value)}
    return ties[rounding]


# The headers stop where more bits are rounded away than the source has; counts reach beyond that here.
@given(word=st.integers(-(2**62), 2**62), count=st.integers(0, 200), rounding=st.sampled_from(get_args(Rounding)))
def test_rounding_is_its_definition_static_and_traced_in_both_carriers(word, count, rounding):
    code = get_args(Rounding).index(rounding)
    expected = [rounded(Fraction(word, 2**count), rounding)]
    with jax.enable_x64(True):
        words = jnp.asarray([word], jnp.int64)
        assert integers(round_away(words, count, code)) == expected
        assert integers(round_away(Wide.of(words), count, code)) == expected
        assert integers(round_away(words, jnp.asarray([count]), jnp.asarray([code]))) == expected


def test_impossible_widths_and_table_sizes_are_named():
    with pytest.raises(ConfigError, match="words need 128 bits, more than the 127"):
        carrier(128)
    with pytest.raises(ConfigError, match="power of two of entries, at least 2, got 1000; 1024 would work"):
        exp_table(ENTRY, ENTRY, 1000, negative=False)
    with pytest.raises(ConfigError, match=r"needs 10 address bits, but its argument .* has 8; use at most 256"):
        inverse_table(FixedPoint(8, 4), ENTRY, 1024)
    np.testing.assert_array_equal(words_of(np.array([[0.5], [-1.0]]), FixedPoint(8, 4)), [[8], [-16]])


@pytest.mark.parametrize("overflow", get_args(Overflow))
@pytest.mark.parametrize("width", [16, 32, 64])
def test_a_format_as_wide_as_its_carrier_is_limited_as_pythons_integers_are(width, overflow):
    """The smallest word has no negative in the carrier."""
    format = FixedPoint(width, width // 2, True, "TRN", overflow)
    half = 1 << (width - 1)
    edges = [sign * (half >> left) + d for left in (1, 5, width - 2) for sign in (-1, 1) for d in (-1, 0, 1)]
    numbers = np.array([-half, half - 1, -1000, 1000, *edges], np.int64)
    with jax.enable_x64(True):
        words = jnp.asarray(numbers, carrier(width))
        for left in (0, 1, 5, width - 2, width - 1, width, width + 3):
            found = integers(limit(words, left, Format.of(format)))
            assert found == [_limited(int(number) << left, format) for number in numbers]


def _limited(number: int, format: FixedPoint) -> int:
    if format.overflow == "WRAP":
        return (number - format.min_word) % 2**format.width + format.min_word
    if format.min_word <= number <= format.max_word:
        return number
    return 0 if format.overflow == "SAT_ZERO" else min(max(number, format.min_word), format.max_word)
