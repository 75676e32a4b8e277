import colorsys

import numpy as np
import pytest
import scipy.ndimage
from unchecked import unchecked

from jaxgeo.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from jaxgeo.errors import ConfigError, InputError


def photographs(number=6, size=32, seed=0):
    """Smooth blobs of colour with edges: what blurs, noise and weather change."""
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=(number, size, size, 3)), 2, axes=(1, 2))
    smooth = smooth / smooth.std() * 50 + 110 + 25 * np.sign(smooth.sum(-1, keepdims=True))
    return np.clip(smooth, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_severity_moves_images_further_and_the_seed_says_how(corruption):
    images = photographs()
    kept = images.copy()
    results = [corrupt(images, corruption, severity, seed=3) for severity in SEVERITIES]
    differences = [np.square(result.astype(float) - images).mean() for result in results]
    assert differences[0] > 0
    assert (np.diff(differences) > 0).all(), differences
    for result in results:
        assert result.dtype == np.uint8
        assert result.shape == images.shape
    np.testing.assert_array_equal(images, kept)
    np.testing.assert_array_equal(corrupt(images, corruption, 2, seed=3), results[1])
    random = corruption not in {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert np.array_equal(corrupt(images, corruption, 2, seed=4), results[1]) != random


@pytest.mark.parametrize("corruption", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform"])
def test_blurs_keep_a_flat_image(corruption):
    flat = np.full((2, 16, 20, 3), 77, np.uint8)
    np.testing.assert_array_equal(corrupt(flat, corruption, 5), flat)


def test_noises_have_the_moments_of_their_names():
    grey = np.full((8, 32, 32, 3), 102, np.uint8)  # 0.4
    gaussian, shot, impulse = (
        corrupt(grey, name, 5) / 255 for name in ("gaussian_noise", "shot_noise", "impulse_noise")
    )
    # 24,576 values: deviations are known to 0.5 %, and rounding adds less than that.
    np.testing.assert_allclose(gaussian.std(), 0.1, rtol=0.02)
    np.testing.assert_allclose(shot.std(), np.sqrt(0.4 / 50), rtol=0.02)
    assert set(np.unique(impulse)) == {0, 0.4, 1}
    np.testing.assert_allclose((impulse != 0.4).mean(), 0.07, atol=4 * np.sqrt(0.07 / 24576))


def test_brightness_is_that_of_hue_saturation_and_value():
    images = photographs(1, 8)
    images[0, 0, 0] = 0
    expected = []
    for pixel in images[0].reshape(-1, 3) / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected.append(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1)))
    found = corrupt(images, "brightness", 5).reshape(-1, 3)
    np.testing.assert_allclose(found, 255 * np.array(expected), atol=0.5 + 1e-6)  # rounding


def test_glass_exchanges_pixels_and_loses_none():
    images = photographs(2, 16)
    found = corrupt(images, "glass_blur", 5)
    assert not np.array_equal(found, images)
    for image, result in zip(images, found, strict=True):
        rows = [array.reshape(-1, 3)[np.lexsort(array.reshape(-1, 3).T)] for array in (image, result)]
        np.testing.assert_array_equal(*rows)


def test_no_images_stay_none():
    assert corrupt(np.zeros((0, 32, 32, 3), np.uint8), "fog", 1).shape == (0, 32, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((photographs(1), "rain", 1), ConfigError, "the corruption must be one of gaussian_noise"),
        ((photographs(1), "fog", 0), ConfigError, "must be a whole number from 1 to 5, got 0"),
        ((photographs(1), "fog", 6), ConfigError, "got 6"),
        ((photographs(1), "fog", 1, -1), ConfigError, "the seed must be a whole number of at least 0, got -1"),
        ((photographs(1)[0], "fog", 1), InputError, r"got uint8 \(32, 32, 3\)"),
        ((photographs(1) / 255, "fog", 1), InputError, "must be uint8"),
        ((photographs(1, 4), "fog", 1), InputError, "at least 8 rows"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        unchecked(corrupt)(*arguments)
