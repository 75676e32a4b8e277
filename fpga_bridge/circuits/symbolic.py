"""A pure apply function -> da4ml variables: every equation of the jaxpr computed on wires instead of numbers.

The second reader of the bridge. `fpga_bridge.tracing.trace` reads a function as layers, which Keras and hls4ml need; a
circuit needs no layers, so here each primitive acts on arrays of variables, whatever network it came from: attention,
tables, ensembles under `vmap`. A primitive that only moves numbers is applied to their indices, and that is its wiring.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.circuits import circuit, windows
from fpga_bridge.tracing.program import interpret, read_function
from fpga_bridge.tracing.sample_counts import counted, first_difference
from fpga_bridge.tracing.values import Const
from fpga_bridge.typed_graph.graph import Source
from fpga_bridge.typed_graph.source import refuse
from jaxgeo.errors import InputError
from jaxgeo.layers.fixed_point import FixedPoint

# What moves numbers and computes none; their other operands (indices, predicates) must be known.
_WIRING = (
    *("reshape", "squeeze", "expand_dims", "transpose", "broadcast_in_dim", "slice", "dynamic_slice", "gather", "rev"),
    *("split", "concatenate", "pad", "copy", "copy_p", "stop_gradient", "tile"),
)
_TABLES = (
    *("exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "sin", "cos", "tan", "erf", "erfc", "erf_inv"),
    *("sqrt", "rsqrt", "cbrt", "pow", "sinh", "cosh"),
)
# What the trace makes tables of and a circuit has no operation for.
_STEPS = ("floor", "ceil", "round", "sign", "rem", "eq", "ne", "and", "or", "not", "xor")
_LOOKUP = "lookup of jaxgeo.layers.table_activation (GELU and others; EXP and RECIPROCAL for a softmax)"
_INSTEAD = {
    "while": "write the loop with a fixed number of passes in Python",
    "scan": "write the loop with a fixed number of passes in Python",
    "cond": "compute both branches or fix the choice before export",
    "div": "multiply by a power of two, or look 1/x up in a table (RECIPROCAL of jaxgeo.layers.table_activation)",
    "convert_element_type": "use float32 and fixed-point formats",
    "sort": "use a maximum, or jnp.maximum and jnp.minimum of pairs",
    "floor": "round by quantize(x, FixedPoint(8, 8)), whose AP_TRN is floor",
    "and": "choose twice, by jnp.where(a, jnp.where(b, x, y), y)",
    "or": "choose twice, by jnp.where(a, x, jnp.where(b, x, y))",
    "not": "exchange what jnp.where chooses",
}
_TRACED = "for a function of one quantised number quantise its result and emit_verilog its trace, which has a table"


class Raw(NamedTuple):
    """A number of the input before the model rounds it."""

    place: int


class Unrolled(NamedTuple):
    """Variables of a whole function: the input port, its format, and the outputs of one sample."""

    ports: np.ndarray
    format: FixedPoint
    outputs: np.ndarray


class _Place(NamedTuple):
    name: str
    source: Source

    def __str__(self) -> str:
        return f"{self.name} at {self.source}"


class _Entry:
    """The input port, made when the model first rounds a number of its input."""

    def __init__(self, size: int) -> None:
        """No format yet."""
        self.size = size
        self.format: FixedPoint | None = None
        self.ports: np.ndarray = np.empty(0, object)

    def take(self, raw: Raw, format: FixedPoint, place: _Place) -> Any:
        """The variable of a number of the input."""
        if self.format is None:
            self.format, self.ports = format, circuit.ports((self.size,), format)
        if format != self.format:
            raise refuse(
                place.name,
                place.source,
                f"the input is rounded to {self.format} in one place and to {format} here, but a port has one format",
                "quantise the input once and use the result everywhere",
            )
        return self.ports[raw.place]


def unroll(apply: Callable, params: Any, input_shape: tuple[int, ...]) -> Unrolled:
    """Compute `apply(params, x)` for one sample on variables.

    Args:
        apply: pure; float32 inputs (batch, *input_shape) to one array (batch, ...). It rounds its input first, by
            `quantize`, and its constants and results so that all sums fit float32.
        params: any pytree of arrays.
        input_shape: of one sample.

    Raises:
        ConfigError: where `input_shape` is no tuple of whole numbers.
        ExportError: for an operation that is neither exact nor a table; names it, the model's line, and what to use.
        InputError: where the function does not take samples of this shape, or does not return one array that depends
            on its input.
    """
    read = read_function(apply, params, input_shape)
    one, *others = (
        _wires(program, read.parameters, (count, *input_shape))
        for program, count in zip(read.programs, read.counts, strict=True)
    )
    alone = _logic(one, 0)
    for count, program, other in zip(read.counts[1:], read.programs[1:], others, strict=True):
        if one.format != other.format or not all(_is_logic(alone, other, sample) for sample in range(count)):
            _refuse_mixing(program, read.parameters, (count, *input_shape))
            raise counted(*first_difference(read.programs[0], program))
    if read.refusal is not None:
        raise read.refusal
    return Unrolled(one.ports[0], one.format, one.outputs[0])


def _wires(program: Any, parameters: list[Const], shape: tuple[int, ...]) -> Unrolled:
    """Variables of a batch of this shape: its ports, their format, and the outputs of all samples."""
    entry = _Entry(int(np.prod(shape)))
    (output,) = interpret(program, [*parameters, _raw(shape)], functools.partial(_compute, entry))
    if isinstance(output, Const):
        raise InputError("the output of apply does not depend on its input, so there is nothing to export")
    if entry.format is None or any(isinstance(element, Raw) for element in output.flat):
        raise refuse(
            "the output", Source(), "it is an input that no quantiser has rounded", "quantise the input in the model"
        )
    return Unrolled(entry.ports.reshape(shape), entry.format, output)


def _raw(shape: tuple[int, ...]) -> np.ndarray:
    x = np.empty(shape, object)
    for index in range(x.size):
        x.flat[index] = Raw(index)
    return x


def _refuse_mixing(program: Any, parameters: list[Const], shape: tuple[int, ...]) -> None:
    """Refuse the first operation that makes a number of two samples, by its line; of what is refused anyway."""
    entry = _Entry(int(np.prod(shape)))
    reached: dict[Any, frozenset[int]] = {}

    def samples(element: Any) -> frozenset[int]:
        if isinstance(element, Raw) or circuit.is_known(element):
            return frozenset()
        if element.id not in reached:
            reached[element.id] = frozenset().union(*map(samples, element._from))
        return reached[element.id]

    def compute(equation: Any, inputs: list[Any], source: Source) -> list[Any]:
        results = _compute(entry, equation, inputs, source)
        for place, port in enumerate(entry.ports):
            reached.setdefault(port.id, frozenset([place * shape[0] // entry.size]))
        if any(len(samples(element)) > 1 for result in results for element in np.ravel(result)):
            raise counted(equation.primitive.name, source)
        return results

    interpret(program, [*parameters, _raw(shape)], compute)


def _logic(unrolled: Unrolled, sample: int) -> Any:
    """What makes the outputs of a sample of its ports."""
    return circuit.import_da4ml().trace.comb_trace(
        list(unrolled.ports[sample].flat), list(unrolled.outputs[sample].flat), keep_dead_inputs=True
    )


def _is_logic(logic: Any, unrolled: Unrolled, sample: int) -> bool:
    """Whether this and nothing else makes the outputs of a sample of several."""
    try:
        return _logic(unrolled, sample) == logic
    except NotImplementedError:  # the outputs are also of a port of another sample, which is not among the inputs
        return False


def _linear_map(equation: Any) -> Any:
    """What a map of `jaxgeo.harmonics.linear_map` computes, as a jaxpr."""
    arguments = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in equation.invars]
    with jax.disable_jit():
        return jax.make_jaxpr(equation.params["forward"])(*arguments)


def _compute(entry: _Entry, equation: Any, inputs: list[Any], source: Source) -> list[Any]:
    name = equation.primitive.name
    place = _Place(name, source)
    if name == "linear_map":
        return interpret(_linear_map(equation), inputs, functools.partial(_compute, entry), source)
    if name in _WIRING:
        return _wire(equation, inputs, place)
    if name in ("fixed_point_quantize", "fixed_point_table"):
        return [_round(entry, equation, inputs[0], place)]
    if name == "convert_element_type":
        if not jnp.issubdtype(equation.params["new_dtype"], jnp.floating):
            dtype = np.dtype(equation.params["new_dtype"]).name
            raise refuse(name, place.source, f"it computes in {dtype}", _INSTEAD[name])
        return inputs
    if name == "select_n" and isinstance(inputs[0], Const):
        return _wire(equation, inputs, place)
    rule = _RULES.get(name)
    if rule is None:
        if name in _TABLES:
            why, instead = "it is not exact", f"look it up in a table, by {_LOOKUP}"
        else:
            why, instead = "the circuit has no such operation", _INSTEAD.get(name, "use sums, products and maxima")
            instead = f"{instead}; or, {_TRACED}" if name in _STEPS else instead
        raise refuse(name, place.source, why, instead)
    result = rule(equation, [_elements(value, place) for value in inputs], place)
    return [circuit.check_exact(np.asarray(result, object), f"{place}")]


def _elements(value: Any, place: _Place) -> np.ndarray:
    if isinstance(value, Const):
        return circuit.constants(value.array, f"{place}", value.rounded)
    if any(isinstance(element, Raw) for element in value.flat):
        raise refuse(
            place.name,
            place.source,
            "it reads the input before anything has rounded it, so the port has no width",
            "begin the model with quantize(x, FixedPoint(...))",
        )
    return value


def _round(entry: _Entry, equation: Any, x: np.ndarray, place: _Place) -> np.ndarray:
    table = equation.params.get("table")
    format = equation.params["format"] if table is None else table.input_format
    live = np.empty(x.shape, object)
    for index, element in np.ndenumerate(x):
        live[index] = entry.take(element, format, place) if isinstance(element, Raw) else element
    # A port holds words of the format already; rounding them again is nothing.
    rounded = circuit.quantize(live, format, f"{place}")
    return rounded if table is None else circuit.look_up(rounded, table, f"{place}")


def _wire(equation: Any, inputs: list[Any], place: _Place) -> list[Any]:
    """Apply a primitive that moves numbers to their indices, and read where each came from."""
    pool: list[Any] = []
    operands = []
    for position, value in enumerate(inputs):
        aval = equation.invars[position].aval
        if isinstance(value, Const) and not _is_moved(equation, position, aval):
            operands.append(jnp.asarray(value.array))
            continue
        elements = circuit.constants(value.array, f"{place}", value.rounded) if isinstance(value, Const) else value
        indices = np.arange(len(pool), len(pool) + elements.size, dtype=np.int32).reshape(elements.shape)
        pool.extend(elements.flat)
        operands.append(jnp.asarray(indices))
    if not all(isinstance(value, Const) or _is_moved(equation, i, None) for i, value in enumerate(inputs)):
        raise refuse(place.name, place.source, "its indices depend on the input", "choose by known indices")
    params = equation.primitive.get_bind_params(equation.params)
    with jax.numpy_rank_promotion("allow"):
        outputs = equation.primitive.bind(*operands, **params)
    outputs = [np.asarray(o) for o in (outputs if equation.primitive.multiple_results else [outputs])]
    results = []
    for output in outputs:
        if output.size and not (output.min() >= 0 and output.max() < len(pool)):
            raise refuse(place.name, place.source, "an index lies outside of its array", "keep indices in range")
        moved = np.empty(output.shape, object)
        for index, number in np.ndenumerate(output):
            moved[index] = pool[number]
        results.append(moved)
    return results


def _is_moved(equation: Any, position: int, aval: Any) -> bool:
    """Whether an operand holds the numbers that move, and not where they go."""
    name = equation.primitive.name
    if name in ("gather", "dynamic_slice"):
        return position == 0
    return position > 0 if name == "select_n" else True


def _binary(function: Callable) -> Callable:
    def rule(equation: Any, inputs: list[np.ndarray], place: _Place) -> np.ndarray:
        return circuit.elementwise(function, *inputs)

    return rule


def _negate(equation: Any, inputs: list[np.ndarray], place: _Place) -> np.ndarray:
    return circuit.elementwise(lambda x: circuit.multiply(x, -1.0), inputs[0])


def _absolute(equation: Any, inputs: list[np.ndarray], place: _Place) -> np.ndarray:
    return circuit.elementwise(abs, inputs[0])


def _square(equation: Any, inputs: list[np.ndarray], place: _Place) -> np.ndarray:
    if equation.params.get("y", 2) != 2:
        raise refuse(place.name, place.source, f"its exponent is {equation.params['y']}", f"use x * x, or {_LOOKUP}")
    return circuit.elementwise(circuit.multiply, inputs[0], inputs[0])


def _divide(equation: Any, inputs: list[np.ndarray], place: _Place) -> np.ndarray:
    def one(x: Any, y: Any) -> Any:
        if not circuit.is_known(y) or not y or np.frexp(abs(y))[0] != 0.5:
            why = f"its divisor {y:g} is no power of two" if circuit.is_known(y) else "its divisor is not known"
            raise refuse(place.name, place.source, why, _INSTEAD["div"])
        return circuit.multiply(x, 1.0 / y)

    return circuit.elementwise(one, *inputs)


def _clamp(equation: Any, inputs: list[np.ndarray], place: _Place) -> np.ndarray:
    def one(low: Any, x: Any, high: Any) -> Any:
        return circuit.minimum(circuit.maximum(x, low), high)

    return circuit.elementwise(one, *inputs)


def _compare(swap: bool, invert: bool) -> Callable:
    def one(a: Any, b: Any) -> Any:
        bit = circuit.less(b, a) if swap else circuit.less(a, b)
        return circuit.subtract(1.0, bit) if invert else bit

    return _binary(one)


def _select(equation: Any, inputs: list[np.ndarray], place: _Place) -> np.ndarray:
    if len(inputs) != 3:
        raise refuse(place.name, place.source, f"it chooses among {len(inputs) - 1}", "use jnp.where with a condition")
    return circuit.elementwise(circuit.select, inputs[0], inputs[2], inputs[1])


def _reduce(operation: str) -> Callable:
    def rule(equation: Any, inputs: list[np.ndarray], place: _Place) -> np.ndarray:
        axes = tuple(equation.params["axes"])
        kept = tuple(axis for axis in range(inputs[0].ndim) if axis not in axes)
        x = inputs[0].transpose(*kept, *axes)
        shape = x.shape[: len(kept)]
        rows = x.reshape(int(np.prod(shape)), -1)
        result = np.empty(len(rows), object)
        for number, row in enumerate(rows):
            result[number] = circuit.reduce(row, operation, f"{place}")
        return result.reshape(shape)

    return rule


def _reduce_window(operation: str) -> Callable:
    def rule(equation: Any, inputs: list[np.ndarray], place: _Place) -> np.ndarray:
        return windows.reduce_windows(inputs[0], equation.params, operation, f"{place}")

    return rule


def _convolve(equation: Any, inputs: list[np.ndarray], place: _Place) -> np.ndarray:
    return windows.convolve(inputs[0], inputs[1], equation.params, f"{place}")


def _dot_general(equation: Any, inputs: list[np.ndarray], place: _Place) -> np.ndarray:
    contracted, batched = equation.params["dimension_numbers"]
    matrices, free = [], []
    for x, over, shared in zip(inputs, contracted, batched, strict=True):
        rest = tuple(axis for axis in range(x.ndim) if axis not in (*over, *shared))
        free.append(tuple(x.shape[axis] for axis in rest))
        sizes = [int(np.prod([x.shape[axis] for axis in axes])) for axes in (shared, rest, over)]
        matrices.append(x.transpose(*shared, *rest, *over).reshape(sizes))
    shape = tuple(inputs[0].shape[axis] for axis in batched[0])
    pairs = zip(*matrices, strict=True)
    products = [circuit.matmul(a, b.T, f"{place}") for a, b in pairs]
    return np.array(products, object).reshape(*shape, *free[0], *free[1])


_RULES: dict[str, Callable[[Any, list[np.ndarray], _Place], np.ndarray]] = {
    "add": _binary(circuit.add),
    "add_any": _binary(circuit.add),
    "sub": _binary(circuit.subtract),
    "mul": _binary(circuit.multiply),
    "max": _binary(circuit.maximum),
    "min": _binary(circuit.minimum),
    "neg": _negate,
    "abs": _absolute,
    "square": _square,
    "integer_pow": _square,
    "div": _divide,
    "clamp": _clamp,
    "lt": _compare(swap=False, invert=False),
    "gt": _compare(swap=True, invert=False),
    "ge": _compare(swap=False, invert=True),
    "le": _compare(swap=True, invert=True),
    "select_n": _select,
    "reduce_sum": _reduce("sum"),
    "reduce_max": _reduce("max"),
    "reduce_min": _reduce("min"),
    "reduce_window_sum": _reduce_window("sum"),
    "reduce_window_max": _reduce_window("max"),
    "reduce_window_min": _reduce_window("min"),
    "conv_general_dilated": _convolve,
    "dot_general": _dot_general,
}
