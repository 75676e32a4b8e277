"""What each layer of hls4ml's C++ does to words, as functions of arrays, channels first and the batch last.

A sample of shape (*space, channel) is held as (channel, *space, batch): columns and batch are contiguous, which is what
vector units need when one weight meets many numbers. `run` takes the static facts of a layer, its formats (integers, or
arrays of them under `vmap`) and its arrays.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.emulation.pooling import paddings, pool
from fpga_bridge.emulation.products import Recipe, accumulate
from fpga_bridge.emulation.words import (
    Format,
    Wide,
    Words,
    as_carrier,
    assign,
    convert,
    limit,
    multiply,
    places,
    select,
    wrap,
)
from fpga_bridge.typed_graph.graph import (
    Add,
    Affine,
    Concatenate,
    Conv,
    Dense,
    GlobalPool,
    Input,
    LeakyRelu,
    Maximum,
    Multiply,
    Node,
    Pairwise,
    Pool,
    PRelu,
    Quantize,
    Relu,
    Reshape,
    Softmax,
    Table,
    ThresholdedRelu,
    Transpose,
    Upsample,
    ZeroInsert,
    ZeroPad,
)
from jaxgeo.errors import ExportError


class Formats(NamedTuple):
    """The types of one layer as integers, static or traced."""

    inputs: tuple[Format, ...]
    result: Format
    weight: Format
    bias: Format
    accum: Format
    slope: Format
    exp: Format  # of a softmax: sums, address of the second table, its entries
    inv_input: Format
    inv_table: Format


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """Static facts of a layer, right for all members of an ensemble."""

    node: Node
    kind: Any  # carrier of what it writes
    middle: Any  # carrier of what is computed on the way
    fits: bool  # nothing overflows when the result is assigned
    stream: bool
    recipe: Recipe | None = None
    kernel_shape: tuple[int, ...] = ()
    plain_sum: bool = False  # of an average: no partial sum is rounded, none overflows
    identity: bool = False
    softmax: str = ""


def inward(words: Any) -> Any:
    """(batch, *space, channel) to (channel, *space, batch)."""
    return jnp.transpose(words, (words.ndim - 1, *range(1, words.ndim - 1), 0))


def outward(words: Any) -> Any:
    """(channel, *space, batch) to (batch, *space, channel)."""
    return jnp.transpose(words, (words.ndim - 1, *range(1, words.ndim - 1), 0))


def run(  # noqa: PLR0911, PLR0912  # one for each kind of node
    layer: Layer, formats: Formats, arrays: dict[str, Any], inputs: list[Any]
) -> Any:
    """Words that the layer writes, (channel, *space, batch), in its carrier."""
    node, sources = layer.node, formats.inputs
    x = inputs[0]
    match node:
        case Input():
            return x
        case Dense() | Conv():
            words, fraction = _product(layer, formats, arrays, x), formats.accum.fraction
        case Affine() if layer.identity:
            return x
        case Affine():
            words, fraction = _affine(layer, formats, arrays, x)
        case Relu():
            words, fraction = jnp.maximum(x, jnp.zeros((), x.dtype)), sources[0].fraction
        case ThresholdedRelu():
            fraction = _greater(sources[0].fraction, formats.slope.fraction)
            theta = _aligned(arrays["slope"].reshape((1,) * x.ndim), formats.slope.fraction, fraction, layer.middle)
            above = _aligned(x, sources[0].fraction, fraction, layer.middle) > theta
            words, fraction = jnp.where(above, x, jnp.zeros((), x.dtype)), sources[0].fraction
        case LeakyRelu() | PRelu():
            return _leaky(layer, formats, arrays, x)
        case Table():
            entries = arrays["table"]
            words, fraction = entries[x.astype(jnp.int32) & (len(entries) - 1)], formats.weight.fraction
        case Multiply():
            words, fraction = _times(x, inputs[1], layer.middle), sources[0].fraction + sources[1].fraction
        case _ if isinstance(node, Pairwise):
            fraction = _greater(sources[0].fraction, sources[1].fraction)
            pair = zip(inputs, sources, strict=True)
            first, second = (_aligned(words, source.fraction, fraction, layer.middle) for words, source in pair)
            if isinstance(node, Add):
                words = first + second
            else:
                words = select((first > second) == isinstance(node, Maximum), first, second)
        case Concatenate():
            parts = [
                _assigned(layer, part, source, formats.result) for part, source in zip(inputs, sources, strict=True)
            ]
            last = node.axis == len(node.shape) - 1
            return jnp.concatenate(parts, axis=0 if last else node.axis + 1)
        case Pool() | GlobalPool():
            words, fraction = pool(node, x, sources[0], formats.accum, layer.middle, layer.stream, layer.plain_sum)
        case Reshape():
            return _channels_first(_channels_last(x).reshape(*node.shape, x.shape[-1]))
        case Transpose():
            return _channels_first(jnp.transpose(_channels_last(x), (*node.perm, len(node.perm))))
        case Upsample():
            for axis, factor in enumerate(node.factors, 1):
                x = jnp.repeat(x, factor, axis)
            return x
        case ZeroPad():
            return jnp.pad(x, ((0, 0), *node.pads, (0, 0)))
        case ZeroInsert():
            holes = [(0, 0, 0), *((0, 0, stride - 1) for stride in node.strides), (0, 0, 0)]
            return jax.lax.pad(x, jnp.zeros((), x.dtype), holes)
        case Quantize():
            words, fraction = x, sources[0].fraction
        case Softmax():
            return _softmax(layer, formats, arrays, x)
        case _:
            raise ExportError(f"no emulation of {node.kind} {node.name} ({node.source}) exists")
    words = assign(as_carrier(words, layer.middle), fraction, formats.result, fits=layer.fits)
    return as_carrier(words, layer.kind)


def _greater(a: Any, b: Any) -> Any:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else jnp.maximum(a, b)


def _aligned(words: Words, fraction: Any, target: Any, kind: Any) -> Words:
    words = as_carrier(words, kind)
    return words << places(target - fraction, words)


def _assigned(layer: Layer, words: Any, source: Format, target: Format) -> Any:
    words = assign(as_carrier(words, layer.middle), source.fraction, target, fits=layer.fits)
    return as_carrier(words, layer.kind)


def _channels_last(x: Any) -> Any:
    return jnp.moveaxis(x, 0, -2)


def _channels_first(x: Any) -> Any:
    return jnp.moveaxis(x, -2, 0)


def _times(x: Any, factor: Any, kind: Any) -> Words:
    """Products in a carrier that holds them."""
    return multiply(x, factor) if kind is Wide else x.astype(kind) * factor.astype(kind)


def _per_channel(values: Any, x: Any) -> Any:
    return values.reshape(-1, *(1 for _ in x.shape[1:]))


def _affine(layer: Layer, formats: Formats, arrays: dict[str, Any], x: Any) -> tuple[Words, Any]:
    product_fraction = formats.inputs[0].fraction + formats.weight.fraction
    fraction = _greater(product_fraction, formats.bias.fraction)
    product = _times(x, _per_channel(arrays["kernel"], x), layer.middle)
    offset = _aligned(_per_channel(arrays["bias"], x), formats.bias.fraction, fraction, layer.middle)
    return (product << places(fraction - product_fraction, product)) + offset, fraction


def _leaky(layer: Layer, formats: Formats, arrays: dict[str, Any], x: Any) -> Any:
    source = formats.inputs[0]
    above = _assigned(layer, x, source, formats.result)
    product = _times(x, _per_channel(arrays["slope"], x), layer.middle)
    below = convert(product, source.fraction + formats.slope.fraction, formats.result)
    return jnp.where(x > 0, above, as_carrier(below, layer.kind))


def _product(layer: Layer, formats: Formats, arrays: dict[str, Any], x: Any) -> Words:
    recipe, node = layer.recipe, layer.node
    assert recipe is not None
    kernel = arrays["kernel"].reshape(-1, arrays["kernel"].shape[-1])[np.asarray(recipe.rows, int)]
    fractions = (formats.inputs[0].fraction, formats.weight.fraction, formats.bias.fraction)
    if isinstance(node, Conv):
        row, matrix, shape = _windows(node, layer.kernel_shape, recipe.rows, x)
    else:
        shape = (math.prod(x.shape[1:]),)
        flat, rows = x.reshape(x.shape[0], -1), jnp.asarray(recipe.rows, jnp.int32)

        def row(k: Any) -> Any:
            return flat[rows[k]]

        def matrix() -> Any:
            return _rows_of(flat, recipe.rows)

    words = accumulate(
        recipe, row, matrix, kernel, arrays["bias"], shape=shape, fractions=fractions, accum=formats.accum
    )
    final = (*node.shape[:-1], x.shape[-1])
    if isinstance(words, Wide):
        return Wide(*(part.reshape(-1, *final) for part in (words.high, words.low)))
    return words.reshape(-1, *final)


def _rows_of(flat: Any, rows: tuple[int, ...]) -> Any:
    return flat if rows == tuple(range(len(flat))) else flat[np.asarray(rows, int)]


def _windows(node: Conv, kernel_shape: tuple[int, ...], rows: tuple[int, ...], x: Any) -> Any:
    """`row`, `matrix` and positions of a convolution: slices of one padded array, columns and batch in one axis."""
    window, strides = kernel_shape[:-2], node.strides
    pads = paddings(x.shape[1:-1], window, strides, node.padding)
    if len(window) == 1:  # a map of one line
        x, window, strides, pads = x[:, None], (1, *window), (1, *strides), ((0, 0), *pads)
    channels, height, width, batch = x.shape
    high, wide = ((n + sum(p) - k) // s + 1 for n, p, k, s in zip((height, width), pads, window, strides, strict=True))
    # Whole strides, so that each offset within a stride becomes a map of its own and windows become slices.
    sizes = [max(-(-(n + sum(p)) // s), m + (k - 1) // s) * s for n, p, k, s, m in
             zip((height, width), pads, window, strides, (high, wide), strict=True)]  # fmt: skip
    after = [size - n - p[0] for size, n, p in zip(sizes, (height, width), pads, strict=True)]
    x = jnp.pad(x, ((0, 0), (pads[0][0], after[0]), (pads[1][0], after[1]), (0, 0)))
    rows_, columns = sizes[0] // strides[0], sizes[1] // strides[1]
    if strides != (1, 1):
        x = x.reshape(channels, rows_, strides[0], columns, strides[1], batch).transpose(2, 4, 0, 1, 3, 5)
    planes = x.reshape(strides[0] * strides[1] * channels, rows_, columns * batch)
    index = np.asarray(rows, int)
    tap, channel = index // channels, index % channels
    dy, dx = tap // window[1], tap % window[1]
    plane = (dy % strides[0] * strides[1] + dx % strides[1]) * channels + channel
    starts = np.stack([plane, dy // strides[0], dx // strides[1] * batch], axis=-1).astype(np.int32)
    table, size = jnp.asarray(starts), (1, high, wide * batch)

    def row(k: Any) -> Any:
        start = table[k]
        return jax.lax.dynamic_slice(planes, (start[0], start[1], start[2]), size)[0]

    def matrix() -> Any:
        slices = []
        for i in range(window[0] * window[1]):
            y, column = divmod(i, window[1])
            first = (y % strides[0] * strides[1] + column % strides[1]) * channels
            corner = (first, y // strides[0], column // strides[1] * batch)
            slices.append(jax.lax.dynamic_slice(planes, corner, (channels, *size[1:])))
        return _rows_of(jnp.concatenate(slices), rows)

    return row, matrix, size[1:]


def _tree_sum(terms: Any, accum: Format) -> Any:
    """hls4ml's balanced tree over the first axis, each sum assigned to the accumulator."""
    count = terms.shape[0]
    if count == 1:
        return terms[0]
    left = 1 << ((count - 1).bit_length() - 1)
    return limit(_tree_sum(terms[:left], accum) + _tree_sum(terms[left:], accum), 0, accum)


