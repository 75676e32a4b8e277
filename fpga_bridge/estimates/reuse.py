"""Which reuse factors a matrix product can have under hls4ml's strategy Resource, and the nearest to a wish.

A multiplier is used `reuse` times, so that n_in * n_out / reuse of them are built. hls4ml's loops need the factor to
divide the work evenly between rows and columns.

References:
    Aarrestad et al., arXiv:2101.05108, section 2; the rule itself is hls4ml's `get_valid_reuse_factors`, version 1.3.
"""

import dataclasses
import functools
import math
from typing import Literal

import numpy as np

from jaxgeo.errors import ConfigError, check_whole

Strategy = Literal["Latency", "Resource"]
"""Of hls4ml: whether every product has a multiplier of its own, or some share one."""

_LARGEST = 1 << 24  # of a side of a product


@dataclasses.dataclass(frozen=True)
class Reuse:
    """A reuse factor that a layer gets; `message` says why where it is not the one asked for, else it is empty."""

    wanted: int
    used: int
    message: str = ""


@functools.lru_cache(maxsize=256)
def valid_reuse_factors(n_in: int, n_out: int) -> tuple[int, ...]:
    """All reuse factors of a product n_in x n_out, ascending: divisors of n_in * n_out that suit the loops.

    Below n_in, the multipliers at work in one cycle must serve all outputs alike, so the factor divides n_in; from
    n_in on, it must be a multiple of it, so it is n_in times a divisor of n_out.

    Raises:
        ConfigError: for sizes below 1, or so large that their divisors are not worth a search.
    """
    if n_in < 1 or n_out < 1:
        raise ConfigError(f"a matrix product needs at least one input and one output, got {n_in} and {n_out}")
    if max(n_in, n_out) > _LARGEST:
        raise ConfigError(f"a matrix product of {n_in} x {n_out} is beyond any FPGA; sizes go up to {_LARGEST}")
    return (*_divisors(n_in)[:-1], *(n_in * d for d in _divisors(n_out)))


def _divisors(n: int) -> list[int]:
    """Ascending."""
    candidates = np.arange(1, math.isqrt(n) + 1)
    small = candidates[n % candidates == 0].tolist()
    return sorted({*small, *(n // d for d in small)})


def closest_reuse_factor(n_in: int, n_out: int, wanted: int, layer: str = "a layer") -> Reuse:
    """The valid factor nearest to the one asked for, the smaller of two at the same distance.

    Raises:
        ConfigError: for a factor that is no whole number of at least 1.
    """
    check_whole("a reuse factor counts the uses of a multiplier and", wanted)
    valid = valid_reuse_factors(n_in, n_out)
    used = min(valid, key=lambda factor: (abs(factor - wanted), factor))
    if used == wanted:
        return Reuse(wanted, used)
    near = sorted(sorted(valid, key=lambda factor: abs(factor - wanted))[:4])
    return Reuse(
        wanted,
        used,
        f"{layer} gets reuse factor {used}, not {wanted}: {n_in} x {n_out} products cannot be shared evenly among "
        f"multipliers used {wanted} times; near factors that work are {', '.join(map(str, near))}",
    )
