import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import InputError
from jaxgeo.grids import rotations
from jaxgeo.harmonics import wigner
from jaxgeo.harmonics.real_basis import E3NN_AXES, real_from_complex

# Where nothing else is said, tolerances bound float64 rounding: sums of some ten products of numbers up to 1.


def _rotation(seed):
    """A matrix, and its real Wigner matrices as a function of the degree."""
    angles = np.random.default_rng(seed).uniform(0.1, np.pi - 0.1, 3)
    with jax.enable_x64(True):
        matrix = np.asarray(rotations.from_euler_zyz(*(jnp.asarray(angle) for angle in angles)))
    return matrix, lambda degree: wigner.wigner_D_real(degree, *angles)


def _real_harmonics(degree, vectors):
    theta, phi = np.arccos(vectors[:, 2]), np.arctan2(vectors[:, 1], vectors[:, 0])
    orders = np.arange(-degree, degree + 1)
    return scipy.special.sph_harm_y(degree, orders, theta[:, None], phi[:, None]) @ real_from_complex(degree).T


def _points(seed, count=5):
    x = np.random.default_rng(seed).normal(size=(count, 3))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@given(degree=st.integers(0, 9))
def test_the_change_of_basis_is_unitary(degree):
    q = real_from_complex(degree)
    np.testing.assert_allclose(q @ q.conj().T, np.eye(2 * degree + 1), atol=1e-15)


@given(degree=st.integers(0, 9), seed=st.integers(0, 2**31 - 1))
def test_the_harmonics_are_real(degree, seed):
    assert np.abs(_real_harmonics(degree, _points(seed)).imag).max() < 1e-14


def test_degree_one_is_ordered_y_z_x_without_a_sign():
    points = _points(3)
    expected = np.sqrt(3 / (4 * np.pi)) * points[:, [1, 2, 0]]
    np.testing.assert_allclose(_real_harmonics(1, points), expected, atol=1e-15)


@pytest.mark.parametrize("degree", range(6))
def test_harmonics_of_e3nn_are_these_in_its_axes(degree):
    points = _points(degree)
    irreps = e3nn_jax.Irreps([e3nn_jax.Irrep(degree, (-1) ** degree)])
    with jax.enable_x64(True):
        theirs = e3nn_jax.spherical_harmonics(irreps, jnp.asarray(points @ E3NN_AXES.T), True, normalization="integral")
    np.testing.assert_allclose(_real_harmonics(degree, points), np.asarray(theirs.array), atol=1e-13)


@given(degree=st.integers(0, 6), seed=st.integers(0, 2**31 - 1))
def test_real_wigner_matrices_turn_real_harmonics(degree, seed):
    rotation, wigner_of = _rotation(seed)
    real = wigner_of(degree)
    np.testing.assert_allclose(real @ real.T, np.eye(2 * degree + 1), atol=1e-13)
    points = _points(seed)
    # (R f)(x) = f(R^-1 x): row vectors of harmonics at the points turned back, times D, are those at the points.
    back = _real_harmonics(degree, points @ rotation)
    np.testing.assert_allclose(_real_harmonics(degree, points) @ real, back, atol=1e-13)


@pytest.mark.parametrize("degree", range(5))
def test_real_wigner_matrices_are_those_of_e3nn_in_its_axes(degree):
    rotation, wigner_of = _rotation(degree)
    with jax.enable_x64(True):
        theirs = e3nn_jax.Irrep(degree, 1).D_from_matrix(jnp.asarray(E3NN_AXES @ rotation @ E3NN_AXES.T))
    np.testing.assert_allclose(wigner_of(degree), np.asarray(theirs), atol=1e-11)  # theirs goes through angles


def test_a_vector_turns_by_its_rotation():
    rotation, wigner_of = _rotation(7)
    order = [1, 2, 0]
    np.testing.assert_allclose(wigner_of(1), rotation[np.ix_(order, order)], atol=1e-14)


def test_errors_name_what_would_work():
    with pytest.raises(InputError, match="a whole number of at least 0, got -1"):
        real_from_complex(-1)
