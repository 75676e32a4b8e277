"""Fisheye cameras: closed forms, the textbook formula, SciPy's roots and rotations, derivatives, and refusals."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.spatial.transform import Rotation
from unchecked import unchecked

from jaxgeo.errors import ConfigError
from jaxgeo.grids import fisheye_projection as projection
from jaxgeo.grids.cameras import (
    REFERENCE_AXES,
    check_camera,
    extrinsic_rotation,
    pole_rotation,
    read_calibration,
    resize_camera,
    stack_cameras,
)
from jaxgeo.grids.directions import angle_vectors, vector_angles
from jaxgeo.grids.fisheye_polynomial import angle_of_radius, largest_angle, radius_of_angle, slope_of_angle

# Where nothing else is said, tolerances bound float64 rounding: of directions some 1e-16, which slopes of up to 1e3
# pixels per radian and inverses of polynomials enlarge.

seeds = st.integers(0, 2**31 - 1)
INVERSE = 1e-10  # radians, the accuracy that is promised in float64
PIXELS = 1e-9  # rounding of directions, 1e-16, times a radius of some hundred pixels and the slope there


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def calibration(**changes):
    """An invented camera in front, of the published size; changes by key of either part, None takes the key away."""
    intrinsic = dict(model="radial_poly", poly_order=4, k1=331.0, k2=-20.0, k3=43.0, k4=-6.5, aspect_ratio=1.01)
    intrinsic |= dict(cx_offset=3.5, cy_offset=-2.75, width=1280, height=966)
    extrinsic = dict(quaternion=[0.53, -0.51, 0.47, -0.49], translation=[3.7, 0.1, 0.65])
    whole = dict(intrinsic=intrinsic, extrinsic=extrinsic, name="FV")
    for key, value in changes.items():
        part = next((part for part in (intrinsic, extrinsic) if key in part), whole)
        part[key] = value
        if value is None:
            del part[key]
    return whole


def camera(**changes):
    return read_calibration(calibration(**changes))


FOLDING = dict(k1=300.0, k2=0.0, k3=-100.0, k4=0.0)  # rho' = 300 (1 - theta^2): grows up to 1 rad, to 200 pixels


def growing_coefficients(seed, order):
    """Random polynomials that grow on [0, pi]: rho' is a square plus something positive, or constant."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(order + 1) // 2)
    slope = np.convolve(root, root)
    slope = np.concatenate([slope, np.zeros(order - len(slope))]) if len(slope) <= order else slope
    slope[0] += 0.05 + 0.1 * np.abs(slope).sum()
    return 100 * slope / np.arange(1, order + 1)


def test_places_follow_the_formula_of_the_model():
    theta, phi = np.random.default_rng(0).uniform([[0], [0]], [[2.3], [2 * np.pi]], (2, 100))
    rho = 331 * theta - 20 * theta**2 + 43 * theta**3 - 6.5 * theta**4
    expected = rho * np.cos(phi) + 3.5 + 640 - 0.5, 1.01 * rho * np.sin(phi) - 2.75 + 483 - 0.5
    for u, v, valid in (
        projection.angles_to_image(camera(), theta, phi),
        # Vectors of any length, from the angles.
        projection.directions_to_image(camera(), 3 * angle_vectors(theta, phi)),
    ):
        np.testing.assert_allclose((u, v), expected, atol=PIXELS)
        on_image = (np.abs(expected[0] - 639.5) <= 640) & (np.abs(expected[1] - 482.5) <= 483)
        np.testing.assert_array_equal(valid, on_image)
    assert 0 < on_image.mean() < 1


@given(seed=seeds, order=st.sampled_from([1, 3, 5]))
def test_inverse_undoes_polynomials_of_any_order(seed, order):
    coefficients = growing_coefficients(seed, order)
    assert largest_angle(coefficients) == math.pi
    theta = np.random.default_rng(seed).uniform(0, np.pi, 50)
    theta[0] = 0
    found = angle_of_radius(coefficients, radius_of_angle(coefficients, theta), np.asarray(np.pi))
    np.testing.assert_allclose(found, theta, atol=INVERSE)
    assert found[0] == 0


