"""A linear map whose adjoint is coded as such, as one JAX primitive: differentiable both ways, any number of times."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Inexact, PyTree

Map = Callable[[Any, Array], Array]


def linear_map(
    forward: Map, transpose: Map, tables: PyTree[Array], x: Inexact[Array, "..."], *, plain: Map | None = None
) -> Inexact[Array, "..."]:
    r"""`forward(tables, x)`, with `transpose(tables, y)` as its derivative's transpose in reverse mode.

    Reverse-mode differentiation through blocked or padded products is many times dearer than the products; an adjoint
    written by hand is one more transform. Unlike `jax.custom_vjp` the result can also be differentiated forward
    (Gauss-Newton products, linearised posteriors), twice, and under `vmap`.

    Args:
        forward: linear in x; takes (tables, x). A function of the module's top level: programs are cached by it.
        transpose: the plain transpose of `forward` in x, without conjugation; takes (tables, y).
        tables: constants of the map, a pytree of arrays. Derivatives with respect to them are zero, unless `plain` is
            given.
        x: the array that the map acts on. Where an axis of it is empty, the result is, and no map is called on nothing.
        plain: the same map as `forward` in operations whose derivatives JAX knows, by which it then finds those with
            respect to the tables.
    """
    if 0 in x.shape:
        return _of_nothing(forward, tables, x)
    leaves, structure = jax.tree.flatten(tables)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    if plain is None:
        leaves = jax.lax.stop_gradient(leaves)
    calls = {"forward": _Call(forward, structure), "transpose": _Call(transpose, structure)}
    return _linear_map_p.bind(*leaves, x, **calls, plain=None if plain is None else _Call(plain, structure))


def _of_nothing(forward: Map, tables: PyTree[Array], x: Array) -> Array:
    """Zeros, by the shapes that one and two entries would have: maps may well divide by a size."""
    one, two = (
        jax.eval_shape(forward, tables, jax.ShapeDtypeStruct(tuple(size or count for size in x.shape), x.dtype))
        for count in (1, 2)
    )
    return jnp.zeros(tuple(2 * a - b for a, b in zip(one.shape, two.shape, strict=True)), one.dtype)


class _Call:
    """A map on flat arguments (*tables, x); equal where the map and all axes mapped over are equal."""

    def __init__(self, function: Map, structure: Any, axes: tuple[tuple[int | None, ...], ...] = ()):
        self.function, self.structure, self.axes = function, structure, axes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Call) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple:
        return self.function, self.structure, self.axes

    def __call__(self, *arguments: Array) -> Array:
        def flat(*arguments: Array) -> Array:
            return self.function(jax.tree.unflatten(self.structure, arguments[:-1]), arguments[-1])

        for axes in self.axes:
            flat = jax.vmap(flat, in_axes=axes)
        return flat(*arguments)

    def mapped(self, axes: tuple[int | None, ...]) -> "_Call":
        return _Call(self.function, self.structure, (*self.axes, axes))


@dataclasses.dataclass(frozen=True)
class _Transposed:
    """The transpose of a plain map on flat arguments."""

    plain: "_Call | _Transposed"
    shape: tuple[int, ...]  # of the plain map's x
    dtype: np.dtype

    def __call__(self, *arguments: Array) -> Array:
        *tables, y = arguments
        (x,) = jax.linear_transpose(lambda x: self.plain(*tables, x), jax.ShapeDtypeStruct(self.shape, self.dtype))(y)
        return x

    def mapped(self, axes: tuple[int | None, ...]) -> "_Mapped":
        return _Mapped(self, axes)


@dataclasses.dataclass(frozen=True)
class _Mapped:
    """A plain map on flat arguments, mapped over some axes."""

    plain: "_Transposed | _Mapped"
    axes: tuple[int | None, ...]

    def __call__(self, *arguments: Array) -> Array:
        return jax.vmap(self.plain, in_axes=self.axes)(*arguments)

    def mapped(self, axes: tuple[int | None, ...]) -> "_Mapped":
        return _Mapped(self, axes)


def _evaluate(*arguments: Array, forward: _Call, transpose: _Call, plain: Any) -> Array:
    return forward(*arguments)


def _shape(*arguments: Any, forward: _Call, transpose: _Call, plain: Any) -> Any:
    out = jax.eval_shape(forward, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments))
    return ShapedArray(out.shape, out.dtype)


def _jvp(primals: tuple, tangents: tuple, *, plain: Any, **maps: _Call) -> tuple:
    *tables, x = primals
    found = _linear_map_p.bind(*primals, **maps, plain=plain)
    change = _linear_map_p.bind(*tables, ad.instantiate_zeros(tangents[-1]), **maps, plain=plain)
    varying = [i for i, tangent in enumerate(tangents[:-1]) if type(tangent) is not ad.Zero]
    if plain is None or not varying:
        return found, change

    def by_tables(*values: Array) -> Array:
        replaced = dict(zip(varying, values, strict=True))
        return plain(*(replaced.get(i, table) for i, table in enumerate(tables)), x)

    moving = tuple(tables[i] for i in varying), tuple(tangents[i] for i in varying)
    return found, change + jax.jvp(by_tables, *moving)[1]


def _transpose(cotangent: Any, *arguments: Any, forward: _Call, transpose: _Call, plain: Any) -> list:
    *tables, x = arguments
    if isinstance(cotangent, ad.Zero):
        return [None] * len(tables) + [ad.Zero(x.aval)]
    maps = {"forward": transpose, "transpose": forward}
    if plain is not None:
        plain = _Transposed(plain, x.aval.shape, x.aval.dtype)
    return [None] * len(tables) + [_linear_map_p.bind(*tables, cotangent, **maps, plain=plain)]


def _batch(arguments: tuple, axes: tuple, *, forward: _Call, transpose: _Call, plain: Any) -> tuple:
    if axes[-1] is None:  # only tables are mapped over: the transpose then still needs a mapped argument
        size = next(a.shape[axis] for a, axis in zip(arguments, axes, strict=True) if axis is not None)
        arguments = (*arguments[:-1], jnp.broadcast_to(arguments[-1][None], (size, *arguments[-1].shape)))
    else:
        arguments = (*arguments[:-1], jnp.moveaxis(arguments[-1], axes[-1], 0))
    axes = (*axes[:-1], 0)
    maps = {"forward": forward.mapped(axes), "transpose": transpose.mapped(axes)}
    return _linear_map_p.bind(*arguments, **maps, plain=None if plain is None else plain.mapped(axes)), 0


_linear_map_p = Primitive("linear_map")
_linear_map_p.def_impl(partial(jax.jit, static_argnames=("forward", "transpose", "plain"))(_evaluate))
_linear_map_p.def_abstract_eval(_shape)
mlir.register_lowering(_linear_map_p, mlir.lower_fun(_evaluate, multiple_results=False))
ad.primitive_jvps[_linear_map_p] = _jvp
ad.primitive_transposes[_linear_map_p] = _transpose
batching.primitive_batchers[_linear_map_p] = _batch
