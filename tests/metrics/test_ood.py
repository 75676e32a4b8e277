import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics.ood import (
    auroc,
    auroc_standard_error,
    bootstrap_error,
    detect,
    false_positive_rate,
    negative_confidence,
)
from jaxgeo.metrics.uncertainty import mutual_information

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of areas and rates up to 1.

seeds = st.integers(0, 2**31 - 1)
levels = st.sampled_from([1, 3, 10**6])


def scores(seed, count, number_of_levels, shift=0):
    values = np.random.default_rng(seed).integers(0, number_of_levels, count) + shift
    return values.astype(np.float32)


def as_labels(inside, outside):
    return np.repeat([0, 1], [len(inside), len(outside)]), np.concatenate([inside, outside])


@given(seed=seeds, number_of_levels=levels)
def test_area_is_that_of_scikit_learn_with_and_without_ties(seed, number_of_levels):
    inside, outside = scores(seed, 40, number_of_levels), scores(seed + 1, 25, number_of_levels)
    expected = sklearn.metrics.roc_auc_score(*as_labels(inside, outside))
    area = auroc(inside, outside)
    np.testing.assert_allclose(area, expected, atol=1e-6)
    mirrored = auroc(outside, inside)
    np.testing.assert_allclose(mirrored, 1 - area, atol=1e-6)


@given(seed=seeds, number_of_levels=levels)
def test_rate_is_the_first_point_of_the_curve_with_enough_true_positives(seed, number_of_levels):
    inside, outside = scores(seed, 40, number_of_levels), scores(seed + 1, 25, number_of_levels)
    false, true, _ = sklearn.metrics.roc_curve(*as_labels(inside, outside), drop_intermediate=False)
    rate = false_positive_rate(inside, outside)
    np.testing.assert_allclose(rate, false[np.argmax(true >= 0.95)], atol=1e-6)


def test_closed_forms():
    same = np.full(7, 0.3)
    assert auroc(same, same[:3]) == 0.5
    assert auroc_standard_error(same, same[:3]) == 0
    assert false_positive_rate(same, same[:3]) == 1
    low, high = np.array([0.0, 1.0]), np.array([2.0, 3.0])
    assert auroc(low, high) == 1
    assert auroc(high, low) == 0
    assert false_positive_rate(low, high) == 0
    # Of the four pairs two are right, one is a tie, one is wrong.
    assert auroc(np.array([0.0, 2.0]), np.array([1.0, 2.0])) == 0.625
    # 19 of 20 images are 95 %: the threshold is the second lowest score.
    outside = np.arange(20.0)
    assert false_positive_rate(np.array([0.5, 1.0]), outside) == 0.5
    assert false_positive_rate(np.array([0.5, 1.0]), outside, 1.0) == 1


@given(seed=seeds, number_of_levels=levels)
def test_delongs_error_is_its_double_sum_over_pairs(seed, number_of_levels):
    inside, outside = scores(seed, 12, number_of_levels), scores(seed + 1, 9, number_of_levels)
    wins = (outside[:, None] > inside[None]) + 0.5 * (outside[:, None] == inside[None])
    expected = np.sqrt(wins.mean(1).var(ddof=1) / 9 + wins.mean(0).var(ddof=1) / 12)
    np.testing.assert_allclose(auroc_standard_error(inside, outside), expected, atol=1e-6)


def test_errors_are_the_spread_of_repeated_experiments():
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=80), 1 + rng.normal(size=60)) for _ in range(200)]
    area, stated = [auroc(*pair) for pair in pairs], [auroc_standard_error(*pair) for pair in pairs]
    # The spread of 200 repetitions is known to 5 %: three of that.
    np.testing.assert_allclose(np.mean(stated), np.std(area, ddof=1), rtol=0.15)
    # A shift of one standard deviation: Phi(1 / sqrt 2)
    np.testing.assert_allclose(np.mean(area), 0.7602, atol=4 * np.std(area) / np.sqrt(200))
    keys = jax.random.split(jax.random.key(0), 40)
    boot = [bootstrap_error(k, false_positive_rate, *p, 100) for k, p in zip(keys, pairs[:40], strict=True)]
    # A bootstrap of a quantile of 60 images is good to a few tens of percent.
    np.testing.assert_allclose(np.mean(boot), np.std([false_positive_rate(*p) for p in pairs], ddof=1), rtol=0.35)