@given(seed=seeds)
def test_growth_ends_where_the_derivative_first_changes_its_sign(seed):
    coefficients = np.random.default_rng(seed).normal(size=4) * [1, 1, 0.5, 0.2]
    limit = float(largest_angle(coefficients))
    derivative = np.polynomial.Polynomial(coefficients * np.arange(1, 5))
    if coefficients[0] <= 0:
        assert limit == 0
        return
    below = np.linspace(0, limit, 1000)
    # Rounding of the derivative where it touches zero.
    assert derivative(below).min() > -1e-12
    real = [root.real for root in derivative.roots() if abs(root.imag) < 1e-12 and 0 < root.real < np.pi]
    # Roots by eigenvalues are good to 1e-8 where two nearly coincide.
    np.testing.assert_allclose(limit, min([*real, np.pi]), atol=1e-7)


def test_growth_of_a_known_cubic_ends_at_one_radian_and_the_inverse_is_sharp_up_to_there():
    coefficients = np.array([1.0, 0.0, -1 / 3])  # rho' = 1 - theta^2
    assert abs(float(largest_angle(coefficients)) - 1) < 1e-15
    assert largest_angle(np.array([-1.0, 2.0])) == 0
    radius = np.concatenate([np.linspace(0, 2 / 3, 200), 2 / 3 - np.geomspace(1e-14, 1e-2, 50)])
    theta = np.asarray(angle_of_radius(coefficients, radius, np.asarray(1.0)))
    # theta^3 - 3 theta + 3 rho = 0 in trigonometric form.
    exact = 2 * np.sin(np.arcsin(np.clip(1.5 * radius, -1, 1)) / 3)
    # Where rho' vanishes, an error of 1e-16 in rho is one of 1e-8 in theta.
    sharp = 1 - exact > 1e-4
    np.testing.assert_allclose(theta[sharp], exact[sharp], atol=1e-11)
    np.testing.assert_allclose(theta, exact, atol=5e-8)
    np.testing.assert_allclose(theta - theta**3 / 3, radius, atol=1e-15)


@pytest.mark.parametrize("rotate_pole", [False, True])
@pytest.mark.parametrize("name", ["FV", "MVR"])
def test_pixels_come_back_from_their_directions(name, rotate_pole):
    one = camera(name=name)
    u, v = projection.pixel_grid(one.image_shape, (13, 17))
    rays, valid = projection.image_to_directions(one, u, v, rotate_pole)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-14)
    back = projection.directions_to_image(one, rays, rotate_pole)
    np.testing.assert_allclose(back[:2], (u, v), atol=PIXELS)
    assert valid.all()
    assert back[2].all()
    theta, phi, _ = projection.image_to_angles(one, u, v, rotate_pole)
    np.testing.assert_allclose(angle_vectors(theta, phi), rays, atol=1e-14)
    assert 0 <= np.min(phi) < np.max(phi) < 2 * np.pi
    np.testing.assert_allclose(projection.angles_to_image(one, theta, phi, rotate_pole)[:2], (u, v), atol=PIXELS)


