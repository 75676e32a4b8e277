"""The published calibration errors: bins open at both ends, or closed above; written out again in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.calibration
from hypothesis import given
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.errors import ConfigError
from jaxgeo.metrics.calibration import binned_calibration_error, expected_calibration_error, reliability

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of each term of sums over the images.

F32 = np.float32
error_of = jax.jit(binned_calibration_error, static_argnums=(2, 3, 4))


def error_of_masks(confidence, correct, masks):
    """Sum over bins of (share of all images) x |mean accuracy - mean confidence|."""
    gaps = [mask.mean() * abs(correct[mask].mean() - confidence[mask].mean()) for mask in masks if mask.any()]
    return float(sum(gaps))


def open_bins(confidence, num_bins, binning):
    if binning == "equal_width":
        edges = np.linspace(0, 1, num_bins + 1).astype(F32)
    else:
        step = int(np.ceil(len(confidence) / num_bins))
        ordered = np.sort(confidence)
        edges = list(ordered[::step])
        if len(confidence) % step != 1:
            edges.append(ordered[-1])
    return [(confidence > low) & (confidence < high) for low, high in itertools.pairwise(edges)]


def closed_bins(confidence, num_bins):
    edges = np.linspace(0, 1, num_bins + 1).astype(F32)
    return [(confidence > low) & (confidence <= high) for low, high in itertools.pairwise(edges)]


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
@given(
    seed=st.integers(0, 2**31 - 1),
    # The published edges end differently where the last bin has one image, and where there is one image in all.
    shape=st.sampled_from([(1, 20), (21, 20), (60, 7)]),
    levels=st.sampled_from([10, 10**6]),
)
def test_faithful_errors_follow_the_published_loop(binning, seed, shape, levels):
    images, num_bins = shape
    rng = np.random.default_rng(seed)
    confidence = (rng.integers(1, levels + 1, images) / levels).astype(F32)  # with ties, edges and ones
    correct = rng.integers(0, 2, images).astype(F32)
    expected = error_of_masks(confidence.astype(float), correct.astype(float), open_bins(confidence, num_bins, binning))
    error = error_of(confidence, correct, num_bins, binning, "faithful")
    np.testing.assert_allclose(error, expected, atol=2e-6)  # float32 sums of at most 60


@given(seed=st.integers(0, 2**31 - 1), levels=st.sampled_from([10, 10**6]))
def test_closed_bins_of_temperature_scaling_are_the_correct_ones_away_from_zero(seed, levels):
    rng = np.random.default_rng(seed)
    confidence = (rng.integers(1, levels + 1, 60) / levels).astype(F32)
    correct = rng.integers(0, 2, 60).astype(F32)
    expected = error_of_masks(confidence.astype(float), correct.astype(float), closed_bins(confidence, 15))
    np.testing.assert_allclose(error_of(confidence, correct, 15), expected, atol=2e-6)


def test_on_edges_the_textbook_counts_every_image_and_the_published_program_none():
    confidence, correct = jnp.asarray([0.2, 0.4, 0.6, 0.8, 1.0]), jnp.asarray([1.0, 0.0, 1.0, 1.0, 0.0])
    # (0.8 + 0.4 + 0.4 + 0.2 + 1.0) / 5
    np.testing.assert_allclose(binned_calibration_error(confidence, correct, 5), 0.56, rtol=1e-6)
    assert binned_calibration_error(confidence, correct, 5, mode="faithful") == 0
    # One image between the edges is counted, as one of six: |1 - 0.5| / 6.
    more = jnp.append(confidence, 0.5), jnp.append(correct, 1.0)
    np.testing.assert_allclose(binned_calibration_error(*more, 5, mode="faithful"), 0.5 / 6, rtol=1e-6)


def test_certain_mistakes_are_what_the_open_bins_do_not_see():
    log_probs = jnp.asarray([[[0.0, -1e4]] * 4], jnp.float32)
    labels = jnp.asarray([1, 1, 1, 1])
    assert expected_calibration_error(log_probs, labels) == 1
    assert expected_calibration_error(log_probs, labels, mode="faithful") == 0


def test_reliability_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=500).astype(F32)
    correct = (rng.uniform(size=500) < confidence).astype(F32)
    curve = reliability(jnp.asarray(confidence), jnp.asarray(correct), 10)
    accuracy, mean = sklearn.calibration.calibration_curve(correct, confidence, n_bins=10)
    np.testing.assert_allclose(curve.accuracy, accuracy, atol=1e-6)
    np.testing.assert_allclose(curve.confidence, mean, atol=1e-6)


def test_unknown_modes_are_refused():
    with pytest.raises(ConfigError, match="mode must be one of correct, faithful, got 'published'"):
        unchecked(binned_calibration_error)(jnp.ones(2), jnp.ones(2), mode="published")
