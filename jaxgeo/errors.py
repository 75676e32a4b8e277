"""Every exception that the library raises on purpose, and the checks of settings that all rooms share.

Each message is one sentence or two: what came, what is needed and why, what would work. The command line
prints it without a traceback and exits with status 1.
"""

import collections.abc
import dataclasses
import functools
import math
import numbers
import operator
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class JaxgeoError(Exception):
    """Base of all deliberate errors; catch it to catch them all."""


class InputError(JaxgeoError, ValueError):
    """An array that the function cannot take: wrong shape or order, not finite, labels out of range."""


class ConfigError(JaxgeoError, ValueError):
    """A configuration that is impossible, has an unknown key or a value of a wrong type."""


class RunFolderError(JaxgeoError, OSError):
    """A folder that is not a run, belongs to another version, or cannot be written."""


class CorruptFileError(JaxgeoError, OSError):
    """A file that is truncated, altered or not of the format that its name promises."""


class ExportError(JaxgeoError):
    """A model that cannot be carried to hardware: names the operation and the model's file and line."""


class ToolMissingError(JaxgeoError):
    """A program or an optional package that this step needs is not installed."""


_Number = float | int


def check_whole(
    what: str, value: Any, least: int | None = 1, most: int | None = None, *, error: type[JaxgeoError] = ConfigError
) -> int:
    """Refuse what counts nothing: fractions (2.0 is one), truth values, and numbers that are too small or too large.

    Args:
        what: is counted.
        value: the number.
        least: the smallest that is allowed; None allows all.
        most: the largest that is allowed, beside `least`; None allows all.
        error: what is raised.

    Returns:
        The number as Python's own.

    Raises:
        ConfigError: no whole number in this range; or the class that `error` names.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        raise error(f"{what} must be a whole number{_range(least, most)}, got {value!r}")
    return number


def _range(least: _Number | None, most: _Number | None) -> str:
    if least is None or least == -math.inf:
        return ""
    return f" of at least {least}" if most is None or most == math.inf else f" from {least} to {most}"


def check_whole_tuple(what: str, values: Any, least: int | None = 1) -> None:
    """Refuse what is no tuple of whole numbers; a list, too, as configurations must be hashable.

    Raises:
        ConfigError: another type, or an element that is no whole number of at least `least`.
    """
    if not isinstance(values, tuple):
        raise ConfigError(f"{what} must be a tuple of whole numbers, got {values!r}")
    for value in values:
        check_whole(f"each of {what}", value, least)


def check_real(what: str, value: Any, least: float | None = None, *, above: float | None = None) -> None:
    """Refuse what is no finite number, such as a text or a truth value, and numbers that are too small.

    Args:
        what: the setting.
        value: what it is.
        least: the smallest that is allowed, where there is one.
        above: in its place, the largest that is too small.

    Raises:
        ConfigError: another type, NaN, infinite, below `least`, or not above `above`.
    """
    fine = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not fine or (least is not None and value < least) or (above is not None and value <= above):
        bound = "" if least is None else f" of at least {least:g}"
        bound = bound if above is None else f" above {above:g}"
        raise ConfigError(f"{what} must be a finite number{bound}, got {value!r}")


def check_one_of(what: str, value: Any, choices: Any) -> None:
    """Refuse a choice that there is not.

    Args:
        what: is chosen.
        value: the choice.
        choices: a `Literal` type, or a collection.

    Raises:
        ConfigError: with the choices that there are.
    """
    known = get_args(choices) or tuple(choices)
    if value not in known:
        raise ConfigError(f"{what} must be one of {', '.join(map(str, known))}, got {value!r}")


def check_one_shape(**arrays: Any) -> None:
    """Refuse arrays of several shapes, which arithmetic would broadcast against each other.

    Args:
        arrays: by name; the first says what the others must be, and one that is None is left out.

    Raises:
        InputError: with both shapes.
    """
    (first, leader), *others = arrays.items()
    for name, array in others:
        if array is not None and array.shape != leader.shape:
            raise InputError(
                f"{', '.join(arrays)} need one entry per pixel, got {name} of shape {array.shape} for {first} of shape "
                f"{leader.shape}; jnp.broadcast_to repeats what all images share"
            )


def check_fields(config: Any, part: str = "", /, **ranges: _Number | tuple[_Number, _Number]) -> None:
    """Refuse settings whose types are not those of their annotations, and numbers out of range.

    Looked at are whole and real numbers, truth values, texts, choices (`Literal`), tuples, tables and unions of
    these, and other classes. NaN is no number, infinity is one where a range ends at it, truth values count nothing.

    Args:
        config: a dataclass.
        part: of a larger configuration that it is, for messages.
        ranges: the least number of a setting, or the least and the largest; each of a tuple's numbers is held to it.

    Raises:
        ConfigError: the first such setting, what came, and what it takes.
    """
    annotations = _annotations(type(config))
    for field in dataclasses.fields(config):
        value, kind, bounds = getattr(config, field.name), annotations[field.name], ranges.pop(field.name, None)
        least, most = bounds if isinstance(bounds, tuple) else (bounds, None)
        if not _fits(value, kind, least, most):
            name = f"{part}.{field.name}" if part else field.name
            raise ConfigError(f"{name} must be {_described(kind, least, most)}, got {value!r}")
    if ranges:
        raise TypeError(f"{type(config).__name__} has no {', '.join(ranges)}")


_annotations = functools.cache(get_type_hints)


def _fits(value: Any, kind: Any, least: _Number | None, most: _Number | None) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part, least, most) for part in parts)
    if origin is Literal:
        return any(isinstance(value, type(choice)) and value == choice for choice in parts)
    if kind is float or kind is int:
        return _is_number(value, numbers.Real if kind is float else numbers.Integral, least, most)
    if kind is Any:
        return True
    if isinstance(origin or kind, type) and not isinstance(value, origin or kind):
        return False
    items, kinds = (), ()
    if origin is tuple:
        items, kinds = value, parts[:1] * len(value) if parts[-1] is Ellipsis else parts
    elif origin is collections.abc.Mapping:
        items, kinds = (*value, *value.values()), parts[:1] * len(value) + parts[1:] * len(value)
    return len(items) == len(kinds) and all(_fits(*pair, least, most) for pair in zip(items, kinds, strict=True))


def _is_number(value: Any, kind: type, least: _Number | None, most: _Number | None) -> bool:
    if isinstance(value, bool) or not isinstance(value, kind):
        return False
    fine = math.isfinite(value) or any(value == end for end in (least, most))
    return bool(fine and (least is None or value >= least) and (most is None or value <= most))


def _described(kind: Any, least: _Number | None, most: _Number | None) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    each = [str(part) if origin is Literal else _described(part, least, most) for part in parts if part is not Ellipsis]
    if origin in (Union, types.UnionType):
        return " or ".join(
            text for text, part in zip(each, parts, strict=True) if part is not int or float not in parts
        )
    if origin is Literal:
        return f"one of {', '.join(each)}" if each[1:] else each[0]
    if origin is tuple:
        return f"a tuple, each {each[0]}" if Ellipsis in parts else f"a tuple of {' and '.join(each)}"
    if origin is collections.abc.Mapping:
        return f"a table of {' and '.join(each)} each"
    known = {bool: "True or False", str: "a text", types.NoneType: "None"}
    real = "number" if most == math.inf or least == -math.inf else "finite number"
    known |= {int: f"a whole number{_range(least, most)}", float: f"a {real}{_range(least, most)}"}
    return known.get(kind) or getattr(kind, "__name__", str(kind))
