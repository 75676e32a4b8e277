import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics import acquisition, calibration
from jaxgeo.metrics.information import entropy
from jaxgeo.metrics.standard_error import (
    Measure,
    bootstrap_images,
    image_standard_error,
    jackknife,
    jackknife_draws,
    jackknife_error,
)
from jaxgeo.metrics.uncertainty import mutual_information
from jaxgeo.metrics.uncertainty_plane import uncertainty_plane

seeds = st.integers(0, 2**31 - 1)


def draws(seed, count, images=4, classes=3, spread=1.0):
    return jax.nn.log_softmax(spread * jax.random.normal(jax.random.key(seed), (count, images, classes)))


@functools.partial(jax.jit, static_argnames="groups")
def jackknife_of_one_probability(log_probs, groups):
    return jackknife(lambda p: jnp.exp(p.log_mean[0, 0]), log_probs, groups)


@given(seed=seeds, shape=st.sampled_from([(2, 1), (2, 3), (8, 1)]))
def test_jackknife_of_a_mean_is_s_over_root_n_and_unbiased(seed, shape):
    groups, size = shape
    log_probs = draws(seed, groups * size)
    result = jackknife_of_one_probability(log_probs, groups)
    of_groups = np.exp(np.float64(log_probs[:, 0, 0])).reshape(groups, size).mean(axis=1)
    # float32 values without one group differ in the 7th digit, times sqrt(groups)
    np.testing.assert_allclose(result.standard_error, of_groups.std(ddof=1) / np.sqrt(groups), rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(result.value, of_groups.mean(), rtol=1e-5)
    np.testing.assert_allclose(result.bias, 0, atol=1e-5)


@given(seed=seeds, shape=st.sampled_from([(2, 2), (5, 1)]))
def test_running_sums_and_recomputing_give_the_same_jackknife(seed, shape):
    groups, size = shape
    log_probs = draws(seed, groups * size)
    fast, slow = fast_and_slow_jackknife(log_probs, groups)
    for one, other in zip(fast, slow, strict=True):
        assert one.shape == (4,)
        np.testing.assert_allclose(one, other, atol=2e-5)  # float32 differences of entropies, times 5 groups


@functools.partial(jax.jit, static_argnames="groups")
def fast_and_slow_jackknife(log_probs, groups):
    fast = jackknife(lambda p: entropy(p.log_mean) - p.expected_entropy, log_probs, groups)
    return fast, jackknife_draws(mutual_information, log_probs, groups)


LABELS = jnp.arange(8) % 3


def curve(log_probs, binning="equal_width"):
    return calibration.reliability_curve(log_probs, LABELS, 3, binning)


@pytest.mark.parametrize(
    "metric",
    [
        acquisition.entropy_acquisition,
        acquisition.bald,
        acquisition.least_confidence,
        # Some of the images are labelled, the others are the pool.
        lambda x: acquisition.calibrated_uncertainty(x[:, :4], x[:, 4:], LABELS[4:], num_levels=1),
        lambda x: acquisition.estimated_calibration_error(x[:, :4], x[:, 4:], LABELS[4:], 0.3),
        lambda x: curve(x, "equal_mass").accuracy,
        lambda x: curve(x).confidence,
        lambda x: calibration.maximum_calibration_error(curve(x)),
        lambda x: calibration.average_calibration_error(curve(x)),
        lambda x: calibration.expected_calibration_error(x, LABELS, 3, "equal_mass", "faithful"),
        lambda x: uncertainty_plane(x, LABELS, 2).accuracy,
    ],
)
def test_what_no_scorecard_has_gets_its_error_by_leaving_out_groups(metric):
    log_probs = draws(7, 6, images=8)
    found = jackknife_draws(metric, log_probs, 3)
    without = np.stack([metric(jnp.delete(log_probs, np.arange(2 * g, 2 * g + 2), axis=0)) for g in range(3)])
    np.testing.assert_allclose(found.value, metric(log_probs), atol=1e-6)  # float32, as below
    # (G - 1) / G times the sum of squares of G = 3 values.
    np.testing.assert_allclose(found.standard_error, np.sqrt(2) * without.astype(float).std(0), atol=2e-5)


def test_jackknife_bias_brings_few_draws_nearer_to_many():
    truth = float(jnp.mean(mutual_information(draws(0, 4000, images=200))))
    few = jackknife(lambda p: jnp.mean(entropy(p.log_mean) - p.expected_entropy), draws(1, 8, images=200))
    assert few.bias < 0  # few draws see too little disagreement
    assert abs(few.value - few.bias - truth) < abs(few.value - truth) / 5


def test_leaving_whole_members_out_sees_what_single_masks_hide():
    # Ten members, each with fifty nearly equal masks: there are ten opinions, not five hundred.
    key, noise_key = jax.random.split(jax.random.key(0))
    members = jnp.repeat(jax.random.normal(key, (10, 4, 3)), 50, axis=0)
    log_probs = jax.nn.log_softmax(members + 0.01 * jax.random.normal(noise_key, members.shape))

    def top(p):
        return jnp.exp(p.log_mean[0, 0])

    whole, single = jackknife(top, log_probs, 10).standard_error, jackknife(top, log_probs).standard_error
    np.testing.assert_allclose(whole / single, np.sqrt(50 * 499 / 500 * 10 / 9), rtol=0.02)  # the noise is 1 %


def test_one_group_has_no_spread():
    for function, metric in [(jackknife, lambda p: p.log_mean[0, 0]), (jackknife_draws, lambda x: x[0, 0, 0])]:
        with pytest.raises(InputError, match="at least 2 groups"):
            function(metric, draws(0, 1))
        with pytest.raises(InputError, match="7 draws do not fall into 2 equal groups"):
            function(metric, draws(0, 7), 2)


def test_an_impossible_label_makes_errors_infinite_and_not_nan():
    left_out = jnp.asarray([[1.0, 2.0], [jnp.inf, 4.0]])
    np.testing.assert_allclose(jackknife_error(left_out), [np.inf, 1.0])
    assert image_standard_error(jnp.asarray([1.0, jnp.inf])) == np.inf
    certain = jnp.asarray([[[0.0, -jnp.inf]]] * 2)
    result = jackknife(lambda p: -p.log_mean[0, 1], certain)
    assert result == (np.inf, np.inf, np.inf)


@given(seed=seeds, images=st.sampled_from([2, 50]))
def test_image_error_is_the_jackknife_over_images(seed, images):
    values = np.random.default_rng(seed).normal(size=images)
    left_out = jnp.asarray((values.sum() - values) / (images - 1))
    np.testing.assert_allclose(image_standard_error(jnp.asarray(values)), jackknife_error(left_out), rtol=2e-3)


def test_a_resampled_statistic_needs_images_and_a_spread():
    with pytest.raises(ConfigError, match="num_resamples must be a whole number of at least 2, got 1"):
        bootstrap_images(jax.random.key(0), jnp.mean, jnp.ones(5), 1)
    with pytest.raises(InputError, match="at least one, got none"):
        bootstrap_images(jax.random.key(0), jnp.mean, jnp.ones(0))


def test_bootstrap_of_a_mean_finds_its_standard_error():
    values = jax.random.normal(jax.random.key(0), (400,))
    error = bootstrap_images(jax.random.key(1), lambda tree: jnp.mean(tree["x"]), {"x": values}, 1000)
    np.testing.assert_allclose(error, image_standard_error(values), rtol=0.1)  # 1 / sqrt(2000), four of them


def test_measure_adds_its_errors_in_quadrature():
    assert Measure(1.0, 3.0, 4.0).total_error == 5
    assert Measure(1.0, None).total_error == 0
    assert Measure(1.0, None, 2.0).to_dict() == {"value": 1.0, "standard_error": None, "image_standard_error": 2.0}