def _softmax(layer: Layer, formats: Formats, arrays: dict[str, Any], x: Any) -> Any:
    x = x.astype(jnp.int64)
    if layer.softmax == "argmax":
        place = jnp.argmax(x, axis=0)[None]
        channel = jnp.arange(x.shape[0]).reshape(-1, *(1 for _ in x.shape[1:]))
        return jnp.where(channel == place, arrays["one"], 0).astype(layer.kind)
    source = formats.inputs[0]
    exp_words, inverse_words = arrays["exp"], arrays["inverse"]
    width = source.width
    if layer.softmax == "stable":
        width = source.width - source.signed
        x = wrap(jnp.max(x, axis=0, keepdims=True) - x, width, 0)
    exp_bits, inverse_bits = (len(table).bit_length() - 1 for table in (exp_words, inverse_words))
    address = (x >> places(width - exp_bits, x)) & jnp.int64(len(exp_words) - 1)
    powers = exp_words[address]
    total = convert(_tree_sum(powers, formats.exp), formats.exp.fraction, formats.inv_input)
    address = (total >> places(formats.inv_input.width - inverse_bits, total)) & jnp.int64(len(inverse_words) - 1)
    product = powers * inverse_words[address][None]
    words = convert(product, formats.exp.fraction + formats.inv_table.fraction, formats.result)
    return words.astype(layer.kind)
