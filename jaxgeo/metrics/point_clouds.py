"""Chamfer distance: how far the points of two clouds are from the other cloud, on average.

Convention: the mean over the predicted points of the squared distance to the nearest target, plus the mean over the
targets of the squared distance to the nearest predicted point; square metres where points are in metres. So it is in
arXiv:2307.07313. Plain distances, either mean alone, and weighted means are options. The two means see different
faults: predicted points far from anything, and parts of the scene that no predicted point is near.

A point of weight 0 is not in its cloud: neither does it count nor is it anyone's neighbour. So clouds of one shape,
with background where some pixels are, need no cutting out. Of several pairs of clouds the published number is the mean.

Large clouds take long. With `max_points` each mean is estimated from so many points of its cloud, drawn once and for
all, while neighbours are still looked for among all points of the other: thinning both clouds would lengthen every
distance, this only adds the scatter of a sample.

References:
    Fan et al., "A Point Set Generation Network for 3D Object Reconstruction from a Single Image", arXiv:1612.00603.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial import KDTree

from jaxgeo.errors import InputError, check_one_of, check_whole
from jaxgeo.metrics.information import at_least_float32

Distances = Literal["squared", "plain"]
Direction = Literal["both", "to_target", "to_prediction"]
Method = Literal["tree", "chunked"]

CHUNK_SIZE = 2048  # points: a block of distances is 16 MiB in float32


class DirectedChamfer(NamedTuple):
    """The two means, in square metres or metres by the measure."""

    to_target: float  # over predicted points, of the distance to the nearest target
    to_prediction: float  # over targets, of the distance to the nearest predicted point


def chamfer_distance(
    prediction: Float[Array, "predicted axis"] | Float[np.ndarray, "predicted axis"],
    target: Float[Array, "point axis"] | Float[np.ndarray, "point axis"],
    *,
    prediction_weights: Float[Array, " predicted"] | Float[np.ndarray, " predicted"] | None = None,
    target_weights: Float[Array, " point"] | Float[np.ndarray, " point"] | None = None,
    measure: Distances = "squared",
    direction: Direction = "both",
    method: Method = "tree",
    chunk_size: int = CHUNK_SIZE,
    max_points: int | None = None,
) -> float:
    """The Chamfer distance of two clouds.

    Args:
        prediction: points, in metres.
        target: points, in metres, of as many coordinates.
        prediction_weights: of the points, at least 0 (areas of their pixels); by default 1.
        target_weights: as those.
        measure: squared distances, or distances.
        direction: the sum of both means, or one of them.
        method: `tree`, on the host in float64 with a k-d tree; or `chunked`, all pairs on the device in the points'
            dtype, `chunk_size` times `chunk_size` at a time.
        chunk_size: points at a time.
        max_points: of each cloud whose distances are taken, in the mean; all by default.

    Raises:
        InputError: clouds of other shapes, points that are not finite (of weight above 0), weights that are negative,
            not finite or not as many, a cloud without points.
        ConfigError: unknown option, or chunks or means without points.
    """
    check_one_of("direction", direction, Direction)
    directed = directed_chamfer(
        prediction,
        target,
        prediction_weights=prediction_weights,
        target_weights=target_weights,
        measure=measure,
        method=method,
        chunk_size=chunk_size,
        max_points=max_points,
    )
    return sum(directed) if direction == "both" else directed._asdict()[direction]


def directed_chamfer(
    prediction: Float[Array, "predicted axis"] | Float[np.ndarray, "predicted axis"],
    target: Float[Array, "point axis"] | Float[np.ndarray, "point axis"],
    *,
    prediction_weights: Float[Array, " predicted"] | Float[np.ndarray, " predicted"] | None = None,
    target_weights: Float[Array, " point"] | Float[np.ndarray, " point"] | None = None,
    measure: Distances = "squared",
    method: Method = "tree",
    chunk_size: int = CHUNK_SIZE,
    max_points: int | None = None,
) -> DirectedChamfer:
    """Both means apart; arguments and errors as for `chamfer_distance`."""
    check_one_of("measure", measure, Distances)
    check_one_of("method", method, Method)
    check_whole("chunk_size", chunk_size)
    if max_points is not None:
        check_whole("max_points (None takes all points)", max_points)
    first, first_weights = _cloud(prediction, prediction_weights, "prediction")
    second, second_weights = _cloud(target, target_weights, "target")
    if first.shape[1] != second.shape[1]:
        raise InputError(
            f"points of both clouds need as many coordinates, got {first.shape[1]} of the prediction and "
            f"{second.shape[1]} of the target"
        )
    nearest = _tree_distances if method == "tree" else functools.partial(_chunked_distances, chunk_size=chunk_size)

    def mean(points: np.ndarray, others: np.ndarray, weights: np.ndarray) -> float:
        if max_points is not None and len(points) > max_points:
            # One stream for all: the same clouds have the same distance.
            drawn = np.random.default_rng(0).choice(len(points), max_points, replace=False)
            points, weights = points[drawn], weights[drawn]
        squared = nearest(points, others)
        distances = squared if measure == "squared" else np.sqrt(squared)
        return float(np.average(distances, weights=weights))

    return DirectedChamfer(mean(first, second, first_weights), mean(second, first, second_weights))


def nearest_squared_distances(
    points: Float[Array, "point axis"], others: Float[Array, "other axis"], chunk_size: int = CHUNK_SIZE
) -> Float[Array, " point"]:
    """Squared distance from each point to the nearest of the others, all pairs in blocks; for `jax.jit`.

    Memory is a block, chunk_size^2, whatever the clouds' sizes. Differences are squared as they are: the shorter
    |x|^2 - 2 x y + |y|^2 has no digit left of a centimetre at a hundred metres in float32. A point whose coordinates
    are infinite is nobody's neighbour.

    Args:
        points: finite.
        others: at least one; not NaN.
        chunk_size: points, and others, at a time; static.
    """
    points, others = at_least_float32(points), at_least_float32(others)
    count, axes = points.shape
    rows = _chunks(points, min(chunk_size, count), 0.0)
    columns = _chunks(others, min(chunk_size, others.shape[0]), jnp.inf)

    def nearest(chunk: Float[Array, "point axis"]) -> Float[Array, " point"]:
        def step(least: Float[Array, " point"], block: Float[Array, "other axis"]):
            # Axis by axis, so that no array (point, other, axis) arises.
            squared = sum(jnp.square(chunk[:, None, axis] - block[None, :, axis]) for axis in range(axes))
            return jnp.minimum(least, jnp.min(jnp.asarray(squared), axis=1)), None

        return jax.lax.scan(step, jnp.full(chunk.shape[0], jnp.inf, chunk.dtype), columns)[0]

    return jax.lax.map(nearest, rows).reshape(-1)[:count]


def _chunks(points: Float[Array, "point axis"], size: int, fill: float) -> Float[Array, "chunk size axis"]:
    missing = -points.shape[0] % size
    return jnp.pad(points, ((0, missing), (0, 0)), constant_values=fill).reshape(-1, size, points.shape[1])


_nearest = jax.jit(nearest_squared_distances, static_argnames="chunk_size")


def _tree_distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    _, index = KDTree(others).query(points.astype(np.float64))
    return np.square(points.astype(np.float64) - others[index]).sum(axis=1)


def _chunked_distances(points: np.ndarray, others: np.ndarray, chunk_size: int) -> np.ndarray:
    # Whole chunks here already, so that clouds of nearly one size share a compiled program.
    padded = (_padded(points, chunk_size, 0.0), _padded(others, chunk_size, np.inf))
    return np.asarray(_nearest(*padded, chunk_size=chunk_size), np.float64)[: len(points)]


def _padded(points: np.ndarray, size: int, fill: float) -> np.ndarray:
    return np.pad(points, ((0, -len(points) % size), (0, 0)), constant_values=fill)


def _cloud(points: Array | np.ndarray, weights: Array | np.ndarray | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of weight above 0, and their weights in float64."""
    points = np.asarray(points)
    if points.ndim != 2 or not points.shape[1]:
        raise InputError(f"the {name} must be points, shape (point, coordinate), got {points.shape}")
    weights = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != points.shape[:1]:
        raise InputError(f"the {len(points)} points of the {name} need as many weights, got shape {weights.shape}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError(f"weights of the {name} must be finite and at least 0, got {weights.min()} to {weights.max()}")
    inside = weights > 0
    if not inside.any():
        raise InputError(
            f"a distance needs points in both clouds, got none of weight above 0 among the {len(points)} of the {name}"
        )
    bad = inside & ~np.isfinite(points).all(axis=1)
    if bad.any():
        first = int(np.argmax(bad))
        raise InputError(
            f"the {name} must be finite, got {int(bad.sum())} points that are not, the first at index {first} "
            f"({points[first]}); give background weight 0"
        )
    return points[inside], weights[inside]
