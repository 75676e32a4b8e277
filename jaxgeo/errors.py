"""Every exception that the library raises on purpose, and the checks of settings that all rooms share.

Each message is one sentence or two: what came, what is needed and why, what would work. The command line
prints it without a traceback and exits with status 1.
"""

import math
import numbers
import operator
from typing import Any, get_args


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
        bound = "" if least is None else f" of at least {least}" if most is None else f" from {least} to {most}"
        raise error(f"{what} must be a whole number{bound}, got {value!r}")
    return number


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
