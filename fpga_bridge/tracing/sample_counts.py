"""Functions that compute with the number of their samples, of which hardware sees one at a time.

A graph or a circuit is read off one batch. Where `x.shape[0]` is a factor, or decides, it would be that batch's number
without a word; so a function is read for two batches, and what is made of both must be the same.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jax.extend import core

from fpga_bridge.graph import Graph, Source
from fpga_bridge.source import locate, refuse
from jaxgeo.errors import ExportError

COUNTS = (1, 2)
"""The samples of the two batches."""


def refuse_other_layers(one: Graph, other: Graph) -> None:
    """Compare the graphs of both batches, names and constants included.

    Raises:
        ExportError: names the first layer that differs, and its line.
    """
    for node, twin in itertools.zip_longest(one, other):
        if not _alike(node, twin):
            raise counted((node or twin).kind, (node or twin).source)
    if one.output != other.output:
        raise counted("the output", one[one.output].source)


def counted(operation: str, source: Source) -> ExportError:
    """The error for what is another for a second sample, to be raised by the caller."""
    return refuse(
        operation,
        source,
        f"it is another one for a batch of {COUNTS[0]} than for one of {COUNTS[1]}, and hardware sees one sample at a "
        "time",
        "leave the number of samples, x.shape[0], and sums, maxima and places over the batch out of what is computed",
    )


def first_difference(one: Any, other: Any) -> tuple[str, Source]:
    """Name and line of the first equation of two jaxprs that is another, or has another number; for a message."""
    pairs = zip(*(_equations(program.jaxpr) for program in (one, other)), strict=False)
    for equation, twin in pairs:
        if equation.primitive is not twin.primitive or _numbers(equation) != _numbers(twin):
            return equation.primitive.name, locate(equation)
    return "the output", Source()


def _equations(jaxpr: Any) -> list[Any]:
    """Without those that a batch of one may do without."""
    return [equation for equation in jaxpr.eqns if equation.primitive.name != "broadcast_in_dim"]


def _numbers(equation: Any) -> list[Any]:
    return [np.asarray(atom.val).tolist() for atom in equation.invars if isinstance(atom, core.Literal)]


def _alike(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    if dataclasses.is_dataclass(one):
        return all(_alike(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return one == other
