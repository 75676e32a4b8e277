import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import InputError
from jaxgeo.metrics.agreement import same_top_class, variation_distance
from jaxgeo.metrics.calibration import (
    binned_calibration_error,
    expected_calibration_error,
    leave_one_image_out,
    reliability_curve,
    top_class,
)
from jaxgeo.metrics.information import kl_divergence
from jaxgeo.metrics.predictive import mean_log_probs
from jaxgeo.metrics.scorecard import score
from jaxgeo.metrics.scores import is_correct, squared_error, surprisal
from jaxgeo.metrics.standard_error import jackknife_error
from jaxgeo.metrics.streaming import (
    CALIBRATION,
    EQUAL_MASS,
    NAMES,
    REFERENCE_NAMES,
    add,
    block_sums,
    measures,
    reliability,
    score_blocks,
)
from jaxgeo.metrics.uncertainty import expected_entropy, mutual_information, predictive_entropy

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of each term of sums over the images, and of
# errors differences of such sums.


def example(seed, scale):
    rng = np.random.default_rng(seed)
    log_probs, reference = (
        scipy.special.log_softmax(scale * rng.normal(size=(draws, 24, 5)), -1).astype(np.float32) for draws in (4, 3)
    )
    return log_probs, rng.integers(0, 5, 24), reference


def in_blocks(arrays, size):
    log_probs, labels, reference = arrays
    for start in range(0, len(labels), size):
        rows = slice(start, start + size)
        yield jnp.asarray(log_probs[:, rows]), jnp.asarray(labels[rows]), jnp.asarray(reference[:, rows])


@jax.jit
def whole(log_probs, labels, reference):
    """Each image's values by the functions of whole arrays, and the calibration error."""
    mean, other = mean_log_probs(log_probs), mean_log_probs(reference)
    per_image = {
        "accuracy": is_correct(mean, labels),
        "negative_log_likelihood": surprisal(mean, labels),
        "brier": squared_error(mean, labels),
        "predictive_entropy": predictive_entropy(log_probs),
        "expected_entropy": expected_entropy(log_probs),
        "mutual_information": mutual_information(log_probs),
        "agreement": same_top_class(mean, other),
        "total_variation": variation_distance(mean, other),
        "divergence_from_reference": kl_divergence(other, mean),
    }
    errors = (expected_calibration_error(log_probs, labels, 15, binning) for binning in ("equal_width", "equal_mass"))
    return per_image | dict(zip((CALIBRATION, EQUAL_MASS), errors, strict=True))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31 - 1), scale=st.sampled_from([1.0, 1e4]))
def test_blocks_give_what_the_functions_of_the_whole_give(seed, scale):
    log_probs, labels, reference = example(seed, scale)
    streamed = score_blocks(in_blocks((log_probs, labels, reference), 8), groups=2)
    per_image = whole(log_probs, labels, reference)
    halves = [whole(half, labels, reference) for half in (log_probs[:2], log_probs[2:])]
    assert set(streamed) == {*NAMES, *REFERENCE_NAMES, CALIBRATION, EQUAL_MASS} == set(per_image)
    for name, found in streamed.items():
        if name == EQUAL_MASS:  # a test of its own: here confidences may share a fine bin
            continue
        values = np.float64(per_image[name])
        one, other = (np.float64(half[name]).mean() for half in halves)
        # float32 values of up to 1e4 in another order of summation
        np.testing.assert_allclose(found.value, np.mean(values), rtol=3e-6, atol=2e-6, err_msg=name)
        # The jackknife over two groups is half their distance, known to the rounding of both.
        expected = abs(one - other) / 2
        slack = 2e-6 * (1 + abs(one))
        np.testing.assert_allclose(found.standard_error, expected, rtol=1e-4, atol=slack, err_msg=name)
        if name != CALIBRATION:
            expected = np.std(values, ddof=1) / np.sqrt(24)
            np.testing.assert_allclose(found.image_standard_error, expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_calibration_error_of_the_images_is_the_jackknifes_where_no_bin_is_near_zero():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.6, 0.99, 400)
    log_probs = jnp.asarray(np.log(np.stack([confidence, 1 - confidence], -1))[None], jnp.float32)
    labels = jnp.asarray((rng.uniform(size=400) < 0.8).astype(int))  # mostly wrong, far below the confidence
    streamed = measures(block_sums(log_probs, labels, num_bins=4))[CALIBRATION]
    confidence, correct = top_class(log_probs[0], labels)
    np.testing.assert_allclose(streamed.value, binned_calibration_error(confidence, correct, 4), rtol=1e-5)
    whole = jackknife_error(leave_one_image_out(confidence, correct, 4))
    # The jackknife's values differ in the fourth digit, of the seven that float32 has.
    np.testing.assert_allclose(streamed.image_standard_error, whole, rtol=2e-3)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31 - 1), levels=st.sampled_from([4, 200, 10**6]))
