import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.metrics.calibration import (
    accuracy_errors,
    bin_edges,
    bin_indices,
    binned_calibration_error,
    expected_calibration_error,
    leave_one_image_out,
    reliability,
    reliability_curve,
)

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of each term of sums over the images.

seeds = st.integers(0, 2**31 - 1)
binnings = pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])


def calibration_error_by_loops(confidence, correct, edges):
    """The definition, bin after bin, in float64."""
    error, counted = 0.0, 0
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (confidence > low if i else confidence >= low) & (confidence <= high)
        counted += inside.sum()
        if inside.any():
            error += inside.sum() * abs(correct[inside].mean(dtype=float) - confidence[inside].mean(dtype=float))
    assert counted == len(confidence)
    return error / len(confidence)


@pytest.mark.parametrize("num_bins", [1, 5, 15])
def test_every_image_on_a_bin_edge_at_zero_and_at_one_is_counted_in_the_bin_below(num_bins):
    edges = np.linspace(0, 1, num_bins + 1).astype(np.float32)
    curve = reliability(jnp.asarray(edges), jnp.zeros(num_bins + 1), num_bins)
    # (low, high]: each edge in the bin that it closes; zero joins the first.
    np.testing.assert_array_equal(curve.num_images, [2] + [1] * (num_bins - 1))
    np.testing.assert_allclose(binned_calibration_error(jnp.asarray(edges), jnp.zeros(num_bins + 1), num_bins), 0.5)


def test_five_points_on_edges_give_the_error_worked_out_by_hand():
    confidence = jnp.asarray([0.2, 0.4, 0.6, 0.8, 1.0])
    correct = jnp.asarray([1.0, 0.0, 1.0, 1.0, 0.0])
    # Each alone in its bin: mean of 0.8, 0.4, 0.4, 0.2, 1.0
    for binning in ("equal_width", "equal_mass"):
        curve = reliability(confidence, correct, 5, binning)
        np.testing.assert_array_equal(curve.num_images, 1)
        np.testing.assert_allclose(binned_calibration_error(confidence, correct, 5, binning), 0.56, rtol=1e-6)


def test_confidence_an_ulp_above_one_stays_in_the_last_bin():
    above = jnp.asarray([np.nextafter(np.float32(1), np.float32(2))])
    assert bin_indices(above, bin_edges(above, 10, "equal_width")) == 9


@binnings
@given(
    seed=seeds,
    images=st.sampled_from([1, 7, 60]),
    num_bins=st.sampled_from([1, 15]),
    levels=st.sampled_from([3, 10, 10**6]),
)
def test_calibration_error_follows_its_definition_and_lies_between_zero_and_one(
    binning, seed, images, num_bins, levels
):
    rng = np.random.default_rng(seed)
    confidence = (rng.integers(0, levels + 1, images) / levels).astype(np.float32)  # with ties and edges
    correct = rng.integers(0, 2, images).astype(np.float32)
    error = binned_calibration_error(jnp.asarray(confidence), jnp.asarray(correct), num_bins, binning)
    edges = np.asarray(bin_edges(jnp.asarray(confidence), num_bins, binning))
    np.testing.assert_allclose(error, calibration_error_by_loops(confidence, correct, edges), atol=2e-6)  # float32
    assert 0 <= error <= 1
    curve = reliability(jnp.asarray(confidence), jnp.asarray(correct), num_bins, binning)
    assert curve.num_images.sum() == images
    np.testing.assert_allclose(
        np.sum(curve.num_images * np.abs(curve.accuracy - curve.confidence)) / images, error, atol=2e-6
    )
    shuffle = rng.permutation(images)
    np.testing.assert_allclose(
        binned_calibration_error(jnp.asarray(confidence[shuffle]), jnp.asarray(correct[shuffle]), num_bins, binning),
        error,
        atol=2e-6,
    )


@given(seed=seeds, images=st.sampled_from([1, 13, 40]), num_bins=st.sampled_from([1, 3, 12]))
def test_equal_mass_bins_differ_by_at_most_one_image_without_ties(seed, images, num_bins):
    confidence = np.random.default_rng(seed).permutation(images) / images
    curve = reliability(jnp.asarray(confidence), jnp.zeros(images), num_bins, "equal_mass")
    assert curve.num_images.max() - curve.num_images.min() <= 1


@binnings
def test_a_calibrated_forecaster_has_an_error_near_zero_and_an_overconfident_one_has_its_excess(binning):
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 0.8, 20_000).astype(np.float32)
    correct = (rng.uniform(size=truth.size) < truth).astype(np.float32)
    # The expected error of a calibrated forecaster: sum over bins of sqrt(n_b) sigma sqrt(2 / pi) / n < 0.012
    assert binned_calibration_error(jnp.asarray(truth), jnp.asarray(correct), 15, binning) < 0.015
    overconfident = binned_calibration_error(jnp.asarray(truth + np.float32(0.2)), jnp.asarray(correct), 15, binning)
    np.testing.assert_allclose(overconfident, 0.2, atol=0.01)  # 3 standard errors of 20,000 coin tosses


@given(seed=seeds, images=st.sampled_from([2, 20]), num_bins=st.sampled_from([1, 8]))
def test_leaving_one_image_out_equals_computing_without_it(seed, images, num_bins):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.uniform(size=images).astype(np.float32), rng.integers(0, 2, images).astype(np.float32)
    without = leave_one_image_out(jnp.asarray(confidence), jnp.asarray(correct), num_bins)
    for i in range(images):
        expected = calibration_error_by_loops(
            np.delete(confidence, i), np.delete(correct, i), np.linspace(0, 1, num_bins + 1).astype(np.float32)
        )
        np.testing.assert_allclose(without[i], expected, atol=3e-6)


@binnings
def test_predictions_reach_the_bins_through_their_top_class(binning):
    probabilities = np.array([[[0.9, 0.1], [0.3, 0.7], [0.6, 0.4], [1.0, 0.0]]], np.float32)
    with np.errstate(divide="ignore"):
        log_probs = jnp.asarray(np.log(probabilities)).reshape(1, 2, 2, 2)
    labels = jnp.asarray([[0, 1], [1, 0]])
    curve = jax.jit(reliability_curve, static_argnums=(2, 3))(log_probs, labels, 2, binning)
    assert curve.num_images.sum() == 4
    np.testing.assert_allclose(np.sum(curve.num_images * curve.accuracy), 3, rtol=1e-6)
    expected = np.sum(curve.num_images * np.abs(curve.accuracy - curve.confidence)) / 4
    np.testing.assert_allclose(expected_calibration_error(log_probs, labels, 2, binning), expected, atol=1e-6)


def test_accuracy_errors_are_those_of_a_mean_of_zeros_and_ones():
    confidence = jnp.asarray([0.1, 0.7, 0.8, 0.9, 0.6])
    correct = jnp.asarray([1.0, 1.0, 0.0, 1.0, 1.0])
    errors = accuracy_errors(reliability(confidence, correct, 2))
    np.testing.assert_allclose(errors, [np.inf, np.std([1, 0, 1, 1], ddof=1) / 2], rtol=1e-6)
    assert np.isinf(accuracy_errors(reliability(confidence, correct, 50))).all()  # no bin has two images
