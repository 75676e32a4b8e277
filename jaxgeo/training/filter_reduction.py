r"""Whole filters taken out of a network: a smaller network made of the strongest, to be trained on.

A feature $j$ has the strength $\sum_l |s_{lj}| \sum |W_{l \cdot j}|$, the L1 norm of its filters in all layers $l$ that
write it, each times the scale $s = \gamma / \sqrt{\sigma^2 + \epsilon}$ of the norm behind it (1 without one): so a
network has the same strengths before and after its batch norms are folded. Groups of features that belong together
(`jaxgeo.layers.feature_groups`) lose them together, those that come first first, and a later filter is judged by what
is left of its inputs. Features whose filters, offsets and biases are zero change nothing when they go.

References:
    Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", arXiv:1608.08710, section 3.1 (the L1
    norm), 3.2 (the greedy order) and 3.3 (one choice for all layers that are added around a skip; theirs goes by the
    shortcut's filters, here all that are added count).
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Float, Int

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.feature_groups import FeatureGroup, ReducibleConfig
from jaxgeo.training.batch_norm_folding import NORM_SUFFIX, norms_to_affine

Config = TypeVar("Config", bound=ReducibleConfig)


def strengths(params: Mapping[str, Any], group: FeatureGroup) -> Float[np.ndarray, " feature"]:
    """Strength of each feature of a group, in float64.

    Args:
        params: of the network, batch norms as affine maps (`norms_to_affine`).
        group: which.

    Raises:
        InputError: a layer that is not there.
    """
    arrays: dict[str, Any] = dict(traverse_util.flatten_dict(params, sep="/"))
    total = np.zeros(())
    _check_layers(group, arrays)
    for layer in group.writers:
        kernel = np.asarray(arrays[f"{layer}/kernel"], np.float64)
        scale = np.abs(np.asarray(arrays.get(f"{layer}{NORM_SUFFIX}/scale", 1.0), np.float64))
        total = total + scale * np.abs(kernel).reshape(-1, kernel.shape[-1]).sum(0)
    return total


def strongest(values: Float[np.ndarray, " feature"], count: int, name: str = "a layer") -> Int[np.ndarray, " kept"]:
    """Places of the `count` largest values in their order; of equal ones the first stay.

    Raises:
        ConfigError: fewer than 1, or more than there are, of the group `name`.
    """
    if not 1 <= count <= values.size:
        raise ConfigError(f"of the {values.size} features of {name} 1 ... {values.size} can be kept, got {count}")
    return np.sort(np.argsort(-values, kind="stable")[:count])


def take_features(variables: Mapping[str, Any], group: FeatureGroup, kept: Int[np.ndarray, " kept"]) -> Any:
    """Variables in which the layers of a group have, and read, only some of its features.

    Cut are the last axis of the writers' arrays and of their norms' (parameters and statistics), and the input axis of
    the readers' kernels, where inputs may be several pixels with the channels fastest.

    Args:
        variables: collections `params` and, where there are batch norms, `batch_stats`.
        group: which.
        kept: places of the features.

    Raises:
        InputError: a layer that is not there, or a reader of other features.
    """
    arrays: dict[str, Any] = dict(traverse_util.flatten_dict(variables, sep="/", keep_empty_nodes=True))
    _check_layers(group, arrays, "params/")
    features = arrays[f"params/{group.writers[0]}/kernel"].shape[-1]
    for path, leaf in arrays.items():
        layer = path.partition("/")[2].rpartition("/")[0]
        if {layer, layer.removesuffix(NORM_SUFFIX)} & set(group.writers):
            arrays[path] = jnp.asarray(leaf)[..., kept]
    for layer in group.readers:
        kernel = jnp.asarray(arrays[f"params/{layer}/kernel"])
        *window, inputs, outputs = kernel.shape
        if inputs % features:
            raise InputError(
                f"{layer} reads {inputs} inputs, which are no whole pixels of the {features} features of "
                f"{group.writers[0]}"
            )
        pixels = kernel.reshape(*window, inputs // features, features, outputs)[..., kept, :]
        arrays[f"params/{layer}/kernel"] = pixels.reshape(*window, -1, outputs)
    return traverse_util.unflatten_dict(arrays, sep="/")


def _check_layers(group: FeatureGroup, arrays: Mapping[str, Any], prefix: str = "") -> None:
    missing = [name for name in (*group.writers, *group.readers) if f"{prefix}{name}/kernel" not in arrays]
    if missing:
        there = (path.removeprefix(prefix).removesuffix("/kernel") for path in arrays if path.endswith("/kernel"))
        raise InputError(f"there is no layer {', '.join(missing)}; there are {', '.join(there)}")


def reduce_filters(
    config: Config, variables: Mapping[str, Any], counts: Mapping[str, int]
) -> tuple[Config, dict[str, Any]]:
    """A network with fewer filters, made of the strongest of each group, to be trained on.

    Args:
        config: of the network, in floating point.
        variables: its collections.
        counts: features by the name of a group (`config.feature_counts`); groups that are not named stay as they are.

    Returns:
        The smaller network's config and variables.

    Raises:
        ConfigError: unknown names, more features than there are, or a network with a precision.
        InputError: variables of another network.
    """
    wanted, result, _ = _reduced(config, variables, counts)
    return config.with_features(wanted), result


def filter_masks(config: ReducibleConfig, variables: Mapping[str, Any], counts: Mapping[str, int]) -> Any:
    """What `reduce_filters` would leave, as masks: a network of the same shape is trained as the smaller one would be.

    Training with `pruning.keep_masks` and taking the zero filters out afterwards gives the smaller network, so that one
    compiled program serves all numbers of filters. Arguments and errors are those of `reduce_filters`.

    Returns:
        For each array of the parameters, False where it belongs to a feature that goes.
    """
    _, _, chosen = _reduced(config, variables, counts)
    ones = jax.tree.map(lambda leaf: np.ones(jnp.shape(leaf), bool), variables["params"])
    masks: dict[str, Any] = dict(traverse_util.flatten_dict(ones, sep="/"))
    for group, kept in chosen:
        alive = np.isin(np.arange(config.feature_counts[group.name]), kept)
        for path, mask in masks.items():
            layer = path.rpartition("/")[0]
            if {layer, layer.removesuffix(NORM_SUFFIX)} & set(group.writers):
                mask &= alive  # noqa: PLW2901  # the array itself
            if layer in group.readers and path.endswith("/kernel"):
                mask &= np.resize(alive, mask.shape[-2])[:, None]  # noqa: PLW2901
    return traverse_util.unflatten_dict(masks, sep="/")


def _reduced(
    config: ReducibleConfig, variables: Mapping[str, Any], counts: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, Any], list[tuple[FeatureGroup, np.ndarray]]]:
    """All counts, the smaller variables, and what was kept of which groups."""
    unknown = sorted(set(counts) - set(config.feature_counts))
    if unknown:
        raise ConfigError(f"features are of {', '.join(config.feature_counts)}, got {', '.join(unknown)}")
    if config.precision is not None:
        raise ConfigError("take filters out in floating point and choose a precision afterwards")
    wanted = config.feature_counts | dict(counts)
    result, chosen = dict(variables), []
    for group in config.feature_groups:
        if wanted[group.name] != config.feature_counts[group.name]:
            batch = config.norm == "batch"
            params = (norms_to_affine(result, config.epsilon) if batch else result)["params"]
            kept = strongest(strengths(params, group), wanted[group.name], group.name)
            result = take_features(result, group, kept)
            chosen.append((group, kept))
    return wanted, result, chosen
