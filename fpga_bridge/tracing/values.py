"""What a variable of the jaxpr stands for while the graph is built, and the names that nodes get."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from fpga_bridge.typed_graph.graph import Graph, Input, Node, Source, Weight, unique_name
from fpga_bridge.typed_graph.wrapping import largest
from jaxgeo.layers.fixed_point import FixedPoint


@dataclasses.dataclass(frozen=True, eq=False)
class Const:
    """Known before any input comes; `origin` is the set of parameters that it was computed from.

    `rounded` as in `typed_graph.graph.Weight`; `wrapped` holds the numbers that its format wrapped, and zeros.
    """

    array: np.ndarray
    origin: frozenset[tuple[str, ...]] = frozenset()
    format: FixedPoint | None = None
    rounded: bool = False
    wrapped: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The output of a node."""

    name: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Partial:
    """Half of a pattern: a value that means something to hardware only through what reads it.

    `operation`, `why` and `instead` make the error if nothing completes the pattern.
    """

    kind: str
    base: Tensor
    operation: str
    source: Source
    why: str
    instead: str
    count: int = 0  # numbers that a sum runs over
    threshold: float = 0.0  # of a mask
    places: np.ndarray | None = dataclasses.field(default=None, compare=False)  # of a broadcast: sources of its values
    order: tuple[int, ...] = ()  # of axes moved before the batch: which axis of the base stands where
    # Of what is a layer by itself too, for a reader that does not complete the pattern.
    whole: Callable[[], "Value"] | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve(Partial):
    """A function of each number of `base`, a quantiser, by its values at all words in order.

    `values` are those in float32, as the model computes them, and in float64; bool for a mask.
    """

    values: tuple[np.ndarray, np.ndarray] = dataclasses.field(compare=False)


Value = Const | Tensor | Partial


def completed(value: Value) -> Value:
    """Layers in place of a half-seen pattern that nothing completes, where it has any."""
    return value.whole() if isinstance(value, Partial) and value.whole is not None else value


@dataclasses.dataclass(frozen=True)
class Members:
    """One value for each member of an array that `jax.vmap` made longer: an axis of its own, or ends joined along one.

    A part is what the array was before `jax.vmap`; with two of them around each other, members have members.
    """

    parts: tuple["Value | Members", ...]
    axis: int
    joined: bool = False


Operand = Value | Members


class Builder:
    """Nodes so far, in order, under numbers; names come last, when it is known which nodes are needed."""

    def __init__(self, tables: FixedPoint | None = None) -> None:
        """No nodes yet; `tables` is the format in which functions are looked up that no quantizer makes a table of."""
        self.tables = tables
        self.nodes: dict[str, Node] = {}
        self.origins: dict[str, tuple[Any, list[Value]]] = {}  # of what rules made: the equation and its inputs
        self._wanted: dict[str, str] = {}

    def emit(self, node_type: type[Node], wanted_name: str, **fields: Any) -> Tensor:
        """Add a node and return its output."""
        number = f"#{len(self.nodes)}"
        self._wanted[number] = wanted_name
        self.nodes[number] = node_type(name=number, **fields)
        return Tensor(number, fields["shape"])

    def amend(self, old: Tensor, **fields: Any) -> Tensor:
        """A copy of a node with some fields changed; `finish` drops the old one where nothing reads it."""
        return self.emit_node(dataclasses.replace(self.nodes[old.name], **fields), self._wanted[old.name])

    def wanted_name(self, x: Tensor) -> str:
        """What the node would be called if it were the only one."""
        return self._wanted[x.name]

    def emit_node(self, node: Node, wanted_name: str) -> Tensor:
        """Add a node that exists already, under a number of its own."""
        number = f"#{len(self.nodes)}"
        self._wanted[number] = wanted_name
        self.nodes[number] = dataclasses.replace(node, name=number)
        return Tensor(number, node.shape)

    def finish(self, output: Tensor) -> Graph:
        """The nodes that the output needs, each under a name that is unique without regard to case."""
        needed = {output.name}
        for node in reversed(self.nodes.values()):
            if node.name in needed:
                needed.update(node.inputs)
        final: dict[str, str] = {}
        taken: set[str] = set()
        nodes = []
        for number, node in self.nodes.items():
            if number in needed or isinstance(node, Input):
                final[number] = _unique(self._wanted[number], taken)
                inputs = tuple(final[name] for name in node.inputs)
                nodes.append(dataclasses.replace(node, name=final[number], inputs=inputs))
        return Graph(tuple(nodes), final[output.name])


def _unique(name: str, taken: set[str]) -> str:
    name = re.sub(r"\W+", "_", name).strip("_") or "layer"
    if name[0].isdigit():
        name = f"layer_{name}"
    return unique_name(name, taken)


def weight(const: Const, array: np.ndarray | None = None) -> Weight:
    """A constant as a node's weight; `array` where it has been rearranged."""
    values = np.asarray(const.array if array is None else array, np.float32)
    return Weight(values, const.format, const.rounded, largest(const.wrapped))


def tensor(value: Value) -> Tensor:
    """The activation that a rule is sure to have got."""
    if isinstance(value, Tensor):
        return value
    raise AssertionError(f"constants are evaluated, and patterns refused, before the rules: {value}")
