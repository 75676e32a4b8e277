"""Projection of images: exact symmetries, known surfaces, areas, and convergence."""

import itertools

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import rotations
from jaxgeo.grids.projection import plan_stereographic, project, sample_image

seeds = st.integers(0, 2**31 - 1)
ROUNDING = 2e-5  # a float32 rounding of a direction moves the sample by 1e-7 times the slope, some tens per radian
PLAN = plan_stereographic(4, (8, 8), supersampling=2)


def smooth_images(seed, shape=(8, 8)):
    """Random images whose border is zero, so that the surface has no jump at the image's edge."""
    images = np.random.default_rng(seed).uniform(size=shape).astype(np.float32)
    images[..., 0, :] = images[..., -1, :] = images[..., :, 0] = images[..., :, -1] = 0
    return jnp.asarray(images)


def identity(*batch):
    return jnp.broadcast_to(jnp.eye(3), (*batch, 3, 3))


def test_surface_at_pixel_centers_is_the_image_and_halfway_the_mean():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 8)).astype(np.float32))
    radius = np.radians(50)
    step = 4 * np.tan(radius / 2) / 8  # of an image pixel on the plane, where the half width is 2 tan(radius / 2)

    def directions(row, column):
        """Directions of places on the plane, by the textbook formula in polar form."""
        down, right = (row - 2) * step, (column - 3.5) * step
        theta, phi = 2 * np.arctan(np.hypot(down, right) / 2), np.arctan2(right, down)
        return jnp.asarray(
            np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1), jnp.float32
        )

    rows, columns = np.meshgrid(np.arange(5), np.arange(8), indexing="ij")
    np.testing.assert_allclose(sample_image(image, directions(rows, columns), radius), image, atol=ROUNDING)
    halfway = sample_image(image, directions(rows[:-1, :-1] + 0.5, columns[:-1, :-1] + 0.5), radius)
    mean = (image[1:, 1:] + image[:-1, 1:] + image[1:, :-1] + image[:-1, :-1]) / 4
    np.testing.assert_allclose(halfway, mean, atol=ROUNDING)
    # From the outermost centres to the border the surface is level; beyond it there is nothing.
    np.testing.assert_allclose(
        sample_image(image, directions(rows[0] - 0.49, columns[0]), radius), image[0], atol=ROUNDING
    )
    np.testing.assert_allclose(
        sample_image(image, directions(rows[:, -1], columns[:, -1] + 0.49), radius), image[:, -1], atol=ROUNDING
    )
    np.testing.assert_array_equal(sample_image(image, directions(rows[0] - 0.51, columns[0]), radius), 0)
    np.testing.assert_array_equal(sample_image(image, directions(rows[:, -1], columns[:, -1] + 0.51), radius), 0)


def test_far_pole_is_outside_every_image():
    assert float(sample_image(jnp.ones((2, 2)), jnp.asarray([0.0, 0.0, -1.0]), np.radians(179.0))) == 0


def test_radius_is_the_angle_to_the_middle_of_the_longer_sides():
    for shape in [(4, 4), (8, 4)]:
        theta = np.radians([64.9, 65.1])
        directions = np.stack([np.sin(theta), 0 * theta, np.cos(theta)], -1).astype(np.float32)
        np.testing.assert_array_equal(sample_image(jnp.ones(shape), jnp.asarray(directions), np.radians(65)), [1, 0])


def test_image_of_one_pixel_is_constant_inside():
    plan = plan_stereographic(4, (1, 1), radius_deg=40.0)
    sphere = project(plan, jnp.full((1, 1), 0.7), identity())
    assert np.unique(np.round(sphere, 6))[[0, -1]].tolist() == [0, np.float32(0.7)]


@given(seed=seeds, value=st.floats(-2.0, 2.0, width=16))
def test_constant_image_is_constant_inside_and_zero_outside(seed, value):
    rotation = rotations.haar_rotations(jax.random.key(seed))
    sphere = np.asarray(project(PLAN, jnp.full((8, 8), value, jnp.float32), rotation))
    angle = np.degrees(
        np.arccos(
            np.clip(np.stack(healpy.pix2vec(4, np.arange(192), nest=True), -1) @ np.asarray(rotation)[:, 2], -1, 1)
        )
    )
    width = np.degrees(healpy.max_pixrad(4))
    # The nearest border lies 65 degrees from the centre, the corners 84.02.
    np.testing.assert_allclose(sphere[angle < 65 - width], value, rtol=1e-6)
    np.testing.assert_array_equal(sphere[angle > 84.03 + width], 0)


@given(seed=seeds)
def test_map_of_a_turned_image_is_the_turned_surface(seed):
    rotation = rotations.haar_rotations(jax.random.key(seed))
    image = smooth_images(seed)
    centers = np.asarray(PLAN.vectors, np.float64) @ np.asarray(rotation, np.float64)
    # The inverse of the textbook formula in polar form, and SciPy's bilinear interpolation, in float64.
    theta, phi = np.arccos(np.clip(centers[..., 2], -1, 1)), np.arctan2(centers[..., 1], centers[..., 0])
    distance = 4 * np.tan(np.minimum(theta, 3.0) / 2) / np.tan(PLAN.radius / 2)
    places = np.stack([distance * np.cos(phi), distance * np.sin(phi)]) + 3.5
    surface = scipy.ndimage.map_coordinates(np.asarray(image, np.float64), places, order=1, mode="constant", cval=0.0)
    np.testing.assert_allclose(project(PLAN, image, rotation), surface.mean(-1), atol=ROUNDING)


