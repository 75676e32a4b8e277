"""Grids of parallels and meridians with quadrature that is exact: SOFT, Driscoll-Healy and Gauss-Legendre.

Everything here is float64 NumPy: a grid is geometry, from which plans build their tables. Angles are radians;
colatitudes run from north to south, longitudes are equidistant and begin at 0. Weights integrate over the cosine of the
colatitude, so that they sum to 2.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Float

from jaxgeo.errors import ConfigError, check_one_of, check_whole

Array = np.ndarray
GridName = Literal["soft", "driscoll_healy", "gauss_legendre"]


class LatLonGrid(eqx.Module):
    """Parallels with quadrature weights, times equidistant meridians."""

    colatitudes: Float[Array, " lat"]  # radians, north to south
    weights: Float[Array, " lat"]  # integrate over cos(colatitude): sum 2; exact for degrees < 2 bandlimit
    num_longitudes: int = eqx.field(static=True)
    bandlimit: int = eqx.field(static=True)  # products of two signals of degrees < bandlimit are integrated exactly
    name: GridName = eqx.field(static=True)
    first_longitude: float = eqx.field(static=True, default=0.0)

    @property
    def num_latitudes(self) -> int:
        """Number of parallels."""
        return len(self.colatitudes)

    @property
    def shape(self) -> tuple[int, int]:
        """(latitudes, longitudes)."""
        return self.num_latitudes, self.num_longitudes

    @property
    def longitudes(self) -> Float[Array, " lon"]:
        """Longitudes of the meridians in [0, 2 pi)."""
        return self.first_longitude + 2 * np.pi / self.num_longitudes * np.arange(self.num_longitudes)


def soft_grid(bandlimit: int) -> LatLonGrid:
    """2b x 2b points, colatitudes (j + 1/2) pi / 2b: no point on a pole, the south mirrors the north.

    Raises:
        ConfigError: the bandlimit is no positive whole number.

    References:
        Kostelec and Rockmore, "FFTs on the Rotation Group", J. Fourier Anal. Appl. 14 (2008).
    """
    check_bandlimit(bandlimit)
    colatitudes = (np.arange(2 * bandlimit) + 0.5) * np.pi / (2 * bandlimit)
    return _checked_grid(colatitudes, _equiangular_weights(bandlimit, colatitudes), 2 * bandlimit, bandlimit, "soft")


def driscoll_healy_grid(bandlimit: int) -> LatLonGrid:
    """2b x 2b points, colatitudes j pi / 2b: the first row is the north pole (of weight 0), the south pole has none.

    Raises:
        ConfigError: the bandlimit is no positive whole number.

    References:
        Driscoll and Healy, "Computing Fourier Transforms and Convolutions on the 2-Sphere", Adv. Appl. Math. 15 (1994).
    """
    check_bandlimit(bandlimit)
    colatitudes = np.arange(2 * bandlimit) * np.pi / (2 * bandlimit)
    weights = _equiangular_weights(bandlimit, colatitudes)
    return _checked_grid(colatitudes, weights, 2 * bandlimit, bandlimit, "driscoll_healy")


def gauss_legendre_grid(bandlimit: int, num_longitudes: int | None = None) -> LatLonGrid:
    """b parallels at the zeros of the Legendre polynomial P_b: half as many as an equiangular grid needs.

    Args:
        bandlimit: b; number of parallels.
        num_longitudes: at least 2b - 1, which is the default, to tell the orders |m| < b apart; an even number or one
            with small factors may have a faster Fourier transform.

    Raises:
        ConfigError: the bandlimit is no positive whole number, or the longitudes are none or too few.
    """
    check_bandlimit(bandlimit)
    least = 2 * bandlimit - 1
    longitudes = least if num_longitudes is None else num_longitudes
    check_whole("the number of longitudes", longitudes)
    if longitudes < least:
        raise ConfigError(
            f"a grid of bandlimit {bandlimit} needs at least 2 bandlimit - 1 = {least} longitudes to tell its orders "
            f"apart, got {longitudes}"
        )
    colatitudes, weights = gauss_legendre_nodes(bandlimit)
    return _checked_grid(colatitudes, weights, longitudes, bandlimit, "gauss_legendre")


GRIDS: dict[str, Callable[[int], LatLonGrid]] = {
    "soft": soft_grid,
    "driscoll_healy": driscoll_healy_grid,
    "gauss_legendre": gauss_legendre_grid,
}


def latlon_grid(name: GridName, bandlimit: int) -> LatLonGrid:
    """The grid of a name and a bandlimit.

    Raises:
        ConfigError: an unknown name, or the bandlimit is no positive whole number.
    """
    check_grid_name(name)
    return GRIDS[name](bandlimit)


def check_grid_name(name: str) -> None:
    """Refuse a name that no grid has.

    Raises:
        ConfigError: with the names that there are.
    """
    check_one_of("the name of a grid", name, GRIDS)


def check_bandlimit(bandlimit: Any, what: str = "the bandlimit") -> None:
    """Refuse what counts no degrees.

    Raises:
        ConfigError: no whole number, or less than 1.
    """
    check_whole(f"{what} counts degrees and", bandlimit)


def oversampled_bandlimit(bandlimit: int, oversampling: float | int) -> int:
    """Bandlimit of a grid that is finer by a factor, rounded up.

    Raises:
        ConfigError: a factor below 1 or not finite.
    """
    if not 1 <= oversampling < math.inf:
        raise ConfigError(f"oversampling is a finite factor of at least 1 on the grid's bandlimit, got {oversampling}")
    # 27 * 1.1 is 29.700000000000003: rounding up must not see the last bit.
    return math.ceil(bandlimit * oversampling - 1e-9)


def gauss_legendre_nodes(order: int) -> tuple[Float[Array, " node"], Float[Array, " node"]]:
    """Colatitudes of the zeros of P_order, north to south, and the weights of Gauss quadrature, which sum to 2.

    Newton's method in the colatitude itself, with a recursion in 1 - cos(theta) = 2 sin^2(theta / 2): the cosine of a
    node near a pole has forgotten half of its digits, and the weights with it.
    """
    check_bandlimit(order)
    count = (order + 1) // 2
    # Tricomi's start; off by O(order^-4), so that three steps of a method that squares the error are plenty.
    start = np.pi * (4 * np.arange(1, count + 1) - 1) / (4 * order + 2)
    theta = start + (order - 1) / (8 * order**3) / np.tan(start)
    for _ in range(5):
        value, slope = _legendre_and_slope(order, theta)
        theta = theta - value / slope
    if order % 2:
        theta[-1] = np.pi / 2
    _, slope = _legendre_and_slope(order, theta)
    weights = 2 / slope**2
    mirrored = slice(None, order // 2)
    colatitudes = np.concatenate([theta, np.pi - theta[mirrored][::-1]])
    return colatitudes, np.concatenate([weights, weights[mirrored][::-1]])


def legendre_polynomials(count: int, colatitudes: Float[Array, " lat"]) -> Float[Array, "degree lat"]:
    """P_l(cos theta) for l < count, accurate to a few units in the last place also near the north pole.

    Bonnet's recursion for the differences P_{l+1} - P_l (Reinsch's form), in sin^2(theta / 2) instead of the cosine;
    the south is the mirrored north.
    """
    polar = np.minimum(colatitudes, np.pi - colatitudes)
    values = np.ones((count, len(colatitudes)))
    twice_haversine, step = 2 * np.sin(polar / 2) ** 2, np.zeros_like(polar)
    for l in range(count - 1):
        step = (l * step - (2 * l + 1) * twice_haversine * values[l]) / (l + 1)
        values[l + 1] = values[l] + step
    values[1::2, colatitudes > polar] *= -1
    return values


def colatitude_mesh(grid: LatLonGrid) -> Float[Array, "lat lon"]:
    """Colatitude of every point."""
    return np.repeat(grid.colatitudes[:, None], grid.num_longitudes, axis=1)


def longitude_mesh(grid: LatLonGrid) -> Float[Array, "lat lon"]:
    """Longitude of every point."""
    return np.repeat(grid.longitudes[None], grid.num_latitudes, axis=0)


def pixel_vectors(grid: LatLonGrid) -> Float[Array, "lat lon 3"]:
    """Unit vectors (x, y, z) of all points."""
    sine, cosine = np.sin(grid.colatitudes)[:, None], np.cos(grid.colatitudes)[:, None]
    longitudes = grid.longitudes[None]
    x, y = sine * np.cos(longitudes), sine * np.sin(longitudes)
    return np.stack([x, y, np.broadcast_to(cosine, x.shape)], axis=-1)


def pixel_areas(grid: LatLonGrid) -> Float[Array, "lat lon"]:
    """Solid angle that each point stands for, in steradians: the quadrature on the sphere, with sum 4 pi."""
    return np.repeat(grid.weights[:, None] * (2 * np.pi / grid.num_longitudes), grid.num_longitudes, axis=1)


def _equiangular_weights(bandlimit: int, colatitudes: Float[Array, " lat"]) -> Float[Array, " lat"]:
    odd = 2 * np.arange(bandlimit) + 1
    series = (np.sin(odd[None] * colatitudes[:, None]) / odd[None]).sum(-1)
    return 2 / bandlimit * np.sin(colatitudes) * series


def _legendre_and_slope(
    order: int, colatitudes: Float[Array, " lat"]
) -> tuple[Float[Array, " lat"], Float[Array, " lat"]]:
    """P_order and its derivative by the colatitude, in the northern half."""
    twice_haversine = 2 * np.sin(colatitudes / 2) ** 2
    value, step = np.ones_like(colatitudes), np.zeros_like(colatitudes)
    for l in range(order):
        step = (l * step - (2 * l + 1) * twice_haversine * value) / (l + 1)
        value = value + step
    return value, order * (step - twice_haversine * value) / np.sin(colatitudes)


def _checked_grid(
    colatitudes: Float[Array, " lat"],
    weights: Float[Array, " lat"],
    num_longitudes: int,
    bandlimit: int,
    name: GridName,
) -> LatLonGrid:
    integrals = legendre_polynomials(2 * bandlimit, colatitudes) @ weights
    integrals[0] -= 2
    if np.abs(integrals).max() > 1e-13:
        raise AssertionError("the weights must integrate every P_l below twice the bandlimit")  # pragma: no cover
    return LatLonGrid(colatitudes, weights, num_longitudes, bandlimit, name)
