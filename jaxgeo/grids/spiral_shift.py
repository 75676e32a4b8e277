"""The spiral shift: all tokens a few places on along the rings, from the north pole to the south pole.

In RING order the pixels wind around the sphere like a spiral. Places whose source is not among the tokens are filled
with the tokens that found no place: first with those lost at the east end of the next face to the west in the same
row of faces (what falls off one side of a gap comes in at the other), and what is left over from the north on. The
latter may come from anywhere, also from the far side of the sphere.

References:
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", arXiv:2307.07313, section 3.
"""

import numpy as np
from jaxtyping import Bool, Int

from jaxgeo.grids.healpix_windows import nested_places

_BEYOND_THE_POLE = 13  # label of tokens that left the spiral at its end; filled places have 1 + their face
_FROM_AFAR = 13  # and this much more for each face up to that of a token from another one than the next to the west


def spiral_shift(
    nside: int, shift_size: int, faces: Int[np.ndarray, " face"], part_strangers: bool
) -> tuple[Int[np.ndarray, "face place"], Int[np.ndarray, "face place"]]:
    """NESTED pixels, all of the same faces, and labels, by place after the shift.

    Args:
        nside: of the grid.
        shift_size: places along the spiral, from 0 to 12 nside^2 - 1.
        faces: different ones, in any order.
        part_strangers: whether tokens that come from the spiral's end at the south pole to its start at the north
            pole get a label of their own, and those that fill a face from elsewhere than the next to the west one for
            each face that they come from.
    """
    per_face = nside**2
    ring = _ring_numbers(nside)
    nested = np.empty_like(ring)
    nested[ring] = np.arange(len(ring))
    north_first = np.sort(faces)
    places = north_first[:, None] * per_face + np.arange(per_face)[None, :]
    source_ring = ring[places] - shift_size
    source = nested[source_ring % len(ring)]
    missing = ~np.isin(source // per_face, faces)
    labels = np.where((source_ring < 0) & part_strangers, _BEYOND_THE_POLE, 0)
    labels = np.where(missing, north_first[:, None] + 1, labels)
    unused = np.zeros(len(ring), bool)
    unused[places] = True
    unused[source[~missing]] = False
    western = _western(north_first)
    source = _filled(source, missing, unused.reshape(12, per_face), western)
    source_face = source // per_face
    from_afar = missing & (source_face != western[:, None]) & part_strangers
    labels = np.where(from_afar, labels + _FROM_AFAR * (source_face + 1), labels)
    listed = np.searchsorted(north_first, faces)
    return source[listed], labels[listed]


def _western(faces: Int[np.ndarray, " face"]) -> Int[np.ndarray, " face"]:
    """The next face to the west in each one's row, of those there are; the first has the last. `faces` ascend."""
    in_row = [faces[faces // 4 == face // 4] for face in faces]
    return np.array([row[np.searchsorted(row, face) - 1] for row, face in zip(in_row, faces, strict=True)])


def _filled(
    source: Int[np.ndarray, "face place"],
    missing: Bool[np.ndarray, "face place"],
    unused: Bool[np.ndarray, "12 place"],
    western: Int[np.ndarray, " face"],
) -> Int[np.ndarray, "face place"]:
    """The sources with unused pixels in the missing places, both in NESTED order; faces ascend."""
    source, still_missing, left_over = source.copy(), missing.copy(), []
    for index, face in enumerate(western):
        pool = face * unused.shape[1] + np.flatnonzero(unused[face])
        gaps = np.flatnonzero(missing[index])[: len(pool)]
        source[index, gaps], still_missing[index, gaps] = pool[: len(gaps)], False
        left_over.append(pool[len(gaps) :])
    source[still_missing] = np.concatenate(left_over)
    return source


def _ring_numbers(nside: int) -> Int[np.ndarray, " pixel"]:
    """RING numbers of all pixels in NESTED order."""
    face = np.repeat(np.arange(12, dtype=np.int64), nside**2)
    x, y = (np.tile(axis, 12) for axis in nested_places(nside))
    face_row = face // 4
    ring = (face_row + 2) * nside - x - y - 1  # from 1 in the north to 4 nside - 1
    # Steps of pi / (4 nside) of the unfolded map, where each quarter of a ring is centred as that of the equator is.
    longitude = ((2 * (face % 4) + (face_row != 1)) * nside + x - y) % (8 * nside)
    in_quarter = np.minimum(nside, np.minimum(ring, 4 * nside - ring))
    middle = 2 * (longitude // (2 * nside)) + 1
    position = (longitude - middle * (nside - in_quarter)) // 2
    before_north = 2 * ring * (ring - 1)
    before_belt = 2 * nside * (nside - 1) + (ring - nside) * 4 * nside
    before_south = 12 * nside**2 - 2 * in_quarter * (in_quarter + 1)
    before = np.where(ring < nside, before_north, np.where(ring <= 3 * nside, before_belt, before_south))
    return before + position
