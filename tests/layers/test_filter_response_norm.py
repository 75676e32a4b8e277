"""Filter response normalisation: its formula, unit mean square, invariance under scaling, independence of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.filter_response_norm import FilterResponseNorm


def random_params(rng, channels, threshold):
    names = ("scale", "bias", "threshold")[: 2 + threshold]
    return {"params": {name: jnp.asarray(rng.normal(size=channels), jnp.float32) for name in names}}


@given(
    rows=st.integers(1, 4), columns=st.integers(1, 4), channels=st.integers(1, 3), images=st.integers(1, 3),
    threshold=st.booleans(), seed=st.integers(0, 2**31 - 1),
)  # fmt: skip
@settings(max_examples=8)  # each draw of sizes compiles
def test_the_norm_is_its_formula_written_out_in_float64(rows, columns, channels, images, threshold, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(images, rows, columns, channels)).astype(np.float32)
    params = random_params(rng, channels, threshold)
    found = FilterResponseNorm(threshold=threshold).apply(params, jnp.asarray(x))
    gamma, beta, *tau = (np.asarray(leaf, np.float64) for leaf in params["params"].values())
    for image in range(images):
        for c in range(channels):
            plane = x[image, :, :, c].astype(np.float64)
            expected = gamma[c] * plane / np.sqrt((plane**2).sum() / plane.size + 1e-6) + beta[c]
            expected = np.maximum(expected, tau[0][c]) if threshold else expected
            np.testing.assert_allclose(found[image, :, :, c], expected, rtol=1e-5, atol=1e-5)  # float32


def test_a_new_layer_has_unit_mean_square_whatever_the_scale_of_its_input():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    layer = FilterResponseNorm(threshold=False)
    params = layer.init(jax.random.key(1), x)
    once, scaled = layer.apply(params, x), layer.apply(params, 100.0 * x)
    np.testing.assert_allclose(jnp.mean(once**2, axis=(1, 2)), 1.0, rtol=1e-5)  # epsilon 1e-6 against about 1
    np.testing.assert_allclose(scaled, once, rtol=1e-5, atol=1e-6)


def test_an_image_does_not_see_the_others_of_its_batch():
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    params = random_params(np.random.default_rng(0), 2, True)
    together = FilterResponseNorm().apply(params, x)
    np.testing.assert_allclose(FilterResponseNorm().apply(params, x[1]), together[1], rtol=1e-6, atol=1e-6)


def test_a_plane_of_zeros_has_a_finite_value_and_gradient():
    layer = FilterResponseNorm(threshold=False)
    params = layer.init(jax.random.key(0), jnp.zeros((2, 2, 1)))
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(layer.apply(params, x)))(jnp.zeros((2, 2, 1)))
    assert float(value) == 0.0
    np.testing.assert_allclose(gradient, 1e3, rtol=1e-5)  # 1 / sqrt(epsilon)


def test_what_has_no_planes_is_refused_and_so_is_an_epsilon_of_zero():
    with pytest.raises(InputError, match=r"axes \(..., row, column, channel\).*got shape \(0, 2, 1\)"):
        FilterResponseNorm().init(jax.random.key(0), jnp.zeros((0, 2, 1)))
    with pytest.raises(ConfigError, match=r"must be positive, got 0.0"):
        FilterResponseNorm(epsilon=0.0).init(jax.random.key(0), jnp.zeros((2, 2, 1)))