def test_optical_axis_is_the_middle_of_the_image_and_behind_is_nothing():
    one = camera(cx_offset=0.0, cy_offset=0.0)
    places = projection.directions_to_image(one, np.array([[0, 0, 2.0], [0, 0, -1.0]]))
    behind = 331 * np.pi - 20 * np.pi**2 + 43 * np.pi**3 - 6.5 * np.pi**4
    np.testing.assert_allclose(places[0], [639.5, 639.5 + behind], atol=PIXELS)
    np.testing.assert_allclose(places[1], [482.5, 482.5], atol=PIXELS)
    assert places[2].tolist() == [True, False]
    # On the axis an image moves by k1 pixels per radian, and directions by 1 / k1 radians per pixel.
    forward = jax.jacfwd(lambda d: jnp.stack(projection.directions_to_image(one, d)[:2]))(jnp.array([0, 0, 1.0]))
    np.testing.assert_allclose(forward, [[331, 0, 0], [0, 1.01 * 331, 0]], rtol=1e-14)
    center = jnp.array([639.5, 482.5])
    backward = jax.jacrev(lambda uv: projection.image_to_directions(one, uv[0], uv[1])[0])(center)
    np.testing.assert_allclose(backward, [[1 / 331, 0], [0, 1 / (1.01 * 331)], [0, 0]], atol=1e-17)


def test_what_lies_beyond_the_growing_range_is_invalid_both_ways():
    one = camera(**FOLDING, aspect_ratio=1.0, cx_offset=0.0, cy_offset=0.0)
    u = 639.5 + np.array([0.0, 150.0, 199.9, 200.1, 400.0])
    theta, _, valid = projection.image_to_angles(one, u, np.full(5, 482.5))
    assert valid.tolist() == [True, True, True, False, False]
    np.testing.assert_allclose(theta[3:], 1, atol=1e-7)  # rho' vanishes there: 1e-16 in rho is 1e-8 in theta
    # At 1.2 rad the folded polynomial would show a place on the image.
    theta = np.array([0.5, 0.99, 1.01, 1.2])
    assert projection.angles_to_image(one, theta, np.zeros(4))[2].tolist() == [True, True, False, False]
    assert projection.angles_to_image(one, theta, np.zeros(4), max_theta=0.9)[2].tolist() == [True] + 3 * [False]
    narrow = projection.image_to_directions(one, u, np.full(5, 482.5), max_theta=0.5)
    assert narrow[1].tolist() == [True] + 4 * [False]
    slopes = jax.vmap(jax.grad(lambda r: angle_of_radius(one.coefficients, r, jnp.asarray(1.0))))(
        jnp.array([1.0, 300.0])
    )
    np.testing.assert_allclose(slopes, [1 / 300, 0], rtol=1e-4)  # less 1 - theta^2 at theta = 1 / 300


def test_a_camera_that_folds_too_early_is_refused_with_the_angle_that_works():
    check_camera(camera())
    check_camera(camera(), max_theta=math.pi)
    folding = camera(**FOLDING)
    with pytest.raises(ConfigError, match=r"only up to theta = 1.0 rad .57.30 degrees.*farthest pixel.*max_theta=1.0"):
        check_camera(folding)
    with pytest.raises(
        ConfigError, match=r"no inverse up to the needed 1.2 rad .68.75 degrees.; ask for at most"
    ) as error:
        check_camera(folding, max_theta=1.2)
    named = float(re.search(r"max_theta=(\d+\.\d+)", str(error.value))[1])
    check_camera(folding, max_theta=named)
    with pytest.raises(ConfigError, match="does not grow at theta = 0"):
        check_camera(camera(k1=-1.0))
    with pytest.raises(ConfigError, match="above 0 and at most pi, got 4"):
        check_camera(folding, max_theta=4.0)
    with pytest.raises(ConfigError, match="must be finite"):
        check_camera(dataclasses.replace(folding, aspect=np.asarray(np.nan)))
    with pytest.raises(ConfigError, match="positive aspect ratio"):
        check_camera(dataclasses.replace(folding, aspect=np.asarray(-1.0)))


