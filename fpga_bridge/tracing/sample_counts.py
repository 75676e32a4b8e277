"""Functions that compute with the number of their samples, of which hardware sees one at a time.

A graph or a circuit is read off one batch. Where `x.shape[0]` is a factor, or decides, it would be that batch's number
without a word; so a function is read for two batches, and what is made of both must be the same. As it might differ
from the third sample on only, it is read once more for a number that stays a symbol: no comparison may need it, no
number come of it, and no size be other than a multiple of it. Two things slip through: `x.shape[0] == 3`, and any other
equality with a number above 2, since a symbol equals no number (`x.shape[0] >= 3` is refused); and what differs from
the fourth sample on only, in a function that needs the number as an int of Python, as `len(x)` and `range` do, which
is read for three samples instead.
"""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
from jax import export
from jax.extend import core

from fpga_bridge.typed_graph.graph import Graph, Source
from fpga_bridge.typed_graph.source import equations, locate, refuse
from jaxgeo.errors import ExportError

COUNTS = (1, 2)
"""The samples of the two batches."""
NEXT_COUNT = 3
"""Those of a third batch, for a function that takes no symbol."""
_OTHER = f"it is another one for a batch of {COUNTS[0]} than for a larger one"
ANY_OTHER = "it depends on the number of samples of a batch"


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


def dependence(program: Any, count: Any) -> ExportError | None:
    """The error for what makes a number of the number of samples, or sizes that are no multiples of it; None without.

    Args:
        program: the closed jaxpr for `count` samples.
        count: a symbol of `jax.export`.
    """
    for equation, line in equations(_that_fill(program.jaxpr)):
        name, params = equation.primitive.name, equation.params
        sizes = jax.tree.leaves([[atom.aval.shape for atom in equation.outvars], list(params.values())])
        symbols = [size for size in sizes if export.is_symbolic_dim(size)]
        places = name == "iota" and export.is_symbolic_dim(params["shape"][params["dimension"]])
        if name == "dim_as_value" or places or any(size % count != 0 for size in symbols):
            return counted("the number of samples" if name == "dim_as_value" else name, line, ANY_OTHER)
    return None


def _that_fill(jaxpr: Any) -> Any:
    """A jaxpr without what ends in empty arrays alone, as what `jnp.pad` joins to an axis that gets no padding."""
    kept, needed = [], {atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal)}
    for equation in reversed(jaxpr.eqns):
        if any(atom in needed and 0 not in atom.aval.shape for atom in equation.outvars):
            kept.append(equation)
            needed.update(atom for atom in equation.invars if not isinstance(atom, core.Literal))
    return jaxpr.replace(eqns=kept[::-1])


def counted(operation: str, source: Source, difference: str = _OTHER) -> ExportError:
    """The error for what is another for other samples, to be raised by the caller."""
    return refuse(
        operation,
        source,
        f"{difference}, and hardware sees one sample at a time",
        "leave the number of samples, x.shape[0], and sums, maxima and places over the batch out of what is computed, "
        "and write what is done to each sample by jax.vmap",
    )


def first_difference(one: Any, other: Any) -> tuple[str, Source]:
    """Name and line of the first equation of two jaxprs that is another, or has another number; for a message."""
    pairs = zip(*(_compared(program.jaxpr) for program in (one, other)), strict=False)
    for equation, twin in pairs:
        if equation.primitive is not twin.primitive or _numbers(equation) != _numbers(twin):
            return equation.primitive.name, locate(equation)
    return "the output", Source()


def _compared(jaxpr: Any) -> list[Any]:
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
