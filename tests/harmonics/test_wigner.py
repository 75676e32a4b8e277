"""Wigner functions: exact sums, eigenvectors, unitarity, group law, symmetries, derivatives."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import rotations
from jaxgeo.harmonics import wigner
from jaxgeo.harmonics.wigner_reference import wigner_d_by_eigenvectors, wigner_d_exact

# Where nothing else is said, tolerances bound float64 rounding: sums of some ten products of numbers up to 1.

angles = st.floats(-7, 7)


def exact(degree, m, n, beta):
    pairs = zip(m.tolist(), n.tolist(), strict=True)
    return np.array([[wigner_d_exact(degree, row, column, angle) for angle in beta.tolist()] for row, column in pairs])


@pytest.mark.parametrize("degree", [1, 2, 7, 64, 300, 512])
def test_small_d_matches_the_exact_sum(degree):
    draws = np.random.default_rng(degree)
    m, n = draws.integers(-degree, degree + 1, (2, 12))
    m[:3], n[3:6], m[6:9] = 0, 0, m[6:9] // 20
    beta = np.concatenate([draws.uniform(0, np.pi, 2), [1e-8, 1 / (degree + 1), np.pi / 2, 3.1, np.pi - 1e-3]])
    ours = wigner.wigner_d_columns(degree + 1, m, n, beta)[:, degree]
    expected = exact(degree, m, n, beta)
    # The rounding of each of `degree` steps, with a margin; 3e-14 at 512.
    np.testing.assert_allclose(ours, expected, atol=1e-15 + 6e-17 * degree, rtol=0)


def test_angles_of_several_turns_are_as_good_as_those_of_none():
    m, n = np.array([1, 0, 3, 512]), np.array([0, 0, -2, -511])
    beta = np.array([9 * np.pi, -7 * np.pi, 8 * np.pi, 30.0])
    ours = wigner.wigner_d_columns(513, m, n, beta)[:, 512]
    # The slope of 256 times the spacing of angles below pi would be 1e-13.
    np.testing.assert_allclose(ours, exact(512, m, n, beta), atol=3e-14, rtol=0)


@pytest.mark.parametrize("degree", [1, 10, 100])
def test_small_d_matches_the_eigenvectors_of_j_y(degree):
    beta = np.array([[0.0, 0.3, -2.0], [np.pi, 1.57, 12.0]])
    ours = wigner.wigner_d(degree, beta)
    np.testing.assert_allclose(ours, wigner_d_by_eigenvectors(degree, beta), atol=2e-14)  # the eigenvectors' own


def test_tiny_values_keep_their_relative_precision():
    # They begin at degree 500 or 300 as small as 1e-1300 and grow; some stay below every float, some come into range.
    m, n = np.array([500, 300, 300]), np.array([-500, -300, 100])
    beta = np.array([0.1, 0.6, 1.2])
    ours = wigner.wigner_d_columns(512, m, n, beta)[:, 511]
    expected = exact(511, m, n, beta)
    assert (np.sort(np.abs(expected), axis=None)[[2, 3, 5]] < [1e-320, 1e-220, 1e-100]).all()
    np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-300)  # s^1000 has the error of s a thousand times


@given(beta=angles)
def test_small_d_is_orthogonal(beta):
    matrix = wigner.wigner_d(20, beta)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(41), atol=1e-14)  # sums of 41 products


def test_small_d_is_orthogonal_at_the_highest_degree_of_a_large_table():
    rows = np.array([0, 3, 250, -400])
    m, n = np.repeat(rows, 1025), np.tile(np.arange(-512, 513), 4)
    columns = wigner.wigner_d_columns(513, m, n, np.array([0.2, 1.3]))[:, 512].reshape(4, 1025, 2)
    gram = np.einsum("ikb,jkb->bij", columns, columns)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(4), (2, 4, 4)), atol=1e-13)  # 512 steps


def test_one_matrix_takes_the_memory_of_a_few():
    # All lower degrees together have 170 / 3 times its size; the recursion holds seven arrays of it.
    tracemalloc.start()
    matrix = wigner.wigner_d(170, 0.4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15 * matrix.nbytes


def test_small_d_at_the_poles_is_exact():
    at_zero, at_pi = wigner.wigner_d(9, np.array([0.0, np.pi]))
    np.testing.assert_array_equal(at_zero, np.eye(19))
    m = np.arange(-9, 10)
    np.testing.assert_array_equal(at_pi, np.fliplr(np.diag((-1.0) ** (9 - m))))


def test_one_degree_is_the_textbook_matrix():
    beta = 0.7
    c, s = np.cos(beta), np.sin(beta) / np.sqrt(2)
    expected = [[(1 + c) / 2, s, (1 - c) / 2], [-s, c, s], [(1 - c) / 2, -s, (1 + c) / 2]]
    np.testing.assert_allclose(wigner.wigner_d(1, beta), expected, atol=1e-16)


@given(first=angles, second=angles)
def test_small_d_is_a_homomorphism(first, second):
    product = wigner.wigner_d(6, first) @ wigner.wigner_d(6, second)
    # |first + second| up to 14 has an absolute rounding error of 2e-15, times the degree.
    np.testing.assert_allclose(product, wigner.wigner_d(6, first + second), atol=2e-14)


@given(seed=st.integers(0, 2**31 - 1))
def test_complex_and_real_d_are_homomorphisms_of_rotations(seed):
    with jax.enable_x64(True):
        first, second = rotations.haar_rotations(jax.random.key(seed), (2,))
        both = np.asarray(jnp.stack([first, second, first @ second]))
    one, two, product = wigner.wigner_D_of_rotations(5, both)
    # Angles of a matrix near the lock are ill determined, not the matrix D that they give together.
    np.testing.assert_allclose(one @ two, product, atol=1e-13)
    one, two, product = wigner.wigner_D_real(5, *wigner.euler_angles(both))
    np.testing.assert_allclose(one @ two, product, atol=1e-13)


def test_first_degree_of_the_real_basis_is_the_rotation_itself():
    alpha, beta, gamma = 0.4, 1.9, -2.2
    with jax.enable_x64(True):
        rotation = np.asarray(rotations.from_euler_zyz(*(jnp.asarray(angle) for angle in (alpha, beta, gamma))))
    yzx = [1, 2, 0]
    np.testing.assert_allclose(wigner.wigner_D_real(1, alpha, beta, gamma), rotation[yzx][:, yzx], atol=1e-15)


def test_rotated_harmonics_are_combined_by_d():
    rotation = np.asarray(wigner_rotation := (0.3, 1.1, -0.8))
    with jax.enable_x64(True):
        matrix = np.asarray(rotations.from_euler_zyz(*(jnp.asarray(angle) for angle in rotation)))
    point = np.array([0.36, -0.48, 0.8])
    degree, orders = 4, np.arange(-4, 5)

    def harmonics(vector):
        theta, phi = np.arccos(vector[2]), np.arctan2(vector[1], vector[0])
        return scipy.special.sph_harm_y(degree, orders, theta, phi)

    # (R Y_ln)(x) = Y_ln(R^-1 x) = sum_m D_mn Y_lm(x).
    expected = harmonics(point) @ wigner.wigner_D(degree, *wigner_rotation)
    np.testing.assert_allclose(harmonics(matrix.T @ point), expected, atol=1e-14)


def test_real_basis_is_unitary_and_has_no_condon_shortley_sign():
    change = wigner.real_from_complex(3)
    np.testing.assert_allclose(change @ change.conj().T, np.eye(7), atol=1e-15)
    theta, phi = 0.9, 0.5
    real = change @ scipy.special.sph_harm_y(3, np.arange(-3, 4), theta, phi)
    np.testing.assert_allclose(real.imag, 0, atol=1e-15)
    # sqrt(35 / 32 pi) sin^3(theta) {sin, cos}(3 phi), positive.
    size = np.sqrt(35 / (32 * np.pi)) * np.sin(theta) ** 3
    np.testing.assert_allclose(real.real[[0, 6]], [size * np.sin(3 * phi), size * np.cos(3 * phi)], atol=1e-15)


@given(degree=st.integers(0, 12), beta=angles)
def test_derivative_is_that_of_a_fitted_parabola_and_the_generator(degree, beta):
    derivative = wigner.wigner_d_derivative(degree, beta)
    step = 1e-5
    difference = wigner.wigner_d(degree, beta + step) - wigner.wigner_d(degree, beta - step)
    # Truncation step^2 degree^3 / 6 and rounding 1e-15 / step.
    np.testing.assert_allclose(derivative, difference / (2 * step), atol=5e-8 * (1 + degree**3 / 1e3))
    # d'(beta) = d'(0) d(beta), and d'(0) = -i J_y is antisymmetric.
    generator = wigner.wigner_d_derivative(degree, 0.0)
    np.testing.assert_array_equal(generator, -generator.T)
    np.testing.assert_allclose(derivative, generator @ wigner.wigner_d(degree, beta), atol=1e-13)


@given(seed=st.integers(0, 2**31 - 1), bandlimit=st.integers(1, 9))
def test_columns_come_in_the_order_asked_for_and_vanish_below_their_orders(seed, bandlimit):
    draws = np.random.default_rng(seed)
    m, n = draws.integers(-bandlimit - 1, bandlimit + 2, (2, 20))
    beta = draws.uniform(-4, 4, 3)
    table = wigner.wigner_d_columns(bandlimit, m, n, beta)
    assert table.shape == (20, bandlimit, 3)
    for degree in range(bandlimit):
        matrix = wigner_d_by_eigenvectors(degree, beta)
        for pair in range(20):
            within = max(abs(m[pair]), abs(n[pair])) <= degree
            expected = matrix[:, m[pair] + degree, n[pair] + degree] if within else np.zeros(3)
            np.testing.assert_allclose(table[pair, degree], expected, atol=1e-14)


@pytest.mark.parametrize(
    ("function", "derivatives"),
    [(wigner.wigner_D, wigner.wigner_D_derivatives), (wigner.wigner_D_real, wigner.wigner_D_real_derivatives)],
)
def test_derivatives_by_all_three_angles_are_limits_of_differences(function, derivatives):
    degree, h = 4, 1e-3
    angles = np.random.default_rng(0).uniform(0.1, 3, (3, 5))
    found = derivatives(degree, *angles)
    assert found.shape == (3, 5, 9, 9)
    for which, by_angle in enumerate(found):
        step = h * np.eye(3)[which][:, None]
        near = function(degree, *(angles + step)) - function(degree, *(angles - step))
        far = function(degree, *(angles + 2 * step)) - function(degree, *(angles - 2 * step))
        # Of fourth order: h^4 l^5 / 30 = 3e-11 remains, and 1e-16 / h of rounding.
        np.testing.assert_allclose(by_angle, (8 * near - far) / (12 * h), atol=1e-10)


def test_pairs_must_be_pairs():
    with pytest.raises(InputError, match="one length"):
        wigner.wigner_d_columns(3, np.array([0, 1]), np.array([0]), np.array([0.1]))


def test_an_order_beyond_the_degree_is_refused():
    with pytest.raises(InputError, match="run from -2 to 2"):
        wigner_d_exact(2, 3, 0, 0.1)


@pytest.mark.parametrize("spin", [0, 1, -2])
def test_harmonics_of_every_spin_are_columns_of_wigner_matrices(spin):
    theta, phi = np.broadcast_arrays(np.array([[0.2], [2.5]]), np.array([[0.0, 1.0, -2.0]]))
    values = wigner.spherical_harmonics(3, theta, phi, spin=spin)
    assert values.shape == (2, 3, 7)
    columns = wigner.wigner_D(3, phi, theta, np.zeros_like(theta))[..., 3 - spin].conj()
    np.testing.assert_allclose(values, (-1) ** spin * np.sqrt(7 / (4 * np.pi)) * columns, atol=1e-15)
    assert not wigner.spherical_harmonics(1, 0.3, 0.4, spin=2).any()
    if spin == 0:
        expected = scipy.special.sph_harm_y(3, np.arange(-3, 4), theta[..., None], phi[..., None])
        np.testing.assert_allclose(values, expected, atol=1e-14)


@pytest.mark.parametrize("beta", [np.nan, np.inf])
def test_angles_that_are_not_finite_are_refused(beta):
    with pytest.raises(InputError, match="must be finite, got 1 that are not"):
        wigner.wigner_d(2, np.array([0.5, beta]))


def test_degrees_and_orders_are_whole_numbers():
    functions = {
        "d": lambda degree: unchecked(wigner.wigner_d)(degree, 0.1),
        "D": lambda degree: unchecked(wigner.wigner_D)(degree, 0.1, 0.2, 0.3),
        "harmonics": lambda degree: unchecked(wigner.spherical_harmonics)(degree, 0.1, 0.2),
        "eigenvectors": lambda degree: unchecked(wigner_d_by_eigenvectors)(degree, 0.1),
        "exact": lambda degree: unchecked(wigner_d_exact)(degree, 0, 0, 0.1),
    }
    for function in functions.values():
        for degree in (-1, 1.5):
            with pytest.raises(InputError, match="whole number of at least 0"):
                function(degree)
    zero = np.array([0])
    for bandlimit in (0, 2.5):
        with pytest.raises(ConfigError, match="whole number of at least 1"):
            unchecked(wigner.wigner_d_columns)(bandlimit, zero, zero, np.array([0.1]))
        with pytest.raises(ConfigError, match="whole number of at least 1"):
            next(unchecked(wigner.iterate_matrices)(bandlimit, 0.1))
    with pytest.raises(InputError, match="orders are whole numbers"):
        next(unchecked(wigner.iterate_degrees)(2, np.array([0.5]), zero, np.array([0.1])))
    with pytest.raises(InputError, match="angles must be finite"):
        wigner.wigner_D(1, np.nan, 0.1, 0.2)
