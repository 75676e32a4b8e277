"""One part of a long sequence after the other, so that what arises on the way stays in a processor's cache."""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo.layers.window_plan import Permutation

_UNROLLED = 2  # parts in one turn of a loop without derivatives: they do not wait for each other

Parts: TypeAlias = Float[Array, "part row channel"]
One: TypeAlias = Callable[..., Array]
"""takes (what all parts see, arrays of one part, its key of dropout or nothing)"""


def in_parts(
    module: nn.Module,
    function: Callable[..., Array],
    parts: PyTree,
    shared: PyTree = None,
    order: Permutation | None = None,
) -> Float[Array, "part *shape"]:
    """`function(module, part, shared)` for one part after the other, each made anew for derivatives.

    Without derivatives and dropout, results that have the form of the first array's parts take their place, so that
    memory holds only one of both, and in another order no copy of either.

    Args:
        module: whose parameters the function uses: its call, or submodules that are set up, not compact.
        function: without arrays of its own; parts have their own masks of dropout.
        parts: arrays with the parts on their first axis.
        shared: what all parts see.
        order: in which the function takes the rows of an example, of which the first array has one or several. It gives
            a result for each row, and these come back in the order in which the rows came.
    """
    leaves, structure = jax.tree.flatten(parts)
    if module.is_initializing():
        function(module, structure.unflatten([leaf[0] for leaf in leaves]), shared)
    unbound, variables = module.unbind()

    def one(seen: tuple, leaves: list[Array], key: Array | None = None) -> Any:
        variables, shared, _ = seen
        rngs = None if key is None else {"dropout": key}
        return unbound.apply(variables, structure.unflatten(leaves), shared, method=function, rngs=rngs)

    seen = variables, shared, order
    if module.has_rng("dropout"):
        return _beside(one, seen, leaves, jax.random.split(module.make_rng("dropout"), len(leaves[0])))
    part = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves]
    result = jax.eval_shape(one, seen, part)
    takes_place = (result.shape, result.dtype) == (part[0].shape, part[0].dtype)
    if 0 in leaves[0].shape or not (takes_place or order is None):
        return _beside(one, seen, leaves)
    return _in_place(one, None if takes_place else result, seen, leaves)


def _beside(one: One, seen: tuple, leaves: list[Array], keys: Array | None = None) -> Array:
    """Results beside what they are made of, as derivatives need them."""

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(carry: None, each: tuple) -> tuple[None, Array]:
        return carry, one(seen, *each)

    order = seen[2]
    if order is None:
        return jax.lax.scan(step, None, (leaves, keys))[1]
    leaves = [_reordered(order, leaves[0]), *leaves[1:]]
    return _reordered(order.reversed(), jax.lax.scan(step, None, (leaves, keys))[1])


def _reordered(order: Permutation, parts: Parts) -> Parts:
    return order(parts.reshape(-1, len(order.indices), parts.shape[-1])).reshape(parts.shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _in_place(one: One, result: jax.ShapeDtypeStruct | None, seen: tuple, leaves: list[Array]) -> Array:
    """Results in the place of the first array's parts, or where they have another form, in an array of their own."""
    group = math.gcd(len(leaves[0]), _UNROLLED)
    sliced = leaves[1:] if result is None else leaves

    def turn(i: Array, results: Array) -> Array:
        some = [jax.lax.dynamic_slice_in_dim(leaf, i * group, group) for leaf in sliced]
        places = _Places(seen[2], results, i * group + jnp.arange(group))
        some = [places.taken(), *some] if result is None else some
        return places.put(jnp.stack([one(seen, [leaf[k] for leaf in some]) for k in range(group)]))

    if result is None:
        start = leaves[0]
    else:
        # Not zeros, for which compilers take memory long before the parts are there.
        some = sum(leaf.reshape(-1)[0].astype(result.dtype) for leaf in leaves)
        start = jnp.broadcast_to(some, (len(leaves[0]), *result.shape))
    return jax.lax.fori_loop(0, len(leaves[0]) // group, turn, start)


@_in_place.defjvp
def _in_place_jvp(
    one: One, result: jax.ShapeDtypeStruct | None, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    return jax.jvp(functools.partial(_beside, one), primals, tangents)


class _Places:
    """Where the rows of a turn's parts lie; no row is another part's too."""

    def __init__(self, order: Permutation | None, parts: Parts, numbers: Int[Array, " turn"]):
        self.first, self.number, self.rows = numbers[0], len(numbers), None
        self.parts = parts
        if order is not None:
            of_parts = order.indices.reshape(-1, parts.shape[1])
            example = numbers // len(of_parts) * len(order.indices)
            self.rows = of_parts[numbers % len(of_parts)] + example[:, None]

    @property
    def _at(self) -> Any:
        return self.parts.reshape(-1, self.parts.shape[-1]).at[self.rows]

    def taken(self) -> Float[Array, "turn row channel"]:
        if self.rows is None:
            return jax.lax.dynamic_slice_in_dim(self.parts, self.first, self.number)
        return self._at.get(mode="promise_in_bounds", unique_indices=True)

    def put(self, others: Float[Array, "turn row channel"]) -> Parts:
        if self.rows is None:
            return jax.lax.dynamic_update_slice_in_dim(self.parts, others, self.first, 0)
        return self._at.set(others, mode="promise_in_bounds", unique_indices=True).reshape(self.parts.shape)
