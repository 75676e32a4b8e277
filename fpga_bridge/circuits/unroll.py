"""A traced graph, or its part behind one node, on da4ml variables."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from fpga_bridge.circuits import circuit, windows
from fpga_bridge.circuits.symbolic import Unrolled
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.precision import words
from jaxgeo.errors import ExportError
from jaxgeo.layers.fixed_point import FixedPoint, quantize
from jaxgeo.layers.table_activation import Table, round_words

_SHORT_BITS = 8  # of a scale that needs no format, such as the quarter of a mean
_CARRIED = (
    "dense, convolution, affine, rectifiers, tables, pooling, upsampling, zeros, add, multiply, maximum, "
    "minimum, concatenate, reshape, transpose and quantize"
)
_PAIRWISE = {
    ir.Add: circuit.add,
    ir.Multiply: circuit.multiply,
    ir.Maximum: circuit.maximum,
    ir.Minimum: circuit.minimum,
}


def unroll(graph: ir.Graph, start: str | None) -> Unrolled:
    """Variables of the input port, its format, and the outputs of one sample.

    Args:
        graph: from `fpga_bridge.tracing.trace`.
        start: the node whose value becomes the input port; None for the whole network.

    Raises:
        ExportError: for a node, a rounding or an overflow mode that da4ml lacks, weights that are not quantised, or an
            output that depends on more than `start`.
    """
    entry, format = _entry(graph, start)
    ports = circuit.ports(entry.shape, format)
    values: dict[str, Any] = {entry.name: ports}
    for node in graph:
        if node.name not in values and node.inputs and all(source in values for source in node.inputs):
            values[node.name] = _unroll(node, [values[source] for source in node.inputs])
    if graph.output not in values:
        raise ExportError(f"the output {graph.output!r} depends on more than {entry.name!r}; start at another node")
    return Unrolled(ports, format, values[graph.output])


def _entry(graph: ir.Graph, start: str | None) -> tuple[ir.Node, FixedPoint]:
    """The node whose value stands at the input port, and its format."""
    if start is None:
        readers = graph.consumers(graph.input.name)
        if len(readers) != 1 or not isinstance(readers[0], ir.Quantize):
            raise ExportError(
                f"the input {graph.input.name!r} is not quantised at once, so its port has no width; "
                "quantise it first in the model, or start at a quantised node"
            )
        return readers[0], readers[0].format
    node = entry = graph[start]
    while isinstance(node, ir.Reshape | ir.Transpose | ir.Relu):
        node = graph[node.inputs[0]]
    if not isinstance(node, ir.Quantize):
        raise ExportError(f"the value of {start!r} has no fixed-point format of its own; start behind a quantised node")
    return entry, node.format


def _weight(weight: ir.Weight, node: ir.Node) -> np.ndarray:
    if weight.format is None:
        if isinstance(node, ir.Affine) and not weight.rounded and words(weight, _SHORT_BITS) is not None:
            return weight.value.astype(np.float64)
        raise ExportError(
            f"the weights of {node.name!r} ({node.source}) are not quantised, and hardware holds fixed point only; "
            "give the layer a precision"
        )
    return np.asarray(quantize(jnp.asarray(weight.value, jnp.float32), weight.format), np.float64)


def _with_bias(y: np.ndarray, bias: ir.Weight | None, node: ir.Node) -> np.ndarray:
    if bias is None:
        return y
    offset = np.broadcast_to(_weight(bias, node), y.shape).astype(object)
    return circuit.check_exact(circuit.elementwise(circuit.add, y, offset), _where(node))


def _where(node: ir.Node) -> str:
    return f"{node.name!r} ({node.source})"


def _unroll(node: ir.Node, inputs: list[np.ndarray]) -> np.ndarray:  # noqa: PLR0911, PLR0912  (one for each kind)
    """The elements of one node."""
    x, where = inputs[0], _where(node)
    match node:
        case ir.Quantize():
            return circuit.quantize(x, node.format, where)
        case ir.Dense():
            y = circuit.matmul_known(x.reshape(-1, x.shape[-1]), _weight(node.kernel, node), where)
            return _with_bias(y.reshape(node.shape), node.bias, node)
        case ir.Conv():
            return _with_bias(_convolve(node, x, where), node.bias, node)
        case ir.Affine():
            scale, offset = (np.broadcast_to(_weight(w, node), x.shape) for w in (node.scale, node.offset))
            scaled = circuit.elementwise(circuit.multiply, x, scale.astype(object))
            return circuit.check_exact(circuit.elementwise(circuit.add, scaled, offset.astype(object)), where)
        case ir.Relu():
            return circuit.elementwise(circuit.maximum, x, np.asarray(0.0, object))
        case ir.LeakyRelu():
            return _leaky_relu(x, np.broadcast_to(np.float32(node.slope), x.shape), where)
        case ir.PRelu():
            return _leaky_relu(x, np.broadcast_to(_weight(node.slope, node), x.shape), where)
        case ir.ThresholdedRelu():
            theta = circuit.constants(np.full(x.shape, np.float32(node.threshold)), where)
            return circuit.elementwise(lambda e, t: circuit.select(circuit.less(t, e), e, 0.0), x, theta)
        case ir.Table():
            return circuit.look_up(x, _table(node), where)
        case ir.Pool():
            params = _spatial(node.padding, x.shape[:-1], node.window, node.strides)
            rows = {name: (*values, (0, 0) if name == "padding" else 1) for name, values in params.items()}
            pooled = windows.reduce_windows(x, rows, "max" if node.reduce == "max" else "sum", where)
            return pooled if node.reduce == "max" else _divided(pooled, int(np.prod(node.window)), where)
        case ir.GlobalPool():
            columns = x.reshape(-1, x.shape[-1]).T
            operation = "max" if node.reduce == "max" else "sum"
            pooled = np.empty(len(columns), object)
            for channel, column in enumerate(columns):
                pooled[channel] = circuit.reduce(column, operation, where)
            return pooled if node.reduce == "max" else _divided(pooled, columns.shape[1], where)
        case ir.Upsample():
            for axis, factor in enumerate(node.factors):
                x = np.repeat(x, factor, axis=axis)
            return x
        case ir.ZeroPad():
            return np.pad(x, (*node.pads, (0, 0)), constant_values=0.0)
        case ir.ZeroInsert():
            spread = np.full(node.shape, 0.0, object)
            spread[tuple(slice(None, None, stride) for stride in node.strides)] = x
            return spread
        case _ if isinstance(node, ir.Pairwise):
            return circuit.check_exact(circuit.elementwise(_PAIRWISE[type(node)], x, inputs[1]), where)
        case ir.Concatenate():
            return np.concatenate(inputs, axis=node.axis)
        case ir.Reshape():
            return x.reshape(node.shape)
        case ir.Transpose():
            return x.transpose(node.perm)
    raise ExportError(
        f"{where} is a {node.kind}, which the RTL path does not unroll; it carries {_CARRIED}: start behind this node, "
        "write it with tables (jaxgeo.layers.table_activation) and emit the function, or use hls4ml for it"
    )


def _table(node: ir.Table) -> Table:
    format = node.entries.format
    if format is None:
        raise ExportError(f"the results of table {_where(node)} have no format; quantize them in the model")
    words = round_words(node.entries.value, format)
    return Table(node.function, node.input_format, format, words, np.zeros(len(words)))


def _spatial(
    padding: str, shape: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...]
) -> dict[str, tuple[Any, ...]]:
    """Parameters of a window over the axes of space, as JAX's equations hold them."""
    ends = []
    for size, span, stride in zip(shape, window, strides, strict=True):
        missing = max((-(-size // stride) - 1) * stride + span - size, 0) if padding == "same" else 0
        ends.append((missing // 2, missing - missing // 2))
    one = (1,) * len(shape)
    return {
        "window_dimensions": tuple(window),
        "window_strides": tuple(strides),
        "padding": tuple(ends),
        "base_dilation": one,
        "window_dilation": one,
    }


def _convolve(node: ir.Conv, x: np.ndarray, where: str) -> np.ndarray:
    rank = x.ndim - 1
    space = tuple(range(1, rank + 1))
    params = _spatial(node.padding, x.shape[:-1], node.kernel.value.shape[:rank], node.strides)
    params |= {"lhs_dilation": params["base_dilation"], "rhs_dilation": params["window_dilation"]}
    layout = ((0, rank + 1, *space), (rank + 1, rank, *range(rank)), (0, rank + 1, *space))
    more = {"dimension_numbers": layout, "feature_group_count": 1, "batch_group_count": 1}
    kernel = _weight(node.kernel, node).astype(object)
    return windows.convolve(x[None], kernel, {**params, **more}, where)[0]


def _leaky_relu(x: np.ndarray, slopes: np.ndarray, where: str) -> np.ndarray:
    def one(element: Any, slope: float) -> Any:
        below = circuit.multiply(element, slope)
        return circuit.select(circuit.less(element, 0.0), below, element)

    return circuit.check_exact(circuit.elementwise(one, x, slopes.astype(object)), where)


def _divided(x: np.ndarray, count: int, where: str) -> np.ndarray:
    if count & (count - 1):
        raise ExportError(
            f"{where} is a mean of {count} numbers, which is not exact in binary; pool over a power of two, or fold "
            "the mean into the next dense layer"
        )
    return circuit.elementwise(circuit.multiply, x, np.asarray(1.0 / count, object))
