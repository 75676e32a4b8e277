"""The sixteen symmetries of the HEALPix tessellation, as permutations of its pixels.

Quarter turns about the polar axis, the mirror image in longitude and the one at the equator map pixels onto pixels at
every nside: they turn a map into another one without interpolation. Turns by less than a quarter are none of them, and
take the nearest pixels.

References:
    Gorski et al., "HEALPix", ApJ 622 (2005), arXiv:astro-ph/0409513, section 4: where the faces lie.
"""

import jax
import numpy as np
from jaxtyping import Int

from jaxgeo.errors import InputError
from jaxgeo.grids.healpix import angles_to_pixels, check_nside, npix, pixel_centers
from jaxgeo.grids.healpix_windows import nested_numbers, nested_places

NUM_SYMMETRIES = 16


def symmetry_permutations(nside: int) -> Int[np.ndarray, "16 pixel"]:
    """`map[row]` is the map turned, or mirrored, by each symmetry; NESTED order; the first row changes nothing.

    Row 8 h + 4 m + q mirrors at the equator if h = 1, then takes longitude to minus itself if m = 1, then turns the
    picture by q quarters to the east.

    Raises:
        ConfigError: nside is no power of two.
    """
    check_nside(nside)
    x, y = nested_places(nside)
    row, column = np.divmod(np.arange(12), 4)

    def pixels(row: np.ndarray, column: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (4 * row + column % 4)[:, None] * nside**2 + nested_numbers(nside, x, y)[None]

    # Each names, for every pixel of the picture to be made, the pixel that it shows.
    last = nside - 1
    equator = pixels(2 - row, column, last - y, last - x).reshape(-1)
    # Faces of the polar rows are centred on odd eighths of a turn, those on the equator on even ones.
    meridian = pixels(row, np.where(row == 1, -column, 3 - column), y, x).reshape(-1)
    found = []
    for h in range(2):
        for m in range(2):
            for q in range(4):
                shown = pixels(row, column - q, x, y).reshape(-1)
                shown = meridian[shown] if m else shown
                found.append(equator[shown] if h else shown)
    return np.stack(found)


def partial_turns(nside: int, count: int) -> Int[np.ndarray, "turn pixel"]:
    """`map[row]` is the map turned to the east by row / count of a quarter: each pixel shows that of its turned centre.

    NESTED order; the first row changes nothing. No permutations: the rings of a cap have no pixels at all those places,
    so that some pixels are shown twice and others not at all.

    Raises:
        ConfigError: nside is no power of two.
        InputError: count below 1.
    """
    check_nside(nside)
    if count < 1:
        raise InputError(f"a quarter is parted into at least 1 turn, got {count}")
    pixels = np.arange(npix(nside))
    with jax.enable_x64(True):
        theta, phi = (np.asarray(angle) for angle in pixel_centers(nside, pixels, "nested"))
        turned = [angles_to_pixels(nside, theta, phi - np.pi / 2 * k / count, "nested") for k in range(1, count)]
        return np.stack([pixels, *(np.asarray(row, pixels.dtype) for row in turned)])
