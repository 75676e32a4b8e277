"""Weights of HEAL-SWIN and of its flat baseline under the published program's PyTorch names, in and out.

There an affine map is (out, in) and here (in, out); the embedding of patches is a convolution (out, in, *patch) there
and a matrix ((patch, in), out) here; the head has axes of length one. The flat program merges four tokens in the order
(0, 0), (1, 0), (0, 1), (1, 1) of (row, column) and numbers tokens by rows; here both follow the tree of `models.swin`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.errors import InputError
from jaxgeo.models.heal_swin import HealSwin, HealSwinConfig, plan_heal_swin
from jaxgeo.models.swin import Swin, SwinConfig, picture_order, plan_swin
from jaxgeo.models.swin_buffers import INDEX, MASK, published_buffers

Weights = Mapping[str, np.ndarray]
_ANCHOR = "patch_embed.proj.weight"
_TABLE = "attn.relative_position_bias_table"
_BESIDE = ("loss.", "train_metrics.", "val_metrics.")  # what a training checkpoint holds beside its network
_MERGED = (0, 2, 1, 3)  # the two orders of four merged tokens; its own inverse


def heal_swin_from_torch(config: HealSwinConfig, state: Weights) -> dict[str, Any]:
    """Parameters of `HealSwin` from arrays by state-dict name.

    Names may begin with a prefix, e.g. `model.` in a training checkpoint; the loss is left out. Dtypes are those of the
    arrays, but for float64, which becomes float32 while JAX is held to 32 bits.

    Published weights, of segmentation and of depth, want images as they are stored, 0 ... 255 as floating point: that
    program normalises none.

    Masks and index tables need not be there. Those that are must be what the configuration makes of windows, shift and
    mode; to take weights to other windows, faces or nside on purpose, leave them out of the state. For other classes or
    channels than the file's, load with the file's, and put `decoder/output` or `encoder/patch_embed` of new parameters
    in: no other array depends on them.

    Args:
        config: of the network the weights belong to.
        state: arrays, e.g. `layers.0.blocks.1.attn.qkv.weight`.

    Raises:
        InputError: weights that are missing, left over, of another shape, no floating-point numbers or not finite, or
            masks and index tables of another network; all of them are named in one message.
    """
    return _from_torch(config, state)


def swin_from_torch(config: SwinConfig, state: Weights) -> dict[str, Any]:
    """Parameters of `Swin` from arrays by state-dict name; as `heal_swin_from_torch`."""
    return _from_torch(config, state)


def heal_swin_to_torch(config: HealSwinConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All arrays of the published program's state dict by name, in its layout: weights, masks and index tables.

    Raises:
        InputError: the network has position biases by face, knows latitudes or has a perceptron of single pixels,
            unlike the published one; or the parameters are not the configured network's: all that are missing, left
            over or of another shape are named in one message.
    """
    return _to_torch(config, params)


