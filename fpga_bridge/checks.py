"""What a user may have got wrong in the files of a network, each as one sentence before any long work."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.files import flatten_tree
from jaxgeo.models.healpix_classifier import HealpixClassifierConfig


def check_variables(
    model: Any, input_shape: tuple[int, ...], variables: Mapping[str, Any], said: str = "the parameters"
) -> None:
    """Raise unless the collections hold the arrays, by name and shape, that a linen module has at inference.

    Args:
        model: linen module that takes (batch, *input_shape).
        input_shape: of one sample.
        variables: `params`, and what else the module has, such as `batch_stats`.
        said: what the message calls them.

    Raises:
        ConfigError: names the arrays that are missing, unknown or of another shape.
    """
    wanted, found = _wanted(model, input_shape), _shapes(variables)
    wrong = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    wrong += [f"{name} is unknown" for name in sorted(found.keys() - wanted.keys())]
    wrong += [
        f"{name} has shape {found[name]}, not {shape}"
        for name, shape in sorted(wanted.items())
        if name in found and found[name] != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        kind = type(model).__name__
        what = "classifier" if kind == "HealpixClassifier" else kind
        raise ConfigError(
            f"{said} are not those of the {what} that the config describes: {', '.join(wrong[:4])}{more}; "
            "give the config with which they were trained"
        )


def check_finite(variables: Any, said: str) -> None:
    """Raise unless all numbers are finite: no hardware holds others, and one spoils every output.

    Args:
        variables: any pytree of arrays; keys of random numbers among them are passed over.
        said: what the message calls them.

    Raises:
        InputError: names the first array that holds others.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
            continue
        bad = int(np.size(leaf) - np.isfinite(leaf).sum())
        if bad:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise InputError(
                f"{name.removeprefix('params/')} of {said} holds {bad} NaN or infinite values of {np.size(leaf)}, and "
                "a network needs finite parameters; take those of an earlier step, before the training diverged"
            )


def count_members(model: Any, input_shape: tuple[int, ...], variables: Mapping[str, Any]) -> int | None:
    """How many members the arrays hold, if each is that of the module with one more axis in front; else None."""
    wanted, found = _wanted(model, input_shape), _shapes(variables)
    counts = {shape[:1] for name, shape in found.items() if shape[1:] == wanted.get(name)}
    stacked = len(counts) == 1 and wanted.keys() == found.keys()
    stacked = stacked and all(found[name][1:] == shape for name, shape in wanted.items())
    return counts.pop()[0] if stacked else None


def _wanted(model: Any, input_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    example = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    return _shapes(jax.eval_shape(model.init, jax.random.key(0), example))


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes by name; those of `params` without the collection's name."""
    named = {name: tuple(np.shape(leaf)) for name, leaf in flatten_tree(variables).items()}
    return {name.removeprefix("params/"): shape for name, shape in named.items()}


def check_samples(shape: tuple[int, ...], samples: np.ndarray) -> None:
    """Raise unless there is at least one finite sample (sample, *shape).

    Raises:
        InputError: for anything else.
    """
    if samples.shape[1:] != shape or not len(samples) or not np.issubdtype(samples.dtype, np.number):
        raise InputError(
            f"the network needs numbers of shape (sample, {', '.join(map(str, shape))}), at least one sample, got "
            f"{samples.dtype} of shape {samples.shape}"
        )
    if not np.isfinite(samples).all():
        raise InputError(f"samples must be finite, got {int((~np.isfinite(samples)).sum())} NaN or infinite values")


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


def check_labels(labels: np.ndarray, num_classes: int, shape: tuple[int, ...]) -> None:
    """Raise unless labels are integers from 0 to num_classes - 1 of this shape: one for each image or each pixel.

    Raises:
        InputError: says which label is wrong.
    """
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != shape:
        pixels = f", one for each of {' x '.join(map(str, shape[1:]))} pixels" if shape[1:] else ""
        raise InputError(
            f"{shape[0]} images need {math.prod(shape)} integer labels from 0 to {num_classes - 1}{pixels}, got "
            f"{labels.dtype} of shape {labels.shape}"
        )
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"labels must lie between 0 and {num_classes - 1} for {num_classes} classes, got {int(bad.sum())} others, "
            f"the first ({int(labels[first])}) at index {first[0] if len(first) == 1 else first}; count classes from 0"
        )
