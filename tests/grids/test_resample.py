"""Resampling: healpy's weights, SciPy's interpolation, exact symmetries, smooth scenes, and what must not be mixed."""

import dataclasses

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from test_cameras import FOLDING, camera
from unchecked import unchecked

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import fisheye_projection as projection
from jaxgeo.grids import resample
from jaxgeo.grids.cameras import pole_rotation, stack_cameras
from jaxgeo.grids.directions import angle_vectors
from jaxgeo.grids.healpix_interpolation import interpolation_weights
from jaxgeo.grids.stencils import interpolate, interpolate_depth, is_covered, take_nearest, to_uint8

seeds = st.integers(0, 2**31 - 1)
SMALL = dict(width=64, height=48, k1=16.6, k2=-1.0, k3=2.2, k4=-0.33, cx_offset=0.4, cy_offset=-0.3)
EIGHT = tuple(range(8))
EXACT = 1e-12  # float64, values of order 1
# HEALPix interpolation at nside 16 around a pole: a chord over 90 degrees of the first ring lies 0.3 of its radius of
# 0.05 rad inside it, times a slope of 1.
AT_POLES = 0.016


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def directions(seed, count=60):
    """Random directions, the poles, and places on and beside the rings and the meridians where pixels begin."""
    rng = np.random.default_rng(seed)
    theta = np.concatenate([np.arccos(rng.uniform(-1, 1, count)), [0, np.pi, 1e-7, np.pi - 1e-7, np.pi / 2]])
    phi = rng.uniform(0, 2 * np.pi, theta.shape)
    phi[::7] = np.pi / 4 * rng.integers(0, 8, phi[::7].shape)
    return theta, phi


@given(seed=seeds, case=st.sampled_from([(1, "ring"), (2, "nested"), (8, "ring"), (256, "nested")]))
def test_interpolation_weights_are_those_of_healpy(seed, case):
    nside, order = case
    nest = order == "nested"
    theta, phi = directions(seed)
    pixels, weights = interpolation_weights(nside, theta, phi, order)
    expected, expected_weights = healpy.get_interp_weights(nside, theta, phi, nest=nest)
    same = (expected == np.asarray(pixels).T).all(0)
    # A longitude at which a pixel begins may be rounded to either side; the pixel that differs then has weight 0.
    random = np.arange(len(theta)) % 7 > 0
    random[-5:] = False
    assert same[random].all()
    np.testing.assert_allclose(np.asarray(weights).T[:, same], expected_weights[:, same], atol=EXACT)
    # At pixel centres the ring itself may be rounded to either side: there the values are compared.
    maps = np.random.default_rng(seed).uniform(-1, 1, 12 * nside**2)
    centers = healpy.pix2ang(nside, np.random.default_rng(seed).integers(0, 12 * nside**2, len(theta)), nest=nest)
    for places in ((theta, phi), centers):
        pixels, weights = interpolation_weights(nside, *places, order)
        np.testing.assert_allclose(
            (maps[pixels] * weights).sum(-1), healpy.get_interp_val(maps, *places, nest=nest), atol=EXACT
        )
        np.testing.assert_allclose(weights.sum(-1), 1, atol=EXACT)
        assert weights.min() >= 0


def test_interpolation_is_linear_in_the_colatitude_with_the_right_derivative():
    nside = 4
    colatitudes, _ = resample.face_angles(nside)

    def colatitude(theta, phi):
        pixels, weights = interpolation_weights(nside, theta, phi, "nested")
        return jnp.sum(jnp.asarray(colatitudes)[pixels] * weights)

    # Between the first and the last ring, at any longitude (also negative and beyond a turn).
    theta, phi = np.linspace(colatitudes.min() + 1e-6, colatitudes.max() - 1e-6, 40), np.linspace(-9, 9, 40)
    value, slopes = jax.vmap(jax.value_and_grad(colatitude, argnums=(0, 1)))(theta, phi)
    np.testing.assert_allclose(value, theta, atol=EXACT)
    np.testing.assert_allclose(slopes, [np.ones(40), np.zeros(40)], atol=1e-11)


