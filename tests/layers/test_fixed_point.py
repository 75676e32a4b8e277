"""Fixed point against the HLS headers that hls4ml ships, compiled by g++, and against exact rational arithmetic."""

import ctypes
import itertools
import math
import random
import subprocess
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec
from unchecked import without_type_checks

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.fixed_point import FixedPoint, Overflow, Rounding, from_integers, quantize, to_integers

MODES = list(itertools.product(get_args(Rounding), get_args(Overflow)))
WIDE = FixedPoint(48, 16)  # an accumulator: assigned from a double, then to the format


def header_formats() -> list[FixedPoint]:
    """Every pair of modes with several shapes: usual, no integer bits, implied bits on either side, one bit."""
    draw = random.Random(0)
    formats = []
    for rounding, overflow in MODES:
        formats.append(FixedPoint(draw.randint(2, 12), draw.randint(1, 5), True, rounding, overflow))
        formats.append(FixedPoint(draw.randint(1, 12), draw.randint(-3, 9), False, rounding, overflow))
        formats.append(FixedPoint(draw.randint(2, 25), draw.randint(-6, 12), True, rounding, overflow))
    one_bit = [
        FixedPoint(1, 1, True, "RND", "SAT"),
        FixedPoint(1, 1, False),
        FixedPoint(1, 0, True, "RND_CONV", "WRAP"),
    ]
    return [*formats, *one_bit, FixedPoint(24, 8, False, "RND_CONV", "SAT"), FixedPoint(16, 6)]


FORMATS = header_formats()
THROUGH_WIDE = range(0, len(FORMATS), 3)


@pytest.fixture(scope="module")
def headers(tmp_path_factory):
    """`assign(index, values, through_wide)`: what the C++ type gives, all formats in one shared library."""
    package = find_spec("hls4ml")
    assert package is not None
    assert package.submodule_search_locations is not None
    include = Path(package.submodule_search_locations[0]) / "templates" / "vivado" / "ap_types"
    folder = tmp_path_factory.mktemp("headers")
    single = [f"case {i}: run_all(n, x, y, assign<{f}>); break;" for i, f in enumerate(FORMATS)]
    double = [f"case {i}: run_all(n, x, y, assign<{FORMATS[i]}, {WIDE}>); break;" for i in THROUGH_WIDE]
    source = f"""#include "ap_fixed.h"
    template <class T> double assign(double x) {{ return T(x).to_double(); }}
    template <class T, class S> double assign(double x) {{ S s = x; T t = s; return t.to_double(); }}
    void run_all(long n, const double *x, double *y, double (*f)(double)) {{
        for (long j = 0; j < n; ++j) y[j] = f(x[j]);
    }}
    extern "C" void run(int format, int wide, long n, const double *x, double *y) {{
        if (wide) switch (format) {{ {" ".join(double)} }}
        else switch (format) {{ {" ".join(single)} }}
    }}"""
    (folder / "assign.cpp").write_text(source)
    command = ["g++", "-std=c++14", "-O0", "-w", "-shared", "-fPIC", f"-I{include}", "assign.cpp", "-o", "assign.so"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "assign.so"))

    def assign(index: int, values: np.ndarray, through_wide: bool = False) -> np.ndarray:
        x = np.ascontiguousarray(values, np.float64)
        y = np.empty_like(x)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, y)]
        library.run(index, int(through_wide), ctypes.c_long(x.size), *pointers)
        return y

    return assign


def values_for(format: FixedPoint, dtype) -> np.ndarray:
    """Ties, neighbours of ties, both ends and beyond, far overflow, tiny values, both signs, both zeros, infinities."""
    draw = np.random.default_rng(0)
    words = np.concatenate([np.arange(-40, 41) / 8, draw.uniform(-1.5, 1.5, 150) * 2.0**format.width])
    ends = np.array([format.min_word, format.max_word, 2.0 ** (format.width - 1), 2.0**format.width])
    ends = (ends[:, None] + np.arange(-6, 7)[None] / 4).ravel()
    words = np.concatenate([words, np.round(words * 2) / 2, ends, -ends]).astype(dtype)
    words = np.concatenate([words, np.nextafter(words, np.inf), np.nextafter(words, -np.inf)])
    far = np.array([0.0, np.inf, 1e30, 3e38, 2.0**40, 1e-30, 2.0**-126, 2.0**-70, 1.0, 0.3])
    values = np.concatenate([words.astype(np.float64) * format.step, far, -far])
    values = values[(values == 0) | (np.abs(values) >= np.finfo(np.float32).tiny)]  # XLA reads subnormals as zero
    with np.errstate(over="ignore"):
        return values.astype(dtype).astype(np.float64)


def quantize_at(values: np.ndarray, *formats: FixedPoint, dtype) -> np.ndarray:
    with jax.enable_x64(dtype == np.float64):
        x = jnp.asarray(values, dtype)
        for format in formats:
            x = quantize(x, format)
        return np.asarray(x, np.float64)


