"""Steps of a sequence: what `jax.lax.scan` reads one after the other, and what it writes behind each other.

A scan is traced as its steps, whose number is known. Around them JAX moves the axis of time before that of the batch,
takes the steps from there, joins the results there and moves the axis back. An axis before the batch's is held as its
parts, an activation for each step, so that a recurrent cell becomes layers of each step, and nothing is joined of which
only the last step is read.
"""

from typing import Any

import jax
import numpy as np

from fpga_bridge.tracing.member_rules import Lower, bound
from fpga_bridge.tracing.selection_rules import select
from fpga_bridge.tracing.values import Builder, Members, Operand, Tensor
from fpga_bridge.typed_graph.graph import Reshape
from fpga_bridge.typed_graph.source import Place


def lower_steps(builder: Builder, equation: Any, inputs: list[Operand], place: Place, one: Lower) -> Any:
    """The result of an equation that makes an axis one of steps, or chooses or joins steps; None where it does neither.

    Args:
        builder: of the graph.
        equation: of the jaxpr.
        inputs: its operands.
        place: where it stands.
        one: lowers an equation.
    """
    name, x = equation.primitive.name, inputs[0]
    if isinstance(x, Tensor):
        moves = name == "transpose" and equation.params["permutation"][0] != 0 and len(x.shape) > 1
        return _apart(builder, equation, x, place, one) if moves else None
    steps = [value for value in inputs if isinstance(value, Members) and not value.joined]
    if name not in _RULES or len(steps) < len(inputs) or len({value.axis for value in steps}) != 1:
        return None
    return _RULES[name](builder, equation, steps, place, one)


def _apart(builder: Builder, equation: Any, x: Tensor, place: Place, one: Lower) -> Any:
    """An axis of the sample that comes before the batch is its parts."""
    first, *rest = (int(axis) for axis in equation.params["permutation"])
    shape = x.shape[: first - 1] + x.shape[first:]
    parts = []
    for step in range(x.shape[first - 1]):
        tables = [np.arange(n) if axis != first else np.array([step]) for axis, n in enumerate(x.shape, 1)]
        part = select(builder, x, tables, "step", place)
        parts.append(
            builder.emit(Reshape, place.name("step_flat"), inputs=(part.name,), shape=shape, source=place.source)
        )
    steps = Members(tuple(parts), 0)
    order = (0, *(1 + axis - (axis > first) for axis in rest))
    if order == tuple(range(len(order))):
        return steps
    old = equation.invars[0].aval
    moved = _like(old, (old.shape[first], *old.shape[:first], *old.shape[first + 1 :]))
    return one(builder, bound(equation, {"permutation": order}, [moved]), [steps], place)


def _slice(builder: Builder, equation: Any, inputs: list[Any], place: Place, one: Lower) -> Any:
    """Some of the steps, and of each what the other axes say."""
    (x,), params, old = inputs, equation.params, equation.invars[0].aval
    starts, limits = (list(params[key]) for key in ("start_indices", "limit_indices"))
    strides = list(params["strides"] or (1,) * len(starts))
    chosen = x.parts[starts[x.axis] : limits[x.axis] : strides[x.axis]]
    if len(chosen) == len(x.parts):
        return None  # the other axes alone: an equation of each part
    starts[x.axis], limits[x.axis], strides[x.axis] = 0, len(chosen), 1
    params = {"start_indices": tuple(starts), "limit_indices": tuple(limits), "strides": tuple(strides)}
    fewer = _like(old, (*old.shape[: x.axis], len(chosen), *old.shape[x.axis + 1 :]))
    return one(builder, bound(equation, params, [fewer]), [Members(chosen, x.axis)], place)


def _squeeze(builder: Builder, equation: Any, inputs: list[Any], place: Place, one: Lower) -> Any:
    """The only step."""
    (x,), dimensions, old = inputs, equation.params["dimensions"], equation.invars[0].aval
    if x.axis not in dimensions:
        return None
    others = tuple(axis - (axis > x.axis) for axis in dimensions if axis != x.axis)
    if not others:
        return x.parts[0]
    alone = _like(old, (*old.shape[: x.axis], *old.shape[x.axis + 1 :]))
    return one(builder, bound(equation, {"dimensions": others}, [alone]), [x.parts[0]], place)


def _concatenate(builder: Builder, equation: Any, inputs: list[Any], place: Place, one: Lower) -> Any:
    """Steps behind steps."""
    axis = inputs[0].axis
    return Members(tuple(p for x in inputs for p in x.parts), axis) if equation.params["dimension"] == axis else None


def _rev(builder: Builder, equation: Any, inputs: list[Any], place: Place, one: Lower) -> Any:
    """The last step first."""
    (x,) = inputs
    return Members(x.parts[::-1], x.axis) if tuple(equation.params["dimensions"]) == (x.axis,) else None


def _like(aval: Any, shape: tuple[int, ...]) -> Any:
    return jax.ShapeDtypeStruct(shape, aval.dtype)


_RULES = {"slice": _slice, "squeeze": _squeeze, "concatenate": _concatenate, "rev": _rev}
