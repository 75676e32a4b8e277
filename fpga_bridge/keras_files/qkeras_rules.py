"""What each layer of Keras and QKeras becomes: the nodes of the graph, by class name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fpga_bridge.keras_files.convolution_rules import (
    convolution,
    convolution_batch_norm,
    depthwise,
    separable,
    transposed,
)
from fpga_bridge.keras_files.merge_rules import MERGES, merge
from fpga_bridge.keras_files.norms import folded, statistics
from fpga_bridge.keras_files.qkeras_layer import Layer
from fpga_bridge.keras_files.qkeras_quantizers import quantize_weight
from fpga_bridge.keras_files.recurrent_rules import bidirectional, recurrent
from fpga_bridge.keras_files.windows import padding, sizes, spatial, window_shape
from fpga_bridge.tracing.values import Tensor
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.errors import ConfigError
from jaxgeo.layers.fixed_point import FixedPoint

IGNORED = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout",
           "ActivityRegularization")  # fmt: skip


def emit(layer: Layer, inputs: list[Tensor]) -> Tensor:
    """The output of the layer for these inputs."""
    if layer.config.get("data_format") == "channels_first" and len(inputs[0].shape) > 1:
        raise layer.refuse("has its channels first", "build the model with data_format='channels_last'")
    layer.check_dtype()
    if layer.kind in MERGES:
        return merge(layer, inputs)
    if len(inputs) != 1:
        raise layer.refuse(f"reads {len(inputs)} tensors", f"use one of {', '.join(MERGES)} to join them")
    if layer.kind in IGNORED:
        return inputs[0]
    rule = RULES.get(layer.kind)
    if rule is None:
        raise layer.refuse("has no form in hardware here", f"use one of {', '.join(sorted((*RULES, *MERGES)))}")
    return rule(layer, inputs[0])


def _dense(layer: Layer, x: Tensor) -> Tensor:
    units = layer.number("units")
    shapes = {"kernel": (x.shape[-1], units)} | ({"bias": (units,)} if layer.config.get("use_bias", True) else {})
    arrays = layer.arrays(shapes)

    def emit(kernel: ir.Weight, bias: ir.Weight | None) -> Tensor:
        return layer.node(ir.Dense, x, (*x.shape[:-1], units), kernel=kernel, bias=bias)

    y = layer.product(emit, arrays["kernel"], layer.bias(arrays))
    return layer.activation(y, layer.config.get("activation"), "activation")


def _batch_norm(layer: Layer, x: Tensor) -> Tensor:
    axis = layer.config.get("axis", -1)
    axes = axis if isinstance(axis, list | tuple) else [axis]
    if [a % (len(x.shape) + 1) for a in axes] != [len(x.shape)]:
        raise layer.refuse(f"normalises along axis {axis}", "normalise the channels, the last axis")
    arrays = statistics(layer, x.shape[-1], {})
    scale, offset, scale_rounded, offset_rounded = folded(layer, arrays)
    inverse = layer.quantizer("inverse")
    multiplier = quantize_weight(inverse, scale, scale_rounded)
    if inverse is not None:
        offset = (arrays["beta"] - arrays["moving_mean"].astype(np.float64) * multiplier.value).astype(np.float32)
    y = layer.node(ir.Affine, x, x.shape, scale=multiplier, offset=ir.Weight(offset, None, offset_rounded))
    return layer.activation(y, layer.config.get("activation"), "activation")


def _activation(layer: Layer, x: Tensor) -> Tensor:
    return layer.activation(x, layer.config.get("activation"), "")


def _relu(layer: Layer, x: Tensor) -> Tensor:
    threshold, slope = (layer.config.get(key) or 0.0 for key in ("threshold", "negative_slope"))
    if layer.config.get("max_value") is not None or (threshold and slope):
        raise layer.refuse("is clipped or shifted", "use a plain ReLU and quantized_relu, which saturates")
    if threshold:
        return layer.node(ir.ThresholdedRelu, x, x.shape, threshold=float(threshold))
    return layer.node(ir.LeakyRelu, x, x.shape, slope=float(slope)) if slope else layer.node(ir.Relu, x, x.shape)


def _leaky_relu(layer: Layer, x: Tensor) -> Tensor:
    slope = layer.config.get("negative_slope", layer.config.get("alpha"))
    if not isinstance(slope, int | float):
        raise ConfigError(f"{layer.where}: its slope must be a number, got {slope!r}")
    return layer.node(ir.LeakyRelu, x, x.shape, slope=float(slope))


def _prelu(layer: Layer, x: Tensor) -> Tensor:
    shared = layer.config.get("shared_axes") or ()
    shape = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape, 1))
    slopes = np.broadcast_to(layer.arrays({"alpha": shape})["alpha"], x.shape).reshape(-1, x.shape[-1])
    if not (slopes == slopes[:1]).all():
        raise layer.refuse("has other slopes at other places", "share the axes of space, by shared_axes")
    return layer.node(ir.PRelu, x, x.shape, slope=ir.Weight(slopes[0]))


def _softmax(layer: Layer, x: Tensor) -> Tensor:
    if layer.config.get("axis", -1) not in (-1, len(x.shape)):
        raise layer.refuse(f"runs over axis {layer.config['axis']}", "use the last axis")
    return layer.node(ir.Softmax, x, x.shape)


def _pool(layer: Layer, x: Tensor) -> Tensor:
    rank = spatial(layer, x)
    window, name = sizes(layer, "pool_size", rank), padding(layer)
    strides = sizes(layer, "strides", rank) if layer.config.get("strides") is not None else window
    space = window_shape(layer, x, window, strides, name)
    reduce = "max" if layer.kind.startswith("Max") else "average"
    covered = all(n == (o - 1) * s + w for n, o, s, w in zip(x.shape, space, strides, window, strict=False))
    if reduce == "average" and name == "same":
        if not covered:
            raise layer.refuse("averages over fewer numbers at the border", "use padding='valid'")
        name = "valid"
    fields = {"reduce": reduce, "window": window, "strides": strides, "padding": name}
    y = layer.node(ir.Pool, x, (*space, x.shape[-1]), **fields)
    return layer.activation(y, layer.config.get("activation"), "activation")


def _global_pool(layer: Layer, x: Tensor) -> Tensor:
    spatial(layer, x)
    y = layer.node(ir.GlobalPool, x, x.shape[-1:], reduce="max" if "Max" in layer.kind else "average")
    if layer.config.get("keepdims"):
        return layer.node(ir.Reshape, y, (*(1 for _ in x.shape[:-1]), x.shape[-1]), "keepdims")
    return layer.activation(y, layer.config.get("activation"), "activation")


def _upsample(layer: Layer, x: Tensor) -> Tensor:
    rank = spatial(layer, x)
    if layer.config.get("interpolation", "nearest") != "nearest":
        raise layer.refuse(f"interpolates {layer.config['interpolation']}", "use interpolation='nearest'")
    factors = sizes(layer, "size", rank)
    shape = (*(n * factor for n, factor in zip(x.shape, factors, strict=False)), x.shape[-1])
    return layer.node(ir.Upsample, x, shape, factors=factors)


def _zero_pad(layer: Layer, x: Tensor) -> Tensor:
    rank, setting = spatial(layer, x), layer.config.get("padding")
    each: list[Any] = [setting] * rank if isinstance(setting, int) else [setting] if rank == 1 else list(setting or [])
    pads: tuple[tuple[int, ...], ...] = tuple((n, n) if isinstance(n, int) else tuple(n) for n in each)
    if len(pads) != rank or not all(len(p) == 2 and all(isinstance(n, int) and n >= 0 for n in p) for p in pads):
        raise ConfigError(f"{layer.where}: padding must be {rank} pairs of numbers of at least 0, got {setting!r}")
    shape = (*(n + sum(pad) for n, pad in zip(x.shape, pads, strict=False)), x.shape[-1])
    return layer.node(ir.ZeroPad, x, shape, pads=pads)


def _quantizer(layer: Layer, x: Tensor) -> Tensor:
    """The layer of `fpga_bridge.hls.keras_model` that rounds to a format."""
    fields = layer.config.get("format")
    known = {field.name for field in dataclasses.fields(FixedPoint)}
    if not isinstance(fields, Mapping) or set(fields) != known:
        raise ConfigError(f"{layer.where}: its format must have {', '.join(sorted(known))}, got {fields!r}")
    return layer.node(ir.Quantize, x, x.shape, format=FixedPoint(**fields))


def _table(layer: Layer, x: Tensor) -> Tensor:
    """The layer of `fpga_bridge.hls.keras_model` that looks up a function."""
    known = {field.name for field in dataclasses.fields(FixedPoint)}
    formats = []
    for name in ("input_format", "output_format"):
        fields = layer.config.get(name)
        if not isinstance(fields, Mapping) or set(fields) != known:
            raise ConfigError(f"{layer.where}: its {name} must have {', '.join(sorted(known))}, got {fields!r}")
        formats.append(FixedPoint(**fields))
    count = formats[0].max_word - formats[0].min_word + 1
    entries = layer.arrays({"entries": (count,)})["entries"]
    function = str(layer.config.get("function", "table"))
    return layer.node(
        ir.Table, x, x.shape, function=function, entries=ir.Weight(entries, formats[1]), input_format=formats[0]
    )


def _zero_insert(layer: Layer, x: Tensor) -> Tensor:
    """The layer of `fpga_bridge.hls.keras_model` that sets pixels a stride apart."""
    strides = sizes(layer, "strides", len(x.shape) - 1)
    shape = (*((n - 1) * stride + 1 for n, stride in zip(x.shape, strides, strict=False)), x.shape[-1])
    return layer.node(ir.ZeroInsert, x, shape, strides=strides)


def _reshape(layer: Layer, x: Tensor) -> Tensor:
    size = int(np.prod(x.shape))
    shape = (-1,) if layer.kind == "Flatten" else layer.numbers("target_shape")
    known = int(np.prod([n for n in shape if n != -1]))
    shape = tuple(size // max(known, 1) if n == -1 else n for n in shape)
    if int(np.prod(shape)) != size or shape.count(-1) > 1:
        raise ConfigError(f"{layer.where}: a tensor of shape {x.shape} cannot become {shape}")
    return x if shape == x.shape else layer.node(ir.Reshape, x, shape)


def _permute(layer: Layer, x: Tensor) -> Tensor:
    perm = tuple(axis - 1 for axis in layer.numbers("dims"))
    if sorted(perm) != list(range(len(x.shape))):
        raise ConfigError(f"{layer.where}: dims {layer.config['dims']} is no order of the axes 1 to {len(x.shape)}")
    return layer.node(ir.Transpose, x, tuple(x.shape[axis] for axis in perm), perm=perm)


RULES: dict[str, Callable[[Layer, Tensor], Tensor]] = {
    "Dense": _dense, "Conv1D": convolution, "Conv2D": convolution, "DepthwiseConv2D": depthwise,
    "DepthwiseConv1D": depthwise, "SeparableConv1D": separable, "SeparableConv2D": separable,
    "QConv2DBatchnorm": convolution_batch_norm, "Conv1DTranspose": transposed, "Conv2DTranspose": transposed,
    "BatchNormalization": _batch_norm, "Activation": _activation, "ReLU": _relu, "LeakyReLU": _leaky_relu,
    "PReLU": _prelu, "Softmax": _softmax, "MaxPooling1D": _pool, "MaxPooling2D": _pool, "AveragePooling1D": _pool,
    "AveragePooling2D": _pool, "GlobalMaxPooling1D": _global_pool, "GlobalMaxPooling2D": _global_pool,
    "GlobalAveragePooling1D": _global_pool, "GlobalAveragePooling2D": _global_pool, "Flatten": _reshape,
    "Reshape": _reshape, "Permute": _permute, "UpSampling1D": _upsample, "UpSampling2D": _upsample,
    "FixedPointQuantizer": _quantizer,
    "TableActivation": _table,
    "ZeroInsertion": _zero_insert,
    "ZeroPadding1D": _zero_pad, "ZeroPadding2D": _zero_pad,
    "SimpleRNN": recurrent, "LSTM": recurrent, "GRU": recurrent, "Bidirectional": bidirectional,
}  # fmt: skip
