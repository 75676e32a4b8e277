"""Rounding to a fixed-point format by standard ONNX operators, exact in all seven rounding and four overflow modes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fpga_bridge.onnx import messages as onnx_file
from fpga_bridge.onnx.messages import Attribute
from jaxgeo.layers.fixed_point import FixedPoint


@dataclasses.dataclass
class Operators:
    """Operators and constants so far; every tensor gets a name of its own."""

    dtype: str
    nodes: list[bytes] = dataclasses.field(default_factory=list)
    initializers: list[bytes] = dataclasses.field(default_factory=list)
    count: int = 0

    def add(self, operation: str, inputs: Sequence[str], wanted: str, **attributes: Attribute) -> str:
        """Add an operator and return its output."""
        output = self._name(wanted)
        self.nodes.append(onnx_file.node(operation, inputs, output, attributes))
        return output

    def const(self, array: np.ndarray | float, wanted: str = "number", dtype: str | None = None) -> str:
        """Add a constant, in the carrier's dtype where none is given."""
        name = self._name(wanted)
        self.initializers.append(onnx_file.tensor(name, np.asarray(array, dtype or self.dtype)))
        return name

    def _name(self, wanted: str) -> str:
        self.count += 1
        return f"{wanted}__{self.count}"


def quantized(operators: Operators, x: str, format: FixedPoint, name: str) -> str:
    """The nearest values of the format, by its own modes; adds operators and returns their output."""
    scaled = operators.add("Mul", [x, operators.const(2.0**format.fraction)], name)
    words = _overflowed(operators, _rounded(operators, scaled, format.rounding, name), format, name)
    return operators.add("Mul", [words, operators.const(format.step)], name)


def _rounded(operators: Operators, x: str, rounding: str, name: str) -> str:
    if rounding == "TRN":
        return operators.add("Floor", [x], name)
    if rounding == "RND_CONV":
        return operators.add("Round", [x], name)  # to nearest, ties to even
    sign, size = operators.add("Sign", [x], name), operators.add("Abs", [x], name)
    whole = operators.add("Floor", [size], name)
    if rounding == "TRN_ZERO":
        return operators.add("Mul", [sign, whole], name)
    # The rest of a magnitude is exact, where that of a small negative number above its floor would not be.
    rest = operators.add("Sub", [size, whole], name)
    half, zero = operators.const(0.5), operators.const(0.0)
    above = operators.add("Greater", [rest, half], name)
    if rounding != "RND_ZERO":
        reached = operators.add("Not", [operators.add("Less", [rest, half], name)], name)
        if rounding == "RND_INF":
            above = reached
        else:
            # Ties go up: away from zero where positive; or down: away from zero where negative.
            outward = operators.add("Greater" if rounding == "RND" else "Less", [x, zero], name)
            above = operators.add("Where", [outward, reached, above], name)
    more = operators.add("Where", [above, operators.const(1.0), zero], name)
    return operators.add("Mul", [sign, operators.add("Add", [whole, more], name)], name)


def _overflowed(operators: Operators, words: str, format: FixedPoint, name: str) -> str:
    low, high = operators.const(float(format.min_word)), operators.const(float(format.max_word))
    if format.overflow in ("SAT", "SAT_SYM"):
        return operators.add("Clip", [words, low, high], name)
    if format.overflow == "SAT_ZERO":
        other = operators.const(0.0)
    else:
        # Modulo 2^width, in the upper half less a whole turn where there is a sign; exact, as multiples of one word.
        turn = operators.const(2.0**format.width)
        turns = operators.add("Floor", [operators.add("Div", [words, turn], name)], name)
        other = operators.add("Sub", [words, operators.add("Mul", [turns, turn], name)], name)
        if format.signed:
            upper = operators.add("Greater", [other, high], name)
            other = operators.add("Where", [upper, operators.add("Sub", [other, turn], name), other], name)
    outside = operators.add(
        "Or", [operators.add("Less", [words, low], name), operators.add("Greater", [words, high], name)], name
    )
    return operators.add("Where", [outside, other, words], name)
