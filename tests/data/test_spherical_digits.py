"""Spherical digits: constants stay constant, rotations commute with projection, sets nest, classes follow digits."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from test_digits import REAL_SOURCES, write_set
from unchecked import unchecked

from jaxgeo.data import published_projection as published
from jaxgeo.data import spherical_digits as sd
from jaxgeo.data.spherical_digits import SphericalDigitsConfig, load_spherical_digits, spherical_digits
from jaxgeo.errors import ConfigError, CorruptFileError, InputError
from jaxgeo.grids import rotations
from jaxgeo.grids.latlon import pixel_vectors, soft_grid
from jaxgeo.harmonics.layout import native_degrees
from jaxgeo.harmonics.s2 import analysis, plan_s2_transform

SMALL = SphericalDigitsConfig(bandlimit=6)


def blobs(count=12, size=8, seed=0):
    """Smooth bright spots on a dark ground, with classes 0, 1, 2, ... in turn."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(size / 3, 2 * size / 3, (count, 2, 1, 1))
    grid = np.arange(size)
    distance = (grid[None, :, None] - centre[:, 0]) ** 2 + (grid[None, None] - centre[:, 1]) ** 2
    return np.exp(-distance / 4).astype(np.float32), (np.arange(count) % 10).astype(np.int32)


@pytest.mark.parametrize("rotated", [False, True])
def test_constant_image_stays_constant_in_correct_mode(rotated):
    config = dataclasses.replace(SMALL, oversampling=1, rotated=rotated)
    found = spherical_digits(np.full((3, 8, 8), 0.75, np.float32), np.array([4, 5, 6]), 3, config)
    inside = found.masks > 0
    # float32 weights of the four corners sum to 1 within rounding.
    np.testing.assert_allclose(found.images[inside], 0.75, rtol=1e-6)
    assert (found.images[~inside] == 0).all()
    for mask, label in zip(found.masks, found.labels, strict=True):
        assert set(np.unique(mask)) == {0, label[0] + 1}


def test_unrotated_images_lie_around_the_south_pole_within_the_published_radius():
    config = dataclasses.replace(SMALL, oversampling=1)
    covered = spherical_digits(np.ones((1, 8, 8), np.float32), np.array([0]), 1, config).masks[0] > 0
    vectors = pixel_vectors(soft_grid(6))
    down, right = vectors[..., 0], vectors[..., 1]
    angle = np.pi - np.arccos(vectors[..., 2])
    assert covered[angle < published.PUBLISHED_RADIUS - 1e-6].all()
    # The corners of the square are at sqrt(2) of the distance on the plane.
    assert not covered[angle > 2 * np.arctan(1.5 / 2 * np.sqrt(2)) + 1e-6].any()
    edge = np.maximum(np.abs(down), np.abs(right)) * np.tan(angle / 2) / np.maximum(np.sin(angle), 1e-9)
    np.testing.assert_array_equal(covered, edge < 0.75)


def laid(turns, config, seed=0):
    images, labels = blobs(len(turns), seed=seed)
    chosen, corners = np.arange(len(turns))[:, None], np.zeros((len(turns), 1, 2), np.int64)
    parts = list(sd.lay_correct(images, labels, chosen, corners, np.asarray(turns), 8, config))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def test_turning_about_the_axis_by_the_grid_shifts_images_and_masks():
    config = dataclasses.replace(SMALL, oversampling=2)
    still, still_mask = laid(np.broadcast_to(np.eye(3), (4, 3, 3)), config)
    turned, turned_mask = laid(np.broadcast_to(rotations.about_z(jnp.float32(3 * np.pi / 6)), (4, 3, 3)), config)
    # Both grids are invariant under this turn; float32 geometry moves samples by about 1e-6 of a pixel.
    np.testing.assert_allclose(turned, np.roll(still, 3, axis=-1), atol=2e-5)
    assert (turned_mask != np.roll(still_mask, 3, axis=-1)).mean() < 0.01


def test_any_rotation_keeps_the_power_of_each_degree():
    config = SphericalDigitsConfig(bandlimit=8, oversampling=4)
    turns = np.asarray(
        rotations.from_quaternions(jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32))
    )
    plan = plan_s2_transform(soft_grid(8))

    def power(images):
        coefficients = np.asarray(analysis(plan, jnp.asarray(images)[..., None]))[..., 0]
        orders = np.where(np.arange(8) > 0, 2.0, 1.0)[:, None, None]
        squares = (coefficients**2).sum(1) * orders[None]
        degrees = native_degrees(8)
        return np.stack([(squares * (degrees == l)[None]).sum((1, 2, 3)) for l in range(8)], -1)

    still, turned = (power(laid(t, config)[0]) for t in (np.broadcast_to(np.eye(3), (6, 3, 3)), turns))
    # What lies between degree 24 and 56 of a piecewise linear surface folds back: a few thousandths of its power.
    assert np.abs(still - turned).max() < 5e-3 * still.sum(-1).max()


