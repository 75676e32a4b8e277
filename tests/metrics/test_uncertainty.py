import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.metrics.information import entropy, kl_divergence
from jaxgeo.metrics.predictive import group_log_means, leave_one_out, mean_log_probs, summarize
from jaxgeo.metrics.uncertainty import expected_entropy, mutual_information, predictive_entropy

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of each logarithm and each exponential.

LN2 = np.log(2)
# Few shapes and many seeds: every new shape is compiled anew.
sizes = st.sampled_from([1, 5])
seeds = st.integers(0, 2**31 - 1)
sharpness = st.sampled_from([1e-3, 1.0, 30.0, 1e4])


def random_log_probs(seed, *shape, scale=1.0):
    return jax.nn.log_softmax(scale * jax.random.normal(jax.random.key(seed), shape))


def log(probabilities):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(np.asarray(probabilities, np.float32)))


@pytest.mark.parametrize(
    ("members", "total", "expected"),
    [
        ([[1, 0, 0, 0], [0, 1, 0, 0]], LN2, 0),  # each certain of another class
        ([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], 2 * LN2, LN2),  # uniform on disjoint pairs
        ([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0]], LN2, LN2),  # in full agreement
        ([[0.25] * 4] * 3, 2 * LN2, 2 * LN2),
        ([[0, 0, 1, 0]] * 5, 0, 0),
    ],
)
def test_entropies_of_simple_ensembles_are_their_closed_forms(members, total, expected):
    log_probs = log(members)[:, None]
    # float32: a few ulp of ln 4
    np.testing.assert_allclose(predictive_entropy(log_probs), [total], atol=5e-7)
    np.testing.assert_allclose(expected_entropy(log_probs), [expected], atol=5e-7)
    np.testing.assert_allclose(mutual_information(log_probs), [total - expected], atol=5e-7)


@given(draws=sizes, classes=st.sampled_from([1, 4]), seed=seeds, scale=sharpness)
def test_information_is_bounded_by_zero_entropy_and_log_draws(draws, classes, seed, scale):
    log_probs = random_log_probs(seed, draws, 3, classes, scale=scale)
    total, expected, mutual = (f(log_probs) for f in (predictive_entropy, expected_entropy, mutual_information))
    assert np.all(mutual >= 0)
    rounding = 2e-6  # float32 sums of at most 5 terms of order 1
    assert np.all(total >= expected - rounding)
    assert np.all(total <= np.log(classes) + rounding)
    assert np.all(mutual <= np.log(draws) + rounding)
    np.testing.assert_allclose(mutual, total - expected, atol=rounding)


@given(draws=sizes, seed=seeds, order=seeds)
def test_uncertainties_do_not_depend_on_the_order_of_draws(draws, seed, order):
    log_probs = random_log_probs(seed, draws, 3, 4)
    shuffled = jax.random.permutation(jax.random.key(order), log_probs)
    for metric in (predictive_entropy, expected_entropy, mutual_information):
        np.testing.assert_allclose(metric(log_probs), metric(shuffled), atol=1e-6)  # sums in another order


@pytest.mark.parametrize("least", [-1e4, -np.inf])
def test_float32_extremes_give_finite_uncertainties(least):
    log_probs = jnp.asarray([[[0.0, least]], [[least, 0.0]], [[0.0, least]]], jnp.float32)
    for compiled in (lambda f: f, jax.jit):
        np.testing.assert_allclose(
            compiled(predictive_entropy)(log_probs)[0], scipy.stats.entropy([1 / 3, 2 / 3]), rtol=1e-6
        )
        np.testing.assert_allclose(
            compiled(mutual_information)(log_probs)[0], scipy.stats.entropy([1 / 3, 2 / 3]), rtol=1e-6
        )
        assert compiled(expected_entropy)(log_probs)[0] == 0
    assert mean_log_probs(jnp.full((2, 1, 2), least, jnp.float32).at[..., 0].set(0.0))[0, 1] <= least


