"""Many comparisons judged together, so that chance alone seldom lets any of them pass.

Of 60 comparisons between equal things, each at two standard errors, some pass in most studies. A family-wise level
bounds the probability that any comparison without a true difference passes, whatever their dependence.

References:
    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from jaxgeo.errors import ConfigError, InputError

LEVEL = 0.05


def two_sided_p(difference: float, error: float, margin: float = 0.0) -> float:
    """Probability of at least this |difference| from a normal of that standard error, were the truth within a margin.

    An upper bound over all true differences of at most the margin; 1 where the difference does not exceed it.

    Args:
        difference: the estimate.
        error: its standard error, at least 0.
        margin: what a true difference must exceed to count, at least 0, in the same unit.

    Raises:
        InputError: NaN, or a negative error or margin.
    """
    if math.isnan(difference) or not (error >= 0 and margin >= 0):
        raise InputError(
            f"a comparison needs a number, an error and a margin of at least 0, got {difference}, {error} and {margin}"
        )
    excess = abs(difference) - margin
    if excess <= 0:
        return 1.0
    return math.erfc(excess / error / math.sqrt(2)) if error > 0 else 0.0


def holm(
    p_values: Float[np.ndarray, " comparison"] | Sequence[float], level: float = LEVEL
) -> Bool[np.ndarray, " comparison"]:
    """Which comparisons pass: the smallest of n p-values at level / n, the next at level / (n - 1), until one fails.

    Args:
        p_values: of each comparison, in [0, 1].
        level: probability that any comparison without a difference passes, in (0, 1).

    Raises:
        InputError: what is no p-value.
        ConfigError: an impossible level.
    """
    if not 0 < level < 1:
        raise ConfigError(f"a level lies between 0 and 1, got {level}; {LEVEL} is customary")
    p_values = np.asarray(p_values)
    if p_values.ndim != 1 or p_values.dtype.kind not in "iuf" or not ((p_values >= 0) & (p_values <= 1)).all():
        raise InputError(f"p-values are one axis of numbers from 0 to 1, got {p_values!r}")
    order = np.argsort(p_values, kind="stable")
    failed = p_values[order] > level / np.arange(len(order), 0, -1)
    passed = np.zeros(len(order), bool)
    passed[order] = ~np.logical_or.accumulate(failed)
    return passed
