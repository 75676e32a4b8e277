"""Convolutions of Keras and QKeras as convolutions of the graph, which alone hls4ml computes right.

Dilated, grouped and depthwise ones get zeros in their kernels, transposed ones zeros between their pixels: the
rewritings of `fpga_bridge.tracing.resampling_rules`.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from fpga_bridge.keras_files.norms import folded, statistics
from fpga_bridge.keras_files.qkeras_layer import Layer
from fpga_bridge.keras_files.windows import padding, sizes, spatial, window_shape
from fpga_bridge.tracing.resampling_rules import ungrouped, with_holes
from fpga_bridge.tracing.values import Tensor
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.errors import ConfigError


class _Windows(NamedTuple):
    """What a convolution reads and writes: taps of the kernel, their distance, and the space of the result."""

    taps: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str
    dilation: tuple[int, ...]
    space: tuple[int, ...]


def _dilation(layer: Layer, rank: int) -> tuple[int, ...]:
    return (1,) * rank if layer.config.get("dilation_rate") is None else sizes(layer, "dilation_rate", rank)


def _windows(layer: Layer, x: Tensor) -> _Windows:
    rank = spatial(layer, x)
    taps, strides, name = sizes(layer, "kernel_size", rank), sizes(layer, "strides", rank), padding(layer)
    dilation = _dilation(layer, rank)
    reach = tuple((n - 1) * d + 1 for n, d in zip(taps, dilation, strict=True))
    return _Windows(taps, strides, name, dilation, window_shape(layer, x, reach, strides, name))


def _kernel_shape(layer: Layer, x: Tensor, taps: tuple[int, ...], filters: int) -> tuple[int, ...]:
    groups = layer.number("groups", 1)
    if x.shape[-1] % groups or filters % groups:
        raise ConfigError(
            f"{layer.where}: {groups} groups must divide its {x.shape[-1]} channels and its {filters} filters"
        )
    return (*taps, x.shape[-1] // groups, filters)


def _convolved(
    layer: Layer,
    x: Tensor,
    windows: _Windows,
    kernel: ir.Weight,
    bias: ir.Weight | None = None,
    *,
    suffix: str = "",
    groups: int = 1,
) -> Tensor:
    """The convolution, with zeros in its kernel for what lies between the taps and between groups."""
    taps = ungrouped(with_holes(kernel.value, windows.dilation), groups)
    return layer.node(
        ir.Conv,
        x,
        (*windows.space, taps.shape[-1]),
        suffix,
        kernel=dataclasses.replace(kernel, value=taps),
        bias=bias,
        strides=windows.strides,
        padding=windows.padding,
    )


def convolution(layer: Layer, x: Tensor) -> Tensor:
    """Conv1D and Conv2D; dilated and grouped ones too."""
    windows, filters = _windows(layer, x), layer.number("filters")
    shapes = {"kernel": _kernel_shape(layer, x, windows.taps, filters)}
    if layer.config.get("use_bias", True):
        shapes["bias"] = (filters,)
    arrays = layer.arrays(shapes)
    emit = functools.partial(_convolved, layer, x, windows, groups=layer.number("groups", 1))
    y = layer.product(emit, arrays["kernel"], layer.bias(arrays))
    return layer.activation(y, layer.config.get("activation"), "activation")


def _output_padding(layer: Layer, strides: tuple[int, ...]) -> tuple[int | None, ...]:
    """Pixels that each axis is longer at its end; None where the layer leaves that to its padding."""
    value = layer.config.get("output_padding")
    each = (value,) * len(strides) if value is None or isinstance(value, int) else value
    good = isinstance(each, list | tuple) and len(each) == len(strides)
    if not good or not all(
        n is None or (isinstance(n, int) and 0 <= n < s) for n, s in zip(each, strides, strict=True)
    ):
        raise ConfigError(f"{layer.where}: output_padding must be below the strides {strides}, got {value!r}")
    return tuple(each)


def transposed(layer: Layer, x: Tensor) -> Tensor:
    """Conv1DTranspose and Conv2DTranspose: zeros between the pixels and around them, then a convolution."""
    rank, filters = spatial(layer, x), layer.number("filters")
    taps, strides, name = sizes(layer, "kernel_size", rank), sizes(layer, "strides", rank), padding(layer)
    extra = _output_padding(layer, strides)
    if layer.number("groups", 1) != 1:
        raise layer.refuse("has groups", "use a transposed convolution for each group, joined by Concatenate")
    shapes: dict[str, tuple[int, ...]] = {"kernel": (*taps, filters, x.shape[-1])}
    if layer.config.get("use_bias", True):
        shapes["bias"] = (filters,)
    arrays = layer.arrays(shapes)
    stored = layer.weight(arrays["kernel"], "kernel")
    # Rounded as it is stored; then turned, since a graph's convolution is a correlation to (in, out).
    turned = np.flip(stored.value, tuple(range(rank))).swapaxes(-1, -2)
    kernel = with_holes(np.ascontiguousarray(turned), _dilation(layer, rank))
    pads, space = [], []
    for n, k, stride, more in zip(x.shape, kernel.shape, strides, extra, strict=False):
        if name == "same":
            reach = stride if more is None else k % 2 + more
        else:
            reach = max(k, stride) if more is None else k + more
        zeros = reach + k - 2  # on both sides of the pixels
        low = min(-(-zeros // 2), k - 1) if name == "same" else k - 1
        pads.append((low, zeros - low))
        space.append((n - 1) * stride + reach)
    if max(strides) > 1:
        apart = tuple((n - 1) * stride + 1 for n, stride in zip(x.shape, strides, strict=False))
        x = layer.node(ir.ZeroInsert, x, (*apart, x.shape[-1]), "zeros", strides=strides)
    around = (*(n + low + high for n, (low, high) in zip(x.shape, pads, strict=False)), x.shape[-1])
    if around != x.shape:
        x = layer.node(ir.ZeroPad, x, around, "padded", pads=tuple(pads))
    ones = (1,) * rank
    windows = _Windows(kernel.shape[:rank], ones, "valid", ones, tuple(space))
    y = _convolved(layer, x, windows, dataclasses.replace(stored, value=kernel), layer.bias(arrays))
    return layer.activation(y, layer.config.get("activation"), "activation")


def _depthwise(
    layer: Layer, x: Tensor, windows: _Windows, kernel: ir.Weight, bias: ir.Weight | None, *, suffix: str = ""
) -> Tensor:
    """The convolution of a depthwise kernel (*window, in, multiplier), zero between its channels."""
    *window, channels, multiplier = kernel.value.shape
    spread = np.zeros((*window, channels, channels, multiplier), np.float32)
    each = np.arange(channels)
    spread[..., each, each, :] = kernel.value
    spread = spread.reshape(*window, channels, channels * multiplier)
    return _convolved(layer, x, windows, dataclasses.replace(kernel, value=spread), bias, suffix=suffix)


def depthwise(layer: Layer, x: Tensor) -> Tensor:
    """DepthwiseConv1D and DepthwiseConv2D."""
    windows, multiplier = _windows(layer, x), layer.number("depth_multiplier", 1)
    stored = layer.file.arrays.get(layer.spec.name, {})
    name = "kernel" if "kernel" in stored else "depthwise_kernel"  # Keras 3 renamed it
    shapes: dict[str, tuple[int, ...]] = {name: (*windows.taps, x.shape[-1], multiplier)}
    if layer.config.get("use_bias", True):
        shapes["bias"] = (x.shape[-1] * multiplier,)
    arrays = layer.arrays(shapes)
    emit = functools.partial(_depthwise, layer, x, windows)
    y = layer.product(emit, arrays[name], layer.bias(arrays), quantizer="depthwise", copies=x.shape[-1])
    return layer.activation(y, layer.config.get("activation"), "activation")


def separable(layer: Layer, x: Tensor) -> Tensor:
    """SeparableConv1D and SeparableConv2D."""
    windows = _windows(layer, x)
    multiplier, filters = layer.number("depth_multiplier", 1), layer.number("filters")
    ones = (1,) * len(windows.taps)
    shapes: dict[str, tuple[int, ...]] = {
        "depthwise_kernel": (*windows.taps, x.shape[-1], multiplier),
        "pointwise_kernel": (*ones, x.shape[-1] * multiplier, filters),
    }
    if layer.config.get("use_bias", True):
        shapes["bias"] = (filters,)
    arrays = layer.arrays(shapes)
    emit = functools.partial(_depthwise, layer, x, windows, suffix="depthwise")
    y = layer.product(emit, arrays["depthwise_kernel"], None, quantizer="depthwise", copies=x.shape[-1])
    emit = functools.partial(_convolved, layer, y, _Windows(ones, ones, "valid", ones, windows.space))
    y = layer.product(emit, arrays["pointwise_kernel"], layer.bias(arrays), quantizer="pointwise")
    return layer.activation(y, layer.config.get("activation"), "activation")


def convolution_batch_norm(layer: Layer, x: Tensor) -> Tensor:
    """QConv2DBatchnorm: the kernel times the scale of the normalisation is what the quantiser rounds."""
    windows, filters = _windows(layer, x), layer.number("filters")
    shapes = {"kernel": _kernel_shape(layer, x, windows.taps, filters)}
    if layer.config.get("use_bias", True):
        shapes["bias"] = (filters,)
    arrays = statistics(layer, filters, shapes)
    scale, offset, *rounded = folded(layer, arrays)
    kernel = arrays["kernel"] * scale[(None,) * (len(windows.taps) + 1)]
    shift = offset + arrays["bias"] * scale if "bias" in arrays else offset
    bias = layer.weight(shift, "bias", any(rounded))
    emit = functools.partial(_convolved, layer, x, windows, groups=layer.number("groups", 1))
    y = layer.product(emit, kernel, bias, rounded=True)
    return layer.activation(y, layer.config.get("activation"), "activation")
