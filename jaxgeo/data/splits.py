"""Training and validation parts of a data set by name, and nested parts of the training part.

Names are sorted, then permuted by `numpy.random.RandomState(seed)` (whose streams NumPy promises to keep), then cut; so
the parts depend on the set of names and the seed alone.

Two modes. `correct`: the training part is the first ceil(share N) names and validation the rest, shares being read as
the decimal numbers that they are written as. `faithful`: as published, where the training part runs to place
floor(share N) inclusive and validation starts at ceil(share N): whenever share N is whole, one image is in both.
Without that image the two modes agree.

References:
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", arXiv:2307.07313, and its program.
"""

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from jaxgeo.errors import ConfigError, InputError, check_one_of
from jaxgeo.modes import Mode

TRAIN_SHARE = 0.8
SPLIT_SEED = 42
# Of the published study of data efficiency; its seed was 2, another run's 3.
EFFICIENCY_FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
EFFICIENCY_SEED = 2


class Split(NamedTuple):
    """Names of the two parts, in the order of the permutation."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def split(
    names: Sequence[str],
    share: float = TRAIN_SHARE,
    seed: int | None = SPLIT_SEED,
    mode: Mode = "correct",
) -> Split:
    """Names for training and for validation.

    Args:
        names: all different, in any order.
        share: of training, 0..1; at 0 or 1 one part is empty.
        seed: of the permutation; None keeps the names sorted.
        mode: `correct`, or `faithful` to the published cut, with an image in both parts where share N is whole.

    Raises:
        ConfigError: a share outside of 0..1, an unknown mode.
        InputError: no names, a name twice, or so few that a part would be empty though its share is not.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of training must lie between 0 and 1, got {share}")
    check_one_of("the mode of a split", mode, Mode)
    ordered = _sorted_names(names)
    if seed is not None:
        ordered = [ordered[i] for i in _permutation(len(ordered), seed)]
    if mode == "faithful":
        # The published program computes in floating point.
        product = len(ordered) * share
        end, start = math.floor(product) + 1, math.ceil(product)
    else:
        end = start = math.ceil(len(ordered) * _exact(share))
    parts = Split(tuple(ordered[:end]), tuple(ordered[start:]))
    if 0 < share < 1 and not all(parts):
        raise InputError(
            f"{len(ordered)} images split at a share of {share} leave {len(parts.train)} for training and "
            f"{len(parts.validation)} for validation; give more images or another share"
        )
    return parts


def training_subset(
    train: Sequence[str], fraction: float, seed: int = EFFICIENCY_SEED, mode: Mode = "correct"
) -> tuple[str, ...]:
    """The first ceil(fraction N) names of a permutation of the training part: for one seed, small parts lie in large.

    Args:
        train: `Split.train`; its order counts.
        fraction: above 0, up to 1; the published study took each of `EFFICIENCY_FRACTIONS`.
        seed: another seed, another family of nested parts.
        mode: `faithful` rounds the product in floating point, which may take one image more.

    Raises:
        ConfigError: a fraction outside of 0..1 or 0, an unknown mode.
        InputError: no names, or a name twice.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"the fraction of the training images must lie above 0 and not above 1, got {fraction}")
    check_one_of("the mode of a split", mode, Mode)
    _sorted_names(train)
    exact = fraction if mode == "faithful" else _exact(fraction)
    count = math.ceil(len(train) * exact)
    return tuple(str(train[i]) for i in _permutation(len(train), seed)[:count])


def _permutation(length: int, seed: int) -> np.ndarray:
    # The legacy generator, because the published parts were drawn by it; its streams never change.
    return np.random.RandomState(seed).permutation(length)


def _exact(share: float) -> Fraction:
    # 0.07 * 100 is 7.000000000000001 in floating point; what was meant is 7.
    return Fraction(repr(float(share)))


def _sorted_names(names: Sequence[str]) -> list[str]:
    if not len(names):
        raise InputError("there are no names to split")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise InputError(
            f"names must be different, so that no image is in two parts; {len(repeated)} come more than once, "
            f"the first is {repeated[0]!r}"
        )
    return sorted(str(name) for name in names)
