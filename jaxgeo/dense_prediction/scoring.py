"""Scores of predictions on the sphere and in the plane, by pixels and by area.

Four spaces: the sphere itself; the plane, where the sphere's faces see it too (flat, masked); predictions of the sphere
carried into the picture; and those of a flat network carried onto the sphere, classes and depths by the nearest pixel.

The Chamfer distance of depths is that of `jaxgeo.metrics.point_clouds`, in square metres: of the points at the
predicted depths along the pixels' rays and those at the true depths along the same rays, of the pixels that count; both
directed means of squared distances added, found by a k-d tree on the host, and then the mean over pictures. A mean
takes the distances of at most CHAMFER_POINTS pixels, drawn once, to the nearest of all points of the other cloud.

Relative errors of depths compare with the constant prediction of the mean depth that was learnt from; deviations are
those of networks that predict a variance. By `fit.scores` a problem is scored as published: see the metrics' modes.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.data.depth_scaling import unscale_depths, unscale_log_variances
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


def log_variances(problem: Problem, outputs: np.ndarray) -> np.ndarray | None:
    """Of depths in log of square metres, from outputs (*pixel, output); None where the network predicts none."""
    if problem.scaling is None or outputs.shape[-1] < 2:
        return None
    return np.asarray(unscale_log_variances(problem.scaling, outputs[..., 1], decisions(problem, outputs)), np.float32)


class Tally:
    """Sums over examples in one space, from which all scores are taken."""

    def __init__(self, problem: Problem) -> None:
        """Of no example yet."""
        self._problem, self._sums = problem, {"pixel": [], "area": []}
        self._chamfer: dict[str, list[float]] = {"pixel": [], "area": []}

    def add(
        self,
        decided: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        rays: np.ndarray | None = None,
        log_variances: np.ndarray | None = None,
    ) -> None:
        """One example: decisions, targets, and weights, 0 where nothing counts; of depths also log-variances.

        Rays, unit vectors (*pixel, 3), are for the Chamfer distance of depths, which takes longer than all the rest.
        """
        problem = self._problem
        for name, each in (("pixel", (weights > 0).astype(np.float32)), ("area", weights.astype(np.float32))):
            if problem.scaling is None:
                self._sums[name].append(_confusion(decided, targets, each, len(problem.class_names)))
            else:
                # One axis of pixels: XLA takes up to a minute to compile sums over two.
                parts = (
                    None if x is None else jnp.asarray(x).reshape(1, -1)
                    for x in (decided, targets, each, log_variances)
                )
                config = depth_metrics.DepthMetricsConfig(reference=problem.mean_depth)
                self._sums[name].append(_depth_sums(*parts, config, problem.scores == "faithful"))
                if rays is not None:
                    self._chamfer[name] += _chamfer(decided, targets, each, rays)

    def scores(self) -> dict[str, Any]:
        """Plain numbers: percent for classes, metres and shares for depths; without void where the source has one."""
        problem, found = self._problem, {}
        for name, sums in self._sums.items():
            if problem.scaling is None:
                found |= {f"{name}_{key}": value for key, value in _class_scores(problem, sums).items()}
            else:
                values = depth_metrics.depth_scores(depth_metrics.accumulate(sums), problem.scores)._asdict()
                found |= {f"{name}_{key}": _plain(value) for key, value in values.items()}
                if self._chamfer[name]:
                    found[f"{name}_chamfer_distance"] = float(np.mean(self._chamfer[name]))
        return found


def _class_scores(problem: Problem, sums: list[jax.Array]) -> dict[str, Any]:
    matrix, mode = segmentation.accumulate(sums), "correct" if problem.scores == "correct" else "absent_is_zero"
    values = 100 * segmentation.intersection_over_union(matrix)
    if mode == "absent_is_zero":
        values = np.nan_to_num(values)
    found = {
        "miou": 100 * segmentation.mean_iou(matrix, mode=mode),
        "accuracy": 100 * segmentation.accuracy(matrix),
        "iou": {key: _plain(value) for key, value in zip(problem.class_names, values, strict=True)},
    }
    if problem.void is not None:
        found["miou_without_void"] = _plain(100 * segmentation.mean_iou(matrix, problem.void, mode))
        found["accuracy_without_void"] = _plain(100 * segmentation.foreground_accuracy(matrix, problem.void))
    return found


def headline(problem: Problem, scores: dict[str, Any]) -> float:
    """One number to stop and to choose by, larger is better: area mIoU, or minus the mean absolute error.

    As published: mIoU of pixels without void, or minus the mean squared error of pixels.
    """
    if problem.scores == "faithful":
        void = "" if problem.void is None else "_without_void"
        return scores[f"pixel_miou{void}"] if problem.scaling is None else -scores["pixel_mean_squared_error"]
    return scores["area_miou"] if problem.scaling is None else -scores["area_mean_absolute_error"]


def score(problem: Problem, predict: Predict, examples: Examples | None = None) -> dict[str, Any]:
    """Scores on examples, by default those for testing, in the space that the network predicts in, less Chamfer's."""
    tally, examples = Tally(problem), problem.test if examples is None else examples
    for index in range(len(examples)):
        example: Example = examples[index]
        outputs = predict(example.inputs)
        decided, variances = decisions(problem, outputs), log_variances(problem, outputs)
        tally.add(decided, example.targets, example.weights, log_variances=variances)
    return tally.scores()