def test_derivative_of_the_inverse_is_that_of_the_implicit_function():
    coefficients, largest = jnp.asarray(camera().coefficients), jnp.asarray(math.pi)
    radius = jnp.asarray([0.0, 100.0, 500.0, 900.0])
    theta = angle_of_radius(coefficients, radius, largest)
    by_coefficients, by_radius = jax.jacrev(angle_of_radius, argnums=(0, 1))(coefficients, radius, largest)
    slope = np.asarray(slope_of_angle(coefficients, theta))
    np.testing.assert_allclose(by_radius, np.diag(1 / slope), rtol=1e-13)
    powers = np.asarray(theta)[:, None] ** np.arange(1, 5)
    np.testing.assert_allclose(by_coefficients, -powers / slope[:, None], rtol=1e-12)
    step = 1e-3 * np.array([1.0, -2.0, 0.5, 1.5])
    ahead, behind = (angle_of_radius(coefficients + sign * step, radius, largest) for sign in (1, -1))
    # Central differences of a change of 1e-5: the cubic term is 1e-10 of it, rounding 1e-11.
    np.testing.assert_allclose((ahead - behind) / 2, by_coefficients @ step, rtol=1e-7, atol=1e-14)
    # In units of k1, for the step of the differences; at radius 0 it would leave the range. A wrong term of the second
    # derivative would be of its size; the differences are good to 1e-4 of it.
    small = (coefficients / 331, radius[1:] / 331)
    check_grads(lambda *given: angle_of_radius(*given, largest), small, order=2, rtol=1e-3)


def test_projections_are_differentiable_by_every_parameter_of_the_camera():
    one = camera(name="MVL")
    vectors = jnp.asarray([[0.3, -0.2, 0.9], [-0.5, 0.7, -0.2], [0.1, 0.9, 0.3]])

    def changed(coefficients, aspect, center_offset, quaternion):
        given = dict(coefficients=coefficients * 100, aspect=aspect, center_offset=center_offset, quaternion=quaternion)
        return dataclasses.replace(one, **given)

    def there(vectors, *parameters):
        return jnp.stack(projection.directions_to_image(changed(*parameters), vectors, True)[:2]) / 100

    def back(places, *parameters):
        return projection.image_to_directions(changed(*parameters), places[0] * 100, places[1] * 100, True)[0]

    leaves = (one.coefficients / 100, one.aspect, one.center_offset, one.quaternion)
    parameters = tuple(jnp.asarray(leaf) for leaf in leaves)
    places = there(vectors, *parameters)
    np.testing.assert_allclose(
        back(places, *parameters), vectors / np.linalg.norm(vectors, axis=-1)[:, None], atol=1e-13
    )
    # Differences over 1e-4 are good to the square of that.
    check_grads(there, (vectors, *parameters), order=1, rtol=1e-6)
    check_grads(back, (places, *parameters), order=1, rtol=1e-6)


def test_stacked_cameras_are_their_single_ones():
    cameras = [camera(name=name, k1=330.0 + i) for i, name in enumerate(REFERENCE_AXES)]
    u, v = projection.pixel_grid(cameras[0].image_shape, (3, 4))
    stacked, valid = jax.vmap(lambda one: projection.image_to_directions(one, u, v, True))(stack_cameras(cameras))
    assert valid.all()
    for one, rays in zip(cameras, stacked, strict=True):
        np.testing.assert_allclose(rays, projection.image_to_directions(one, u, v, True)[0], atol=1e-14)
    with pytest.raises(ConfigError, match="got 2 kinds"):
        stack_cameras([camera(), camera(width=640)])
    with pytest.raises(ConfigError, match="got 0 kinds"):
        stack_cameras([])


@given(seed=seeds)
def test_rotated_pole_looks_along_the_axis_of_the_vehicle(seed):
    rng = np.random.default_rng(seed)
    name = rng.choice(list(REFERENCE_AXES))
    quaternion = rng.normal(size=4)
    one = camera(name=str(name), quaternion=quaternion.tolist())
    scipys = Rotation.from_quat(quaternion)  # (x, y, z, w)
    np.testing.assert_allclose(extrinsic_rotation(one), scipys.as_matrix(), atol=1e-14)
    turn = np.asarray(pole_rotation(one))
    np.testing.assert_allclose(scipys.apply(turn @ [0, 0, 1]), REFERENCE_AXES[name], atol=1e-14)
    # Rz Ry: no turn about the pole itself before it moves.
    theta, phi = vector_angles(jnp.asarray(turn[:, 2]))
    np.testing.assert_allclose(turn, Rotation.from_euler("yz", [theta, phi]).as_matrix(), atol=1e-13)


