"""A pure function as a jaxpr, and the walk through its equations that the readers of the bridge share.

Equations whose inputs are all known are evaluated on the spot and calls are entered; the others are the reader's own.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError, ModifyScopeVariableError
from jax import export
from jax.extend import core
from jax.interpreters import partial_eval

from fpga_bridge.tracing.sample_counts import ANY_OTHER, COUNTS, NEXT_COUNT, counted, dependence
from fpga_bridge.tracing.values import Const
from fpga_bridge.typed_graph.graph import Source
from fpga_bridge.typed_graph.source import equations, locate, raised_at, refuse
from fpga_bridge.typed_graph.wrapping import wrapped
from jaxgeo.errors import ExportError, InputError, JaxgeoError, check_whole_tuple
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.plane_convolution import by_xla

_MEMBER_RANK = 5  # of the library's own convolution under jax.vmap: members, images, rows, columns, channels
_CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint")
_RANDOM = ("random_bits", "random_gamma", "threefry2x32", "rng_bit_generator", "rng_uniform")
_KEEP_FORMAT = ("reshape", "transpose", "broadcast_in_dim", "squeeze", "copy", "copy_p", "slice", "stop_gradient")
_EXACT = (*_KEEP_FORMAT, "concatenate", "convert_element_type", "neg", "abs", "max", "min", "select_n", "rev", "gather")
_CHECKED = {"add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
_NOWHERE = Source()
_SHORT_BITS = 16  # significant bits of a number in the code that every float holds as it was meant


class Reading(NamedTuple):
    """A function as it was read.

    Attributes:
        counts: numbers of samples, the first two being those of `COUNTS`.
        programs: the closed jaxpr for each of them, of arrays and `x`.
        parameters: the arrays.
        refusal: what to raise where all programs are alike, and those for more samples may not be; None elsewhere.
    """

    counts: tuple[int, ...]
    programs: tuple[Any, ...]
    parameters: list[Const]
    refusal: ExportError | None


def read_function(apply: Callable, params: Any, input_shape: tuple[int, ...]) -> Reading:
    """The closed jaxprs of `apply(params, x)`.

    Raises:
        ConfigError: where `input_shape` is no tuple of whole numbers.
        ExportError: where the model decides by the value of its input, or draws random bits.
        InputError: where the function does not take samples of this shape, or does not return one array with the batch
            axis in front.
    """
    check_whole_tuple("input_shape", input_shape)
    flat_apply, arrays, paths = _flat(apply, params)
    parameters = [Const(array, frozenset([path])) for path, array in zip(paths, arrays, strict=True)]
    try:
        programs = tuple(_program(flat_apply, arrays, (count, *input_shape)) for count in COUNTS)
    except JaxgeoError:
        raise
    except (FlaxError, TypeError, ValueError) as error:
        (said, *_) = str(error).splitlines() or [type(error).__name__]
        said = said.partition(" (http")[0].rstrip(".")
        if isinstance(error, ModifyScopeVariableError):
            raise InputError(
                f"apply changes its variables, as in training ({said}); call the module as at inference, for example "
                "with train=False or update_stats=False"
            ) from error
        raise InputError(
            f"apply does not take these parameters and float32 samples of shape {input_shape} with a batch axis in "
            f"front ({said}); give the shape of one sample, without the batch, and all that apply takes first: "
            "module.apply of Flax takes {'params': ...}, and beside it 'batch_stats' where the module has them"
        ) from error
    (symbol,) = export.symbolic_shape("samples")
    try:
        whole = _program(flat_apply, arrays, (symbol, *input_shape))
    except jax.errors.InconclusiveDimensionOperation as error:
        why = f"{ANY_OTHER} ({str(error).splitlines()[0].rstrip('.')})"
        return Reading(COUNTS, programs, parameters, counted("the number of samples", raised_at(error), why))
    except Exception:  # of any kind: it takes an int, as len(x) is one, and so gets one more
        more = _program(flat_apply, arrays, (NEXT_COUNT, *input_shape))
        return Reading((*COUNTS, NEXT_COUNT), (*programs, more), parameters, None)
    return Reading(COUNTS, programs, parameters, dependence(whole, symbol))


def _flat(apply: Callable, params: Any) -> tuple[Callable, list[np.ndarray], list[tuple[str, ...]]]:
    """The function of the leaves of its parameters, these, and the layer path of each."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    keys = [jax.random.key_impl(leaf) if _is_key(leaf) else None for _, leaf in leaves]
    arrays = [np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for _, leaf in leaves]

    def flat_apply(arrays: list[Any], x: Any) -> Any:
        whole = [
            array if impl is None else jax.random.wrap_key_data(array, impl=impl)
            for array, impl in zip(arrays, keys, strict=True)
        ]
        return apply(jax.tree.unflatten(structure, whole), x)

    return flat_apply, arrays, [_layer_path(path) for path, _ in leaves]


