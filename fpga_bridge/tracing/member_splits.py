"""What the equation of one member was before `jax.vmap`: its parameters without the axis of members."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from fpga_bridge.tracing.values import Const, Members, Operand, Tensor


class Split(NamedTuple):
    """One member's equation: its parameters, the axis of members of each operand (None: shared), and of the result."""

    params: dict[str, Any]
    axes: tuple[int | None, ...]
    axis: int
    joined: bool = False


def first(inputs: list[Operand]) -> Members:
    """The operand that has an axis of members."""
    return next(value for value in inputs if isinstance(value, Members))


def without(sequence: Any, axis: int) -> tuple[Any, ...]:
    """All entries but that of an axis."""
    return (*sequence[:axis], *sequence[axis + 1 :])


def below(axis: Any, axes: Any) -> int:
    """Where an axis stands once others are gone; JAX's numbers of axes are partly NumPy's."""
    return int(axis - sum(other < axis for other in axes))


def elementwise(equation: Any, inputs: list[Operand]) -> Split | None:
    """The same equation; operands without axes are shared."""
    axis, joined = first(inputs).axis, first(inputs).joined
    axes = []
    for value, atom in zip(inputs, equation.invars, strict=True):
        if isinstance(value, Members):
            if (value.axis, value.joined) != (axis, joined):
                return None
        elif atom.aval.shape and not isinstance(value, Const):
            return None  # a shared activation behind the batch, which no equation of jax.vmap makes
        axes.append(axis if atom.aval.shape else None)
    return Split(equation.params, tuple(axes), axis, joined)


def _transpose(equation: Any, inputs: list[Operand]) -> Split:
    members, order = first(inputs), equation.params["permutation"]
    own = tuple(below(old, (members.axis,)) for old in order if old != members.axis)
    new = order.index(members.axis)
    return Split({"permutation": tuple(order) if members.joined else own}, (members.axis,), new, members.joined)