def test_large_maps_need_64_bit_pixel_numbers():
    _, weights = interpolation_weights(2**14, np.array([1.0]), np.array([1.0]), "ring")
    np.testing.assert_allclose(weights.sum(), 1, atol=EXACT)
    with jax.enable_x64(False), pytest.raises(InputError, match="need int64"):
        interpolation_weights(2**14, np.array([1.0], np.float32), np.array([1.0], np.float32), "ring")


@given(seed=seeds)
def test_images_are_bilinear_between_centers_and_level_to_the_edge(seed):
    rng = np.random.default_rng(seed)
    image = rng.uniform(-1, 1, (2, 5, 6))
    u, v = rng.uniform(-1.5, 6.5, 40), rng.uniform(-1.5, 5.5, 40)
    u[:5], v[:5] = rng.integers(0, 6, 5), rng.integers(0, 5, 5)
    stencil = resample.image_stencil(u, v, (5, 6))
    inside = (np.abs(u - 2.5) <= 3) & (np.abs(v - 2) <= 2.5)
    expected = [scipy.ndimage.map_coordinates(one, [v, u], order=1, mode="nearest") for one in image]
    np.testing.assert_allclose(interpolate(stencil, image, 9.0), np.where(inside, expected, 9.0), atol=EXACT)
    np.testing.assert_array_equal(is_covered(stencil), inside)
    labels = rng.integers(0, 200, (5, 6)).astype(np.uint8)
    found = take_nearest(stencil, labels, 255)
    rows, columns = (np.clip(np.round(x), 0, n - 1).astype(int) for x, n in ((v, 5), (u, 6)))
    np.testing.assert_array_equal(found, np.where(inside, labels[rows, columns], 255))
    assert found.dtype == np.uint8


@given(seed=seeds)
def test_published_sampler_mixes_zeros_from_outside_and_loses_whole_coordinates(seed):
    rng = np.random.default_rng(seed)
    image = rng.uniform(-1, 1, (5, 6))
    u, v = rng.uniform(-1.5, 6.5, 40), rng.uniform(-1.5, 5.5, 40)
    u[:3], v[3:6], u[6], v[7] = [0, 2, 5], [0, 3, 4], 1e6, -1e6
    stencil = resample.image_stencil(u, v, (5, 6), mode="faithful")
    expected = scipy.ndimage.map_coordinates(image, [v, u], order=1, mode="grid-constant", cval=0.0)
    expected[(u == np.round(u)) | (v == np.round(v))] = 0
    np.testing.assert_allclose(interpolate(stencil, image), expected, atol=EXACT)
    rows, columns = np.round(v).astype(int), np.round(u).astype(int)
    inside = (rows >= 0) & (rows < 5) & (columns >= 0) & (columns < 6)
    nearest = np.where(inside, image[np.clip(rows, 0, 4), np.clip(columns, 0, 5)], np.inf)
    np.testing.assert_array_equal(take_nearest(stencil, image, np.inf), nearest)


@given(seed=seeds, lost=st.sampled_from([np.inf, np.nan, -np.inf]))
def test_invalid_depth_is_never_mixed_into_a_value(seed, lost):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(1, 2, (5, 6))
    invalid = rng.uniform(size=(5, 6)) < 0.3
    u, v = rng.uniform(0, 5, 60), rng.uniform(0, 4, 60)
    u[:9], v[:9] = rng.integers(0, 6, 9), rng.integers(0, 5, 9)
    stencil = resample.image_stencil(u, v, (5, 6))
    found = interpolate_depth(stencil, np.where(invalid, lost, depth))
    # A sample is touched where bilinear interpolation of the invalid pixels alone is not zero.
    touched = scipy.ndimage.map_coordinates(invalid.astype(float), [v, u], order=1) > 0
    expected = scipy.ndimage.map_coordinates(depth, [v, u], order=1)
    np.testing.assert_allclose(found[~touched], expected[~touched], atol=EXACT)
    assert np.isposinf(np.asarray(found)[touched]).all()
    np.testing.assert_array_equal(is_covered(stencil, ~invalid), ~touched)
    # With a mask instead: for batches of channels, and any value of the fill.
    masked = interpolate(stencil, np.stack([depth, -depth]), -5.0, ~invalid)
    np.testing.assert_allclose(masked, np.where(touched, -5, [expected, -expected]), atol=EXACT)


