r"""Tables of the SO(3) transform: Wigner functions of a wedge of orders, and where each product goes.

Only $d^l_{mn}$ of a quarter of all orders are kept. Of the rest, $d^l_{nm} = (-1)^{m-n} d^l_{mn}$ and
$d^l_{m,-n}(\beta) = d^l_{n,-m}(\beta) = (-1)^{l+m} d^l_{mn}(\pi-\beta)$ are mirror images, which the transform
multiplies with the same table.
"""

import itertools
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgeo.harmonics.precision import rounded
from jaxgeo.harmonics.so3_layout import packed_indices
from jaxgeo.harmonics.wigner import wigner_d_columns

PARTS = 4  # real and imaginary part at (m, n), and at (m, -n) with the parallels reversed


class Piece(NamedTuple):
    """A rectangle of orders m in [m_start, m_stop), n in [n_start, n_stop), at degrees from m_start on.

    With two images the orders (n, m) are computed by the same table.
    """

    m_start: int
    m_stop: int
    n_start: int
    n_stop: int
    images: int

    def shape(self, degrees: int) -> tuple[int, int, int]:
        """(m, n, degree) of the table."""
        return self.m_stop - self.m_start, self.n_stop - self.n_start, degrees - self.m_start


class Routes(eqx.Module):
    """Each target is a sum of two sources: target = sum_k factor[k] * source[index[k]]."""

    index: Int[Array, "2 target"]
    factor: Float[Array, "2 target"]


def cut_orders(num_m: int, num_n: int) -> tuple[Piece, ...]:
    """Rectangles that, with their images, tile the orders 0 <= m < num_m, 0 <= n < num_n once.

    Cut at a few m only, each piece is one or two products: between two cuts the degrees below m are computed in vain.
    """
    blocks = int(np.clip(num_m // 8, 1, 8))
    edges = sorted({*np.round(np.linspace(0, num_m, blocks + 1)).astype(int).tolist(), min(num_m, num_n)})
    pieces = []
    for start, stop in itertools.pairwise(edges):
        if start >= num_n:
            pieces.append(Piece(start, stop, 0, num_n, 1))
            continue
        if start > 0:
            pieces.append(Piece(start, stop, 0, start, 2))
        pieces.append(Piece(start, stop, start, stop, 1))
    return tuple(pieces)


def wigner_table(piece: Piece, degrees: int, colatitudes: Float[np.ndarray, " beta"]) -> Float[np.ndarray, "m n l b"]:
    """d^l_mn of a piece, zero where the degree is below an order."""
    m, n = np.meshgrid(np.arange(piece.m_start, piece.m_stop), np.arange(piece.n_start, piece.n_stop), indexing="ij")
    columns = wigner_d_columns(degrees, m.ravel(), n.ravel(), colatitudes)[:, piece.m_start :]
    return columns.reshape(*m.shape, *columns.shape[1:])


def plan_routes(
    pieces: tuple[Piece, ...], bandlimit: int, orders: int, degrees: int, num_m: int, num_n: int, dtype: np.dtype
) -> tuple[Routes, Routes]:
    """From products to packed coefficients in the real basis, and the transpose.

    With P = F_mn and Q = F_{m,-n}, m, n > 0, the real basis has F'_{mn}, F'_{-m,-n} = (-1)^(m+n) Re P +- (-1)^m Re Q
    and F'_{m,-n}, -F'_{-m,n} = (-1)^(m+n) Im P -+ (-1)^m Im Q; where an order is 0, a single term with sqrt(2).
    """
    place = np.zeros((degrees, num_m, num_n, PARTS), np.int64)
    sign = np.zeros((degrees, num_m, num_n, PARTS))
    first = 0
    for piece in pieces:
        m, n, l = np.meshgrid(
            np.arange(piece.m_start, piece.m_stop),
            np.arange(piece.n_start, piece.n_stop),
            np.arange(piece.m_start, degrees),
            indexing="ij",
        )
        reversed_sign = (-1.0) ** (l + m)
        for image in range(piece.images):
            at = (l, n, m) if image else (l, m, n)
            rows = first + PARTS * np.arange(m.size).reshape(m.shape)
            first += PARTS * m.size
            for part in range(PARTS):
                place[(*at, part)] = rows + part
                swapped = (-1.0) ** (m - n) if image else np.ones(m.shape)
                sign[(*at, part)] = swapped if part < 2 else reversed_sign
    degree, row, column = packed_indices(bandlimit, orders)
    m, n = np.abs(row), np.abs(column)
    held = (degree < degrees) & (m < num_m) & (n < num_n)
    at = tuple(np.where(held, values, 0) for values in (degree, m, n))
    m, n = m.astype(float), n.astype(float)
    imaginary = ((row < 0) != (column < 0)).astype(int)
    both = (row != 0) & (column != 0)
    single = np.where((row == 0) & (column == 0), 1.0, np.sqrt(2.0))
    factor_p = np.where(both, 1.0, single) * (-1.0) ** (m + n) * np.where((row < 0) & (column >= 0), -1.0, 1.0)
    # Re Q counts negative at (-m, -n), Im Q at both (m, -n) and (-m, n).
    factor_q = np.where(both, (-1.0) ** m, 0.0) * np.where((row > 0) & (column > 0), 1.0, -1.0)
    index = np.stack([place[(*at, imaginary)], place[(*at, 2 + imaginary)]])
    factor = np.stack([factor_p * sign[(*at, imaginary)], factor_q * sign[(*at, 2 + imaginary)]]) * held
    back_index, back_factor = np.zeros((2, first), np.int64), np.zeros((2, first))
    # Two coefficients share each product, one of them on the negative side.
    slot = ((row < 0) | ((row == 0) & (column < 0))).astype(int)
    for k in range(2):
        used = np.flatnonzero(factor[k])
        back_index[slot[used], index[k, used]] = used
        back_factor[slot[used], index[k, used]] = factor[k, used]
    return _routes(index, factor, dtype), _routes(back_index, back_factor, dtype)


def _routes(index: np.ndarray, factor: np.ndarray, dtype: np.dtype) -> Routes:
    return Routes(rounded(index, np.int32), rounded(factor, dtype))
