import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.metrics.scores import accuracy, brier, negative_log_likelihood

# Where nothing else is said, tolerances bound float32 rounding, 1e-7 of each term of sums over the images.

seeds = st.integers(0, 2**31 - 1)


def example(seed, draws, images, classes):
    key, label_key = jax.random.split(jax.random.key(seed))
    log_probs = jax.nn.log_softmax(2 * jax.random.normal(key, (draws, images, classes)))
    return log_probs, jax.random.randint(label_key, (images,), 0, classes)


@settings(max_examples=10)
@given(seed=seeds, draws=st.sampled_from([1, 4]), classes=st.sampled_from([3, 6]))
def test_scores_match_scikit_learn(seed, draws, classes):
    log_probs, labels = example(seed, draws, 20, classes)
    mean = np.exp(np.float64(log_probs)).mean(axis=0)
    mean /= mean.sum(axis=-1, keepdims=True)
    names = np.arange(classes)
    for ours, theirs in [
        (accuracy, sklearn.metrics.accuracy_score(labels, mean.argmax(-1))),
        (negative_log_likelihood, sklearn.metrics.log_loss(labels, mean, labels=names)),
        (brier, sklearn.metrics.brier_score_loss(labels, mean, labels=names, scale_by_half=False)),
    ]:
        np.testing.assert_allclose(ours(log_probs, labels), theirs, rtol=2e-6, atol=1e-6)  # float32 sums of 20


@given(seed=seeds, order=seeds)
def test_scores_do_not_depend_on_the_order_of_draws_or_the_shape_of_the_batch(seed, order):
    log_probs, labels = example(seed, 5, 6, 4)
    shuffled = jax.random.permutation(jax.random.key(order), log_probs)
    for metric in (accuracy, negative_log_likelihood, brier):
        expected = metric(log_probs, labels)
        np.testing.assert_allclose(jax.jit(metric)(shuffled, labels), expected, rtol=1e-6)
        np.testing.assert_allclose(metric(log_probs.reshape(5, 2, 3, 4), labels.reshape(2, 3)), expected, rtol=1e-6)


@settings(max_examples=10)
@given(seed=seeds)
def test_averaging_draws_never_costs_likelihood_or_brier_score(seed):
    log_probs, labels = example(seed, 4, 8, 3)
    for metric in (negative_log_likelihood, brier):  # Jensen: both are convex in the probabilities
        singles = np.mean([metric(draw[None], labels) for draw in log_probs])
        assert metric(log_probs, labels) <= singles + 1e-6


@pytest.mark.parametrize("least", [-1e4, -np.inf])
def test_certainty_scores_best_when_right_and_worst_when_wrong(least):
    log_probs = jnp.asarray([[[0.0, least, least]]], jnp.float32)
    right, wrong = jnp.asarray([0]), jnp.asarray([2])
    assert accuracy(log_probs, right) == 1
    assert brier(log_probs, right) == 0
    assert negative_log_likelihood(log_probs, right) == 0
    assert accuracy(log_probs, wrong) == 0
    assert brier(log_probs, wrong) == 2
    assert negative_log_likelihood(log_probs, wrong) == -least
