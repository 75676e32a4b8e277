"""Examples of a run as pictures: prediction, label and error on the sphere and, where there is one, in the picture."""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax

from jaxgeo import files
from jaxgeo.dense_prediction import viewing
from jaxgeo.dense_prediction.config import DenseConfig
from jaxgeo.dense_prediction.problems import Predict, Problem, view_of
from jaxgeo.dense_prediction.scoring import decisions
from jaxgeo.grids import stencils
from jaxgeo.grids.resample import face_pixels
from jaxgeo.grids.stencils import Stencil
from jaxgeo.plotting import style
from jaxgeo.plotting.dense import CLASS_COLORS, UNKNOWN, class_map_figure, fisheye_figure, likeliest
from jaxgeo.plotting.depths import depth_map_figure, depth_picture_figure

_DPI = 110.0


class _Shown(NamedTuple):
    """One example in one space."""

    values: np.ndarray  # (*pixel, class) probabilities, or (*pixel,) metres; NaN where nothing is predicted
    targets: np.ndarray  # classes, 255 where nothing counts, or metres, infinite there


def draw_examples(folder: Path, config: DenseConfig, problem: Problem, predict: Predict) -> list[Path]:
    """Draw the first `fit.figures` test examples as `example-0-sphere.png` and `example-0-picture.png`, and so on.

    What a network did not predict in a space itself is carried there, by the nearest pixel.

    Args:
        folder: made where it does not exist.
        config: of the run.
        problem: of the run.
        predict: outputs of one example, in the network's own space.

    Returns:
        The files, in order.

    Raises:
        RunFolderError: they cannot be written.
    """
    written = []
    for index in range(min(config.fit.figures, len(problem.test))):
        for space, figure in example_figures(config, problem, predict, index).items():
            path = files.make_folder(folder) / f"example-{index}-{space}.png"
            files.write_bytes_atomically(path, style.figure_to_bytes(figure, dpi=_DPI))
            written.append(path)
    return written


def example_figures(config: DenseConfig, problem: Problem, predict: Predict, index: int) -> dict[str, Figure]:
    """Figures of one test example: "sphere", and "picture" where there is one."""
    example, view = problem.test[index], view_of(config.data)
    outputs = predict(example.inputs)
    counts = example.weights > 0
    if problem.pictures is None:
        # One map: what is predicted is shown everywhere, labels only where they were held back.
        everywhere = np.ones_like(counts)
        return {"sphere": _sphere_figure(problem, _shown(problem, outputs, everywhere, example.targets, counts))}
    own = _shown(problem, outputs, counts, example.targets, counts)
    picture = problem.pictures.picture(index)
    plane = problem.pictures[index]
    down = viewing.to_sphere(picture, view)
    if example.targets.ndim == 1:
        up = viewing.to_picture(picture, view)
        there, seen = _carried(up, outputs)
        in_view = plane.weights > 0
        flat, sphere = _shown(problem, there, seen & in_view, plane.targets, in_view), own
    else:
        there, seen = _carried(down, outputs)
        labels, _ = _carried(down, example.targets[..., None])
        flat, sphere = own, _shown(problem, there, seen, labels[..., 0], seen)
    return {
        "sphere": _sphere_figure(problem, _whole(sphere, view)),
        "picture": _picture_figure(problem, np.asarray(picture.image), flat),
    }


def _shown(
    problem: Problem, outputs: np.ndarray, predicted: np.ndarray, targets: np.ndarray, known: np.ndarray
) -> _Shown:
    """Outputs where something is predicted, and targets where they are known."""
    if problem.scaling is None:
        probabilities = softmax(np.asarray(outputs, np.float32), axis=-1)
        return _Shown(np.where(predicted[..., None], probabilities, np.nan), np.where(known, targets, UNKNOWN))
    depths = decisions(problem, np.asarray(outputs))
    return _Shown(np.where(predicted, depths, np.nan), np.where(known, targets, np.inf))


def _carried(stencil: Stencil, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (*pixel, channel) at the samples of a stencil, 0 beyond, and where they are there."""
    carried = stencils.take_nearest(stencil, jnp.moveaxis(jnp.asarray(values), -1, 0), 0)
    return np.moveaxis(np.asarray(carried), 0, -1), np.asarray(stencil.nearest) >= 0


def _whole(shown: _Shown, view: viewing.View) -> _Shown:
    """On all twelve faces."""
    pixels, places = 12 * view.nside**2, face_pixels(view.nside, view.base_pixels)
    values = np.full((pixels, *shown.values.shape[1:]), np.nan, shown.values.dtype)
    targets = np.full(pixels, UNKNOWN if shown.values.ndim == 2 else np.inf, shown.targets.dtype)
    values[places], targets[places] = shown.values, shown.targets
    return _Shown(values, targets)


def _sphere_figure(problem: Problem, shown: _Shown) -> Figure:
    if problem.scaling is not None:
        return depth_map_figure(shown.values, shown.targets)
    colors = problem.class_colors or CLASS_COLORS
    return class_map_figure(shown.values, problem.class_names, shown.targets, colors=colors)


def _picture_figure(problem: Problem, image: np.ndarray, shown: _Shown) -> Figure:
    if problem.scaling is not None:
        return depth_picture_figure(image, shown.values, shown.targets)
    colors, decided = problem.class_colors or CLASS_COLORS, likeliest(shown.values)
    return fisheye_figure(image, {"prediction": decided}, shown.targets, problem.class_names, colors=colors)
