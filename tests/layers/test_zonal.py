"""Zonal filters commute with rotations and are convolutions with kernels that depend on the distance."""

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_signals import native_coefficients

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.rotations import haar_rotations
from jaxgeo.harmonics import layout
from jaxgeo.harmonics.healpix import healpix_synthesis, plan_healpix_transform
from jaxgeo.harmonics.rotation import plan_rotation, rotate_coefficients
from jaxgeo.layers.zonal import HealpixZonalConv, ZonalConfig, ZonalConv, apply_spectrum, interpolation_matrix

# Where nothing else is said, tolerances bound float64 rounding: sums of some ten products of numbers up to 8.


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("bandlimit", [1, 4, 5])
def test_a_spectrum_multiplies_each_degree(bandlimit, real):
    with jax.enable_x64(True):
        native = native_coefficients(0, bandlimit, channels=2, real=real)
        spectrum = jnp.asarray(np.random.default_rng(1).standard_normal((bandlimit, 2, 3)))
        found = layout.native_to_dense(apply_spectrum(spectrum, native, real=real), real=real)
        dense = layout.native_to_dense(native, real=real)
        np.testing.assert_allclose(found, jnp.einsum("lmi,lio->lmo", dense, spectrum), atol=1e-14)


@pytest.mark.parametrize(("dtype", "bar", "anchors"), [(jnp.float64, 1e-12, None), (jnp.float32, 2e-6, 4)])
@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=2)
def test_filters_commute_with_rotations(dtype, bar, anchors, seed):
    with jax.enable_x64(True):
        layer = ZonalConv(ZonalConfig(4, anchors, use_bias=True))
        native = native_coefficients(seed, 9, channels=3, dtype=dtype)
        params = layer.init(jax.random.key(seed), native)
        params["params"]["bias"] = jnp.arange(4.0)
        rotation = haar_rotations(jax.random.key(seed)).astype(dtype)
        plan = plan_rotation(9, dtype=dtype)

        def turned(native):
            dense = layout.native_to_dense(native)
            return layout.dense_to_native(rotate_coefficients(plan, dense, rotation))

        out = layer.apply(params, native)
        error = jnp.linalg.norm((layer.apply(params, turned(native)) - turned(out)).ravel())
        assert error <= bar * jnp.linalg.norm(out.ravel())


def test_a_smooth_spectrum_is_interpolated_between_anchors():
    matrix = interpolation_matrix(9, 3)
    np.testing.assert_allclose(matrix @ [0.0, 4.0, 8.0], np.arange(9.0), atol=1e-14)
    np.testing.assert_array_equal(interpolation_matrix(5, 5), np.eye(5))


def test_a_filter_of_maps_is_a_convolution_with_a_function_of_distance():
    with jax.enable_x64(True):
        plan = plan_healpix_transform(8, 12, dtype=jnp.float64)
        maps = healpix_synthesis(plan, native_coefficients(2, 12, channels=1))
        layer = HealpixZonalConv(ZonalConfig(1), iterations=20)
        spectrum = np.exp(-0.05 * np.arange(12.0) ** 2)
        found = layer.apply({"params": {"filter": {"spectrum": jnp.asarray(spectrum).reshape(12, 1, 1)}}}, plan, maps)
        # k(x . y) = sum_l (2l + 1) / 4 pi h_l P_l(x . y); the sum over pixels of a product of degree 22 at nside 8 is
        # off by some 1e-3, which the maps' analysis at 20 iterations is not.
        vectors = np.stack(healpy.pix2vec(8, np.arange(768)))
        series = np.polynomial.legendre.Legendre((2 * np.arange(12) + 1) / (4 * np.pi) * spectrum)
        expected = series(np.clip(vectors.T @ vectors, -1, 1)) @ np.asarray(maps) * (4 * np.pi / 768)
        np.testing.assert_allclose(found, expected, atol=5e-3 * np.abs(expected).max())


def test_the_bias_is_a_constant_map():
    for real in (True, False):
        plan = plan_healpix_transform(2, 3, real=real)
        layer = HealpixZonalConv(ZonalConfig(2, real=real, use_bias=True))
        maps = jnp.zeros((48, 1), jnp.float32 if real else jnp.complex64)
        params = layer.init(jax.random.key(0), plan, maps)
        params["params"]["filter"]["bias"] = jnp.array([1.5, -2.0])
        found = layer.apply(params, plan, maps)
        np.testing.assert_allclose(found, jnp.broadcast_to(jnp.array([[1.5, -2.0]]), (48, 2)), atol=1e-6)  # float32


def test_wrong_sizes_are_refused():
    with pytest.raises(ConfigError, match="features must be a whole number of at least 1, got 0"):
        ZonalConfig(0)
    with pytest.raises(ConfigError, match="anchors must be a whole number of at least 2 or None, got 1"):
        ZonalConfig(1, 1)
    with pytest.raises(ConfigError, match="bandlimit 3 need as many factors, got 4"):
        apply_spectrum(jnp.ones((4, 1, 1)), jnp.ones((2, 3, 2, 2, 1)))
    with pytest.raises(InputError, match="native coefficients"):
        ZonalConv(ZonalConfig(1)).init(jax.random.key(0), jnp.ones((2, 3, 2, 4, 1)))
    plan = plan_healpix_transform(1, 2)
    with pytest.raises(ConfigError, match="real=True but the config real=False"):
        HealpixZonalConv(ZonalConfig(1, real=False)).init(jax.random.key(0), plan, jnp.ones((12, 1)))
    plan = plan_healpix_transform(1, 2, spin=1)
    layer = HealpixZonalConv(ZonalConfig(1, real=False, use_bias=True))
    with pytest.raises(ConfigError, match="spin 1 has no constant part"):
        layer.init(jax.random.key(0), plan, jnp.ones((12, 1), jnp.complex64))


def test_more_anchors_than_degrees_are_refused():
    # Between them the spectrum would be learned at degrees that the coefficients do not have.
    with pytest.raises(ConfigError, match="at most one anchor per degree, here 3, got 4"):
        ZonalConv(ZonalConfig(1, 4)).init(jax.random.key(0), jnp.ones((2, 3, 2, 2, 1)))
