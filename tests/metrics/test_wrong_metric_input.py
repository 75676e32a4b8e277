"""What the metrics refuse, in one sentence each, by themselves: without the checks of types that this test run adds."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics import acquisition, agreement, calibration, divergences, scores, segmentation, standard_error
from jaxgeo.metrics.checks import check_labels, check_log_probs
from jaxgeo.metrics.scorecard import score
from jaxgeo.metrics.uncertainty import expected_entropy, mutual_information, predictive_entropy
from jaxgeo.metrics.uncertainty_plane import uncertainty_plane

LOG_PROBS = jnp.log(jnp.full((2, 3, 4), 0.25))
LABELS = jnp.asarray([0, 1, 2])
SCORES = (scores.accuracy, scores.negative_log_likelihood, scores.brier)
OF_LABELS = (*SCORES, calibration.expected_calibration_error, calibration.reliability_curve, uncertainty_plane)
OF_DRAWS = (
    *(predictive_entropy, expected_entropy, mutual_information),
    *(acquisition.entropy_acquisition, acquisition.bald, acquisition.least_confidence),
    *(functools.partial(function, reference_log_probs=LOG_PROBS) for function in (
        agreement.agreement, agreement.total_variation, agreement.divergence_from_reference
    )),
    *(functools.partial(function, LOG_PROBS) for function in (agreement.agreement, agreement.total_variation)),
    *(functools.partial(function, labels=LABELS) for function in OF_LABELS),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _as_callers_have_them():
    # One function is called by another here, so `unchecked` of the outer one would not do.
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("num_bins", [0, -1, 2.5, True])
def test_bins_that_hold_nothing_are_refused_by_all_that_bin(num_bins):
    confidence = jnp.full(3, 0.5)
    for function, arguments in [
        (calibration.expected_calibration_error, (LOG_PROBS, LABELS, num_bins)),
        (calibration.reliability_curve, (LOG_PROBS, LABELS, num_bins)),
        (calibration.binned_calibration_error, (confidence, confidence, num_bins, "equal_mass", "faithful")),
        (calibration.leave_one_image_out, (confidence, confidence, num_bins)),
    ]:
        with pytest.raises(ConfigError, match=f"num_bins must be a whole number of at least 1, got {num_bins}"):
            function(*arguments)
    with pytest.raises(ConfigError, match="num_bins must be a whole number"):
        score(LOG_PROBS, LABELS, num_bins=num_bins)


def test_a_kind_of_bins_that_there_is_not_is_refused_instead_of_taken_for_equal_mass():
    for mode in ("correct", "faithful"):
        with pytest.raises(ConfigError, match="equal_width, equal_mass, got 'equal'"):
            calibration.expected_calibration_error(LOG_PROBS, LABELS, 15, "equal", mode)


@pytest.mark.parametrize("function", OF_LABELS)
@pytest.mark.parametrize("compiled", [False, True])
def test_labels_that_are_no_integers_or_not_one_per_image_are_refused(function, compiled):
    called = jax.jit(function) if compiled else function
    for labels, message in [
        (LABELS.astype(jnp.float32), "integer dtype, got float32"),
        (LABELS == 1, "integer dtype, got bool"),
        (LABELS[:2], r"shape \(3,\), got \(2,\)"),
        (LABELS[:, None], r"shape \(3,\), got \(3, 1\)"),
    ]:
        with pytest.raises(InputError, match=message):
            called(LOG_PROBS, labels)
    # Axes (image, class): the images would be averaged as draws of one.
    with pytest.raises(InputError, match=r"shape \(\), got \(3,\).*a single predictive needs a draw axis"):
        called(LOG_PROBS[0], LABELS)
    with pytest.raises(InputError, match="no draws"):
        called(LOG_PROBS[:0], LABELS)
    with pytest.raises(InputError, match="no images"):
        called(LOG_PROBS[:, :0], LABELS[:0])


def test_labels_out_of_range_are_refused_where_they_can_be_read_and_never_flatter_where_not():
    for label in (-1, 4):
        labels = LABELS.at[1].set(label)
        for function in OF_LABELS:
            with pytest.raises(InputError, match=rf"labels must lie in 0 ... 3 for 4 classes, got {label}"):
                function(LOG_PROBS, labels)
        with jax.debug_nans(False):
            assert [bool(jnp.isnan(jax.jit(function)(LOG_PROBS, labels))) for function in SCORES] == [False, True, True]
        assert jax.jit(scores.accuracy)(LOG_PROBS, labels) == jnp.float32(1 / 3)  # label 0 alone is the top class


@pytest.mark.parametrize("function", OF_DRAWS)
def test_what_are_no_log_probabilities_is_refused_where_it_can_be_read(function):
    spoilt = np.array(LOG_PROBS)
    spoilt[1, 2, 0] = np.nan
    with pytest.raises(InputError, match=r"got nan at index \(1, 2, 0\) \(1 such values\)"):
        function(spoilt)
    with pytest.raises(InputError, match=r"at index \(0, 0\) sum to 148"):
        function(LOG_PROBS + 5)
    with pytest.raises(InputError, match="sum to 0"):  # all classes impossible
        function(np.where(np.arange(3)[:, None] == 1, -np.inf, np.array(LOG_PROBS)))
    with pytest.raises(InputError, match="no draws"):
        function(LOG_PROBS[:0])
    # Tables of few bits are not normalised to the last digit, and a function that closes over draws is one of values.
    function(LOG_PROBS + 0.03)
    with pytest.raises(InputError, match="sum to 148"):
        jax.jit(lambda: function(np.asarray(LOG_PROBS) + 5))()


def test_an_image_without_a_score_is_not_passed_over():
    with pytest.raises(InputError, match="must not be NaN, got 1 of 3, first that of image 1"):
        acquisition.choose(np.array([0.5, np.nan, 0.1], np.float32), 1)
    np.testing.assert_array_equal(acquisition.choose(np.array([0.5, np.inf, 0.1], np.float32), 2), [1, 0])


def test_bytes_are_labels_of_more_classes_than_they_can_count():
    log_probs = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (2, 3, 300)))
    for function in SCORES:
        np.testing.assert_array_equal(function(log_probs, LABELS.astype(jnp.uint8)), function(log_probs, LABELS))
    matrix = segmentation.confusion_matrix(LABELS.astype(jnp.uint8), LABELS.astype(jnp.uint8), 300)
    assert jnp.trace(matrix) == jnp.sum(matrix) == 3


def test_float_labels_are_refused_by_the_scorecard():
    with pytest.raises(InputError, match="integer dtype, got float32"):
        score(LOG_PROBS, LABELS.astype(jnp.float32))
    with pytest.raises(InputError, match="integer dtype, got bool"):
        check_labels(LABELS == 0, LOG_PROBS)


@pytest.mark.parametrize("function", OF_DRAWS)
def test_predictions_that_are_no_array_of_floats_are_named(function):
    for spoilt, kind in [(np.zeros((2, 3, 4), int), "int64"), (LOG_PROBS + 0j, "complex64"), ([[0.0]], "list")]:
        with pytest.raises(InputError, match=f"must be an array of floating-point log-probabilities, got {kind}"):
            function(spoilt)


@pytest.mark.parametrize("function", OF_LABELS)
def test_lists_of_labels_are_named(function):
    with pytest.raises(InputError, match=r"must be an array of class indices, got list; jnp\.asarray makes one"):
        function(LOG_PROBS, [0, 1, 2])


def test_samples_of_other_axes_and_an_order_without_end_are_named():
    line, plane = np.arange(4.0), np.eye(4)
    with pytest.raises(ConfigError, match="finite order of at least 1, got inf"):
        divergences.wasserstein_1d(line, line, np.inf)
    with pytest.raises(InputError, match=r"first sample on a line has shape \(draw,\), got \(4, 4\)"):
        divergences.wasserstein_1d(plane, line)
    for distance in (divergences.gaussian_kl, divergences.assignment_wasserstein, divergences.nearest_neighbor_kl):
        with pytest.raises(InputError, match=r"second sample has axes \(draw, dim\), got shape \(4,\)"):
            distance(plane, line)


def test_arrays_of_numpy_are_predictions_too():
    wide = np.asarray(LOG_PROBS, np.float64)
    uncertainty_plane(wide, np.asarray(LABELS))  # of float64 edges, without a warning
    found = standard_error.jackknife_draws(lambda x: jnp.mean(jnp.exp(x)), wide)
    np.testing.assert_allclose(found, [0.25, 0, 0], atol=1e-7)


def test_groups_are_whole_numbers():
    with pytest.raises(InputError, match=r"groups must be a whole number, got 2\.0"):
        score(LOG_PROBS, LABELS, groups=2.0)


def test_confidences_and_verdicts_are_numbers_between_0_and_1():
    for function in (calibration.reliability, calibration.binned_calibration_error, calibration.leave_one_image_out):
        for confidence, correct, message in [
            ([0.5, 1.2], [1.0, 0.0], r"a confidence lies in \[0, 1\], got 1\.2 \(1 values outside\)"),
            ([0.5, np.nan], [1.0, 0.0], "a confidence lies .* got nan"),
            ([0.5, 0.9], [7.0, 0.0], "a verdict lies .* got 7"),
        ]:
            with pytest.raises(InputError, match=message):
                function(np.array(confidence), np.array(correct))
        function(np.array([0.5, 1 + 1e-7]), np.array([True, False]))


def test_confidences_and_verdicts_come_in_pairs():
    for confidence, correct in [(jnp.ones(3), jnp.ones(1)), (jnp.ones(0), jnp.ones(0)), (jnp.ones((2, 2)),) * 2]:
        for function in (calibration.reliability, calibration.binned_calibration_error):
            with pytest.raises(InputError, match="one confidence and one verdict"):
                function(confidence, correct)


def test_predictions_of_other_images_are_not_broadcast_against_a_reference():
    for distance in (agreement.agreement, agreement.total_variation, agreement.divergence_from_reference):
        with pytest.raises(InputError, match="same images and classes"):
            distance(LOG_PROBS, LOG_PROBS[:, :1])


ones = jnp.ones


@pytest.mark.parametrize(
    ("predictions", "labels", "weights", "message"),
    [
        ([0, 5], [0, 1], None, r"predictions must lie in 0 ... 1 for 2 classes, got 5 \(1 predictions out of range"),
        ([-1, 1], [0, 1], None, "got -1"),
        ([0.0, 1.0], [0, 1], None, "predictions must be class indices of an integer dtype, got float32"),
        ([0, 1], [False, True], None, "labels must be class indices of an integer dtype, got bool"),
        ([0, 1], [0], None, r"got labels of shape \(1,\) for predictions of shape \(2,\)"),
        ([0, 1], [0, 1], ones(1), r"got weights of shape \(1,\) for predictions of shape \(2,\)"),
        ([[[0, 1]] * 2] * 3, [[[0, 1]] * 2] * 3, ones((2, 2)), r"shape \(2, 2\) for predictions of shape \(3, 2, 2\)"),
        ([0, 1], [0, 1], jnp.asarray([1, 1]), "float dtype, got int32"),
        ([0, 1], [0, 1], jnp.asarray([1, -1.0]), "finite and at least 0"),
        ([0, 1], [0, 1], jnp.asarray([1, jnp.inf]), "finite and at least 0"),
    ],
)
def test_pixels_that_cannot_be_counted_are_refused(predictions, labels, weights, message):
    with pytest.raises(InputError, match=message):
        segmentation.confusion_matrix(jnp.asarray(predictions), jnp.asarray(labels), 2, weights)
    with pytest.raises(ConfigError, match="at least one class, got num_classes = 0"):
        segmentation.confusion_matrix(LABELS, LABELS, 0)


def test_a_stray_prediction_in_a_compiled_program_is_refused_by_sum_and_score_and_not_dropped():
    compiled = jax.jit(segmentation.confusion_matrix, static_argnums=2)
    matrix = compiled(jnp.asarray([0, 5, 1]), jnp.asarray([0, 1, 0]), 2)
    np.testing.assert_array_equal(matrix, [[1, np.inf], [1, np.inf]])
    with pytest.raises(InputError, match=r"batch 1 has a confusion matrix that is not finite.* none of the classes"):
        segmentation.accumulate([jnp.ones((2, 2)), matrix])
    for metric in (segmentation.accuracy, segmentation.mean_iou, segmentation.foreground_accuracy):
        with pytest.raises(InputError, match="finite"):
            metric(np.asarray(matrix))


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_predicted_where_nothing_counts_does_not_matter(compiled):
    count = jax.jit(segmentation.confusion_matrix, static_argnums=2) if compiled else segmentation.confusion_matrix
    predictions, labels = jnp.asarray([0, 7, -3, 1]), jnp.asarray([0, 255, 1, 1])
    np.testing.assert_array_equal(count(predictions, labels, 2, jnp.asarray([1.0, 1.0, 0.0, 2.0])), [[1, 0], [0, 2]])


def test_a_score_that_is_not_one_number_per_image_is_refused():
    from jaxgeo.metrics.ood import detect

    with pytest.raises(InputError, match=r"one number per image, shape \(256,\).*, got \(256, 4\)"):
        detect(jax.random.key(0), LOG_PROBS, LOG_PROBS, lambda x: x[0])
    assert predictive_entropy(LOG_PROBS).shape == (3,)


@pytest.mark.parametrize("tolerance", [float("nan"), float("inf"), -1e-3])
def test_a_tolerance_that_would_take_everything_or_nothing_is_refused(tolerance):
    for function in (check_log_probs, functools.partial(score, labels=LABELS)):
        with pytest.raises(InputError, match=f"tolerance must be finite and not negative, got {tolerance}"):
            function(LOG_PROBS + 1.0, tolerance=tolerance)