def bits(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64).view(np.int64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("index", range(len(FORMATS)), ids=lambda i: str(FORMATS[i]))
def test_quantize_equals_the_hls_header(headers, index, dtype):
    format = FORMATS[index]
    values = values_for(format, dtype)
    # Compared as bit patterns: -0 and +0 differ.
    np.testing.assert_array_equal(bits(quantize_at(values, format, dtype=dtype)), bits(headers(index, values)))


@pytest.mark.parametrize("index", THROUGH_WIDE, ids=lambda i: str(FORMATS[i]))
def test_assignment_between_two_formats_equals_the_hls_header(headers, index):
    values = values_for(FORMATS[index], np.float64)
    ours = quantize_at(values, WIDE, FORMATS[index], dtype=np.float64)
    np.testing.assert_array_equal(bits(ours), bits(headers(index, values, through_wide=True)))


@given(
    index=st.integers(0, len(FORMATS) - 1),
    values=hnp.arrays(np.float32, 64, elements=st.floats(allow_nan=False, allow_subnormal=False, width=32)),
)
def test_quantize_equals_the_hls_header_at_any_float(headers, index, values):
    ours = quantize_at(values, FORMATS[index], dtype=np.float32)
    np.testing.assert_array_equal(bits(ours), bits(headers(index, values)))


def rational_quantize(x: float, format: FixedPoint) -> Fraction:
    """The definition, in exact arithmetic."""
    scaled = Fraction(x) * Fraction(2) ** format.fraction
    down, up = math.floor(scaled), math.ceil(scaled)
    zero, out = (down, up) if x > 0 else (up, down)
    tie = {"RND": up, "RND_ZERO": zero, "RND_INF": out, "RND_MIN_INF": down, "RND_CONV": down + down % 2}
    if format.rounding in ("TRN", "TRN_ZERO"):
        word = down if format.rounding == "TRN" else zero
    else:
        word = tie[format.rounding] if scaled - down == Fraction(1, 2) else round(scaled)
    if not format.min_word <= word <= format.max_word:
        if format.overflow == "WRAP":
            word = (word - format.min_word) % 2**format.width + format.min_word
        elif format.overflow == "SAT_ZERO":
            word = 0
        else:
            word = format.max_word if word > 0 else format.min_word
    return word * Fraction(2) ** -format.fraction


formats = st.builds(
    FixedPoint,
    width=st.integers(2, 24),
    integer=st.integers(-8, 30),
    signed=st.booleans(),
    rounding=st.sampled_from(get_args(Rounding)),
    overflow=st.sampled_from(get_args(Overflow)),
)


@settings(max_examples=15)
@given(format=formats, seed=st.integers(0, 2**31 - 1))
def test_quantize_equals_its_definition_in_rational_arithmetic(format, seed):
    words = np.random.default_rng(seed).uniform(-3, 3, 32) * 2.0**format.width
    words = np.concatenate([words, np.round(words), np.round(words) / 2, words / 2**format.width])
    x = (words * format.step).astype(np.float32)
    expected = [float(rational_quantize(float(value), format)) for value in x]
    np.testing.assert_array_equal(quantize(jnp.asarray(x), format), np.asarray(expected, np.float32))


@settings(max_examples=10)
@given(format=formats, seed=st.integers(0, 2**31 - 1))
def test_quantize_is_idempotent_and_words_return(format, seed):
    x = jax.random.normal(jax.random.key(seed), (64,)) * format.max
    once = quantize(x, format)
    np.testing.assert_array_equal(quantize(once, format), once)
    words = to_integers(x, format)
    assert words.dtype == jnp.int32
    assert format.min_word <= int(words.min()) <= int(words.max()) <= format.max_word
    np.testing.assert_array_equal(from_integers(words, format), once)


@given(format=formats)
def test_a_format_is_read_back_from_its_name(format):
    assert FixedPoint.parse(str(format)) == format
    assert hash(FixedPoint.parse(str(format))) == hash(format)
    assert format.max - format.min == (format.max_word - format.min_word) * format.step


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("ap_fixed<16,6>", FixedPoint(16, 6)),
        ("ap_ufixed< 8, 0, AP_RND_CONV, AP_SAT >", FixedPoint(8, 0, False, "RND_CONV", "SAT")),
        ("ufixed<8,0,RND,WRAP,0>", FixedPoint(8, 0, False, "RND", "WRAP")),  # as hls4ml prints it
        ("ap_int<7>", FixedPoint(7, 7)),
        ("ap_uint<7>", FixedPoint(7, 7, False)),
        ("ap_fixed<4,-2>", FixedPoint(4, -2)),
    ],
)
def test_formats_are_read_as_hls_writes_them(text, format):
    assert FixedPoint.parse(text) == format


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedPoint(0, 0), "width must be a whole number of at least 1, got 0"),
        (lambda: FixedPoint(2.5, 1), "width must be a whole number of at least 1, got 2.5"),
        (lambda: FixedPoint(16.0, 6), "width must be a whole number of at least 1, got 16.0"),
        (lambda: FixedPoint(16, 6.0), "integer must be a whole number, got 6.0"),
        (lambda: FixedPoint.parse("ap_fixed<8,4,AP_UP>"), "rounding must be one of TRN.*, got 'UP'"),
        (lambda: FixedPoint.parse("ap_fixed<8,4,AP_RND,AP_CLIP>"), "overflow must be one of WRAP.*, got 'CLIP'"),
        (lambda: FixedPoint(1, 1, overflow="SAT_SYM"), "one signed bit leaves zero alone; use width 2"),
        (lambda: FixedPoint(8, 200), "which floats cannot hold"),
        (lambda: FixedPoint.parse("fixed 8 4"), "cannot read 'fixed 8 4' as a fixed-point format; write ap_fixed"),
        (lambda: FixedPoint.parse("ap_fixed<8>"), "cannot read"),
        (lambda: FixedPoint.parse("ap_int<8,4>"), "cannot read"),
        (lambda: FixedPoint.parse("ap_fixed<8,4,AP_RND,AP_WRAP,2>"), "asks for 2 saturation bits"),
        (lambda: quantize(jnp.ones(3), FixedPoint(32, 16)), "31 bits of magnitude but float32 carries 24 exactly"),
        (lambda: to_integers(jnp.ones(3), FixedPoint(25, 16, False)), "25 bits of magnitude"),
    ],
)
def test_impossible_formats_are_refused_in_one_sentence(make, message):
    with without_type_checks(), pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        make()


