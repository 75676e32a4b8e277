"""Square windows of HEALPix tokens, which in NESTED order are runs of 4^k consecutive pixels.

Everything here is int64 NumPy, made once for a plan. Inside a window rows run along y, towards north-west, and
columns against x, towards south-west: the layout that the published weights of relative positions are numbered by.

References:
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", arXiv:2307.07313, section 3.
"""

import math

import numpy as np
from jaxtyping import Int

from jaxgeo.errors import ConfigError, check_whole
from jaxgeo.grids.healpix import MAX_NSIDE_INT32, check_nside
from jaxgeo.grids.neighbours import _ENTERED_FACE, _LEFT, _RIGHT, _TURN  # one table of face crossings for both


def check_window(window_size: int) -> None:
    """Raise `ConfigError` unless window_size is a power of four, at least 4."""
    value = check_whole("window_size", window_size, None)
    if value >= 4 and value & (value - 1) == 0 and value.bit_length() % 2:
        return
    smaller = 4 ** max(int(math.log2(max(value, 1))) // 2, 1)
    near = "the smallest is 4" if value < 4 else f"the nearest are {smaller} and {4 * smaller}"
    raise ConfigError(
        f"window_size must be a power of four, so that a window is a square of NESTED pixels that can be halved, "
        f"got {value}; {near}"
    )


def check_token_nside(nside: int) -> None:
    """Raise `ConfigError` unless nside is a power of two whose pixel numbers fit in int32."""
    check_nside(nside)
    if nside > MAX_NSIDE_INT32:
        raise ConfigError(f"plans number their tokens in int32, which reaches nside {MAX_NSIDE_INT32}, got {nside}")


def window_positions(window_size: int) -> tuple[Int[np.ndarray, " token"], Int[np.ndarray, " token"]]:
    """(row, column) of each token of a window in NESTED order, both from 0 to side - 1.

    Raises:
        ConfigError: window_size is no power of four.
    """
    check_window(window_size)
    side = math.isqrt(window_size)
    x, y = nested_places(side)
    return y, side - 1 - x


def relative_position_index(window_size: int) -> Int[np.ndarray, "query key"]:
    """Number of the offset from key to query: (row difference + side - 1)(2 side - 1) + column difference + side - 1.

    The (2 side - 1)^2 numbers index one table of biases per head; differences are query minus key.

    Raises:
        ConfigError: window_size is no power of four.
    """
    row, column = window_positions(window_size)
    reach = math.isqrt(window_size) - 1
    rows = row[:, None] - row[None, :] + reach
    columns = column[:, None] - column[None, :] + reach
    return rows * (2 * reach + 1) + columns


def nested_places(side: int) -> tuple[Int[np.ndarray, " pixel"], Int[np.ndarray, " pixel"]]:
    """(x, y) of the side^2 pixels of a square in NESTED order: the even and the odd bits of their numbers."""
    pixel = np.arange(side**2, dtype=np.int64)
    x, y = np.zeros_like(pixel), np.zeros_like(pixel)
    for bit in range(side.bit_length() - 1):
        x |= (pixel >> bit) & (1 << bit)
        y |= (pixel >> (bit + 1)) & (1 << bit)
    return x, y


def nested_numbers(side: int, x: Int[np.ndarray, "*place"], y: Int[np.ndarray, "*place"]) -> Int[np.ndarray, "*place"]:
    """Inverse of `nested_places`: numbers of the pixels at 0 <= x, y < side."""
    spread = np.zeros(side, np.int64)  # bit k of the index becomes bit 2k
    for bit in range(side.bit_length() - 1):
        spread |= (np.arange(side, dtype=np.int64) & (1 << bit)) << bit
    return spread[x] | (spread[y] << 1)


def enter_faces(
    nside: int, face: Int[np.ndarray, "*place"], x: Int[np.ndarray, "*place"], y: Int[np.ndarray, "*place"]
) -> Int[np.ndarray, "*place"]:
    """NESTED pixels at places up to one face outside a face, by the continued lattice; -1 where three faces meet.

    Args:
        nside: of the grid.
        face: whose x and y count.
        x: from -nside to 2 nside - 1.
        y: likewise.
    """
    step_x, step_y = x // nside, y // nside
    way = 3 * (step_x + 1) + step_y + 1
    entered, turn = _ENTERED_FACE[face, way].astype(np.int64), _TURN[face, way]
    x, y = x - step_x * nside, y - step_y * nside
    # A quarter turn swaps the axes and reverses one of them, a half turn reverses both.
    swapped = (turn == _LEFT) | (turn == _RIGHT)
    new_x, new_y = np.where(swapped, y, x), np.where(swapped, x, y)
    new_x = np.where((turn != 0) & (turn != _LEFT), nside - 1 - new_x, new_x)
    new_y = np.where((turn != 0) & (turn != _RIGHT), nside - 1 - new_y, new_y)
    return np.where(entered < 0, -1, entered * nside**2 + nested_numbers(nside, new_x, new_y))


def lattice_continues(face: Int[np.ndarray, "*face"], step_x: int, step_y: int) -> Int[np.ndarray, "*face"]:
    """The face entered by a step in x or y (-1, 0 or 1) over the edge, or -1 where the lattice turns or ends."""
    way = 3 * (step_x + 1) + step_y + 1
    return np.where(_TURN[face, way] == 0, _ENTERED_FACE[face, way], -1).astype(np.int64)
