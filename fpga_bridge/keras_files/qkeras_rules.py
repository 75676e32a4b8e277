"""What each layer of Keras and QKeras becomes: the nodes of the graph, by class name."""

import dataclasses
import fractions
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fpga_bridge import graph as ir
from fpga_bridge.keras_files.qkeras_layer import Layer
from fpga_bridge.keras_files.qkeras_quantizers import quantize_weight
from fpga_bridge.tracing.shape_rules import join
from fpga_bridge.tracing.values import Tensor
from jaxgeo.errors import ConfigError, CorruptFileError
from jaxgeo.layers.fixed_point import FixedPoint

IGNORED = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout",
           "ActivityRegularization")  # fmt: skip
_RECURRENT = ("SimpleRNN", "LSTM", "GRU", "Bidirectional")
_PAIRWISE = {"Add": ir.Add, "Multiply": ir.Multiply, "Maximum": ir.Maximum, "Minimum": ir.Minimum}


def emit(layer: Layer, inputs: list[Tensor]) -> Tensor:
    """The output of the layer for these inputs."""
    if layer.config.get("data_format") == "channels_first" and len(inputs[0].shape) > 1:
        raise layer.refuse("has its channels first", "build the model with data_format='channels_last'")
    dtype = layer.config.get("dtype", "float32")
    dtype = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    if dtype not in ("float32", "float64", None):
        raise layer.refuse(f"computes in {dtype}", "save the model with dtype float32")
    if layer.kind in (*_PAIRWISE, "Concatenate"):
        return _merge(layer, inputs)
    known = f"{', '.join(_PAIRWISE)}, Concatenate"
    if len(inputs) != 1:
        raise layer.refuse(f"reads {len(inputs)} tensors", f"use one of {known} to join them")
    if layer.kind in IGNORED:
        return inputs[0]
    rule = RULES.get(layer.kind)
    if layer.kind in _RECURRENT:
        raise layer.refuse(
            "has no form in hardware here, since hls4ml's recurrent layers look sigmoid and tanh up in 1024 samples "
            "and keep their gates in the type of their sums",
            "scan a RoundedCell of jaxgeo.layers.recurrent in JAX, which becomes exact layers of each step",
        )
    if rule is None:
        raise layer.refuse("has no form in hardware here", f"use one of {', '.join(sorted(RULES))}, {known}")
    return rule(layer, inputs[0])


def _merge(layer: Layer, inputs: list[Tensor]) -> Tensor:
    shapes = [x.shape for x in inputs]
    if layer.kind in _PAIRWISE:
        if len(inputs) < 2 or len(set(shapes)) > 1:
            raise layer.refuse(f"joins tensors of shapes {shapes}", "join two or more of one shape")
        kind = _PAIRWISE[layer.kind]
        total = inputs[0]
        for number, x in enumerate(inputs[1:]):
            name = layer.name if number == len(inputs) - 2 else f"{layer.name}_{number}"
            total = layer.builder.emit(kind, name, inputs=(total.name, x.name), shape=x.shape, source=layer.source)
        return total
    axis = layer.config.get("axis", -1)
    rank = len(shapes[0]) + 1
    if not isinstance(axis, int) or not -rank < axis < rank or axis == 0 or {len(s) + 1 for s in shapes} != {rank}:
        raise layer.refuse(f"joins along axis {axis}", "join along an axis behind the batch")
    axis = axis % rank - 1
    if len({shape[:axis] + shape[axis + 1 :] for shape in shapes}) > 1:
        raise layer.refuse(f"joins tensors of shapes {shapes} along axis {axis + 1}", "the other axes must agree")
    return join(layer.builder, inputs, axis, layer.name, layer.source)


def _sizes(layer: Layer, key: str, rank: int) -> tuple[int, ...]:
    value = layer.config.get(key)
    sizes = (value,) * rank if isinstance(value, int) else value
    if (
        not isinstance(sizes, list | tuple)
        or len(sizes) != rank
        or not all(isinstance(n, int) and n > 0 for n in sizes)
    ):
        raise ConfigError(f"{layer.where}: {key} must be {rank} numbers of at least 1, got {value!r}")
    return tuple(sizes)


def _spatial(layer: Layer, x: Tensor) -> int:
    rank = 1 if "1D" in layer.kind else 2
    if len(x.shape) != rank + 1:
        raise ConfigError(f"{layer.where} needs {rank} axes and channels, got a tensor of shape {x.shape}")
    return rank


