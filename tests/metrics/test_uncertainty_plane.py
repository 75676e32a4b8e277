import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError
from jaxgeo.metrics.predictive import mean_log_probs
from jaxgeo.metrics.uncertainty import mutual_information, predictive_entropy
from jaxgeo.metrics.uncertainty_plane import plane_edges, uncertainty_plane


def log(probabilities):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(np.asarray(probabilities, np.float32)))


def test_corners_of_the_plane_hold_what_they_should():
    sure, unsure = [1, 0, 0, 0], [0.25] * 4
    pairs = [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]  # H = ln 4, I = ln 2
    log_probs = log([[sure, unsure, pairs[0], sure], [sure, unsure, pairs[1], sure]])
    plane = jax.jit(uncertainty_plane, static_argnums=2)(log_probs, jnp.asarray([0, 3, 0, 1]), 4)
    # I = ln 2 is the middle edge up to an ulp either way.
    images = np.asarray(plane.num_images)
    assert images[0, 0] == 2
    assert images[3, 0] == 1
    assert images[3, 1] + images[3, 2] == 1
    assert images.sum() == 4
    assert plane.accuracy[0, 0] == 0.5
    np.testing.assert_allclose(plane.standard_error[0, 0], 0.5)  # s / sqrt(2), s = 1 / sqrt(2)
    assert plane.accuracy[3, 0] == 0
    assert plane.standard_error[3, 0] == np.inf
    assert plane.accuracy[3, 1] + plane.accuracy[3, 2] == 1


EDGES = np.array([0.1, 0.4, 0.9, 1.2])
plane_of = jax.jit(functools.partial(uncertainty_plane, num_bins=6, entropy_edges=EDGES))
uncertainties = jax.jit(lambda x: (predictive_entropy(x), mutual_information(x), jnp.argmax(mean_log_probs(x), -1)))


@given(seed=st.integers(0, 2**31 - 1), scale=st.sampled_from([0.1, 3.0, 1e4]))
def test_bins_partition_the_images_as_a_histogram_does(seed, scale):
    rng = np.random.default_rng(seed)
    log_probs = jnp.asarray(scipy.special.log_softmax(scale * rng.normal(size=(3, 5, 8, 4)), -1), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 4, (5, 8)))
    plane = plane_of(log_probs, labels)
    assert plane.num_images.shape == (3, 6)
    total, epistemic, top = (np.ravel(x) for x in uncertainties(log_probs))
    correct = top == np.ravel(labels)
    images, right = np.asarray(plane.num_images), np.asarray(plane.num_images) * np.asarray(plane.accuracy)
    for values, weights in [(images, None), (right, correct)]:
        # What lies outside joins the outer bins; numpy closes bins below, so both are mirrored.
        row = [-np.asarray(plane.entropy_edges)[::-1], -np.clip(total, 0.10001, 1.2)]
        col = [-np.asarray(plane.information_edges)[::-1], -np.clip(epistemic, 1e-30, np.float32(np.log(4)))]
        expected = np.histogram2d(row[1], col[1], [row[0], col[0]], weights=weights)[0][::-1, ::-1]
        np.testing.assert_allclose(values, expected, atol=1e-5)  # counts divided and multiplied in float32


def test_edges_do_not_depend_on_the_draws():
    np.testing.assert_allclose(plane_edges(10, 2), [0, np.log(10) / 2, np.log(10)])
    with pytest.raises(ConfigError, match="at least two classes, got 1"):
        plane_edges(1, 3)
    with pytest.raises(ConfigError, match="information_edges must be at least two increasing numbers"):
        uncertainty_plane(jnp.zeros((1, 2, 1)), jnp.zeros(2, int), 3, np.array([0.0, 1.0]), np.array([1.0, 0.0]))
