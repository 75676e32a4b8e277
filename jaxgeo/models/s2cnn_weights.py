"""Weights of spherical CNNs under the published programs' PyTorch names, in and out.

There a kernel is (in, out, point) and a bias (1, out, 1, 1[, 1]); here (point, in, out) and (out,). A shortcut's kernel
has its one point as last axis there and none here. The older program's classifier numbers its convolutions (`conv1`,
`conv2`) and ends in an affine `out_layer`, (out, in) there and (in, out) here.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxgeo.errors import InputError

Weights = Mapping[str, np.ndarray]
_HEAD = "out_layer"
_MODULES = ("input_layer", "hidden_layers", "skip_layers", "output_layer")


def params_from_torch(params: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """A copy of `params` with the arrays of a published network.

    Dtypes are those of the weights, but for float64, which becomes float32 while JAX is held to 32 bits.

    Args:
        params: parameters of the network, or their shapes (`jax.eval_shape` of its `init`), without batch norms.
        weights: by state-dict name, e.g. `hidden_layers.0.kernel`, or `conv2.kernel` of a classifier.

    Raises:
        InputError: weights that are missing, left over or of another shape; all of them are named in one message.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [torch_name(path, classifier=_HEAD in params) for path, _ in leaves]
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
        converted.append(jax.device_put(from_torch_layout(name, found, leaf.shape)))
    if problems:
        raise InputError(f"these weights do not fit the configured network: {'; '.join(problems)}")
    return jax.tree_util.tree_unflatten(structure, converted)


def params_to_torch(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by the published program's state-dict names, in its layout.

    Raises:
        InputError: the network has layers that the published one lacks (batch norms, more affine layers).
    """
    exported = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = torch_name(path, classifier=_HEAD in params)
        exported[name] = to_torch_layout(name, np.asarray(leaf))
    return exported


def torch_name(path: tuple[Any, ...], *, classifier: bool = False) -> str:
    """State-dict name of a parameter: `trunk/hidden_layers_0/kernel` is `hidden_layers.0.kernel`.

    In a classifier that is `conv2.kernel`, and `out_layer/kernel` is `out_layer.weight`.

    Raises:
        InputError: the published network has no such layer.
    """
    *modules, leaf = (str(getattr(entry, "key", entry)) for entry in path)
    module = modules[-1] if modules else ""
    stem, _, number = module.rpartition("_")
    if classifier:
        if module == _HEAD:
            return f"{_HEAD}.weight" if leaf == "kernel" else f"{_HEAD}.{leaf}"
        if module == "input_layer" or (stem == "hidden_layers" and number.isdigit()):
            return f"conv{1 if module == 'input_layer' else int(number) + 2}.{leaf}"
    elif module.startswith(_MODULES):
        module = f"{stem}.{number}" if number.isdigit() else module
        return f"{module}.conv.{leaf}" if module.startswith("skip_layers") else f"{module}.{leaf}"
    raise InputError(f"the published network has no layer {'/'.join((*modules, leaf))}")


def torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that an array of ours has there."""
    return to_torch_layout(name, np.empty(shape, bool)).shape


def to_torch_layout(name: str, array: np.ndarray) -> np.ndarray:
    """An array of ours in the published layout."""
    if name.startswith(f"{_HEAD}."):
        return array.T
    if name.endswith("bias"):
        grid_axes = 2 if name.startswith("output_layer") else 3
        return array.reshape(1, -1, *(1,) * grid_axes)
    return array[..., None] if array.ndim == 2 else np.moveaxis(array, 0, -1)


def from_torch_layout(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The way back."""
    if name.startswith(f"{_HEAD}."):
        return array.T
    return array.reshape(shape) if name.endswith("bias") or len(shape) == 2 else np.moveaxis(array, -1, 0)
