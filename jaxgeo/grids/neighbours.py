"""The up to eight pixels that touch a HEALPix pixel, across the edges of the twelve faces too.

Inside a face the neighbours are those of a square lattice. Across an edge most faces continue their neighbour's
lattice; only where two polar faces meet does the lattice turn by a quarter, and at the opposite pole-side corner by
a half. At the eight points where three faces meet there is no diagonal neighbour: these are the 24 pixels with
seven neighbours (at nside 1, where one pixel has two such corners, six).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxgeo.grids.healpix import Order, from_xyf, to_xyf
from jaxgeo.grids.healpix_checks import check_known_pixels, compiled_behind

# Directions in the order SW, W, NW, N, NE, E, SE, S; x grows to the north-east, y to the north-west.
DIRECTIONS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))

_KEEP, _LEFT, _RIGHT, _HALF = 0, 1, 2, 3  # turns of the lattice: none, and by 90, -90 and 180 degrees

# Per row of faces: which way the place left its face (step of x, step of y) -> row and column shift of the face that
# it enters, and the turn of the lattice there. Missing ways end where three faces meet.
_CROSSINGS = (
    {
        (1, 0): (0, 1, _LEFT),
        (0, 1): (0, -1, _RIGHT),
        (1, 1): (0, 2, _HALF),
        (-1, 0): (1, 0, _KEEP),
        (0, -1): (1, 1, _KEEP),
        (-1, -1): (2, 0, _KEEP),
    },
    {
        (1, 0): (0, 0, _KEEP),
        (0, 1): (0, -1, _KEEP),
        (-1, 0): (2, -1, _KEEP),
        (0, -1): (2, 0, _KEEP),
        (-1, 1): (1, -1, _KEEP),
        (1, -1): (1, 1, _KEEP),
    },
    {
        (-1, 0): (2, -1, _LEFT),
        (0, -1): (2, 1, _RIGHT),
        (-1, -1): (2, 2, _HALF),
        (1, 0): (1, 1, _KEEP),
        (0, 1): (1, 0, _KEEP),
        (1, 1): (0, 0, _KEEP),
    },
)


def _crossing_tables() -> tuple[np.ndarray, np.ndarray]:
    """Entered face (12, 9), -1 where there is none, and turn (12, 9), by face and by 3 (step x + 1) + step y + 1."""
    faces, turns = np.full((12, 9), -1, np.int32), np.zeros((12, 9), np.int32)
    for row, crossings in enumerate(_CROSSINGS):
        for column in range(4):
            faces[4 * row + column, 4] = 4 * row + column
            for (step_x, step_y), (new_row, shift, turn) in crossings.items():
                way = 3 * (step_x + 1) + step_y + 1
                faces[4 * row + column, way] = 4 * new_row + (column + shift) % 4
                turns[4 * row + column, way] = turn
    return faces, turns


_ENTERED_FACE, _TURN = _crossing_tables()


@compiled_behind(check_known_pixels)
def neighbours(nside: int, pix: Int[Array, "*pixel"], order: Order) -> Int[Array, "*pixel 8"]:
    """Neighbours of pixels in the order SW, W, NW, N, NE, E, SE, S; -1 where there is none.

    At nside 1 and 2 the rule is the same and a pixel may be its neighbour's neighbour in two ways.
    """
    x, y, face = to_xyf(nside, pix, order)
    steps = jnp.asarray(DIRECTIONS, pix.dtype)
    lead = (1,) * pix.ndim
    x = x[..., None] + steps[:, 0].reshape(*lead, 8)
    y = y[..., None] + steps[:, 1].reshape(*lead, 8)
    step_x, step_y = x // nside, y // nside
    way = 3 * (step_x + 1) + step_y + 1
    entered = jnp.asarray(_ENTERED_FACE, pix.dtype)[face[..., None], way]
    turn = jnp.asarray(_TURN, pix.dtype)[face[..., None], way]
    x, y = x - step_x * nside, y - step_y * nside
    x_back, y_back = nside - 1 - x, nside - 1 - y
    new_x = jnp.where(turn == _KEEP, x, jnp.where(turn == _LEFT, y, jnp.where(turn == _RIGHT, y_back, x_back)))
    new_y = jnp.where(turn == _KEEP, y, jnp.where(turn == _LEFT, x_back, jnp.where(turn == _RIGHT, x, y_back)))
    found = from_xyf(nside, new_x, new_y, jnp.maximum(entered, 0), order)
    return jnp.where(entered < 0, -1, found)
