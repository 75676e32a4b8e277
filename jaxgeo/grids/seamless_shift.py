"""A shift by half a window on the full sphere that has no seams: the windows around the corners of the windows.

The windows tile the sphere with 12 n^2 squares of the lattice, n to a face's side. Cut each into quarters and join
those that meet at a corner: at nearly all corners four quarters meet and form a flat square again, whatever faces they
come from and however the lattice turns on the way. By Euler's formula there are 12 n^2 + 2 corners. At 8 of them, where
one equatorial and two polar faces meet, only three quarters do; so there are 12 n^2 - 6 new squares, and 24 quarters
for 6 more windows. Those take the three quarters of a corner each, placed as the equatorial face sees them: all that is
side by side in the window then is so on the sphere (between the two outer quarters the way around the corner is
shorter than the window says). The fourth place in each is filled with a quarter of the two corners that are left, at
longitude 3 pi / 2, one in the north and one in the south, and gets a label of its own.
Nothing else is masked, and no other way to fill six windows with the quarters masks fewer pairs: a window that holds no
square has at best three quarters that belong together.

The window at place (i, j) of a face is the square around its own south corner, turned as its face is, like in the grid
shift. That names the corners on the edges between polar faces twice in the south and never in the north: the windows
along the south-east edges of faces 8-11 serve the north-east edges of faces 0-3, and that at the south corner of face
9 serves the north pole, each turned as the face that is named. Remaining are the south corners of faces 4-7, 10 and 11.
"""

import math

import numpy as np
from jaxtyping import Int

from jaxgeo.grids.healpix_windows import enter_faces, nested_places

_NORTH_HOSTS, _SOUTH_HOSTS = np.array([7, 10, 11]), np.array([4, 5, 6])  # faces whose south window keeps three quarters
_KEPT, _SPLIT = np.array([4, 5, 6]), 7  # equatorial faces at whose ends the three quarters stay together, or do not


def seamless_shift(nside: int, window_size: int) -> tuple[Int[np.ndarray, "12 place"], Int[np.ndarray, "12 place"]]:
    """NESTED pixels of the full sphere, and labels, by place after the shift.

    Args:
        nside: of the grid, at least the window's side.
        window_size: a power of four.
    """
    half = math.isqrt(window_size) // 2
    per_side = nside // (2 * half)
    face, corner_x, corner_y = (axis.reshape(12, -1) for axis in _corners(per_side))
    # Places of quarters, in quarters from their face's south corner; a window's quarters are in NESTED order too.
    right, up = nested_places(2)
    quarter_face = np.repeat(face[..., None], 4, axis=-1)
    quarter_x = 2 * corner_x[..., None] - 1 + right[None, None, :]
    quarter_y = 2 * corner_y[..., None] - 1 + up[None, None, :]
    labels = np.zeros_like(quarter_face)
    end = 2 * per_side
    for hosts, free, x, y in (
        (_NORTH_HOSTS, 3, (end - 1, end, end - 1), (end - 1, end - 1, end)),
        (_SOUTH_HOSTS, 0, (0, -1, 0), (0, 0, -1)),
    ):
        quarter_face[hosts, 0, free], quarter_x[hosts, 0, free], quarter_y[hosts, 0, free] = _SPLIT, x, y
        labels[hosts, 0, free] = 1
    inner_x, inner_y = (axis[None, None, None, :] for axis in nested_places(half))
    x, y = quarter_x[..., None] * half + inner_x, quarter_y[..., None] * half + inner_y
    pixels = enter_faces(nside, np.broadcast_to(quarter_face[..., None], x.shape), x, y)
    return pixels.reshape(12, nside**2), np.repeat(labels.reshape(12, -1), half**2, axis=-1)


def _corners(
    per_side: int,
) -> tuple[Int[np.ndarray, " window"], Int[np.ndarray, " window"], Int[np.ndarray, " window"]]:
    """The corner that each window becomes the middle of: face, x and y from 0 to `per_side`."""
    face = np.repeat(np.arange(12, dtype=np.int64), per_side**2)
    x, y = (np.tile(axis, 12) for axis in nested_places(per_side))
    at_south_corner = (x == 0) & (y == 0)
    # South-east edges of the south, edge by edge, to the north-east edges of the north.
    moved = (face >= 8) & (y == 0) & (x > 0)
    new_face, new_x, new_y = np.where(moved, face - 8, face), np.where(moved, per_side, x), np.where(moved, x, y)
    to_the_pole = at_south_corner & (face == 9)
    to_three = at_south_corner & np.isin(face, _NORTH_HOSTS)
    new_face[to_the_pole], new_face[to_three] = 0, _KEPT
    new_x[to_the_pole | to_three] = new_y[to_the_pole | to_three] = per_side
    return new_face, new_x, new_y
