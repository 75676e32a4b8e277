"""A graph as an ONNX model of standard operators, quantisers included: Mul, Round or Floor, Clip, Mul.

ONNX convolves and pools with channels first, the graph has them last; values stay in the order in which they came, and
are transposed only where the next operator needs the other one. The quantisers are exact in every rounding and overflow
mode: scaling by a power of two, rounding and clipping are exact in floating point. Where float32 does not hold the sums
of a fully quantised graph, the model computes in float64.

References:
    ONNX, "Operators", operator set 13.
"""

import dataclasses

import numpy as np

from fpga_bridge.onnx import messages as onnx_file
from fpga_bridge.onnx.quantizer import Operators, quantized
from fpga_bridge.typed_graph import graph as ir
from fpga_bridge.typed_graph.precision import carrier
from jaxgeo.errors import ExportError

_PAIRWISE = {ir.Add: "Add", ir.Multiply: "Mul", ir.Maximum: "Max", ir.Minimum: "Min"}


def to_onnx(graph: ir.Graph, name: str = "network", dtype: str | None = None) -> bytes:
    """The bytes of a `.onnx` file with one input and one output, both (batch, *shape), channels last.

    Args:
        graph: any; equal bit for bit to the hardware where every value is quantised and no softmax follows.
        name: of the graph.
        dtype: float32 or float64; None for the narrowest that is exact, float32 where the graph is not quantised.

    Raises:
        ExportError: for a kind of node that has no operator here, or quantised sums that fit neither float.
    """
    operators = Operators(carrier(graph) if dtype is None else dtype)
    writer = _Writer(operators, graph)
    for node in graph.nodes[1:]:
        writer.emit(node)
    entry, output = graph.input, graph[graph.output]
    result = operators.add("Identity", [writer.get(output.name, False)], f"{output.name}_output")
    infos = [
        onnx_file.value_info(tensor, ("batch", *node.shape), operators.dtype)
        for tensor, node in ((entry.name, entry), (result, output))
    ]
    return onnx_file.model(name, operators.nodes, operators.initializers, infos[:1], infos[1:])


def _by_channel(values: np.ndarray | float, space: tuple[int, ...], first: bool) -> np.ndarray:
    """Numbers of the channels, or one number, before the axes of space where channels come first."""
    return np.reshape(values, (-1, *(1,) * len(space) * first))


