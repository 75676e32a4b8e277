"""Every metric of one predictive with its errors, in one call."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxgeo.metrics import calibration
from jaxgeo.metrics.agreement import same_top_class, variation_distance
from jaxgeo.metrics.checks import (
    NORMALISATION_TOLERANCE,
    check_groups,
    check_labels,
    check_log_probs,
    check_same_images,
)
from jaxgeo.metrics.information import entropy, kl_divergence
from jaxgeo.metrics.predictive import Predictive, leave_one_out, summarize
from jaxgeo.metrics.scores import is_correct, squared_error, surprisal
from jaxgeo.metrics.standard_error import Measure, image_standard_error, jackknife_error
from jaxgeo.metrics.uncertainty import mutual_information


@dataclasses.dataclass(frozen=True)
class Scorecard:
    """Measures by name; `scorecard["accuracy"].value`.

    Names: accuracy, negative_log_likelihood, brier, calibration_error_equal_width, calibration_error_equal_mass,
    predictive_entropy, expected_entropy, mutual_information; and against a reference agreement, total_variation,
    divergence_from_reference.
    """

    measures: Mapping[str, Measure]
    num_draws: int
    num_groups: int
    num_images: int

    def __getitem__(self, name: str) -> Measure:
        """The measure of that name."""
        return self.measures[name]

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Name -> value, standard_error, image_standard_error; floats, and None where an error is unknown.

        A value or error may be infinite (a label that was thought impossible), which strict JSON does not have.
        """
        return {name: measure.to_dict() for name, measure in self.measures.items()}


def _per_image(
    predictive: Predictive, labels: Integer[Array, "*batch"], reference: Predictive | None
) -> dict[str, Float[Array, "*batch"]]:
    """Everything that is a mean over images, before the mean."""
    log_p = predictive.log_mean
    total = entropy(log_p)
    values = {
        "accuracy": is_correct(log_p, labels),
        "negative_log_likelihood": surprisal(log_p, labels),
        "brier": squared_error(log_p, labels),
        "predictive_entropy": total,
        "expected_entropy": predictive.expected_entropy,
        "mutual_information": total - predictive.expected_entropy,
    }
    return values if reference is None else values | _distances(log_p, reference.log_mean)


def _distances(
    log_p: Float[Array, "*batch class"], reference: Float[Array, "*batch class"]
) -> dict[str, Float[Array, "*batch"]]:
    return {
        "agreement": same_top_class(log_p, reference),
        "total_variation": variation_distance(log_p, reference),
        "divergence_from_reference": kl_divergence(reference, log_p),
    }


def _calibration(
    log_p: Float[Array, "*batch class"], labels: Integer[Array, "*batch"], num_bins: int
) -> dict[str, Float[Array, ""]]:
    confidence, correct = calibration.top_class(log_p, labels)
    return {
        f"calibration_error_{binning}": calibration.binned_calibration_error(confidence, correct, num_bins, binning)
        for binning in ("equal_width", "equal_mass")
    }


@functools.partial(jax.jit, static_argnames=("groups", "reference_groups", "num_bins"))
def estimate(
    log_probs: Float[Array, "draw *batch class"],
    labels: Integer[Array, "*batch"],
    reference_log_probs: Float[Array, "reference_draw *batch class"] | None,
    *,
    groups: int,
    reference_groups: int,
    num_bins: int,
) -> dict[str, tuple[Float[Array, ""], Float[Array, ""] | None, Float[Array, ""] | None]]:
    """The numbers of `score` as arrays: (value, standard error, error of the images) by name; nothing is checked."""
    predictive = summarize(log_probs)
    reference = None if reference_log_probs is None else summarize(reference_log_probs)
    per_image = _per_image(predictive, labels, reference)
    per_image["mutual_information"] = mutual_information(log_probs)
    calibrations = _calibration(predictive.log_mean, labels, num_bins)
    values = {name: jnp.mean(x) for name, x in per_image.items()} | calibrations

    errors = dict.fromkeys(values)
    if groups > 1:

        def everything(without: Predictive) -> dict[str, Float[Array, ""]]:
            means = {name: jnp.mean(x) for name, x in _per_image(without, labels, reference).items()}
            return means | _calibration(without.log_mean, labels, num_bins)

        left_out = jax.vmap(everything)(leave_one_out(log_probs, groups))
        errors |= {name: jackknife_error(x) for name, x in left_out.items()}
    if reference_log_probs is not None and reference_groups > 1:
        without = leave_one_out(reference_log_probs, reference_groups).log_mean
        distances = jax.vmap(lambda log_q: _means(_distances(predictive.log_mean, log_q)))(without)
        for name, x in distances.items():
            own = errors[name]
            errors[name] = jackknife_error(x) if own is None else jnp.hypot(own, jackknife_error(x))

    image_errors = dict.fromkeys(values)
    if labels.size > 1:
        image_errors |= {name: image_standard_error(x) for name, x in per_image.items()}
        confidence, correct = calibration.top_class(predictive.log_mean, labels)
        for binning in ("equal_width", "equal_mass"):
            left_out = calibration.leave_one_image_out(confidence, correct, num_bins, binning)
            image_errors[f"calibration_error_{binning}"] = jackknife_error(left_out)
    return {name: (values[name], errors[name], image_errors[name]) for name in values}


def _means(values: dict[str, Float[Array, "*batch"]]) -> dict[str, Float[Array, ""]]:
    return {name: jnp.mean(x) for name, x in values.items()}


def score(
    log_probs: Float[Array, "draw *batch class"],
    labels: Integer[Array, "*labelled"],
    reference_log_probs: Float[Array, "reference_draw *reference_batch reference_class"] | None = None,
    *,
    groups: int | None = None,
    reference_groups: int | None = None,
    num_bins: int = 15,
    tolerance: float = NORMALISATION_TOLERANCE,
) -> Scorecard:
    """Scores, calibration and uncertainty of a predictive, and its distance from a reference where one is given.

    The standard error of a distance has the Monte Carlo errors of the method and of the reference in quadrature.

    Args:
        log_probs: log-softmax outputs, one slice per draw.
        labels: class of each image.
        reference_log_probs: the reference's draws on the same images, chain after chain.
        groups: equal groups of consecutive draws that belong together: the members of an MC-dropout ensemble, the
            chains (or blocks) of a Markov chain; None for independent draws.
        reference_groups: the same for the reference.
        num_bins: bins of the calibration errors.
        tolerance: allowed deviation of a row's total probability from 1.

    Raises:
        InputError: NaN, rows that are not normalised, no draws, labels out of range, shapes that do not match.
    """
    check_log_probs(log_probs, tolerance=tolerance)
    check_labels(labels, log_probs)
    num_groups, num_reference_groups = check_groups(log_probs.shape[0], groups), 1
    if reference_log_probs is not None:
        check_log_probs(reference_log_probs, tolerance=tolerance, name="reference_log_probs")
        check_same_images(log_probs, reference_log_probs)
        num_reference_groups = check_groups(reference_log_probs.shape[0], reference_groups)
    numbers = estimate(
        log_probs,
        labels,
        reference_log_probs,
        groups=num_groups,
        reference_groups=num_reference_groups,
        num_bins=num_bins,
    )
    measures = {
        name: Measure(float(value), *(None if error is None else float(error) for error in errors))
        for name, (value, *errors) in jax.device_get(numbers).items()
    }
    return Scorecard(measures, log_probs.shape[0], num_groups, labels.size)
