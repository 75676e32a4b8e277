import functools
import itertools

import jax
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics.divergences import (
    assignment_wasserstein,
    distance_floor,
    gaussian_kl,
    nearest_neighbor_kl,
    sliced_wasserstein,
    wasserstein_1d,
    with_error,
)
from jaxgeo.metrics.standard_error import Measure

# Where nothing else is said, tolerances bound float64 rounding of sums over the points, and float32 of their spread.

seeds = st.integers(0, 2**31 - 1)


@given(seed=seeds, sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)), levels=st.sampled_from([3, 10**6]))
def test_first_distance_on_the_line_is_scipys(seed, sizes, levels):
    rng = np.random.default_rng(seed)
    one, other = (rng.integers(0, levels, n) / levels for n in sizes)
    np.testing.assert_allclose(wasserstein_1d(one, other), scipy.stats.wasserstein_distance(one, other), atol=1e-12)


@given(seed=seeds, n=st.integers(1, 5), repeats=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_second_distance_does_not_feel_repeated_draws_and_is_the_best_of_all_matchings(seed, n, repeats):
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(2, n))
    best = min(np.mean((one - other[list(order)]) ** 2) for order in itertools.permutations(range(n)))
    found = wasserstein_1d(np.repeat(one, repeats[0]), np.repeat(other, repeats[1]), 2)
    np.testing.assert_allclose(found, np.sqrt(best), atol=1e-12)


@given(seed=seeds, n=st.integers(1, 5), order=st.sampled_from([1, 2]))
def test_assignment_is_the_best_of_all_matchings(seed, n, order):
    one, other = np.random.default_rng(seed).normal(size=(2, n, 3))
    costs = np.linalg.norm(one[:, None] - other[None], axis=-1) ** order
    best = min(costs[np.arange(n), list(p)].mean() for p in itertools.permutations(range(n)))
    np.testing.assert_allclose(assignment_wasserstein(one, other, order), best ** (1 / order), rtol=1e-12)


@given(seed=seeds)
def test_a_shift_is_as_far_as_it_is_long_and_slices_see_its_root_mean_square(seed):
    rng = np.random.default_rng(seed)
    one, shift = rng.normal(size=(20, 2)), rng.normal(size=(1, 2))
    length = np.linalg.norm(shift)
    np.testing.assert_allclose(assignment_wasserstein(one, one + shift), length, rtol=1e-9)
    sliced = sliced_wasserstein(jax.random.key(seed), one, one + shift, num_projections=400)
    # E (u . shift)^2 = |shift|^2 / dim; four standard errors.
    assert abs(sliced.value - length / np.sqrt(2)) < 4.5 * sliced.standard_error
    assert sliced.value <= length
    same = sliced_wasserstein(jax.random.key(seed), one, one[::-1])
    assert (same.value, same.standard_error) == (0, 0)


@given(seed=seeds, dim=st.integers(1, 4))
def test_fitted_gaussians_have_the_divergence_of_their_closed_form(seed, dim):
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(2, 30, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=(2, 1, dim))
    p, q = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (one, other))
    shift = other.mean(0) - one.mean(0)
    inverse = np.linalg.inv(q)
    trace = np.trace(inverse @ p) + shift @ inverse @ shift
    expected = (trace - dim + np.linalg.slogdet(q)[1] - np.linalg.slogdet(p)[1]) / 2
    # The inverse of a random matrix is known to its condition number only.
    np.testing.assert_allclose(gaussian_kl(one, other), expected, rtol=1e-6, atol=1e-6)
    assert abs(gaussian_kl(one, one)) < 1e-9


def test_neighbours_find_the_divergence_of_two_gaussians_and_its_error():
    rng = np.random.default_rng(0)
    found = [nearest_neighbor_kl(rng.normal(size=(800, 2)), 1 + 2 * rng.normal(size=(900, 2)), 3) for _ in range(12)]
    # KL(N(0, 1) || N(1, 4)) = ln 2 - 1/2 + (1 + 1) / 8 in each dimension.
    exact = 2 * (np.log(2) - 0.25)
    values = [x.value for x in found]
    # Bias is of the order of the neighbours' distance squared; here below 3 %.
    np.testing.assert_allclose(np.mean(values), exact, atol=0.03 * exact + 4 * np.std(values) / np.sqrt(12))
    # Twelve repetitions know their spread to 20 %, and the summands are not quite independent.
    assert 0.5 < found[0].standard_error / np.std(values, ddof=1) < 2


def test_neighbours_do_not_see_how_far_apart_distant_samples_are():
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=(2, 1000, 2))
    found = [(nearest_neighbor_kl(one, other + s).value, gaussian_kl(one, other + s)) for s in (1, 2, 8)]
    # The figures of the docstring; neighbours know them to 0.05, means to 1 / sqrt(1000).
    np.testing.assert_allclose([value for value, _ in found], [1.0, 3.0, 10.0], atol=0.3)
    np.testing.assert_allclose([value for _, value in found], [1, 4, 64], rtol=0.2)