def test_only_wide_enough_floats_are_rounded():
    with pytest.raises(InputError, match="float16 is too coarse"):
        quantize(jnp.ones(3, jnp.float16), FixedPoint(8, 4))


def test_words_of_more_than_32_bits_need_int64():
    format, x = FixedPoint(40, 10), np.array([-511.75, 0.125, 2.0**-30])
    with jax.enable_x64(True):
        words = to_integers(jnp.asarray(x), format)
        assert words.dtype == jnp.int64
        np.testing.assert_array_equal(words, (x * 2.0**30).astype(np.int64))
        np.testing.assert_array_equal(from_integers(words, format, jnp.float64), x)


def test_nan_stays_nan():
    with jax.debug_nans(False):
        for rounding, overflow in MODES:
            x = jnp.array([jnp.nan, 1.0])
            np.testing.assert_array_equal(quantize(x, FixedPoint(8, 4, True, rounding, overflow)), x)


@pytest.mark.parametrize(("rounding", "overflow"), MODES)
def test_gradient_is_straight_through_and_stops_where_the_value_saturates(rounding, overflow):
    format = FixedPoint(6, 3, True, rounding, overflow)
    x = jnp.linspace(-9, 9, 73) + 0.03  # clear of ties and ends
    gradient = jax.grad(lambda x: jnp.sum(4 * quantize(x, format)))(x)
    inside = np.array([format.min <= rational_quantize(float(v), without_ends(format)) <= format.max for v in x])
    np.testing.assert_array_equal(gradient, 4 * (inside | (overflow == "WRAP")))
    assert not inside.all()
    _, tangent = jax.jvp(lambda x: quantize(x, format), (x,), (x,))
    np.testing.assert_array_equal(tangent, x * gradient / 4)


def without_ends(format: FixedPoint) -> FixedPoint:
    """The same step without an end in reach."""
    return FixedPoint(format.width + 8, format.integer + 8, True, format.rounding, "SAT")


def test_transformations_leave_the_values_alone():
    format = FixedPoint(8, 3, True, "RND_CONV", "SAT")
    x = jax.random.normal(jax.random.key(0), (8, 5)) * 3
    expected = quantize(x, format)

    def through(x):
        return quantize(x, format)

    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    sharded = jax.shard_map(through, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))
    scanned = jax.lax.scan(lambda carry, row: (carry, through(row)), 0, x)[1]
    for result in (jax.jit(through)(x), jax.vmap(through)(x), jax.vmap(through, 1, 1)(x), sharded(x), scanned):
        np.testing.assert_array_equal(result, expected)
    gradient = jax.grad(lambda x: jnp.sum(through(x) ** 2))(x)
    per_row = jax.jit(jax.vmap(jax.grad(lambda row: jnp.sum(through(row) ** 2))))(x)
    np.testing.assert_array_equal(per_row, gradient)
    constant = jax.grad(lambda x: jnp.sum(x * through(jax.lax.stop_gradient(x))))(x)
    np.testing.assert_array_equal(constant, expected)


def test_one_primitive_with_its_format_stands_in_the_jaxpr():
    format = FixedPoint(8, 3)
    equations = jax.make_jaxpr(lambda x: quantize(x, format))(jnp.ones(3)).eqns
    assert [(e.primitive.name, e.params) for e in equations] == [("fixed_point_quantize", {"format": format})]