def test_derivatives_pass_invalid_depth_by():
    stencil = resample.image_stencil(np.array([0.5, 2.5]), np.array([0.5, 0.5]), (2, 4))
    depth = jnp.asarray([[1.0, 2.0, 3.0, jnp.inf], [1.0, 2.0, 3.0, 4.0]])

    def total(depth):
        found = interpolate_depth(stencil, depth, 0.0)
        return jnp.sum(found)

    np.testing.assert_array_equal(jax.grad(total)(depth), [[0.25, 0.25, 0, 0], [0.25, 0.25, 0, 0]])


def test_an_infinite_fill_of_the_published_mean_leaves_derivatives_finite():
    u, v = np.array([0.5, 1.25, -0.5, 2.5]), np.full(4, 0.25)
    image = np.arange(8.0).reshape(2, 4)

    def total(u, fill):
        found = interpolate(resample.image_stencil(u, v, (2, 4), mode="faithful"), image, fill)
        return jnp.sum(jnp.where(jnp.isfinite(found), found, 0)), found

    slope, found = jax.grad(total, has_aux=True)(u, np.inf)
    np.testing.assert_array_equal(np.isposinf(found), [False, False, True, False])
    np.testing.assert_allclose(slope, [1, 1, 0, 1], atol=EXACT)  # the image grows by 1 along a row
    # A finite one is a pixel like any other: at the left edge half of the mean.
    np.testing.assert_allclose(jax.grad(total, has_aux=True)(u, 10.0)[0][2], 0 + 0.25 * 4 - 10, atol=EXACT)


def smooth(vectors):
    """A function on the sphere of slope below 2, with values between 0 and 2.6."""
    x, y, z = np.moveaxis(np.asarray(vectors), -1, 0)
    return 1.3 + np.sin(x + 0.3) + 0.3 * y * z


def test_a_smooth_scene_survives_the_way_to_the_sphere_and_back():
    one = camera(**SMALL)
    rays, seen = projection.pixel_rays(one, rotate_pole=True)
    assert seen.all()
    scene = smooth(rays)
    plan = resample.plan_fisheye_to_healpix(one, 16, EIGHT, rotate_pole=True)
    sphere = interpolate(plan, scene, -1.0)
    covered = np.asarray(is_covered(plan))
    centers = np.stack(healpy.pix2vec(16, np.arange(2048), nest=True), -1)
    # Bilinear: h^2 / 8 times second derivatives of order 1 in each axis, h = 1 / 16 rad; half a pixel at the edge is
    # level instead, times a slope of 2.
    u, v, _ = projection.directions_to_image(one, centers, True)
    inner = covered & np.asarray((u >= 0) & (u <= 63) & (v >= 0) & (v <= 47))
    assert 0.5 < inner.mean() < covered.mean() < 0.9
    np.testing.assert_allclose(np.asarray(sphere)[inner], smooth(centers)[inner], atol=2e-3)
    np.testing.assert_allclose(np.asarray(sphere)[covered], smooth(centers)[covered], atol=0.07)
    np.testing.assert_array_equal(np.asarray(sphere)[~covered], -1)
    # Nothing is seen that is not on the image.
    np.testing.assert_array_equal(take_nearest(plan, np.ones((48, 64), bool), False), covered)
    back = resample.plan_healpix_to_fisheye(one, 16, EIGHT, rotate_pole=True)
    returned = interpolate(back, np.where(covered, smooth(centers), 0), -1.0, covered)
    there = np.asarray(is_covered(back, covered))
    assert there.mean() > 0.6
    np.testing.assert_allclose(np.asarray(returned)[there], scene[there], atol=AT_POLES)
    away = there & (np.abs(np.asarray(rays)[..., 2]) < np.cos(0.25))
    np.testing.assert_allclose(np.asarray(returned)[away], scene[away], atol=3e-3)
    np.testing.assert_array_equal(np.asarray(returned)[~there], -1)


