"""Conventions of others, each against the program that uses it."""

import e3nn_jax
import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.transform
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from random_signals import dense_coefficients

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import rotations
from jaxgeo.harmonics import conventions, layout, wigner

# Where nothing else is said, tolerances bound float64 rounding: sums of some ten products of numbers up to 1.

ANGLES = (0.7, 1.9, -2.4)
seeds = st.integers(0, 2**31 - 1)


def unit_vectors(seed, count):
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def zyz_matrix(angles):
    with jax.enable_x64(True):
        return np.asarray(rotations.from_euler_zyz(*(jnp.asarray(angle) for angle in angles)))


@pytest.mark.parametrize("degree", [0, 1, 2, 5])
def test_e3nn_wigner_matrices_are_the_real_ones_at_the_same_angles(degree):
    ours = conventions.wigner_D_as("e3nn", degree, *ANGLES)
    theirs = e3nn_jax.Irrep(degree, 1).D_from_angles(*(jnp.asarray(angle) for angle in ANGLES))
    np.testing.assert_allclose(ours, theirs, atol=2e-6)  # theirs in float32
    np.testing.assert_array_equal(ours, conventions.wigner_D_as("real", degree, *ANGLES))


@pytest.mark.parametrize("degree", [0, 1, 3, 6])
def test_e3nn_harmonics_are_theirs_in_their_axes(degree):
    vectors = unit_vectors(degree, 20)
    with jax.enable_x64(True):
        theirs = e3nn_jax.spherical_harmonics(
            e3nn_jax.Irreps([(1, (degree, (-1) ** degree))]),
            e3nn_jax.IrrepsArray("1o", jnp.asarray(vectors)),
            normalize=True,
            normalization="integral",
        ).array
    ours = conventions.harmonics_as("e3nn", degree, vectors)
    np.testing.assert_allclose(ours, theirs, atol=1e-13)  # their constants are rounded


def test_e3nn_coefficients_evaluate_to_the_same_signal():
    bandlimit, axes = 4, conventions.E3NN_AXES
    dense = dense_coefficients(0, bandlimit, channels=2)
    vectors = unit_vectors(1, 9)
    with jax.enable_x64(True):
        array = conventions.to_e3nn(jnp.asarray(dense))
        irreps = e3nn_jax.s2_irreps(bandlimit - 1)
        theirs = e3nn_jax.spherical_harmonics(irreps, jnp.asarray(vectors @ axes.T), True, "integral").array @ array.T
        np.testing.assert_allclose(conventions.from_e3nn(array), dense, atol=1e-15)
    inner = [(l, slice(bandlimit - 1 - l, bandlimit + l)) for l in range(bandlimit)]
    ours = sum(conventions.harmonics_as("quantum", l, vectors) @ dense[l, orders] for l, orders in inner)
    np.testing.assert_allclose(ours, theirs, atol=1e-13)  # as above


def test_e3nn_rotations_of_coefficients_are_ours():
    dense = dense_coefficients(3, 4)
    array = np.asarray(conventions.to_e3nn(jnp.asarray(dense, jnp.complex64)))
    irreps = e3nn_jax.s2_irreps(3)
    turned = e3nn_jax.IrrepsArray(irreps, jnp.asarray(array)).transform_by_angles(*map(jnp.asarray, ANGLES)).array
    for l in range(4):
        orders = slice(3 - l, 4 + l)
        expected = wigner.wigner_D(l, *ANGLES) @ dense[l, orders]
        # float32 there.
        np.testing.assert_allclose(conventions.from_e3nn(turned)[l, orders], expected, atol=1e-5)


@pytest.mark.parametrize("degree", [0, 1, 4])
def test_scipy_and_healpy_harmonics_are_ours(degree):
    vectors = unit_vectors(5, 12)
    theta, phi = healpy.vec2ang(vectors)
    expected = scipy.special.sph_harm_y(degree, np.arange(-degree, degree + 1)[None], theta[:, None], phi[:, None])
    for name in ("quantum", "scipy", "healpy"):
        np.testing.assert_allclose(conventions.harmonics_as(name, degree, vectors), expected, atol=1e-14)


@given(seed=seeds)
def test_euler_angles_of_scipy(seed):
    rotation = scipy.spatial.transform.Rotation.random(rng=seed)
    matrix = rotation.as_matrix()
    for name, axes in (("scipy", "ZYZ"), ("scipy_fixed_axes", "zyz"), ("e3nn", "YXY")):
        angles = conventions.euler_angles_as(name, matrix)
        theirs = scipy.spatial.transform.Rotation.from_euler(axes, angles).as_matrix()
        np.testing.assert_allclose(theirs, matrix, atol=1e-14)  # rounding of a few products
        np.testing.assert_allclose(conventions.rotation_as(name, *angles), matrix, atol=1e-14)


def test_quantum_angles_are_those_of_the_library():
    np.testing.assert_allclose(conventions.rotation_as("quantum", *ANGLES), zyz_matrix(ANGLES), atol=1e-15)
    np.testing.assert_allclose(conventions.euler_angles_as("quantum", zyz_matrix(ANGLES)), ANGLES, atol=1e-15)


