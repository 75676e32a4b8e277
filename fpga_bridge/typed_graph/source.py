"""From an equation of a jaxpr back to the line of the model that wrote it."""

import os
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core

from fpga_bridge.typed_graph.graph import Source
from jaxgeo.errors import ExportError

# Frames of these packages are machinery between the model's line and the primitive.
_MACHINERY = tuple(
    f"{os.sep}site-packages{os.sep}{package}{os.sep}"
    for package in ("jax", "flax", "jaxtyping", "beartype", "equinox", "optax")
)
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # the whole bridge
_OPERATIONS = tuple(
    os.path.join("jaxgeo", "layers", f"{name}.py")
    for name in ("fixed_point", "table_activation", "plane_convolution", "plane_pooling")
)


class Place(NamedTuple):
    """Where an equation comes from: the line, and the module path of its name stack."""

    source: Source
    scope: str

    def name(self, operation: str) -> str:
        """`conv_0_relu` for a relu inside the module conv_0; the outermost module is the model and left out."""
        return "_".join([*self.scope.split("/")[1:], operation])


def locate(equation: Any) -> Source:
    """The innermost frame of the model's own code, or of the code that traced it where there is no other."""
    frames = equation.source_info.traceback
    return _innermost((frame.file_name, frame.line_num) for frame in (frames.frames if frames is not None else ()))


def equations(jaxpr: Any, caller: Source | None = None) -> Iterator[tuple[Any, Source]]:
    """Every equation, also in a call or a loop, and its line, or the line of the call where it has none of its own."""
    for equation in jaxpr.eqns:
        own = locate(equation)
        line = own if own.file or caller is None else caller
        yield equation, line
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from equations(getattr(inner, "jaxpr", inner), line)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def raised_at(error: Exception) -> Source:
    """The innermost frame of the model's own code, or of the code that called it, that an error went through."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return _innermost((frame.filename, frame.lineno or 0) for frame in frames)


def _innermost(frames: Iterable[tuple[str, int]]) -> Source:
    """The first that is no machinery of frames (file, line), innermost first."""
    for name, line in frames:
        generated = name == "<string>" or name.startswith("<@")  # wrappers that beartype and dataclasses compile
        own = name.startswith(_OWN) or name.endswith(_OPERATIONS)
        if not (generated or own or any(package in name for package in _MACHINERY)):
            return Source(name, line)
    return Source()


class RefusedOperationError(ExportError):
    """An operation that hardware cannot take, with the parts of its message: a table has no use for the line."""

    def __init__(self, operation: str, source: Source, why: str, instead: str) -> None:
        """The message is a sentence of all four."""
        super().__init__(f"{operation} at {source} cannot be exported: {why}; {instead}")
        self.operation, self.source, self.why, self.instead = operation, source, why, instead


def refuse(operation: str, source: Source, why: str, instead: str) -> RefusedOperationError:
    """The error for an operation that hardware cannot take, to be raised by the caller."""
    return RefusedOperationError(operation, source, why, instead)
