"""Depth scores against their definitions in NumPy, by hand, under splitting into batches, and in both modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from unchecked import without_type_checks

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics.depth import DepthMetricsConfig, accumulate, depth_scores, depth_sums

CONFIG = DepthMetricsConfig(ranges=((0.0, 4.0), (4.0, 9.0), (500.0, 600.0)), reference=6.0)
# Optimised for its compilation, which is most of the time.
compiled = jax.jit(depth_sums, static_argnames="config", compiler_options={"xla_backend_optimization_level": 0})


def maps(seed, images=4, pixels=(5, 6)):
    """(predictions, targets with background and void, weights, valid, log-variances)"""
    rng = np.random.default_rng(seed)
    shape = (images, *pixels)
    targets = rng.gamma(2.0, 3.0, shape) + 0.2
    targets[rng.random(shape) < 0.15] = np.inf
    targets[rng.random(shape) < 0.1] = np.nan
    predictions = np.where(np.isfinite(targets), targets, 5.0) * rng.lognormal(0.0, 0.5, shape)
    return predictions, targets, rng.uniform(0.1, 2, shape), rng.random(shape) < 0.8, rng.normal(size=shape)


def scores_of(predictions, targets, mode="correct", config=CONFIG, **options):
    with jax.enable_x64(True):
        return depth_scores(accumulate([compiled(predictions, targets, config=config, **options)]), mode)


def by_definition(p, t, w, config):
    mean = lambda terms: np.average(terms, weights=w)  # noqa: E731
    ratio = np.maximum(p / t, t / p)
    log = np.log(p / t)
    ranges = [(low <= t) & (t < high) for low, high in config.ranges]
    return {
        "mean_squared_error": mean_squared_error(t, p, sample_weight=w),
        "root_mean_squared_error": np.sqrt(mean_squared_error(t, p, sample_weight=w)),
        "mean_absolute_error": mean_absolute_error(t, p, sample_weight=w),
        "ranged_mean_squared_error": [
            np.average((p - t)[mask] ** 2, weights=w[mask]) if mask.any() else np.nan for mask in ranges
        ],
        "relative_squared_error": (w * (p - t) ** 2).sum() / (w * (config.reference - t) ** 2).sum(),
        "relative_absolute_error": (w * abs(p - t)).sum() / (w * abs(config.reference - t)).sum(),
        "squared_relative_difference": mean((p - t) ** 2 / t),
        "absolute_relative_difference": mean(abs(p - t) / t),
        "threshold_accuracy": [mean(ratio < threshold) for threshold in config.thresholds],
        "inverse_root_mean_squared_error": np.sqrt(mean((1 / (p / 1000) - 1 / (t / 1000)) ** 2)),
        "scale_invariant_log_error": mean((log - mean(log)) ** 2),
        "positive_share": 1.0,
        "mean_prediction": mean(p),
    }


@given(seed=st.integers(0, 2**31 - 1), weighted=st.booleans(), masked=st.booleans())
@settings(max_examples=12)
def test_scores_are_those_of_the_definitions(seed, weighted, masked):
    p, t, w, valid, log_variances = maps(seed)
    options = {"weights": w} if weighted else {}
    if masked:
        options["valid"] = valid
        p = np.where(valid, p, np.nan)  # not looked at
    found = scores_of(p, t, log_variances=log_variances, **options)._asdict()
    counts = np.isfinite(t) & (valid | (not masked))
    expected = by_definition(p[counts], t[counts], w[counts] if weighted else np.ones(counts.sum()), CONFIG)
    deviations = np.exp(log_variances / 2)
    expected["mean_deviation"] = np.average(deviations[counts], weights=w[counts] if weighted else None)
    if not weighted:  # NumPy's lower median
        medians = [np.quantile(d[c], 0.5, method="inverted_cdf") for d, c in zip(deviations, counts, strict=True)]
        expected["mean_median_deviation"] = np.mean(medians)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-11, err_msg=name)  # float64; the variance cancels


@given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0.01, 100.0))
@settings(max_examples=5)
def test_log_error_does_not_see_a_scale_and_no_score_sees_the_unit_of_the_weights(seed, scale):
    p, t, w, _, _ = maps(seed)
    scores = scores_of(p, t, weights=w)
    scaled = scores_of(scale * p, t, weights=w)
    # float64, a difference of squares of up to log(100)
    np.testing.assert_allclose(scaled.scale_invariant_log_error, scores.scale_invariant_log_error, atol=1e-12)
    heavier = scores_of(p, t, weights=4 * w)
    for one, other in zip(scores, heavier, strict=True):
        np.testing.assert_array_equal(one, other)  # a power of two rounds nothing


def test_mean_of_the_targets_as_reference_gives_one_minus_the_coefficient_of_determination():
    p, t, w, _, _ = maps(3)
    counts = np.isfinite(t)
    mean = float(np.average(t[counts], weights=w[counts]))
    scores = scores_of(p, t, weights=w, config=DepthMetricsConfig(reference=mean))
    expected = 1 - r2_score(t[counts], p[counts], sample_weight=w[counts])
    np.testing.assert_allclose(scores.relative_squared_error, expected, rtol=1e-12)  # float64


def test_a_pixel_of_twice_the_area_counts_as_two_pixels():
    p, t = np.array([[1.0, 2.0, 4.0]]), np.array([[2.0, 2.5, 3.0]])
    areas = scores_of(p, t, weights=np.array([[2.0, 1.0, 3.0]]), log_variances=np.log(p))
    columns = np.array([0, 0, 1, 2, 2, 2])
    pixels = scores_of(p[:, columns], t[:, columns], log_variances=np.log(p[:, columns]))
    for name, one, other in zip(areas._fields, areas, pixels, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14, err_msg=name)  # float64


def test_batches_of_any_split_add_up_to_the_whole():
    p, t, w, valid, log_variances = maps(5, images=6)
    options = {"weights": w, "valid": valid, "log_variances": log_variances}
    cast = lambda x: x if x.dtype == bool else x.astype(np.float32)  # noqa: E731

    def sums(rows):
        return compiled(cast(p[rows]), cast(t[rows]), config=CONFIG, **{k: cast(v[rows]) for k, v in options.items()})

    whole = accumulate([sums(slice(None))])
    parts = accumulate(sums(rows) for rows in (slice(0, 2), slice(2, 4), slice(4, 6)))
    assert all(x.dtype == np.float64 for x in whole)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)  # rows in float32, whose order of summation may differ
    single = depth_scores(accumulate([jax.tree.map(lambda x: x[1:2], sums(slice(None)))]))
    alone = scores_of(p[1:2], t[1:2], **{k: v[1:2] for k, v in options.items()})
    np.testing.assert_allclose(single.mean_squared_error, alone.mean_squared_error, rtol=1e-5)  # float32


def test_small_case_by_hand():
    scores = scores_of(
        np.array([[2.0, 1.0, -1.0, 8.0]]),
        np.array([[1.0, 1.0, 4.0, np.inf]]),
        config=DepthMetricsConfig(ranges=((0.0, 2.0), (-np.inf, np.inf)), thresholds=(1.5, 2.0, 2.5)),
    )
    assert scores.mean_squared_error == 26 / 3
    assert scores.mean_absolute_error == 2
    assert scores.ranged_mean_squared_error == (1 / 2, 26 / 3)
    assert scores.absolute_relative_difference == (1 + 5 / 4) / 3
    assert scores.squared_relative_difference == (1 + 25 / 4) / 3
    # A ratio of 2 is not below 2, and a prediction behind the camera is within no threshold.
    assert scores.threshold_accuracy == (1 / 3, 1 / 3, 2 / 3)
    # 1/p - 1/t = -500 and 0 per km, where both are above 0; so the logarithms log 2 and 0.
    assert scores.inverse_root_mean_squared_error == pytest.approx(500 / np.sqrt(2))
    assert scores.scale_invariant_log_error == pytest.approx(np.log(2) ** 2 / 4)
    assert scores.positive_share == 2 / 3
    assert np.isnan([scores.relative_squared_error, scores.relative_absolute_error]).all()  # no reference
    assert np.isnan([scores.mean_deviation, scores.mean_median_deviation]).all()  # no variances


def test_published_inverse_error_counts_the_background_and_the_correct_one_does_not():
    p, t = np.array([[10.0, 20.0, 50.0]]), np.array([[10.0, 20.0, np.inf]])
    assert scores_of(p, t).inverse_root_mean_squared_error == 0
    published = scores_of(p, t, "faithful")
    assert published.inverse_root_mean_squared_error == pytest.approx(20 / np.sqrt(3))  # 1 / 50 m = 20 / km
    assert published.mean_squared_error == 0
    # Void and what is masked count in neither.
    valid = np.array([[True, True, False]])
    assert scores_of(p, t, "faithful", valid=valid).inverse_root_mean_squared_error == 0
    assert scores_of(p, np.where(valid, t, np.nan), "faithful").inverse_root_mean_squared_error == 0


def test_the_published_scores_of_background_alone_are_those_that_count_it():
    p, t = np.array([[10.0, 20.0]]), np.full((1, 2), np.inf)
    published = scores_of(p, t, "faithful", log_variances=2 * np.log(np.array([[3.0, 5.0]])))
    assert published.inverse_root_mean_squared_error == pytest.approx(np.sqrt((100**2 + 50**2) / 2))  # 1 / km
    assert published.mean_median_deviation == pytest.approx(3)
    assert published.ranged_mean_squared_error == (0, 0, 0)
    assert np.isnan([published.mean_squared_error, published.scale_invariant_log_error, published.mean_deviation]).all()


def test_modes_differ_in_empty_ranges_and_in_whose_median_is_taken():
    p, t = np.ones((2, 5)), np.array([[2.0, 2.0, np.inf, np.inf, np.inf], [2.0, 2.0, 2.0, 2.0, np.nan]])
    log_variances = 2 * np.log(np.array([[3.0, 5.0, 7.0, 8.0, 9.0], [4.0, 3.0, 2.0, 1.0, 0.5]]))
    correct = scores_of(p, t, log_variances=log_variances)
    published = scores_of(p, t, "faithful", log_variances=log_variances)
    assert np.isnan(correct.ranged_mean_squared_error[1:]).all()
    assert published.ranged_mean_squared_error == (1, 0, 0)
    # The lower of the two in the middle: 3 of (3, 5) and 2 of (1, 2, 3, 4); of all five, 7 and 2.
    assert correct.mean_median_deviation == pytest.approx(2.5)
    assert published.mean_median_deviation == pytest.approx(4.5)


def test_predictions_that_are_not_finite_are_an_error_or_left_out_by_mode():
    p, t = np.array([[1.0, np.nan, np.inf, 3.0]]), np.array([[2.0, 2.0, 2.0, np.inf]])
    with pytest.raises(InputError, match="got 2 pixels with others; clip them, leave them out by `valid`"):
        scores_of(p, t)
    assert scores_of(p, t, "faithful").mean_squared_error == 1
    assert scores_of(p, t, valid=np.isfinite(p)).mean_squared_error == 1
    assert scores_of(p, t, weights=np.array([[1.0, 0.0, 0.0, 1.0]])).mean_squared_error == 1
    with pytest.raises(InputError, match="got 1 pixels"):
        scores_of(np.ones((1, 2)), np.ones((1, 2)), log_variances=np.array([[0.0, np.inf]]))


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_impossible_weights_are_refused(weight):
    p = np.ones((1, 3))
    with pytest.raises(InputError, match="finite and at least 0, got 1 others"):
        scores_of(p, p, weights=np.array([[1.0, weight, 1.0]]))
    assert scores_of(p, p, weights=np.array([[1.0, weight, 1.0]]), valid=np.array([[True, False, True]]))


def test_enormous_and_tiny_depths_make_no_nan_on_the_way_and_nothing_need_be_ranged():
    # NaN debugging is on: an infinity minus an infinity anywhere would raise.
    p = np.array([[1e-38, 1e-45, 3e38, 1.0]], np.float32)
    sums = compiled(p, p[:, ::-1].copy(), config=DepthMetricsConfig(ranges=(), thresholds=()))
    scores = depth_scores(accumulate([sums]))
    assert scores.ranged_mean_squared_error == scores.threshold_accuracy == ()
    assert scores.mean_squared_error > 0


def test_sums_that_do_not_fit_are_refused():
    p = jnp.ones((2, 3))
    sums = depth_sums(p, p)
    with pytest.raises(InputError, match=r"rows of 2 images; call accumulate"):
        depth_scores(sums)
    with pytest.raises(InputError, match="at least one batch"):
        accumulate([])
    with pytest.raises(InputError, match="3 and 0 ranges, 3 and 3 thresholds; use one config"):
        accumulate([sums, depth_sums(p, p, config=DepthMetricsConfig(ranges=()))])
    with pytest.raises(InputError, match="a pixel that counts, got none"):
        depth_scores(accumulate([depth_sums(p, jnp.full((2, 3), jnp.inf))]))
    with without_type_checks(), pytest.raises(ConfigError, match="correct, faithful, got 'other'"):
        depth_scores(accumulate([sums]), "other")


@pytest.mark.parametrize("name", ["targets", "weights", "valid", "log_variances"])
def test_maps_that_would_be_broadcast_are_refused(name):
    maps = dict(targets=jnp.ones((1, 5)), weights=jnp.ones((1, 5)), valid=jnp.ones((1, 5), bool))
    maps |= {name: jnp.ones((1, 5, 1), bool if name == "valid" else float)}
    said = rf"got {name} of shape \(1, 5, 1\) for predictions of shape \(1, 5\)"
    with without_type_checks(), pytest.raises(InputError, match=said):
        depth_sums(jnp.ones((1, 5)), **maps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranges": ((5.0, 5.0),)}, r"low < high, got \(5.0, 5.0\)"),
        ({"thresholds": (1.0,)}, "at least 1, got 1.0"),
        ({"reference": float("inf")}, "reference must be a finite number or None, got inf"),
    ],
)
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DepthMetricsConfig(**options)
