"""Holm's rule against the closed test that it is a short cut of, and how often chance alone passes it."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics.multiple_comparisons import holm, two_sided_p


@given(st.lists(st.sampled_from([0.0, 0.004, 0.01, 0.0125, 0.016, 0.03, 0.05, 0.5, 1.0]), max_size=6))
def test_a_comparison_passes_when_bonferronis_test_rejects_every_set_that_holds_it(p_values):
    # The closure principle of Marcus, Peritz and Gabriel (1976), over all subsets.
    indices = range(len(p_values))
    subsets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(indices, size)]
    expected = [all(min(p_values[j] for j in s) <= 0.05 / len(s) for s in subsets if i in s) for i in indices]
    np.testing.assert_array_equal(holm(np.asarray(p_values, float)), np.asarray(expected, bool))


def test_equal_things_pass_at_the_level_and_at_two_errors_they_nearly_always_do():
    z = np.random.default_rng(0).normal(size=(2000, 60))
    runs = [holm(np.asarray([two_sided_p(value, 1.0) for value in row])).any() for row in z[:400]]
    # 400 tosses at 5 % have a standard deviation of 1.1 %: three of that.
    assert np.mean(runs) < 0.05 + 0.033
    assert (np.abs(z) > 2).any(axis=1).mean() > 0.9


@given(st.floats(-8, 8), st.floats(0, 3))
def test_p_value_is_the_normal_tail_beyond_the_margin(difference, margin):
    found = two_sided_p(difference, 0.5, margin)
    excess = abs(difference) - margin
    expected = 2 * scipy.stats.norm.sf(excess / 0.5) if excess > 0 else 1.0
    np.testing.assert_allclose(found, expected, rtol=1e-10)  # two programs of the same function in float64
    assert two_sided_p(difference, float("inf"), margin) == 1.0


def test_without_an_error_only_the_margin_decides():
    assert two_sided_p(0.1, 0.0, 0.05) == 0.0
    assert two_sided_p(0.0, 0.0) == two_sided_p(0.05, 0.0, 0.05) == 1.0


def test_what_is_no_comparison_is_refused():
    for arguments in [(float("nan"), 1.0, 0.0), (1.0, -1.0, 0.0), (1.0, 1.0, float("nan"))]:
        with pytest.raises(InputError, match="a number, an error and a margin of at least 0"):
            two_sided_p(*arguments)
    for values in (np.array([0.5, np.nan]), np.array([-0.1]), np.array([1.1])):
        with pytest.raises(InputError, match="p-values are one axis of numbers from 0 to 1"):
            holm(values)
    with pytest.raises(ConfigError, match=r"between 0 and 1, got 5\.0"):
        holm(np.array([0.5]), 5.0)
