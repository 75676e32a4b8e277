"""What a user may have got wrong in the files of a classifier, each as one sentence before any long work."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.files import flatten_tree
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig


def check_params(config: HealpixClassifierConfig, params: Mapping[str, Any]) -> None:
    """Raise unless the tree has the arrays, by name and shape, that the classifier of this config has.

    Raises:
        ConfigError: names the arrays that are missing, unknown or of another shape.
    """
    example = jax.ShapeDtypeStruct((1, 12 * config.nside**2, config.channels), jnp.float32)
    wanted = jax.eval_shape(HealpixClassifier(config).init, jax.random.key(0), example)["params"]
    needed = {name: tuple(leaf.shape) for name, leaf in flatten_tree(wanted).items()}
    found = {name: np.shape(leaf) for name, leaf in flatten_tree(params).items()}
    wrong = [f"{name} is missing" for name in sorted(needed.keys() - found.keys())]
    wrong += [f"{name} is unknown" for name in sorted(found.keys() - needed.keys())]
    wrong += [
        f"{name} has shape {found[name]}, not {shape}"
        for name, shape in sorted(needed.items())
        if name in found and found[name] != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ConfigError(
            f"the parameters are not those of the classifier that the config describes: {', '.join(wrong[:4])}{more}; "
            "give the config with which they were trained"
        )


def check_maps(config: HealpixClassifierConfig, maps: np.ndarray, order: str = "nested") -> None:
    """Raise unless `maps` are finite HEALPix maps (image, pixel, channel) in NESTED order, at least one.

    Args:
        config: of the classifier that takes them.
        maps: any array.
        order: what the maps are said to be in, "nested" or "ring"; the values cannot tell.

    Raises:
        InputError: for anything else.
    """
    shape = (12 * config.nside**2, config.channels)
    if maps.ndim != 3 or maps.shape[1:] != shape or not len(maps):
        raise InputError(
            f"the classifier at nside {config.nside} needs maps of shape (image, {shape[0]}, {shape[1]}), at least "
            f"one, got {maps.shape}; regrade the maps, or give the config of a network for them"
        )
    if order != "nested":
        raise InputError(
            f"maps in NESTED order are needed, got maps in {order.upper()} order; "
            f'jaxgeo.grids.healpix.reorder(map, "{order}", "nested") puts each right'
        )
    if not np.issubdtype(maps.dtype, np.number):
        raise InputError(f"map pixels must be numbers, got {maps.dtype}")
    bad = ~np.isfinite(maps)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"map pixels must be finite, got {int(bad.sum())} NaN or infinite values of {maps.size}, the first "
            f"({maps[first]}) at index {first}; mask or replace them first"
        )


def check_labels(labels: np.ndarray, num_classes: int, num_images: int) -> None:
    """Raise unless labels are integers from 0 to num_classes - 1, one for each image.

    Raises:
        InputError: says which label is wrong.
    """
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (num_images,):
        raise InputError(
            f"{num_images} images need {num_images} integer labels from 0 to {num_classes - 1}, got {labels.dtype} "
            f"of shape {labels.shape}"
        )
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        first = int(np.argmax(bad))
        raise InputError(
            f"labels must lie between 0 and {num_classes - 1} for {num_classes} classes, got {int(bad.sum())} others, "
            f"the first ({int(labels[first])}) at index {first}; count classes from 0"
        )