def test_sets_nest_and_rotated_and_unrotated_sets_hold_the_same_digits():
    images, labels = blobs()
    config = dataclasses.replace(SMALL, num_digits=3, rotated=True)
    few, many = (spherical_digits(images, labels, n, config, seed=5) for n in (4, 70))
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:4])
    still = spherical_digits(images, labels, 70, dataclasses.replace(config, rotated=False), seed=5)
    np.testing.assert_array_equal(still.labels, many.labels)
    assert not np.array_equal(still.images, many.images)
    other = spherical_digits(images, labels, 4, config, seed=6)
    assert not np.array_equal(other.images, few.images)


def test_each_source_image_is_taken_once_before_any_is_taken_again():
    images, labels = blobs(10)
    taken = spherical_digits(images, labels, 25, SMALL).labels[:, 0]
    assert sorted(taken[:10]) == sorted(taken[10:20]) == list(range(10))
    assert len(set(taken[20:])) == 5


def test_every_digit_of_a_canvas_has_its_own_place_and_class():
    images, labels = blobs(10)
    config = dataclasses.replace(SMALL, bandlimit=12, num_digits=4)
    found = spherical_digits(images, labels, 20, config)
    assert found.labels.shape == (20, 4)
    assert found.masks.dtype == np.uint8
    for mask, kinds in zip(found.masks, found.labels, strict=True):
        assert set(np.unique(mask)) <= {0, *(kinds + 1)}
    seen = np.mean([len(set(np.unique(m)) - {0}) / len(set(k)) for m, k in zip(found.masks, found.labels, strict=True)])
    assert seen > 0.9
    corners = sd.arrange(200, 4, 28, 60, np.random.default_rng(0))
    assert corners.min() >= 0
    assert corners.max() <= 32
    apart = np.abs(corners[:, :, None] - corners[:, None]).max(-1)[:, *np.triu_indices(4, 1)]
    assert apart.min() >= 15  # half of the lattice's step of 32, less rounding


def test_consecutive_images_share_a_rotation_where_asked_to():
    image = blobs(1)[0]
    config = dataclasses.replace(SMALL, rotated=True, images_per_rotation=3)
    found = spherical_digits(image, np.array([0]), 7, config).images
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[3], found[5])
    assert not np.array_equal(found[2], found[3])


@pytest.mark.parametrize("rotated", [False, True])
def test_faithful_mode_is_the_published_projection(rotated):
    images, labels = blobs()
    config = dataclasses.replace(SMALL, mode="faithful", rotated=rotated, num_digits=2)
    found = spherical_digits(images, labels, 5, config)
    assert found.images.dtype == np.float32
    np.testing.assert_array_equal(found.images, np.trunc(found.images))
    assert (found.images.min(), found.images.max()) == (0, 255)
    np.testing.assert_array_equal(found.masks > 0, found.images > config.threshold)
    assert config.grid.name == "driscoll_healy"


def test_published_sampler_makes_four_of_one_and_its_range_is_then_spread():
    rows, columns = np.meshgrid(np.linspace(0.3, 0.7, 5), np.linspace(0.3, 0.7, 4))
    np.testing.assert_allclose(published.published_samples(np.ones((2, 8, 8)), rows, columns), 4)
    assert (published.published_samples(np.ones((8, 8)), rows + 5, columns) == 0).all()
    with pytest.raises(InputError, match=r"2 of 2 images are constant.*mode='correct'"):
        published.published_quantised(np.ones((2, 3, 3)))
    with pytest.raises(InputError, match="1 of 18 samples are not finite"):
        published.published_quantised(np.append(np.arange(17.0), np.nan).reshape(2, 3, 3))


def test_published_rotations_are_rotations():
    for deflection in (0.0, 0.3, 1.0):
        turn = published.published_rotation(np.array([0.2, 0.5, 0.7]), deflection)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-14)
        assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(published.published_rotation(np.array([0.2, 0.5, 0.7]), 0.0), np.diag([-1, -1, 1]))


