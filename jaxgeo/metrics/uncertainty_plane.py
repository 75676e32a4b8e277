"""Accuracy over the plane of (predictive entropy, mutual information): is the model right where it says it is sure?

Total uncertainty on one axis and its epistemic part on the other. Information never exceeds entropy, so bins above the
diagonal stay empty. Both axes run from 0 to log(classes) by default, whatever the draws, so that planes of different
posteriors lie on one another. Bins are closed above, `(low, high]`; the first takes 0 too, and the last what rounding
puts beyond it, so every image is in exactly one bin.

References:
    Depeweg et al., "Decomposition of Uncertainty in Bayesian Deep Learning for Efficient and Risk-sensitive Learning",
    arXiv:1710.07283, for the two axes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from jaxgeo.errors import ConfigError, check_whole
from jaxgeo.metrics.calibration import bin_indices
from jaxgeo.metrics.checks import check_predictions
from jaxgeo.metrics.predictive import mean_log_probs
from jaxgeo.metrics.scores import is_correct
from jaxgeo.metrics.uncertainty import mutual_information, predictive_entropy


class UncertaintyPlane(NamedTuple):
    """Per bin of the plane; where `num_images` is 0 the accuracy is 0 and means nothing."""

    entropy_edges: Float[Array, " entropy_edge"]  # nats, one more than bins
    information_edges: Float[Array, " information_edge"]  # nats
    num_images: Int[Array, "entropy_bin information_bin"]
    accuracy: Float[Array, "entropy_bin information_bin"]
    standard_error: Float[Array, "entropy_bin information_bin"]  # of the images, s / sqrt(n); infinite below two


def plane_edges(num_classes: int, num_bins: int) -> Float[np.ndarray, " edge"]:
    """Equally spaced edges from 0 to log(classes), in nats and float64.

    Raises:
        ConfigError: fewer than two classes, or no whole number of bins.
    """
    check_whole("num_bins", num_bins)
    if num_classes < 2:
        raise ConfigError(f"an axis to log(classes) needs at least two classes, got {num_classes}")
    return np.linspace(0, np.log(num_classes), num_bins + 1)


def uncertainty_plane(
    log_probs: Float[Array, "draw *batch class"],
    labels: Integer[Array, "*batch"],
    num_bins: int = 10,
    entropy_edges: Float[np.ndarray, " entropy_edge"] | None = None,
    information_edges: Float[np.ndarray, " information_edge"] | None = None,
) -> UncertaintyPlane:
    """Number of images and their accuracy in each bin of (predictive entropy, mutual information).

    For the Monte Carlo error of the draws, `standard_error.jackknife_draws` takes `uncertainty_plane(...).accuracy` as
    its metric: edges do not move with the draws, images may.

    Args:
        log_probs: log-softmax outputs in nats, one slice per draw.
        labels: class of each image.
        num_bins: of an axis without edges of its own.
        entropy_edges: at least two, increasing, in nats; what lies beyond the outer ones joins the outer bins.
        information_edges: likewise.

    Raises:
        ConfigError: impossible bins.
        InputError: no draws or images, labels that are not one class index per image, no log-probabilities.
    """
    check_predictions(log_probs, labels)
    total, information = predictive_entropy(log_probs).ravel(), mutual_information(log_probs).ravel()
    # Edges as fine as what is binned, so that a value on an edge is on it.
    entropy_axis, information_axis = (
        jnp.asarray(_axis(edges, log_probs.shape[-1], num_bins, name).astype(total.dtype))
        for edges, name in ((entropy_edges, "entropy"), (information_edges, "information"))
    )
    rows, cols = entropy_axis.shape[0] - 1, information_axis.shape[0] - 1
    index = bin_indices(total, entropy_axis) * cols + bin_indices(information, information_axis)
    correct = is_correct(mean_log_probs(log_probs), labels).ravel()
    count = jax.ops.segment_sum(jnp.ones_like(index), index, rows * cols)
    accuracy = jax.ops.segment_sum(correct, index, rows * cols) / jnp.maximum(count, 1)
    # Of zeros and ones the variance is a (1 - a) n / (n - 1).
    error = jnp.where(count > 1, jnp.sqrt(accuracy * (1 - accuracy) / jnp.maximum(count - 1, 1)), jnp.inf)
    shape = rows, cols
    return UncertaintyPlane(
        entropy_axis, information_axis, count.reshape(shape), accuracy.reshape(shape), error.reshape(shape)
    )


def _axis(edges: np.ndarray | None, num_classes: int, num_bins: int, name: str) -> Float[np.ndarray, " edge"]:
    edges = plane_edges(num_classes, num_bins) if edges is None else np.asarray(edges)
    if edges.size < 2 or not (np.diff(edges) > 0).all():
        raise ConfigError(f"{name}_edges must be at least two increasing numbers, got {edges.tolist()}")
    return edges
