"""Scores of predictions on the sphere and in the plane, by pixels and by area.

Four spaces: the sphere itself; the plane, where the sphere's faces see it too (flat, masked); predictions of the sphere
carried into the picture; and those of a flat network carried onto the sphere, classes and depths by the nearest pixel.

The Chamfer distance of depths is that of `jaxgeo.metrics.point_clouds`, in square metres: of the points at the
predicted depths along the pixels' rays and those at the true depths along the same rays, of the pixels that count; both
directed means of squared distances added, found by a k-d tree on the host, and then the mean over pictures. A mean
takes the distances of at most CHAMFER_POINTS pixels, drawn once, to the nearest of all points of the other cloud.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.data.depth_scaling import unscale_depths
from jaxgeo.dense_prediction import viewing
from jaxgeo.dense_prediction.examples import Example, Examples
from jaxgeo.dense_prediction.problems import Predict, Problem
from jaxgeo.grids import stencils
from jaxgeo.metrics import depth as depth_metrics
from jaxgeo.metrics import segmentation
from jaxgeo.metrics.point_clouds import chamfer_distance

CHAMFER_POINTS = 20_000
_UNKNOWN = 255


def decisions(problem: Problem, outputs: np.ndarray) -> np.ndarray:
    """Classes, or depths in metres, from outputs (*pixel, output)."""
    if problem.scaling is None:
        return np.argmax(outputs, axis=-1).astype(np.int32)
    return np.asarray(unscale_depths(problem.scaling, outputs[..., 0]), np.float32)


class Tally:
    """Sums over examples in one space, from which all scores are taken."""

    def __init__(self, problem: Problem) -> None:
        """Of no example yet."""
        self._problem, self._sums = problem, {"pixel": [], "area": []}
        self._chamfer: dict[str, list[float]] = {"pixel": [], "area": []}

    def add(
        self, decided: np.ndarray, targets: np.ndarray, weights: np.ndarray, rays: np.ndarray | None = None
    ) -> None:
        """One example: decisions, targets, and weights, 0 where nothing counts.

        Rays, unit vectors (*pixel, 3), are for the Chamfer distance of depths, which takes longer than all the rest.
        """
        for name, each in (("pixel", (weights > 0).astype(np.float32)), ("area", weights.astype(np.float32))):
            if self._problem.scaling is None:
                self._sums[name].append(_confusion(decided, targets, each, len(self._problem.class_names)))
            else:
                # One axis of pixels: XLA takes up to a minute to compile sums over two.
                arguments = (jnp.asarray(part).reshape(1, -1) for part in (decided, targets, each))
                self._sums[name].append(_depth_sums(*arguments))
                if rays is not None:
                    self._chamfer[name] += _chamfer(decided, targets, each, rays)

    def scores(self) -> dict[str, Any]:
        """Plain numbers: percent for classes, metres and shares for depths; without void where the source has one."""
        found: dict[str, Any] = {}
        for name, sums in self._sums.items():
            if self._problem.scaling is None:
                matrix = segmentation.accumulate(sums)
                found[f"{name}_miou"] = 100 * segmentation.mean_iou(matrix)
                if self._problem.void is not None:
                    without = segmentation.mean_iou(matrix, background=self._problem.void)
                    found[f"{name}_miou_without_void"] = _plain(100 * without)
                found[f"{name}_accuracy"] = 100 * segmentation.accuracy(matrix)
                values = 100 * segmentation.intersection_over_union(matrix)
                classes = zip(self._problem.class_names, values, strict=True)
                found[f"{name}_iou"] = {key: None if np.isnan(value) else float(value) for key, value in classes}
            else:
                values = depth_metrics.depth_scores(depth_metrics.accumulate(sums))._asdict()
                found |= {f"{name}_{key}": _plain(value) for key, value in values.items()}
                if self._chamfer[name]:
                    found[f"{name}_chamfer_distance"] = float(np.mean(self._chamfer[name]))
        return found


def headline(problem: Problem, scores: dict[str, Any]) -> float:
    """One number to stop and to choose by, larger is better: area mIoU, or minus the mean absolute error."""
    return scores["area_miou"] if problem.scaling is None else -scores["area_mean_absolute_error"]


def score(problem: Problem, predict: Predict, examples: Examples | None = None) -> dict[str, Any]:
    """Scores on examples, by default those for testing, in the space that the network predicts in, less Chamfer's."""
    tally, examples = Tally(problem), problem.test if examples is None else examples
    for index in range(len(examples)):
        example: Example = examples[index]
        tally.add(decisions(problem, predict(example.inputs)), example.targets, example.weights)
    return tally.scores()


