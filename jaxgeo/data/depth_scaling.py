"""From depths in metres to what a network is trained on, and back: a transform, then a linear normalisation.

Works on NumPy arrays where data are made and on JAX arrays where predictions come back to metres, in their dtype.

Two modes. `correct`: what is no depth (background at infinity, zero, negative, NaN) is not finite after scaling, so
that losses and metrics count it nowhere, and no prediction is beyond `limit`. `faithful`, as published with
arXiv:2307.07313: the logarithm of zero is minus infinity, and what is to be inverted counts as zero below 0.001, forth
and back. Background then has inverse depth 0, which is finite, so that losses do count it; depths below a millimetre
become infinite instead, and predictions beyond a kilometre are background.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError, check_fields, check_one_of
from jaxgeo.modes import Mode

Transform = Literal["none", "log", "inverse"]
Normalisation = Literal["none", "standardise", "min_max"]

SYN_WOODSCAPE_BACKGROUND = 1000.0  # metres: what its files hold where there is only sky
_SMALLEST = 1e-3  # that the published program inverts, in m and in 1/m


@dataclasses.dataclass(frozen=True)
class DepthStatistics:
    """Of transformed depths: in metres, their logarithms, or 1/m. `deviation` is that of the population."""

    minimum: float
    maximum: float
    mean: float
    deviation: float

    def __post_init__(self):
        check_fields(self, deviation=0)
        if not self.minimum <= self.mean <= self.maximum:
            raise ConfigError(f"statistics are numbers with minimum <= mean <= maximum, got {self}")


# Of the depth maps of SynWoodScape (arXiv:2203.05056), as published with the program of arXiv:2307.07313: by transform,
# and whether the background was left out or counted with its 1000 m.
_PUBLISHED = {
    ("none", False): DepthStatistics(0.16296708583831787, 999.94287109375, 53.27547067117465, 195.83201099547819),
    ("none", True): DepthStatistics(0.16296708583831787, 999.94287109375, 13.654291032986958, 29.58008801108711),
    ("log", False): DepthStatistics(-1.8142070770263672, 6.907755374908447, 1.4544509182015166, 2.0786484162088192),
    ("log", True): DepthStatistics(-1.8142070770263672, 6.907698154449463, 1.226225759977343, 1.7902344298584563),
    ("inverse", False): DepthStatistics(0.001, 6.136208534240723, 0.9910007833745446, 1.449026079271616),
    ("inverse", True): DepthStatistics(
        0.0010000570910051465, 6.136208534240723, 1.0324331088958505, 1.4645187100900352
    ),
}


@dataclasses.dataclass(frozen=True)
class DepthScaling:
    """How depths are scaled.

    Raises:
        ConfigError: an unknown name, a normalisation without statistics or with a spread of zero, a limit not above 0.
    """

    transform: Transform = "none"
    normalisation: Normalisation = "none"
    statistics: DepthStatistics | None = None  # of the transformed depths
    limit: float = math.inf  # metres: no prediction is beyond; not in `faithful` mode
    mode: Mode = "correct"

    def __post_init__(self):
        check_fields(self, limit=(0, math.inf))
        if not self.limit > 0:
            raise ConfigError(f"the limit is the largest depth in metres, above 0, got {self.limit}")
        if self.normalisation != "none" and self.statistics is None:
            raise ConfigError(
                f"normalisation {self.normalisation!r} needs the statistics of the depths: depth_statistics(maps, "
                f"{self.transform!r}), or published_statistics for SynWoodScape"
            )
        if not self.scale > 0:
            raise ConfigError(
                f"depths of equal values cannot be normalised, got {self.statistics}; take normalisation 'none'"
            )

    @property
    def offset(self) -> float:
        """What is taken from transformed depths."""
        if self.statistics is None or self.normalisation == "none":
            return 0.0
        return self.statistics.mean if self.normalisation == "standardise" else self.statistics.minimum

    @property
    def scale(self) -> float:
        """What they are then divided by."""
        if self.statistics is None or self.normalisation == "none":
            return 1.0
        if self.normalisation == "standardise":
            return self.statistics.deviation
        return self.statistics.maximum - self.statistics.minimum


def published_statistics(transform: Transform, masked: bool) -> DepthStatistics:
    """Statistics of SynWoodScape as published.

    Args:
        transform: of the depths.
        masked: without background (which must then be infinite: `mask_background`), or with it at 1000 m.
    """
    check_one_of("transform", transform, Transform)
    return _PUBLISHED[transform, masked]


def mask_background(
    depths: Float[np.ndarray, "*pixel"], background: float = SYN_WOODSCAPE_BACKGROUND
) -> Float[np.ndarray, "*pixel"]:
    """Infinite where a file holds the depth that stands for background, in the same dtype."""
    return np.where(depths == background, np.asarray(np.inf, depths.dtype), depths)


def scale_depths(
    scaling: DepthScaling, depths: Float[Array, "*pixel"] | Float[np.ndarray, "*pixel"]
) -> Float[Array, "*pixel"] | Float[np.ndarray, "*pixel"]:
    """From metres to what a network predicts; what is no depth does not become finite (see the modes above)."""
    xp = depths.__array_namespace__()
    transformed = _transformed(xp, depths, scaling.transform, scaling.mode)
    return (transformed - scaling.offset) / scaling.scale


def unscale_depths(
    scaling: DepthScaling, values: Float[Array, "*pixel"] | Float[np.ndarray, "*pixel"]
) -> Float[Array, "*pixel"] | Float[np.ndarray, "*pixel"]:
    """The inverse: from a network's numbers to metres.

    In `correct` mode infinite values stay infinite and finite ones give at most `limit`; so do inverse depths of zero
    and below, which lie beyond every distance. NaN stays NaN.
    """
    xp = values.__array_namespace__()
    transformed = values * scaling.scale + scaling.offset
    if scaling.mode == "faithful":
        with np.errstate(over="ignore"):
            return xp.exp(transformed) if scaling.transform == "log" else _published(xp, transformed, scaling.transform)
    if scaling.transform == "log":
        # Where the exponential would overflow, of which NumPy warns, there is the limit or infinity.
        top = math.log(min(scaling.limit, 0.999 * float(xp.finfo(values.dtype).max)))
        depths = xp.where(transformed > top, scaling.limit, xp.exp(xp.minimum(transformed, top)))
    elif scaling.transform == "inverse":
        depths = _reciprocal(xp, transformed, scaling.limit)
    else:
        depths = transformed
    # Comparisons and not `minimum`: a NaN stays what it is.
    return xp.where(xp.isinf(values), math.inf, xp.where(depths > scaling.limit, scaling.limit, depths))


def unscale_log_variances(
    scaling: DepthScaling,
    log_variances: Float[Array, "*pixel"] | Float[np.ndarray, "*pixel"],
    depths: Float[Array, "*pixel"] | Float[np.ndarray, "*pixel"],
) -> Float[Array, "*pixel"] | Float[np.ndarray, "*pixel"]:
    r"""Logarithms of variances of scaled depths as those of depths in square metres, to first order in the deviation.

    $\log \sigma^2 + 2 \log |\partial d / \partial z|$ at the depth $d$ of the scaled $z$: exact without a transform. In
    `faithful` mode they stay what they are, as published, where deviations are of scaled depths.

    Args:
        scaling: of the depths.
        log_variances: of scaled depths.
        depths: of the same pixels in metres, from `unscale_depths`; where the slope depends on them and they are
            infinite or not above 0, infinity comes out.
    """
    if scaling.mode == "faithful":
        return log_variances
    power = {"none": 0, "log": 1, "inverse": 2}[scaling.transform]  # |d depth / d transformed| = depth^power
    in_units = log_variances + 2 * math.log(scaling.scale)
    if not power:
        return in_units
    xp = depths.__array_namespace__()
    usable = (depths > 0) & (depths < math.inf)
    return xp.where(usable, in_units + 2 * power * xp.log(xp.where(usable, depths, 1)), math.inf)


def depth_statistics(
    maps: Iterable[Float[np.ndarray, "..."]], transform: Transform = "none", mode: Mode = "correct"
) -> DepthStatistics:
    """Statistics of the transformed depths that are finite, in float64, one map after another.

    Call `mask_background` on each map first, or else its background counts as any depth.

    Raises:
        InputError: no depth is finite.
        ConfigError: unknown transform or mode.
    """
    scaling = DepthScaling(transform=transform, mode=mode)
    count, mean, squares, minimum, maximum = 0, 0.0, 0.0, math.inf, -math.inf
    for depths in maps:
        values = np.asarray(scale_depths(scaling, np.asarray(depths, np.float64)))
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        minimum, maximum = min(minimum, float(values.min())), max(maximum, float(values.max()))
        # Means and squared deviations of two parts combined (Chan, Golub and LeVeque 1979): no large sums of squares.
        total = count + values.size
        step = float(values.mean()) - mean
        squares += float(np.sum(np.square(values - values.mean()))) + step**2 * count * values.size / total
        mean += step * values.size / total
        count = total
    if not count:
        raise InputError("statistics need a finite depth, got none; background is infinite, void is NaN")
    return DepthStatistics(minimum, maximum, min(max(mean, minimum), maximum), math.sqrt(squares / count))


def _transformed(xp: Any, depths: Any, transform: Transform, mode: Mode) -> Any:
    if mode == "faithful":
        return _published(xp, depths, transform)
    is_depth = (depths > 0) & (depths < math.inf)
    safe = xp.where(is_depth, depths, 1)
    if transform == "log":
        safe = xp.log(safe)
    elif transform == "inverse":
        safe = _reciprocal(xp, safe, math.inf)
    return xp.where(is_depth, safe, math.inf)


def _published(xp: Any, depths: Any, transform: Transform) -> Any:
    if transform == "none":
        return depths
    if transform == "log":
        with np.errstate(divide="ignore", invalid="ignore"):
            return xp.log(depths)
    inverse = 1 / xp.where(depths < _SMALLEST, 1, depths)
    return xp.where(depths < _SMALLEST, math.inf, inverse)


def _reciprocal(xp: Any, values: Any, otherwise: float) -> Any:
    # Reciprocals of subnormal numbers overflow.
    large = values >= xp.finfo(values.dtype).tiny
    return xp.where(large, 1 / xp.where(large, values, 1), xp.where(xp.isnan(values), values, otherwise))
