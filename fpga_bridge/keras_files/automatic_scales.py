r"""Weights of alpha="auto_po2": words and the power of two for each channel that QKeras finds by least squares.

For words $q$ of weights $x$ the best scale is $\sum x q / \sum q^2$, rounded to a power of two; for the scale the words
are found anew, a fixed number of times. All of it is float32, as QKeras 0.9.0 (the version that pip installs) computes
it: with another precision a power of two next to a tie would be another one.

A vector has one scale to begin with, and from the first least squares on one for each element.

References:
    Coelho et al., arXiv:2006.10159 (QKeras).
    Li and Liu, "Ternary weight networks", arXiv:1605.04711, section 2.2: threshold and scale of three values.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

_EPSILON = np.float32(1e-7)  # of Keras, below which logarithms are not taken
_BITS_ITERATIONS = 5


class ScaledWords(NamedTuple):
    """Weights as `words * scale`: small integers, and powers of two that broadcast to them."""

    words: Float32[np.ndarray, "*shape"]
    scale: Float32[np.ndarray, "*_broadcast"]


def binary_words(
    x: Float32[np.ndarray, "*window channel"], use_01: bool, limits: tuple[int | None, int | None] = (None, None)
) -> ScaledWords:
    """Signs, that of zero being 1; or 0 and 1.

    Args:
        x: weights, channels last.
        use_01: 0 in place of -1.
        limits: least and largest exponent of a scale.
    """
    words = np.where(x < 0, np.float32(0 if use_01 else -1), np.float32(1))
    return ScaledWords(words, _least_squares(x, words, limits))


def ternary_words(x: Float32[np.ndarray, "*window channel"], iterations: int) -> ScaledWords:
    """Signs where the size is more than half of the scale, which is at first two thirds of the largest size.

    Args:
        x: weights, channels last.
        iterations: of scale and words, at least 1. The words are those of the last scale but one.
    """
    words, scale = x, _nearest_power(2 * _largest(x) / np.float32(3))
    for _ in range(iterations):
        words = np.sign(x) * np.minimum(np.rint(np.abs(x) / scale), np.float32(1))
        scale = _least_squares(x, words)
    return ScaledWords(words, scale)


def bits_words(
    x: Float32[np.ndarray, "*window channel"],
    largest: int,
    *,
    anew: bool = False,
    limits: tuple[int | None, int | None] = (None, None),
) -> ScaledWords:
    """Words of `quantized_bits`, rounded to nearest and half away from zero, at most so large.

    Args:
        x: weights in units of 2^integer, channels last.
        largest: word.
        anew: whether the words are found once more for the last scale, as QKeras does since 0.9.0.
        limits: least and largest exponent of a scale.
    """
    words, scale = x, _nearest_power(_largest(x) * 2 / np.float32(2 * largest))
    for _ in range(_BITS_ITERATIONS):
        words = rounded_words(x, scale, largest)
        scale = _least_squares(x, words, limits)
    return ScaledWords(rounded_words(x, scale, largest) if anew else words, scale)


def rounded_words(
    x: Float32[np.ndarray, "*shape"], scale: Float32[np.ndarray, "*_broadcast"], largest: int
) -> Float32[np.ndarray, "*shape"]:
    """The nearest words, half away from zero, at most so large."""
    return np.sign(x) * np.minimum(np.floor(np.abs(x) / scale + np.float32(0.5)), np.float32(largest))


def _largest(x: np.ndarray) -> np.ndarray:
    axes = tuple(range(x.ndim - 1)) if x.ndim > 1 else None
    return np.abs(x).max(axes, keepdims=True)


def _least_squares(
    x: np.ndarray, words: np.ndarray, limits: tuple[int | None, int | None] = (None, None)
) -> np.ndarray:
    over, under = x * words, words * words
    if x.ndim > 1:
        axes = tuple(range(x.ndim - 1))
        over, under = over.mean(axes, keepdims=True), under.mean(axes, keepdims=True)
    low, high = (None if exponent is None else 2.0**exponent for exponent in limits)
    return np.clip(_nearest_power(over / (under + _EPSILON)), low, high)


def _nearest_power(scale: np.ndarray) -> np.ndarray:
    exponent = np.rint(np.log(scale + _EPSILON, dtype=np.float32) / np.float32(np.log(2.0)))
    return np.exp2(exponent).astype(np.float32)
