"""Spectra: invariance, healpy's definitions, products of spectra against integrals."""

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_signals import dense_coefficients
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import latlon, rotations
from jaxgeo.harmonics import layout, rotation, s2, spectra, wigner

# Where nothing else is said, tolerances bound float64 rounding: sums of some hundred products of numbers up to 4.

seeds = st.integers(0, 2**31 - 1)
BANDLIMIT = 5


@pytest.fixture(scope="module")
def plans():
    with jax.enable_x64(True):
        yield (
            rotation.plan_rotation(BANDLIMIT, dtype=jnp.float64),
            spectra.plan_bispectrum(BANDLIMIT, dtype=jnp.float64),
            jax.jit(rotation.rotate_coefficients),
            jax.jit(spectra.bispectrum),
        )


@settings(max_examples=10)
@given(seed=seeds)
def test_power_spectrum_and_bispectrum_are_invariant(plans, seed):
    turns, triples, turn, bispectrum = plans
    with jax.enable_x64(True):
        f = jnp.asarray(dense_coefficients(seed, BANDLIMIT, batch=(2,), channels=2))
        g = turn(turns, f, rotations.haar_rotations(jax.random.key(seed)))
        np.testing.assert_allclose(spectra.power_spectrum(g), spectra.power_spectrum(f), atol=1e-13)
        # Sums of up to 81 products of three numbers of size up to 4.
        np.testing.assert_allclose(bispectrum(triples, g), bispectrum(triples, f), atol=1e-11)


def test_bispectrum_tells_signals_of_equal_power_apart(plans):
    _, triples, _, bispectrum = plans
    f = dense_coefficients(1, BANDLIMIT)
    g = f.copy()
    g[2] *= -1  # keeps the power
    with jax.enable_x64(True):
        first, second = (np.asarray(bispectrum(triples, jnp.asarray(x))) for x in (f, g))
        powers = [spectra.power_spectrum(jnp.asarray(x)) for x in (f, g)]
    np.testing.assert_array_equal(*powers)
    assert np.abs(first - second).max() > 0.1


def test_bispectrum_is_the_integral_of_products_of_degrees():
    # For even l1 + l2 + l3: <l1 0 l2 0|l3 0> b = sqrt(4 pi (2 l3 + 1) / ((2 l1 + 1) (2 l2 + 1))) int f_l1 f_l2 f_l3.
    bandlimit, triples = 4, ((1, 2, 3), (2, 2, 2), (0, 3, 3))
    dense = dense_coefficients(5, bandlimit)
    grid = latlon.gauss_legendre_grid(6)
    theta, phi = latlon.colatitude_mesh(grid), latlon.longitude_mesh(grid)
    parts = [wigner.spherical_harmonics(l, theta, phi) @ dense[l, 3 - l : 4 + l, 0] for l in range(bandlimit)]
    with jax.enable_x64(True):
        plan = spectra.plan_bispectrum(bandlimit, triples, dtype=jnp.float64)
        values = np.asarray(spectra.bispectrum(plan, jnp.asarray(dense)))[:, 0]
    assert plan.triples == triples
    for (l1, l2, l3), value in zip(triples, values, strict=True):
        integral = (parts[l1] * parts[l2] * parts[l3] * latlon.pixel_areas(grid)).sum()
        zero = spectra.clebsch_gordan(l1, l2, l3)[l1, l2, l3]
        factor = np.sqrt(4 * np.pi * (2 * l3 + 1) / ((2 * l1 + 1) * (2 * l2 + 1)))
        np.testing.assert_allclose(zero * value, factor * integral, atol=1e-12)


def test_power_and_cross_spectrum_are_those_of_healpy():
    first, second = dense_coefficients(1, 8, channels=1), dense_coefficients(2, 8, channels=1)
    with jax.enable_x64(True):
        packed = [
            np.array(layout.native_to_healpy(layout.dense_to_native(jnp.asarray(x))))[:, 0] for x in (first, second)
        ]
        ours = spectra.cross_spectrum(jnp.asarray(first), jnp.asarray(second))[:, 0]
        own = spectra.power_spectrum(jnp.asarray(first))[:, 0]
    np.testing.assert_allclose(ours, healpy.alm2cl(*packed), atol=1e-14)
    np.testing.assert_allclose(own, healpy.alm2cl(packed[0]), atol=1e-14)


def test_power_sums_to_the_integral_of_the_square():
    grid, f = latlon.soft_grid(5), dense_coefficients(3, 5)
    with jax.enable_x64(True):
        transform = s2.plan_s2_transform(grid, dtype=jnp.float64)
        signal = s2.synthesis(transform, s2.from_dense(transform, jnp.asarray(f)))[..., 0]
        power = np.asarray(spectra.power_spectrum(jnp.asarray(f)))[:, 0]
    total = (np.asarray(signal) ** 2 * latlon.pixel_areas(grid)).sum()
    np.testing.assert_allclose(((2 * np.arange(5) + 1) * power).sum(), total, rtol=1e-13)


