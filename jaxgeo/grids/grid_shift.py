"""The grid shift: all windows by half a window side along both axes of their face.

Window (i, j) of a face then holds the square around the window corner it began at: its south quarter comes from the
window diagonally south, the other two from those to the south-west and the south-east. At the south edges of a face
the quarters come from the faces there. Where such a face is not among the tokens, or its lattice is turned, the edge is
filled from an edge that nobody asks for, and gets labels of its own.

References:
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", arXiv:2307.07313, section 3.
"""

import math

import numpy as np
from jaxtyping import Int

from jaxgeo.grids.healpix_windows import lattice_continues, nested_numbers, nested_places

# What the parts of a window at a south edge are told apart by, added to their face: the published numbers, and
# one more for a corner that continues neither of the parts beside it.
_SOUTH_EAST, _SOUTH_WEST, _CORNER = 1, 5, 9


def grid_shift(
    nside: int, window_size: int, faces: Int[np.ndarray, " face"]
) -> tuple[Int[np.ndarray, "face place"], Int[np.ndarray, "face place"]]:
    """NESTED pixels, all of the same faces, and labels, by place after the shift.

    Args:
        nside: of the grid, at least the window's side.
        window_size: a power of four.
        faces: different ones, in any order.
    """
    half = math.isqrt(window_size) // 2
    south_west, true_south_west = _faces_before(faces, -1, 0)
    south_east, true_south_east = _faces_before(faces, 0, -1)
    x, y = (axis[None, :] for axis in nested_places(nside))
    face = faces[:, None]
    over_x, over_y = x < half, y < half
    source_face = np.where(over_x, south_west[face], face)
    source_face = np.where(over_y, south_east[source_face], source_face)
    pixels = source_face * nside**2 + nested_numbers(nside, (x - half) % nside, (y - half) % nside)

    column = np.where(true_south_west[face], 0, face + _SOUTH_WEST)
    row = np.where(true_south_east[face], 0, face + _SOUTH_EAST)
    # The corner's pixels lie south-east of the column's pixels; true or not, they are of one lattice or of two.
    apart = np.where(true_south_west[face], face + _SOUTH_WEST, face + _CORNER)
    corner = np.where(true_south_east[south_west[face]], column, apart)
    labels = np.where(over_x, np.where(over_y, corner, column), np.where(over_y, row, 0))
    return pixels, labels


def _faces_before(
    faces: Int[np.ndarray, " face"], step_x: int, step_y: int
) -> tuple[Int[np.ndarray, "12"], Int[np.ndarray, "12"]]:
    """For each face number the face that its edge is filled from, and whether (1 or 0) the lattice continues there.

    A permutation of `faces`: the n-th of the faces that have no face before them takes the n-th of the faces that
    are before no other.
    """
    before = np.full(12, -1, np.int64)
    found = lattice_continues(faces, step_x, step_y)
    before[faces] = np.where(np.isin(found, faces), found, -1)
    continued = (before >= 0).astype(np.int64)
    starts = np.sort(faces[before[faces] < 0])
    ends = np.setdiff1d(faces, before[faces])
    before[starts] = ends
    return before, continued
