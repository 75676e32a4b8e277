"""Where a localised spherical kernel is sampled: lists of points of the sphere or of rotations, in radians.

Rows are (beta, alpha) on the sphere and (beta, alpha, gamma) on SO(3): a point of the sphere has colatitude beta and
longitude alpha, a rotation is R_z(alpha) R_y(beta) R_z(gamma). The lists and their order are those of the S2CNN family
(Cohen et al., "Spherical CNNs", arXiv:1801.10130), so that published weights keep their meaning.
"""

import math

import numpy as np
from jaxtyping import Float

from jaxgeo.errors import ConfigError, check_whole

IDENTITY = np.zeros((1, 3))
"""One point, the identity: the kernel of a shortcut, a 1 x 1 convolution."""


def s2_near_identity_points(
    max_beta: float = math.pi / 8, *, num_alpha: int = 8, num_beta: int = 3
) -> Float[np.ndarray, "point 2"]:
    """Rings around the north pole, the outermost at colatitude `max_beta`; the pole itself is left out."""
    return _product(_rings(max_beta, num_beta), _circle(num_alpha))


def so3_near_identity_points(
    max_beta: float = math.pi / 8,
    *,
    max_gamma: float = 2 * math.pi,
    num_alpha: int = 8,
    num_beta: int = 3,
    num_gamma: int | None = None,
) -> Float[np.ndarray, "point 3"]:
    """Rotations near the identity: a pole's move by up to `max_beta` and a twist alpha + gamma up to `max_gamma`.

    With the default `max_gamma` the first and the last twist are both full turns, the same rotation twice, as in the
    original program.

    Args:
        max_beta: largest distance that the pole moves.
        max_gamma: twists run from -max_gamma to max_gamma, both included.
        num_alpha: directions in which the pole moves.
        num_beta: distances by which it moves.
        num_gamma: twists, `num_alpha` by default.
    """
    twists = _line(0.0, max_gamma, num_alpha if num_gamma is None else num_gamma)
    points = _product(_rings(max_beta, num_beta), _circle(num_alpha), twists)
    return np.stack([points[:, 0], points[:, 1], points[:, 2] - points[:, 1]], axis=1)


def s2_equatorial_points(
    max_beta: float = 0.0, *, num_alpha: int = 32, num_beta: int = 1
) -> Float[np.ndarray, "point 2"]:
    """Rings around the equator, at colatitudes from pi/2 - max_beta to pi/2 + max_beta."""
    return _product(_line(math.pi / 2, max_beta, num_beta), _circle(num_alpha))


def so3_equatorial_points(
    max_beta: float = 0.0,
    *,
    max_gamma: float = math.pi / 8,
    num_alpha: int = 32,
    num_beta: int = 1,
    num_gamma: int = 2,
) -> Float[np.ndarray, "point 3"]:
    """Rotations that take the pole to rings around the equator, with gamma from -max_gamma to max_gamma."""
    return _product(_line(math.pi / 2, max_beta, num_beta), _circle(num_alpha), _line(0.0, max_gamma, num_gamma))


def s2_full_points(bandlimit: int) -> Float[np.ndarray, "point 2"]:
    """Every point of the SOFT grid of a bandlimit: a kernel without localisation."""
    return _product(_soft(bandlimit), _circle(2 * bandlimit))


def so3_full_points(bandlimit: int) -> Float[np.ndarray, "point 3"]:
    """Every rotation of the SOFT grid of a bandlimit."""
    return _product(_soft(bandlimit), _circle(2 * bandlimit), _circle(2 * bandlimit))


def _rings(max_beta: float, number: int) -> Float[np.ndarray, " beta"]:
    _check_points(num_beta=number)
    _check_extents(max_beta)
    return np.arange(1, number + 1) * max_beta / number


def _circle(number: int) -> Float[np.ndarray, " alpha"]:
    _check_points(num_alpha=number)
    return np.linspace(0.0, 2 * math.pi, number, endpoint=False)


def _line(centre: float, half_width: float, number: int) -> Float[np.ndarray, " point"]:
    _check_points(number_of_points=number)
    _check_extents(half_width)
    return np.linspace(centre - half_width, centre + half_width, number)


def _soft(bandlimit: int) -> Float[np.ndarray, " beta"]:
    _check_points(bandlimit=bandlimit)
    return (np.arange(2 * bandlimit) + 0.5) * math.pi / (2 * bandlimit)


def _check_points(**sizes: int) -> None:
    for name, size in sizes.items():
        check_whole(f"a kernel needs at least one point in each direction: {name}", size)


def _check_extents(extent: float) -> None:
    if not math.isfinite(extent):
        raise ConfigError(f"the extent of a kernel is a finite angle, got {extent}")


def _product(*axes: Float[np.ndarray, " _"]) -> Float[np.ndarray, "point angle"]:
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
