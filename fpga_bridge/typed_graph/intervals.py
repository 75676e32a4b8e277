"""Intervals of integer words: what a fixed-point number can be before any input comes."""

import dataclasses

from fpga_bridge.typed_graph.graph import Add, Maximum, Minimum, Multiply, Pairwise
from jaxgeo.layers.fixed_point import FixedPoint


@dataclasses.dataclass(frozen=True)
class Interval:
    """Integer multiples of 2^-fraction from low to high, both included."""

    low: int
    high: int
    fraction: int

    def at(self, fraction: int) -> "Interval":
        """The same numbers on a finer grid."""
        shift = fraction - self.fraction
        return Interval(self.low << shift, self.high << shift, fraction)

    @property
    def bound(self) -> int:
        """Largest magnitude in steps."""
        return max(abs(self.low), abs(self.high))

    def format(self, least: int = 2) -> FixedPoint:
        """The narrowest signed type of at least so many bits that holds the interval, with no more integer bits."""
        whole = self.at(max(self.fraction, 0))
        bits = 1 + max(whole.high.bit_length(), (-whole.low - 1).bit_length() if whole.low < 0 else 0)
        bits = max(bits, least)
        return FixedPoint(bits, bits - whole.fraction)

    def rounded_format(self) -> FixedPoint:
        """The narrowest with all bits behind the point, so that the headers of ap_fixed round it to a coarser step.

        Of a narrower one they look for a bit beyond the first, and stop.
        """
        return self.format(max(2, self.fraction))


def pairwise(node: Pairwise, a: Interval, b: Interval) -> Interval:
    """What a number of one interval and a number of the other come to."""
    if isinstance(node, Multiply):
        ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
        return Interval(min(ends), max(ends), a.fraction + b.fraction)
    fraction = max(a.fraction, b.fraction)
    a, b = a.at(fraction), b.at(fraction)
    match node:
        case Add():
            return Interval(a.low + b.low, a.high + b.high, fraction)
        case Maximum():
            return Interval(max(a.low, b.low), max(a.high, b.high), fraction)
        case Minimum():
            return Interval(min(a.low, b.low), min(a.high, b.high), fraction)


def union(parts: list[Interval]) -> Interval:
    """The smallest interval that holds all."""
    fraction = max(part.fraction for part in parts)
    fine = [part.at(fraction) for part in parts]
    return Interval(min(p.low for p in fine), max(p.high for p in fine), fraction)
