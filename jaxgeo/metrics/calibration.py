"""Whether stated confidences come true: reliability curve and expected calibration error.

Bins are closed above, `(low, high]`, and the first takes confidence 0 too, so every image is in exactly one bin,
also on an edge, at 0 and at 1 (or an ulp beyond).

References:
    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015 (equal mass).
    Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599 (equal width).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from jaxgeo.metrics.predictive import mean_log_probs
from jaxgeo.metrics.scores import is_correct

Binning = Literal["equal_width", "equal_mass"]


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
    """
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
    """
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
    """Reliability of the mean predictive's top class."""
    return reliability(*top_class(mean_log_probs(log_probs), labels), num_bins, binning)


def top_class(
    log_p: Float[Array, "*batch class"], labels: Integer[Array, "*batch"]
) -> tuple[Float[Array, " image"], Float[Array, " image"]]:
    """Confidence in the top class, and 1 where it is the label; all batch axes in one."""
    return jnp.exp(jnp.max(log_p, axis=-1)).ravel(), is_correct(log_p, labels).ravel()


def expected_calibration_error(
    log_probs: Float[Array, "draw *batch class"],
    labels: Integer[Array, "*batch"],
    num_bins: int = 15,
    binning: Binning = "equal_width",
) -> Float[Array, ""]:
    """Mean over images of their bin's |accuracy - confidence|, in [0, 1]; 0 for a calibrated predictive.

    With finitely many images it is biased upwards (a calibrated model with n images in a bin shows about
    1 / sqrt(n) there), so compare values only at equal numbers of images and bins.
    """
    return binned_calibration_error(*top_class(mean_log_probs(log_probs), labels), num_bins, binning)


def binned_calibration_error(
    confidence: Float[Array, " image"],
    correct: Float[Array, " image"],
    num_bins: int = 15,
    binning: Binning = "equal_width",
) -> Float[Array, ""]:
    """Expected calibration error from confidences; arguments as for `reliability`."""
    index = bin_indices(confidence, bin_edges(confidence, num_bins, binning))
    return jnp.sum(jnp.abs(jax.ops.segment_sum(correct - confidence, index, num_bins))) / confidence.shape[0]


def leave_one_image_out(
    confidence: Float[Array, " image"],
    correct: Float[Array, " image"],
    num_bins: int = 15,
    binning: Binning = "equal_width",
) -> Float[Array, " image"]:
    """Calibration error without image i, for every i at once: only the sum of i's own bin changes.

    Equal-mass edges are kept as they are with all images, which moves an edge by at most one image.
    """
    index = bin_indices(confidence, bin_edges(confidence, num_bins, binning))
    gap = correct - confidence
    sums = jax.ops.segment_sum(gap, index, num_bins)
    without = jnp.sum(jnp.abs(sums))[None] - jnp.abs(sums[index]) + jnp.abs(sums[index] - gap)
    return without / (confidence.shape[0] - 1)
