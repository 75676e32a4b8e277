"""From an equation of a jaxpr back to the line of the model that wrote it."""

import os
from typing import Any, NamedTuple

from fpga_bridge.graph import Source
from jaxgeo.errors import ExportError

# Frames of these packages are machinery between the model's line and the primitive.
_MACHINERY = tuple(
    f"{os.sep}site-packages{os.sep}{package}{os.sep}"
    for package in ("jax", "flax", "jaxtyping", "beartype", "equinox", "optax")
)
_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
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
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        name = frame.file_name
        generated = name == "<string>" or name.startswith("<@")  # wrappers that beartype and dataclasses compile
        own = name.startswith(_OWN) or name.endswith(_OPERATIONS)
        if not (generated or own or any(package in name for package in _MACHINERY)):
            return Source(name, frame.line_num)
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