def draws(seed, count, images):
    logits = 3 * np.random.default_rng(seed).normal(size=(count, images, 4))
    return jnp.asarray(scipy.special.log_softmax(logits, -1), jnp.float32)


def test_disagreement_finds_the_images_on_which_draws_disagree():
    inside = jnp.asarray(np.repeat(draws(0, 1, 30), 6, axis=0))
    outside = draws(1, 6, 20)
    found = detect(jax.random.key(2), inside, outside, mutual_information, groups=3)
    assert found.auroc.value == 1
    assert found.false_positive_rate.value == 0
    assert found.auroc.standard_error == 0
    blind = detect(jax.random.key(2), inside, outside, negative_confidence, groups=3)
    assert 0.3 < blind.auroc.value < 1
    assert blind.auroc.standard_error > 0
    assert blind.false_positive_rate.image_standard_error > 0
    alone = detect(jax.random.key(2), inside[:1], outside[:1, :1])
    assert alone.auroc.standard_error is None
    assert alone.auroc.image_standard_error is None


def test_batch_axes_are_joined():
    inside, outside = draws(4, 6, 24), draws(5, 6, 12)
    flat = detect(jax.random.key(2), inside, outside, mutual_information, groups=3)
    shaped = inside.reshape(6, 2, 3, 4, 4), outside.reshape(6, 4, 3, 4)
    assert detect(jax.random.key(2), *shaped, mutual_information, groups=3) == flat
    scores = [np.asarray(mutual_information(values)) for values in shaped]
    assert [values.shape for values in scores] == [(2, 3, 4), (4, 3)]
    assert auroc(*scores) == auroc(*(values.ravel() for values in scores))
    assert auroc_standard_error(*scores) == flat.auroc.image_standard_error
    # A bootstrap of the joined images, with as many of each.
    assert bootstrap_error(jax.random.key(0), auroc, *scores) == bootstrap_error(
        jax.random.key(0), auroc, *(values.ravel() for values in scores)
    )


def test_a_score_is_compiled_once_for_each_number_of_draws_and_any_number_of_images():
    traced = []

    def score(log_probs):
        traced.append(log_probs.shape)
        return mutual_information(log_probs)

    for inside, outside in ((30, 20), (300, 7)):
        found = detect(jax.random.key(0), draws(2, 6, inside), draws(3, 6, outside), score, groups=3)
        whole = [np.asarray(jax.jit(mutual_information)(draws(s, 6, n))) for s, n in ((2, inside), (3, outside))]
        np.testing.assert_allclose(found.auroc.value, auroc(*whole), atol=1e-9)  # ranks of the same scores
    # All six draws, and four of them without a group; no more for the other sets.
    assert sorted({shape[0] for shape in traced}) == [4, 6]
    assert len(traced) == 2


@pytest.mark.parametrize("least", [-1e4, -np.inf])
def test_extreme_log_probabilities_are_scored(least):
    sure = jnp.asarray([[[0, least]] * 2] * 2, jnp.float32)
    torn = jnp.asarray([[[0, least]] * 2, [[least, 0]] * 2], jnp.float32)
    for score in (mutual_information, negative_confidence):
        assert detect(jax.random.key(0), sure, torn, score).auroc.value == 1


def test_impossible_requests_are_refused():
    two = np.ones(2)
    with pytest.raises(ConfigError, match=r"above 0 and at most at 1, got 1\.5"):
        false_positive_rate(two, two, 1.5)
    with pytest.raises(InputError, match="got 2 draws of 4 classes inside and 3 of 4 outside"):
        detect(jax.random.key(0), draws(0, 2, 3), draws(0, 3, 3))
    with pytest.raises(InputError, match="inside scores must have an order, got 1 NaN of 2"):
        auroc(np.array([0, np.nan]), two)
    with pytest.raises(InputError, match="at least 2 outside images, got 1"):
        auroc_standard_error(two, two[:1])