def test_bundled_digits_need_no_files(monkeypatch):
    monkeypatch.delenv("JAXGEO_DATA", raising=False)
    train, test = load_spherical_digits("sklearn", SMALL, 30, 20, rotated_test=True)
    assert train.images.shape == train.masks.shape == (30, 12, 12)
    assert test.images.shape == (20, 12, 12)
    again, still_test = load_spherical_digits("sklearn", SMALL, 30, 20)
    np.testing.assert_array_equal(train.images, again.images)
    np.testing.assert_array_equal(test.labels, still_test.labels)
    assert not np.array_equal(test.images, still_test.images)
    with pytest.raises(ConfigError, match="JAXGEO_DATA"):
        load_spherical_digits("mnist", SMALL, 30, 20)


def test_idx_files_are_read_and_damage_is_named(tmp_path):
    write_set(tmp_path)
    train, test = load_spherical_digits("mnist", SMALL, 5, 4, root=tmp_path)
    assert train.images.shape == (5, 12, 12)
    assert test.labels.shape == (4, 1)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptFileError, match="train-images"):
        load_spherical_digits("mnist", SMALL, 5, 4, root=tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="not there"):
        load_spherical_digits("mnist", SMALL, 5, 4, root=tmp_path)


@pytest.mark.parametrize("source", REAL_SOURCES)
def test_real_sets_have_plausible_masks(source):
    train, _ = load_spherical_digits(source, SphericalDigitsConfig(bandlimit=12), 64, 16)
    assert 0.03 < (train.masks > 0).mean() < 0.4
    assert np.abs(train.images).max() < 1.6  # 1 and the ringing of a sharp limit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bandlimit": 0}, "bandlimit must be a whole number of at least 1, got 0"),
        ({"bandlimit": 2.5}, "whole number"),
        ({"canvas_size": 30.5}, "canvas_size must be a whole number"),
        ({"rotated": "no"}, "rotated must be True or False, got 'no'"),
        ({"threshold": 3.5}, "threshold must be a whole number from 0 to 254, got 3.5"),
        ({"num_digits": 0}, "num_digits"),
        ({"oversampling": 0}, "oversampling"),
        ({"images_per_rotation": 0}, "images_per_rotation"),
        ({"threshold": 255}, "from 0 to 254, got 255"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    config = object.__new__(SphericalDigitsConfig)  # as it is without the test run's checks of types
    for name, value in (dataclasses.asdict(SMALL) | changes).items():
        object.__setattr__(config, name, value)
    with pytest.raises(ConfigError, match=message):
        unchecked(SphericalDigitsConfig.__post_init__)(config)


def test_unknown_mode_small_canvas_and_wrong_arrays_are_refused():
    with pytest.raises((ConfigError, TypeError)):  # beartype may refuse first
        SphericalDigitsConfig(mode="other")
    images, labels = blobs()
    with pytest.raises(ConfigError, match=r"canvas of 6 x 6 pixels cannot hold images of 8 x 8"):
        spherical_digits(images, labels, 3, dataclasses.replace(SMALL, canvas_size=6))
    for count in (0, 2.5):
        with pytest.raises(InputError, match="number of spherical images must be a whole number of at least 1"):
            unchecked(spherical_digits)(images, labels, count, SMALL)
    for seed in (-1, 1.5):
        with pytest.raises(ConfigError, match="the seed must be a whole number of at least 0"):
            unchecked(spherical_digits)(images, labels, 3, SMALL, seed)
        with pytest.raises(ConfigError, match="the seed must be a whole number of at least 0"):
            unchecked(load_spherical_digits)("sklearn", SMALL, 3, 3, seed=seed)
    with pytest.raises(InputError, match=r"got images \(12, 8, 7\)"):
        spherical_digits(images[..., :7], labels, 3, SMALL)
    with pytest.raises(InputError, match=r"labels \(5,\)"):
        spherical_digits(images, labels[:5], 3, SMALL)
    assert sd.canvas_size(SMALL, 28) == 28
    assert sd.canvas_size(dataclasses.replace(SMALL, num_digits=4), 28) == 60


@pytest.mark.parametrize(
    ("value", "message"), [(255, "divide bytes by 255"), (-0.5, r"\[0, 1\]"), (np.nan, "finite"), (np.inf, "inf")]
)
def test_brightness_that_is_no_share_is_refused(value, message):
    images, labels = blobs()
    images[0, 0] = 0
    images[5, 4, 4] = value
    with pytest.raises(InputError, match=message):
        spherical_digits(images, labels, 3, SMALL)


@pytest.mark.parametrize("wrong", [300, 10, -1])
def test_labels_that_are_no_digits_are_refused(wrong):
    images, labels = blobs()
    labels[3] = wrong
    with pytest.raises(InputError, match="integers from 0 to 9"):
        spherical_digits(images, labels, 3, SMALL)
