"""Functions that compute with the number of their samples, of which hardware sees one at a time.

A graph is read off one batch. Where `x.shape[0]` is a factor, or decides, it would be that batch's number without a
word; so the function is traced for another one too, and both programs must be the same but for their batches' sizes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fpga_bridge.graph import Source
from fpga_bridge.source import locate, refuse
from jaxgeo.errors import ExportError


def refuse_sample_counts(one: Any, other: Any, counts: tuple[int, int]) -> None:
    """Compare the closed jaxprs of a function for two numbers of samples.

    Numbers in the code and constants must be equal, and integers that say what an operation does (shapes, indices)
    equal or the same multiple of the number of samples; exponents, and slices of other axes, equal.

    Raises:
        ExportError: names the first operation that differs, and its line.
    """
    _compare(one.jaxpr, other.jaxpr, counts)
    if not _same(list(one.consts), list(other.consts), counts):
        raise _refusal("constant", Source(), counts)


def _compare(one: Any, other: Any, counts: tuple[int, int]) -> None:
    for equation, twin in zip(one.eqns, other.eqns, strict=False):
        if equation.primitive is not twin.primitive or not _same_equation(equation, twin, counts):
            raise _refusal(equation.primitive.name, locate(equation), counts)
    if len(one.eqns) != len(other.eqns):
        first = max(one.eqns, other.eqns, key=len)[min(len(one.eqns), len(other.eqns))]
        raise _refusal(first.primitive.name, locate(first), counts)


def _refusal(operation: str, source: Source, counts: tuple[int, int]) -> ExportError:
    return refuse(
        operation,
        source,
        f"it is another one for {counts[0]} samples than for {counts[1]}, and hardware sees one at a time",
        "leave the number of samples, x.shape[0], out of what is computed",
    )


def _same_equation(one: Any, other: Any, counts: tuple[int, int]) -> bool:
    for atom, twin in zip(one.invars, other.invars, strict=True):
        if isinstance(atom, core.Literal) != isinstance(twin, core.Literal):
            return False
        if isinstance(atom, core.Literal) and not _same(np.asarray(atom.val), np.asarray(twin.val), counts):
            return False
    name = one.primitive.name
    if name == "integer_pow" and one.params["y"] != other.params["y"]:
        return False
    if name == "slice":  # of samples: its rule looks at it
        shapes = one.invars[0].aval.shape, other.invars[0].aval.shape
        kept = [axis for axis, (size, twin) in enumerate(zip(*shapes, strict=True)) if size == twin]
        pairs = [(one.params[key], other.params[key]) for key in ("start_indices", "limit_indices", "strides")]
        return all(a == b or all(a[axis] == b[axis] for axis in kept) for a, b in pairs)
    return all(_same(value, other.params.get(key), counts) for key, value in one.params.items())


def _same(one: Any, other: Any, counts: tuple[int, int]) -> bool:
    """Whether two parameters say the same of batches of both sizes; what is no number or program is not looked at."""
    if isinstance(one, core.ClosedJaxpr):
        _compare(one.jaxpr, other.jaxpr, counts)
        return _same(list(one.consts), list(other.consts), counts)
    if isinstance(one, core.Jaxpr):
        _compare(one, other, counts)
    elif isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b, counts) for a, b in zip(one, other, strict=True))
    elif isinstance(one, int | np.integer | np.ndarray | jax.Array) and not isinstance(one, bool) and not _is_key(one):
        a, b = np.asarray(one), np.asarray(other)
        if a.shape != b.shape:
            return True  # one entry for each sample, such as its index
        if not np.issubdtype(a.dtype, np.integer):
            return np.array_equal(a, b, equal_nan=np.issubdtype(a.dtype, np.inexact))
        return bool(((a == b) | (a * counts[1] == b * counts[0])).all())
    return True


def _is_key(value: Any) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