def _program(apply: Callable, arrays: list[np.ndarray], shape: tuple[Any, ...]) -> Any:
    """The closed jaxpr of a function of arrays and a batch of this shape."""
    try:
        # Without disable_jit an inner jit may come from a cache, with the lines of whoever called it first.
        with jax.disable_jit():
            closed = jax.make_jaxpr(apply)(arrays, jax.ShapeDtypeStruct(shape, jnp.float32))
    except jax.errors.ConcretizationTypeError as error:
        raise ExportError(
            "the model decides by the value of its input, which a fixed circuit cannot; use masks made from shapes "
            f"alone ({str(error).splitlines()[0]})"
        ) from error
    if len(closed.jaxpr.outvars) != 1 or closed.out_avals[0].shape[:1] != shape[:1]:
        raise InputError(
            f"apply must return one array whose first axis is the batch, got {[a.shape for a in closed.out_avals]} "
            f"for an input of shape {shape}; wrap it in a function that returns the logits only, and "
            "average members of jax.vmap or join them behind the batch (out_axes=1)"
        )
    # What nothing reads is dropped: keys of random numbers, with which a cell might have begun, are no numbers.
    live, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True], instantiate=True)
    _refuse_random_bits(live)
    # Of keys that nothing reads no number is left.
    consts = [np.zeros(()) if _is_key(const) else const for const in closed.consts]
    return core.ClosedJaxpr(live, consts)


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.prng_key)


def _refuse_random_bits(jaxpr: Any) -> None:
    """Refuse the first equation, also in a call or a loop, that makes random bits."""
    for equation, line in equations(jaxpr):
        if equation.primitive.name in _RANDOM:
            raise refuse(
                "random bits",
                line,
                f"{equation.primitive.name} draws numbers, and a circuit always computes the same",
                "switch dropout off (deterministic=True), or draw masks beforehand and pass them as parameters",
            )


