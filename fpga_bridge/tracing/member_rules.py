"""Equations of arrays of members, as `jax.vmap` over stacked parameters makes them: each member gets layers of its own.

`jax.vmap` leaves no mark but longer arrays: products with a batch, kernels with a further axis, convolutions in groups
of channels. An axis of members starts where a shared input meets a stacked kernel; from there each equation is taken
apart into the one that it was before `jax.vmap`, once for each member, and lowered as if it had been written so. Every
part is exact, so no choice made here changes a result; it only keeps M small layers from becoming one that is M times
as large and holds zeros nearly everywhere. A sum, maximum or minimum over the members joins them again.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fpga_bridge.tracing.curve_rules import is_elementwise
from fpga_bridge.tracing.member_splits import SPLITS, Split, below, dot_params, elementwise, first, free_place, without
from fpga_bridge.tracing.shape_rules import join
from fpga_bridge.tracing.values import Builder, Const, Members, Operand, Partial, Tensor, completed, tensor
from fpga_bridge.typed_graph.graph import Conv, Reshape
from fpga_bridge.typed_graph.source import Place, refuse

Lower = Callable[[Builder, Any, list[Any], Place], Any]
_PAIRS = {"reduce_sum": jax.lax.add, "reduce_max": jax.lax.max, "reduce_min": jax.lax.min}


def lower_members(builder: Builder, equation: Any, inputs: list[Operand], place: Place, one: Lower) -> Any:
    """The result of an equation that has an axis of members, or starts one; None where it has neither.

    Args:
        builder: of the graph.
        equation: of the jaxpr.
        inputs: its operands.
        place: where it stands.
        one: lowers the equation of one member.

    Raises:
        ExportError: what mixes members by other ways than a sum, maximum or minimum.
    """
    name = equation.primitive.name
    if name == "reshape" and equation.params["dimensions"] is not None:
        order = equation.params["dimensions"]
        turn = _at(equation, lambda x: jax.lax.transpose(x, order), [equation.invars[0].aval])
        plain = bound(equation, {**equation.params, "dimensions": None}, [turn.outvars[0].aval])
        return one(builder, plain, [one(builder, turn, inputs, place)], place)
    if not any(isinstance(value, Members) for value in inputs):
        start = _STARTS.get(name)
        return None if start is None else start(builder, equation, inputs, place, one)
    if name in _PAIRS and not first(inputs).joined and first(inputs).axis in equation.params["axes"]:
        return _reduce(builder, equation, first(inputs), place, one)
    rule = elementwise if is_elementwise(name) else SPLITS.get(name)
    split = None if rule is None else rule(equation, inputs)
    if split is not None:
        return _each(builder, equation, inputs, place, split, one)
    whole = [merged(builder, value, name, place) if isinstance(value, Members) else value for value in inputs]
    return one(builder, equation, whole, place)


def merged(builder: Builder, members: Members, operation: str, place: Place) -> Tensor:
    """The members of each sample side by side, as one activation.

    Raises:
        ExportError: members in front of the batch.
    """
    if members.axis == 0:
        raise refuse(
            operation,
            place.source,
            "it takes members of jax.vmap or steps of a scan together, whose layers stand side by side in hardware",
            "average members, jax.vmap(apply, (0, None))(stacked, x).mean(0), or put the axis behind the batch, "
            "by out_axes=1 or jnp.swapaxes",
        )
    parts = []
    for part in members.parts:
        whole = merged(builder, part, operation, place) if isinstance(part, Members) else completed(part)
        if isinstance(whole, Partial):
            raise refuse(whole.operation, whole.source, whole.why, whole.instead)
        parts.append(tensor(whole))
    shape, axis = parts[0].shape, members.axis - 1
    if members.joined:
        return join(builder, parts, axis, place.name("concatenate"), place.source)
    if axis == len(shape):
        parts = [_reshaped(builder, part, (*shape, 1), place) for part in parts]
        return join(builder, parts, axis, place.name("concatenate"), place.source)
    whole = join(builder, parts, axis, place.name("concatenate"), place.source)
    return _reshaped(builder, whole, (*shape[:axis], len(parts), *shape[axis:]), place)


def _reshaped(builder: Builder, x: Tensor, shape: tuple[int, ...], place: Place) -> Tensor:
    return builder.emit(Reshape, place.name("reshape"), inputs=(x.name,), shape=shape, source=place.source)


def _each(builder: Builder, equation: Any, inputs: list[Operand], place: Place, split: Split, one: Lower) -> Members:
    """The results of the members' equations."""
    count = 0
    for value, axis in zip(inputs, split.axes, strict=True):
        if isinstance(value, Members):
            count = max(count, len(value.parts))
        elif isinstance(value, Const) and axis is not None and not split.joined:
            count = max(count, value.array.shape[axis])
    results = []
    for number in range(count):
        shares = [
            _share(value, atom.aval, axis, number, count, split.joined)
            for value, atom, axis in zip(inputs, equation.invars, split.axes, strict=True)
        ]
        own = bound(equation, split.params, [aval for _, aval in shares])
        if own is None:
            results.append(shares[0][0])
            continue
        root, *rest = place.scope.split("/")
        scope = "/".join([root, f"member_{number}", *rest])
        results.append(one(builder, own, [value for value, _ in shares], Place(place.source, scope)))
    return Members(tuple(results), split.axis, split.joined)