def test_curve_and_equal_mass_are_those_of_the_whole_up_to_the_fine_bins(seed, levels):
    rng = np.random.default_rng(seed)
    # Steps of 1/200 in the confidence lie in different fine bins, whose width is 0.27 % of the distance to 1.
    confidence = 0.5 + rng.integers(0, levels, 600) / (2 * levels)
    log_probs = jnp.asarray(np.log(np.stack([confidence, 1 - confidence], -1))[None], jnp.float32)
    labels = jnp.asarray(rng.integers(0, 2, 600))
    total = block_sums(log_probs[:, :400], labels[:400], num_bins=7)
    total = add(total, block_sums(log_probs[:, 400:], labels[400:], num_bins=7))
    found, expected = reliability(total), reliability_curve(log_probs, labels, 7)
    np.testing.assert_array_equal(found.num_images, expected.num_images)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)  # float32 sums of 600 against float64 ones
    exact = expected_calibration_error(log_probs, labels, 7, "equal_mass")
    # The jackknife over two draws is half the distance of each by itself.
    turned = jnp.concatenate([log_probs, log_probs[:, ::-1]])
    each = [expected_calibration_error(draw[None], labels, 7, "equal_mass") for draw in turned]
    error = measures(block_sums(turned, labels, groups=2, num_bins=7))[EQUAL_MASS].standard_error
    # Of a million levels some share a fine bin: at each of six edges it moves fewer than ten of 600 images.
    slack = 2e-6 if levels < 10**6 else 2 * 6 * 10 / 600
    np.testing.assert_allclose(measures(total)[EQUAL_MASS].value, exact, atol=slack)
    np.testing.assert_allclose(error, abs(each[0] - each[1]) / 2, atol=slack)


def test_errors_of_distances_have_the_reference_too_as_the_scorecard_has_it():
    log_probs, labels, reference = example(2, 2.0)
    arrays = [jnp.asarray(x) for x in (log_probs, labels, reference)]
    streamed = score_blocks(in_blocks((log_probs, labels, reference), 8), groups=2, reference_groups=3)
    card = score(*arrays, groups=2, reference_groups=3)
    alone = score_blocks(in_blocks((log_probs, labels, reference), 8), reference_groups=3)
    for name in REFERENCE_NAMES:
        np.testing.assert_allclose(streamed[name].standard_error, card[name].standard_error, rtol=1e-4, atol=1e-6)
        assert 0 < alone[name].standard_error < streamed[name].standard_error
    assert alone["accuracy"].standard_error is None
    with pytest.raises(InputError, match="3 draws do not fall into 2 equal groups"):
        block_sums(*arrays, reference_groups=2)


def test_sums_add_up_in_any_order_and_grouping():
    arrays = example(0, 2.0)
    parts = [block_sums(*block) for block in in_blocks(arrays, 8)]
    one = add(add(parts[0], parts[1]), parts[2])
    other = add(parts[2], add(parts[1], parts[0]))
    for name, measure in measures(one).items():
        np.testing.assert_allclose(measure.value, measures(other)[name].value, rtol=1e-12)  # float64 sums
        np.testing.assert_allclose(measure.image_standard_error, measures(other)[name].image_standard_error, rtol=1e-9)
        assert measure.standard_error is None
    assert one.num_images == one.counts.sum() == 24


@pytest.mark.parametrize("least", [-1e4, -np.inf])
def test_an_impossible_label_makes_its_score_infinite_or_large_and_no_other(least):
    sure = jnp.asarray([[[0, least, least]] * 8] * 2, jnp.float32)
    found = score_blocks([(sure, jnp.full(8, 2)), (sure, jnp.zeros(8, int))], groups=2)
    assert found["negative_log_likelihood"].value == -least / 2
    assert (found["negative_log_likelihood"].image_standard_error == np.inf) == np.isinf(least)
    assert found["accuracy"].value == found[CALIBRATION].value == 0.5
    assert found["brier"].value == 1
    assert found["mutual_information"].value == 0


def test_batch_axes_of_a_block_are_joined():
    log_probs, labels, reference = map(jnp.asarray, example(1, 2.0))
    flat = block_sums(log_probs, labels, reference, groups=2)
    shaped = block_sums(
        log_probs.reshape(4, 2, 3, 4, 5), labels.reshape(2, 3, 4), reference.reshape(3, 2, 3, 4, 5), groups=2
    )
    for one, other in zip(flat, shaped, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match=r"shape \(2, 12\), got \(24,\)"):
        block_sums(log_probs.reshape(4, 2, 12, 5), labels, tolerance=None)


def test_what_does_not_add_up_is_refused():
    arrays = example(0, 1.0)
    block = next(in_blocks(arrays, 8))
    with pytest.raises(InputError, match="at least one block of images, got none"):
        score_blocks([])
    with pytest.raises(InputError, match=r"9 metrics, 0 groups of draws and 0 of .* and 15 bins, and 9, 2, 0, 15"):
        add(block_sums(*block), block_sums(*block, groups=2))
    with pytest.raises(InputError, match="same draws, got 4 draws of 5 classes and 2 of 5"):
        add(block_sums(*block), block_sums(block[0][:2], *block[1:]))
    with pytest.raises(InputError, match="sum to"):
        block_sums(block[0] + 1, block[1])
    with pytest.raises(InputError, match="same images and classes"):
        block_sums(*block[:2], jnp.asarray(arrays[2]), tolerance=None)
