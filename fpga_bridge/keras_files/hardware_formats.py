"""Fixed-point formats for what a network leaves in floating point: its input, plain weights, folded norms, results.

Files of QKeras state the formats of quantised layers only. hls4ml gives everything else one default type,
`ap_fixed<16,6>`; the same is done here to the graph itself, so that its evaluation, the C++ and the Verilog agree.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from fpga_bridge.tracing.values import Builder, Tensor
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.same_pooling import pad_by_zeros
from fpga_bridge.typed_graph.wrapping import largest, wrapped
from jaxgeo.errors import ConfigError, check_fields
from jaxgeo.layers.fixed_point import FixedPoint, quantize

_MOVES = (ir.Reshape, ir.Transpose, ir.Concatenate, ir.Upsample, ir.ZeroPad, ir.ZeroInsert)
_KEEPS_GRID = (*_MOVES, ir.Relu, ir.ThresholdedRelu, ir.Maximum, ir.Minimum)


@dataclasses.dataclass(frozen=True)
class HardwareFormats:
    """Formats for what has none; None leaves a kind as it is.

    Attributes:
        input: of the samples, where the network does not round them itself.
        weight: of kernels and biases.
        affine: of scales and offsets of batch normalisations.
        result: of results of layers that are not rounded before the next arithmetic. Functions such as tanh are looked
            up in a format that they have from the beginning, `tables` of `load_keras_graph`.

    Raises:
        ConfigError: what is no format.
    """

    input: FixedPoint | None = None
    weight: FixedPoint | None = None
    affine: FixedPoint | None = None
    result: FixedPoint | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def uniform(cls, format: FixedPoint) -> "HardwareFormats":
        """One format for all, as hls4ml's default."""
        return cls(format, format, format, format)


def with_formats(graph: ir.Graph, formats: HardwareFormats) -> ir.Graph:
    """The graph with every weight and result on a grid; what has a format already is left untouched.

    Quantisers are added after the input and after each layer that computes, unless all that reads the value rounds it
    first (a rectifier, a maximum or a change of shape between does no harm). Their nodes are called `<layer>_rounded`.

    Args:
        graph: any.
        formats: what to give to what has none.

    Raises:
        ConfigError: a format without a sign for weights of which some are negative.
    """
    builder, done = Builder(), {}
    for node in graph:
        inputs = tuple(done[name].name for name in node.inputs)
        changed = dataclasses.replace(node, inputs=inputs, **_rounded_weights(node, formats))
        value = builder.emit_node(changed, node.name)
        format = formats.input if isinstance(node, ir.Input) else formats.result
        needs = isinstance(node, ir.Input) or not isinstance(node, (ir.Quantize, ir.Softmax, ir.Table, *_KEEPS_GRID))
        if format is not None and needs and not _is_maximum(node) and not _is_rounded_next(graph, node.name):
            value = _emit_quantize(builder, value, f"{node.name}_rounded", format, node.source)
        done[node.name] = value
    # With formats it may be known that no input of a padded pooling is negative.
    return pad_by_zeros(builder.finish(done[graph.output]))


def _emit_quantize(builder: Builder, x: Tensor, name: str, format: FixedPoint, source: ir.Source) -> Tensor:
    return builder.emit(ir.Quantize, name, inputs=(x.name,), shape=x.shape, source=source, format=format)


def _is_maximum(node: ir.Node) -> bool:
    return isinstance(node, ir.Pool | ir.GlobalPool) and node.reduce == "max"


def _is_rounded_next(graph: ir.Graph, name: str) -> bool:
    """Whether every way from this node meets a quantiser before any arithmetic."""
    readers = graph.consumers(name)
    return bool(readers) and all(
        isinstance(reader, ir.Quantize)
        or ((isinstance(reader, _KEEPS_GRID) or _is_maximum(reader)) and _is_rounded_next(graph, reader.name))
        for reader in readers
    )


def _rounded_weights(node: ir.Node, formats: HardwareFormats) -> dict[str, ir.Weight]:
    kind, format = ("affine", formats.affine) if isinstance(node, ir.Affine) else ("weight", formats.weight)
    if format is None:
        return {}
    result = {}
    for field in dataclasses.fields(node):
        weight = getattr(node, field.name)
        if isinstance(weight, ir.Weight) and weight.format is None:
            negative = int((weight.value < 0).sum())
            if negative and not format.signed:
                raise ConfigError(
                    f"{negative} of {weight.value.size} numbers in the {field.name} of layer {node.name} "
                    f"({node.source}) are negative, and {format} has no sign to hold them; take "
                    f"{dataclasses.replace(format, signed=True)} as --{kind}-format (weights and affines alike follow "
                    "--formats where they have none of their own)"
                )
            value = np.asarray(quantize(jnp.asarray(weight.value, jnp.float32), format))
            result[field.name] = ir.Weight(value, format, wrapped=largest(wrapped(weight.value, format)))
    return result
