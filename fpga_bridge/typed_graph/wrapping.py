"""Constants that a format without saturation wraps: a weight of 3.2 is -0.8 in `ap_fixed<8,1>`, here as in the C++."""

import dataclasses

import numpy as np

from fpga_bridge.typed_graph.graph import Graph, Weight
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.table_activation import round_words


def wrapped(values: np.ndarray, format: FixedPoint) -> np.ndarray | None:
    """The numbers of which a format makes others by wrapping, zeros for the rest; None where it does so to none."""
    if format.overflow != "WRAP":
        return None
    exact = np.where(np.isfinite(values), values, 0.0).astype(np.float64)
    # Rounding moves a number by less than a step, wrapping by all of the range.
    beyond = np.abs(round_words(exact, format) * format.step - exact) >= format.step
    return np.where(beyond, values, np.zeros_like(values)) if beyond.any() else None


def wrapped_weights(graph: Graph) -> list[str]:
    """A sentence for each array of weights that its format wraps, with the integer bits that would hold it."""
    said = []
    for node in graph:
        for field in dataclasses.fields(node):
            weight = getattr(node, field.name)
            if isinstance(weight, Weight) and weight.format is not None and weight.wrapped:
                said.append(
                    f"the {field.name} of layer {node.name} ({node.source}) reaches {weight.wrapped:g}, which "
                    f"{weight.format} wraps to another number; {_remedy(weight.wrapped, weight.format)} would hold it, "
                    "and AP_SAT would cut it off at the end of the range"
                )
    return said


def _remedy(value: float, format: FixedPoint) -> str:
    """The fewest integer bits in which a number has a word of the same step."""
    if value < 0 and not format.signed:
        return "a format with a sign"
    wide = FixedPoint(60, 60 - format.fraction, True, format.rounding)
    word = int(round_words(np.array([value]), wide)[0])
    bits = (word if word >= 0 else -word - 1).bit_length() + format.signed
    return f"{bits - format.fraction} integer bits"


def largest(values: np.ndarray | None) -> float:
    """That of the largest magnitude; 0 of none."""
    return 0.0 if values is None else float(values.flat[np.abs(values).argmax()])
