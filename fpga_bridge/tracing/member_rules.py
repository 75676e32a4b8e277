"""Equations of arrays of members, as `jax.vmap` over stacked parameters makes them: each member gets layers of its own.

`jax.vmap` leaves no mark but longer arrays: products with a batch, kernels with a further axis, convolutions in groups
of channels. An axis of members starts where a shared input meets a stacked kernel; from there each equation is taken
apart into the one that it was before `jax.vmap`, once for each member, and lowered as if it had been written so. Every
part is exact, so no choice made here changes a result; it only keeps M small layers from becoming one that is M times
as large and holds zeros nearly everywhere. A sum over the members joins them again.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fpga_bridge.graph import Conv, Reshape
from fpga_bridge.source import Place, refuse
from fpga_bridge.tracing.curve_rules import is_elementwise
from fpga_bridge.tracing.shape_rules import join
from fpga_bridge.tracing.values import Builder, Const, Members, Operand, Tensor, tensor

Lower = Callable[[Builder, Any, list[Any], Place], Any]


class _Split(NamedTuple):
    """One member's equation: its parameters, the axis of members of each operand (None: shared), and of the result."""

    params: dict[str, Any]
    axes: tuple[int | None, ...]
    axis: int
    joined: bool = False


def lower_members(builder: Builder, equation: Any, inputs: list[Operand], place: Place, one: Lower) -> Any:
    """The result of an equation that has an axis of members, or starts one; None where it has neither.

    Args:
        builder: of the graph.
        equation: of the jaxpr.
        inputs: its operands.
        place: where it stands.
        one: lowers the equation of one member.

    Raises:
        ExportError: what mixes members by other ways than a sum.
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
    if name == "reduce_sum" and not _first(inputs).joined and equation.params["axes"] == (_first(inputs).axis,):
        return _sum(builder, equation, list(_first(inputs).parts), place, one)
    rule = _elementwise if is_elementwise(name) else _SPLITS.get(name)
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
    parts = [merged(builder, p, operation, place) if isinstance(p, Members) else tensor(p) for p in members.parts]
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


def _each(builder: Builder, equation: Any, inputs: list[Operand], place: Place, split: _Split, one: Lower) -> Members:
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
    one = np.split(value.array, count, axis)[number] if joined else value.array.take(number if length > 1 else 0, axis)
    origin = frozenset((f"member_{number}", *path) for path in value.origin)
    return dataclasses.replace(value, array=one, origin=origin), own


def bound(equation: Any, params: dict[str, Any], avals: list[Any]) -> Any:
    """The equation with other parameters and shapes."""
    return _at(equation, lambda *arrays: equation.primitive.bind(*arrays, **params), avals)


def _at(equation: Any, function: Callable, avals: list[Any]) -> Any:
    """The equation that a function of one primitive makes, at the place of another; None where it does nothing."""
    with jax.numpy_rank_promotion("allow"):
        closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals))
    return closed.jaxpr.eqns[0].replace(source_info=equation.source_info) if closed.jaxpr.eqns else None


def _first(inputs: list[Operand]) -> Members:
    return next(value for value in inputs if isinstance(value, Members))


def _without(sequence: Any, axis: int) -> tuple[Any, ...]:
    return (*sequence[:axis], *sequence[axis + 1 :])


def _below(axis: Any, axes: Any) -> int:
    """Where an axis stands once others are gone; JAX's numbers of axes are partly NumPy's."""
    return int(axis - sum(other < axis for other in axes))


def _sum(builder: Builder, equation: Any, parts: list[Any], place: Place, one: Lower) -> Any:
    """Pairs, pairs of pairs and so on: the fewest sums one after the other."""
    add = _at(equation, jax.lax.add, [equation.outvars[0].aval] * 2)
    while len(parts) > 1:
        pairs = [one(builder, add, parts[i : i + 2], place) for i in range(0, len(parts) - 1, 2)]
        parts = pairs + parts[2 * len(pairs) :]
    return parts[0]


# What one member's equation is.


def _elementwise(equation: Any, inputs: list[Operand]) -> _Split | None:
    axis, joined = _first(inputs).axis, _first(inputs).joined
    axes = []
    for value, atom in zip(inputs, equation.invars, strict=True):
        if isinstance(value, Members):
            if (value.axis, value.joined) != (axis, joined):
                return None
        elif atom.aval.shape and not isinstance(value, Const):
            return None  # a shared activation behind the batch, which no equation of jax.vmap makes
        axes.append(axis if atom.aval.shape else None)
    return _Split(equation.params, tuple(axes), axis, joined)


def _transpose(equation: Any, inputs: list[Operand]) -> _Split:
    members, order = _first(inputs), equation.params["permutation"]
    own = tuple(_below(old, (members.axis,)) for old in order if old != members.axis)
    new = order.index(members.axis)
    return _Split({"permutation": tuple(order) if members.joined else own}, (members.axis,), new, members.joined)


def _reshape(equation: Any, inputs: list[Operand]) -> _Split | None:
    """The axis stays, or becomes the slower part of another, as where convolutions are made groups of one."""
    members, new, old = _first(inputs), equation.params["new_sizes"], equation.invars[0].aval.shape
    count, before = len(members.parts), math.prod(old[: members.axis])
    places = [place for place in range(len(new)) if math.prod(new[:place]) == before]
    for place in places:
        if new[place] == count:
            return _Split({**equation.params, "new_sizes": _without(new, place)}, (members.axis,), place)
    for place in places:
        if new[place] % count == 0 and new[place]:
            sizes = (*new[:place], new[place] // count, *new[place + 1 :])
            return _Split({**equation.params, "new_sizes": sizes}, (members.axis,), place, True)
    return None


def _broadcast_in_dim(equation: Any, inputs: list[Operand]) -> _Split | None:
    members, params = _first(inputs), equation.params
    dimensions, shape = params["broadcast_dimensions"], params["shape"]
    place = int(dimensions[members.axis])
    if members.joined or len(inputs) > 1 or shape[place] != len(members.parts):
        return None
    own = tuple(_below(d, (place,)) for d in _without(dimensions, members.axis))
    return _Split({**params, "shape": _without(shape, place), "broadcast_dimensions": own}, (members.axis,), place)


def _fewer(name: str) -> Callable[[Any, list[Operand]], _Split | None]:
    """Of equations that take away the axes in a parameter."""

    def rule(equation: Any, inputs: list[Operand]) -> _Split | None:
        members, axes = _first(inputs), tuple(equation.params[name])
        if members.axis in axes:
            return None
        own = axes if members.joined else tuple(_below(axis, (members.axis,)) for axis in axes)
        params = {**equation.params, name: own}
        return _Split(params, (members.axis,), _below(members.axis, axes), members.joined)

    return rule


def _window(**idle: Any) -> Callable[[Any, list[Operand]], _Split | None]:
    """Of parameters with an entry for each axis: the entries named are dropped where they do nothing to members."""

    def rule(equation: Any, inputs: list[Operand]) -> _Split | None:
        members, params = _first(inputs), dict(equation.params)
        if members.joined or not isinstance(inputs[0], Members):
            return None
        for name, nothing in idle.items():
            if params[name] is None:
                continue
            wanted = len(members.parts) if nothing == "all" else nothing
            if params[name][members.axis] != wanted:
                return None
            params[name] = _without(tuple(params[name]), members.axis)
        return _Split(params, (members.axis, *(None for _ in inputs[1:])), members.axis)

    return rule


def _concatenate(equation: Any, inputs: list[Operand]) -> _Split | None:
    members, axis = _first(inputs), equation.params["dimension"]
    alike = all(isinstance(value, Members) and (value.axis, value.joined) == (members.axis, False) for value in inputs)
    if not alike or axis == members.axis:
        return None
    return _Split({"dimension": _below(axis, (members.axis,))}, (members.axis,) * len(inputs), members.axis)


def _dot_general(equation: Any, inputs: list[Operand]) -> _Split | None:
    """Members in the batch of the product, or free in one factor that meets a shared one."""
    contracted, batched = (tuple(map(tuple, pair)) for pair in equation.params["dimension_numbers"])
    ranks = [len(atom.aval.shape) for atom in equation.invars]
    side = next(side for side, value in enumerate(inputs) if isinstance(value, Members))
    members = inputs[side]
    assert isinstance(members, Members)
    gone: list[int | None] = [None, None]
    gone[side] = members.axis
    if members.joined or members.axis in contracted[side]:
        return None
    if members.axis in batched[side]:
        place = batched[side].index(members.axis)
        gone[1 - side] = other = batched[1 - side][place]
        if isinstance(inputs[1 - side], Tensor) or getattr(inputs[1 - side], "axis", other) != other:
            return None
        result = place
    elif isinstance(inputs[1 - side], Members):
        return None
    else:
        result = _free_place(ranks, contracted, batched, side, members.axis)
    return _Split(_dot_params(equation, gone), tuple(gone), result)


def _free_place(ranks: list[int], contracted: Any, batched: Any, side: int, axis: int) -> int:
    """Where a free axis of a factor stands in the product."""
    taken = (*contracted[side], *batched[side])
    before = len(batched[0]) + _below(axis, taken)
    return before if side == 0 else before + ranks[0] - len(contracted[0]) - len(batched[0])


def _dot_params(equation: Any, gone: list[int | None]) -> dict[str, Any]:
    numbers = tuple(
        tuple(
            tuple(axis if out is None else _below(axis, (out,)) for axis in axes if axis != out)
            for axes, out in zip(pair, gone, strict=True)
        )
        for pair in equation.params["dimension_numbers"]
    )
    return {**equation.params, "dimension_numbers": numbers}


def _convolution(equation: Any, inputs: list[Operand]) -> _Split | None:
    """Members as groups of channels, or as more samples of one batch under a shared kernel."""
    x, kernel = inputs
    spec, groups = equation.params["dimension_numbers"], equation.params["feature_group_count"]
    if not isinstance(x, Members) or not isinstance(kernel, Const) or not x.joined:
        return None
    if x.axis == spec.lhs_spec[0]:
        return _Split(equation.params, (x.axis, None), spec.out_spec[0], True)
    if x.axis != spec.lhs_spec[1] or groups % len(x.parts):
        return None
    params = {**equation.params, "feature_group_count": groups // len(x.parts)}
    return _Split(params, (x.axis, spec.rhs_spec[0]), spec.out_spec[1], True)


_AXES = {"window_dimensions": 1, "window_strides": 1, "padding": (0, 0), "base_dilation": 1, "window_dilation": 1}
_SPLITS: dict[str, Callable[[Any, list[Operand]], _Split | None]] = {
    "transpose": _transpose,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast_in_dim,
    "squeeze": _fewer("dimensions"),
    "reduce_sum": _fewer("axes"),
    "reduce_max": _fewer("axes"),
    "reduce_window_sum": _window(**_AXES),
    "reduce_window_max": _window(**_AXES),
    "pad": _window(padding_config=(0, 0, 0)),
    "slice": _window(start_indices=0, limit_indices="all", strides=1),
    "concatenate": _concatenate,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
}


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
    result = _free_place(ranks, contracted, batched, 1, free[0])
    split = _Split(_dot_params(equation, [None, free[0]]), (None, free[0]), result)
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
