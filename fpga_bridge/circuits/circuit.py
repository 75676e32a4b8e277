"""Fixed-point arithmetic on arrays of da4ml variables: what a network becomes when every number is a bundle of wires.

Elements of the object arrays here are floats (known before any input comes) or da4ml variables (an interval, a step and
the operation that makes them). No function rounds except `quantize` and `look_up`, and each refuses a sum whose partial
sums could leave the 2^24 steps that float32 holds: so JAX and the circuit compute the same numbers in any order.
"""

import heapq
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fpga_bridge.typed_graph.precision import FLOAT32_BITS
from jaxgeo.errors import ExportError, ToolMissingError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.table_activation import Table, round_words

_MAX_BITS = 40  # of a constant; beyond, something was not quantised
_ROUNDING = ("TRN", "RND")
_OVERFLOW = ("WRAP", "SAT", "SAT_SYM")


def import_da4ml() -> Any:
    """Here and not above: da4ml belongs to an extra, and its absence deserves a sentence.

    Raises:
        ToolMissingError: where it, or what it imports, is not installed.
    """
    try:
        import da4ml.cmvm
        import da4ml.codegen.rtl.verilog
        import da4ml.trace
        import da4ml.trace.pipeline
        import da4ml.types
    except ImportError as error:
        raise ToolMissingError(
            f"{error.name} is not installed here, and RTL is made with it; "
            "install the extra with `pip install 'jaxgeo[fpga]'`"
        ) from error
    return da4ml


def ports(shape: tuple[int, ...], format: FixedPoint) -> np.ndarray:
    """New variables of one format: words of an input port."""
    da4ml = import_da4ml()
    config = da4ml.trace.HWConfig(1, -1, -1)
    made = np.empty(shape, object)
    for index in np.ndindex(shape):
        integer = format.integer - format.signed
        made[index] = da4ml.trace.FixedVariable.from_kif(int(format.signed), integer, format.fraction, hwconf=config)
    return made


def fraction_bits(values: np.ndarray) -> int:
    """Bits after the point of the coarsest grid that holds all values; negative where they are multiples of 2."""
    mantissa, exponent = np.frexp(values[values != 0])
    odd = (mantissa * 2.0**53).astype(np.int64)
    trailing = np.log2((odd & -odd).astype(np.float64)).astype(int)
    return int(np.max(53 - exponent - trailing, initial=-1000)) if len(odd) else 0


def constants(array: np.ndarray, where: str, rounded: bool = False) -> np.ndarray:
    """Elements that are known: floats in an object array.

    Raises:
        ExportError: for numbers that are not finite, lie on no grid, or came out of inexact float arithmetic.
    """
    values = np.asarray(array, np.float64)
    if not np.isfinite(values).all():
        raise ExportError(
            f"{where} cannot be exported: it meets a constant that is not finite; use a large number, or "
            "for a softmax tables, by lookup of jaxgeo.layers.table_activation with EXP and RECIPROCAL"
        )
    if rounded:
        raise ExportError(
            f"{where} cannot be exported: it meets a constant that came out of float arithmetic that is not exact, so "
            "JAX and the circuit would not agree on it; quantise it after all arithmetic, for example "
            "quantize(kernel, FixedPoint(8, 2))"
        )
    if np.abs(values).max(initial=0.0) * 2.0 ** fraction_bits(values) >= 2.0**_MAX_BITS:
        raise ExportError(
            f"{where} cannot be exported: it meets constants that lie on no common fixed-point grid; quantise them in "
            "the model, for example quantize(kernel, FixedPoint(8, 2))"
        )
    return values.astype(object)


def is_known(element: Any) -> bool:
    """Whether an element is a number and not wires."""
    return isinstance(element, float | int | np.floating)


def _plain(element: Any) -> Any:
    """A variable that can take one value only is that value."""
    if is_known(element):
        return float(element)
    return float(element.low) if element.low == element.high else element


