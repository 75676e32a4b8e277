"""Looking into a model while it runs: inputs and outputs of its linen modules, and other values in their places."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from flax import linen as nn

from jaxgeo.errors import ConfigError, InputError

Seen = dict[str, tuple[Any, Any]]  # input and output of each layer
Forced = Seen | None
Run = Callable[[Any, Forced], tuple[Seen, Any]]


def compiled(run: Callable[..., tuple[Seen, Any]]) -> Callable[..., tuple[Seen, Any]]:
    """The compiled function; layers stay in the order of their calls, which the program's dictionaries forget."""

    @eqx.filter_jit
    def program(*arguments: Any) -> tuple[tuple[str, ...], Seen, Any]:
        seen, result = run(*arguments)
        return tuple(seen), seen, result

    def ordered(*arguments: Any) -> tuple[Seen, Any]:
        names, seen, result = program(*arguments)
        return {name: seen[name] for name in names}, result

    return ordered


def interceptor(wanted: Iterable[str], seen: Seen, forced: Forced) -> Callable:
    """Notes inputs and outputs of the wanted modules; with `forced` values these take their places."""

    def intercept(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        path = "/".join(context.module.path)
        if context.method_name != "__call__" or not any(matches(pattern, path) for pattern in wanted):
            return call(*args, **kwargs)
        name = numbered(path, seen)
        place = signal_place(args, path)
        given = args[place]
        # The name is taken before the module runs, so that a module inside it comes after it.
        seen[name] = given, None
        if forced is None:
            result = call(*args, **kwargs)
            seen[name] = given, result
            return result
        seen[name] = given, call(*args[:place], forced[name][0], *args[place + 1 :], **kwargs)
        return forced[name][1]

    return intercept


def calls_of_modules(call: Callable[[], Any]) -> dict[str, list[tuple[Any, Any]]]:
    """Inputs and outputs, as shapes, of every call of each linen module that the model calls; nothing is computed.

    Modules that take no array, or give something else, are left out.
    """
    seen: dict[str, list[tuple[Any, Any]]] = {}

    def intercept(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        path = "/".join(context.module.path)
        given = [argument for argument in args if _is_signal(argument)]
        if context.method_name == "__call__" and path and given and _is_signal(result):
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (given[0], result))
            seen.setdefault(path, []).append(shapes)
        return result

    with nn.intercept_methods(intercept):
        jax.eval_shape(call)
    return seen


def signal_place(args: Sequence[Any], what: str) -> int:
    """Place of the first array, or tuple or list of arrays, among arguments.

    Raises:
        InputError: there is none, or one array stands in place of the arguments.
    """
    if isinstance(args, jax.Array | np.ndarray):
        raise InputError(f"the arguments of {what} are a tuple, got one array of shape {args.shape}; write (array,)")
    for place, argument in enumerate(args):
        if _is_signal(argument):
            return place
    raise InputError(f"{what} was called without an array among its positional arguments")


def _is_signal(argument: Any) -> bool:
    parts = argument if isinstance(argument, tuple | list) and argument else (argument,)
    return all(isinstance(part, jax.Array | np.ndarray) for part in parts)


def numbered(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with the number of the call where it has been taken: "conv", "conv#2", ..."""
    repeat, found = 1, name
    while found in taken:
        repeat += 1
        found = f"{name}#{repeat}"
    return found


def matches(pattern: str, name: str) -> bool:
    """Whether a layer's name, without the number of a repeated call, fits a pattern."""
    return fnmatch.fnmatchcase(name.split("#", maxsplit=1)[0], pattern)


def check_names(wanted: Iterable[str], seen: Mapping[str, Any]) -> None:
    """Refuse patterns that nothing matches, and layers within layers.

    Raises:
        ConfigError: either.
    """
    paths = {name.split("#")[0] for name in seen}
    for pattern in wanted:
        if not any(matches(pattern, path) for path in paths):
            found = ", ".join(sorted(paths)) or "none"
            raise ConfigError(
                f"no linen module that the model calls, and no value that it names, matches {pattern!r}; matched by "
                f"others: {found}"
            )
    for path in paths:
        inner = sorted(other for other in paths if other.startswith(f"{path}/"))
        if inner:
            raise ConfigError(
                f"{path!r} contains {inner[0]!r}, so that its own error cannot be told from theirs; name one of the two"
            )
