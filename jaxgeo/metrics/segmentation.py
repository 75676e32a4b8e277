"""Confusion matrices of pixel classes, and what follows from them: accuracy and intersection over union.

A confusion matrix has a row for each prediction and a column for each label. Its entries are counts, or sums of the
weights that a caller gives (areas, where pixels of a grid are not equally large). Matrices of batches add up, so a test
set never needs to be in memory; scores are taken of the sum, on the host, in float64.

Two conventions, by `mode`. `correct`: a class that occurs neither in labels nor in predictions has no score (NaN) and
is left out of means, and foreground accuracy is the share of labelled foreground that was found. `faithful`, as
published with arXiv:2202.03990: means take all classes, an absent one makes them NaN, and foreground accuracy looks
only at pixels that label and prediction both call foreground.
"""

from collections.abc import Iterable
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from jaxgeo.errors import ConfigError, InputError

Mode = Literal["correct", "faithful"]


def confusion_matrix(
    predictions: Integer[Array, "*pixel"],
    labels: Integer[Array, "*pixel"],
    num_classes: int,
    weights: Float[Array, "*pixel"] | None = None,
) -> Float[Array, "prediction label"]:
    """Weight of the pixels of each pair of predicted and true class, in float32 or the weights' dtype; for `jax.jit`.

    Counts are exact below 2^24 pixels of a pair and batch. Classes outside 0 .. num_classes - 1 count nowhere.

    Args:
        predictions: classes.
        labels: classes, as many.
        num_classes: rows and columns of the matrix.
        weights: of each pixel; by default 1.
    """
    classes = jnp.arange(num_classes)
    dtype = jnp.float32 if weights is None else weights.dtype
    # Two indicator matrices and one product: a histogram would be a scatter, serial on a CPU.
    predicted = (predictions.reshape(-1)[:, None] == classes[None]).astype(dtype)
    true = (labels.reshape(-1)[:, None] == classes[None]).astype(dtype)
    if weights is not None:
        true = true * weights.reshape(-1)[:, None]
    return jnp.matmul(predicted.T, true, precision="highest")


def accumulate(matrices: Iterable[Float[Array, "prediction label"]]) -> Float[np.ndarray, "prediction label"]:
    """The sum over batches, in float64 on the host, one matrix at a time.

    Raises:
        InputError: there is no batch.
    """
    total = None
    for matrix in matrices:
        host = np.asarray(matrix, np.float64)
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
        mode: what counts as foreground: pixels so labelled (`correct`), or labelled and predicted so (`faithful`).

    Raises:
        InputError: no confusion matrix, an empty one, or a background that is no class.
        ConfigError: unknown mode.
    """
    confusion, foreground = _foreground(_checked(confusion), background)
    _check_mode(mode)
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
        mode: absent classes are left out of the mean (`correct`) or make it NaN (`faithful`).

    Raises:
        InputError: no confusion matrix, an empty one, or a background that is no class.
        ConfigError: unknown mode.
    """
    _check_mode(mode)
    scores = intersection_over_union(confusion)
    if background is not None:
        scores = scores[_foreground(_checked(confusion), background)[1]]
    if mode == "correct":
        scores = scores[~np.isnan(scores)]
    return _share(scores.sum(), float(len(scores)))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def _checked(confusion: np.ndarray) -> np.ndarray:
    confusion = np.asarray(confusion, np.float64)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or not confusion.size:
        raise InputError(f"a confusion matrix has a row and a column for each class, got shape {confusion.shape}")
    if not (np.isfinite(confusion).all() and (confusion >= 0).all() and confusion.sum() > 0):
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


def _check_mode(mode: str) -> None:
    if mode not in get_args(Mode):
        raise ConfigError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