def _layer_path(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Names from the root to a leaf, without the name of a linen collection."""
    names = tuple(_key_name(key) for key in path)
    return names[1:] if len(names) > 1 and names[0] in ("params", "batch_stats") else names


def _key_name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def interpret(
    closed: Any, arguments: list[Any], compute: Callable[[Any, list[Any], Source], list[Any]], source: Source = _NOWHERE
) -> list[Any]:
    """Values of the outputs of a jaxpr.

    Args:
        closed: the jaxpr with its constants.
        arguments: `Const` where known, else what the reader makes of a variable.
        compute: the outputs of an equation of whose inputs not all are known, which comes from this line.
        source: of equations without a line: that of the call which contains them.
    """
    consts = [Const(np.asarray(const)) for const in closed.consts]
    values: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, consts, strict=True))
    values.update(zip(closed.jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return _literal(np.asarray(atom.val)) if isinstance(atom, core.Literal) else values[atom]

    for equation in closed.jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        own = locate(equation)
        line = own if own.file else source
        inner = _inner_jaxpr(equation)
        if inner is not None:
            results = interpret(inner, inputs, compute, line)
        elif all(isinstance(value, Const) for value in inputs):
            results = _evaluate(equation, inputs)
        else:
            _check_float(equation, line)
            results = compute(equation, inputs, line)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _check_float(equation: Any, source: Source) -> None:
    """Refuse floats of fewer bits than float32: what they round no reader of the equations sees.

    Raises:
        ExportError: names the equation and its dtype.
    """
    for atom in equation.outvars:
        dtype = atom.aval.dtype
        if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < np.dtype(np.float32).itemsize:
            instead = "use float32 (of a network of jaxgeo.models compute_dtype) and fixed-point formats"
            raise refuse(equation.primitive.name, source, f"it computes in {dtype.name}", instead)


def _in_terms_of_lax(equation: Any) -> Any:
    """The library's own convolution as XLA's, with members in front or without, at the same place."""
    convolve = functools.partial(by_xla, **equation.params)
    avals = [atom.aval for atom in equation.invars]
    closed = jax.make_jaxpr(jax.vmap(convolve) if avals[0].ndim == _MEMBER_RANK else convolve)(*avals)
    return _placed(closed, equation)


def _in_slices(equation: Any) -> Any:
    """A split as slices."""
    ends, axis = np.cumsum([0, *equation.params["sizes"]]).tolist(), equation.params["axis"]
    pairs = list(itertools.pairwise(ends))
    slices = jax.make_jaxpr(lambda x: [jax.lax.slice_in_dim(x, *pair, axis=axis) for pair in pairs])
    return _placed(slices(equation.invars[0].aval), equation)


def _in_joins(equation: Any) -> Any:
    """A stack as what is joined along an axis of one."""
    axis = equation.params["axis"]
    closed = jax.make_jaxpr(lambda *parts: jax.lax.concatenate([jax.lax.expand_dims(x, [axis]) for x in parts], axis))
    return _placed(closed(*(atom.aval for atom in equation.invars)), equation)


def _placed(closed: Any, equation: Any) -> Any:
    """Equations at the place of another."""
    inner = [own.replace(source_info=equation.source_info) for own in closed.jaxpr.eqns]
    return core.ClosedJaxpr(closed.jaxpr.replace(eqns=inner), closed.consts)


def _inner_jaxpr(equation: Any) -> Any:
    """The closed jaxpr of a call that does nothing but call, and of what is something else by another name."""
    if equation.primitive.name == "plane_convolution":
        return _in_terms_of_lax(equation)
    if equation.primitive.name == "split":
        return _in_slices(equation)
    if equation.primitive.name == "stack":
        return _in_joins(equation)
    if equation.primitive.name not in _CALLS:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(key)
        if inner is not None:
            return inner if hasattr(inner, "consts") else core.ClosedJaxpr(inner, ())
    return None


def _literal(value: np.ndarray) -> Const:
    """A number in the code; 0.1 is not the same number in float32 and in float64, 0.75 is."""
    mantissa, _ = np.frexp(value.astype(np.float64))
    scaled = mantissa * 2.0**_SHORT_BITS
    return Const(value, rounded=bool((np.isfinite(scaled) & (scaled != np.round(scaled))).any()))


def _rounds(equation: Any, inputs: list[Any], output: np.ndarray) -> bool:
    """Whether arithmetic in floats, here or before, left something other than the exact result."""
    name = equation.primitive.name
    if name in ("fixed_point_quantize", "fixed_point_table") or not np.issubdtype(output.dtype, np.inexact):
        return False
    if _vanishes(name, inputs):
        return False
    if any(value.rounded for value in inputs):
        return True
    if name in _CHECKED:
        with np.errstate(all="ignore"):
            exact = _CHECKED[name](*(value.array.astype(np.float64) for value in inputs))
        return not np.array_equal(exact, output, equal_nan=True)
    return name not in _EXACT


def _vanishes(name: str, inputs: list[Any]) -> bool:
    """Whether a product is zero whatever the other factor is, as where a recurrent cell starts from zeros."""
    return name in ("dot_general", "mul") and not all(value.array.any() for value in inputs)


def _format(equation: Any, inputs: list[Any]) -> FixedPoint | None:
    """The format of which the result holds words, where that is known without a look at them."""
    name, params = equation.primitive.name, equation.params
    if name == "fixed_point_quantize":
        return params["format"]
    if name == "fixed_point_table":
        return params["table"].output_format
    summands = [value for value in inputs if value.origin or value.array.any()]
    one_of_a_sum = name in ("add", "add_any") and len(summands) == 1
    joined = name == "concatenate" and len({value.format for value in inputs}) == 1
    return summands[0].format if one_of_a_sum else inputs[0].format if joined or name in _KEEP_FORMAT else None


def _evaluate(equation: Any, inputs: list[Any]) -> list[Const]:
    """The outputs of an equation whose inputs are all known."""
    params = equation.primitive.get_bind_params(equation.params)
    with jax.numpy_rank_promotion("allow"), jax.debug_nans(False):
        outputs = equation.primitive.bind(*(jnp.asarray(value.array) for value in inputs), **params)
    outputs = outputs if equation.primitive.multiple_results else [outputs]
    origin = frozenset().union(*(value.origin for value in inputs))
    if _vanishes(equation.primitive.name, inputs):
        origin = frozenset()
    format = _format(equation, inputs)
    arrays = [np.asarray(output) for output in outputs]
    lost = _wrapped(equation, inputs) if format is not None else None
    return [Const(array, origin, format, _rounds(equation, inputs, array), lost) for array in arrays]


def _wrapped(equation: Any, inputs: list[Any]) -> np.ndarray | None:
    """What a quantiser wraps, or wherever that stands after it was moved."""
    if equation.primitive.name == "fixed_point_quantize":
        return wrapped(inputs[0].array, equation.params["format"])
    if equation.primitive.name == "fixed_point_table" or all(value.wrapped is None for value in inputs):
        return None
    lost = [np.zeros_like(value.array) if value.wrapped is None else value.wrapped for value in inputs]
    return _evaluate(equation, [Const(array) for array in lost])[0].array
