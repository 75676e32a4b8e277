"""Scaling and its inverse undo each other, what is no depth counts nowhere, statistics of parts are those of all."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unchecked import unchecked

from jaxgeo.data import depth_scaling
from jaxgeo.data.depth_scaling import DepthScaling, DepthStatistics, depth_statistics, scale_depths, unscale_depths
from jaxgeo.errors import ConfigError, InputError

TRANSFORMS, NORMALISATIONS = ("none", "log", "inverse"), ("none", "standardise", "min_max")
KINDS = list(itertools.product(TRANSFORMS, NORMALISATIONS, ("correct", "faithful")))


def scaling_of(transform, normalisation, mode="correct", **options):
    statistics = depth_scaling.published_statistics(transform, masked=True)
    return DepthScaling(transform, normalisation, statistics, mode=mode, **options)


@pytest.mark.parametrize(("transform", "normalisation", "mode"), KINDS)
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_depths_come_back(transform, normalisation, mode, array):
    scaling = scaling_of(transform, normalisation, mode)
    depths = array(np.geomspace(0.01, 999, 60).astype(np.float32).reshape(3, 20))
    scaled = scale_depths(scaling, depths)
    back = unscale_depths(scaling, scaled)
    assert type(scaled) is type(depths) is type(back)
    assert scaled.dtype == back.dtype == np.float32
    # float32 keeps 2^-24 of the largest scaled number: a tenth of 999 m inverted against 100 / m is the worst.
    worst = {"none": 1e-4, "log": 1e-5 * 999, "inverse": 999**2 * 100 * 2.0**-23}[transform]
    np.testing.assert_allclose(back, depths, rtol=1e-5, atol=worst)
    with jax.enable_x64(True):
        exact = np.geomspace(0.01, 999, 60)
        np.testing.assert_allclose(unscale_depths(scaling, scale_depths(scaling, exact)), exact, rtol=1e-10)  # float64


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_standardised_depths_have_mean_0_and_deviation_1_and_min_max_ends_at_0_and_1(transform):
    depths = np.random.default_rng(0).gamma(2.0, 5.0, 500) + 0.1
    statistics = depth_statistics([depths], transform)
    standardised = scale_depths(DepthScaling(transform, "standardise", statistics), depths)
    np.testing.assert_allclose([standardised.mean(), standardised.std()], [0, 1], atol=1e-12)  # float64
    between = scale_depths(DepthScaling(transform, "min_max", statistics), depths)
    np.testing.assert_allclose([between.min(), between.max()], [0, 1], atol=1e-14)


NO_DEPTHS = np.array([np.inf, np.nan, 0.0, -0.0, -3.0, -np.inf])


@pytest.mark.parametrize(("transform", "normalisation"), list(itertools.product(TRANSFORMS, NORMALISATIONS)))
def test_what_is_no_depth_counts_nowhere_and_background_comes_back_as_background(transform, normalisation):
    scaling = scaling_of(transform, normalisation, limit=80.0)
    scaled = scale_depths(scaling, NO_DEPTHS)
    assert np.isposinf(scaled).all()
    assert np.isposinf(unscale_depths(scaling, scaled)).all()
    compiled = jax.jit(lambda depths: scale_depths(scaling, depths))(NO_DEPTHS.astype(np.float32))
    assert np.isposinf(compiled).all()


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_are_at_most_the_limit_and_not_a_number_stays_so(transform, dtype):
    scaling = DepthScaling(transform, limit=80.0)
    values = np.array([-1e30, -1.0, 0.0, 1e-39, 1e-3, 0.5, 3.0, 200.0, 1e30], dtype)
    depths = unscale_depths(scaling, values)
    assert depths.dtype == dtype
    assert np.isfinite(depths).all()
    assert depths.max() == 80
    if transform == "inverse":
        np.testing.assert_allclose(depths[:7], [80] * 5 + [2, 1 / 3], rtol=1e-6)  # float32
    free = unscale_depths(DepthScaling(transform), values)
    assert np.isfinite(free).all() == (transform == "none")
    assert np.isnan(unscale_depths(scaling, np.array([np.nan], dtype))).all()


def test_published_inverse_takes_background_for_zero_and_millimetres_for_background():
    scaling = DepthScaling("inverse", mode="faithful")
    depths = np.array([np.inf, 0.0, 5e-4, -1.0, 1e-3, 2.0, 2000.0])
    scaled = scale_depths(scaling, depths)
    np.testing.assert_allclose(scaled, [0, np.inf, np.inf, np.inf, 1000, 0.5, 5e-4])
    np.testing.assert_allclose(unscale_depths(scaling, scaled), [np.inf, 0, 0, 0, 1e-3, 2, np.inf])
    logarithms = scale_depths(DepthScaling("log", mode="faithful"), np.array([0.0, -1.0, np.inf, 1.0]))
    np.testing.assert_array_equal(logarithms, [-np.inf, np.nan, np.inf, 0])


@pytest.mark.parametrize("transform", TRANSFORMS)
@given(seed=st.integers(0, 2**31 - 1), parts=st.integers(1, 6))
@settings(max_examples=10)
def test_statistics_of_streamed_maps_are_those_of_all_their_depths(transform, seed, parts):
    rng = np.random.default_rng(seed)
    maps = [rng.gamma(2.0, 10.0, (3, 7)).astype(np.float32) + 0.1 for _ in range(parts)]
    maps.append(np.full((2, 2), np.inf))  # nothing but background
    for one in maps:
        one[0, 0], one[1, 1] = np.inf, np.nan
    found = depth_statistics(iter(maps), transform)
    depths = np.concatenate([one[np.isfinite(one)] for one in maps]).astype(np.float64)
    values = {"none": depths, "log": np.log(depths), "inverse": 1 / depths}[transform]
    expected = [values.min(), values.max(), values.mean(), values.std()]
    np.testing.assert_allclose(
        [found.minimum, found.maximum, found.mean, found.deviation],
        expected,
        rtol=1e-12,  # float64
    )


def test_variance_survives_a_large_mean():
    # The mean of the squares less the square of the mean would keep no digit of this deviation.
    depths = 1e8 + np.arange(4.0)
    assert depth_statistics([depths[:2], depths[2:]]).deviation == pytest.approx(np.sqrt(1.25), rel=1e-12)


def test_background_is_marked_before_it_is_counted():
    depths = np.array([1.0, 1000.0, 3.0], np.float32)
    masked = depth_scaling.mask_background(depths)
    np.testing.assert_array_equal(masked, [1, np.inf, 3])
    assert masked.dtype == np.float32
    assert depth_statistics([masked]).maximum == 3
    assert depth_statistics([depths]).maximum == 1000
    with pytest.raises(InputError, match="finite depth, got none"):
        depth_statistics([np.array([np.inf, np.nan])])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalisation": "min_max"}, r"'min_max' needs the statistics.*depth_statistics\(maps, 'none'\)"),
        ({"normalisation": "standardise", "statistics": DepthStatistics(1.0, 1.0, 1.0, 0.0)}, "equal values"),
        ({"limit": 0.0}, "above 0, got 0.0"),
        ({"limit": float("nan")}, "limit must be a number of at least 0, got nan"),
    ],
)
def test_impossible_scalings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DepthScaling(**options)


def test_unknown_names_and_impossible_statistics_are_refused():
    for name in ("transform", "normalisation", "mode"):
        with pytest.raises((ConfigError, TypeError)):  # the type checker may refuse first
            DepthScaling(**{name: "other"})
    with pytest.raises(ConfigError, match="none, log, inverse, got 'other'"):
        unchecked(depth_scaling.published_statistics)("other", False)
    with pytest.raises(ConfigError, match="minimum <= mean <= maximum"):
        DepthStatistics(2.0, 1.0, 1.5, 0.1)
    with pytest.raises(ConfigError, match="finite"):
        DepthStatistics(0.0, float("inf"), 1.0, 0.1)
    with pytest.raises(ConfigError, match="at least 0, got -1"):
        DepthStatistics(0.0, 1.0, 1.0, -1.0)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_small_deviations_come_back_by_the_slope_of_the_inverse(transform, normalisation):
    scaling, depths = scaling_of(transform, normalisation), np.geomspace(0.2, 50, 9)
    scaled, step = scale_depths(scaling, depths), 1e-5
    sides = [unscale_depths(scaling, scaled * (1 + side * step)) for side in (1, -1)]
    slope = np.abs(sides[0] - sides[1]) / (2 * step * np.abs(scaled))
    found = depth_scaling.unscale_log_variances(scaling, np.full(9, -3.0), depths)
    # Central differences: squares of relative steps of inverse depths, up to 5e-4, and rounding of 1e-16 / 1e-5.
    np.testing.assert_allclose(np.exp(found / 2), np.exp(-1.5) * slope, rtol=1e-5)
    published = scaling_of(transform, normalisation, "faithful")
    assert (depth_scaling.unscale_log_variances(published, np.full(9, -3.0), depths) == -3).all()


def test_no_depth_has_no_deviation():
    found = depth_scaling.unscale_log_variances(scaling_of("log", "none"), np.zeros(3), np.array([np.inf, 0.0, 1.0]))
    np.testing.assert_array_equal(found, [np.inf, np.inf, 0])
