"""Rotations: group laws, known turns, and the moments of the Haar measure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.transform
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.grids import rotations

angles = st.floats(-6.0, 6.0, width=32, allow_subnormal=False)
seeds = st.integers(0, 2**31 - 1)
ROUNDING = 1e-6  # a few float32 roundings of numbers up to 1


def scalar(value):
    return jnp.asarray(value, jnp.float32)


@given(seed=seeds)
def test_haar_rotations_are_orthogonal_and_keep_orientation(seed):
    drawn = np.asarray(rotations.haar_rotations(jax.random.key(seed), (5, 2)))
    assert drawn.shape == (5, 2, 3, 3)
    np.testing.assert_allclose(drawn @ drawn.swapaxes(-1, -2), np.broadcast_to(np.eye(3), drawn.shape), atol=ROUNDING)
    np.testing.assert_allclose(np.linalg.det(drawn), 1, atol=ROUNDING)


def test_one_haar_rotation_is_a_matrix_and_a_key_gives_it_again():
    first = rotations.haar_rotations(jax.random.key(3))
    assert first.shape == (3, 3)
    np.testing.assert_array_equal(first, rotations.haar_rotations(jax.random.key(3)))


def test_moments_are_those_of_the_haar_measure():
    count = 40_000
    drawn = np.asarray(rotations.haar_rotations(jax.random.key(0), (count,)), np.float64)
    fixed = np.asarray(rotations.haar_rotations(jax.random.key(1)), np.float64)
    # Invariance: turning all draws on either side must not change what is tested.
    for turned in [drawn, fixed @ drawn, drawn @ fixed]:
        flat = turned.reshape(count, 9)
        # E[R] = 0 and E[R_ij R_kl] = delta / 3; entries have variance 1/3, products at most 1/5: 5 standard errors.
        np.testing.assert_allclose(flat.mean(0), 0, atol=5 * np.sqrt(1 / 3 / count))
        np.testing.assert_allclose(flat.T @ flat / count, np.eye(9) / 3, atol=5 * np.sqrt(1 / 5 / count))
        # The angle has the density (1 - cos) / pi on [0, pi], so that E[trace] = 0 and E[trace^2] = 1.
        trace = np.trace(turned, axis1=1, axis2=2)
        assert abs((trace**2).mean() - 1) < 5 * (trace**2).std() / np.sqrt(count)
    # The images of the pole are uniform: their height is uniform on [-1, 1].
    assert scipy.stats.kstest(drawn[:, 2, 2], scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3
    angle = np.asarray(rotations.angle_between(jnp.asarray(drawn, jnp.float32), jnp.eye(3)[None].repeat(count, 0)))
    assert scipy.stats.kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 1e-3


@given(seed=seeds, angle=angles)
def test_axis_and_angle_equal_scipy(seed, angle):
    axis = np.random.default_rng(seed).normal(size=3).astype(np.float32)
    found = rotations.axis_angle(jnp.asarray(axis), scalar(angle))
    unit = axis / np.linalg.norm(axis)
    expected = scipy.spatial.transform.Rotation.from_rotvec(np.float64(angle) * unit).as_matrix()
    np.testing.assert_allclose(found, expected, atol=ROUNDING)
    np.testing.assert_allclose(rotations.rotate(found, jnp.asarray(axis)), axis, atol=5 * ROUNDING)


@given(alpha=angles, beta=angles, gamma=angles)
def test_euler_angles_equal_scipy(alpha, beta, gamma):
    found = rotations.from_euler_zyz(scalar(alpha), scalar(beta), scalar(gamma))
    # Upper case: about the axes that turn along, which is R_z(alpha) R_y(beta) R_z(gamma) on fixed axes.
    expected = scipy.spatial.transform.Rotation.from_euler("ZYZ", [alpha, beta, gamma]).as_matrix()
    np.testing.assert_allclose(found, expected, atol=ROUNDING)
    again = rotations.from_euler_zyz(*rotations.to_euler_zyz(found))
    np.testing.assert_allclose(again, expected, atol=5 * ROUNDING)


@pytest.mark.parametrize("beta", [0.0, np.pi])
def test_euler_angles_at_the_gimbal_lock_give_the_rotation_back(beta):
    rotation = rotations.from_euler_zyz(scalar(0.4), scalar(beta), scalar(1.1))
    alpha, found_beta, gamma = rotations.to_euler_zyz(rotation)
    assert float(gamma) == 0
    np.testing.assert_allclose(found_beta, beta, atol=ROUNDING)
    np.testing.assert_allclose(rotations.from_euler_zyz(alpha, found_beta, gamma), rotation, atol=ROUNDING)


@given(seed=seeds, exponent=st.floats(-6.0, -3.0), turned_over=st.booleans())
def test_euler_angles_give_back_what_is_near_the_gimbal_lock(seed, exponent, turned_over):
    first, second = jax.random.uniform(jax.random.key(seed), (2,), minval=-3.0, maxval=3.0)
    turn = rotations.haar_rotations(jax.random.key(seed))
    beta = np.pi - 10.0**exponent if turned_over else 10.0**exponent
    # The product with a rotation and back leaves the roundings that make alpha and gamma uncertain.
    near = rotations.inverse(turn) @ (turn @ rotations.from_euler_zyz(first, scalar(beta), second))
    again = rotations.from_euler_zyz(*rotations.to_euler_zyz(near))
    # Twice the threshold of the lock, 5e-7, and a few roundings.
    np.testing.assert_allclose(again, near, atol=2 * ROUNDING)


def test_pole_goes_to_the_direction_that_the_first_two_euler_angles_name():
    pole = rotations.from_euler_zyz(scalar(0.5), scalar(1.2), scalar(-2.0)) @ jnp.asarray([0.0, 0.0, 1.0])
    expected = [np.sin(1.2) * np.cos(0.5), np.sin(1.2) * np.sin(0.5), np.cos(1.2)]
    np.testing.assert_allclose(pole, expected, atol=ROUNDING)


@given(seed=seeds)
def test_inverse_undoes_and_distance_is_invariant(seed):
    first, second, third = rotations.haar_rotations(jax.random.key(seed), (3,))
    np.testing.assert_allclose(rotations.inverse(first) @ first, np.eye(3), atol=ROUNDING)
    distance = rotations.angle_between(first, second)
    np.testing.assert_allclose(rotations.angle_between(third @ first, third @ second), distance, atol=5 * ROUNDING)
    relative = scipy.spatial.transform.Rotation.from_matrix(np.asarray(rotations.inverse(first) @ second))
    np.testing.assert_allclose(distance, relative.magnitude(), atol=5 * ROUNDING)


@given(angle=st.one_of(st.floats(2.0**-20, 3.0, width=32), st.floats(3.0, 3.1415925, width=64)))
def test_distance_of_a_rotation_from_none_is_its_angle(angle):
    turned = rotations.axis_angle(jnp.asarray([1.0, -2.0, 0.5]), scalar(angle))
    # Entries are rounded to 6e-8, so no smaller angle is seen, and none nearer to a half turn.
    np.testing.assert_allclose(rotations.angle_between(turned, jnp.eye(3)), angle, atol=ROUNDING)
