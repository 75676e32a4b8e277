"""Looking into any function while it runs: at values that it names by JAX's own `jax.ad_checkpoint.checkpoint_name`.

Its jaxpr is evaluated step by step. Names inside of `jax.jit`, `jax.checkpoint` and functions with derivatives of their
own are seen, those inside of loops and branches are not.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any

import jax
from jax.extend import core
from jaxtyping import Array

from jaxgeo.equivariance.capture import Forced, Seen, numbered

Note = Callable[[str, Array], Array]  # takes a name and its value, gives the value to go on with

_INLINED = ("jit", "pjit", "remat", "remat2", "checkpoint", "closed_call", "custom_jvp_call", "custom_vjp_call")


def run_with_names(function: Callable[[Any], Any], values: Any, note: Note) -> Any:
    """`function(values)`, every named value passed through `note`; a name that comes again gets a number."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(values)
    names: dict[str, None] = {}

    def note_numbered(name: str, value: Array) -> Array:
        name = numbered(name, names)
        names[name] = None
        return note(name, value)

    results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(values), note_numbered)
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


def named_shapes(function: Callable[[Any], Any], values: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a function's named values in the order in which they arise; nothing is computed."""
    found: dict[str, jax.ShapeDtypeStruct] = {}

    def note(name: str, value: Array) -> Array:
        found[name] = jax.ShapeDtypeStruct(value.shape, value.dtype)
        return value

    jax.eval_shape(lambda values: run_with_names(function, values, note), values)
    return found


def run_named_layers(
    function: Callable[[Any], Any], values: Any, wanted: Container[str], forced: Forced
) -> tuple[Seen, Any]:
    """The steps from one wanted value to the next as layers, with their result; see `capture.interceptor`."""
    seen: Seen = {}
    last = values

    def note(name: str, value: Array) -> Array:
        nonlocal last
        if name not in wanted:
            return value
        seen[name] = last, value
        last = value if forced is None else forced[name][1]
        return last

    result = run_with_names(function, values, note)
    return seen, result


def _evaluate(jaxpr: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[Any], note: Note) -> list[Any]:
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def value_of(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        primitive, params = equation.primitive, equation.params
        values = [value_of(atom) for atom in equation.invars]
        if primitive.name == "name":
            results = [note(params["name"], values[0])]
        elif primitive.name in _INLINED:
            inner = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
            inner, constants = (inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, [])
            results = _evaluate(inner, constants, values, note)
        else:
            results = primitive.bind(*values, **primitive.get_bind_params(params))
            results = results if primitive.multiple_results else [results]
        known.update(zip(equation.outvars, results, strict=True))
    return [value_of(atom) for atom in jaxpr.outvars]