def test_a_disagreement_far_below_float32_resolution_of_the_entropy_is_still_measured():
    # H is ln 10 with resolution 2e-7; the information of logits 1e-4 apart is 5e-9 or so.
    logits = 1e-4 * np.random.default_rng(0).normal(size=(8, 1, 10))
    expected = mutual_information_in_float64(logits)
    measured = mutual_information(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)))
    # The log-probabilities themselves are known to 1e-7, that is to 1e-3 of their spread.
    np.testing.assert_allclose(measured, expected, rtol=1e-2)


def mutual_information_in_float64(logits):
    p = scipy.special.softmax(logits, axis=-1)
    return scipy.stats.entropy(p.mean(0), axis=-1) - scipy.stats.entropy(p, axis=-1).mean(0)


@given(seed=seeds, classes=st.sampled_from([1, 10]), scale=sharpness)
def test_kl_divergence_matches_scipy_and_is_zero_only_on_itself(seed, classes, scale):
    log_p, log_q = random_log_probs(seed, 2, 3, classes, scale=scale)
    divergence = kl_divergence(log_p, log_q)
    exact = scipy.special.rel_entr(np.exp(np.float64(log_p)), np.exp(np.float64(log_q)))
    naive = np.where(np.isfinite(exact), exact, 0).sum(-1)
    if scale <= 30:  # beyond, exp underflows in the naive sum and only ours keeps the logarithm
        # exp() of a float32 logarithm near -100 is known to 1e-5 relative
        np.testing.assert_allclose(divergence, naive, rtol=2e-5, atol=1e-6)
    assert np.all(divergence >= 0)
    assert np.all(kl_divergence(log_p, log_p) == 0)


def test_kl_divergence_is_infinite_only_where_q_excludes_what_p_allows():
    one, both = log([1.0, 0.0]), log([0.5, 0.5])
    np.testing.assert_allclose(kl_divergence(one, both), LN2, rtol=1e-6)
    assert kl_divergence(both, one) == np.inf
    assert kl_divergence(one, one) == 0


@given(seed=seeds, classes=st.sampled_from([1, 10]))
def test_entropy_matches_scipy(seed, classes):
    log_p = random_log_probs(seed, 4, classes)
    np.testing.assert_allclose(entropy(log_p), scipy.stats.entropy(np.exp(log_p), axis=-1), rtol=2e-6, atol=1e-6)


@settings(max_examples=10)
@given(shape=st.sampled_from([(2, 1), (3, 2), (6, 1)]), seed=seeds, scale=sharpness)
def test_leave_one_out_equals_computing_without_the_group(shape, seed, scale):
    groups, size = shape
    log_probs = random_log_probs(seed, groups * size, 3, 4, scale=scale)
    without = leave_one_out(log_probs, groups)
    assert without.log_mean.shape == (groups, 3, 4)
    for g in range(groups):
        kept = jnp.concatenate([log_probs[: g * size], log_probs[(g + 1) * size :]])
        expected = summarize(kept)
        np.testing.assert_allclose(without.log_mean[g], expected.log_mean, rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(without.expected_entropy[g], expected.expected_entropy, atol=2e-6)


def test_leave_one_out_keeps_a_class_that_only_the_left_out_draw_excludes_or_allows():
    log_probs = log([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
    probabilities = np.exp(leave_one_out(log_probs).log_mean)[:, 0]
    np.testing.assert_allclose(probabilities, [[0.5, 0.5], [0.5, 0.5], [1, 0]], atol=1e-7)


def test_group_means_average_the_draws_of_each_group():
    log_probs = random_log_probs(0, 6, 2, 3)
    np.testing.assert_allclose(
        np.exp(group_log_means(log_probs, 2)), np.exp(log_probs).reshape(2, 3, 2, 3).mean(1), rtol=1e-6
    )