def test_published_inverse_is_a_line_through_a_hundred_roots():
    one = camera()
    u, v = projection.pixel_grid(one.image_shape, (7, 9), "corners")
    radius = np.hypot(u - 3.5 - 639.5, (v + 2.75 - 482.5) / 1.01)
    entries = np.linspace(0, radius.max(), 100)
    polynomial = np.polynomial.Polynomial([0, 331, -20, 43, -6.5])
    roots = [scipy.optimize.brentq(lambda t, r=r: polynomial(t) - r, 0, 3, xtol=1e-14) for r in entries]
    faithful, correct = (projection.image_to_angles(one, u, v, mode=mode)[0] for mode in ("faithful", "correct"))
    np.testing.assert_allclose(faithful, np.interp(radius, entries, roots), atol=1e-12)
    np.testing.assert_allclose(polynomial(np.asarray(correct)), radius, atol=1e-11)
    # Second derivative of theta(rho) below 2e-6 rad / pixel^2, knots 8 pixels apart: 8^2 / 8 of it.
    assert 1e-7 < np.abs(faithful - correct).max() < 3e-5


def test_grids_of_resized_images_share_edges_corners_or_the_first_pixel():
    shape = (6, 10)
    for alignment in ("areas", "corners", "origin"):
        u, v = projection.pixel_grid(shape, None, alignment)
        np.testing.assert_array_equal(u, np.tile(np.arange(10.0), (6, 1)))
        np.testing.assert_array_equal(v, np.tile(np.arange(6.0)[:, None], (1, 10)))
    fine, _ = projection.pixel_grid(shape, (12, 20))
    # Pixels of half the size: each pair's middle is the middle of the whole pixel.
    np.testing.assert_allclose(fine.reshape(12, 10, 2).mean(-1)[0], np.arange(10.0), atol=1e-15)
    corners, _ = projection.pixel_grid(shape, (3, 4), "corners")
    np.testing.assert_allclose(corners[0], [0, 3, 6, 9])
    _, origin = projection.pixel_grid(shape, (3, 4), "origin")
    np.testing.assert_allclose(origin[:, 0], [0, 2, 4])
    with pytest.raises(ConfigError, match="areas, corners, origin"):
        unchecked(projection.pixel_grid)(shape, None, "middle")
    with pytest.raises(ConfigError, match="at least one row"):
        projection.pixel_grid(shape, (0, 4))


@pytest.mark.parametrize("shape", [(640, 768), (7, 41)])
def test_pixels_of_a_resized_camera_look_where_those_of_the_resized_image_do(shape):
    one = camera(name="MVL")
    resized = resize_camera(one, shape)
    # The grid of the old camera at the new pixels' centres, against the new camera at its own.
    expected, seen = projection.pixel_rays(one, shape)
    found, valid = projection.pixel_rays(resized)
    np.testing.assert_array_equal(valid, seen)
    np.testing.assert_allclose(found[seen], expected[seen], atol=1e-9)  # 1e-10 rad of the inverse, both ways
    back = resize_camera(resized, one.image_shape)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)  # float64: four products
    with pytest.raises(ConfigError, match=r"at least one row and one column, got shape \(0, 4\)"):
        resize_camera(one, (0, 4))


def test_rays_of_all_pixels_are_unit_vectors_in_the_default_float():
    one = camera(width=64, height=48, k1=16.6, k2=-1.0, k3=2.2, k4=-0.33)
    exact, valid = projection.pixel_rays(one, rotate_pole=True)
    assert exact.shape == (48, 64, 3)
    assert valid.shape == (48, 64)
    with jax.enable_x64(False):
        single, _ = projection.pixel_rays(one, rotate_pole=True)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, atol=2e-6)  # float32: some roundings of 6e-8 times angles up to 2
    half, _ = projection.pixel_rays(one, (24, 32))
    assert half.shape == (24, 32, 3)