def _reshape(equation: Any, inputs: list[Operand]) -> Split | None:
    """The axis stays, or becomes the slower part of another, as where convolutions are made groups of one."""
    members, new, old = first(inputs), equation.params["new_sizes"], equation.invars[0].aval.shape
    count, before = len(members.parts), math.prod(old[: members.axis])
    places = [place for place in range(len(new)) if math.prod(new[:place]) == before]
    for place in places:
        if new[place] == count:
            return Split({**equation.params, "new_sizes": without(new, place)}, (members.axis,), place)
    for place in places:
        if new[place] % count == 0 and new[place]:
            sizes = (*new[:place], new[place] // count, *new[place + 1 :])
            return Split({**equation.params, "new_sizes": sizes}, (members.axis,), place, True)
    return None


def _broadcast_in_dim(equation: Any, inputs: list[Operand]) -> Split | None:
    members, params = first(inputs), equation.params
    dimensions, shape = params["broadcast_dimensions"], params["shape"]
    place = int(dimensions[members.axis])
    if members.joined or len(inputs) > 1 or shape[place] != len(members.parts):
        return None
    own = tuple(below(d, (place,)) for d in without(dimensions, members.axis))
    return Split({**params, "shape": without(shape, place), "broadcast_dimensions": own}, (members.axis,), place)


def _fewer(name: str) -> Callable[[Any, list[Operand]], Split | None]:
    """Of equations that take away the axes in a parameter."""

    def rule(equation: Any, inputs: list[Operand]) -> Split | None:
        members, axes = first(inputs), tuple(equation.params[name])
        if members.axis in axes:
            return None
        own = axes if members.joined else tuple(below(axis, (members.axis,)) for axis in axes)
        params = {**equation.params, name: own}
        return Split(params, (members.axis,), below(members.axis, axes), members.joined)

    return rule


def _window(**idle: Any) -> Callable[[Any, list[Operand]], Split | None]:
    """Of parameters with an entry for each axis: the entries named are dropped where they do nothing to members."""

    def rule(equation: Any, inputs: list[Operand]) -> Split | None:
        members, params = first(inputs), dict(equation.params)
        if members.joined or not isinstance(inputs[0], Members):
            return None
        for name, nothing in idle.items():
            if params[name] is None:
                continue
            wanted = len(members.parts) if nothing == "all" else nothing
            if params[name][members.axis] != wanted:
                return None
            params[name] = without(tuple(params[name]), members.axis)
        return Split(params, (members.axis, *(None for _ in inputs[1:])), members.axis)

    return rule


def _concatenate(equation: Any, inputs: list[Operand]) -> Split | None:
    members, axis = first(inputs), equation.params["dimension"]
    alike = all(isinstance(value, Members) and (value.axis, value.joined) == (members.axis, False) for value in inputs)
    if not alike or axis == members.axis:
        return None
    return Split({"dimension": below(axis, (members.axis,))}, (members.axis,) * len(inputs), members.axis)


def _dot_general(equation: Any, inputs: list[Operand]) -> Split | None:
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
        result = free_place(ranks, contracted, batched, side, members.axis)
    return Split(dot_params(equation, gone), tuple(gone), result)


def free_place(ranks: list[int], contracted: Any, batched: Any, side: int, axis: int) -> int:
    """Where a free axis of a factor stands in the product."""
    taken = (*contracted[side], *batched[side])
    before = len(batched[0]) + below(axis, taken)
    return before if side == 0 else before + ranks[0] - len(contracted[0]) - len(batched[0])


def dot_params(equation: Any, gone: list[int | None]) -> dict[str, Any]:
    """The parameters of a product whose factors lack an axis each, or None."""
    numbers = tuple(
        tuple(
            tuple(axis if out is None else below(axis, (out,)) for axis in axes if axis != out)
            for axes, out in zip(pair, gone, strict=True)
        )
        for pair in equation.params["dimension_numbers"]
    )
    return {**equation.params, "dimension_numbers": numbers}


def _gather(equation: Any, inputs: list[Operand]) -> Split | None:
    """The same places of each member."""
    (members, _), params = inputs, equation.params
    numbers = params["dimension_numbers"]
    if not isinstance(members, Members) or members.joined or numbers.operand_batching_dims:
        return None
    axis, gone = members.axis, numbers.collapsed_slice_dims
    if axis in numbers.start_index_map or axis in gone or params["slice_sizes"][axis] != len(members.parts):
        return None
    result = int(numbers.offset_dims[below(axis, gone)])
    own = numbers._replace(
        offset_dims=tuple(below(d, (result,)) for d in numbers.offset_dims if d != result),
        collapsed_slice_dims=tuple(below(d, (axis,)) for d in gone),
        start_index_map=tuple(below(d, (axis,)) for d in numbers.start_index_map),
    )
    params = {**params, "dimension_numbers": own, "slice_sizes": without(params["slice_sizes"], axis)}
    return Split(params, (axis, None), result)


def _convolution(equation: Any, inputs: list[Operand]) -> Split | None:
    """Members as groups of channels, or as more samples of one batch under a shared kernel."""
    x, kernel = inputs
    spec, groups = equation.params["dimension_numbers"], equation.params["feature_group_count"]
    if not isinstance(x, Members) or not isinstance(kernel, Const) or not x.joined:
        return None
    if x.axis == spec.lhs_spec[0]:
        return Split(equation.params, (x.axis, None), spec.out_spec[0], True)
    if x.axis != spec.lhs_spec[1] or groups % len(x.parts):
        return None
    params = {**equation.params, "feature_group_count": groups // len(x.parts)}
    return Split(params, (x.axis, spec.rhs_spec[0]), spec.out_spec[1], True)


_AXES = {"window_dimensions": 1, "window_strides": 1, "padding": (0, 0), "base_dilation": 1, "window_dilation": 1}
SPLITS: dict[str, Callable[[Any, list[Operand]], Split | None]] = {
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
    "gather": _gather,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
}
