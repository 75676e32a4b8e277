import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics import agreement, calibration, scores, standard_error, uncertainty
from jaxgeo.metrics.checks import check_groups, check_labels, check_log_probs
from jaxgeo.metrics.scorecard import score
from jaxgeo.metrics.streaming import score_blocks
from jaxgeo.metrics.uncertainty_gap import uncertainty_gap

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of each term of sums over the images, and of
# errors differences of such sums.

seeds = st.integers(0, 2**31 - 1)


def example(seed, count=6, images=12, classes=4, scale=1.5):
    keys = jax.random.split(jax.random.key(seed), 3)
    log_probs = jax.nn.log_softmax(scale * jax.random.normal(keys[0], (count, images, classes)))
    reference = jax.nn.log_softmax(scale * jax.random.normal(keys[1], (8, images, classes)))
    return log_probs, jax.random.randint(keys[2], (images,), 0, classes), reference


@settings(max_examples=10)
@given(seed=seeds)
def test_scorecard_holds_the_value_of_each_metric_by_itself(seed):
    log_probs, labels, reference = example(seed)
    card = score(log_probs, labels, reference, groups=3, reference_groups=2)
    expected = {
        "accuracy": scores.accuracy(log_probs, labels),
        "negative_log_likelihood": scores.negative_log_likelihood(log_probs, labels),
        "brier": scores.brier(log_probs, labels),
        "predictive_entropy": jnp.mean(uncertainty.predictive_entropy(log_probs)),
        "expected_entropy": jnp.mean(uncertainty.expected_entropy(log_probs)),
        "mutual_information": jnp.mean(uncertainty.mutual_information(log_probs)),
        "calibration_error_equal_width": calibration.expected_calibration_error(log_probs, labels),
        "calibration_error_equal_mass": calibration.expected_calibration_error(log_probs, labels, 15, "equal_mass"),
        "agreement": agreement.agreement(log_probs, reference),
        "total_variation": agreement.total_variation(log_probs, reference),
        "divergence_from_reference": agreement.divergence_from_reference(log_probs, reference),
    }
    assert set(card.measures) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(card[name].value, value, atol=2e-6, rtol=2e-6, err_msg=name)
        assert card[name].standard_error >= 0
        assert card[name].image_standard_error >= 0
    assert (card.num_draws, card.num_groups, card.num_images) == (6, 3, 12)


def test_errors_are_the_jackknife_of_the_metric_by_itself():
    log_probs, labels, reference = example(0)
    card = score(log_probs, labels, reference, groups=3, reference_groups=2)
    for name, metric in [
        ("negative_log_likelihood", lambda x: scores.negative_log_likelihood(x, labels)),
        ("mutual_information", lambda x: jnp.mean(uncertainty.mutual_information(x))),
        ("calibration_error_equal_width", lambda x: calibration.expected_calibration_error(x, labels)),
    ]:
        expected = standard_error.jackknife_draws(metric, log_probs, 3).standard_error
        np.testing.assert_allclose(card[name].standard_error, expected, rtol=1e-4, atol=1e-6, err_msg=name)
    own = standard_error.jackknife_draws(lambda x: agreement.total_variation(x, reference), log_probs, 3)
    theirs = standard_error.jackknife_draws(lambda x: agreement.total_variation(log_probs, x), reference, 2)
    np.testing.assert_allclose(
        card["total_variation"].standard_error, np.hypot(own.standard_error, theirs.standard_error), rtol=1e-4
    )


def test_standard_errors_are_the_spread_of_repeated_experiments():
    logits = 2 * jax.random.normal(jax.random.key(0), (1, 60, 4))
    labels = jax.random.randint(jax.random.key(1), (60,), 0, 4)
    cards = []
    for seed in range(60):
        noise = jax.random.normal(jax.random.key(10 + seed), (10, 60, 4))
        cards.append(score(jax.nn.log_softmax(logits + noise), labels))
    for name in ("negative_log_likelihood", "brier", "predictive_entropy", "mutual_information"):
        spread = np.std([card[name].value for card in cards], ddof=1)
        stated = np.mean([card[name].standard_error for card in cards])
        # sixty repetitions know their spread to 9 %: three of that, and the jackknife's own excess
        assert 0.75 < stated / spread < 1.35, name


def test_one_draw_has_no_monte_carlo_error_but_one_against_the_reference():
    log_probs, labels, reference = example(0, count=1)
    card = score(log_probs, labels, reference)
    assert card["accuracy"].standard_error is None
    assert card["total_variation"].standard_error > 0
    alone = score(log_probs, labels, reference[:1])
    assert alone["total_variation"].standard_error is None
    assert "agreement" not in score(log_probs, labels).measures
    assert json.loads(json.dumps(alone.to_dict())) == alone.to_dict()
    assert set(map(type, card["brier"].to_dict().values())) == {float, type(None)}


