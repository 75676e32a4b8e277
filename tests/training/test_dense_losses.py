"""Closed forms, second implementations in NumPy, and what stands where nothing counts: no loss, no gradient, no NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from unchecked import without_type_checks

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.training import dense_losses

DEPTH_LOSSES = {
    "l1": dense_losses.l1_loss,
    "l2": dense_losses.l2_loss,
    "huber": lambda p, t, w=None: dense_losses.huber_loss(p, t, w, delta=0.5),
    "gaussian": lambda p, t, w=None: dense_losses.gaussian_loss(p[0], p[1], t, w),
}


def run(function, *arrays):
    """Compiled, for with NaN debugging on no array with a NaN can be made but as an argument of a compiled function."""
    return jax.jit(function)(*arrays)


def by_definition(name, p, t):
    if name == "gaussian":
        mean, deviation = p[0], np.exp(p[1] / 2)
        return -scipy.stats.norm.logpdf(t, mean, deviation) - np.log(2 * np.pi) / 2
    error = p - t
    return {
        "l1": np.abs(error),
        "l2": error**2 / 2,
        "huber": scipy.special.huber(0.5, error) / 0.5,
    }[name]


def maps(seed, name, shape=(3, 4, 5)):
    rng = np.random.default_rng(seed)
    p = rng.normal(size=((2,) if name == "gaussian" else ()) + shape)
    t, w = rng.normal(size=shape), rng.uniform(0.1, 2, shape)
    return p, t, w, rng.random(shape) < 0.6


@pytest.mark.parametrize("name", DEPTH_LOSSES)
@given(seed=st.integers(0, 2**31 - 1), weighted=st.booleans())
@settings(max_examples=5)
def test_loss_is_the_weighted_mean_over_the_finite_targets(name, seed, weighted):
    p, t, w, counts = maps(seed, name)
    background = np.where(np.arange(t.size).reshape(t.shape) % 2, np.inf, np.nan)
    with jax.enable_x64(True):
        found = run(DEPTH_LOSSES[name], p, np.where(counts, t, background), *((w,) if weighted else ()))
    expected = np.average(by_definition(name, p, t)[counts], weights=w[counts] if weighted else None)
    np.testing.assert_allclose(found, expected, rtol=1e-12)  # float64, means of some dozens


@pytest.mark.parametrize("name", DEPTH_LOSSES)
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e38])
def test_gradient_is_exactly_zero_and_finite_where_no_target_counts(name, garbage):
    p, t, w, counts = maps(0, name)
    t = np.where(counts, t, np.array([np.inf, np.nan, -np.inf, np.inf, np.nan]))
    p = np.where(counts, p, garbage)
    value, gradient = run(jax.value_and_grad(DEPTH_LOSSES[name]), *(x.astype(np.float32) for x in (p, t, w)))
    gradient = np.broadcast_to(np.asarray(gradient), p.shape)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert not np.where(counts, 0, gradient).any()
    assert np.where(counts, gradient, 1).all()


@pytest.mark.parametrize("name", DEPTH_LOSSES)
def test_weight_zero_counts_as_little_as_an_infinite_target(name):
    p, t, w, counts = maps(1, name)
    compiled = jax.jit(jax.value_and_grad(DEPTH_LOSSES[name]))
    by_target = compiled(p, np.where(counts, t, np.inf), w)
    by_weight = compiled(np.where(counts, p, np.nan), t, np.where(counts, w, 0))
    for one, other in zip(by_target, by_weight, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", DEPTH_LOSSES)
def test_a_picture_of_background_has_no_loss_and_no_gradient(name):
    p, t, w, _ = maps(2, name)
    background = jnp.full(t.shape, jnp.inf)
    for weights in ((), (jnp.asarray(w, jnp.float32),)):
        value, gradient = jax.value_and_grad(DEPTH_LOSSES[name])(jnp.asarray(p, jnp.float32), background, *weights)
        assert float(value) == 0
        assert not np.any(gradient)


@pytest.mark.parametrize("name", ["l1", "l2", "huber"])
def test_a_prediction_that_is_right_is_not_moved(name):
    depths = jnp.array([0.5, 3.0, 0.0])
    np.testing.assert_array_equal(jax.grad(DEPTH_LOSSES[name])(depths, depths), np.zeros(3))


def test_huber_meets_l1_and_l2_at_its_ends():
    p, t = jnp.array([0.5, -3.0, 0.0, 2.0]), jnp.array([0.0, 1.0, 0.0, -2.0])
    # float32: delta beyond every error leaves l2 / delta; one below every error leaves l1 less delta / 2.
    np.testing.assert_allclose(dense_losses.huber_loss(p, t, delta=8.0), dense_losses.l2_loss(p, t) / 8, rtol=1e-6)
    np.testing.assert_allclose(dense_losses.huber_loss(p, t, delta=1e-6), dense_losses.l1_loss(p, t), rtol=1e-6)
    with pytest.raises(ConfigError, match=r"above 0, got 0.0; for 0 take l1"):
        dense_losses.huber_loss(p, t, delta=0.0)


def test_gaussian_loss_is_least_at_the_squared_error_and_finite_for_tiny_variances():
    errors = jnp.array([0.5, 2.0])
    # d/ds (s + e^2 exp(-s)) / 2 = 0 at s = log e^2
    gradient = jax.grad(dense_losses.gaussian_loss, argnums=1)(errors, 2 * jnp.log(errors), jnp.zeros(2))
    np.testing.assert_allclose(gradient, 0, atol=1e-6)  # float32, terms of 1/4
    value, gradient = jax.value_and_grad(dense_losses.gaussian_loss, argnums=(0, 1))(
        jnp.zeros(3), jnp.full(3, -120.0), jnp.zeros(3)
    )
    assert float(value) == -60
    np.testing.assert_allclose(gradient[1], 1 / 6, rtol=1e-6)  # float32


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=10)
def test_cross_entropy_weighs_classes_and_pixels_and_leaves_void_out(seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(3, 7, 4)), rng.integers(0, 4, (3, 7))
    labels[rng.random((3, 7)) < 0.2] = 255
    labels[0, 0], labels[0, 1] = -1, 2
    class_weights, weights = rng.uniform(0.5, 2, 4), rng.uniform(0.5, 2, (3, 7))
    counts = (labels >= 0) & (labels < 4) & (labels != 1)
    nll = -scipy.special.log_softmax(logits, -1)[counts, labels[counts]]
    expected = np.average(nll, weights=class_weights[labels[counts]] * weights[counts])
    with jax.enable_x64(True):
        found = dense_losses.weighted_cross_entropy(
            jnp.asarray(logits),
            jnp.asarray(labels),
            class_weights=jnp.asarray(class_weights),
            weights=jnp.asarray(weights),
            ignored=1,
        )
    np.testing.assert_allclose(found, expected, rtol=1e-12)  # float64


def test_cross_entropy_has_no_gradient_at_void_pixels_whatever_stands_there():
    logits = np.array([[1.0, 2.0], [np.nan, np.inf], [0.0, 1.0], [np.inf, 0.0]], np.float32)
    labels, weights = jnp.array([0, 255, 1, 0]), jnp.array([1.0, 1.0, 1.0, 0.0])

    def loss(logits):
        return dense_losses.weighted_cross_entropy(logits, labels, weights=weights)

    value, gradient = run(jax.value_and_grad(loss), logits)
    rows = np.array([0, 2])
    expected = jax.value_and_grad(dense_losses.mean_cross_entropy)(jnp.asarray(logits[rows]), labels[rows])
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)  # float32
    np.testing.assert_allclose(gradient[rows], expected[1], rtol=1e-6)
    np.testing.assert_array_equal(gradient[np.array([1, 3])], np.zeros((2, 2)))
    nothing = run(jax.grad(lambda x: dense_losses.weighted_cross_entropy(x, jnp.full(4, 255))), logits)
    np.testing.assert_array_equal(nothing, np.zeros((4, 2)))


@pytest.mark.parametrize("shape", [(3,), (1,), (4, 1)])
def test_other_than_one_weight_for_each_class_is_refused(shape):
    logits, labels = jnp.zeros((2, 4)), jnp.asarray([0, 3])
    with without_type_checks(), pytest.raises(InputError, match=r"each of the 4 classes .* shape \(4,\), got \("):
        dense_losses.weighted_cross_entropy(logits, labels, class_weights=jnp.ones(shape))


@pytest.mark.parametrize("name", DEPTH_LOSSES)
@pytest.mark.parametrize("wrong", ["targets", "weights"])
def test_maps_that_would_be_broadcast_are_refused(name, wrong):
    p, t, w, _ = maps(0, name, (1, 5))
    t, w = (t[..., None], w) if wrong == "targets" else (t, w.T)
    with without_type_checks(), pytest.raises(InputError, match=rf"got {wrong} of shape .* of shape \(1, 5\)"):
        DEPTH_LOSSES[name](p, t, w)


def test_labels_of_another_shape_than_the_pixels_are_refused():
    with without_type_checks(), pytest.raises(InputError, match=r"got labels of shape \(5, 1\) for logits .* \(1, 5\)"):
        dense_losses.weighted_cross_entropy(jnp.zeros((1, 5, 3)), jnp.zeros((5, 1), int))
