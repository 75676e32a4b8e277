"""Accuracy and proper scores of the mean predictive against labels.

Each score exists per image, of a predictive distribution `(*batch, class)`, and as the mean over images of a set
of draws `(draw, *batch, class)`. Labels are one integer per image, and anything else is an InputError, under `jax.jit`
too. That they lie in [0, classes) can be checked outside of it only; inside, one that does not is never found, and its
proper scores are NaN. Likewise draws that are no log-probabilities (NaN, logits) are an InputError outside of it only.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxgeo.metrics.checks import check_label_shape, check_predictions, widened
from jaxgeo.metrics.information import at_least_float32
from jaxgeo.metrics.predictive import mean_log_probs


def is_correct(log_p: Float[Array, "*batch class"], labels: Integer[Array, "*batch"]) -> Float[Array, "*batch"]:
    """1 where the most probable class (the first of several) is the label, else 0."""
    check_label_shape(labels, log_p.shape[:-1])
    return _is_correct(log_p, labels)


@jax.jit
def _is_correct(log_p: Float[Array, "*batch class"], labels: Integer[Array, "*batch"]) -> Float[Array, "*batch"]:
    log_p = at_least_float32(log_p)
    return (jnp.argmax(log_p, axis=-1) == labels).astype(log_p.dtype)


def surprisal(log_p: Float[Array, "*batch class"], labels: Integer[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Minus the log-probability of the label, in nats; infinite where the label was thought impossible."""
    check_label_shape(labels, log_p.shape[:-1])
    return _surprisal(log_p, labels)


@jax.jit
def _surprisal(log_p: Float[Array, "*batch class"], labels: Integer[Array, "*batch"]) -> Float[Array, "*batch"]:
    log_p = at_least_float32(log_p)
    # A negative index would count from the end; one too large is filled with NaN.
    index = jnp.where(labels < 0, log_p.shape[-1], widened(labels))
    return -jnp.take_along_axis(log_p, index[..., None], axis=-1, mode="fill")[..., 0]


def squared_error(log_p: Float[Array, "*batch class"], labels: Integer[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Squared distance from the predictive to the one-hot label, summed over classes; in [0, 2]."""
    check_label_shape(labels, log_p.shape[:-1])
    return _squared_error(log_p, labels)


@jax.jit
def _squared_error(log_p: Float[Array, "*batch class"], labels: Integer[Array, "*batch"]) -> Float[Array, "*batch"]:
    log_p, labels = at_least_float32(log_p), widened(labels)
    classes = log_p.shape[-1]
    error = jnp.sum(jnp.square(jnp.exp(log_p) - jax.nn.one_hot(labels, classes, dtype=log_p.dtype)), axis=-1)
    return jnp.where((labels >= 0) & (labels < classes), error, jnp.nan)


def accuracy(log_probs: Float[Array, "draw *batch class"], labels: Integer[Array, "*batch"]) -> Float[Array, ""]:
    """Share of images whose label is the top class of the mean predictive."""
    return jnp.mean(is_correct(_predictive(log_probs, labels), labels))


def negative_log_likelihood(
    log_probs: Float[Array, "draw *batch class"], labels: Integer[Array, "*batch"]
) -> Float[Array, ""]:
    """Mean surprisal of the mean predictive (not the mean over draws of their surprisals), in nats per image."""
    return jnp.mean(surprisal(_predictive(log_probs, labels), labels))


def brier(log_probs: Float[Array, "draw *batch class"], labels: Integer[Array, "*batch"]) -> Float[Array, ""]:
    """Multi-class Brier score in its original scale [0, 2].

    References:
        Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950).
    """
    return jnp.mean(squared_error(_predictive(log_probs, labels), labels))


def _predictive(
    log_probs: Float[Array, "draw *batch class"], labels: Integer[Array, "*batch"]
) -> Float[Array, "*batch class"]:
    check_predictions(log_probs, labels)
    return mean_log_probs(log_probs)