def score_spaces(problem: Problem, predict: Predict, nside: int, faces: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Scores in the network's own space and, where there are pictures, in the other one.

    Args:
        problem: with test pictures, or the own space alone is judged.
        predict: of the own space, which its outputs tell: the sphere has one axis of pixels.
        nside: of the sphere that a flat network's predictions are carried onto.
        faces: likewise.
    """
    pictures, fill = problem.pictures, _UNKNOWN if problem.scaling is None else np.inf
    own, carried = Tally(problem), Tally(problem)
    on_sphere = problem.test[0].targets.ndim == 1
    for index in range(len(problem.test)):
        example: Example = problem.test[index]
        decided = decisions(problem, predict(example.inputs))
        if pictures is None:
            own.add(decided, example.targets, example.weights)
            continue
        picture = pictures.picture(index)
        down = viewing.to_sphere(picture, nside, faces)
        up = viewing.to_picture(picture, nside, faces)
        sphere, plane = viewing.sphere_directions(nside, faces), viewing.directions(picture)
        carry, back = (up, down) if on_sphere else (down, up)
        there = np.asarray(stencils.take_nearest(carry, jnp.asarray(decided), fill))
        if on_sphere:
            flat = pictures[index]
            seen = (np.asarray(carry.nearest) >= 0) & (flat.weights > 0)
            own.add(decided, example.targets, example.weights, sphere)
            carried.add(there, flat.targets, flat.weights * seen, plane)
        else:
            # Only what the sphere's faces see too, so that both networks are judged by the same pixels.
            own.add(decided, example.targets, example.weights * (np.asarray(back.nearest) >= 0), plane)
            truth = np.asarray(stencils.take_nearest(carry, jnp.asarray(example.targets), fill))
            carried.add(there, truth, (np.asarray(carry.nearest) >= 0).astype(np.float32), sphere)
    if pictures is None:
        return {"sphere": own.scores()}
    if on_sphere:
        return {"sphere": own.scores(), "sphere_to_flat": carried.scores()}
    return {"flat_masked": own.scores(), "flat_to_sphere": carried.scores()}


@functools.partial(jax.jit, static_argnums=3)
def _confusion(decided: jax.Array, targets: jax.Array, weights: jax.Array, size: int) -> jax.Array:
    return segmentation.confusion_matrix(decided, targets, size, weights)


@jax.jit
def _depth_sums(decided: jax.Array, targets: jax.Array, weights: jax.Array) -> depth_metrics.DepthSums:
    valid = jnp.isfinite(targets) & (weights > 0) & jnp.isfinite(decided)
    return depth_metrics.depth_sums(decided, targets, weights=weights, valid=valid)


def _chamfer(decided: np.ndarray, targets: np.ndarray, weights: np.ndarray, rays: np.ndarray) -> list[float]:
    """The distance of one picture, or none where no pixel counts."""
    counts = np.isfinite(decided) & np.isfinite(targets) & (weights > 0)
    if not counts.any():
        return []
    clouds = (rays[counts] * depths[counts][:, None].astype(np.float64) for depths in (decided, targets))
    weight = weights[counts]
    options: dict[str, Any] = {"prediction_weights": weight, "target_weights": weight, "max_points": CHAMFER_POINTS}
    return [chamfer_distance(*clouds, **options)]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return None if np.isnan(value) else float(value)
