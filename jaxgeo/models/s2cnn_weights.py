"""Weights of spherical CNNs under the published program's PyTorch names, in and out.

There a kernel is (in, out, point) and a bias (1, out, 1, 1[, 1]); here (point, in, out) and (out,). A shortcut's kernel
has its one point as last axis there and none here.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.errors import InputError

Weights = Mapping[str, np.ndarray]
_MODULES = ("input_layer", "hidden_layers", "skip_layers", "output_layer")


def params_from_torch(params: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """A copy of `params` with the arrays of a published network.

    Dtypes are those of the weights.

    Args:
        params: parameters of the network, or their shapes (`jax.eval_shape` of its `init`), without batch norms.
        weights: by state-dict name, e.g. `hidden_layers.0.kernel`.

    Raises:
        InputError: weights that are missing, left over or of another shape; all of them are named in one message.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [torch_name(path) for path, _ in leaves]
    problems = [f"{name} is missing" for name in names if name not in weights]
    problems += [f"{name} is not part of the network" for name in weights if name not in names]
    converted = []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if name not in weights:
            continue
        expected = torch_shape(name, leaf.shape)
        found = np.asarray(weights[name])
        if found.shape != expected:
            problems.append(f"{name} has shape {found.shape} and needs {expected}")
            continue
        converted.append(jnp.asarray(from_torch_layout(name, found, leaf.shape)))
    if problems:
        raise InputError(f"these weights do not fit the configured network: {'; '.join(problems)}")
    return jax.tree_util.tree_unflatten(structure, converted)


def params_to_torch(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by the published program's state-dict names, in its layout.

    Raises:
        InputError: the network has layers that the published one lacks (batch norms).
    """
    exported = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = torch_name(path)
        exported[name] = to_torch_layout(name, np.asarray(leaf))
    return exported


def torch_name(path: tuple[Any, ...]) -> str:
    """State-dict name of a parameter: `trunk/hidden_layers_0/kernel` is `hidden_layers.0.kernel`.

    Raises:
        InputError: the published network has no such layer.
    """
    *modules, leaf = (str(getattr(entry, "key", entry)) for entry in path)
    module = modules[-1] if modules else ""
    stem, _, number = module.rpartition("_")
    if number.isdigit():
        module = f"{stem}.{number}"
    if not module.startswith(_MODULES):
        raise InputError(f"the published network has no layer {'/'.join((*modules, leaf))}")
    return f"{module}.conv.{leaf}" if module.startswith("skip_layers") else f"{module}.{leaf}"


def torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that an array of ours has there."""
    return to_torch_layout(name, np.empty(shape, bool)).shape


def to_torch_layout(name: str, array: np.ndarray) -> np.ndarray:
    """An array of ours in the published layout."""
    if name.endswith("bias"):
        grid_axes = 2 if name.startswith("output_layer") else 3
        return array.reshape(1, -1, *(1,) * grid_axes)
    return array[..., None] if array.ndim == 2 else np.moveaxis(array, 0, -1)


def from_torch_layout(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The way back."""
    return array.reshape(shape) if name.endswith("bias") or len(shape) == 2 else np.moveaxis(array, -1, 0)
