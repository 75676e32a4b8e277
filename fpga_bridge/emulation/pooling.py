"""Pooling of words as hls4ml's C++ does it, which differs between arrays and streams.

In io_parallel the elements enter as they are, and the accumulator takes each partial sum (or the maximum); in io_stream
they are assigned to the accumulator first, and a window is summed in a balanced tree. A mean is a division of words
towards zero.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from fpga_bridge.emulation.words import Format, convert, limit, places
from fpga_bridge.typed_graph.graph import GlobalPool, Pool


def pool(
    node: Pool | GlobalPool, x: Any, source: Format, accum: Format, middle: Any, stream: bool, plain_sum: bool
) -> tuple[Any, Any]:
    """Words before they are assigned to the result, and their bits after the point.

    Args:
        node: the layer.
        x: words (channel, *space, batch).
        source: type of `x`.
        accum: type of the accumulator.
        middle: carrier that holds every partial sum, at most int64.
        stream: whether the design streams.
        plain_sum: no partial sum is rounded or overflows, so that the order does not matter.
    """
    x = x.astype(middle)
    if node.reduce == "max":
        parts = _elements(node, x, source)
        if stream:
            parts = [convert(part, source.fraction, accum) for part in parts]
        largest = parts[0]
        for part in parts[1:]:
            largest = jnp.maximum(largest, part)
        if isinstance(node, GlobalPool):
            largest = jnp.max(largest, axis=1)
        return largest if stream else convert(largest, source.fraction, accum), accum.fraction
    parts = _elements(node, x, source)
    count = math.prod(node.window) if isinstance(node, Pool) else parts[0].shape[1]
    if plain_sum:
        total = sum(parts[1:], parts[0])
        if isinstance(node, GlobalPool):
            total = jnp.sum(total, axis=1, dtype=middle)
        total = total << places(accum.fraction - source.fraction, total)
    elif isinstance(node, GlobalPool):
        total = _one_by_one(parts[0], source, accum, stream)
    elif stream:
        total = _tree([convert(part, source.fraction, accum) for part in parts], accum)
    else:
        total = jnp.zeros_like(parts[0])
        for part in parts:
            total = _plus(total, part, source, accum)
    return jax.lax.div(total, jnp.asarray(count, total.dtype)), accum.fraction


def _elements(node: Pool | GlobalPool, x: Any, source: Format) -> list[Any]:
    """The elements of each window, one array for each place in it; all of a map in one array's second axis."""
    if isinstance(node, GlobalPool):
        return [x.reshape(x.shape[0], -1, x.shape[-1])]
    sizes = x.shape[1:-1]
    outputs = node.shape[:-1]
    if node.padding == "same":
        # The C++ pads by the word whose highest bit alone is set: the smallest of a signed type.
        lowest = jnp.asarray(1, x.dtype) << places(source.width - 1, x)
        lowest = jnp.where(jnp.asarray(source.signed) != 0, -lowest, lowest)
        pads = paddings(sizes, node.window, node.strides, node.padding)
        x = jax.lax.pad(x, lowest, [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])
    parts = []
    for offset in _offsets(node.window):
        index: list[slice] = [slice(None)]
        for start, stride, count in zip(offset, node.strides, outputs, strict=True):
            index.append(slice(start, start + (count - 1) * stride + 1, stride))
        parts.append(x[tuple(index)])
    return parts


def paddings(
    sizes: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...], padding: str
) -> tuple[tuple[int, int], ...]:
    """(before, after) of each spatial axis, as Keras pads."""
    if padding == "valid":
        return tuple((0, 0) for _ in sizes)
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, window, strides, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def _offsets(window: tuple[int, ...]) -> list[tuple[int, ...]]:
    if len(window) == 1:
        return [(i,) for i in range(window[0])]
    return [(i, j) for i in range(window[0]) for j in range(window[1])]


def _plus(total: Any, part: Any, source: Format, accum: Format) -> Any:
    """`total += part` of an accumulator and a number on another grid."""
    both_static = isinstance(source.fraction, int) and isinstance(accum.fraction, int)
    fraction = max(source.fraction, accum.fraction) if both_static else jnp.maximum(source.fraction, accum.fraction)
    exact = (total << places(fraction - accum.fraction, total)) + (part << places(fraction - source.fraction, part))
    return convert(exact, fraction, accum)


def _one_by_one(parts: Any, source: Format, accum: Format, stream: bool) -> Any:
    def add(i: Any, total: Any) -> Any:
        if stream:
            return limit(total + convert(parts[:, i], source.fraction, accum), 0, accum)
        return _plus(total, parts[:, i], source, accum)

    return jax.lax.fori_loop(0, parts.shape[1], add, jnp.zeros_like(parts[:, 0]))


def _tree(parts: list[Any], accum: Format) -> Any:
    if len(parts) == 1:
        return parts[0]
    left = 1 << ((len(parts) - 1).bit_length() - 1)
    return limit(_tree(parts[:left], accum) + _tree(parts[left:], accum), 0, accum)
