"""A traced network as a small graph of typed nodes: what lies between JAX's jaxpr and Keras.

Shapes never contain the batch axis; weights are float32 NumPy arrays. A node's name becomes the layer's name in
Keras and hls4ml, and `source` is the line of the model that asked for the operation.
"""

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Literal

import numpy as np

from jaxgeo.errors import InputError
from jaxgeo.layers.fixed_point import FixedPoint


@dataclasses.dataclass(frozen=True)
class Source:
    """A place in the model's code; `file` is empty where JAX recorded none."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        """As compilers and editors write it."""
        return f"{self.file}:{self.line}" if self.file else "an unknown line"


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A constant array; `format` is set where the model rounds it by `quantize`.

    `rounded` is True where float arithmetic made it, inexactly and without a `quantize` afterwards: then JAX, another
    float and a circuit may each hold a slightly different number. `wrapped` is the largest number that the format
    wrapped to another one, 0 without such.
    """

    value: np.ndarray
    format: FixedPoint | None = None
    rounded: bool = False
    wrapped: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """One operation: the names of the nodes that it reads, and the shape that it writes."""

    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    source: Source = Source()

    @property
    def kind(self) -> str:
        """The operation in words, for messages and tables."""
        return type(self).__name__.lower()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Input(Node):
    """The only input of the network."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Dense(Node):
    """`x @ kernel + bias` over the last axis; kernel (in, out)."""

    kernel: Weight
    bias: Weight | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Conv(Node):
    """Cross-correlation over one or two axes, channels last; kernel (*window, in, out)."""

    kernel: Weight
    strides: tuple[int, ...]
    padding: Literal["valid", "same"]
    bias: Weight | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Affine(Node):
    """`x * scale + offset`, one pair for each channel (last axis): batch normalisation at inference."""

    scale: Weight
    offset: Weight


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Relu(Node):
    """`max(x, 0)`."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LeakyRelu(Node):
    """`x` where positive, else `slope * x`."""

    slope: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PRelu(Node):
    """`x` where positive, else `slope * x`, one slope for each channel (last axis)."""

    slope: Weight


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ThresholdedRelu(Node):
    """`x` where greater than the threshold, else 0."""

    threshold: float


Rectifier = LeakyRelu | PRelu | ThresholdedRelu
"""What rectifies with a parameter."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Table(Node):
    """A function of each number by its values: entry i is that of the word `input_format.min_word + i`.

    What it reads holds words of `input_format`: a quantiser stands before it. `entries.format` is that of its result.
    """

    function: str
    entries: Weight
    input_format: FixedPoint

    @property
    def by_pattern(self) -> np.ndarray:
        """Float32 (2^width,): the value for each pattern of bits of the input word, as a memory is addressed."""
        patterns = np.arange(1 << self.input_format.width)
        if self.input_format.signed:
            half = len(patterns) // 2
            patterns = np.where(patterns >= half, patterns - len(patterns), patterns)
        # SAT_SYM has no smallest word; no input comes there.
        return self.entries.value[np.maximum(patterns - self.input_format.min_word, 0)]

    def reads(self, format: FixedPoint) -> bool:
        """Whether a format's words are those of the table, whatever the modes that made them."""
        own = self.input_format
        return (format.width, format.integer, format.signed) == (own.width, own.integer, own.signed)

    def reach(self, low: int, high: int, fraction: int) -> tuple[int, int]:
        """Smallest and largest entry, as words of so many bits after the point, for input words from low to high."""
        first = min(max(low - self.input_format.min_word, 0), len(self.entries.value) - 1)
        last = max(high - self.input_format.min_word, first)
        reached = self.entries.value[first : last + 1].astype(np.float64) * 2.0**fraction
        return int(reached.min()), int(reached.max())


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Node):
    """Maximum or mean over windows of one or two axes."""

    reduce: Literal["max", "average"]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Literal["valid", "same"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GlobalPool(Node):
    """Maximum or mean over all axes but the last."""

    reduce: Literal["max", "average"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Upsample(Node):
    """Each pixel `factors` times along each spatial axis: nearest upsampling of a signal or an image."""

    factors: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ZeroPad(Node):
    """Zeros before and after each spatial axis."""

    pads: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ZeroInsert(Node):
    """Zeros between neighbouring pixels, which then stand `strides` apart: the input of a transposed convolution."""

    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Add(Node):
    """Sum of two activations of one shape."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Multiply(Node):
    """Product of two activations of one shape, number by number."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Maximum(Node):
    """The larger of two activations of one shape, number by number."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Minimum(Node):
    """The smaller of two activations of one shape, number by number."""


Pairwise = Add | Multiply | Maximum | Minimum
"""Two activations of one shape, number by number."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Concatenate(Node):
    """Two or more activations joined along `axis` (without the batch axis: 0 is the first axis of a sample)."""

    axis: int


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Node):
    """The same numbers in row-major order under another shape; flatten included."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Transpose(Node):
    """Axes permuted: output axis i is input axis `perm[i]`."""

    perm: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Node):
    """Over the last axis."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Quantize(Node):
    """Rounding to a fixed-point format."""

    format: FixedPoint


def unique_name(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken, and which is taken from now on (`taken` is in lower case)."""
    candidate, count = name, 0
    while candidate.lower() in taken:  # hls4ml folds case
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate.lower())
    return candidate


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which each comes after what it reads; the first is the input."""

    nodes: tuple[Node, ...]
    output: str

    def __getitem__(self, name: str) -> Node:
        """The node of that name.

        Raises:
            InputError: where there is none; says which names come near.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        names = [node.name for node in self.nodes]
        near = difflib.get_close_matches(name, names, 3)
        known = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(names)}"
        raise InputError(f"no node of the graph is called {name!r}; {known}")

    def __iter__(self) -> Iterator[Node]:
        """All nodes in order."""
        return iter(self.nodes)

    @property
    def input(self) -> Node:
        """The input node."""
        return self.nodes[0]

    def consumers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read `name`."""
        return tuple(node for node in self.nodes if name in node.inputs)


def states_formats(graph: Graph) -> bool:
    """Whether the input and all weights have formats, so that `plan_types` can say the rest."""
    weights = [node.kernel.format for node in graph if isinstance(node, Dense | Conv)]
    readers = graph.consumers(graph.input.name)
    return None not in weights and all(isinstance(node, Quantize) for node in readers)
