"""What is refused of HEALPix look-ups: an nside that there is none, and pixels and directions where they are known.

A compiled function cannot raise; values that a compiler sees as symbols are let through.
"""

import functools
import inspect
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxgeo.errors import ConfigError, InputError

MAX_NSIDE = 2**29  # 12 nside^2 and twice that fit in int64
MAX_NSIDE_INT32 = 2**13
_ROUNDING = 1e-5  # of colatitudes in float32, which pi itself exceeds by 9e-8


def check_nside(nside: int) -> None:
    """Raise `ConfigError` unless nside is a power of two between 1 and 2^29."""
    try:
        value = None if isinstance(nside, bool) else operator.index(nside)
    except TypeError:
        value = None
    if value is None:
        raise ConfigError(f"nside must be an integer power of two, got {nside!r}")
    if 1 <= value <= MAX_NSIDE and value & (value - 1) == 0:
        return
    if value < 1:
        advice = "the smallest is 1"
    elif value > MAX_NSIDE:
        advice = f"the largest is 2^29 = {MAX_NSIDE}"
    else:
        smaller = 1 << (value.bit_length() - 1)
        advice = f"the nearest are {smaller} and {2 * smaller}"
    raise ConfigError(f"nside must be a power of two, so that each pixel has four children, got {value}; {advice}")


def _known(values: Any) -> np.ndarray | None:
    """Values that can be looked at: there are some, and no compiler stands between."""
    values = None if isinstance(values, Tracer) else np.asarray(values)
    return values if values is not None and values.size else None


def _check_whole_below(what: str, values: Any, end: int) -> None:
    values = _known(values)
    if values is None:
        return
    if values.dtype.kind not in "iu":
        raise InputError(f"{what} are whole numbers, got the type {values.dtype}")
    low, high = values.min(), values.max()
    if low < 0 or high >= end:
        raise InputError(f"{what} lie in 0 ... {end - 1}, got {low if low < 0 else high}")


def check_known_pixels(nside: int, pix: Any) -> None:
    """Refuse pixel numbers that are known and not in 0 ... 12 nside^2 - 1.

    Raises:
        ConfigError: nside is no power of two.
        InputError: such numbers, or other types than whole numbers.
    """
    check_nside(nside)
    _check_whole_below(f"pixel numbers at nside {nside}", pix, 12 * nside**2)


def check_known_places(nside: int, x: Any, y: Any, face: Any) -> None:
    """Refuse places (x, y) in a face, and faces, that are known and not there.

    Raises:
        ConfigError: nside is no power of two.
        InputError: such places, or other types than whole numbers.
    """
    check_nside(nside)
    _check_whole_below(f"places in a face at nside {nside}", x, nside)
    _check_whole_below(f"places in a face at nside {nside}", y, nside)
    _check_whole_below("faces", face, 12)


def check_known_angles(nside: int, theta: Any, phi: Any) -> None:
    """Refuse colatitudes that are known and not in [0, pi], but for rounding, and longitudes that are not finite.

    Raises:
        ConfigError: nside is no power of two.
        InputError: such angles.
    """
    check_nside(nside)
    theta, phi = _known(theta), _known(phi)
    if theta is not None and not (theta.min() >= -_ROUNDING and theta.max() <= math.pi + _ROUNDING):  # so is NaN
        raise InputError(
            f"colatitudes lie in 0 ... pi radians, got {theta.min():g} to {theta.max():g}; of degrees take np.radians"
        )
    if phi is not None and not np.isfinite(phi).all():
        raise InputError("longitudes are finite angles in radians, got some that are not")


def check_known_vectors(nside: int, vectors: Any) -> None:
    """Refuse vectors that are known and zero or not finite.

    Raises:
        ConfigError: nside is no power of two.
        InputError: such vectors.
    """
    check_nside(nside)
    vectors = _known(vectors)
    if vectors is not None and not (np.isfinite(vectors).all() and vectors.any(-1).all()):
        raise InputError("directions are vectors that are finite and not zero, got some that are not")


def compiled_behind(check: Callable[..., None]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiled, with nside and order static, behind a check of what is known of the arguments between them."""

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        static = [name for name in ("nside", "order") if name in signature.parameters]
        compiled = jax.jit(function, static_argnames=static)

        @functools.wraps(function)
        def checked(*arguments: Any, **named: Any) -> Any:
            given = signature.bind(*arguments, **named).arguments
            given = {name: np.asarray(x) if isinstance(x, list | tuple) else x for name, x in given.items()}
            check(given["nside"], *(value for name, value in given.items() if name not in static))
            return compiled(**given)

        return checked

    return decorated
