"""A graph as a JAX function: what the nodes compute, quantisers included, with neither Keras nor hls4ml."""

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.tables import look_up
from jaxgeo.errors import ExportError, InputError
from jaxgeo.layers.fixed_point import quantize


def apply_graph(graph: ir.Graph, x: jax.Array, until: str | None = None) -> jax.Array:
    """Outputs `(sample, *shape)` of a graph for inputs `(sample, *graph.input.shape)`, in the dtype of `x`.

    Pure and traceable. Sums that the dtype holds exactly are exact, so that a fixed-point graph whose types
    `fpga_bridge.typed_graph.precision.plan_types` accepts gives the words of the hardware.

    Args:
        graph: from `fpga_bridge.tracing.trace` or `fpga_bridge.keras_files.qkeras_files`.
        x: float32, or float64 inside `jax.enable_x64(True)`.
        until: name of the node whose value to return; None for the output.

    Raises:
        InputError: for inputs of another shape or of integers, or an unknown node.
        ExportError: for a kind of node that has no rule here.
    """
    if x.shape[1:] != graph.input.shape or not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(
            f"the network takes floating samples of shape {graph.input.shape}, got {x.dtype} of shape {x.shape}"
        )
    last = graph[graph.output if until is None else until].name
    values: dict[str, jax.Array] = {graph.input.name: x}
    with jax.default_matmul_precision("highest"):
        for node in graph.nodes[1:]:
            if last in values:
                break
            values[node.name] = _apply(node, [values[name] for name in node.inputs])
    return values[last]


def _last(weight: ir.Weight, like: jax.Array) -> jax.Array:
    return jnp.asarray(weight.value, like.dtype)[(None,) * (like.ndim - 1)]


def _pool(x: jax.Array, node: ir.Pool) -> jax.Array:
    window, strides, padding = (1, *node.window, 1), (1, *node.strides, 1), node.padding.upper()
    if node.reduce == "max":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, padding)
    count = jax.lax.reduce_window(jnp.ones_like(x), 0.0, jax.lax.add, window, strides, padding)
    return total / count


def _apply(node: ir.Node, inputs: list[jax.Array]) -> jax.Array:  # noqa: PLR0911, PLR0912  # one for each kind
    x = inputs[0]
    match node:
        case ir.Dense():
            y = x @ jnp.asarray(node.kernel.value, x.dtype)
            return y if node.bias is None else y + _last(node.bias, y)
        case ir.Conv():
            axes = "HW"[: len(node.strides)]
            y = jax.lax.conv_general_dilated(
                x,
                jnp.asarray(node.kernel.value, x.dtype),
                node.strides,
                node.padding.upper(),
                dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
            )
            return y if node.bias is None else y + _last(node.bias, y)
        case ir.Affine():
            return x * _last(node.scale, x) + _last(node.offset, x)
        case ir.Relu():
            return jnp.maximum(x, 0)
        case ir.LeakyRelu():
            return jnp.where(x > 0, x, node.slope * x)
        case ir.PRelu():
            return jnp.where(x > 0, x, _last(node.slope, x) * x)
        case ir.ThresholdedRelu():
            return jnp.where(x > node.threshold, x, 0)
        case ir.Table():
            return look_up(x, jnp.asarray(node.entries.value), node.input_format)
        case ir.Pool():
            return _pool(x, node)
        case ir.GlobalPool():
            axes = tuple(range(1, x.ndim - 1))
            return jnp.max(x, axes) if node.reduce == "max" else jnp.mean(x, axes)
        case ir.Upsample():
            for axis, factor in enumerate(node.factors, 1):
                x = jnp.repeat(x, factor, axis)
            return x
        case ir.ZeroPad():
            return jnp.pad(x, ((0, 0), *node.pads, (0, 0)))
        case ir.ZeroInsert():
            between = ((0, 0, stride - 1) for stride in node.strides)
            return jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *between, (0, 0, 0)))
        case ir.Add():
            return x + inputs[1]
        case ir.Multiply():
            return x * inputs[1]
        case ir.Maximum():
            return jnp.maximum(x, inputs[1])
        case ir.Minimum():
            return jnp.minimum(x, inputs[1])
        case ir.Concatenate():
            return jnp.concatenate(inputs, node.axis + 1)
        case ir.Reshape():
            return x.reshape(len(x), *node.shape)
        case ir.Transpose():
            return jnp.transpose(x, (0, *np.add(node.perm, 1).tolist()))
        case ir.Softmax():
            return jax.nn.softmax(x)
        case ir.Quantize():
            return quantize(x, node.format)
    raise ExportError(f"no evaluation of {node.kind} {node.name} ({node.source})")