def test_healpy_rotates_coefficients_with_the_angles_in_its_order():
    bandlimit = 6
    dense = dense_coefficients(8, bandlimit)
    with jax.enable_x64(True):
        packed = np.array(layout.native_to_healpy(layout.dense_to_native(jnp.asarray(dense))))[:, 0]
    healpy.rotate_alm(packed, *conventions.euler_angles_as("healpy", zyz_matrix(ANGLES)))
    with jax.enable_x64(True):
        turned = layout.native_to_dense(layout.healpy_to_native(jnp.asarray(packed[:, None])))
    for l in range(bandlimit):
        orders = slice(bandlimit - 1 - l, bandlimit + l)
        np.testing.assert_allclose(turned[l, orders], wigner.wigner_D(l, *ANGLES) @ dense[l, orders], atol=1e-13)


@pytest.mark.parametrize("degree", [1, 3])
def test_s2cnn_harmonics_carry_their_factor_and_its_matrices_are_conjugate(degree):
    np.testing.assert_array_equal(
        conventions.wigner_D_as("s2cnn", degree, *ANGLES), conventions.wigner_D_as("quantum", degree, *ANGLES).conj()
    )
    # Their synthesis: sum (2l+1) F_lm conj(D^l_m0(phi, theta, 0)), with their D, which is the conjugate of ours.
    theta, phi = 0.8, 2.1
    vector = np.array([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)])
    expected = (2 * degree + 1) * wigner.wigner_D(degree, phi, theta, 0.0).conj()[:, degree]
    np.testing.assert_allclose(conventions.harmonics_as("s2cnn", degree, vector), expected, atol=1e-13)


@pytest.mark.parametrize("bandlimit", [1, 4])
def test_s2cnn_spectra_go_there_and_back(bandlimit):
    dense = dense_coefficients(1, bandlimit, batch=(3,), channels=2, real=False)
    with jax.enable_x64(True):
        spectrum = conventions.to_s2cnn_s2(jnp.asarray(dense))
        assert spectrum.shape == (bandlimit**2, 3, 2)
        np.testing.assert_allclose(spectrum[0], dense[:, 0, bandlimit - 1] / np.sqrt(4 * np.pi), atol=1e-15)
        np.testing.assert_allclose(conventions.from_s2cnn_s2(spectrum), dense, atol=1e-15)
        draws = np.random.default_rng(0)
        flat = draws.normal(size=(bandlimit * (4 * bandlimit**2 - 1) // 3, 3, 2, 2)) @ [1, 1j]
        matrices = conventions.from_s2cnn_so3(jnp.asarray(flat))
        np.testing.assert_array_equal(conventions.to_s2cnn_so3(matrices), flat)
        middle = bandlimit - 1
        np.testing.assert_array_equal(matrices[:, 0, middle, middle], flat[0])
        np.testing.assert_array_equal(matrices[:, -1, -1, -1], flat[-1])


@pytest.mark.parametrize("bandlimit", [1, 5])
def test_real_basis_goes_there_and_back_and_is_that_of_the_matrices(bandlimit):
    dense = dense_coefficients(0, bandlimit, batch=(2,))
    with jax.enable_x64(True):
        real = conventions.to_real(jnp.asarray(dense))
        np.testing.assert_allclose(conventions.from_real(real), dense, atol=1e-15)
    for l in range(bandlimit):
        orders = slice(bandlimit - 1 - l, bandlimit + l)
        expected = wigner.real_from_complex(l).conj() @ dense[:, l, orders]
        np.testing.assert_allclose(real[:, l, orders], expected, atol=1e-14)


@pytest.mark.parametrize(
    "call",
    [
        lambda: conventions.wigner_D_as("tait_bryan", 1, *ANGLES),
        lambda: conventions.rotation_as("tait_bryan", *ANGLES),
        lambda: conventions.euler_angles_as("tait_bryan", np.eye(3)),
        lambda: conventions.harmonics_as("tait_bryan", 1, np.eye(3)),
    ],
)
def test_unknown_conventions_are_refused(call):
    # A literal type is checked before the function where types are checked.
    with pytest.raises((ConfigError, TypeError), match="tait_bryan"):
        call()


def test_spectra_of_impossible_length_are_refused():
    with pytest.raises(InputError, match=r"1, 10, 35"):
        conventions.from_s2cnn_so3(jnp.zeros((11, 1), complex))
    with pytest.raises(InputError, match="got 3"):
        conventions.from_s2cnn_s2(jnp.zeros((3, 1), complex))


def test_arrays_of_other_layouts_are_refused():
    flat = jnp.zeros((5, 5, 1), complex)
    for convert in (conventions.to_s2cnn_s2, conventions.to_real, conventions.to_e3nn):
        with pytest.raises(InputError, match="L degrees and 2 L - 1 orders"):
            convert(flat)
    with pytest.raises(InputError, match=r"\(L, 2 L - 1, 2 L - 1\)"):
        conventions.to_s2cnn_so3(jnp.zeros((3, 5, 3, 1), complex))
