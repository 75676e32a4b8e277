"""Confusion matrices counted pixel by pixel, scores of small cases by hand, and how absent classes are taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as counted
from sklearn.metrics import jaccard_score
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics import segmentation

# Where nothing else is said, tolerances bound float64 rounding of quotients of counts, and float32 of their sums.


@given(seed=st.integers(0, 2**31 - 1), weighted=st.booleans())
@settings(max_examples=10)
def test_matrix_and_scores_are_those_of_an_independent_implementation(seed, weighted):
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, 4, (2, 3, 5, 6))
    weights = rng.uniform(0.1, 2, labels.shape).astype(np.float32) if weighted else None
    found = segmentation.confusion_matrix(
        jnp.asarray(predictions), jnp.asarray(labels), 4, None if weights is None else jnp.asarray(weights)
    )
    flat = None if weights is None else weights.ravel()
    expected = counted(labels.ravel(), predictions.ravel(), labels=range(4), sample_weight=flat).T
    # float32 sums of at most 90 weights near 1.
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    ious = jaccard_score(labels.ravel(), predictions.ravel(), labels=range(4), average=None, sample_weight=flat)
    np.testing.assert_allclose(segmentation.intersection_over_union(expected.astype(float)), ious, rtol=1e-12)
    np.testing.assert_allclose(segmentation.mean_iou(expected.astype(float)), ious.mean(), rtol=1e-12)
    np.testing.assert_allclose(
        segmentation.accuracy(expected.astype(float)), np.average(labels == predictions, weights=weights), rtol=1e-5
    )


def test_batches_add_up_to_the_whole_in_one_compiled_program():
    labels, predictions = np.random.default_rng(0).integers(0, 3, (2, 8, 7))
    compiled = jax.jit(segmentation.confusion_matrix, static_argnums=2)
    whole = compiled(jnp.asarray(predictions), jnp.asarray(labels), 3)
    parts = segmentation.accumulate(
        compiled(jnp.asarray(p), jnp.asarray(y), 3)
        for p, y in zip(np.split(predictions, 4), np.split(labels, 4), strict=True)
    )
    assert parts.dtype == np.float64
    np.testing.assert_array_equal(parts, whole)
    with pytest.raises(InputError, match="at least one batch"):
        segmentation.accumulate([])


@pytest.mark.parametrize("void", [255, -1])
def test_void_labels_count_nowhere_as_if_their_weight_were_0(void):
    rng = np.random.default_rng(4)
    labels, predictions = rng.integers(0, 3, (2, 6, 7))
    known = rng.random(labels.shape) < 0.7
    found = segmentation.confusion_matrix(jnp.asarray(predictions), jnp.asarray(np.where(known, labels, void)), 3)
    np.testing.assert_array_equal(found, counted(labels[known], predictions[known], labels=range(3)).T)
    # A void class among the others is left out by its weight.
    weights = jnp.asarray(known, jnp.float32)
    weighted = segmentation.confusion_matrix(jnp.asarray(predictions), jnp.asarray(labels), 3, weights)
    np.testing.assert_array_equal(found, weighted)


MATRIX = np.array([[6.0, 1, 2], [1, 4, 0], [1, 2, 3]])


def test_small_case_by_hand():
    np.testing.assert_allclose(segmentation.intersection_over_union(MATRIX), [6 / 11, 4 / 8, 3 / 8])
    assert segmentation.accuracy(MATRIX) == 13 / 20
    assert segmentation.foreground_accuracy(MATRIX) == 7 / 12
    assert segmentation.foreground_accuracy(MATRIX, mode="faithful") == 7 / 9
    assert segmentation.foreground_accuracy(MATRIX, background=2) == 10 / 15
    assert segmentation.mean_iou(MATRIX, background=0) == (4 / 8 + 3 / 8) / 2
    assert segmentation.mean_iou(MATRIX, background=1) == pytest.approx((6 / 11 + 3 / 8) / 2)


def test_weights_scale_nothing_but_shares():
    for score in (segmentation.accuracy, segmentation.foreground_accuracy, segmentation.mean_iou):
        assert score(MATRIX * 0.25) == pytest.approx(score(MATRIX))


def test_absent_class_is_left_out_or_makes_the_mean_nan_by_mode():
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = MATRIX
    assert np.isnan(segmentation.intersection_over_union(matrix)[3])
    assert segmentation.mean_iou(matrix) == segmentation.mean_iou(MATRIX)
    assert np.isnan(segmentation.mean_iou(matrix, mode="faithful"))
    # A class that was only predicted has an intersection of 0 over a union, in both modes.
    matrix[3, 0] = 1
    assert segmentation.mean_iou(matrix) == segmentation.mean_iou(matrix, mode="faithful")
    assert segmentation.intersection_over_union(matrix)[3] == 0


def test_an_absent_class_counts_0_where_heal_swin_was_published_with_it():
    matrix = np.array([[3.0, 0, 1], [0, 0, 0], [1, 0, 5]])
    whole = (3 / 5 + 0 + 5 / 7) / 3
    assert segmentation.mean_iou(matrix, mode="absent_is_zero") == pytest.approx(whole, rel=1e-12)
    without = (0 + 5 / 7) / 2
    assert segmentation.mean_iou(matrix, background=0, mode="absent_is_zero") == pytest.approx(without, rel=1e-12)
    assert segmentation.foreground_accuracy(matrix, mode="absent_is_zero") == segmentation.foreground_accuracy(matrix)


def test_no_foreground_has_no_score():
    matrix = np.array([[5.0, 0], [0, 0]])
    assert np.isnan(segmentation.foreground_accuracy(matrix))
    assert np.isnan(segmentation.mean_iou(matrix, background=0))
    assert segmentation.mean_iou(matrix) == 1


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((2, 3)), r"got shape \(2, 3\)"),
        (np.zeros((2, 2)), "some above"),
        (np.array([[1, -1], [0, 1.0]]), "at least 0"),
        (np.array([[1, np.inf], [0, 1.0]]), "finite"),
    ],
)
@pytest.mark.parametrize("score", [segmentation.accuracy, segmentation.mean_iou, segmentation.foreground_accuracy])
def test_what_is_no_confusion_matrix_is_refused(score, matrix, message):
    with pytest.raises(InputError, match=message):
        score(matrix)


def test_background_that_is_no_class_and_unknown_modes_are_refused():
    with pytest.raises(InputError, match=r"one of the 3 classes, 0 ... 2, got 3"):
        segmentation.mean_iou(MATRIX, background=3)
    for score in (segmentation.mean_iou, segmentation.foreground_accuracy):
        with pytest.raises(ConfigError, match="correct, faithful, absent_is_zero, got 'other'"):
            unchecked(score)(MATRIX, mode="other")
