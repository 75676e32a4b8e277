"""Numbers of the position biases of pairs of HEALPix tokens, by place in the window or by face and lattice.

In a shifted window may lie tokens of several faces, whose lattices are turned against each other by quarters where two
polar faces meet. The window's own rows and columns, by which the published biases are numbered, then are no offsets on
the sphere. Numbered by face they are: the offset of the key is that in the lattice of the query's face, continued over
its edges and corners.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxgeo.grids.healpix_windows import enter_faces, nested_places, window_positions

_STEPS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))  # corners first: edges overrule them


def num_window_biases(window_size: int) -> int:
    """Offsets that two tokens of a square window can have."""
    return (2 * math.isqrt(window_size) - 1) ** 2


def window_bias_index(window_size: int, table_window: int) -> Int[np.ndarray, "query key"]:
    """Rows, for windows of `window_size`, of a table made for windows of `table_window` tokens or more.

    Offsets are query minus key: (row difference + side - 1)(2 side - 1) + column difference + side - 1, with the
    side of `table_window`.

    Args:
        window_size: 1 or a power of four.
        table_window: a power of four, at least as large.
    """
    row, column = window_positions(window_size) if window_size > 1 else np.zeros((2, 1), np.int64)
    reach = math.isqrt(table_window) - 1
    rows = row[:, None] - row[None, :] + reach
    return rows * (2 * reach + 1) + column[:, None] - column[None, :] + reach


def num_face_biases(window_size: int, num_faces: int) -> int:
    """Offsets for each face, and for each face one number for all keys on a face that does not touch it."""
    return num_faces * (num_window_biases(window_size) + 1)


def face_bias_index(
    nside: int,
    base_pixels: Sequence[int],
    source: Int[np.ndarray, " token"],
    window_size: int,
    table_window: int,
) -> Int[np.ndarray, "window query key"]:
    """Rows of a table with one block for each face: that of the query's face, and in it the key's offset.

    Offsets are numbered as by `window_bias_index`, and longer ones count as the longest. In windows that lie inside
    one face these are that face's block and the window's numbers.

    Args:
        nside: of the tokens.
        base_pixels: faces in the order of the tokens.
        source: tokens in the order of the windows.
        window_size: tokens of a window.
        table_window: of which the side limits the offsets.
    """
    side = math.isqrt(table_window)
    x, y = nested_places(nside)
    block, place = np.divmod(source.reshape(-1, window_size), nside**2)
    face = np.asarray(base_pixels)[block]
    # Twice the place as seen from the middle of its face, as a complex number: turns are then factors.
    centred = (2 * x[place] + 1 - nside) + 1j * (2 * y[place] + 1 - nside)
    turn, step = _frames()
    faces = face[:, :, None], face[:, None, :]  # of query and key
    seen = centred[:, None, :] * turn[faces] + 2 * nside * step[faces]
    offset = (centred[:, :, None] - seen) / 2  # query minus key
    rows = np.clip(np.rint(offset.imag).astype(np.int64), 1 - side, side - 1)
    columns = np.clip(-np.rint(offset.real).astype(np.int64), 1 - side, side - 1)
    biases = num_window_biases(table_window)
    number = (rows + side - 1) * (2 * side - 1) + columns + side - 1
    return block[:, :, None] * (biases + 1) + np.where(turn[faces] == 0, biases, number)


def _frames() -> tuple[np.ndarray, np.ndarray]:
    """By two faces: turn of the second's lattice where the first's goes on, 0 where they do not touch; and its step."""
    turn, step = np.eye(12, dtype=complex), np.zeros((12, 12), complex)
    face = np.arange(12)
    x, y = nested_places(2)
    for step_x, step_y in _STEPS:
        entered = [enter_faces(2, face, np.full(12, 2 * step_x + i), np.full(12, 2 * step_y)) for i in (0, 1)]
        here = [x[pixel % 4] + 1j * y[pixel % 4] for pixel in entered]
        exists = entered[0] >= 0
        first, second = face[exists], entered[0][exists] // 4
        turn[first, second] = 1 / (here[1] - here[0])[exists]
        step[first, second] = step_x + 1j * step_y
    return turn, step
