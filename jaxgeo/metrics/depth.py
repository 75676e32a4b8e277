"""Scores of predicted depths, from sums that add up over batches: a test set never needs to be in memory.

`depth_sums` runs on the device and keeps one row for each image, `accumulate` adds rows and batches in float64 on the
host, `depth_scores` turns the total into numbers. A pixel counts where its target is finite (background is infinite,
void is NaN), it is `valid`, and its weight is above 0. With weights all 1 the scores are means over pixels; with the
areas of the pixels they are means over the solid angle, which do not depend on the grid.

Two modes. `correct`: a prediction that is not finite where a pixel counts is an error; inverse depths are compared
where both depths are above 0; ranges without targets have no score (NaN); the median deviation is over the pixels that
count. `faithful`, as published with arXiv:2307.07313: such predictions are left out; depths are inverted before what is
not finite is dropped, so that background counts, with inverse depth 0; a range without targets scores 0; medians are
over all pixels, background too; where no pixel counts, which is else an error, scores are NaN.

References:
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", arXiv:2307.07313.
    Eigen et al., "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network", arXiv:1406.2283.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxgeo.errors import ConfigError, InputError, check_fields, check_one_of, check_one_shape
from jaxgeo.metrics.information import at_least_float32
from jaxgeo.modes import Mode


@dataclasses.dataclass(frozen=True)
class DepthMetricsConfig:
    """What is counted; hashable, so it may be a static argument of `jax.jit`.

    Raises:
        ConfigError: an empty range, a threshold not above 1, a reference that is not finite.
    """

    ranges: tuple[tuple[float, float], ...] = ((0.0, 5.0), (5.0, 10.0), (10.0, 1000.0))  # low <= target < high, metres
    thresholds: tuple[float, ...] = (1.25, 1.25**2, 1.25**3)
    reference: float | None = None  # the constant prediction of relative errors: the mean depth of the data, metres

    def __post_init__(self):
        check_fields(self, ranges=(-math.inf, math.inf))
        for low, high in self.ranges:
            if not low < high:
                raise ConfigError(f"a range of depths is (low, high) with low < high, got ({low}, {high})")
        for threshold in self.thresholds:
            if not threshold > 1:
                raise ConfigError(f"thresholds bound max(p / t, t / p), which is at least 1, got {threshold}")


class DepthSums(NamedTuple):
    """Sums of weights and of weighted terms, one row an image; after `accumulate`, without the axis of images."""

    weight: Float[Array, "*image"]  # of the pixels that count
    prediction: Float[Array, "*image"]
    absolute: Float[Array, "*image"]
    squared: Float[Array, "*image"]
    reference_absolute: Float[Array, "*image"]  # of reference - target
    reference_squared: Float[Array, "*image"]
    range_weight: Float[Array, "*image range"]
    range_squared: Float[Array, "*image range"]
    target_weight: Float[Array, "*image"]  # where the target is above 0
    ratio_absolute: Float[Array, "*image"]  # |p - t| / t
    ratio_squared: Float[Array, "*image"]  # (p - t)^2 / t
    within: Float[Array, "*image threshold"]
    positive_weight: Float[Array, "*image"]  # where the prediction is above 0 as well
    log: Float[Array, "*image"]  # of log p - log t
    log_squared: Float[Array, "*image"]
    inverse_weight: Float[Array, "*image"]
    inverse_squared: Float[Array, "*image"]  # of 1 / p - 1 / t, in 1/km
    published_inverse_weight: Float[Array, "*image"]
    published_inverse_squared: Float[Array, "*image"]
    deviation_weight: Float[Array, "*image"]
    deviation: Float[Array, "*image"]
    median_images: Float[Array, "*image"]
    median: Float[Array, "*image"]  # of an image's deviations
    published_median_images: Float[Array, "*image"]
    published_median: Float[Array, "*image"]
    bad_predictions: Float[Array, "*image"]  # pixels with a target whose prediction or log-variance is not finite
    bad_weights: Float[Array, "*image"]  # valid pixels whose weight is negative or not finite


class DepthScores(NamedTuple):
    """Depths in metres; NaN where nothing counts towards a number. Means are weighted means."""

    mean_squared_error: float  # without the factor 1/2 of the l2 loss
    root_mean_squared_error: float
    mean_absolute_error: float
    ranged_mean_squared_error: tuple[float, ...]  # of the targets in each range
    relative_squared_error: float  # sum (p - t)^2 / sum (reference - t)^2
    relative_absolute_error: float  # sum |p - t| / sum |reference - t|
    squared_relative_difference: float  # mean of (p - t)^2 / t, of targets above 0
    absolute_relative_difference: float  # mean of |p - t| / t, of targets above 0
    threshold_accuracy: tuple[float, ...]  # share of targets above 0 with max(p / t, t / p) < threshold
    inverse_root_mean_squared_error: float  # of 1 / p - 1 / t, in 1/km
    # Variance of log p - log t, where both are above 0. It is the difference of two sums, which float32 rounds by 1e-7
    # of the squared mean.
    scale_invariant_log_error: float
    positive_share: float  # of targets above 0, those with a prediction above 0: what the last two see
    mean_prediction: float
    mean_deviation: float  # of exp(log_variance / 2)
    mean_median_deviation: float  # mean over images of the (lower) median


def depth_sums(
    predictions: Float[Array, "image *pixel"],
    targets: Float[Array, "image *pixel"],
    *,
    config: DepthMetricsConfig | None = None,
    weights: Float[Array, "image *pixel"] | None = None,
    valid: Bool[Array, "image *pixel"] | None = None,
    log_variances: Float[Array, "image *pixel"] | None = None,
) -> DepthSums:
    """The sums of a batch, a row for each image, in the predictions' dtype but float32 at least; for `jax.jit`.

    Args:
        predictions: depths in metres.
        targets: depths in metres, not finite where there is none.
        config: what is counted.
        weights: of the pixels, at least 0: their areas; by default 1.
        valid: where to look at all, e.g. what the camera sees; by default everywhere.
        log_variances: of the predictions, log of square metres, where a network gives them.

    Raises:
        InputError: arrays of several shapes.
    """
    config = DepthMetricsConfig() if config is None else config
    check_one_shape(predictions=predictions, targets=targets, weights=weights, valid=valid, log_variances=log_variances)
    predictions, targets = at_least_float32(predictions), at_least_float32(targets)
    log_variances = None if log_variances is None else at_least_float32(log_variances)
    looked_at = jnp.ones(targets.shape, bool) if valid is None else valid
    w = jnp.ones_like(predictions) if weights is None else weights.astype(predictions.dtype)
    usable = jnp.isfinite(w) & (w >= 0)
    bad_weights = _count(looked_at & ~usable, predictions.dtype)
    w = jnp.where(looked_at & usable, w, 0)

    has_target = (w > 0) & jnp.isfinite(targets)
    counts = has_target & jnp.isfinite(predictions)
    bad = has_target & ~counts
    # Values that do not count are replaced before anything is computed of them, so that no NaN arises at all.
    p, t = jnp.where(counts, predictions, 1), jnp.where(counts, targets, 1)

    def total(mask: Bool[Array, "image *pixel"], terms: Float[Array, "image *pixel"] | None = None):
        return _sum(jnp.where(mask, w, 0) if terms is None else jnp.where(mask, w * jnp.where(mask, terms, 0), 0))

    error = jnp.abs(p - t)
    # Without a reference both sums are 0, and a share of nothing is NaN.
    distance = jnp.abs(t - config.reference) if config.reference is not None else jnp.zeros_like(t)
    in_range = [counts & (low <= t) & (t < high) for low, high in config.ranges]
    has_depth = counts & (t > 0)
    both = has_depth & (p > 0)
    t_positive, p_both, t_both = jnp.where(has_depth, t, 1), jnp.where(both, p, 1), jnp.where(both, t, 1)
    ratio = jnp.maximum(p_both / t_both, t_both / p_both)
    logarithm = jnp.log(p_both) - jnp.log(t_both)
    inverse_mask, inverse = _inverse_error(p_both, t_both, both)
    published_mask, published_inverse = _inverse_error(predictions, targets, w > 0)

    variance_counts = jnp.zeros_like(has_target)
    deviations = medians = published_medians = None
    if log_variances is not None:
        variance_counts = has_target & jnp.isfinite(log_variances)
        bad |= has_target & ~variance_counts
        known = jnp.where(jnp.isfinite(log_variances), log_variances, 0)
        deviations = jnp.exp(known / 2)
        medians = _lower_medians(deviations, jnp.where(variance_counts, w, 0))
        published_medians = _lower_medians(deviations, jnp.isfinite(log_variances).astype(w.dtype))
    none = (jnp.zeros(w.shape[0], w.dtype),) * 2

    return DepthSums(
        weight=total(counts),
        prediction=total(counts, p),
        absolute=total(counts, error),
        squared=total(counts, jnp.square(error)),
        reference_absolute=total(counts, distance),
        reference_squared=total(counts, jnp.square(distance)),
        range_weight=_stacked([total(mask) for mask in in_range], w),
        range_squared=_stacked([total(mask, jnp.square(error)) for mask in in_range], w),
        target_weight=total(has_depth),
        ratio_absolute=total(has_depth, error / t_positive),
        ratio_squared=total(has_depth, jnp.square(error) / t_positive),
        within=_stacked([total(both & (ratio < threshold)) for threshold in config.thresholds], w),
        positive_weight=total(both),
        log=total(both, logarithm),
        log_squared=total(both, jnp.square(logarithm)),
        inverse_weight=total(inverse_mask),
        inverse_squared=total(inverse_mask, jnp.square(inverse)),
        published_inverse_weight=total(published_mask),
        published_inverse_squared=total(published_mask, jnp.square(published_inverse)),
        deviation_weight=total(variance_counts),
        deviation=total(variance_counts, deviations) if deviations is not None else none[0],
        median_images=(medians or none)[0],
        median=(medians or none)[1],
        published_median_images=(published_medians or none)[0],
        published_median=(published_medians or none)[1],
        bad_predictions=_count(bad, w.dtype),
        bad_weights=bad_weights,
    )


def accumulate(batches: Iterable[DepthSums]) -> DepthSums:
    """The sum over images and batches, in float64 on the host; of a single image, give its rows as an axis of one.

    Raises:
        InputError: there is no batch, or batches counted with different ranges or thresholds.
    """
    whole = None
    for batch in batches:
        part = DepthSums(*(np.asarray(rows, np.float64).sum(axis=0) for rows in batch))
        if whole is None:
            whole = part
            continue
        if [x.shape for x in whole] != [x.shape for x in part]:
            raise InputError(
                f"batches add up where they counted the same, got {len(whole.range_weight)} and "
                f"{len(part.range_weight)} ranges, {len(whole.within)} and {len(part.within)} thresholds; use one "
                f"config"
            )
        whole = DepthSums(*(one + other for one, other in zip(whole, part, strict=True)))
    if whole is None:
        raise InputError("scores of depths need at least one batch, got none")
    return whole


def depth_scores(sums: DepthSums, mode: Mode = "correct") -> DepthScores:
    """Every score of the accumulated sums, as Python floats.

    Raises:
        InputError: sums that are not accumulated, weights that are negative or not finite, and in `correct` mode no
            pixel that counts, or predictions that are not finite.
        ConfigError: unknown mode.
    """
    _check(sums, mode)
    faithful = mode == "faithful"
    inverse = (
        (sums.published_inverse_squared, sums.published_inverse_weight)
        if faithful
        else (sums.inverse_squared, sums.inverse_weight)
    )
    median = (sums.published_median, sums.published_median_images) if faithful else (sums.median, sums.median_images)
    mean_squared = _share(sums.squared, sums.weight)
    return DepthScores(
        mean_squared_error=mean_squared,
        root_mean_squared_error=math.sqrt(mean_squared),
        mean_absolute_error=_share(sums.absolute, sums.weight),
        ranged_mean_squared_error=tuple(
            _share(part, whole, 0.0 if faithful else math.nan)
            for part, whole in zip(sums.range_squared, sums.range_weight, strict=True)
        ),
        relative_squared_error=_share(sums.squared, sums.reference_squared),
        relative_absolute_error=_share(sums.absolute, sums.reference_absolute),
        squared_relative_difference=_share(sums.ratio_squared, sums.target_weight),
        absolute_relative_difference=_share(sums.ratio_absolute, sums.target_weight),
        threshold_accuracy=tuple(_share(part, sums.target_weight) for part in sums.within),
        inverse_root_mean_squared_error=math.sqrt(_share(*inverse)),
        scale_invariant_log_error=_variance(sums.log, sums.log_squared, sums.positive_weight),
        positive_share=_share(sums.positive_weight, sums.target_weight),
        mean_prediction=_share(sums.prediction, sums.weight),
        mean_deviation=_share(sums.deviation, sums.deviation_weight),
        mean_median_deviation=_share(*median),
    )


def _inverse_error(
    predictions: Float[Array, "image *pixel"], targets: Float[Array, "image *pixel"], mask: Bool[Array, "image *pixel"]
) -> tuple[Bool[Array, "image *pixel"], Float[Array, "image *pixel"]]:
    """Where both inverses are finite (they are of infinite depths), and their difference there, in 1/km."""

    def inverse(depths):
        usable = mask & ~jnp.isnan(depths) & (depths != 0)
        inverted = 1000 / jnp.where(usable, depths, 1)
        finite = usable & jnp.isfinite(inverted)
        return finite, jnp.where(finite, inverted, 0)

    (first, inverse_prediction), (second, inverse_target) = inverse(predictions), inverse(targets)
    return first & second, inverse_prediction - inverse_target


def _lower_medians(
    values: Float[Array, "image *pixel"], weights: Float[Array, "image *pixel"]
) -> tuple[Float[Array, " image"], Float[Array, " image"]]:
    """(1, the smallest value with at least half of an image's weight at or below it), or (0, 0) without weight."""
    values, weights = (x.reshape(x.shape[0], -1) for x in (values, weights))
    order = jnp.argsort(jnp.where(weights > 0, values, jnp.inf), axis=1)
    below = jnp.cumsum(jnp.take_along_axis(weights, order, axis=1), axis=1)
    middle = jnp.argmax(below >= below[:, -1:] / 2, axis=1)
    found = jnp.take_along_axis(jnp.take_along_axis(values, order, axis=1), middle[:, None], axis=1)[:, 0]
    exists = below[:, -1] > 0
    return exists.astype(values.dtype), jnp.where(exists, found, 0)


def _sum(terms: Float[Array, "image *pixel"]) -> Float[Array, " image"]:
    return jnp.sum(terms, axis=tuple(range(1, terms.ndim)))


def _count(mask: Bool[Array, "image *pixel"], dtype: jnp.dtype) -> Float[Array, " image"]:
    return _sum(mask.astype(dtype))


def _stacked(columns: list[jax.Array], like: Float[Array, "image *pixel"]) -> Float[Array, "image column"]:
    return jnp.stack(columns, axis=-1) if columns else jnp.zeros((like.shape[0], 0), like.dtype)


def _share(part: float | Array, whole: float | Array, otherwise: float = math.nan) -> float:
    return float(part / whole) if whole > 0 else otherwise


def _variance(total: float | Array, squares: float | Array, weight: float | Array) -> float:
    if not weight > 0:
        return math.nan
    # Rounding in the batches' sums may leave a variance of zero a little below it.
    return max(float(squares / weight - (total / weight) ** 2), 0.0)


def _check(sums: DepthSums, mode: str) -> None:
    check_one_of("mode", mode, Mode)
    if np.ndim(sums.weight):
        raise InputError(
            f"scores are of accumulated sums, got rows of {np.shape(sums.weight)[0]} images; call accumulate([sums])"
        )
    if sums.bad_weights > 0:
        raise InputError(f"weights must be finite and at least 0, got {int(sums.bad_weights)} others at valid pixels")
    if mode == "correct" and sums.bad_predictions > 0:
        raise InputError(
            f"predictions and log-variances must be finite where the target is, got {int(sums.bad_predictions)} pixels "
            f"with others; clip them, leave them out by `valid`, or drop them as published by mode='faithful'"
        )
    if mode == "correct" and not sums.weight > 0:
        raise InputError(
            "scores need a pixel that counts, got none: one that is valid, of weight above 0, with a finite target and "
            "prediction"
        )
