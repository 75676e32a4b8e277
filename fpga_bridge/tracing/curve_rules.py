"""Functions of one quantised number, followed by their values until a quantiser makes a table of them.

A number behind a quantiser of few bits takes few values, so whatever is computed of it alone (a GELU, a swish, a
sigmoid and all that they are made of) is a list of results, one for each word. The list is computed by the model's own
equations, in float32 as the model computes and in float64 beside it. The quantiser that follows rounds both; where the
words agree, the table is the function, exactly.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fpga_bridge.tracing.values import Builder, Const, Curve, Partial, Tensor, Value
from fpga_bridge.typed_graph.graph import Maximum, Minimum, Multiply, Node, Quantize, Table, Weight
from fpga_bridge.typed_graph.source import Place, RefusedOperationError, refuse
from jaxgeo.errors import InputError
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.table_activation import MAX_INPUT_BITS, round_words

_ARITHMETIC = frozenset({
    "abs", "add", "add_any", "and", "ceil", "clamp", "convert_element_type", "copy", "copy_p", "div", "eq", "floor",
    "ge", "gt", "integer_pow", "is_finite", "le", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "rem",
    "round", "select_n", "sign", "square", "stop_gradient", "sub", "xor",
})  # fmt: skip
_FUNCTIONS = frozenset({
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "digamma", "erf", "erf_inv",
    "erfc", "exp", "exp2", "expm1", "lgamma", "log", "log1p", "logistic", "rsqrt", "sin", "sinh", "sqrt", "tan", "tanh",
})  # fmt: skip
_FOLLOWED = _ARITHMETIC | _FUNCTIONS | {"fixed_point_quantize", "fixed_point_table"}
_MASKS = ("positive", "negative")
_COMPARISONS = {"ge": np.greater_equal, "gt": np.greater, "le": np.less_equal, "lt": np.less}
_WHY = "a function of a quantized number is a table where a quantizer reads it, and nowhere else"
_TABLE = "quantize its input and its result, so that it is a table"
_INSTEAD = (
    "round its result to a fixed-point format, for example quantize(jax.nn.gelu(x), FixedPoint(8, 3)), so that it is a "
    "table; or export what it reads, and compute it afterwards"
)

Values = tuple[np.ndarray, np.ndarray]
"""Of a function at every word of its base: in float32 (or bool), and in float64."""


def lower_curve(
    builder: Builder, equation: Any, inputs: list[Value], place: Place, refused: RefusedOperationError | None = None
) -> Curve | None:
    """An elementwise equation of one quantised number and constants; None where it is something else.

    `refused` says why it is no layer, where a layer was tried first.

    Raises:
        ExportError: for a number of too many bits for a table, or a curve that meets another activation.
    """
    name = equation.primitive.name
    curves = [value for value in inputs if isinstance(value, Curve)]
    if name not in _ARITHMETIC and name not in _FUNCTIONS:
        return None
    if name == "convert_element_type" and not jnp.issubdtype(equation.params["new_dtype"], jnp.floating):
        return None
    bases = [curves[0].base] if curves else _bases(builder, next(v for v in inputs if not isinstance(v, Const)))
    for base in bases:
        operands = _operands(builder, inputs, base)
        if operands is None:
            continue
        format = _format(builder, base)
        if format.width > MAX_INPUT_BITS:
            raise refuse(
                name,
                place.source,
                f"its input {format} has 2^{format.width} words, too many for a table",
                "quantize it to fewer bits first, 8 to 10 for most functions",
            )
        said = (name, place.source, _WHY, _INSTEAD)
        if curves and name in _ARITHMETIC:  # a GELU is called by its erfc, not by the product that ends it
            said = (curves[0].operation, curves[0].source, curves[0].why, curves[0].instead)
        elif refused is not None:
            said = (refused.operation, refused.source, refused.why, f"{refused.instead}, or {_TABLE}")
        return Curve("curve", base, *said, values=_evaluate(equation, operands))
    if curves:
        raise refuse(name, place.source, f"it joins {curves[0].operation} of one activation to another", _INSTEAD)
    return None


def _format(builder: Builder, base: Tensor) -> FixedPoint:
    node = builder.nodes[base.name]
    assert isinstance(node, Quantize)
    return node.format


def _bases(builder: Builder, value: Value) -> list[Tensor]:
    """Quantisers before a value with nothing but elementwise equations between, the nearest first."""
    if isinstance(value, Partial) and value.kind in _MASKS:
        value = value.base
    found = []
    while isinstance(value, Tensor):
        node = builder.nodes[value.name]
        if isinstance(node, Quantize):
            found.append(value)
        equation, inputs = builder.origins.get(value.name, (None, []))
        if equation is None or equation.primitive.name not in _FOLLOWED:
            break
        value = next(source for source in inputs if not isinstance(source, Const))
    return found


def _operand(  # noqa: PLR0911  # one for each kind of value
    builder: Builder, value: Value, base: Tensor
) -> Values | None:
    """The values of an operand at every word of the base, or None where it is no function of it alone."""
    if isinstance(value, Curve):
        return value.values if value.base == base else None
    if isinstance(value, Const):
        flat = value.array.reshape(-1)
        real = flat.dtype.kind == "f"
        if not flat.size or not np.array_equal(flat, np.broadcast_to(flat[:1], flat.shape), equal_nan=real):
            return None
        return flat[:1], flat[:1].astype(np.float64) if real else flat[:1]
    if isinstance(value, Partial):
        found = _operand(builder, value.base, base) if value.kind in _MASKS else None
        compare = _COMPARISONS.get(value.operation)
        if found is None or compare is None:
            return None
        return compare(found[0], value.threshold), compare(found[1], value.threshold)
    if value == base:
        return _words(_format(builder, base))
    equation, inputs = builder.origins.get(value.name, (None, []))
    if equation is None or equation.primitive.name not in _FOLLOWED:
        return None
    operands = _operands(builder, inputs, base)
    return None if operands is None else _evaluate(equation, operands)


def _operands(builder: Builder, inputs: list[Value], base: Tensor) -> list[Values] | None:
    found = []
    for value in inputs:
        values = _operand(builder, value, base)
        if values is None:
            return None
        found.append(values)
    return found


def _words(format: FixedPoint) -> Values:
    if format.width > MAX_INPUT_BITS:  # one in place of all: it is refused as soon as this is known to be the base
        return np.zeros(1, np.float32), np.zeros(1)
    exact = np.arange(format.min_word, format.max_word + 1) * format.step
    return exact.astype(np.float32), exact


def _evaluate(equation: Any, operands: list[Values]) -> Values:
    params = equation.primitive.get_bind_params(equation.params)
    size = max(len(operand[0]) for operand in operands)
    results = []
    for wide in (False, True):
        if equation.primitive.name == "convert_element_type":
            params["new_dtype"] = np.dtype(np.float64 if wide else np.float32)
        with jax.enable_x64(wide), jax.debug_nans(False):
            arrays = [jnp.asarray(np.broadcast_to(operand[wide], size)) for operand in operands]
            results.append(np.asarray(equation.primitive.bind(*arrays, **params)))
    return results[0], results[1]


def lower_quantized(builder: Builder, value: Value, format: FixedPoint, place: Place) -> Tensor | None:
    """The table of what a quantiser reads, where that is a curve, or two functions of one number joined; else None.

    Raises:
        ExportError: as for `lower_quantized_curve`, where a curve is all that it can be.
    """
    if isinstance(value, Curve):
        return lower_quantized_curve(builder, value, format, place)
    node = builder.nodes[value.name] if isinstance(value, Tensor) else None
    if not isinstance(node, Multiply | Maximum | Minimum):
        return None
    for base in _bases(builder, value):
        values = _operand(builder, value, base)
        if values is not None and _format(builder, base).width <= MAX_INPUT_BITS:
            operation = builder.origins[node.name][0].primitive.name
            curve = Curve("curve", base, operation, node.source, _WHY, _INSTEAD, values=values)
            with contextlib.suppress(RefusedOperationError):  # then it stays the layer that it is
                return lower_quantized_curve(builder, curve, format, place)
    return None


def lower_quantized_curve(builder: Builder, curve: Curve, format: FixedPoint, place: Place) -> Tensor:
    """The table of a curve that a quantiser reads.

    Raises:
        ExportError: for a function that is not finite somewhere, and for words that differ between float32 and float64.
    """
    base = _format(builder, curve.base)
    single, double = (_rounded(curve, values, base, format) for values in curve.values)
    differ = np.flatnonzero(single != double)
    if differ.size:
        word = (base.min_word + int(differ[0])) * base.step
        raise refuse(
            curve.operation,
            curve.source,
            f"{differ.size} of its {single.size} results in {format}, the first at {word:g}, are other ones in float32 "
            "than in float64, so they would depend on the machine",
            "round to nearest (AP_RND), or call jaxgeo.layers.table_activation.lookup, which is a table in the model",
        )
    return _table(builder, curve, single, format, place)


def lower_looked_up(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Tensor | None:
    """A function of one float number by a table of the format that the trace was given; None without such a format.

    Its input is rounded to the format first. The table is of float64, rounded once: there is no other to agree with.

    Raises:
        ExportError: for a function that is not finite somewhere, or a format of too many bits for a table.
    """
    (x, *others) = inputs
    if builder.tables is None or others or not isinstance(x, Tensor) or equation.primitive.name not in _FUNCTIONS:
        return None
    format = builder.tables
    base = builder.emit(
        Quantize, place.name("quantize"), inputs=(x.name,), shape=x.shape, source=place.source, format=format
    )
    curve = lower_curve(builder, equation, [base], place)
    assert curve is not None  # of a quantized number any function is one
    return _table(builder, curve, _rounded(curve, curve.values[1], format, format), format, place)


def _rounded(curve: Curve, values: np.ndarray, base: FixedPoint, format: FixedPoint) -> np.ndarray:
    """Words of the results."""
    try:
        return round_words(values.astype(np.float64), format)
    except InputError as error:
        raise refuse(
            curve.operation,
            curve.source,
            f"over {base} {error}",
            "quantize its input to a range where the function is finite",
        ) from error


def _table(builder: Builder, curve: Curve, words: np.ndarray, format: FixedPoint, place: Place) -> Tensor:
    return builder.emit(
        Table,
        place.name(curve.operation),
        inputs=(curve.base.name,),
        shape=curve.base.shape,
        source=curve.source,
        function=curve.operation,
        entries=Weight((words * format.step).astype(np.float32), format),
        input_format=_format(builder, curve.base),
    )


def is_elementwise(name: str) -> bool:
    """Whether a primitive makes each number of the numbers at the same place alone."""
    return name in _FOLLOWED


def is_function(name: str) -> bool:
    """Whether a primitive is a function that no layer computes, so that a curve is all that it can be."""
    return name in _FUNCTIONS


def lower_table(builder: Builder, equation: Any, inputs: list[Value], place: Place) -> Tensor:
    """A table of the model, `jaxgeo.layers.table_activation.lookup`, behind a quantiser to its input format."""
    table = equation.params["table"]
    (x,) = inputs
    if isinstance(x, Curve):
        x = lower_quantized_curve(builder, x, table.input_format, place)
    assert isinstance(x, Tensor)
    if not _holds(builder.nodes[x.name], table.input_format):
        x = builder.emit(
            Quantize, place.name("quantize"), inputs=(x.name,), shape=x.shape, source=place.source,
            format=table.input_format,
        )  # fmt: skip
    return builder.emit(
        Table, place.name(table.name), inputs=(x.name,), shape=x.shape, source=place.source, function=table.name,
        entries=Weight(table.values.astype(np.float32), table.output_format), input_format=table.input_format,
    )  # fmt: skip


def _holds(node: Node, format: FixedPoint) -> bool:
    """Whether a node writes words of a format, and none that the table lacks."""
    own = node.format if isinstance(node, Quantize) else node.entries.format if isinstance(node, Table) else None
    same = own is not None and (own.width, own.integer, own.signed) == (format.width, format.integer, format.signed)
    return same and own is not None and own.min_word >= format.min_word