def test_the_floor_is_the_mean_distance_of_halves_made_of_whole_chains():
    rng = np.random.default_rng(6)
    draws = rng.normal(size=(4, 15, 2)) + rng.normal(size=(4, 1, 2))  # chains that sit at different places
    floor = distance_floor(gaussian_kl, draws.reshape(-1, 2), 4)
    halves = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    pairs = [[draws[list(half)].reshape(-1, 2) for half in both] for both in halves]
    values = [(gaussian_kl(one, other) + gaussian_kl(other, one)) / 2 for one, other in pairs]
    np.testing.assert_allclose((floor.value, floor.standard_error), (np.mean(values), np.std(values, ddof=1)))
    assert distance_floor(assignment_wasserstein, np.tile(draws[0], (2, 1)), 2) == Measure(0.0, None)
    with pytest.raises(InputError, match="do not fall into 7 equal groups"):
        distance_floor(gaussian_kl, draws.reshape(-1, 2), 7)


def test_errors_of_both_samples_are_the_spread_of_repeated_experiments():
    rng = np.random.default_rng(1)
    pairs = [(rng.normal(size=(60, 1)), 1 + rng.normal(size=(80, 1))) for _ in range(60)]

    def distance(x, y):
        return wasserstein_1d(x[:, 0], y[:, 0])

    found = [with_error(distance, *pair, 10, 10) for pair in pairs]
    spread = np.std([x.value for x in found], ddof=1)
    # Sixty repetitions know their spread to 9 %, of which three.
    np.testing.assert_allclose(np.mean([x.standard_error for x in found]), spread, rtol=0.28)


def test_a_divergence_of_gaussians_knows_no_units():
    # Weights and their logarithms, say, are of unequal sizes; rounding errors of the large ones are no rank.
    rng = np.random.default_rng(4)
    one, other = rng.normal(size=(50, 3)), rng.normal([0, 1, 2], size=(40, 3))
    units = np.array([[1e-9, 1.0, 1e9]])
    np.testing.assert_allclose(gaussian_kl(one * units, other * units), gaussian_kl(one, other), rtol=1e-10)
    shift = np.array([[1e5, 0, 0]])
    np.testing.assert_allclose(gaussian_kl(one + shift, other + shift), gaussian_kl(one, other), rtol=1e-8)


def test_groups_of_both_left_out_at_once_give_the_same_error_and_the_assignment_one():
    rng = np.random.default_rng(2)
    pairs = [(rng.normal(size=(60, 1)), 1 + rng.normal(size=(60, 1))) for _ in range(60)]
    found = [with_error(assignment_wasserstein, *pair, 10, 10, at_once=True) for pair in pairs]
    spread = np.std([x.value for x in found], ddof=1)
    # As above, sixty repetitions.
    np.testing.assert_allclose(np.mean([x.standard_error for x in found]), spread, rtol=0.28)
    # A difference of means is linear in the draws, so that both jackknives are known: that of paired differences.
    one, other = pairs[0]
    paired = with_error(lambda x, y: float(y.mean() - x.mean()), one, other, 10, 10, at_once=True)
    means = (other - one).reshape(10, 6).mean(1)
    np.testing.assert_allclose(paired.standard_error, means.std(ddof=1) / np.sqrt(10), rtol=1e-5)
    with pytest.raises(InputError, match="both samples have as many, got 10, 12"):
        with_error(assignment_wasserstein, one, other, 10, 12, at_once=True)


def test_distances_with_an_error_of_their_own_are_taken_by_their_value():
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=(40, 2)), 1 + rng.normal(size=(60, 2))
    for distance in (functools.partial(sliced_wasserstein, jax.random.key(0)), nearest_neighbor_kl):
        found = with_error(distance, one, other, 4, 6)
        assert found == with_error(lambda x, y, d=distance: d(x, y).value, one, other, 4, 6)
        assert found.value == distance(one, other).value
        assert 0 < found.standard_error < 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: wasserstein_1d(x[:, 0], x[:, 0], 0), ConfigError, "order of at least 1, got 0"),
        (lambda x: wasserstein_1d(x[:0, 0], x[:, 0]), InputError, "at least one draw"),
        (lambda x: assignment_wasserstein(x, x[:3]), InputError, "equally many draws, at most 5000, got 4 and 3"),
        (lambda x: assignment_wasserstein(x, x[:, :1]), InputError, "as many dimensions, got 2 and 1"),
        (lambda x: sliced_wasserstein(jax.random.key(0), x, x, 2, 1), ConfigError, "at least 2, got 1"),
        (lambda x: gaussian_kl(x[:2], x), InputError, "first sample must span its 2 dimensions .* 2 draws of rank 1"),
        (lambda x: gaussian_kl(x, x * [[1, 0]]), InputError, "second sample must span"),
        (lambda x: nearest_neighbor_kl(x, x), InputError, "0 draws coincide .* and 4 with 1 of the other"),
        (lambda x: nearest_neighbor_kl(x, x, 4), InputError, "4-th neighbour needs"),
        (lambda x: gaussian_kl(x, x / [[1, np.inf]] * np.inf), InputError, "second sample must be finite"),
        (functools.partial(lambda x: with_error(gaussian_kl, x, x, 3, 2)), InputError, "do not fall into 3"),
    ],
)
def test_samples_without_a_distance_are_refused(call, error, message):
    sample = np.array([[0.0, 1.0], [1.0, 0.5], [2.0, 3.0], [4.0, 1.5]])
    with pytest.raises(error, match=message), np.errstate(invalid="ignore"):
        call(sample)
