"""Confusion matrices of pixel classes, and what follows from them: accuracy and intersection over union.

A confusion matrix has a row for each prediction and a column for each label. Its entries are counts, or sums of the
weights that a caller gives (areas, where pixels of a grid are not equally large). Matrices of batches add up, so a test
set never needs to be in memory; scores are taken of the sum, on the host, in float64.

Three conventions, by `mode`. `correct`: a class that occurs neither in labels nor in predictions has no score (NaN) and
is left out of means, and foreground accuracy is the share of labelled foreground that was found. `faithful`, as
published with arXiv:2202.03990: means take all classes, an absent one makes them NaN, and foreground accuracy looks
only at pixels that label and prediction both call foreground. `absent_is_zero`, as published with arXiv:2307.07313: as
`correct`, but means take all classes, and an absent one has the score 0.
"""

from collections.abc import Iterable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Real

from jaxgeo.errors import ConfigError, InputError, check_one_of, check_one_shape
from jaxgeo.metrics.checks import is_concrete

Mode = Literal["correct", "faithful", "absent_is_zero"]

_REASON = "NaN comes from weights, and infinity also from a prediction that is none of the classes"


def confusion_matrix(
    predictions: Integer[Array, "*pixel"],
    labels: Integer[Array, "*labelled_pixel"],
    num_classes: int,
    weights: Float[Array, "*weighted_pixel"] | None = None,
) -> Float[Array, "prediction label"]:
    """Weight of the pixels of each pair of predicted and true class; for `jax.jit`.

    Counts are exact below 2^24 pixels of a pair and batch. Labels outside of 0 .. num_classes - 1 are void: their
    pixels count nowhere, whatever was predicted. A prediction outside, for a pixel that counts, is an error: it has no
    row, and left out it would spare its label a miss. Under `jax.jit`, where values cannot be read, it makes its
    label's column infinite instead, which `accumulate` and all scores refuse.

    Args:
        predictions: classes; to judge a network that may answer "none of these", give that a class of its own.
        labels: classes, of the same shape.
        num_classes: rows and columns of the matrix.
        weights: of each pixel, of the same shape, finite and at least 0; by default 1.

    Raises:
        ConfigError: fewer than one class.
        InputError: shapes that differ, classes that are no integers, weights that are no floats; and, outside of
            `jax.jit`, a prediction out of range, or a weight that is negative or not finite.
    """
    _check_pixels(predictions, labels, num_classes, weights)
    size = jnp.asarray(num_classes)  # an array, as the dtype of bytes may not hold it
    counts = (labels >= 0) & (labels < size)
    if weights is not None:
        counts = counts & (weights != 0)
    stray = counts & ((predictions < 0) | (predictions >= size))
    if is_concrete(predictions, labels, weights):
        _check_values(predictions, stray, num_classes, weights)
    classes = jnp.arange(num_classes)
    dtype = jnp.promote_types(jnp.float32, jnp.float32 if weights is None else weights.dtype)
    # Two indicator matrices and one product: a histogram would be a scatter, serial on a CPU.
    predicted = (predictions.reshape(-1)[:, None] == classes[None]).astype(dtype)
    true = labels.reshape(-1)[:, None] == classes[None]
    lost = jnp.any(true & stray.reshape(-1)[:, None], axis=0)
    true = true.astype(dtype)
    if weights is not None:
        true = true * weights.reshape(-1)[:, None]
    return jnp.matmul(predicted.T, true, precision="highest") + jnp.where(lost, jnp.inf, 0).astype(dtype)[None]


def _check_pixels(predictions: Array, labels: Array, num_classes: int, weights: Array | None) -> None:
    if num_classes < 1:
        raise ConfigError(f"a confusion matrix needs at least one class, got num_classes = {num_classes}")
    for name, array in (("predictions", predictions), ("labels", labels)):
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise InputError(
                f"{name} must be class indices of an integer dtype, got {array.dtype}; take argmax(axis=-1) of logits, "
                f"and astype(int) of masks and of whole numbers"
            )
    check_one_shape(predictions=predictions, labels=labels, weights=weights)
    if weights is not None and not jnp.issubdtype(weights.dtype, jnp.floating):
        raise InputError(f"weights must be of a float dtype, got {weights.dtype}; use astype(jnp.float32)")


def _check_values(
    predictions: Integer[Array, "*pixel"],
    stray: Bool[Array, "*pixel"],
    num_classes: int,
    weights: Float[Array, "*pixel"] | None,
) -> None:
    if weights is not None and not bool(jnp.all(jnp.isfinite(weights) & (weights >= 0))):
        raise InputError("weights of pixels must be finite and at least 0, got others; 0 leaves a pixel out")
    if bool(jnp.any(stray)):
        bad = np.asarray(predictions)[np.asarray(stray)]
        raise InputError(
            f"predictions must lie in 0 ... {num_classes - 1} for {num_classes} classes, got {int(bad[0])} "
            f"({bad.size} predictions out of range where label and weight count); a network with more outputs needs "
            f"num_classes to match, or the argmax over the first {num_classes} only"
        )


