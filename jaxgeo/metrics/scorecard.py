"""Every metric of one predictive with its errors, in one call."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxgeo.errors import check_one_of
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
from jaxgeo.metrics.standard_error import FEWEST_FOR_INFORMATION, Measure, image_standard_error, jackknife_error
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
        """The measure of that name.

        Raises:
            ConfigError: there is none; distances are there where a reference was given.
        """
        check_one_of("a measure of this scorecard", name, self.measures)
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


@functools.partial(jax.jit, static_argnames=("num_bins",))
def _values(
    predictive: Predictive, labels: Integer[Array, "*batch"], reference: Predictive | None, num_bins: int
) -> dict[str, Float[Array, ""]]:
    """Every metric of one predictive."""
    means = {name: jnp.mean(x) for name, x in _per_image(predictive, labels, reference).items()}
    return means | _calibration(predictive.log_mean, labels, num_bins)


@functools.partial(jax.jit, static_argnames=("num_bins",))
def _image_errors(
    predictive: Predictive, labels: Integer[Array, "*batch"], reference: Predictive | None, num_bins: int
) -> dict[str, Float[Array, ""]]:
    """The error that a finite number of test images leaves in every metric."""
    errors = {name: image_standard_error(x) for name, x in _per_image(predictive, labels, reference).items()}
    confidence, correct = calibration.top_class(predictive.log_mean, labels)
    for binning in ("equal_width", "equal_mass"):
        left_out = calibration.leave_one_image_out(confidence, correct, num_bins, binning)
        errors[f"calibration_error_{binning}"] = jackknife_error(left_out)
    return errors


_summarize = jax.jit(summarize)
_mutual_information = jax.jit(mutual_information)
_distance_means = jax.jit(lambda log_p, log_q: {name: jnp.mean(x) for name, x in _distances(log_p, log_q).items()})


def _jackknifed(function: Callable[[Predictive], dict[str, Array]], left_out: Predictive) -> dict[str, Array]:
    # Group after group through a function of one predictive: it is compiled once for all methods, whatever their
    # number of draws. Compiling it anew for each number of groups took most of a scorecard's time.
    host = jax.device_get(left_out)
    rows = [function(jax.tree.map(lambda x, g=g: x[g], host)) for g in range(host.log_mean.shape[0])]
    return {name: jackknife_error(jnp.stack([row[name] for row in rows])) for name in rows[0]}


def _estimate(
    log_probs: Float[Array, "draw *batch class"],
    labels: Integer[Array, "*batch"],
    reference_log_probs: Float[Array, "reference_draw *batch class"] | None,
    groups: int,
    reference_groups: int,
    num_bins: int,
) -> dict[str, tuple[Float[Array, ""], Float[Array, ""] | None, Float[Array, ""] | None]]:
    """The numbers of `score` as arrays: (value, standard error, error of the images) by name; nothing is checked."""
    predictive = _summarize(log_probs)
    reference = None if reference_log_probs is None else _summarize(reference_log_probs)
    values = _values(predictive, labels, reference, num_bins)
    # Stable where all draws agree, which the difference of two entropies is not.
    information = _mutual_information(log_probs)
    values["mutual_information"] = jnp.mean(information)

    errors = dict.fromkeys(values)
    if groups > 1:
        left_out = leave_one_out(log_probs, groups=groups)
        errors |= _jackknifed(lambda without: _values(without, labels, reference, num_bins), left_out)
        if log_probs.shape[0] < FEWEST_FOR_INFORMATION:
            errors["mutual_information"] = None
    if reference_log_probs is not None and reference_groups > 1:
        left_out = leave_one_out(reference_log_probs, groups=reference_groups)
        distances = _jackknifed(lambda without: _distance_means(predictive.log_mean, without.log_mean), left_out)
        for name, error in distances.items():
            own = errors[name]
            errors[name] = error if own is None else jnp.hypot(own, error)

    image_errors = dict.fromkeys(values)
    if labels.size > 1:
        image_errors |= _image_errors(predictive, labels, reference, num_bins)
        image_errors["mutual_information"] = image_standard_error(information)
    return {name: (values[name], errors[name], image_errors[name]) for name in values}


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
        ConfigError: fewer than one bin.
    """
    calibration.check_bins(num_bins)
    check_log_probs(log_probs, tolerance=tolerance)
    check_labels(labels, log_probs)
    num_groups, num_reference_groups = check_groups(log_probs.shape[0], groups), 1
    if reference_log_probs is not None:
        check_log_probs(reference_log_probs, tolerance=tolerance, name="reference_log_probs")
        check_same_images(log_probs, reference_log_probs)
        num_reference_groups = check_groups(reference_log_probs.shape[0], reference_groups)
    numbers = _estimate(log_probs, labels, reference_log_probs, num_groups, num_reference_groups, num_bins)
    measures = {
        name: Measure(float(value), *(None if error is None else float(error) for error in errors))
        for name, (value, *errors) in jax.device_get(numbers).items()
    }
    return Scorecard(measures, log_probs.shape[0], num_groups, labels.size)
