"""Checks of what is handed to the metrics.

`check_shape`, `check_label_shape` and `check_same_images` look at shapes and dtypes alone and hold under `jax.jit` too,
as do `check_predictions` and `check_distributions`, which read values where there are any: under `jax.jit` there are
none, and what is no distribution is not found. The others read values, so they run outside of it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Integer

from jaxgeo.errors import InputError, check_whole
from jaxgeo.metrics.information import at_least_float32

# A float32 log-softmax misses 1 by about 1e-6; fixed-point softmax tables need a wider tolerance from the caller.
NORMALISATION_TOLERANCE = 1e-3

COARSE_TOLERANCE = 0.05
"""Of what single metrics take: logits are refused, softmax tables of few bits are not."""


def is_concrete(*arrays: Array | np.ndarray | None) -> bool:
    """Whether all hold values that can be read, as under a transformation such as `jax.jit` they do not."""
    return not any(isinstance(array, Tracer) for array in arrays)


def check_shape(log_probs: Float[Array, "draw *batch class"], name: str = "log_probs") -> None:
    """Refuses what is no array of floats with axes (draw, *batch, class), or has an empty one.

    Raises:
        InputError: no array, or not of floats; fewer than two axes; no draw, image or class.
    """
    dtype = getattr(log_probs, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            f"{name} must be an array of floating-point log-probabilities, got {dtype or type(log_probs).__name__}"
        )
    shape = log_probs.shape
    if len(shape) < 2:
        raise InputError(f"{name} needs axes (draw, *batch, class), got shape {shape}; add a draw axis: x[None]")
    if shape[0] == 0:
        raise InputError(f"{name} has no draws, got shape {shape}; a prediction needs at least one")
    if 0 in shape:
        raise InputError(f"{name} has no images or no classes, got shape {shape}; a mean needs at least one")


def check_log_probs(
    log_probs: Float[Array, "draw *batch class"],
    *,
    tolerance: float = NORMALISATION_TOLERANCE,
    name: str = "log_probs",
) -> None:
    """Refuses what is no set of normalised log-probabilities; minus infinity (probability zero) is allowed.

    Args:
        log_probs: log-probabilities in nats, any float dtype.
        tolerance: largest allowed deviation of a row's total probability from 1; in 16 bits, whose rounding alone does
            it, at least two units in the last place of 1.
        name: what the caller calls the array, for the message.

    Raises:
        InputError: no draw, image or class; NaN or plus infinity; rows that do not sum to 1; an impossible tolerance.
    """
    if not 0 <= tolerance < math.inf:
        raise InputError(f"tolerance must be finite and not negative, got {tolerance}")
    check_shape(log_probs, name)
    values = np.asarray(log_probs, dtype=np.float64)
    bad = np.isnan(values) | (values == np.inf)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{name} must be log-probabilities, got {values[where]} at index {where} ({int(bad.sum())} such values); "
            f"minus infinity is allowed, NaN and plus infinity are not"
        )
    tolerance = max(tolerance, 2 * float(jnp.finfo(log_probs.dtype).eps))
    totals = np.exp(values).sum(axis=-1)
    worst = np.unravel_index(np.argmax(np.abs(totals - 1)), totals.shape)
    if abs(totals[worst] - 1) > tolerance:
        raise InputError(
            f"{name} must be normalised over the last axis within {tolerance:g}, but the probabilities at index "
            f"{tuple(int(i) for i in worst)} sum to {totals[worst]:.6g}; pass logits through jax.nn.log_softmax first"
        )


def check_distributions(log_probs: Float[Array, "draw *batch class"], name: str = "log_probs") -> None:
    """Refuses what is no set of log-probabilities by one pass where the array is; under `jax.jit` its shape alone.

    Args:
        log_probs: log-probabilities in nats, any float dtype.
        name: what the caller calls the array, for the message.

    Raises:
        InputError: no draw, image or class; NaN or plus infinity; rows whose sums are not within 0.05 of 1.
    """
    check_shape(log_probs, name)
    if is_concrete(log_probs):
        # At once, also where a function is traced that closes over the array.
        with jax.ensure_compile_time_eval():
            fine = bool(_all_normalised(log_probs))
        if not fine:  # what it is, in float64
            check_log_probs(log_probs, tolerance=COARSE_TOLERANCE, name=name)


@jax.jit
def _all_normalised(log_probs: Float[Array, "draw *batch class"]) -> Array:
    # A total that is NaN or infinite is not near 1 either.
    log_totals = jax.nn.logsumexp(at_least_float32(log_probs), axis=-1)
    return jnp.all(jnp.abs(jnp.expm1(log_totals)) < COARSE_TOLERANCE)


def check_label_shape(labels: Integer[Array, "*labelled"], batch: tuple[int, ...]) -> None:
    """Refuses labels that are not one integer per image of a batch.

    Raises:
        InputError: no array, another shape than the batch, no image, or labels that are not integers.
    """
    if not hasattr(labels, "dtype"):
        raise InputError(
            f"labels must be an array of class indices, got {type(labels).__name__}; jnp.asarray makes one"
        )
    if labels.shape != batch:
        raise InputError(
            f"labels must have one entry per image, shape {batch}, got {labels.shape}; log-probabilities have axes "
            f"(draw, *batch, class), so a single predictive needs a draw axis: x[None]"
        )
    if 0 in batch:
        raise InputError(f"a score is a mean over images and needs at least one, got labels of shape {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"labels must be class indices of an integer dtype, got {labels.dtype}; one-hot or soft labels have their "
            f"index by argmax(axis=-1), and whole numbers by astype(int)"
        )


def check_labels(labels: Integer[Array, "*labelled"], log_probs: Float[Array, "draw *batch class"]) -> None:
    """Refuses labels that are not one class index per image.

    Raises:
        InputError: another batch shape than the log-probabilities, no integers, or an index outside of [0, classes).
    """
    check_label_shape(labels, log_probs.shape[1:-1])
    values, classes = np.asarray(labels), log_probs.shape[-1]
    bad = (values < 0) | (values >= classes)
    if bad.any():
        raise InputError(
            f"labels must lie in 0 ... {classes - 1} for {classes} classes, got {int(values[bad][0])} "
            f"({int(bad.sum())} labels out of range)"
        )


def check_predictions(log_probs: Float[Array, "draw *batch class"], labels: Integer[Array, "*labelled"]) -> None:
    """What can be said of both without reading the log-probabilities; of labels under `jax.jit` the shape alone.

    Raises:
        InputError: axes that do not belong together, an empty one, labels that are no integers or out of range.
    """
    check_shape(log_probs)
    if is_concrete(labels):
        check_labels(labels, log_probs)
    else:
        check_label_shape(labels, log_probs.shape[1:-1])


def widened(labels: Integer[Array, "*labelled"]) -> Integer[Array, "*labelled"]:
    """The labels in at least 32 bits: of more classes than bytes can count, `jax.nn.one_hot` of bytes wraps around."""
    return labels + jnp.zeros((), jnp.int32)


def check_same_images(
    log_probs: Float[Array, "draw *batch class"],
    reference_log_probs: Float[Array, "reference_draw *reference_batch reference_class"],
) -> None:
    """Refuses to compare predictions of different images or classes (the numbers of draws may differ).

    Raises:
        InputError: the shapes after the draw axis differ.
    """
    if log_probs.shape[1:] != reference_log_probs.shape[1:]:
        raise InputError(
            f"two predictions can be compared only on the same images and classes, got {log_probs.shape[1:]} and "
            f"{reference_log_probs.shape[1:]} after the draw axis"
        )


def check_groups(num_draws: int, groups: int | None, *, at_least: int = 1) -> int:
    """The number of equal groups of consecutive draws, `num_draws` for None (each draw alone).

    Raises:
        InputError: the draws do not fall into so many equal groups, or the groups are too few.
    """
    groups = num_draws if groups is None else groups
    check_whole("groups", groups, None, error=InputError)
    if groups < 1 or num_draws % groups:
        raise InputError(
            f"{num_draws} draws do not fall into {groups} equal groups; groups must divide the number of draws "
            f"(members of an MC-dropout ensemble, or chains, stacked before their draws)"
        )
    if groups < at_least:
        raise InputError(f"this needs at least {at_least} groups of draws, got {groups}; give more draws or groups")
    return groups
