"""Class probabilities for every pixel of a map, from one finished run or several, as FITS, npz and a picture."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32
from scipy.special import logsumexp

from jaxgeo.data.checks import check_images
from jaxgeo.data.earth import load_earth
from jaxgeo.data.fits_maps import read_map, write_map
from jaxgeo.data.wmap import load_wmap
from jaxgeo.dense_prediction.ensembles import Ensemble, average, load_members
from jaxgeo.dense_prediction.fitting import predictor
from jaxgeo.dense_prediction.problems import Meaning
from jaxgeo.errors import InputError, RunFolderError
from jaxgeo.grids.healpix import Order, nside_of, reorder
from jaxgeo.grids.resample import face_pixels
from jaxgeo.models.heal_swin import HealSwinConfig

UNCERTAINTIES = ("predictive_entropy", "expected_entropy", "mutual_information")


def predict_map(
    folders: Sequence[Path], source: str, out: Path, arrays: Sequence[str] = (), order: Order | None = None
) -> dict[str, Any]:
    """Write `out`.fits and `out`.npz with maps of the probability of each class and of UNCERTAINTIES in nats, NESTED.

    The classes come first, by their names in capitals; all are NaN on faces that the runs did not learn, and where one
    of the inputs is missing, whose place the mean of that channel takes for the pixels around. `out`.png shows the
    likeliest class and the uncertainties.

    Args:
        folders: of finished runs of the same problem, whose probabilities are averaged.
        source: "earth"; "wmap", which is I, Q and U of the band W; or a file of maps, FITS or npz: a map for each
            channel, as the runs' own raw inputs, missing where NaN, or in FITS UNSEEN.
        out: path without ending; its folder must be there.
        arrays: names in an npz file that `write_map` did not write, whose rows are the maps, one after the other.
        order: of the pixels, where the file does not say it.

    Returns:
        What was done, in plain numbers: the files, the nside at which the networks predicted (see `nside_taken`),
        pixels, members, shares of the classes, and mean uncertainties.

    Raises:
        RunFolderError: no finished run, or nothing can be written.
        InputError: runs that do not belong together or do not segment the sphere; maps of another number, infinite
            values, or no pixel that has all of its values.
        ConfigError: an unknown order.
        CorruptFileError: a damaged file.
    """
    paths = _paths(Path(out))
    members, maps = load_members(folders), _raw_maps(source, arrays, order)
    model, meaning = members[0].model, members[0].meaning
    if len(maps) != len(meaning.means):
        raise InputError(f"the run in {folders[0]} takes {len(meaning.means)} maps, got {len(maps)} from {source}")
    covered = face_pixels(nside_of(maps.shape[1]), model.base_pixels)
    missing = np.isnan(maps[:, covered])
    check_images(np.where(missing, 0, maps[:, covered]), "maps")
    known = ~missing.any(0)
    if not known.any():
        raise InputError(
            f"every pixel of {source} on the faces of the runs is missing in some map; nothing is predicted"
        )
    log_probs = []
    for member in members:
        inputs = (maps.T - member.meaning.means[None]) / member.meaning.scales[None]
        inputs = np.nan_to_num(inputs, nan=0.0).astype(np.float32)  # the mean of what was learnt from
        log_probs.append(log_probabilities(member.model, member.params, inputs))
    ensemble = average(np.stack(log_probs))
    names = [name.upper() for name in (*meaning.class_names, *UNCERTAINTIES)]
    columns = np.concatenate([ensemble.probabilities.T, *(getattr(ensemble, name)[None] for name in UNCERTAINTIES)])
    written = np.full((len(columns), maps.shape[1]), np.nan, np.float32)
    written[:, covered[known]] = columns[:, known]
    fits, npz, png = paths
    for path in (fits, npz):
        write_map(path, written, names)
    _draw(Ensemble(written[: -len(UNCERTAINTIES)].T, *written[-len(UNCERTAINTIES) :]), meaning, len(members), png)
    shares = np.bincount(ensemble.probabilities[known].argmax(1), minlength=len(meaning.class_names)) / known.sum()
    return {
        "files": [str(path) for path in paths],
        "nside": nside_taken(model, nside_of(maps.shape[1])),
        "pixels": int(known.sum()),
        "missing": int((~known).sum()),
        "members": len(members),
        "shares": dict(zip(meaning.class_names, shares.tolist(), strict=True)),
    } | {name: float(getattr(ensemble, name)[known].mean()) for name in UNCERTAINTIES}


def classify(
    model: HealSwinConfig, params: Any, inputs: Float32[np.ndarray, "pixel channel"]
) -> Float32[np.ndarray, "covered class"]:
    """Probabilities of a NESTED map's pixels; arguments and errors as for `log_probabilities`."""
    return np.exp(log_probabilities(model, params, inputs))


