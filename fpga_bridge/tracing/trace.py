"""A pure apply function and its parameters -> the typed graph of what it computes.

The function is traced to a jaxpr (no twin of the model is written by hand) and its equations are read one by one:
those whose inputs are all constant are evaluated on the spot, the others are handed to `fpga_bridge.tracing.rules`.
"""

import re
from collections.abc import Callable
from typing import Any

from fpga_bridge.checks import check_finite
from fpga_bridge.tracing import rules
from fpga_bridge.tracing.member_rules import merged
from fpga_bridge.tracing.program import interpret, read_function
from fpga_bridge.tracing.sample_counts import refuse_other_layers
from fpga_bridge.tracing.values import Builder, Const, Members, Operand, Partial, Tensor, completed
from fpga_bridge.typed_graph.graph import Graph, Input, Source
from fpga_bridge.typed_graph.same_pooling import pad_by_zeros
from fpga_bridge.typed_graph.source import Place, refuse
from jaxgeo.errors import InputError
from jaxgeo.layers.fixed_point import FixedPoint


def trace(
    apply: Callable,
    params: Any,
    input_shape: tuple[int, ...],
    input_name: str = "input_map",
    tables: FixedPoint | None = None,
) -> Graph:
    """Read `apply(params, x)` as a graph of layers that hardware can carry.

    Args:
        apply: pure; takes the parameters and float32 inputs of shape `(batch, *input_shape)` and returns one array
            `(batch, ...)`. Layers take the names of their parameters: `params["conv_0"]["kernel"]` makes `conv_0`.
            An ensemble is `jax.vmap(apply, (0, None))(stacked, x).mean(0)`, with layers `member_0_conv_0` and so on.
        params: any pytree of arrays, all of them finite.
        input_shape: of one sample, without the batch axis.
        input_name: name of the input layer.
        tables: format in which functions such as tanh are looked up that no quantizer makes a table of: what they read
            and what they give is rounded to it. None refuses them.

    Raises:
        ConfigError: where `input_shape` is no tuple of whole numbers.
        ExportError: for an operation that cannot be carried; names it, the model's file and line, and what to use.
        InputError: for parameters that are not finite, or where the function does not take samples of this shape or
            does not return one array with the batch axis in front.
    """
    check_finite(params, "the parameters")
    read = read_function(apply, params, input_shape)
    one, *others = (_layers(program, read.parameters, input_shape, input_name, tables) for program in read.programs)
    for other in others:
        refuse_other_layers(one, other)
    if read.refusal is not None:
        raise read.refusal
    return pad_by_zeros(one)


def _layers(
    program: Any,
    parameters: list[Const],
    input_shape: tuple[int, ...],
    input_name: str,
    tables: FixedPoint | None,
) -> Graph:
    builder = Builder(tables)

    def lower(equation: Any, inputs: list[Any], source: Source) -> list[Operand]:
        scope = re.sub(r"(transpose|jvp|vmap)\(|\)", "", str(equation.source_info.name_stack))
        return [rules.lower(builder, equation, inputs, Place(source, scope))]

    entry = builder.emit(Input, input_name, inputs=(), shape=tuple(input_shape))
    (output,) = interpret(program, [*parameters, entry], lower)
    if isinstance(output, Members):
        output = merged(builder, output, "jax.vmap", Place(_source(builder, output), ""))
    else:
        output = completed(output)
    if isinstance(output, Partial):
        raise refuse(output.operation, output.source, output.why, output.instead)
    if isinstance(output, Const):
        raise InputError("the output of apply does not depend on its input, so there is nothing to export")
    return builder.finish(output)


def _source(builder: Builder, value: Operand) -> Source:
    """The line of the first part."""
    while isinstance(value, Members):
        value = value.parts[0]
    return builder.nodes[value.name].source if isinstance(value, Tensor) else Source()
