import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics.acquisition import (
    bald,
    calibrated_uncertainty,
    choose,
    entropy_acquisition,
    estimated_calibration_error,
    least_confidence,
)

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of each logarithm.

estimate = jax.jit(estimated_calibration_error, static_argnums=3)


def log(probabilities):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(np.asarray(probabilities, np.float32)))


def test_closed_forms_of_a_pool():
    # Sure; split between two pairs (H = ln 4, I = ln 2); unsure in agreement.
    members = [[[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4], [[1, 0, 0, 0], [0, 0, 0.5, 0.5], [0.25] * 4]]
    pool = log(members)
    np.testing.assert_allclose(entropy_acquisition(pool), np.log([1, 4, 4]), atol=5e-7)
    np.testing.assert_allclose(bald(pool), np.log([1, 2, 1]), atol=5e-7)
    np.testing.assert_allclose(least_confidence(pool), [0, 0.75, 0.75], atol=5e-7)
    assert choose(bald(pool), 1).tolist() == [1]


@given(seed=st.integers(0, 2**31 - 1), k=st.sampled_from([1, 9]))
def test_the_best_are_those_of_a_stable_sort(seed, k):
    scores = np.random.default_rng(seed).integers(0, 4, 9).astype(np.float32)
    np.testing.assert_array_equal(choose(jnp.asarray(scores), k), np.argsort(-scores, kind="stable")[:k])


@given(seed=st.integers(0, 2**31 - 1))
def test_calibration_errors_are_kernel_means_with_scipys_dirichlet_density(seed):
    rng = np.random.default_rng(seed)
    pool, labelled = rng.dirichlet(np.ones(3), 4), rng.dirichlet(np.ones(3), 6)
    labels, weights = rng.integers(0, 3, 6), rng.uniform(0.5, 2, 6)
    expected = []
    for p in pool:
        kernel = np.array([scipy.stats.dirichlet(q / 0.3 + 1).pdf(p / p.sum()) for q in labelled]) * weights
        expected.append(np.abs(p - kernel @ np.eye(3)[labels] / kernel.sum()).sum())
    found = estimate(log(pool)[None], log(labelled)[None], jnp.asarray(labels), 0.3, jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=2e-4)  # float32 exponents of up to 10 / 0.3


@pytest.mark.parametrize("least", [-1e4, -np.inf])
def test_confident_mistakes_come_before_doubts(least):
    sure, unsure = [0, least], [np.log(0.5)] * 2
    pool = jnp.asarray([[sure, unsure]], jnp.float32)
    # Those that were sure were wrong; those that were unsure were right half of the time.
    labelled, labels = jnp.asarray([[sure, sure, unsure, unsure]], jnp.float32), jnp.asarray([1, 1, 0, 1])
    np.testing.assert_allclose(estimated_calibration_error(pool, labelled, labels), [2, 0], atol=1e-4)
    assert choose(calibrated_uncertainty(pool, labelled, labels), 2).tolist() == [0, 1]
    # One level of errors is the entropy alone.
    assert choose(calibrated_uncertainty(pool, labelled, labels, num_levels=1), 2).tolist() == [1, 0]


def test_axes_of_a_pool_are_kept_and_those_of_labelled_images_joined():
    log_probs = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (2, 12, 3)))
    labels, weights = jnp.arange(12) % 3, jnp.arange(12.0)
    flat = calibrated_uncertainty(log_probs, log_probs, labels, labelled_weights=weights)
    shaped = calibrated_uncertainty(
        log_probs.reshape(2, 3, 4, 3),
        log_probs.reshape(2, 2, 6, 3),
        labels.reshape(2, 6),
        labelled_weights=weights.reshape(2, 6),
    )
    np.testing.assert_array_equal(shaped, flat.reshape(3, 4))
    with pytest.raises(InputError, match=r"shape \(pool,\), got \(3, 4\); take ravel"):
        unchecked(choose)(shaped, 1)


def test_a_single_class_is_never_unsure():
    pool = jnp.zeros((2, 3, 1))
    np.testing.assert_array_equal(calibrated_uncertainty(pool, pool, jnp.zeros(3, int)), 0)


def test_impossible_choices_are_refused():
    pool = jnp.log(jnp.full((1, 2, 2), 0.5))
    with pytest.raises(ConfigError, match="1 to 2 images can be chosen from this pool, got 3"):
        choose(jnp.ones(2), 3)
    with pytest.raises(ConfigError, match=r"above 0, got 0\.0"):
        estimated_calibration_error(pool, pool, jnp.zeros(2, int), 0.0)
    with pytest.raises(ConfigError, match="1 to 4096 levels, got 0"):
        calibrated_uncertainty(pool, pool, jnp.zeros(2, int), 0)
    with pytest.raises(ConfigError, match=r"k must be a whole number, got 1\.5"):
        unchecked(choose)(jnp.ones(2), 1.5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"one per labelled image, shape \(2,\), got \(1,\)"),
        ([1.0, -1.0], "at least 0 and some above, got -1 to 1"),
        ([0.0, 0.0], "some above, got 0 to 0"),
        ([1.0, np.inf], "finite"),
    ],
)
def test_weights_that_weigh_nothing_are_refused(weights, message):
    pool = jnp.log(jnp.full((1, 2, 2), 0.5))
    with pytest.raises(InputError, match=message):
        estimated_calibration_error(pool, pool, jnp.zeros(2, int), labelled_weights=jnp.asarray(weights))


def test_pool_and_labelled_images_have_the_same_classes():
    pool, labelled = jnp.log(jnp.full((1, 2, 2), 0.5)), jnp.log(jnp.full((1, 2, 4), 0.25))
    with pytest.raises(InputError, match="the same classes, got 2 and 4"):
        estimated_calibration_error(pool, labelled, jnp.zeros(2, int))
