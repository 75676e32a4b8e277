"""Equations that choose values by places known beforehand: slices, rolls, reversals, gathers with constant indices.

hls4ml has no such layers, but each choice is a product with ones and zeros, which is exact and costs no multiplier:
channels are chosen by a dense layer, places at equal steps by a convolution that has one tap in its window and strides
by the step, so that both stream. Other places are chosen by a dense layer between two transposes, for io_parallel only.
"""

import math
from typing import Any

import numpy as np

from fpga_bridge.tracing.values import Builder, Const, Partial, Tensor, Value, tensor
from fpga_bridge.typed_graph.graph import Conv, Dense, Transpose, Weight
from fpga_bridge.typed_graph.source import Place, refuse
from jaxgeo.layers.fixed_point import FixedPoint

_MAX_AXES = 3  # of a sample: rows, columns, channels
_MAX_WEIGHTS = 1 << 14  # ones and zeros of a layer; each is a line of C++ that g++ and HLS unroll
ONE = FixedPoint(2, 2)
"""The narrowest format with a one."""
_FOLD = "choose places before the network or by the strides of a layer, or reshape so that neighbours are consecutive"


def lower_slice(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """Places from a first to a last at equal steps, along any axes of a sample."""
    params, shape = equation.params, equation.invars[0].aval.shape
    strides = params["strides"] or (1,) * len(shape)
    limits = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return _choose(builder, tensor(inputs[0]), shape, [np.arange(*limit) for limit in limits], "slice", place)


def lower_dynamic_slice(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """A slice whose first places are constants; as JAX does, those are moved until the slice lies within."""
    x, *starts = inputs
    shape = equation.invars[0].aval.shape
    tables = []
    for start, size, count in zip(starts, shape, equation.params["slice_sizes"], strict=True):
        assert isinstance(start, Const)  # no activation becomes an integer
        tables.append(np.arange(count) + min(max(int(start.array), 0), size - count))
    return _choose(builder, tensor(x), shape, tables, "slice", place)


def lower_rev(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Value:
    """Axes of a sample read from the end."""
    shape, axes = equation.invars[0].aval.shape, equation.params["dimensions"]
    tables = [np.arange(size)[:: -1 if axis in axes else 1] for axis, size in enumerate(shape)]
    return _choose(builder, tensor(inputs[0]), shape, tables, "rev", place)


def _choose(
    builder: Builder, x: Tensor, shape: tuple[int, ...], tables: list[np.ndarray], operation: str, place: Place
) -> Tensor | Partial:
    """The values at all combinations of places, one table for each axis of the array, the batch's first."""
    if not np.array_equal(tables[0], np.arange(shape[0])):
        # Refused by what reads it: jnp.pad(mode="edge") takes samples at the edges too, and copies them not once.
        why = "it chooses samples of the batch"
        return Partial("samples", x, operation, place.source, why, "do so outside of the network")
    return select(builder, x, tables[1:], operation, place)


def select(builder: Builder, x: Tensor, tables: list[np.ndarray], operation: str, place: Place) -> Tensor:
    """The values of a sample at all combinations of places, one table for each axis.

    Raises:
        ExportError: more than three axes, places outside, or more ones and zeros than hardware should hold.
    """
    if any(min(table) < 0 or max(table) >= size for table, size in zip(tables, x.shape, strict=True)):
        raise refuse(operation, place.source, f"it chooses places outside of {x.shape}", _FOLD)
    wanted = [not np.array_equal(table, np.arange(size)) for table, size in zip(tables, x.shape, strict=True)]
    if any(wanted) and len(x.shape) > _MAX_AXES:
        raise refuse(operation, place.source, f"a sample of {len(x.shape)} axes is no image", "reshape first")
    if wanted[-1]:
        x = _channels(builder, x, tables[-1], operation, place)
    regular = [_is_regular(table) for table in tables[:-1]]
    if any(want and even for want, even in zip(wanted[:-1], regular, strict=True)):
        steps = [t if even else np.arange(n) for t, even, n in zip(tables[:-1], regular, x.shape[:-1], strict=True)]
        x = _places(builder, x, steps, operation, place)
    for axis, even in enumerate(regular):
        if wanted[axis] and not even:
            turned = (*range(axis + 1, len(x.shape)), *range(axis + 1))
            x = _transposed(builder, x, turned, place)
            x = _channels(builder, x, tables[axis], operation, place)
            x = _transposed(builder, x, tuple(np.argsort(turned).tolist()), place)
    return x


def _is_regular(table: np.ndarray) -> bool:
    steps = np.diff(table)
    return len(steps) == 0 or bool((steps == steps[0]).all() and steps[0] > 0)


def _ones(rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Float32 (in, out): a one in column i at row rows[i]."""
    matrix = np.zeros(shape, np.float32)
    matrix[rows, np.arange(shape[1])] = 1
    return matrix


def _check_size(count: int, operation: str, place: Place) -> None:
    if count > _MAX_WEIGHTS:
        raise refuse(
            operation,
            place.source,
            f"as a layer it would hold {count} ones and zeros, of at most {_MAX_WEIGHTS}",
            _FOLD,
        )


def _channels(builder: Builder, x: Tensor, table: np.ndarray, operation: str, place: Place) -> Tensor:
    _check_size(x.shape[-1] * len(table), operation, place)
    return builder.emit(
        Dense,
        place.name(operation),
        inputs=(x.name,),
        shape=(*x.shape[:-1], len(table)),
        source=place.source,
        kernel=Weight(_ones(table, (x.shape[-1], len(table))), ONE),
        bias=None,
    )


def _places(builder: Builder, x: Tensor, tables: list[np.ndarray], operation: str, place: Place) -> Tensor:
    """Places at equal steps by a convolution: the smallest window that holds the first and fits as often as needed."""
    window, strides, channels = [], [], x.shape[-1]
    for table, size in zip(tables, x.shape[:-1], strict=True):
        step = int(table[1] - table[0]) if len(table) > 1 else 1
        strides.append(step)
        window.append(max(int(table[0]) + 1, size - len(table) * step + 1))
    _check_size(math.prod(window) * channels**2, operation, place)
    kernel = np.zeros((*window, channels, channels), np.float32)
    kernel[tuple(int(table[0]) for table in tables)] = np.eye(channels, dtype=np.float32)
    return builder.emit(
        Conv,
        place.name(operation),
        inputs=(x.name,),
        shape=(*map(len, tables), channels),
        source=place.source,
        kernel=Weight(kernel, ONE),
        strides=tuple(strides),
        padding="valid",
    )


def _transposed(builder: Builder, x: Tensor, perm: tuple[int, ...], place: Place) -> Tensor:
    shape = tuple(x.shape[i] for i in perm)
    return builder.emit(
        Transpose, place.name("transpose"), inputs=(x.name,), shape=shape, source=place.source, perm=perm
    )