@given(seed=seeds, turns=st.integers(1, 3))
def test_quarter_turns_about_the_axis_permute_the_pixels_exactly(seed, turns):
    image = jnp.asarray(np.random.default_rng(seed).uniform(size=(8, 8)).astype(np.float32))
    rotation = rotations.haar_rotations(jax.random.key(seed))
    quarter = jnp.asarray(np.linalg.matrix_power(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), turns), jnp.float32)
    faces = np.asarray(project(PLAN, image, rotation)).reshape(3, 4, 16)
    turned = project(PLAN, image, jnp.matmul(quarter, rotation, precision="highest"))
    np.testing.assert_array_equal(np.asarray(turned).reshape(3, 4, 16), np.roll(faces, turns, axis=1))


def test_turning_the_image_by_hand_is_turning_it_about_the_pole():
    image = smooth_images(1)
    # Row to +x, column to +y: the quarter turn takes down to right.
    quarter = jnp.asarray([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(
        project(PLAN, image, quarter), project(PLAN, jnp.rot90(image), identity()), atol=ROUNDING
    )


def test_image_stands_upright_and_unmirrored_at_the_equator():
    image = jnp.zeros((8, 8)).at[1, 6].set(1.0)  # up and right
    sphere = project(PLAN, image, rotations.about_y(jnp.asarray(np.pi / 2)))
    x, y, z = healpy.pix2vec(4, int(jnp.argmax(sphere)), nest=True)
    assert x > 0  # in front
    assert y > 0  # east is right, seen from outside
    assert z > 0  # north is up


@given(seed=seeds)
def test_projection_is_linear(seed):
    key = jax.random.key(seed)
    rotation = rotations.haar_rotations(key)
    first, second = jax.random.normal(key, (2, 8, 8))
    both = project(PLAN, 2.0 * first - second, rotation)
    separate = 2.0 * project(PLAN, first, rotation) - project(PLAN, second, rotation)
    np.testing.assert_allclose(both, separate, atol=1e-5)  # float32 sums of numbers up to about 10


def test_integral_approaches_the_area_of_the_projected_square():
    half = 2 * np.tan(np.radians(65) / 2)
    # Area element of the stereographic plane: 1 / (1 + rho^2 / 4)^2.
    area, _ = scipy.integrate.dblquad(lambda x, y: (1 + (x * x + y * y) / 4) ** -2, -half, half, -half, half)
    drawn = rotations.haar_rotations(jax.random.key(0), (8,))
    errors = []
    for supersampling in (1, 4, 16):
        plan = plan_stereographic(4, (8, 8), supersampling=supersampling)
        maps = project(plan, jnp.ones((8, 8, 8)), drawn)
        errors.append(np.abs(np.asarray(maps).mean(-1) * 4 * np.pi / area - 1).max())
    # Only children cut by the border err: relative error below perimeter * child size / area, and far below by chance.
    assert errors[0] < 0.1
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 2e-3


def test_finer_samples_converge_to_the_area_average():
    images = smooth_images(5, (6, 8, 8))
    drawn = rotations.haar_rotations(jax.random.key(5), (6,))

    def maps(supersampling):
        return np.asarray(project(plan_stereographic(4, (8, 8), supersampling=supersampling), images, drawn))

    reference = maps(64)
    errors = [np.sqrt(np.mean((maps(s) - reference) ** 2)) for s in (1, 2, 4, 8)]
    # The midpoint rule is of second order; the kinks of the bilinear surface leave a little less.
    for coarse, fine in itertools.pairwise(errors):
        assert fine < coarse / 2.8
    assert errors[2] < 0.01  # the default: a hundredth of the range of grey


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_result_does_not_depend_on_the_chunk_and_batches_have_any_shape(chunk):
    images = smooth_images(2, (2, 3, 8, 8))
    drawn = rotations.haar_rotations(jax.random.key(2), (2, 3))
    single = np.stack([[project(PLAN, images[i, j], drawn[i, j]) for j in range(3)] for i in range(2)])
    found = project(PLAN, images, drawn, chunk)
    assert found.shape == (2, 3, 192)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, single, atol=1e-6)  # sums in another order


def test_memory_does_not_grow_with_the_batch():
    def temporaries(batch):
        lowered = project.lower(PLAN, jnp.zeros((batch, 8, 8)), identity(batch), 4)
        return lowered.compile().compiled.memory_analysis().temp_size_in_bytes

    # The result itself, 768 bytes a map, may be held twice; 100 x more images need no 100 x larger workspace.
    assert temporaries(800) < temporaries(8) + 4 * 768 * 800


def test_gradient_with_respect_to_the_rotation_is_finite_at_the_identity():
    image = smooth_images(3)
    slope = jax.grad(lambda r: project(PLAN, image, r).var())(jnp.eye(3))
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(nside=3, image_shape=(8, 8)), "nearest are 2 and 4"),
        (dict(nside=4, image_shape=(8, 8), supersampling=3), "supersampling must be a power of two"),
        (dict(nside=4096, image_shape=(8, 8), supersampling=4), "at most 8192"),
        (dict(nside=4, image_shape=(0, 8)), "at least one row"),
        (dict(nside=4, image_shape=(8, 8), radius_deg=180.0), "between 0 and 180"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        plan_stereographic(**arguments)


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match=r"shape \(8, 8\), got \(4, 8\)"):
        project(PLAN, jnp.zeros((4, 8)), identity())
    with pytest.raises(InputError, match=r"rotations of shape \(2, 3, 3\), got \(3, 3\)"):
        project(PLAN, jnp.zeros((2, 8, 8)), identity())
    with pytest.raises(ConfigError, match="at least 1 image"):
        project(PLAN, jnp.zeros((2, 8, 8)), identity(2), 0)
