r"""Batch norms at inference become part of the layer before them, or a scale and an offset for each channel.

$\gamma (x W + b - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta = x (W s) + (b - \mu) s + \beta$ with
$s = \gamma / \sqrt{\sigma^2 + \epsilon}$, for any layer whose output is linear in its kernel with the output features
on the last axis: dense layers and convolutions. Computed in float64 and rounded once to float32.

References:
    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    arXiv:1712.05877, section 3.2.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.layers.foldable_norm import FoldableConfig
from jaxgeo.layers.normalization import fold_batch_norm

NORM_SUFFIX = "_norm"
Config = TypeVar("Config", bound=FoldableConfig)


def fold_affine(
    layer: Mapping[str, ArrayLike], scale: Float[np.ndarray, " feature"], offset: Float[np.ndarray, " feature"]
) -> dict[str, Float[np.ndarray, "..."]]:
    """`kernel` and `bias` of the layer that does what a layer and the affine map behind it do.

    Args:
        layer: `kernel` (..., in, feature) and, where there is one, `bias` (feature,).
        scale: of the affine map.
        offset: of the affine map.

    Raises:
        InputError: the layer has no kernel, or one of another number of features.
    """
    kernel = np.asarray(layer["kernel"], np.float64) if "kernel" in layer else np.zeros(0)
    if kernel.ndim < 2 or kernel.shape[-1:] != scale.shape or scale.shape != offset.shape:
        raise InputError(
            f"a norm is folded into a kernel (..., in, feature) of as many features, got {sorted(layer)} with a kernel "
            f"of shape {kernel.shape}, a scale of shape {scale.shape} and an offset of shape {offset.shape}"
        )
    wide = scale.astype(np.float64)
    bias = np.asarray(layer.get("bias", np.zeros(scale.shape)), np.float64) * wide + offset
    return {"kernel": (kernel * wide[(None,) * (kernel.ndim - 1)]).astype(np.float32), "bias": bias.astype(np.float32)}


def fold_network(variables: Mapping[str, Any], epsilon: float = 1e-5, suffix: str = NORM_SUFFIX) -> dict[str, Any]:
    """The variables in which every batch norm `<layer><suffix>` is part of its sibling `<layer>`, at any depth.

    The network that takes them has no norms, and a bias in each of those layers.

    Args:
        variables: collections `params` and `batch_stats`, whose norms have `mean` and `var`.
        epsilon: as the batch norms were built with.
        suffix: of the norms' names.

    Returns:
        `{"params": ...}`, as `apply` takes them.

    Raises:
        InputError: no batch norm at all, a norm without a layer before it of that name, or unfit arrays.
    """
    return {"params": _rewrite(variables, epsilon, suffix, fold=True)}


def fold_norms(config: Config, variables: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """The network without norms and its parameters: every batch norm becomes part of the layer before it.

    Args:
        config: with batch norms, a dataclass.
        variables: `params` and `batch_stats` of the trained network.

    Raises:
        ConfigError: the config has no batch norms.
        InputError: there are no statistics.
    """
    if config.norm != "batch":
        raise ConfigError(f"only batch norms can be folded, got norm={config.norm!r}")
    settings: Any = config
    return dataclasses.replace(settings, norm="folded"), fold_network(variables, config.epsilon)["params"]


def norms_to_affine(variables: Mapping[str, Any], epsilon: float = 1e-5, suffix: str = NORM_SUFFIX) -> dict[str, Any]:
    """The variables in which every batch norm is a `ChannelAffine` of the same name: `scale` and `offset`.

    Arguments and errors are those of `fold_network`.
    """
    return {"params": _rewrite(variables, epsilon, suffix, fold=False)}


def _rewrite(variables: Mapping[str, Any], epsilon: float, suffix: str, fold: bool) -> dict[str, Any]:
    missing = {"params", "batch_stats"} - set(variables)
    if missing:
        raise InputError(
            f"batch norms are folded from the collections params and batch_stats, got {sorted(variables)}; a network "
            f"without batch_stats has no batch norm"
        )
    return _branch(variables["params"], variables["batch_stats"], (), epsilon, suffix, fold)


def _branch(
    params: Mapping[str, Any], stats: Mapping[str, Any], path: tuple[str, ...], epsilon: float, suffix: str, fold: bool
) -> dict[str, Any]:
    result = dict(params)
    for name, found in stats.items():
        if "mean" not in found:
            inner = _branch(params.get(name, {}), found, (*path, name), epsilon, suffix, fold)
            result[name] = inner
            continue
        affine = fold_batch_norm(params.get(name, {}), found, epsilon)
        if not fold:
            result[name] = affine
            continue
        layer = name.removesuffix(suffix)
        if layer == name or layer not in params:
            raise InputError(
                f"the batch norm {'/'.join((*path, name))} is folded into the layer that its name is made of, but "
                f"{'/'.join((*path, layer))} is not there; name a norm after its layer with {suffix!r} behind"
            )
        result[layer] = fold_affine(result[layer], affine["scale"], affine["offset"])
        result.pop(name, None)
    return result
