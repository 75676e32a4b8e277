import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgeo.errors import ConfigError
from jaxgeo.grids import rotations
from jaxgeo.layers import kernel_points


def test_near_identity_rotations_move_the_pole_to_the_near_identity_points():
    sphere = kernel_points.s2_near_identity_points(0.3, num_alpha=5, num_beta=2)
    group = kernel_points.so3_near_identity_points(0.3, num_alpha=5, num_beta=2, num_gamma=4)
    assert {tuple(point) for point in group[:, :2]} == {tuple(point) for point in sphere}


def test_rotations_of_a_ring_with_one_twist_are_equally_far_from_the_identity():
    points = kernel_points.so3_near_identity_points(0.4, num_alpha=6, num_beta=1, num_gamma=3).reshape(6, 3, 3)
    beta, alpha, gamma = jnp.moveaxis(jnp.asarray(points, jnp.float32), -1, 0)
    matrices = rotations.from_euler_zyz(alpha, beta, gamma)
    angle = rotations.angle_between(jnp.broadcast_to(jnp.eye(3)[None, None], matrices.shape), matrices)
    # float32 angles of rotations are good to about 1e-6.
    np.testing.assert_allclose(angle, np.broadcast_to(angle[:1], angle.shape), atol=5e-6)


def test_the_twist_of_near_identity_rotations_is_symmetric_about_zero():
    points = kernel_points.so3_near_identity_points(0.4, max_gamma=1.0, num_alpha=3, num_gamma=5)
    twists = np.unique(np.round(points[:, 1] + points[:, 2], 12))
    np.testing.assert_allclose(twists, np.linspace(-1, 1, 5), atol=1e-12)  # rounded to 12 digits above


def test_equatorial_points_lie_around_the_equator():
    points = kernel_points.s2_equatorial_points(0.2, num_alpha=4, num_beta=3)
    np.testing.assert_allclose(np.unique(points[:, 0]), math.pi / 2 + np.array([-0.2, 0, 0.2]), atol=1e-15)
    assert kernel_points.so3_equatorial_points().shape == (64, 3)


def test_full_points_are_the_soft_grid():
    assert kernel_points.s2_full_points(3).shape == (36, 2)
    assert kernel_points.so3_full_points(2).shape == (64, 3)


@pytest.mark.parametrize("sizes", [{"num_alpha": 0}, {"num_beta": 0}, {"num_gamma": 0}])
def test_a_kernel_without_points_is_refused(sizes):
    with pytest.raises(ConfigError, match="at least one point"):
        kernel_points.so3_near_identity_points(**sizes)