def accumulate(
    matrices: Iterable[Real[Array | np.ndarray, "prediction label"]],
) -> Float[np.ndarray, "prediction label"]:
    """The sum over batches, in float64 on the host, one matrix at a time; they may be counts, and on the host too.

    Raises:
        InputError: there is no batch, or a batch whose matrix is not finite.
    """
    total = None
    for number, matrix in enumerate(matrices):
        host = np.asarray(matrix, np.float64)
        if not np.isfinite(host).all():
            raise InputError(f"batch {number} has a confusion matrix that is not finite: {_REASON}")
        total = host.copy() if total is None else total + host
    if total is None:
        raise InputError("a confusion matrix needs at least one batch, got none")
    return total


def accuracy(confusion: Float[np.ndarray, "prediction label"]) -> float:
    """Share of the weight whose class was found, in [0, 1].

    Raises:
        InputError: no confusion matrix, or an empty one.
    """
    confusion = _checked(confusion)
    return float(np.trace(confusion) / confusion.sum())


def foreground_accuracy(
    confusion: Float[np.ndarray, "prediction label"], background: int = 0, mode: Mode = "correct"
) -> float:
    """Share of the foreground whose class was found, in [0, 1]; NaN where there is none.

    Args:
        confusion: the matrix.
        background: the class that is not foreground.
        mode: what counts as foreground: pixels so labelled and predicted so (`faithful`), or so labelled.

    Raises:
        InputError: no confusion matrix, an empty one, or a background that is no class.
        ConfigError: unknown mode.
    """
    confusion, foreground = _foreground(_checked(confusion), background)
    check_one_of("mode", mode, Mode)
    found = np.trace(confusion[np.ix_(foreground, foreground)])
    rows = foreground if mode == "faithful" else np.arange(len(confusion))
    return _share(found, confusion[np.ix_(rows, foreground)].sum())


def intersection_over_union(confusion: Float[np.ndarray, "prediction label"]) -> Float[np.ndarray, " label"]:
    """Of each class: weight of pixels labelled and predicted so, over that of pixels labelled or predicted so.

    NaN for a class that occurs neither in labels nor in predictions.

    Raises:
        InputError: no confusion matrix, or an empty one.
    """
    confusion = _checked(confusion)
    both = np.diagonal(confusion)
    either = confusion.sum(0) + confusion.sum(1) - both
    return np.where(either > 0, both / np.where(either > 0, either, 1), np.nan)


def mean_iou(
    confusion: Float[np.ndarray, "prediction label"], background: int | None = None, mode: Mode = "correct"
) -> float:
    """Mean of the classes' intersections over unions, in [0, 1], each class with the same weight.

    Args:
        confusion: the matrix.
        background: a class to leave out of the mean (its confusions with others still count against those); None keeps
            all classes.
        mode: absent classes are left out of the mean (`correct`), make it NaN (`faithful`), or count 0.

    Raises:
        InputError: no confusion matrix, an empty one, or a background that is no class.
        ConfigError: unknown mode.
    """
    check_one_of("mode", mode, Mode)
    scores = intersection_over_union(confusion)
    if background is not None:
        scores = scores[_foreground(_checked(confusion), background)[1]]
    if mode == "correct":
        scores = scores[~np.isnan(scores)]
    elif mode == "absent_is_zero":
        scores = np.where(np.isnan(scores), 0, scores)
    return _share(scores.sum(), float(len(scores)))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def _checked(confusion: np.ndarray) -> np.ndarray:
    confusion = np.asarray(confusion, np.float64)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or not confusion.size:
        raise InputError(f"a confusion matrix has a row and a column for each class, got shape {confusion.shape}")
    if not np.isfinite(confusion).all():
        raise InputError(f"a confusion matrix holds finite weights, got {confusion.tolist()}: {_REASON}")
    if not ((confusion >= 0).all() and confusion.sum() > 0):
        raise InputError(
            f"a confusion matrix holds finite weights of at least 0 and some above, got values from {confusion.min()} "
            f"to {confusion.max()}"
        )
    return confusion


def _foreground(confusion: np.ndarray, background: int) -> tuple[np.ndarray, np.ndarray]:
    if not 0 <= background < len(confusion):
        raise InputError(
            f"the background must be one of the {len(confusion)} classes, 0 ... {len(confusion) - 1}, got {background}"
        )
    return confusion, np.delete(np.arange(len(confusion)), background)
