import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.training import losses


@given(seed=st.integers(0, 2**31 - 1), classes=st.integers(2, 12), scale=st.floats(0.1, 50.0))
def test_cross_entropy_is_minus_the_log_softmax_at_the_label(seed, classes, scale):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(3, 4, classes))).astype(np.float32)
    labels = rng.integers(0, classes, (3, 4))
    expected = -np.take_along_axis(scipy.special.log_softmax(logits.astype(float), -1), labels[..., None], -1)[..., 0]
    found = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    # float32 with logits up to a few hundred: 2^-24 relative to the largest logit, a few roundings.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * (1 + np.abs(logits).max()))


def test_cross_entropy_and_its_gradient_stay_finite_for_enormous_logits():
    logits = jnp.array([[1e30, -1e30, 0.0], [-1e30, 1e30, 0.0]])
    value, gradient = jax.value_and_grad(losses.mean_cross_entropy)(logits, jnp.array([0, 1]))
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


@given(seed=st.integers(0, 2**31 - 1))
def test_the_gradient_is_softmax_minus_one_hot(seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(6, 5)), rng.integers(0, 5, 6)
    gradient = jax.grad(losses.mean_cross_entropy)(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    expected = (scipy.special.softmax(logits, -1) - np.eye(5)[labels]) / 6
    np.testing.assert_allclose(gradient, expected, atol=1e-6)  # float32, values below 1


def test_weights_choose_the_examples_that_count():
    logits = jax.random.normal(jax.random.key(0), (5, 3))
    labels = jnp.array([0, 1, 2, 0, 1])
    chosen = losses.mean_cross_entropy(logits, labels, jnp.array([1.0, 0.0, 1.0, 1.0, 0.0]))
    rows = jnp.array([0, 2, 3])
    np.testing.assert_allclose(chosen, losses.mean_cross_entropy(logits[rows], labels[rows]), rtol=1e-6)  # float32


def test_a_batch_of_padding_alone_has_no_loss_and_no_gradient():
    logits = jax.random.normal(jax.random.key(0), (5, 3))
    value, gradient = jax.value_and_grad(losses.mean_cross_entropy)(logits, jnp.zeros(5, int), jnp.zeros(5))
    assert float(value) == 0.0
    assert not np.any(gradient)


def test_accuracy_counts_the_largest_logits():
    logits = jnp.array([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [1.0, 1.0]])
    assert float(losses.accuracy(logits, jnp.array([1, 0, 0, 0]))) == 0.75
