"""Predictions that were stored in 16 bits are judged as what they are, with sums of 32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import InputError
from jaxgeo.metrics import (
    acquisition,
    agreement,
    calibration,
    depth,
    point_clouds,
    scores,
    segmentation,
    standard_error,
    uncertainty,
)
from jaxgeo.metrics.scorecard import score
from jaxgeo.metrics.streaming import score_blocks
from jaxgeo.metrics.uncertainty_plane import uncertainty_plane

# So many images that sums in 16 bits no longer move: bfloat16 counts to 256.
LABELS = jax.random.randint(jax.random.key(1), (3000,), 0, 4)
DRAWS = jax.nn.log_softmax(2 * jax.random.normal(jax.random.key(0), (4, 3000, 4)))


def judged(log_probs):
    mean, pool = log_probs[0], log_probs[:, :40]
    return {
        "score": scores.brier(log_probs, LABELS),
        "of each image": [f(mean, LABELS) for f in (scores.is_correct, scores.surprisal, scores.squared_error)],
        "calibration": [
            calibration.expected_calibration_error(log_probs, LABELS, 15, "equal_mass", "faithful"),
            calibration.reliability_curve(log_probs, LABELS),
            calibration.reliability((LABELS / 4).astype(mean.dtype), (LABELS == 3).astype(mean.dtype)),
        ],
        "uncertainty": [uncertainty.expected_entropy(log_probs), uncertainty.mutual_information(log_probs)],
        "plane": uncertainty_plane(log_probs, LABELS),
        "distances": [agreement.variation_distance(mean, log_probs[1]), agreement.same_top_class(mean, log_probs[1])],
        "acquisition": acquisition.calibrated_uncertainty(pool, pool, LABELS[:40]),
        "error": standard_error.image_standard_error(mean[:, 0]),
    }


def as_numbers(measures):
    return np.array([[m.value, m.standard_error, m.image_standard_error] for _, m in sorted(measures.items())])


def test_every_number_of_16_bits_is_that_of_the_same_predictions_in_32():
    stored = DRAWS.astype(jnp.bfloat16)
    found, expected = judged(stored), judged(stored.astype(jnp.float32))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(found)} == {"float32", "int32"}
    # The same operations on the same numbers, but fused apart: rounding of float32, of sums up to 3000.
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6), found, expected)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_both_scorecards_take_16_bits_and_agree(dtype):
    stored = DRAWS.astype(dtype)
    card = as_numbers(score(stored, LABELS).measures)
    # float32; bins of equal mass are put together from fine ones in a stream.
    np.testing.assert_allclose(
        card, as_numbers(score(stored.astype(jnp.float32), LABELS, tolerance=0.02).measures), rtol=1e-5
    )
    np.testing.assert_allclose(card[:, :2], as_numbers(score_blocks([(stored, LABELS)], groups=4))[:, :2], atol=2e-3)
    with pytest.raises(InputError, match=r"within 0\.0(01|15)\d*, but .* sum to"):
        score(stored + jnp.asarray(0.03, dtype), LABELS)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_pixels_and_points_of_16_bits_are_counted_and_measured_to_the_last(dtype):
    # 70,000 is beyond float16, and 700 metres squared too.
    weights = jnp.ones(70_000, dtype)
    none = jnp.zeros(70_000, jnp.int32)
    assert segmentation.confusion_matrix(none, none, 1, weights) == 70_000
    predictions, targets = (jnp.full((1, 70_000), metres, dtype) for metres in (704.0, 4.0))
    sums = depth.depth_sums(predictions, targets, weights=weights[None])
    assert sums.weight == 70_000
    np.testing.assert_allclose(sums.squared, 70_000 * 700.0**2, rtol=1e-5)  # float32
    points = point_clouds.nearest_squared_distances(jnp.asarray([[704.0]], dtype), jnp.asarray([[4.0]], dtype))
    assert points == 700.0**2