def _padding(layer: Layer) -> str:
    padding = layer.config.get("padding", "valid")
    if padding not in ("valid", "same"):
        raise layer.refuse(f"has the padding {padding}", "use valid or same, or ZeroPadding before it")
    return padding


def _window_shape(
    layer: Layer, x: Tensor, window: tuple[int, ...], strides: tuple[int, ...], padding: str
) -> tuple[int, ...]:
    ends = [n if padding == "same" else n - w + 1 for n, w in zip(x.shape, window, strict=False)]
    if min(ends) < 1:
        raise ConfigError(f"{layer.where}: a window of {window} does not fit into {x.shape[:-1]}")
    return tuple(-(-n // s) for n, s in zip(ends, strides, strict=True))


def _bias(layer: Layer, arrays: Mapping[str, np.ndarray]) -> ir.Weight | None:
    return layer.weight(arrays["bias"], "bias") if "bias" in arrays else None


def _dense(layer: Layer, x: Tensor) -> Tensor:
    units = layer.number("units")
    shapes = {"kernel": (x.shape[-1], units)} | ({"bias": (units,)} if layer.config.get("use_bias", True) else {})
    arrays = layer.arrays(shapes)
    kernel = layer.weight(arrays["kernel"], "kernel")
    y = layer.node(ir.Dense, x, (*x.shape[:-1], units), kernel=kernel, bias=_bias(layer, arrays))
    return layer.activation(y, layer.config.get("activation"), "activation")


def _conv_settings(layer: Layer, x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], str, tuple[int, ...]]:
    """Window, strides, padding and the spatial shape of the result."""
    rank = _spatial(layer, x)
    window, strides, padding = _sizes(layer, "kernel_size", rank), _sizes(layer, "strides", rank), _padding(layer)
    dilation = layer.config.get("dilation_rate", 1)
    if {*(dilation if isinstance(dilation, list | tuple) else [dilation])} != {1}:
        raise layer.refuse(f"has the dilation {dilation}", "use a larger kernel with zeros in it")
    if layer.config.get("groups", 1) != 1:
        raise layer.refuse(f"has {layer.config['groups']} groups", "use one convolution for each and concatenate")
    return window, strides, padding, _window_shape(layer, x, window, strides, padding)


def _conv(layer: Layer, x: Tensor) -> Tensor:
    window, strides, padding, space = _conv_settings(layer, x)
    filters = layer.number("filters")
    shapes: dict[str, tuple[int, ...]] = {"kernel": (*window, x.shape[-1], filters)}
    if layer.config.get("use_bias", True):
        shapes["bias"] = (filters,)
    arrays = layer.arrays(shapes)
    kernel = layer.weight(arrays["kernel"], "kernel")
    fields = {"kernel": kernel, "bias": _bias(layer, arrays), "strides": strides, "padding": padding}
    y = layer.node(ir.Conv, x, (*space, filters), **fields)
    return layer.activation(y, layer.config.get("activation"), "activation")


def _spread(depthwise: ir.Weight) -> ir.Weight:
    """A depthwise kernel (*window, in, multiplier) as that of a convolution (*window, in, in * multiplier)."""
    *window, channels, multiplier = depthwise.value.shape
    kernel = np.zeros((*window, channels, channels, multiplier), np.float32)
    each = np.arange(channels)
    kernel[..., each, each, :] = depthwise.value
    kernel = kernel.reshape(*window, channels, channels * multiplier)
    return ir.Weight(kernel, depthwise.format, depthwise.rounded)


def _depthwise(layer: Layer, x: Tensor) -> Tensor:
    window, strides, padding, space = _conv_settings(layer, x)
    multiplier = layer.number("depth_multiplier", 1)
    width = x.shape[-1] * multiplier
    stored = layer.file.arrays.get(layer.spec.name, {})
    name = "kernel" if "kernel" in stored else "depthwise_kernel"  # Keras 3 renamed it
    shapes: dict[str, tuple[int, ...]] = {name: (*window, x.shape[-1], multiplier)}
    if layer.config.get("use_bias", True):
        shapes["bias"] = (width,)
    arrays = layer.arrays(shapes)
    kernel = _spread(layer.weight(arrays[name], "depthwise"))
    fields = {"kernel": kernel, "bias": _bias(layer, arrays), "strides": strides, "padding": padding}
    y = layer.node(ir.Conv, x, (*space, width), **fields)
    return layer.activation(y, layer.config.get("activation"), "activation")


def _separable(layer: Layer, x: Tensor) -> Tensor:
    window, strides, padding, space = _conv_settings(layer, x)
    multiplier, filters = layer.number("depth_multiplier", 1), layer.number("filters")
    width, ones = x.shape[-1] * multiplier, (1,) * len(window)
    shapes: dict[str, tuple[int, ...]] = {
        "depthwise_kernel": (*window, x.shape[-1], multiplier),
        "pointwise_kernel": (*ones, width, filters),
    }
    if layer.config.get("use_bias", True):
        shapes["bias"] = (filters,)
    arrays = layer.arrays(shapes)
    kernel = _spread(layer.weight(arrays["depthwise_kernel"], "depthwise"))
    y = layer.node(ir.Conv, x, (*space, width), "depthwise", kernel=kernel, strides=strides, padding=padding)
    pointwise = layer.weight(arrays["pointwise_kernel"], "pointwise")
    fields = {"kernel": pointwise, "bias": _bias(layer, arrays), "strides": ones, "padding": "valid"}
    y = layer.node(ir.Conv, y, (*space, filters), **fields)
    return layer.activation(y, layer.config.get("activation"), "activation")


def _statistics(layer: Layer, width: int, before: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Arrays of a batch normalisation (and of what the same layer stores before), each in its quantised value."""
    shapes = dict(before)
    for key, name in (("scale", "gamma"), ("center", "beta")):
        if layer.config.get(key, True):
            shapes[name] = (width,)
    arrays = layer.arrays({**shapes, "moving_mean": (width,), "moving_variance": (width,)})
    for name, place in (("gamma", "gamma"), ("beta", "beta"), ("mean", "moving_mean"), ("variance", "moving_variance")):
        quantizer = layer.quantizer(name)
        if quantizer is not None and place in arrays:
            arrays[place] = quantize_weight(quantizer, arrays[place]).value
    if (arrays["moving_variance"] + layer.config.get("epsilon", 1e-3) <= 0).any():
        raise CorruptFileError(f"{layer.where}: a moving variance is not positive; train or save the model again")
    arrays.setdefault("gamma", np.ones(width, np.float32))
    arrays.setdefault("beta", np.zeros(width, np.float32))
    return arrays


def _folded(layer: Layer, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, bool, bool]:
    """Scale and offset of a batch normalisation in float32, and whether each had to be rounded for that."""
    gamma, beta, mean, variance = (
        arrays[name].astype(np.float64) for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    epsilon = float(layer.config.get("epsilon", 1e-3))
    scale = (gamma / np.sqrt(variance + epsilon)).astype(np.float32)
    offset = (beta - mean * scale).astype(np.float32)
    exact = fractions.Fraction
    scale_is_exact = all(
        exact(float(s)) ** 2 * (exact(float(v)) + exact(epsilon)) == exact(float(g)) ** 2
        for s, v, g in zip(scale, variance, gamma, strict=True)
    )
    offset_is_exact = scale_is_exact and all(
        exact(float(b)) - exact(float(m)) * exact(float(s)) == exact(float(o))
        for b, m, s, o in zip(beta, mean, scale, offset, strict=True)
    )
    return scale, offset, not scale_is_exact, not offset_is_exact


def _batch_norm(layer: Layer, x: Tensor) -> Tensor:
    axis = layer.config.get("axis", -1)
    axes = axis if isinstance(axis, list | tuple) else [axis]
    if [a % (len(x.shape) + 1) for a in axes] != [len(x.shape)]:
        raise layer.refuse(f"normalises along axis {axis}", "normalise the channels, the last axis")
    arrays = _statistics(layer, x.shape[-1], {})
    scale, offset, scale_rounded, offset_rounded = _folded(layer, arrays)
    inverse = layer.quantizer("inverse")
    multiplier = quantize_weight(inverse, scale, scale_rounded)
    if inverse is not None:
        offset = (arrays["beta"] - arrays["moving_mean"].astype(np.float64) * multiplier.value).astype(np.float32)
    y = layer.node(ir.Affine, x, x.shape, scale=multiplier, offset=ir.Weight(offset, None, offset_rounded))
    return layer.activation(y, layer.config.get("activation"), "activation")


def _conv_batch_norm(layer: Layer, x: Tensor) -> Tensor:
    """QConv2DBatchnorm: the kernel times the scale of the normalisation is what the quantiser rounds."""
    window, strides, padding, space = _conv_settings(layer, x)
    filters = layer.number("filters")
    shapes: dict[str, tuple[int, ...]] = {"kernel": (*window, x.shape[-1], filters)}
    if layer.config.get("use_bias", True):
        shapes["bias"] = (filters,)
    arrays = _statistics(layer, filters, shapes)
    scale, offset, *rounded = _folded(layer, arrays)
    kernel = layer.weight(arrays["kernel"] * scale[(None,) * (len(window) + 1)], "kernel", True)
    folded = offset + arrays["bias"] * scale if "bias" in arrays else offset
    fields = {"kernel": kernel, "bias": layer.weight(folded, "bias", any(rounded)), "strides": strides}
    y = layer.node(ir.Conv, x, (*space, filters), padding=padding, **fields)
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
    rank = _spatial(layer, x)
    window, padding = _sizes(layer, "pool_size", rank), _padding(layer)
    strides = _sizes(layer, "strides", rank) if layer.config.get("strides") is not None else window
    space = _window_shape(layer, x, window, strides, padding)
    reduce = "max" if layer.kind.startswith("Max") else "average"
    covered = all(n == (o - 1) * s + w for n, o, s, w in zip(x.shape, space, strides, window, strict=False))
    if reduce == "average" and padding == "same":
        if not covered:
            raise layer.refuse("averages over fewer numbers at the border", "use padding='valid'")
        padding = "valid"
    fields = {"reduce": reduce, "window": window, "strides": strides, "padding": padding}
    y = layer.node(ir.Pool, x, (*space, x.shape[-1]), **fields)
    return layer.activation(y, layer.config.get("activation"), "activation")


def _global_pool(layer: Layer, x: Tensor) -> Tensor:
    _spatial(layer, x)
    y = layer.node(ir.GlobalPool, x, x.shape[-1:], reduce="max" if "Max" in layer.kind else "average")
    if layer.config.get("keepdims"):
        return layer.node(ir.Reshape, y, (*(1 for _ in x.shape[:-1]), x.shape[-1]), "keepdims")
    return layer.activation(y, layer.config.get("activation"), "activation")


def _upsample(layer: Layer, x: Tensor) -> Tensor:
    rank = _spatial(layer, x)
    if layer.config.get("interpolation", "nearest") != "nearest":
        raise layer.refuse(f"interpolates {layer.config['interpolation']}", "use interpolation='nearest'")
    factors = _sizes(layer, "size", rank)
    shape = (*(n * factor for n, factor in zip(x.shape, factors, strict=False)), x.shape[-1])
    return layer.node(ir.Upsample, x, shape, factors=factors)


def _zero_pad(layer: Layer, x: Tensor) -> Tensor:
    rank, padding = _spatial(layer, x), layer.config.get("padding")
    each: list[Any] = [padding] * rank if isinstance(padding, int) else [padding] if rank == 1 else list(padding or [])
    pads: tuple[tuple[int, ...], ...] = tuple((n, n) if isinstance(n, int) else tuple(n) for n in each)
    if len(pads) != rank or not all(len(p) == 2 and all(isinstance(n, int) and n >= 0 for n in p) for p in pads):
        raise ConfigError(f"{layer.where}: padding must be {rank} pairs of numbers of at least 0, got {padding!r}")
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
    strides = _sizes(layer, "strides", len(x.shape) - 1)
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
    "Dense": _dense, "Conv1D": _conv, "Conv2D": _conv, "DepthwiseConv2D": _depthwise, "DepthwiseConv1D": _depthwise,
    "SeparableConv1D": _separable, "SeparableConv2D": _separable, "QConv2DBatchnorm": _conv_batch_norm,
    "BatchNormalization": _batch_norm, "Activation": _activation, "ReLU": _relu, "LeakyReLU": _leaky_relu,
    "PReLU": _prelu, "Softmax": _softmax, "MaxPooling1D": _pool, "MaxPooling2D": _pool, "AveragePooling1D": _pool,
    "AveragePooling2D": _pool, "GlobalMaxPooling1D": _global_pool, "GlobalMaxPooling2D": _global_pool,
    "GlobalAveragePooling1D": _global_pool, "GlobalAveragePooling2D": _global_pool, "Flatten": _reshape,
    "Reshape": _reshape, "Permute": _permute, "UpSampling1D": _upsample, "UpSampling2D": _upsample,
    "FixedPointQuantizer": _quantizer,
    "TableActivation": _table,
    "ZeroInsertion": _zero_insert,
    "ZeroPadding1D": _zero_pad, "ZeroPadding2D": _zero_pad,
}  # fmt: skip