def _bounds(elements: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest magnitudes and steps; the step of a known zero is infinite, as it lies on every grid."""
    magnitude, step = np.zeros(elements.shape), np.full(elements.shape, np.inf)
    for index, element in np.ndenumerate(elements):
        if is_known(element):
            if element:
                magnitude[index], step[index] = abs(element), 2.0 ** -fraction_bits(np.array([element]))
        else:
            magnitude[index] = max(abs(float(element.low)), abs(float(element.high)))
            step[index] = float(element.step)
    return magnitude, step


def _check(bound: float, step: float, where: str) -> None:
    bits = 0 if not np.isfinite(step) else max(int(np.ceil(np.log2(max(bound / step, 1.0)))), 0)
    if bits > FLOAT32_BITS:
        raise ExportError(
            f"{where} cannot be exported: its sums need {bits} bits, but float32, in which JAX computes, is exact to "
            f"{FLOAT32_BITS}: round its inputs or its weights to fewer bits first"
        )


def check_exact(elements: np.ndarray, where: str) -> np.ndarray:
    """The elements, where float32 holds each of their values.

    Raises:
        ExportError: for a value of more than 24 bits.
    """
    for element in elements.flat:
        if not is_known(element):
            _check(float(max(abs(element.low), abs(element.high))), float(element.step), where)
    return elements


def elementwise(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    """A function of elements over arrays that broadcast."""
    arrays = np.broadcast_arrays(*arrays)
    result = np.empty(arrays[0].shape, object)
    for index in np.ndindex(result.shape):
        result[index] = _plain(function(*(array[index] for array in arrays)))
    return result


def add(a: Any, b: Any) -> Any:
    """Sum of two elements."""
    return b + a if is_known(a) else a + b


def subtract(a: Any, b: Any) -> Any:
    """Difference of two elements."""
    return (-b) + a if is_known(a) and not is_known(b) else a + (-b)


def multiply(a: Any, b: Any) -> Any:
    """Product of two elements: shifts and adders where one is known, else a multiplier."""
    if is_known(a):
        a, b = b, a
    if is_known(b) and (b == 0 or is_known(a)):
        return float(a) * float(b) if is_known(a) else 0.0
    return a * b


def maximum(a: Any, b: Any) -> Any:
    """The larger of two elements."""
    if is_known(a):
        a, b = b, a
    return max(a, b) if is_known(a) else a.max_of(b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two elements."""
    if is_known(a):
        a, b = b, a
    return min(a, b) if is_known(a) else a.min_of(b)


def less(a: Any, b: Any) -> Any:
    """1 where a < b, else 0: the sign bit of a - b."""
    difference = subtract(a, b)
    return float(difference < 0) if is_known(difference) else difference.is_negative()


def select(predicate: Any, if_true: Any, if_false: Any) -> Any:
    """One of two elements, by a bit."""
    if is_known(predicate):
        return if_true if predicate else if_false
    if is_known(if_true) and not is_known(if_false) and if_false._factor < 0:
        # da4ml gives a known first element the sign of the second, and then loses that sign.
        return -predicate.msb_mux(-if_true, -if_false)
    return predicate.msb_mux(if_true, if_false)


def total(elements: Iterable[Any]) -> Any:
    """Sum of elements, those that are ready first."""
    known = 0.0
    queue: list[tuple[float, int, Any]] = []
    for number, element in enumerate(elements):
        if is_known(element):
            known += float(element)
        else:
            queue.append((float(element.latency), number, element))
    heapq.heapify(queue)
    number = len(queue) + 1_000_000  # breaks ties in the order of making
    while len(queue) > 1:
        (*_, a), (*_, b) = heapq.heappop(queue), heapq.heappop(queue)
        both = _plain(a + b)
        if is_known(both):
            known += both
        else:
            heapq.heappush(queue, (float(both.latency), number, both))
            number += 1
    return _plain(queue[0][2] + known) if queue else known


def reduce(elements: np.ndarray, operation: str, where: str) -> Any:
    """Sum, maximum or minimum of a flat array."""
    if operation == "sum":
        magnitude, step = _bounds(elements)
        _check(float(magnitude.sum()), float(step.min(initial=np.inf)), where)
        return total(elements)
    function = maximum if operation == "max" else minimum
    layer = list(elements)
    while len(layer) > 1:
        paired = [_plain(function(a, b)) for a, b in zip(layer[::2], layer[1::2], strict=False)]
        layer = paired + layer[2 * len(paired) :]
    return layer[0]


def quantize(elements: np.ndarray, format: FixedPoint, where: str) -> np.ndarray:
    """Elements rounded to a format.

    Raises:
        ExportError: for a rounding or overflow mode that da4ml lacks.
    """
    if format.rounding not in _ROUNDING or format.overflow not in _OVERFLOW:
        raise ExportError(
            f"{where} rounds to {format}, but RTL by da4ml knows AP_TRN and AP_RND, AP_WRAP, AP_SAT and AP_SAT_SYM "
            "only; use one of these"
        )
    kif = int(format.signed), format.integer - format.signed, format.fraction

    def one(element: Any) -> Any:
        if is_known(element):
            return float(round_words(np.atleast_1d(element), format)[0]) * format.step
        wraps = format.overflow == "WRAP" and not format.signed
        if wraps and element.low < 0 and format.integer > element.kif[1] + 1:
            # da4ml keeps the bits of a narrower number with a sign; the whole range of the format turns none of them.
            element = element + 2.0**format.integer
        return element.quantize(*kif, format.overflow, format.rounding)

    return elementwise(one, elements)


def look_up(elements: np.ndarray, table: Table, where: str) -> np.ndarray:
    """Entries of a table at elements that are rounded to its input format first."""
    values = table.values

    def one(element: Any) -> Any:
        step, first = table.input_format.step, table.input_format.min_word
        if is_known(element):
            return float(values[round(element / step) - first])
        low, high, stride = (round(float(each) / step) for each in (element.low, element.high, element.step))
        entries = values[low - first : high - first + 1 : stride]
        return float(entries[0]) if np.ptp(entries) == 0 else element.lookup(np.ascontiguousarray(entries))

    return elementwise(one, quantize(elements, table.input_format, where))


def matmul_known(rows: np.ndarray, matrix: np.ndarray, where: str) -> np.ndarray:
    """Rows (row, in) times a known matrix (in, out), as adders; rows whose inputs look alike share one solution."""
    da4ml = import_da4ml()
    weights = np.asarray(matrix, np.float64)
    magnitude, step = _bounds(rows)
    bounds = magnitude @ np.abs(weights)
    finest = step.min(axis=1, initial=np.inf) * 2.0 ** -fraction_bits(weights)
    for bound, grid in zip(bounds.max(axis=1, initial=0.0), finest, strict=True):
        _check(float(bound), float(grid), where)
    solved: dict[Any, Any] = {}
    result = np.empty((len(rows), weights.shape[1]), object)
    for number, row in enumerate(rows):
        wires = np.array([not is_known(element) for element in row], bool)
        offset = row[~wires].astype(np.float64) @ weights[~wires]
        live = row[wires]
        if not len(live) or not weights[wires].any():
            result[number] = offset
            continue
        ranges = tuple((float(v.low), float(v.high), float(v.step)) for v in live)
        latencies = tuple(float(v.latency) for v in live)
        key = ranges, latencies, wires.tobytes()
        if key not in solved:
            solved[key] = da4ml.cmvm.solve(
                np.ascontiguousarray(weights[wires], np.float32),
                qintervals=[da4ml.types.QInterval(*r) for r in ranges],
                latencies=list(latencies),
                adder_size=live[0].hwconf.adder_size,
                carry_size=live[0].hwconf.carry_size,
            )
        for column, (element, known) in enumerate(zip(solved[key](live), offset, strict=True)):
            result[number, column] = _plain(add(_plain(element), float(known)))
    return result


def matmul(a: np.ndarray, b: np.ndarray, where: str) -> np.ndarray:
    """Product of two matrices of elements, (row, in) and (in, column); a known one becomes adders, else multipliers."""
    if all(is_known(element) for element in b.flat):
        return matmul_known(a, b.astype(np.float64), where)
    if all(is_known(element) for element in a.flat):
        return matmul_known(b.T, a.T.astype(np.float64), where).T
    (size_a, step_a), (size_b, step_b) = _bounds(a), _bounds(b)
    result = np.empty((a.shape[0], b.shape[1]), object)
    for i, j in np.ndindex(result.shape):
        grids = (step_a[i] * step_b[:, j])[(size_a[i] > 0) & (size_b[:, j] > 0)]
        _check(float(size_a[i] @ size_b[:, j]), float(grids.min(initial=np.inf)), where)
        result[i, j] = total([_plain(multiply(x, y)) for x, y in zip(a[i], b[:, j], strict=True)])
    return result