def log_probabilities(
    model: HealSwinConfig, params: Any, inputs: Float32[np.ndarray, "pixel channel"]
) -> Float32[np.ndarray, "covered class"]:
    """Log-probabilities of a NESTED map, at the nside of `nside_taken`.

    Args:
        model: of any faces.
        params: of the model.
        inputs: a full map, standardised.

    Returns:
        Those of the pixels of the model's faces, at the map's own nside: where the network takes a coarser map, a
        pixel has the probabilities of the one that it lies in; where a finer one, their mean over those in it.

    Raises:
        InputError: not a full map.
    """
    nside = nside_of(len(inputs))
    taken = nside_taken(model, nside)
    covered = _regraded(inputs[face_pixels(nside, model.base_pixels)], nside, taken)
    outputs = predictor(dataclasses.replace(model, nside=taken), params)(covered)
    log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(outputs), axis=-1))
    if taken <= nside:
        return _regraded(log_probs, taken, nside)
    each = log_probs.reshape(-1, (taken // nside) ** 2, log_probs.shape[-1])
    return logsumexp(each, axis=1) - np.float32(math.log(each.shape[1]))  # of their mean probability


def nside_taken(model: HealSwinConfig, nside: int) -> int:
    """At which nside a network predicts a map: at the map's, since windows and biases do not depend on it.

    At its own instead if it has a row of a table for each of its tokens, or more stages than the map can be halved.
    """
    needed = math.isqrt(model.patch_size) << (len(model.depths) - 1)
    return model.nside if model.absolute_position or nside < needed else nside


def _regraded(
    values: Float32[np.ndarray, "pixel channel"], nside: int, wanted: int
) -> Float32[np.ndarray, "regraded channel"]:
    """Whole faces, NESTED, at another nside: means over the finer pixels of each, or each for all that lie in it."""
    if wanted > nside:
        return np.repeat(values, (wanted // nside) ** 2, axis=0)
    return values.reshape(-1, (nside // wanted) ** 2, values.shape[-1]).mean(1)


def _raw_maps(source: str, arrays: Sequence[str], order: Order | None) -> np.ndarray:
    """(map, pixel) in NESTED order."""
    if source == "earth":
        earth = load_earth()
        return (earth.images.astype(np.float64) * earth.scales[None] + earth.means[None]).T
    if source == "wmap":
        return load_wmap().w_band.astype(np.float64)
    found = read_map(Path(source), order, arrays)
    # Pixel numbers are reordered and not values, of which some may be missing.
    places = np.asarray(reorder(jnp.arange(found.maps.shape[1]), found.order, "nested"))
    return found.maps[:, places].astype(np.float64)


def _paths(out: Path) -> tuple[Path, Path, Path]:
    """What is written: a point in the name is no ending unless one of these follows it."""
    if not out.name or not out.parent.is_dir():
        raise RunFolderError(f"files are written beside each other into a folder that is there, got the path {out}")
    endings = (".fits", ".npz", ".png")
    stem = out.stem if out.suffix in endings else out.name
    fits, npz, png = (out.with_name(stem + ending) for ending in endings)
    return fits, npz, png


def _draw(ensemble: Ensemble, meaning: Meaning, members: int, path: Path) -> None:
    from jaxgeo import files
    from jaxgeo.plotting import style
    from jaxgeo.plotting.dense import CLASS_COLORS, class_map_figure

    doubts = {"entropy of the prediction": ensemble.predictive_entropy}
    if members > 1:
        doubts = {
            f"entropy of the mean of {members}": ensemble.predictive_entropy,
            "mean entropy of the members": ensemble.expected_entropy,
            "mutual information": ensemble.mutual_information,
        }
    colors = meaning.class_colors or CLASS_COLORS
    figure = class_map_figure(ensemble.probabilities, meaning.class_names, doubts=doubts, colors=colors)
    files.write_bytes_atomically(path, style.figure_to_bytes(figure, dpi=140.0))