def test_two_draws_do_not_tell_how_uncertain_their_disagreement_is():
    # Without either there is a single draw, which never disagrees: a jackknife would say that 0 is known exactly.
    log_probs = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (3, 5, 3)))
    labels = jnp.zeros(5, int)
    for draws, known in ((2, False), (3, True)):
        few = log_probs[:draws]
        card, gap = score(few, labels), uncertainty_gap(few, log_probs, reference_groups=1)
        streamed = score_blocks([(few, labels)], groups=draws)
        for measure in (card["mutual_information"], gap.mutual_information, streamed["mutual_information"]):
            assert (measure.standard_error is not None) == known
        assert min(card["brier"].standard_error, gap.entropy.standard_error) > 0


def test_a_measure_that_there_is_not_is_refused_with_those_that_there_are():
    card = score(jnp.log(jnp.full((2, 3, 4), 0.25)), jnp.zeros(3, int))
    with pytest.raises(ConfigError, match=r"must be one of .*accuracy.*, got 'total_variation'"):
        card["total_variation"]


def test_one_image_has_no_image_error():
    log_probs, labels, _ = example(0, images=1)
    assert score(log_probs, labels)["brier"].image_standard_error is None


def test_batch_axes_and_order_of_draws_do_not_matter():
    log_probs, labels, reference = example(3)
    flat = score(log_probs, labels, reference)
    shaped = score(
        jax.random.permutation(jax.random.key(0), log_probs).reshape(6, 3, 4, 4),
        labels.reshape(3, 4),
        reference.reshape(8, 3, 4, 4),
    )
    for name, measure in flat.measures.items():
        np.testing.assert_allclose(shaped[name].value, measure.value, atol=2e-6)
        np.testing.assert_allclose(shaped[name].standard_error, measure.standard_error, atol=1e-5)


@pytest.mark.parametrize("least", [-1e4, -np.inf])
def test_float32_extremes_score_without_nan(least):
    # Two certain members who contradict each other, on an image whose label neither of them thinks possible.
    log_probs = jnp.asarray([[[0, least, least]] * 2, [[least, 0, least]] * 2], jnp.float32)
    card = score(log_probs, jnp.asarray([0, 2]), log_probs)
    np.testing.assert_allclose(card["mutual_information"].value, np.log(2), rtol=1e-6)
    assert card["total_variation"].value == 0
    assert card["negative_log_likelihood"].value > 4999
    assert not any(np.isnan(v) for row in card.to_dict().values() for v in row.values() if v is not None)


GOOD = np.log(np.full((2, 3, 4), 0.25, np.float32))
LABELS = np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("log_probs", "labels", "message"),
    [
        (np.where(np.arange(4) == 2, np.nan, GOOD), LABELS, r"got nan at index \(0, 0, 2\) \(6 such values\)"),
        (np.where(np.arange(4) == 2, np.inf, GOOD), LABELS, "plus infinity are not"),
        (GOOD + 0.1, LABELS, "sum to 1.10517; pass logits through jax.nn.log_softmax"),
        (GOOD[:0], LABELS, "has no draws"),
        (GOOD[:, :0], LABELS[:0], "no images"),
        (GOOD, LABELS + 2, r"labels must lie in 0 ... 3 for 4 classes, got 4 \(1 labels out of range\)"),
        (GOOD, LABELS - 1, "got -1"),
    ],
)
def test_input_that_cannot_be_scored_gets_one_sentence(log_probs, labels, message):
    with pytest.raises(InputError, match=message):
        score(jnp.asarray(log_probs, jnp.float32), jnp.asarray(labels))


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(InputError, match=r"one entry per image, shape \(3,\), got \(2,\)"):
        check_labels(jnp.zeros(2, int), jnp.asarray(GOOD))
    with pytest.raises(InputError, match="same images and classes"):
        score(jnp.asarray(GOOD), jnp.asarray(LABELS), jax.nn.log_softmax(jnp.zeros((2, 3, 5))))
    with pytest.raises(InputError, match="reference_log_probs must be normalised"):
        score(jnp.asarray(GOOD), jnp.asarray(LABELS), jnp.asarray(GOOD + 1))
    with pytest.raises(InputError, match="2 draws do not fall into 3 equal groups"):
        score(jnp.asarray(GOOD), jnp.asarray(LABELS), groups=3)
    with pytest.raises(InputError, match="0 equal groups"):
        check_groups(4, 0)


def test_a_wider_tolerance_admits_a_fixed_point_softmax():
    coarse = jnp.asarray(GOOD + np.float32(0.01))
    with pytest.raises(InputError, match=r"within 0\.001"):
        check_log_probs(coarse)
    check_log_probs(coarse, tolerance=0.02)
    assert score(coarse, jnp.asarray(LABELS), tolerance=0.02)["accuracy"].value == pytest.approx(1 / 3)
