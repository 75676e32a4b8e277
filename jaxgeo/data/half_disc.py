"""Points of the plane, labelled by a disc and seen in one half only: what does a posterior believe about the rest?

The toy of Balabanov, Mehlig and Linander, "Bayesian posterior approximation with stochastic ensembles",
arXiv:2212.08123: training points lie in [0, 3] x [-3, 3] and have label 1 inside of the disc |x| < 2.4. Posteriors are
compared on ten domains that lead away from them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxgeo.errors import InputError, check_whole

RADIUS = 2.4
HALF_WIDTH = 3.0
NUM_DOMAINS = 10


class LabelledPoints(NamedTuple):
    """Points with their classes, on the host."""

    points: Float[np.ndarray, "point 2"]  # float32
    labels: Int[np.ndarray, " point"]  # int32, 1 inside of the disc


def half_disc(num_points: int, seed: int) -> LabelledPoints:
    """Training points, uniform in [0, 3] x [-3, 3].

    Raises:
        InputError: fewer than one point, or a negative seed.
    """
    points = domain(0, num_points, seed)
    return LabelledPoints(points, inside_disc(points))


def inside_disc(points: Float[np.ndarray, "point 2"]) -> Int[np.ndarray, " point"]:
    """1 where |x| < 2.4, else 0."""
    return (np.linalg.norm(points.astype(np.float64), axis=1) < RADIUS).astype(np.int32)


def domain(number: int, num_points: int, seed: int) -> Float[np.ndarray, "point 2"]:
    """Points of one of the ten domains, uniform, float32.

    Args:
        number: 0 the half that training sees, x1 in [0, 3] and x2 in [-3, 3]; 1 its mirror image, x1 in [-3, 0];
            s >= 2 the ring between the squares of half-widths 3 (s - 1) and 3 s about the origin.
        num_points: at least one.
        seed: of the points; domains of one seed are independent of each other.

    Raises:
        InputError: another number, fewer than one point, or a negative seed.
    """
    check_whole("the number of a domain", number, 0, NUM_DOMAINS - 1, error=InputError)
    check_whole("the number of points", num_points, error=InputError)
    check_whole("the seed", seed, 0, error=InputError)
    rng = np.random.default_rng([seed, number])
    if number < 2:
        low = np.array([0.0 if number == 0 else -HALF_WIDTH, -HALF_WIDTH])
        return (low + rng.random((num_points, 2)) * [HALF_WIDTH, 2 * HALF_WIDTH]).astype(np.float32)
    return _ring(rng, HALF_WIDTH * (number - 1), HALF_WIDTH * number, num_points).astype(np.float32)


def _ring(rng: np.random.Generator, inner: float, outer: float, num_points: int) -> Float[np.ndarray, "point 2"]:
    # Four equal rectangles, each a quarter turn from the last, tile the ring: no point is drawn in vain.
    along, across = rng.random((2, num_points))
    x = inner + (outer - inner) * across
    y = -inner + (outer + inner) * along
    quarter = rng.integers(4, size=num_points)
    cos, sin = np.array([1, 0, -1, 0])[quarter], np.array([0, 1, 0, -1])[quarter]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)