def test_labels_go_to_the_pixel_that_holds_their_direction_or_weighs_most():
    theta, phi = np.random.default_rng(0).uniform([[0], [0]], [[np.pi], [2 * np.pi]], (2, 500))
    labels = np.random.default_rng(0).integers(0, 9, 768)
    holds = healpy.ang2pix(8, theta, phi, nest=True)
    correct = resample.healpix_stencil(theta, phi, 8)
    np.testing.assert_array_equal(take_nearest(correct, labels, -1), labels[holds])
    # The published rule, by healpy.
    pixels, weights = healpy.get_interp_weights(8, theta, phi, nest=True)
    published = pixels[np.argmax(weights, axis=0), np.arange(500)]
    faithful = resample.healpix_stencil(theta, phi, 8, mode="faithful")
    np.testing.assert_array_equal(take_nearest(faithful, labels, -1), labels[published])
    assert 0.01 < (published != holds).mean() < 0.3  # the two rules are not the same


def test_any_faces_in_any_order_are_blocks_of_the_full_map():
    one = camera(**SMALL)
    scene = np.random.default_rng(0).uniform(size=(48, 64))
    full = np.asarray(interpolate(resample.fisheye_to_healpix(one, 8), scene)).reshape(12, 64)
    faces = (5, 0, 11)
    some = interpolate(resample.fisheye_to_healpix(one, 8, faces), scene)
    np.testing.assert_allclose(some, full[list(faces)].reshape(-1), atol=EXACT)
    sphere = np.random.default_rng(1).uniform(size=(12, 64))
    theta, phi = directions(0)
    pixels, weights = healpy.get_interp_weights(8, theta, phi, nest=True)
    missing = ~np.isin(pixels // 64, faces)
    correct = interpolate(resample.healpix_stencil(theta, phi, 8, faces), sphere[list(faces)].reshape(-1), 255.0)
    whole = (np.where(missing, 0, sphere.reshape(-1)[pixels]) * weights).sum(0)
    outside = (missing & (weights > 1e-9)).any(0)
    assert 0 < outside.mean() < 1
    np.testing.assert_allclose(correct, np.where(outside, 255, whole), atol=EXACT)
    stencil = resample.healpix_stencil(theta, phi, 8, faces, mode="faithful")
    mixed = (np.where(missing, 255, sphere.reshape(-1)[pixels]) * weights).sum(0)
    np.testing.assert_allclose(interpolate(stencil, sphere[list(faces)].reshape(-1), 255.0), mixed, atol=1e-10)


def test_what_a_camera_does_not_see_is_outside_both_ways():
    folding = camera(**FOLDING, width=640, height=480)
    with pytest.raises(ConfigError, match=r"max_theta=1\.0"):
        resample.plan_fisheye_to_healpix(folding, 8)
    with pytest.raises(ConfigError, match=r"max_theta=1\.0"):
        resample.plan_healpix_to_fisheye(folding, 8)
    plan = resample.plan_fisheye_to_healpix(folding, 8, max_theta=0.9)
    theta, _ = healpy.pix2ang(8, np.arange(768), nest=True)
    np.testing.assert_array_equal(np.asarray(plan.nearest) >= 0, theta <= 0.9)
    back = resample.plan_healpix_to_fisheye(folding, 8, max_theta=0.9, shape=(24, 32))
    u, v = projection.pixel_grid((480, 640), (24, 32))
    radius = np.hypot(u - 319.5 - 3.5, (v - 239.5 + 2.75) / 1.01)
    np.testing.assert_array_equal(is_covered(back), radius <= 300 * 0.9 - 100 * 0.9**3)


def test_resampling_is_differentiable_by_the_camera():
    one = camera(**SMALL)
    scene = smooth(projection.pixel_rays(one)[0])
    sphere = smooth(np.stack(healpy.pix2vec(2, np.arange(48), nest=True), -1))

    @jax.jit
    @jax.value_and_grad
    def means(coefficients):
        changed = dataclasses.replace(one, coefficients=coefficients)
        there = interpolate(resample.fisheye_to_healpix(changed, 2, (0,)), scene)
        back = interpolate(resample.healpix_to_fisheye(changed, 2, shape=(5, 6)), sphere)
        return jnp.mean(there) - 2 * jnp.mean(back)

    _, slope = means(one.coefficients)
    for k in range(4):
        step = 1e-5 * np.eye(4)[k]
        change = means(one.coefficients + step)[0] - means(one.coefficients - step)[0]
        # Central differences of a piecewise smooth function, with rounding of 1e-16 / 2e-5.
        np.testing.assert_allclose(slope[k], change / 2e-5, rtol=1e-5, atol=1e-10)
    assert np.abs(slope).min() > 1e-6


def test_stacked_cameras_resample_their_own_images():
    cameras = [camera(**SMALL), camera(**SMALL, name="MVL", aspect_ratio=0.9)]
    scenes = np.random.default_rng(0).uniform(size=(2, 48, 64))

    def sphere(camera, scene):
        return interpolate(resample.fisheye_to_healpix(camera, 2, rotate_pole=True), scene)

    together = jax.vmap(sphere)(stack_cameras(cameras), scenes)
    for found, one, scene in zip(together, cameras, scenes, strict=True):
        np.testing.assert_allclose(found, sphere(one, scene), atol=EXACT)


def test_plans_are_exact_in_single_precision_too():
    one = camera(**SMALL)
    exact = resample.plan_fisheye_to_healpix(one, 8, rotate_pole=True)
    with jax.enable_x64(False):
        single = resample.plan_fisheye_to_healpix(one, 8, rotate_pole=True)
    assert single.weights.dtype == np.float32
    np.testing.assert_array_equal(single.pixels, exact.pixels)
    np.testing.assert_allclose(single.weights, exact.weights, rtol=1e-7)  # one rounding


def test_rays_of_a_map_are_in_the_frame_of_the_camera():
    one = camera(**SMALL)
    vectors = np.stack(healpy.pix2vec(4, np.arange(128), nest=True), -1)
    np.testing.assert_allclose(resample.healpix_rays(one, 4, EIGHT), vectors, atol=EXACT)
    turned = resample.healpix_rays(one, 4, EIGHT, rotate_pole=True)
    np.testing.assert_allclose(turned, vectors @ np.asarray(pole_rotation(one)).T, atol=EXACT)
    np.testing.assert_allclose(
        projection.directions_to_image(one, turned)[:2],
        projection.directions_to_image(one, vectors, True)[:2],
        atol=1e-10,
    )
    published = resample.healpix_rays(one, 4, EIGHT, rotate_pole=True, mode="faithful")
    np.testing.assert_allclose(published, vectors, atol=EXACT)


@given(seed=seeds, turns=st.integers(1, 3))
def test_turning_a_panorama_by_a_quarter_permutes_the_faces(seed, turns):
    panorama = np.random.default_rng(seed).uniform(size=(6, 12))
    plan = resample.plan_panorama_to_healpix((6, 12), 4)
    for apply in (interpolate, lambda plan, image: take_nearest(plan, image, 0)):
        faces = np.asarray(apply(plan, panorama)).reshape(3, 4, 16)
        # Longitude falls to the right: contents moved left go to larger longitudes.
        turned = np.asarray(apply(plan, np.roll(panorama, -3 * turns, axis=1))).reshape(3, 4, 16)
        np.testing.assert_allclose(turned, np.roll(faces, turns, axis=1), atol=EXACT)


@pytest.mark.parametrize("shape", [(32, 64), (32, 63)])
def test_panoramas_of_smooth_scenes_are_smooth_over_the_poles_and_around(shape):
    scene = smooth(angle_vectors(*(jnp.asarray(angle) for angle in resample.panorama_angles(shape))))
    theta, phi = directions(0, 500)
    theta[:50] = np.geomspace(1e-9, 0.1, 50)
    theta[50:100] = np.pi - theta[:50]
    phi[100:110] = np.pi + np.linspace(-0.1, 0.1, 10)  # across the cut
    found = interpolate(resample.panorama_stencil(theta, phi, shape), scene)
    # h^2 / 8 times second derivatives of about 2, h = 0.1 rad.
    np.testing.assert_allclose(found, smooth(angle_vectors(theta, phi)), atol=5e-3)
    centers = np.stack(healpy.pix2vec(16, np.arange(3072), nest=True), -1)
    sphere = interpolate(resample.plan_panorama_to_healpix(shape, 16), scene)
    np.testing.assert_allclose(sphere, smooth(centers), atol=5e-3)
    returned = interpolate(resample.plan_healpix_to_panorama(16, shape), smooth(centers))
    np.testing.assert_allclose(returned, scene, atol=AT_POLES)
    np.testing.assert_allclose(returned[3:-3], scene[3:-3], atol=5e-3)


def test_a_panorama_shows_the_sphere_from_inside():
    panorama = np.zeros((4, 8))
    panorama[0, 2] = 1  # high up, left of the middle
    x, y, z = angle_vectors(*(jnp.asarray(angle) for angle in resample.panorama_angles((4, 8))))[0, 2]
    assert x > 0  # ahead
    assert y > 0  # left of someone who looks along x with z up
    assert z > 0
    vectors = np.stack(healpy.pix2vec(8, np.arange(768), nest=True), -1)
    sphere = interpolate(resample.plan_panorama_to_healpix((4, 8), 8), panorama)
    assert vectors[int(np.argmax(sphere))] @ np.array([x, y, z]) > 0.95


def test_labels_and_invalid_depth_of_panoramas_stay_what_they_are():
    shape = (6, 9)
    theta, phi = directions(3)
    labels = np.random.default_rng(0).integers(0, 50, shape)
    rows = np.minimum((theta / np.pi * 6).astype(int), 5)
    columns = ((0.5 - phi / (2 * np.pi)) % 1 * 9).astype(int)
    stencil = resample.panorama_stencil(theta, phi, shape)
    np.testing.assert_array_equal(take_nearest(stencil, labels, -1), labels[rows, columns])
    depth = np.where(labels < 15, np.inf, 1.0)
    found = np.asarray(interpolate_depth(stencil, depth))
    assert set(np.unique(np.round(found, 12))) == {1.0, np.inf}
    # What is invalid itself stays so.
    assert np.isinf(found[np.isinf(depth[rows, columns])]).all()


def test_bytes_are_rounded_or_truncated():
    values = jnp.asarray([-3.0, 0.4, 0.6, 99.5, 100.5, 254.9, 300.0])
    assert to_uint8(values).tolist() == [0, 0, 1, 100, 100, 255, 255]
    assert to_uint8(values, "faithful").tolist() == [0, 0, 0, 99, 100, 254, 255]


def test_what_cannot_be_resampled_is_refused():
    plan = resample.plan_panorama_to_healpix((4, 8), 2)
    with pytest.raises(InputError, match=r"last axes are \(4, 8\).*got shape \(4, 8, 3\); move the channels"):
        interpolate(plan, np.zeros((4, 8, 3)))
    with pytest.raises(InputError, match="got shape"):
        take_nearest(plan, np.zeros(8), 0)
    for fill in (300, -1, 0.5, np.inf):
        with pytest.raises(InputError, match="cannot hold the fill"):
            take_nearest(plan, np.zeros((4, 8), np.uint8), fill)
    with pytest.raises(ConfigError, match="faces 0 to 11, none of them twice"):
        resample.plan_panorama_to_healpix((4, 8), 2, (0, 0))
    with pytest.raises(ConfigError, match="base_pixels must be some of the faces 0 to 11"):
        resample.face_pixels(2, (12,))
    for nside, said in ((3, "nearest are 2 and 4"), (2**14, "nside at most 8192")):
        with pytest.raises(ConfigError, match=said):
            resample.face_pixels(nside)
    with pytest.raises(ConfigError, match="a panorama needs"):
        resample.plan_healpix_to_panorama(2, (0, 8))
    with pytest.raises(ConfigError, match="mode must be one of correct, faithful, got 'published'"):
        unchecked(resample.healpix_rays)(camera(), 2, mode="published")
