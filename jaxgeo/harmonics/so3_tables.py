r"""Tables of the SO(3) transform: Wigner functions of a wedge of orders, and which coefficients each product serves.

Only $d^l_{mn}$ of a quarter of all orders are kept. Of the rest, $d^l_{nm} = (-1)^{m-n} d^l_{mn}$ and
$d^l_{m,-n}(\beta) = d^l_{n,-m}(\beta) = (-1)^{l+m} d^l_{mn}(\pi-\beta)$ are mirror images, which the transform
multiplies with the same table.

Orders stand even ones first, because those of one parity share their folded samples (`so3_fourier`).
"""

import itertools
import math
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int

from jaxgeo.harmonics.precision import rounded
from jaxgeo.harmonics.so3_layout import packed_indices
from jaxgeo.harmonics.wigner import wigner_d_columns

PARTS = 4  # real and imaginary part at (m, n), and at (m, -n) with the parallels reversed
SIGNS = 4  # of the coefficients at (m, n), (m, -n), (-m, n), (-m, -n)


class Piece(NamedTuple):
    """A rectangle of orders m in [m_start, m_stop), n in [n_start, n_stop), at degrees from m_start on.

    All four are even. With two images the orders (n, m) are computed by the same table.
    """

    m_start: int
    m_stop: int
    n_start: int
    n_stop: int
    images: int

    def shape(self, degrees: int) -> tuple[int, int, int]:
        """(m, n, degree) of the table."""
        return self.m_stop - self.m_start, self.n_stop - self.n_start, degrees - self.m_start

    def orders(self) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " n"]]:
        """Orders m and n along the axes of the table."""
        return parted(self.m_start, self.m_stop), parted(self.n_start, self.n_stop)


class Routes(eqx.Module):
    """Between the products of a piece and the coefficients that they serve, four by four."""

    coefficient: tuple[Int[Array, "4 _image _m _n _degree"], ...]  # where the coefficient of each sign stands
    factor: tuple[Float[Array, "4 _image _m _n 4 _degree"], ...]  # what each of the four parts counts in it
    place: Int[Array, " coefficient"]  # where each coefficient stands among those of all pieces, one after the other


def even(count: int) -> int:
    """The next even number: orders come in pairs of an even and an odd one."""
    return count + count % 2


def parted(start: int, stop: int) -> Int[np.ndarray, " order"]:
    """Orders from an even one on, even ones first."""
    return np.concatenate([np.arange(start, stop, 2), np.arange(start + 1, stop, 2)])


