"""Convolutions and pooling of da4ml variables, as what each output reads."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fpga_bridge.circuits import circuit
from jaxgeo.errors import ExportError

_OUTSIDE = -1  # an index of padding


def convolve(x: np.ndarray, kernel: np.ndarray, params: Mapping[str, Any], where: str) -> np.ndarray:
    """`conv_general_dilated` of JAX: any layout, strides, padding, dilations and feature groups.

    Args:
        x: elements.
        kernel: elements, all known.
        params: of the equation.
        where: names the equation in errors.

    Raises:
        ExportError: where the kernel depends on the input, for groups of the batch, or sums beyond float32.
    """
    if params["batch_group_count"] != 1 or not all(circuit.is_known(element) for element in kernel.flat):
        raise ExportError(f"{where} cannot be exported: its kernel has to be a parameter, without groups of the batch")
    lhs, rhs, out = params["dimension_numbers"]
    x, weights = x.transpose(lhs), kernel.transpose(rhs).astype(np.float64)  # (batch, in, *space), (out, in, *window)
    groups = params["feature_group_count"]
    read = _reads(
        x.shape[2:],
        weights.shape[2:],
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
    )
    space = read.shape[: x.ndim - 2]
    flat = np.concatenate([x.reshape(*x.shape[:2], -1), np.full((*x.shape[:2], 1), 0.0, object)], axis=2)
    patches = flat[:, :, read.reshape(int(np.prod(space)), -1)]  # (batch, in, position, place); the last is padding
    results = []
    for group, matrix in enumerate(np.split(weights, groups)):
        width = x.shape[1] // groups
        rows = patches[:, group * width : (group + 1) * width].transpose(0, 2, 1, 3)
        rows = rows.reshape(x.shape[0] * int(np.prod(space)), -1)
        made = circuit.matmul_known(rows, matrix.reshape(len(matrix), -1).T, where)
        results.append(made.reshape(x.shape[0], *space, -1))
    joined = np.moveaxis(np.concatenate(results, axis=-1), -1, 1)  # (batch, out, *space)
    return joined.transpose(np.argsort(out))


def reduce_windows(x: np.ndarray, params: Mapping[str, Any], operation: str, where: str) -> np.ndarray:
    """`reduce_window` of JAX with a sum, maximum or minimum; padding takes no part.

    Args:
        x: elements.
        params: of the equation.
        operation: `sum`, `max` or `min`.
        where: names the equation in errors.

    Raises:
        ExportError: for a window that reads padding only, or a sum beyond float32.
    """
    read = _reads(
        x.shape,
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        params["base_dilation"],
        params["window_dilation"],
    )
    result = np.empty(read.shape[: x.ndim], object)
    flat = x.reshape(-1)
    for index in np.ndindex(result.shape):
        inside = read[index].reshape(-1)
        inside = inside[inside != _OUTSIDE]
        if not len(inside) and operation != "sum":
            raise ExportError(f"{where} cannot be exported: a window reads nothing but padding; pad less")
        result[index] = circuit.reduce(flat[inside], operation, where)
    return result


def _reads(
    shape: tuple[int, ...], window: Any, strides: Any, padding: Any, base_dilation: Any, window_dilation: Any
) -> np.ndarray:
    """Flat indices (*position, *place in the window) of what each output reads; -1 for padding."""
    indices = np.arange(int(np.prod(shape))).reshape(shape)
    spread = np.full([(size - 1) * step + 1 for size, step in zip(shape, base_dilation, strict=True)], _OUTSIDE)
    spread[tuple(slice(None, None, step) for step in base_dilation)] = indices
    ends = [(max(low, 0), max(high, 0)) for low, high in padding]
    padded = np.pad(spread, ends, constant_values=_OUTSIDE)
    # Negative padding crops.
    padded = padded[
        tuple(
            slice(max(-low, 0), size - max(-high, 0)) for (low, high), size in zip(padding, padded.shape, strict=True)
        )
    ]
    spans = [(size - 1) * step + 1 for size, step in zip(window, window_dilation, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(padded, spans)
    every = tuple(slice(None, None, step) for step in (*strides, *window_dilation))
    return views[every]
