"""Layers of Keras that join activations: number by number, end to end, or as a product of matrices."""

import numpy as np

from fpga_bridge.keras_files.qkeras_layer import Layer
from fpga_bridge.tracing.product_rules import product
from fpga_bridge.tracing.resampling_rules import expanded
from fpga_bridge.tracing.shape_rules import join
from fpga_bridge.tracing.values import Tensor
from fpga_bridge.typed_graph import graph as ir
from jaxgeo.errors import ConfigError

_PAIRWISE = {"Add": ir.Add, "Average": ir.Add, "Multiply": ir.Multiply, "Maximum": ir.Maximum, "Minimum": ir.Minimum}
MERGES = (*_PAIRWISE, "Subtract", "Concatenate", "Dot")


def merge(layer: Layer, inputs: list[Tensor]) -> Tensor:
    """The output of a layer of `MERGES`."""
    if layer.kind == "Concatenate":
        return _concatenate(layer, inputs)
    if len(inputs) < 2 or (layer.kind in ("Subtract", "Dot") and len(inputs) > 2):
        raise ConfigError(f"{layer.where} joins {len(inputs)} tensors; {_counts(layer)} are needed")
    if layer.kind == "Dot":
        return _dot(layer, *inputs)
    inputs = _alike(layer, inputs)
    if layer.kind == "Subtract":
        return layer.pair(ir.Add, inputs[0], scaled(layer, inputs[1], -1.0, "negative"))
    total = inputs[0]
    for number, x in enumerate(inputs[1:]):
        last = number == len(inputs) - 2 and layer.kind != "Average"
        total = layer.pair(_PAIRWISE[layer.kind], total, x, "" if last else str(number))
    return scaled(layer, total, 1 / len(inputs)) if layer.kind == "Average" else total


def _counts(layer: Layer) -> str:
    return "two" if layer.kind in ("Subtract", "Dot") else "two or more"


def scaled(layer: Layer, x: Tensor, factor: float, suffix: str = "") -> Tensor:
    """A node that multiplies by one over a whole number."""
    width, single = x.shape[-1], np.float32(factor)
    scale = ir.Weight(np.full(width, single), None, float(single) * round(1 / factor) != 1)
    return layer.node(ir.Affine, x, x.shape, suffix, scale=scale, offset=ir.Weight(np.zeros(width, np.float32)))


def _alike(layer: Layer, inputs: list[Tensor]) -> list[Tensor]:
    """All in one shape: axes of one, and those that a tensor lacks behind the batch, are copied."""
    try:
        shape = np.broadcast_shapes(*(x.shape for x in inputs))
    except ValueError as error:
        shapes = ", ".join(str(x.shape) for x in inputs)
        raise ConfigError(f"{layer.where} joins tensors of shapes {shapes}, which do not fit together") from error
    ones = [(1,) * (len(shape) - len(x.shape)) for x in inputs]
    inputs = [
        layer.node(ir.Reshape, x, (*front, *x.shape), "expanded") if front else x
        for x, front in zip(inputs, ones, strict=True)
    ]
    return [expanded(layer.builder, x, shape, layer.place) for x in inputs]


def _concatenate(layer: Layer, inputs: list[Tensor]) -> Tensor:
    axis, shapes = layer.config.get("axis", -1), [x.shape for x in inputs]
    rank = len(shapes[0]) + 1
    if not isinstance(axis, int) or not -rank < axis < rank or axis == 0 or {len(s) + 1 for s in shapes} != {rank}:
        raise layer.refuse(f"joins along axis {axis}", "join along an axis behind the batch")
    axis = axis % rank - 1
    if len({shape[:axis] + shape[axis + 1 :] for shape in shapes}) > 1:
        raise layer.refuse(f"joins tensors of shapes {shapes} along axis {axis + 1}", "the other axes must agree")
    return join(layer.builder, inputs, axis, layer.name, layer.source)


def _dot(layer: Layer, x: Tensor, y: Tensor) -> Tensor:
    """The product of two matrices, or of a vector with either: of each pair of rows one number."""
    axes = layer.config.get("axes")
    axes = [axes, axes] if isinstance(axes, int) else axes
    if not isinstance(axes, list | tuple) or len(axes) != 2 or not all(isinstance(axis, int) for axis in axes):
        raise ConfigError(f"{layer.where}: axes must be one or two whole numbers, got {axes!r}")
    if layer.config.get("normalize"):
        raise layer.refuse("divides by the lengths of what it multiplies", "use normalize=False, or divide afterwards")
    over = [axis % (len(tensor.shape) + 1) for axis, tensor in zip(axes, (x, y), strict=True)]
    if 0 in over:
        raise layer.refuse("multiplies along the batch", "use axes of a sample")
    counts = [tensor.shape[axis - 1] for axis, tensor in zip(over, (x, y), strict=True)]
    if counts[0] != counts[1]:
        raise ConfigError(f"{layer.where} multiplies {counts[0]} numbers by {counts[1]}")
    return product(layer.builder, (x, y), (over[:1], over[1:]), ((0,), (0,)), layer.place, name=layer.name)