def test_points_are_rays_times_depth_along_the_axes_of_the_vehicle():
    one = camera()
    rng = np.random.default_rng(0)
    rays = rng.normal(size=(2, 5, 3))
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    depth = rng.uniform(1, 30, (2, 5))
    depth[0, 1], depth[1, 2] = np.inf, np.nan
    points = np.asarray(projection.point_cloud(one, rays, depth))
    known = np.isfinite(depth)
    expected = Rotation.from_quat([0.53, -0.51, 0.47, -0.49]).apply((rays * depth[..., None])[known])
    np.testing.assert_allclose(points[known], expected, atol=1e-13)
    assert np.isposinf(points[~known]).all()
    moved = np.asarray(projection.point_cloud(one, rays, depth, origin="vehicle"))
    np.testing.assert_allclose(moved[known], expected + np.array([3.7, 0.1, 0.65]), atol=1e-13)


def test_a_calibration_becomes_a_camera():
    one = camera(quaternion=[0.0, 0.0, 3.0, 4.0], width=1280.0)
    assert one.image_shape == (966, 1280) == (one.height, one.width)
    np.testing.assert_array_equal(one.coefficients, [331, -20, 43, -6.5])
    np.testing.assert_array_equal(one.center_offset, [3.5, -2.75])
    np.testing.assert_allclose(one.quaternion, [0, 0, 0.6, 0.8], rtol=1e-15)
    np.testing.assert_array_equal(one.translation, [3.7, 0.1, 0.65])
    assert float(one.aspect) == 1.01
    assert len(camera(poly_order=2).coefficients) == 2
    up = read_calibration(calibration(name="roof"), reference_axis=(0, 0, 2))
    np.testing.assert_array_equal(up.reference_axis, [0, 0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(k3=None), "intrinsic has no 'k3'"),
        (dict(poly_order=5), "intrinsic has no 'k5'"),
        (dict(aspect_ratio=None), "intrinsic has no 'aspect_ratio'"),
        (dict(extrinsic=None), "the calibration has no 'extrinsic'"),
        (dict(extrinsic=[1, 2]), "extrinsic of a calibration must hold named values, got list"),
        (dict(quaternion=None), "extrinsic has no 'quaternion'.*translation"),
        (dict(model="pinhole"), "must be 'radial_poly'.*got 'pinhole'"),
        (dict(k1=float("nan")), "k1 of intrinsic must be a finite number, got nan"),
        (dict(k2="20"), "k2 of intrinsic must be a finite number, got '20'"),
        (dict(cx_offset=True), "cx_offset of intrinsic must be a finite number, got True"),
        (dict(width=12.5), "width of intrinsic must be a whole number of at least 1, got 12.5"),
        (dict(poly_order=0), "poly_order of intrinsic must be a whole number"),
        (dict(aspect_ratio=-1.0), "aspect_ratio of intrinsic must be positive"),
        (dict(quaternion=[0, 0, 0, 0]), "quaternion has length 0"),
        (dict(quaternion=[1, 0, 0]), "quaternion must be 4 finite numbers"),
        (dict(translation=[1, 0, float("inf")]), "translation must be 3 finite numbers"),
        (dict(translation=["a", "b", "c"]), "translation must be 3 finite numbers"),
        (dict(name="roof"), "FV, RV, MVL, MVR, got 'roof'; pass reference_axis"),
    ],
)
def test_impossible_calibrations_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        camera(**changes)


@pytest.mark.parametrize("given", ["FV.json", [1]])
def test_what_is_no_mapping_is_no_calibration(given):
    with pytest.raises(ConfigError, match=f"JSON file holds, got {type(given).__name__};"):
        unchecked(read_calibration)(given)
