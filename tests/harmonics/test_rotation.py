"""Rotation of coefficients: Wigner matrices, group law, signals on grids, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_signals import dense_coefficients

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import latlon, rotations
from jaxgeo.harmonics import rotation, s2, wigner

# Where nothing else is said, tolerances bound float64 rounding: sums of some twenty products of numbers up to 4.

seeds = st.integers(0, 2**31 - 1)
turn = jax.jit(rotation.rotate_coefficients)
turn_so3 = jax.jit(rotation.rotate_so3_coefficients, static_argnames="side")


def so3_coefficients(seed, bandlimit, num_orders=None):
    draws = np.random.default_rng(seed)
    m = np.abs(np.arange(1 - bandlimit, bandlimit))
    n = m if num_orders is None else np.abs(np.arange(1 - num_orders, num_orders))
    inside = np.maximum(m[:, None], n[None]) <= np.arange(bandlimit)[:, None, None]
    return (draws.normal(size=(*inside.shape, 2, 2)) @ [1, 1j]) * inside[..., None]


@pytest.mark.parametrize("bandlimit", [1, 5, 20])
def test_rotation_multiplies_by_wigner_matrices(bandlimit):
    dense, angles = dense_coefficients(0, bandlimit, channels=2, real=False), (2.9, 1.3, -0.4)
    with jax.enable_x64(True):
        plan = rotation.plan_rotation(bandlimit, dtype=jnp.float64)
        turned = rotation.rotate_by_euler(plan, jnp.asarray(dense), *map(jnp.asarray, angles))
    for l in range(bandlimit):
        orders = slice(bandlimit - 1 - l, bandlimit + l)
        expected = wigner.wigner_D(l, *angles) @ dense[l, orders]
        np.testing.assert_allclose(turned[l, orders], expected, atol=1e-14 * (l + 1))  # sums of 2l+1 products
    outside = np.abs(np.arange(1 - bandlimit, bandlimit)) > np.arange(bandlimit)[:, None]
    assert not np.asarray(turned)[outside].any()


@settings(max_examples=10)
@given(seed=seeds)
def test_rotations_are_a_group_and_keep_the_norm(seed):
    dense = dense_coefficients(seed, 6, batch=(2,), real=False)
    with jax.enable_x64(True):
        plan, f = rotation.plan_rotation(6, dtype=jnp.float64), jnp.asarray(dense)
        first, second = rotations.haar_rotations(jax.random.key(seed), (2,))
        both = turn(plan, turn(plan, f, second), first)
        # Euler angles near the pole are ill determined one by one, not their product.
        np.testing.assert_allclose(both, turn(plan, f, first @ second), atol=1e-13)
        np.testing.assert_allclose(turn(plan, both, (first @ second).T), dense, atol=1e-13)
        np.testing.assert_allclose(jnp.linalg.norm(both), np.linalg.norm(dense), rtol=1e-14)


def test_rotation_in_single_precision_is_unitary_to_single_precision():
    # Phases of high orders are powers of one rounded rotation: the error does not grow with the order.
    dense = dense_coefficients(4, 24, real=False)
    plan = rotation.plan_rotation(24)
    first = rotations.haar_rotations(jax.random.key(3))
    turned = turn(plan, jnp.asarray(dense, jnp.complex64), first)
    back = turn(plan, turned, first.T)
    norms = np.linalg.norm(dense, axis=1), np.linalg.norm(turned, axis=1)
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-6)  # 47 products
    # The angles of the transposed matrix are rounded anew, by 6e-8 pi at order 23: 5e-6.
    assert np.linalg.norm(back - dense) / np.linalg.norm(dense) < 1e-5


def test_rotations_of_a_batch_broadcast():
    dense = dense_coefficients(0, 4, batch=(3,), channels=2)
    many = rotations.haar_rotations(jax.random.key(0), (3,))
    plan, f = rotation.plan_rotation(4), jnp.asarray(dense, jnp.complex64)
    together = turn(plan, f, many)
    fanned = turn(plan, f[0], many)
    one = turn(plan, f, many[1])
    for i in range(3):
        np.testing.assert_allclose(together[i], turn(plan, f[i], many[i]), atol=1e-6)
        np.testing.assert_allclose(fanned[i], turn(plan, f[0], many[i]), atol=1e-6)
        np.testing.assert_allclose(one[i], turn(plan, f[i], many[1]), atol=1e-6)
    assert together.shape == fanned.shape == one.shape == f.shape


def test_rotated_coefficients_are_those_of_the_rotated_signal():
    # f(R^-1 x) evaluated point by point, then analysed on the grid.
    bandlimit = 5
    dense = dense_coefficients(7, bandlimit)
    grid = latlon.gauss_legendre_grid(bandlimit)
    with jax.enable_x64(True):
        matrix = np.asarray(rotations.haar_rotations(jax.random.key(9)))
        vectors = latlon.pixel_vectors(grid) @ matrix  # rows R^T x
        theta, phi = np.arccos(vectors[..., 2]), np.arctan2(vectors[..., 1], vectors[..., 0])
        inner = [(l, slice(bandlimit - 1 - l, bandlimit + l)) for l in range(bandlimit)]
        signal = sum(wigner.spherical_harmonics(l, theta, phi) @ dense[l, orders] for l, orders in inner)
        transform = s2.plan_s2_transform(grid, dtype=jnp.float64)
        expected = s2.to_dense(transform, s2.analysis(transform, jnp.asarray(np.real(signal))))
        plan = rotation.plan_rotation(bandlimit, dtype=jnp.float64)
        np.testing.assert_allclose(turn(plan, jnp.asarray(dense), jnp.asarray(matrix)), expected, atol=1e-13)


def test_a_signal_on_a_grid_is_rotated_exactly():
    grid = latlon.soft_grid(6)
    quarter = rotations.about_z(jnp.asarray(2 * jnp.pi * 3 / 12))
    transform, plan = s2.plan_s2_transform(grid), rotation.plan_rotation(6)
    native = s2.from_dense(transform, jnp.asarray(dense_coefficients(2, 6), jnp.complex64))
    signal = s2.synthesis(transform, native)
    turned = rotation.rotate_signal(transform, plan, signal, quarter)
    # A quarter turn about the axis is a shift by three of the twelve longitudes.
    np.testing.assert_allclose(turned, jnp.roll(signal, 3, axis=1), atol=1e-5)  # float32, signals up to 4


@settings(max_examples=5)
@given(seed=seeds)
def test_left_and_right_rotations_of_so3_commute_and_are_matrix_products(seed):
    bandlimit = 4
    matrices = so3_coefficients(seed, bandlimit)
    with jax.enable_x64(True):
        plan, F = rotation.plan_rotation(bandlimit, dtype=jnp.float64), jnp.asarray(matrices)
        first, second = rotations.haar_rotations(jax.random.key(seed), (2,))
        one = turn_so3(plan, turn_so3(plan, F, first, side="left"), second, side="right")
        other = turn_so3(plan, turn_so3(plan, F, second, side="right"), first, side="left")
        np.testing.assert_allclose(one, other, atol=1e-13)
        left, right = (np.asarray(matrix) for matrix in (first, second))
    for l in range(bandlimit):
        orders = slice(bandlimit - 1 - l, bandlimit + l)
        D, E = wigner.wigner_D_of_rotations(l, left), wigner.wigner_D_of_rotations(l, right)
        expected = np.einsum("ij,jkc,lk->ilc", D, matrices[l, orders, orders], E.conj())
        np.testing.assert_allclose(one[l, orders, orders], expected, atol=1e-13)


def test_left_rotation_of_so3_takes_fewer_orders_n():
    matrices = jnp.asarray(so3_coefficients(0, 4, num_orders=2), jnp.complex64)
    matrix = rotations.haar_rotations(jax.random.key(0))
    plan = rotation.plan_rotation(4)
    turned = turn_so3(plan, matrices, matrix)
    np.testing.assert_allclose(turned[:, :, 1], turn(plan, matrices[:, :, 1], matrix), atol=1e-6)  # float32
    with pytest.raises(InputError, match="pad n with zeros"):
        rotation.rotate_so3_coefficients(plan, matrices, matrix, side="right")


def test_derivative_by_the_angles_is_that_of_wigner_d():
    bandlimit, l, angles = 4, 3, (0.3, 1.2, 2.0)
    dense = dense_coefficients(0, bandlimit, real=False)
    with jax.enable_x64(True):
        plan = rotation.plan_rotation(bandlimit, dtype=jnp.float64)

        def rotated(*angles):
            return rotation.rotate_by_euler(plan, jnp.asarray(dense), *angles)

        by_alpha, by_beta, by_gamma = jax.jit(jax.jacfwd(rotated, (0, 1, 2)))(*map(jnp.asarray, angles))
    m = np.arange(-l, l + 1)
    alpha, beta, gamma = angles
    left, right = np.diag(np.exp(-1j * m * alpha)), np.diag(np.exp(-1j * m * gamma))
    orders, f = slice(bandlimit - 1 - l, bandlimit + l), dense[l, bandlimit - 1 - l : bandlimit + l]
    whole = wigner.wigner_D(l, *angles)
    np.testing.assert_allclose(by_alpha[l, orders], -1j * m[:, None] * (whole @ f), atol=1e-13)
    np.testing.assert_allclose(by_beta[l, orders], left @ wigner.wigner_d_derivative(l, beta) @ right @ f, atol=1e-13)
    np.testing.assert_allclose(by_gamma[l, orders], whole @ (-1j * m[:, None] * f), atol=1e-13)


def test_errors_say_what_fits():
    plan = rotation.plan_rotation(4)
    f, eye = jnp.zeros((2, 4, 7, 1), jnp.complex64), jnp.eye(3)
    with pytest.raises(InputError, match="bandlimit 4 have axes"):
        rotation.rotate_coefficients(plan, jnp.zeros((4, 6, 1), jnp.complex64), eye)
    with pytest.raises(InputError, match="must broadcast"):
        rotation.rotate_coefficients(plan, f, jnp.stack([eye, eye, eye]))
    with jax.enable_x64(True), pytest.raises(InputError, match="dtype complex128 but the plan needs complex64"):
        rotation.rotate_coefficients(plan, jnp.zeros((4, 7, 1), jnp.complex128), eye)
    with pytest.raises((ConfigError, TypeError), match="above"):
        rotation.rotate_so3_coefficients(plan, jnp.zeros((4, 7, 7, 1), jnp.complex64), eye, side="above")
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        rotation.plan_rotation(0)
