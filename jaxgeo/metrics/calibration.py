"""Whether stated confidences come true: reliability curve; expected, average and maximum calibration error.

Bins are closed above, `(low, high]`, and the first takes confidence 0 too, so every image is in exactly one bin,
also on an edge, at 0 and at 1 (or an ulp beyond).

Mode `faithful` has the bins of the program published with arXiv:2104.14421 (`bnn_hmc/utils/metrics.py`, adapted from
that of arXiv:1902.02476): they are open at both ends, `low < confidence < high`, so an image on an edge is in no bin,
though it still counts in the number of images that the sum is divided by. With equal widths that leaves out the images
of confidence exactly 1, which a float32 softmax reaches when it is certain; with equal mass the edges are confidences
of images, every step-th of the sorted ones and the largest, so at least one image for each edge is left out. The other
widespread convention, `low < confidence <= high` of temperature scaling (Guo et al.), leaves out only confidence 0,
which no top class has; it is `correct` here. netcal and torchmetrics close their bins below, `[low, high)`, and netcal
the last above too, while torchmetrics gives confidence 1 a bin of its own: without confidences on edges the three
agree, and on edges theirs are the bins of this module for the reflected pair (1 - confidence, 1 - correct).

References:
    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015 (equal mass; maximum).
    Neumann, Zisserman and Vedaldi, "Relaxed Softmax: Efficient Confidence Auto-Calibration for Safe Pedestrian
    Detection", NIPS 2018 workshop on machine learning for intelligent transportation (average).
    Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599 (equal width).
    Izmailov et al., "What Are Bayesian Neural Network Posteriors Really Like?", arXiv:2104.14421 (faithful).
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from jaxgeo.errors import ConfigError, InputError, check_one_of
from jaxgeo.metrics.checks import COARSE_TOLERANCE, check_predictions, is_concrete
from jaxgeo.metrics.information import at_least_float32
from jaxgeo.metrics.predictive import mean_log_probs
from jaxgeo.metrics.scores import is_correct
from jaxgeo.modes import Mode

Binning = Literal["equal_width", "equal_mass"]


def check_bins(num_bins: int, binning: str = "equal_width") -> None:
    """Refuses bins that no confidence can fall into.

    Raises:
        ConfigError: fewer than one bin, a number that is no integer, or an unknown kind of bins.
    """
    if isinstance(num_bins, bool) or not isinstance(num_bins, int | np.integer) or num_bins < 1:
        raise ConfigError(f"num_bins must be a whole number of at least 1, got {num_bins!r}; 15 is customary")
    check_one_of("binning", binning, Binning)


class ReliabilityCurve(NamedTuple):
    """Per bin of confidence; where `num_images` is 0 the two means are 0 and mean nothing."""

    edges: Float[Array, " edge"]  # one more than bins, from 0 to 1
    num_images: Int[Array, " bin"]
    confidence: Float[Array, " bin"]
    accuracy: Float[Array, " bin"]


def bin_edges(confidence: Float[Array, " image"], num_bins: int, binning: Binning) -> Float[Array, " edge"]:
    """Edges from 0 to 1, equally spaced or at the confidences' own quantiles.

    Quantile edges are confidences of images, so that images of equal confidence share a bin whatever their
    order; many ties make some bins empty.

    Raises:
        ConfigError: impossible bins.
    """
    check_bins(num_bins, binning)
    confidence = at_least_float32(confidence)
    if binning == "equal_width":
        return jnp.asarray(np.linspace(0, 1, num_bins + 1), dtype=confidence.dtype)
    num_images = confidence.shape[0]
    last_of_bin = np.maximum(np.ceil(np.arange(1, num_bins) * num_images / num_bins).astype(int) - 1, 0)
    ends = jnp.asarray([0, 1], dtype=confidence.dtype)
    return jnp.concatenate([ends[:1], jnp.sort(confidence)[last_of_bin], ends[1:]])


def bin_indices(confidence: Float[Array, " image"], edges: Float[Array, " edge"]) -> Int[Array, " image"]:
    """Bin of each confidence: how many inner edges lie strictly below it."""
    return jnp.searchsorted(edges[1:-1], confidence, side="left")


def reliability(
    confidence: Float[Array, " image"],
    correct: Float[Array, " image"],
    num_bins: int = 15,
    binning: Binning = "equal_width",
) -> ReliabilityCurve:
    """Mean confidence and accuracy of the images in each bin of confidence.

    Args:
        confidence: probability of the predicted class, in [0, 1].
        correct: 1 where the predicted class is the label, else 0.
        num_bins: number of bins; 15 as in Guo et al.
        binning: bins of equal width, or with (up to ties) equally many images.

    Raises:
        ConfigError: impossible bins.
        InputError: no image, not as many confidences as verdicts, or, outside of `jax.jit`, numbers beyond 0 and 1.
    """
    check_bins(num_bins, binning)
    return _curve(*_pair(confidence, correct), num_bins, binning)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _curve(
    confidence: Float[Array, " image"], correct: Float[Array, " image"], num_bins: int, binning: Binning
) -> ReliabilityCurve:
    edges = bin_edges(confidence, num_bins, binning)
    index = bin_indices(confidence, edges)
    count = jax.ops.segment_sum(jnp.ones_like(index), index, num_bins)
    divisor = jnp.maximum(count, 1)
    return ReliabilityCurve(
        edges,
        count,
        jax.ops.segment_sum(confidence, index, num_bins) / divisor,
        jax.ops.segment_sum(correct, index, num_bins) / divisor,
    )


def reliability_curve(
    log_probs: Float[Array, "draw *batch class"],
    labels: Integer[Array, "*batch"],
    num_bins: int = 15,
    binning: Binning = "equal_width",
) -> ReliabilityCurve:
    """Reliability of the mean predictive's top class.

    Raises:
        ConfigError: impossible bins.
        InputError: no draws or images, labels that are not one class index per image.
    """
    check_predictions(log_probs, labels)
    return reliability(*top_class(mean_log_probs(log_probs), labels), num_bins, binning)


def top_class(
    log_p: Float[Array, "*batch class"], labels: Integer[Array, "*batch"]
) -> tuple[Float[Array, " image"], Float[Array, " image"]]:
    """Confidence in the top class, and 1 where it is the label; all batch axes in one."""
    return jnp.exp(jnp.max(at_least_float32(log_p), axis=-1)).ravel(), is_correct(log_p, labels).ravel()


def expected_calibration_error(
    log_probs: Float[Array, "draw *batch class"],
    labels: Integer[Array, "*batch"],
    num_bins: int = 15,
    binning: Binning = "equal_width",
    mode: Mode = "correct",
) -> Float[Array, ""]:
    """Mean over images of their bin's |accuracy - confidence|, in [0, 1]; 0 for a calibrated predictive.

    With finitely many images it is biased upwards (a calibrated model with n images in a bin shows about
    1 / sqrt(n) there), so compare values only at equal numbers of images and bins.

    Raises:
        ConfigError: unknown mode, or impossible bins.
        InputError: no draws or images, labels that are not one class index per image.
    """
    check_predictions(log_probs, labels)
    return binned_calibration_error(*top_class(mean_log_probs(log_probs), labels), num_bins, binning, mode)


def binned_calibration_error(
    confidence: Float[Array, " image"],
    correct: Float[Array, " image"],
    num_bins: int = 15,
    binning: Binning = "equal_width",
    mode: Mode = "correct",
) -> Float[Array, ""]:
    """Expected calibration error from confidences; arguments as for `reliability`.

    Args:
        confidence: probability of the predicted class, in [0, 1].
        correct: 1 where the predicted class is the label, else 0.
        num_bins: number of bins. In mode `faithful` with equal mass there may be fewer: each has
            ceil(images / bins) of the sorted images, and the last what is left.
        binning: of equal width or of equal mass.
        mode: every image in one bin (`correct`), or bins open at both ends (`faithful`).

    Raises:
        ConfigError: unknown mode, or impossible bins.
        InputError: no image, not as many confidences as verdicts, or, outside of `jax.jit`, numbers beyond 0 and 1.
    """
    confidence, correct = _pair(confidence, correct)
    check_one_of("mode", mode, Mode)
    check_bins(num_bins, binning)
    return _error(confidence, correct, num_bins, binning, mode)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _error(
    confidence: Float[Array, " image"], correct: Float[Array, " image"], num_bins: int, binning: Binning, mode: Mode
) -> Float[Array, ""]:
    gap = correct - confidence
    if mode == "faithful":
        index, inside, num_bins = open_bin_indices(confidence, num_bins, binning)
        gap = jnp.where(inside, gap, 0)
    else:
        index = bin_indices(confidence, bin_edges(confidence, num_bins, binning))
    return jnp.sum(jnp.abs(jax.ops.segment_sum(gap, index, num_bins))) / confidence.shape[0]


def maximum_calibration_error(curve: ReliabilityCurve) -> Float[Array, ""]:
    """Largest |accuracy - confidence| of a bin that has images, in [0, 1]; of `reliability` or `reliability_curve`.

    One bin of few images decides it: with bins of equal width it says little, with bins of equal mass more.
    """
    return jnp.max(_gaps(curve))


def average_calibration_error(curve: ReliabilityCurve) -> Float[Array, ""]:
    """Mean |accuracy - confidence| over the bins that have images, each counting the same, in [0, 1]."""
    return jnp.sum(_gaps(curve)) / jnp.maximum(jnp.sum(curve.num_images > 0), 1)


def accuracy_errors(curve: ReliabilityCurve) -> Float[Array, " bin"]:
    """Standard error that finitely many images leave in each bin's accuracy, s / sqrt(n); infinite below two images.

    For the Monte Carlo error of the draws, give `lambda x: reliability_curve(x, labels).accuracy` as a metric to
    `standard_error.jackknife_draws`.
    """
    a, n = curve.accuracy, curve.num_images
    # Of zeros and ones the variance is a (1 - a) n / (n - 1); rounding may put a mean an ulp above 1.
    return jnp.where(n > 1, jnp.sqrt(jnp.maximum(a * (1 - a), 0) / jnp.maximum(n - 1, 1)), jnp.inf)


def _pair(
    confidence: Float[Array, " image"], correct: Float[Array, " verdict"]
) -> tuple[Float[Array, " image"], Float[Array, " image"]]:
    if confidence.ndim != 1 or confidence.shape != correct.shape or not confidence.size:
        raise InputError(
            f"calibration needs one confidence and one verdict (1 or 0) per image, each of shape (image,) with at "
            f"least one, got shapes {confidence.shape} and {correct.shape}; ravel() joins batch axes"
        )
    if is_concrete(confidence, correct):
        for name, values in (("a confidence", confidence), ("a verdict", correct)):
            outside = ~(np.abs(np.asarray(values, np.float64) - 0.5) <= 0.5 + COARSE_TOLERANCE)  # NaN too
            if outside.any():
                first = float(np.asarray(values)[outside][0])
                raise InputError(f"{name} lies in [0, 1], got {first:g} ({int(outside.sum())} values outside)")
    return at_least_float32(confidence), at_least_float32(correct)


def _gaps(curve: ReliabilityCurve) -> Float[Array, " bin"]:
    # Both means of an empty bin are 0, and so is its gap.
    return jnp.abs(curve.accuracy - curve.confidence)


def open_bin_indices(
    confidence: Float[Array, " image"], num_bins: int, binning: Binning
) -> tuple[Int[Array, " image"], Bool[Array, " image"], int]:
    """The published bins, open at both ends: bin of each confidence, whether it is in that bin, how many bins."""
    check_bins(num_bins, binning)
    if binning == "equal_width":
        edges = bin_edges(confidence, num_bins, binning)
    else:
        num_images = confidence.shape[0]
        step = -(-num_images // num_bins)
        ends = [num_images - 1] if num_images % step != 1 else []
        edges = jnp.sort(confidence)[np.asarray([*range(0, num_images, step), *ends])]
    below = jnp.searchsorted(edges, confidence, side="left")
    on_an_edge = below != jnp.searchsorted(edges, confidence, side="right")
    inside = ~on_an_edge & (below > 0) & (below < edges.shape[0])
    return jnp.clip(below - 1, 0, edges.shape[0] - 2), inside, edges.shape[0] - 1


def leave_one_image_out(
    confidence: Float[Array, " image"],
    correct: Float[Array, " image"],
    num_bins: int = 15,
    binning: Binning = "equal_width",
) -> Float[Array, " image"]:
    """Calibration error without image i, for every i at once: only the sum of i's own bin changes.

    Equal-mass edges are kept as they are with all images, which moves an edge by at most one image.
    """
    check_bins(num_bins, binning)
    return _errors_without_each(*_pair(confidence, correct), num_bins, binning)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _errors_without_each(
    confidence: Float[Array, " image"], correct: Float[Array, " image"], num_bins: int, binning: Binning
) -> Float[Array, " image"]:
    index = bin_indices(confidence, bin_edges(confidence, num_bins, binning))
    gap = correct - confidence
    sums = jax.ops.segment_sum(gap, index, num_bins)
    without = jnp.sum(jnp.abs(sums))[None] - jnp.abs(sums[index]) + jnp.abs(sums[index] - gap)
    return without / (confidence.shape[0] - 1)
