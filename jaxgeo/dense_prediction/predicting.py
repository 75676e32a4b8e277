"""Class probabilities for every pixel of a map, from a finished run on the Earth, as FITS, npz and a picture."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from jaxgeo.data.checks import check_images
from jaxgeo.data.earth import load_earth
from jaxgeo.data.fits_maps import read_map, write_map
from jaxgeo.dense_prediction.config import DenseConfig
from jaxgeo.dense_prediction.fitting import load_params, predictor, read_run_config
from jaxgeo.dense_prediction.networks import model_config
from jaxgeo.dense_prediction.problems import Problem, make_problem
from jaxgeo.errors import InputError
from jaxgeo.grids.healpix import reorder
from jaxgeo.models.heal_swin import HealSwinConfig


def predict_map(folder: Path, source: str, out: Path) -> dict[str, Any]:
    """Write `out`.fits and `out`.npz with a map of probabilities per class, and `out`.png, and say what was done.

    Args:
        folder: of a finished run whose maps cover the sphere.
        source: "earth", or a file of maps, FITS or npz: a map for each channel, as the run's own raw inputs.
        out: path without ending.

    Raises:
        RunFolderError: no finished run, or nothing can be written.
        InputError: maps of another number, resolution that the network cannot take, or values that are not finite.
        CorruptFileError: a damaged file.
    """
    config = read_run_config(folder)
    params, problem = load_params(folder), make_problem(config)
    model = model_config(config, problem)
    if not isinstance(model, HealSwinConfig) or len(model.base_pixels) != 12 or not problem.class_names:
        raise InputError(
            f"{folder} was not trained to classify maps of the whole sphere; run it with data.source earth"
        )
    maps = _raw_maps(config, source)
    if len(maps) != problem.channels:
        raise InputError(f"the run in {folder} takes {problem.channels} maps, got {len(maps)} from {source}")
    check_images(maps, "maps")
    inputs = ((maps.T - problem.means[None]) / problem.scales[None]).astype(np.float32)
    probabilities = classify(model, params, inputs)
    names = [name.upper() for name in problem.class_names]
    for ending in (".fits", ".npz"):
        write_map(Path(out).with_suffix(ending), probabilities.T, names)
    _draw(probabilities, problem, Path(out).with_suffix(".png"))
    shares = np.bincount(probabilities.argmax(1), minlength=len(names)) / len(probabilities)
    return {
        "files": [str(Path(out).with_suffix(ending)) for ending in (".fits", ".npz", ".png")],
        "pixels": len(probabilities),
        "shares": dict(zip(problem.class_names, shares.tolist(), strict=True)),
    }


def classify(
    model: HealSwinConfig, params: Any, inputs: Float32[np.ndarray, "pixel channel"]
) -> Float32[np.ndarray, "pixel class"]:
    """Probabilities of every pixel of a NESTED map, at its own nside: windows and biases do not depend on it.

    Raises:
        InputError: not a full map, or too coarse for the network's stages.
        ConfigError: a network that knows absolute positions, at another nside than its own.
    """
    nside = int(np.sqrt(len(inputs) / 12))
    outputs = predictor(dataclasses.replace(model, nside=nside), params)(inputs)
    return np.asarray(jax.nn.softmax(jnp.asarray(outputs), axis=-1))


def _raw_maps(config: DenseConfig, source: str) -> np.ndarray:
    """(map, pixel) in NESTED order."""
    if source == "earth":
        earth = load_earth()
        return (earth.images.astype(np.float64) * earth.scales[None] + earth.means[None]).T
    found = read_map(Path(source))
    return np.asarray(reorder(jnp.asarray(found.maps), found.order, "nested"), np.float64)


def _draw(probabilities: np.ndarray, problem: Problem, path: Path) -> None:
    from jaxgeo import files
    from jaxgeo.plotting import style
    from jaxgeo.plotting.dense import class_map_figure

    figure = class_map_figure(probabilities, problem.class_names)
    files.write_bytes_atomically(path, style.figure_to_bytes(figure, dpi=140.0))