@dataclasses.dataclass
class _Writer:
    """The tensor of each node while operators are added; `True` is channels first."""

    operators: Operators
    graph: ir.Graph
    values: dict[str, dict[bool, str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values[self.graph.input.name] = {False: self.graph.input.name}

    def get(self, name: str, first: bool) -> str:
        """The tensor of a node in the order asked for."""
        held, rank = self.values[name], len(self.graph[name].shape)
        if rank == 1:
            return next(iter(held.values()))
        if first not in held:
            perm = (0, rank, *range(1, rank)) if first else (0, *range(2, rank + 1), 1)
            held[first] = self.operators.add("Transpose", list(held.values())[:1], name, perm=perm)
        return held[first]

    def emit(self, node: ir.Node) -> None:
        """Add the operators of a node."""
        source = node.inputs[0]
        # As it came: the first entry of a dict is the one that was made first.
        first = next(iter(self.values[source]))
        if isinstance(node, ir.Conv | ir.Pool):
            first = True
        elif isinstance(node, ir.Dense | ir.Reshape | ir.Transpose | ir.Softmax | ir.ZeroInsert):
            first = False
        inputs = [self.get(name, first) for name in node.inputs]
        self.values[node.name] = {first and len(node.shape) > 1: self._operator(node, inputs, first)}

    def _operator(self, node: ir.Node, inputs: list[str], first: bool) -> str:  # noqa: PLR0911, PLR0912  # by kind
        add, const, name, x = self.operators.add, self.operators.const, node.name, inputs[0]
        rank = len(self.graph[node.inputs[0]].shape)
        space = tuple(range(2, rank + 1)) if first else tuple(range(1, rank))
        match node:
            case ir.Dense():
                y = add("MatMul", [x, const(node.kernel.value, f"{name}_kernel")], name)
                return y if node.bias is None else add("Add", [y, const(node.bias.value, f"{name}_bias")], name)
            case ir.Conv():
                kernel = np.moveaxis(node.kernel.value, (-1, -2), (0, 1))
                arrays = [const(kernel, f"{name}_kernel")]
                if node.bias is not None:
                    arrays.append(const(node.bias.value, f"{name}_bias"))
                window = node.kernel.value.shape[:-2]
                pads = self._pads(node, window, node.strides, node.padding)
                return add("Conv", [x, *arrays], name, kernel_shape=window, strides=node.strides, pads=pads)
            case ir.Pool():
                pads = self._pads(node, node.window, node.strides, node.padding)
                kind = "MaxPool" if node.reduce == "max" else "AveragePool"
                return add(kind, [x], name, kernel_shape=node.window, strides=node.strides, pads=pads)
            case ir.GlobalPool():
                return add("ReduceMax" if node.reduce == "max" else "ReduceMean", [x], name, axes=space, keepdims=0)
            case ir.Affine():
                scale, offset = (
                    const(_by_channel(weight.value, space, first), f"{name}_{what}")
                    for what, weight in (("scale", node.scale), ("offset", node.offset))
                )
                return add("Add", [add("Mul", [x, scale], name), offset], name)
            case ir.Relu():
                return add("Relu", [x], name)
            case ir.ThresholdedRelu():
                above = add("Greater", [x, const(node.threshold)], name)
                return add("Where", [above, x, const(0.0)], name)
            case ir.LeakyRelu() | ir.PRelu():
                # Not LeakyRelu, whose slope is a float32 whatever the values are.
                value = node.slope.value if isinstance(node, ir.PRelu) else node.slope
                slope = const(_by_channel(value, space, first), f"{name}_slope")
                positive = add("Greater", [x, const(0.0)], name)
                return add("Where", [positive, x, add("Mul", [x, slope], name)], name)
            case ir.Table():
                return self._table(node, x)
            case _ if isinstance(node, ir.Pairwise):
                return add(_PAIRWISE[type(node)], inputs, name)
            case ir.Concatenate():
                last = node.axis == rank - 1
                return add("Concat", inputs, name, axis=(1 if last else node.axis + 2) if first else node.axis + 1)
            case ir.Quantize():
                return quantized(self.operators, x, node.format, name)
            case ir.Softmax():
                return add("Softmax", [x], name, axis=-1)
            case _:
                return self._shape_operator(node, x, first, space)

    def _table(self, node: ir.Table, x: str) -> str:
        """Gather at the words of the inputs, which are exact in either float, from the smallest on."""
        add, const, name, format = self.operators.add, self.operators.const, node.name, node.input_format
        words = add("Mul", [x, const(2.0**format.fraction)], name)
        places = add("Cast", [add("Sub", [words, const(float(format.min_word))], name)], name, to=7)  # int64
        return add("Gather", [const(node.entries.value, f"{name}_entries"), places], name, axis=0)

    def _shape_operator(self, node: ir.Node, x: str, first: bool, space: tuple[int, ...]) -> str:
        add, name = self.operators.add, node.name

        def whole(numbers: tuple[int, ...]) -> str:
            return self.operators.const(np.array(numbers, np.int64), f"{name}_numbers", "int64")

        match node:
            case ir.Reshape():
                return add("Reshape", [x, whole((0, *node.shape))], name)  # 0 keeps the batch
            case ir.Transpose():
                return add("Transpose", [x], name, perm=(0, *(axis + 1 for axis in node.perm)))
            case ir.Upsample():
                scales = np.ones(len(space) + 2, np.float32)
                scales[list(space)] = node.factors
                scale = self.operators.const(scales, f"{name}_scales", "float32")
                modes = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
                return add("Resize", [x, "", scale], name, **modes)
            case ir.ZeroPad():
                pads = np.zeros((2, len(space) + 2), np.int64)
                pads[:, list(space)] = np.transpose(node.pads)
                return add("Pad", [x, whole(tuple(pads.ravel().tolist()))], name)
            case ir.ZeroInsert():
                shape = self.graph[node.inputs[0]].shape
                apart = [n for size in shape[:-1] for n in (size, 1)]
                x = add("Reshape", [x, whole((0, *apart, shape[-1]))], name)
                behind = [n for stride in node.strides for n in (0, stride - 1)]
                x = add("Pad", [x, whole((*(0,) * (len(apart) + 2), 0, *behind, 0))], name)
                stretched = [n * s for n, s in zip(shape, node.strides, strict=False)]
                x = add("Reshape", [x, whole((0, *stretched, shape[-1]))], name)
                # Negative padding takes away the zeros behind the last pixel.
                away = tuple(1 - stride for stride in node.strides)
                return add("Pad", [x, whole((*(0,) * (len(shape) + 2), *away, 0))], name)
        raise ExportError(f"no ONNX operator for {node.kind} {node.name} ({node.source}); export it as hls or keras")

    def _pads(self, node: ir.Node, window: tuple[int, ...], strides: tuple[int, ...], padding: str) -> tuple[int, ...]:
        """Zeros before all axes, then behind them, as SAME has them: the odd one behind."""
        if padding == "valid":
            return (0,) * (2 * len(window))
        sizes = self.graph[node.inputs[0]].shape
        total = [
            max((out - 1) * stride + width - size, 0)
            for size, out, stride, width in zip(sizes, node.shape, strides, window, strict=False)
        ]
        return (*(n // 2 for n in total), *(n - n // 2 for n in total))