def test_zonal_convolution_is_the_integral():
    # At one point x: int f(y) h(x . y) dy, by quadrature.
    f = dense_coefficients(6, 4, batch=(1,))
    h = np.random.default_rng(0).normal(size=(4, 1))
    grid = latlon.gauss_legendre_grid(4)
    theta, phi = latlon.colatitude_mesh(grid), latlon.longitude_mesh(grid)
    values = sum(wigner.spherical_harmonics(l, theta, phi) @ f[0, l, 3 - l : 4 + l, 0] for l in range(4))
    at = np.array([0.6, 0.0, 0.8])
    angle = np.arccos(latlon.pixel_vectors(grid) @ at)
    kernel = sum(h[l, 0] * wigner.spherical_harmonics(l, angle, 0.0)[..., l] for l in range(4))
    expected = (values * kernel * latlon.pixel_areas(grid)).sum()
    with jax.enable_x64(True):
        g = np.asarray(spectra.convolve_zonal(jnp.asarray(f), jnp.asarray(h)))[0]
    got = sum(wigner.spherical_harmonics(l, np.arccos(0.8), 0.0) @ g[l, 3 - l : 4 + l, 0] for l in range(4))
    np.testing.assert_allclose(got, expected, atol=1e-13)


@settings(max_examples=5)
@given(seed=seeds)
def test_correlation_is_the_overlap_with_the_rotated_template(plans, seed):
    turns, _, turn, _ = plans
    f, h = dense_coefficients(seed, BANDLIMIT), dense_coefficients(seed + 1, BANDLIMIT)
    with jax.enable_x64(True):
        matrix = rotations.haar_rotations(jax.random.key(seed))
        overlap = jnp.sum(jnp.asarray(f) * turn(turns, jnp.asarray(h), matrix).conj())
        F = spectra.correlate(jnp.asarray(f), jnp.asarray(h))
        G = spectra.correlate(turn(turns, jnp.asarray(f), matrix), jnp.asarray(h))
        np.testing.assert_allclose(rotation.rotate_so3_coefficients(turns, F, matrix), G, atol=1e-13)
        invariant = spectra.so3_power_spectrum(F)
        np.testing.assert_allclose(spectra.so3_power_spectrum(G), invariant, atol=1e-13)
        matrix = np.asarray(matrix)
    c = 0
    for l in range(BANDLIMIT):
        orders = slice(BANDLIMIT - 1 - l, BANDLIMIT + l)
        D = wigner.wigner_D_of_rotations(l, matrix)
        c += (2 * l + 1) * (np.asarray(F)[l, orders, orders, 0] * D.conj()).sum()
    np.testing.assert_allclose(c, overlap, atol=1e-12)
    # Mean of |c|^2 over SO(3), by the orthogonality of D.
    power = [np.sum(np.abs(f[l]) ** 2) * np.sum(np.abs(h[l]) ** 2) / (2 * l + 1) for l in range(BANDLIMIT)]
    np.testing.assert_allclose(invariant[:, 0], power, atol=1e-12)


def test_errors_say_what_fits():
    with pytest.raises(ConfigError, match=r"got \(1, 1, 3\)"):
        spectra.plan_bispectrum(4, [(1, 1, 3)])
    with pytest.raises(ConfigError, match="below the bandlimit 4"):
        spectra.plan_bispectrum(4, [(2, 2, 4)])
    with pytest.raises(ConfigError, match="at least one triple"):
        spectra.plan_bispectrum(4, [])
    plan = spectra.plan_bispectrum(2)
    with pytest.raises(InputError, match="planned for bandlimit 2"):
        spectra.bispectrum(plan, jnp.zeros((3, 5, 1), jnp.complex64))


def test_shapes_that_do_not_fit_are_refused_instead_of_broadcast():
    dense, other, flat = jnp.zeros((3, 5, 1), complex), jnp.zeros((2, 3, 1), complex), jnp.zeros((5, 5, 1), complex)
    with pytest.raises(InputError, match="L degrees and 2 L - 1 orders"):
        unchecked(spectra.power_spectrum)(flat)
    for pair in (spectra.cross_spectrum, spectra.correlate):
        with pytest.raises(InputError, match="one bandlimit, got 3 and 2 degrees"):
            unchecked(pair)(dense, other)
        with pytest.raises(InputError, match="L degrees and 2 L - 1 orders"):
            unchecked(pair)(dense, flat)
    for zonal in (jnp.zeros((2, 1)), jnp.zeros((3, 2))):
        with pytest.raises(InputError, match="lengths 3 and 1"):
            unchecked(spectra.convolve_zonal)(dense, zonal)
    with pytest.raises(InputError, match="L degrees and 2 L - 1 orders"):
        unchecked(spectra.convolve_zonal)(flat, jnp.zeros((5, 1)))
    for wrong in ((3, 5, 4, 1), (3, 4, 4, 1), (2, 3, 5, 1)):
        with pytest.raises(InputError, match="N <= L"):
            unchecked(spectra.so3_power_spectrum)(jnp.zeros(wrong, complex))
    with pytest.raises(ConfigError, match=r"whole number of at least 1, got 2\.5"):
        unchecked(spectra.plan_bispectrum)(2.5)
