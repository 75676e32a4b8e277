r"""Weights of alpha="auto_po2" and "auto": words and the scale for each channel that QKeras finds by least squares.

For words $q$ of weights $x$ the best scale is $\sum x q / \sum q^2$, with "auto_po2" rounded to a power of two; for the
scale the words are found anew, a fixed number of times. Words of `quantized_bits` with "auto" take the scale that makes
the largest weight the largest word. All of it is float32, as QKeras 0.9.0 (the version that pip installs) computes it:
with another precision a power of two next to a tie would be another one.

A vector has one scale to begin with, and from the first least squares on one for each element.

References:
    Coelho et al., arXiv:2006.10159 (QKeras).
    Li and Liu, "Ternary weight networks", arXiv:1605.04711, section 2.2: threshold and scale of three values.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

_EPSILON = np.float32(1e-7)  # of Keras, below which logarithms are not taken
_BITS_ITERATIONS = 5


class ScaledWords(NamedTuple):
    """Weights as `words * scale`: small integers, and scales that broadcast to them."""

    words: Float32[np.ndarray, "*shape"]
    scale: Float32[np.ndarray, "*_broadcast"]


def is_power_of_two(value: float) -> bool:
    """Whether a number is 2 to a whole power."""
    return value > 0 and math.isfinite(value) and math.frexp(value)[0] == 0.5


def binary_words(
    x: Float32[np.ndarray, "*window channel"],
    use_01: bool,
    limits: tuple[int | None, int | None] = (None, None),
    *,
    powers: bool = True,
) -> ScaledWords:
    """Signs, that of zero being 1; or 0 and 1.

    Args:
        x: weights, channels last.
        use_01: 0 in place of -1.
        limits: least and largest exponent of a scale that is a power of two.
        powers: whether scales are powers of two.
    """
    words = np.where(x < 0, np.float32(0 if use_01 else -1), np.float32(1))
    return ScaledWords(words, _least_squares(x, words, limits, powers=powers))


def ternary_words(x: Float32[np.ndarray, "*window channel"], iterations: int, *, powers: bool = True) -> ScaledWords:
    """Signs where the size is more than half of the scale, which is at first two thirds of the largest size.

    Args:
        x: weights, channels last.
        iterations: of scale and words, at least 1. The words are those of the last scale but one.
        powers: whether scales are powers of two.
    """
    words, scale = x, 2 * _largest(x) / np.float32(3)
    scale = _nearest_power(scale) if powers else scale
    for _ in range(iterations):
        words = np.sign(x) * np.minimum(np.rint(np.abs(x) / _divisor(scale)), np.float32(1))
        scale = _least_squares(x, words, powers=powers)
    return ScaledWords(words, scale)


def spread_words(x: Float32[np.ndarray, "*window channel"], largest: int) -> ScaledWords:
    """Words of `quantized_bits` whose scale makes the largest weight of a channel the largest word."""
    scale = _largest(x) * 2 / np.float32(2 * largest)
    return ScaledWords(rounded_words(x, scale, largest), scale)


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
    return np.sign(x) * np.minimum(np.floor(np.abs(x) / _divisor(scale) + np.float32(0.5)), np.float32(largest))


def _divisor(scale: np.ndarray) -> np.ndarray:
    """The scale, or 1 for a channel of zeros, whose words are 0 by any."""
    return np.where(scale == 0, np.float32(1), scale)


def _largest(x: np.ndarray) -> np.ndarray:
    axes = tuple(range(x.ndim - 1)) if x.ndim > 1 else None
    return np.abs(x).max(axes, keepdims=True)


def _least_squares(
    x: np.ndarray, words: np.ndarray, limits: tuple[int | None, int | None] = (None, None), *, powers: bool = True
) -> np.ndarray:
    over, under = x * words, words * words
    if x.ndim > 1:
        axes = tuple(range(x.ndim - 1))
        over, under = over.mean(axes, keepdims=True), under.mean(axes, keepdims=True)
    scale = over / (under + _EPSILON)
    if not powers:
        return scale
    low, high = (None if exponent is None else 2.0**exponent for exponent in limits)
    return np.clip(_nearest_power(scale), low, high)


def _nearest_power(scale: np.ndarray) -> np.ndarray:
    exponent = np.rint(np.log(scale + _EPSILON, dtype=np.float32) / np.float32(np.log(2.0)))
    return np.exp2(exponent).astype(np.float32)