def swin_to_torch(config: SwinConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All arrays of the published program's state dict by name, as `heal_swin_to_torch`.

    A network without position biases gets tables of zeros, which that program has and does not use.
    """
    return _to_torch(config, params)


def parameter_shapes(config: HealSwinConfig | SwinConfig) -> dict[str, Any]:
    """The parameters of a network as shapes, without computing anything."""
    if isinstance(config, SwinConfig):
        module, shape = Swin(config), (*config.size, config.channels)
    else:
        module, shape = HealSwin(config), (config.num_pixels, config.channels)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), _plan_of(config), x)["params"]


def _plan_of(config: HealSwinConfig | SwinConfig) -> Any:
    return plan_swin(config) if isinstance(config, SwinConfig) else plan_heal_swin(config)


def _from_torch(config: HealSwinConfig | SwinConfig, state: Weights) -> dict[str, Any]:
    _check_published(config)
    leaves, structure = jax.tree_util.tree_flatten_with_path(parameter_shapes(config))
    names = [_torch_name(config, path) for path, _ in leaves]
    found, problems = _network_part(config, state)
    problems += [f"{name} is missing" for name in names if name not in found]
    problems += [f"{name} is not part of the network" for name in found if name not in names]
    converted = []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if name not in found:
            continue
        array, needed = np.asarray(found[name]), _to_layout(config, name, np.empty(leaf.shape, bool)).shape
        if array.shape != needed:
            problems.append(f"{name} has shape {array.shape} and needs {needed}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            problems.append(f"{name} is of {array.dtype} and needs floating-point numbers")
        elif not np.isfinite(array).all():
            problems.append(f"{name} holds NaN or infinities")
        else:
            converted.append(jax.device_put(_from_layout(config, name, array).reshape(leaf.shape)))
    if problems:
        raise InputError(f"these weights do not fit the configured network: {'; '.join(problems)}")
    return jax.tree_util.tree_unflatten(structure, converted)


def _to_torch(config: HealSwinConfig | SwinConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    _check_published(config)
    needed, found = (
        {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (parameter_shapes(config), jax.tree.map(np.asarray, params))
    )
    spelled = {path: "/".join(str(getattr(entry, "key", entry)) for entry in path) for path in {**needed, **found}}
    problems = [f"{spelled[path]} is missing" for path in needed if path not in found]
    problems += [f"{spelled[path]} is not part of the network" for path in found if path not in needed]
    problems += [
        f"{spelled[path]} has shape {found[path]} and needs {shape}"
        for path, shape in needed.items()
        if found.get(path, shape) != shape
    ]
    if problems:
        raise InputError(f"these parameters are not the configured network's: {'; '.join(problems)}")
    leaves = {_torch_name(config, path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    exported = {name: _to_layout(config, name, np.asarray(leaf)) for name, leaf in leaves.items()}
    return exported | _unused_tables(config) | published_buffers(config, _plan_of(config))


def _unused_tables(config: HealSwinConfig | SwinConfig) -> dict[str, np.ndarray]:
    """Of a flat network without position biases, in which the published one has tables nevertheless."""
    if isinstance(config, HealSwinConfig) or config.bias_rows:
        return {}
    shapes = parameter_shapes(dataclasses.replace(config, position_bias="window"))
    leaves = {_torch_name(config, path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    return {name: np.zeros(leaf.shape, np.float32) for name, leaf in leaves.items() if name.endswith(_TABLE)}


def _check_published(config: HealSwinConfig | SwinConfig) -> None:
    if config.position_bias == "face":
        raise InputError("the published network has no position biases by face; take position_bias 'window' or 'none'")
    if isinstance(config, HealSwinConfig) and (config.latitude or config.pixel_width):
        raise InputError(
            "the published network knows no latitudes and has no perceptron of single pixels; take latitude False and "
            "pixel_width 0"
        )


def _network_part(config: HealSwinConfig | SwinConfig, state: Weights) -> tuple[dict[str, np.ndarray], list[str]]:
    """Weights by name without prefix, and what is wrong with the names and with masks and index tables."""
    prefix = next((name.removesuffix(_ANCHOR) for name in state if name.endswith(_ANCHOR)), "")
    found, problems, other_windows = {}, [], False
    has_buffers = any(name.endswith((MASK, INDEX)) for name in state)
    buffers = published_buffers(config, _plan_of(config)) if has_buffers else {}
    for name, array in state.items():
        short = name.removeprefix(prefix)
        if prefix and name.startswith(_BESIDE):
            continue
        if not name.startswith(prefix):
            problems.append(f"{name} is not part of the network, whose names begin with {prefix}")
        elif short in buffers:
            needed = buffers[short]
            if np.shape(array) != needed.shape:
                problems.append(f"{short} has shape {np.shape(array)} and the configured windows need {needed.shape}")
            elif not np.array_equal(array, needed):
                problems.append(f"{short} is not that of the configured windows, shift and mode")
            else:
                continue
            other_windows = True
        elif not (short.endswith(_TABLE) and isinstance(config, SwinConfig) and not config.bias_rows):
            found[short] = array
    if other_windows:
        problems.append("without masks and index tables the weights would be taken to the configured windows")
    return found, problems


def _torch_name(config: HealSwinConfig | SwinConfig, path: tuple[Any, ...]) -> str:
    """`encoder/layers_0/blocks_1/mlp/fc1/kernel` is `layers.0.blocks.1.mlp.fc1.weight`."""
    half, *modules, leaf = (str(getattr(entry, "key", entry)) for entry in path)
    names = ["decoder"] if half == "decoder" and isinstance(config, HealSwinConfig) else []
    for module in modules:
        stem, _, number = module.rpartition("_")
        names.append(f"{stem}.{number}" if number.isdigit() else module)
    return ".".join((*names, "weight" if leaf in ("kernel", "scale") else leaf))


def _to_layout(config: HealSwinConfig | SwinConfig, name: str, array: np.ndarray) -> np.ndarray:
    """An array of ours in the published layout."""
    flat = isinstance(config, SwinConfig)
    if name == _ANCHOR:
        patch = config.patch_size if isinstance(config, SwinConfig) else (config.patch_size,)
        return np.moveaxis(array.reshape(*patch, config.channels, -1), (-1, -2), (0, 1))
    if name.endswith("output.weight"):
        return array.T.reshape(*array.T.shape, *(1,) * (2 if flat else 1))
    if name.endswith("logit_scale"):
        return array.reshape(-1, 1, 1)
    if name == "absolute_pos_embed":
        if isinstance(config, SwinConfig):
            array = array[np.argsort(picture_order(config))]
        return array[None]
    if flat and ".downsample." in name:
        array = _regrouped(array)
    return array.T if array.ndim == 2 and name.endswith("weight") else array


def _from_layout(config: HealSwinConfig | SwinConfig, name: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `_to_layout`, up to axes of length one and joined axes."""
    if name == _ANCHOR:
        return np.moveaxis(array, (0, 1), (-1, -2))
    if name.endswith("output.weight"):
        return array.reshape(array.shape[:2]).T
    if name == "absolute_pos_embed":
        return array[0][picture_order(config)] if isinstance(config, SwinConfig) else array[0]
    if array.ndim == 2 and name.endswith("weight"):
        array = array.T
    return _regrouped(array) if isinstance(config, SwinConfig) and ".downsample." in name else array


def _regrouped(array: np.ndarray) -> np.ndarray:
    """Rows in four groups, one for each merged token, in the other order."""
    groups = array.reshape(4, -1, *array.shape[1:])
    return groups[list(_MERGED)].reshape(array.shape)