def _share(value: Operand, aval: Any, axis: int | None, number: int, count: int, joined: bool) -> tuple[Operand, Any]:
    """One member's part of an operand, and its shape."""
    if axis is None:
        return value, aval
    length = aval.shape[axis]
    joined = value.joined if isinstance(value, Members) else joined and length > 1
    kept = (length // count,) if joined else ()
    own = jax.ShapeDtypeStruct((*aval.shape[:axis], *kept, *aval.shape[axis + 1 :]), aval.dtype)
    if isinstance(value, Members):
        return value.parts[number if len(value.parts) > 1 else 0], own
    assert isinstance(value, Const)  # shared activations have no such axis

    def one(array: np.ndarray) -> np.ndarray:
        return np.split(array, count, axis)[number] if joined else array.take(number if length > 1 else 0, axis)

    origin = frozenset((f"member_{number}", *path) for path in value.origin)
    lost = None if value.wrapped is None else one(value.wrapped)
    return dataclasses.replace(value, array=one(value.array), origin=origin, wrapped=lost), own


def bound(equation: Any, params: dict[str, Any], avals: list[Any]) -> Any:
    """The equation with other parameters and shapes."""
    return _at(equation, lambda *arrays: equation.primitive.bind(*arrays, **params), avals)


def _at(equation: Any, function: Callable, avals: list[Any]) -> Any:
    """The equation that a function of one primitive makes, at the place of another; None where it does nothing."""
    with jax.numpy_rank_promotion("allow"):
        closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals))
    return closed.jaxpr.eqns[0].replace(source_info=equation.source_info) if closed.jaxpr.eqns else None


def _reduce(builder: Builder, equation: Any, members: Members, place: Place, one: Lower) -> Any:
    """Pairs, pairs of pairs and so on, the fewest one after the other; then what the equation says of other axes."""
    whole, axes, parts = equation.invars[0].aval, equation.params["axes"], list(members.parts)
    alone = jax.ShapeDtypeStruct(without(whole.shape, members.axis), whole.dtype)
    pair = _at(equation, _PAIRS[equation.primitive.name], [alone] * 2)
    while len(parts) > 1:
        pairs = [one(builder, pair, parts[i : i + 2], place) for i in range(0, len(parts) - 1, 2)]
        parts = pairs + parts[2 * len(pairs) :]
    rest = tuple(below(axis, (members.axis,)) for axis in axes if axis != members.axis)
    return one(builder, bound(equation, {**equation.params, "axes": rest}, [alone]), parts, place) if rest else parts[0]


# Where members begin.


def _stacked_kernel(builder: Builder, equation: Any, inputs: list[Operand], place: Place, one: Lower) -> Any:
    """A shared input times a kernel with a further axis: the first that is not summed over is that of the members."""
    contracted, batched = equation.params["dimension_numbers"]
    x, kernel = inputs
    if not isinstance(x, Tensor) or not isinstance(kernel, Const) or batched[0]:
        return None
    free = [axis for axis in range(kernel.array.ndim) if axis not in contracted[1]]
    if len(free) < 2:
        return None
    ranks = [len(atom.aval.shape) for atom in equation.invars]
    result = free_place(ranks, contracted, batched, 1, free[0])
    split = Split(dot_params(equation, [None, free[0]]), (None, free[0]), result)
    return _each(builder, equation, inputs, place, split, one)


def _shared_in_front(builder: Builder, equation: Any, inputs: list[Operand], place: Place, one: Lower) -> Any:
    """A shared activation gets an axis before that of the batch, to meet members."""
    params, x = equation.params, inputs[0]
    dimensions = params["broadcast_dimensions"]
    if not isinstance(x, Tensor) or dimensions[0] != 1:
        return None
    own = tuple(int(d) - 1 for d in dimensions)
    params = {**params, "shape": params["shape"][1:], "broadcast_dimensions": own}
    alone = bound(equation, params, [equation.invars[0].aval])
    x = x if alone is None else one(builder, alone, inputs, place)
    return Members((x,) * equation.params["shape"][0], 0)


def _split_features(builder: Builder, equation: Any, inputs: list[Operand], place: Place, one: Lower) -> Any:
    """A convolution with the kernels of all members, as for a shared input, becomes one for each of them."""
    x, new = inputs[0], equation.params["new_sizes"]
    if not isinstance(x, Tensor) or "vmap(" not in str(equation.source_info.name_stack):
        return None
    node = builder.nodes[x.name]
    if not isinstance(node, Conv) or node.bias is not None or new[1:-2] != x.shape[:-1] or len(new) != len(x.shape) + 2:
        return None
    parts = []
    for number, taps in enumerate(np.split(node.kernel.value, new[-2], axis=-1)):
        kernel = dataclasses.replace(node.kernel, value=taps)
        own = dataclasses.replace(node, kernel=kernel, shape=(*x.shape[:-1], new[-1]))
        parts.append(builder.emit_node(own, f"member_{number}_{builder.wanted_name(x)}"))
    return Members(tuple(parts), len(new) - 2)


_STARTS = {
    "dot_general": _stacked_kernel,
    "broadcast_in_dim": _shared_in_front,
    "reshape": _split_features,
}