def cut_orders(num_m: int, num_n: int) -> tuple[Piece, ...]:
    """Rectangles that, with their images, tile the orders 0 <= m < num_m, 0 <= n < num_n once; up to the next even one.

    Cut at a few m only, each piece is one or two products: between two cuts the degrees below m are computed in vain.
    """
    num_m, num_n = even(num_m), even(num_n)
    blocks = int(np.clip(num_m // 8, 1, 8))
    edges = 2 * np.round(np.linspace(0, num_m // 2, blocks + 1)).astype(int)
    pieces = []
    for start, stop in itertools.pairwise(sorted({*edges.tolist(), min(num_m, num_n)})):
        if start >= num_n:
            pieces.append(Piece(start, stop, 0, num_n, 1))
            continue
        if start > 0:
            pieces.append(Piece(start, stop, 0, start, 2))
        pieces.append(Piece(start, stop, start, stop, 1))
    return tuple(pieces)


def wigner_table(piece: Piece, degrees: int, colatitudes: Float[np.ndarray, " beta"]) -> Float[np.ndarray, "m n l b"]:
    """d^l_mn of a piece, zero where the degree is below an order."""
    m, n = np.meshgrid(*piece.orders(), indexing="ij")
    table = np.zeros((*piece.shape(degrees), len(colatitudes)))
    held = (m < degrees) & (n < degrees)
    table[held] = wigner_d_columns(degrees, m[held], n[held], colatitudes)[:, piece.m_start :]
    return table


def plan_routes(
    pieces: tuple[Piece, ...],
    bandlimit: int,
    orders: int,
    sizes: tuple[int, int, int],
    half_steps: tuple[float, float],
    dtype: DTypeLike,
) -> Routes:
    """Between products and packed coefficients in the real basis.

    With P = F_mn and Q = F_{m,-n}, m, n > 0, the real basis has F'_{mn}, F'_{-m,-n} = (-1)^(m+n) Re P +- (-1)^m Re Q
    and F'_{m,-n}, -F'_{-m,n} = (-1)^(m+n) Im P -+ (-1)^m Im Q; where an order is 0, a single term with sqrt(2).

    Args:
        pieces: of the orders.
        bandlimit: of the packed coefficients.
        orders: their azimuthal limit.
        sizes: (num_degrees, num_m, num_n) that are transformed.
        half_steps: by how much the angles of the sums exceed alpha and gamma, in radians: P turns by m alpha + n gamma,
            Q by m alpha - n gamma.
        dtype: of the factors.
    """
    degree, row, column = packed_indices(bandlimit, orders)
    standing = np.full((bandlimit, 2 * bandlimit - 1, 2 * orders - 1), -1)
    standing[degree, row, column] = np.arange(len(degree))  # negative orders count from the end of their axes
    coefficients, factors, first = [], [], 0
    # What is not transformed stands where nothing is: at m = n = 0, in the first image, there is one sign only.
    place = np.full(len(degree), math.prod(pieces[0].shape(sizes[0])))
    for piece in pieces:
        table_m, table_n, l = np.meshgrid(*piece.orders(), np.arange(piece.m_start, sizes[0]), indexing="ij")
        shape = SIGNS, piece.images, *l.shape
        coefficient, factor = np.zeros(shape, np.int64), np.zeros((*shape, PARTS))
        for sign, image in itertools.product(range(SIGNS), range(piece.images)):
            m, n = (table_n, table_m) if image else (table_m, table_n)
            held = (m < sizes[1]) & (n < sizes[2]) & (n < orders) & (np.maximum(m, n) <= l)
            held &= (m > 0) | (sign < 2)
            held &= (n > 0) | (sign % 2 == 0)
            at = standing[l[held], -m[held] if sign >= 2 else m[held], -n[held] if sign % 2 else n[held]]
            coefficient[sign, image][held] = at
            place[at] = first + np.ravel_multi_index((image, sign, *np.nonzero(held)), (shape[1], shape[0], *l.shape))
            factor[sign, image][held] = _factors(sign, m, n, half_steps)[held]
            # The table's own functions: another image and the reversed parallels differ by signs.
            factor[sign, image, ..., :2] *= ((-1.0) ** (m - n) if image else np.ones(m.shape))[..., None]
            factor[sign, image, ..., 2:] *= ((-1.0) ** (l + table_m))[..., None]
        coefficients.append(rounded(coefficient, np.int32))
        factors.append(rounded(factor.swapaxes(4, 5), dtype))
        first += coefficient.size
    return Routes(tuple(coefficients), tuple(factors), rounded(place, np.int32))


def _factors(
    sign: int, m: Int[np.ndarray, "*orders"], n: Int[np.ndarray, "*orders"], half_steps: tuple[float, float]
) -> Float[np.ndarray, "*orders 4"]:
    """What Re P, Im P, Re Q and Im Q count in the coefficient at (m, n) with the signs `sign`."""
    both = (m > 0) & (n > 0)
    single = np.where((m == 0) & (n == 0), 1.0, np.sqrt(2.0))
    of_p = np.where(both, 1.0, single) * (-1.0) ** (m + n) * (-1.0 if sign == 2 else 1.0)
    # Re Q counts negative at (-m, -n), Im Q at both (m, -n) and (-m, n).
    of_q = np.where(both, (-1.0) ** m, 0.0) * (1.0 if sign == 0 else -1.0)
    alpha, gamma = half_steps
    factors = []
    for factor, phase in ((of_p, m * alpha + n * gamma), (of_q, m * alpha - n * gamma)):
        cosine, sine = factor * np.cos(phase), factor * np.sin(phase)
        factors += [sine, cosine] if sign in (1, 2) else [cosine, -sine]  # of the imaginary or of the real part
    return np.stack(factors, -1)
