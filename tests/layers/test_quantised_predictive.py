"""Uncertainty in fixed point beside that in floating point, and identities that hold in every bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.quantised_predictive import PredictivePrecision, ensemble_predictive, predictive, probabilities
from jaxgeo.metrics.uncertainty import mutual_information, predictive_entropy

BY_CLASSES = {classes: PredictivePrecision.uniform(14, classes, 4) for classes in (1, 10)}


@pytest.mark.parametrize("classes", BY_CLASSES)
def test_fourteen_bits_give_the_uncertainty_of_floats(classes):
    logits = quantize(3 * jax.random.normal(jax.random.key(classes), (4, 50, classes)), BY_CLASSES[classes].logits)
    found = jax.jit(predictive, static_argnums=1)(logits, BY_CLASSES[classes])
    full = jnp.concatenate([jnp.zeros_like(logits), logits], -1) if classes == 1 else logits
    log_probs = jax.nn.log_softmax(full)
    # The sum of exponentials, at least 1, is rounded by up to 2^-10 (steps of 2^-9 up to 32), so each probability by a
    # thousandth of itself; entropies add ten such terms, whose slope is below 9, and roundings by 2^-11 each.
    np.testing.assert_allclose(found.probabilities, jnp.exp(log_probs).mean(0), atol=1.5e-3)
    np.testing.assert_allclose(found.entropy[:, 0], predictive_entropy(log_probs), atol=2e-2)
    np.testing.assert_allclose(found.mutual_information[:, 0], mutual_information(log_probs), atol=3e-2)
    assert np.ptp(found.entropy) > 0.3


@pytest.mark.parametrize("classes", [1, 5])
def test_members_that_agree_have_no_mutual_information(classes):
    precision = PredictivePrecision.uniform(8, classes)
    logits = jax.random.normal(jax.random.key(0), (1, 40, classes)) * jnp.ones((8, 1, 1))
    found, own = jax.jit(lambda logits: (predictive(logits, precision), probabilities(logits[0], precision)))(logits)
    np.testing.assert_array_equal(found.mutual_information, 0.0)
    np.testing.assert_array_equal(found.probabilities, own)


def test_certainty_and_ignorance_are_exact():
    precision = PredictivePrecision.uniform(8, 2, 5)
    certain, fair = (
        jax.jit(predictive, static_argnums=1)(jnp.asarray(logits), precision)
        for logits in ([[[-15.0, 15.0]]], [[[-15.0, 15.0]], [[15.0, -15.0]]])
    )
    np.testing.assert_array_equal(certain.probabilities, [[0.0, 1.0]])
    np.testing.assert_array_equal(certain.entropy, 0.0)
    np.testing.assert_array_equal(fair.probabilities, [[0.5, 0.5]])
    # Each of two terms ln(2) / 2 = 0.3466 is rounded to the step, once.
    step = precision.entropy.step
    np.testing.assert_array_equal(fair.entropy, 2 * np.floor(0.5 * np.log(2) / step + 0.5) * step)
    np.testing.assert_array_equal(fair.mutual_information, fair.entropy)


def test_the_ensemble_is_its_members_on_one_input():
    precision = PredictivePrecision.uniform(8, 3)
    stacked = jax.random.normal(jax.random.key(0), (4, 5, 3))
    x = jax.random.normal(jax.random.key(1), (20, 5))
    found = jax.jit(ensemble_predictive(lambda kernel, x: x @ kernel, precision))(stacked, x)
    one_by_one = jnp.stack([x @ kernel for kernel in stacked])
    expected = jax.jit(predictive, static_argnums=1)(one_by_one, precision)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_three_members_are_half_a_step_from_the_mean_of_theirs_at_most():
    precision = PredictivePrecision.uniform(8, 3)
    logits = jax.random.normal(jax.random.key(0), (3, 40, 3))
    found = jax.jit(predictive, static_argnums=1)(logits, precision)
    own = jnp.stack([probabilities(member, precision) for member in logits])
    np.testing.assert_allclose(found.probabilities, own.mean(0), atol=0.501 * precision.probability.step)  # of float32


def test_what_cannot_be_exact_is_refused():
    precision = PredictivePrecision.uniform(8, 3)
    with pytest.raises(ConfigError, match="at least one member, got none"):
        predictive(jnp.zeros((0, 1, 3)), precision)
    with pytest.raises(ConfigError, match=r"probability has to hold 1.*ap_ufixed<8,1>"):
        PredictivePrecision(**{**vars(precision), "probability": FixedPoint(8, 0, False, "RND", "SAT")})
    with pytest.raises(ConfigError, match="at least 4 bits and a class, got 3 and 2"):
        PredictivePrecision.uniform(3, 2)
