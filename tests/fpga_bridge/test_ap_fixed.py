"""Conversions between formats of any width, integer bits, sign and modes, drawn by Hypothesis, as the headers do."""

import sys
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from fpga_bridge.emulation.words import MAX_BITS, Format, convert
from jaxgeo.layers.fixed_point import FixedPoint, Overflow, Rounding, quantize

sys.path.insert(0, str(Path(__file__).parent))
from hls_headers import change, compile_calls, integers, sample, wide  # beside this file

CASES, WORDS = 150, 24
REACH = 100  # of integer bits and of fractions, below and above zero: floats of 64 bits go no further
FLOAT_BITS = 53


@st.composite
def formats(draw, near: FixedPoint | None = None):
    """Any format whose words two limbs hold; near another, one whose steps are of a like size."""
    is_signed = draw(st.booleans())
    width = draw(st.integers(1, 64) | st.integers(1, 16) | st.integers(65, MAX_BITS - (not is_signed)))
    integer = st.integers(-REACH, REACH)
    if near is not None:
        integer = integer | st.integers(-4, 4).map(lambda more: near.integer + more)
        integer = integer | st.integers(-9, 9).map(lambda more: width - near.fraction + more)
    overflow = draw(st.sampled_from(get_args(Overflow)))
    if is_signed and overflow == "SAT_SYM":
        width = max(width, 2)  # one bit would be zero alone, and is refused
    kept = min(max(draw(integer), -REACH, width - REACH), REACH)
    return FixedPoint(width, kept, is_signed, draw(st.sampled_from(get_args(Rounding))), overflow)


@st.composite
def conversions(draw):
    """A source, a target, and words of the source: drawn ones, both ends, and ties."""
    source = draw(formats())
    target = draw(formats(near=source))
    # An assertion of the headers ends the process where a rounding drops more bits than the source has.
    assume(source.fraction - target.fraction <= source.width or target.rounding == "TRN")
    word = st.integers(source.min_word, source.max_word)
    drawn = draw(st.lists(word, min_size=WORDS // 2, max_size=WORDS // 2))
    return source, target, [*drawn, *sample(source, WORDS - len(drawn), draw(st.integers(0, 2**16)))]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """What Hypothesis draws, and what the headers, compiled once for all of it, make of the words."""
    found = []

    @settings(max_examples=CASES, phases=[Phase.generate], database=None)
    @given(conversions())
    def collect(case):
        found.append(case)

    collect()
    calls = [change(source, target) for source, target, _ in found]
    run = compile_calls(tmp_path_factory.mktemp("formats"), "", [calls])
    return [(*case, run(0, i, WORDS, case[2], WORDS)) for i, case in enumerate(found)]


def test_what_is_drawn_reaches_all_modes_and_sizes(cases):
    both = [format for source, target, *_ in cases for format in (source, target)]
    for of, known in (("rounding", get_args(Rounding)), ("overflow", get_args(Overflow)), ("signed", (False, True))):
        assert {getattr(target, of) for _, target, *_ in cases} == set(known)
    assert min(format.width for format in both) == 1
    assert max(format.width for format in both) > 100
    assert sum(format.integer < 0 for format in both) > 10
    assert sum(format.integer > format.width for format in both) > 10
    # Neither nothing but zeros and ends, nor nothing but copies.
    inside = [len(set(expected)) > 4 and expected != words for _, _, words, expected in cases]
    assert sum(inside) > CASES // 4


def test_every_conversion_equals_the_headers_with_formats_as_constants(cases):
    with jax.enable_x64(True):
        for source, target, words, expected in cases:
            found = convert(wide(words), source.fraction, Format.of(target))
            assert integers(found) == expected, (source, target, words)
            if max(source.width + (not source.signed), target.width + (not target.signed)) <= 64:
                found = convert(jnp.asarray(words, jnp.int64), source.fraction, Format.of(target))
                assert integers(found) == expected, (source, target, words)


def test_every_conversion_equals_the_headers_with_formats_as_data(cases):
    """One program for all."""
    with jax.enable_x64(True):
        rows = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(wide(words) for _, _, words, _ in cases))
        fields = zip(*(Format.of(target) for _, target, *_ in cases), strict=True)
        fractions = jnp.asarray([source.fraction for source, *_ in cases])
        found = jax.jit(jax.vmap(convert))(rows, fractions, Format(*(jnp.asarray(field) for field in fields)))
        for i, (source, target, words, expected) in enumerate(cases):
            assert integers(found[i]) == expected, (source, target, words)


def test_rounding_floats_equals_the_headers_where_they_hold_both_formats(cases):
    compared = 0
    with jax.enable_x64(True):
        for source, target, words, expected in cases:
            if max(source.width, target.width) <= FLOAT_BITS:
                values = jnp.asarray(np.array(words, np.float64) * source.step)
                found = np.asarray(quantize(values, target)) / target.step
                assert found.astype(int).tolist() == expected, (source, target, words)
                compared += len(words)
    assert compared > 500