def score_spaces(problem: Problem, predict: Predict, view: viewing.View) -> dict[str, dict[str, Any]]:
    """Scores in the network's own space and, where there are pictures, in the other one.

    Args:
        problem: with test pictures, or the own space alone is judged.
        predict: of the own space, which its outputs tell: the sphere has one axis of pixels.
        view: the sphere that predictions are carried from or onto.
    """
    pictures, fill = problem.pictures, _UNKNOWN if problem.scaling is None else np.inf
    own, carried = Tally(problem), Tally(problem)
    on_sphere = problem.test[0].targets.ndim == 1
    for index in range(len(problem.test)):
        example: Example = problem.test[index]
        outputs = predict(example.inputs)
        decided, variances = decisions(problem, outputs), log_variances(problem, outputs)
        if pictures is None:
            own.add(decided, example.targets, example.weights, log_variances=variances)
            continue
        picture = pictures.picture(index)
        down, up = viewing.to_sphere(picture, view), viewing.to_picture(picture, view)
        sphere = viewing.sphere_directions(view.nside, view.base_pixels)
        plane = viewing.directions(picture, view.rotate_pole)
        carry, back = (up, down) if on_sphere else (down, up)
        there = np.asarray(stencils.take_nearest(carry, jnp.asarray(decided), fill))
        spread = None if variances is None else np.asarray(stencils.take_nearest(carry, jnp.asarray(variances), np.inf))
        if on_sphere:
            flat = pictures[index]
            seen = (np.asarray(carry.nearest) >= 0) & (flat.weights > 0)
            own.add(decided, example.targets, example.weights, sphere, variances)
            carried.add(there, flat.targets, flat.weights * seen, plane, spread)
        else:
            # Only what the sphere's faces see too, so that both networks are judged by the same pixels.
            own.add(decided, example.targets, example.weights * (np.asarray(back.nearest) >= 0), plane, variances)
            truth = np.asarray(stencils.take_nearest(carry, jnp.asarray(example.targets), fill))
            carried.add(there, truth, (np.asarray(carry.nearest) >= 0).astype(np.float32), sphere, spread)
    if pictures is None:
        return {"sphere": own.scores()}
    if on_sphere:
        return {"sphere": own.scores(), "sphere_to_flat": carried.scores()}
    return {"flat_masked": own.scores(), "flat_to_sphere": carried.scores()}


@functools.partial(jax.jit, static_argnums=3)
def _confusion(decided: jax.Array, targets: jax.Array, weights: jax.Array, size: int) -> jax.Array:
    return segmentation.confusion_matrix(decided, targets, size, weights)


@functools.partial(jax.jit, static_argnames=("config", "published"))
def _depth_sums(
    decided: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    log_variances: jax.Array | None,
    config: depth_metrics.DepthMetricsConfig,
    published: bool,
) -> depth_metrics.DepthSums:
    valid = weights > 0
    if not published:
        # What was carried from where nothing is predicted has no depth; the published scores leave it out themselves.
        valid &= jnp.isfinite(targets) & jnp.isfinite(decided)
    return depth_metrics.depth_sums(
        decided, targets, config=config, weights=weights, valid=valid, log_variances=log_variances
    )


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
