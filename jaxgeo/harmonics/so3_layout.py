r"""Where the coefficient of degree l and orders (m, n) of a signal on SO(3) stands.

- packed: `(*batch, coefficient, channel)`. Degree after degree, each a matrix of 2l+1 rows and 2 min(l, N-1) + 1
  columns in the real basis (`real_basis`: orders from -l to l, no Condon-Shortley sign), row by row. Real signals have
  real coefficients, complex signals complex ones. A lower bandlimit is a prefix, a higher one has zeros at the end.
- matrices: complex `(*batch, degree, m, n, channel)` in the basis of the complex harmonics; order m = 0 at index L-1,
  n = 0 at N-1.

N is the azimuthal limit: columns |n| < N.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Inexact, Int

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.latlon import check_bandlimit
from jaxgeo.harmonics.precision import check_array, einsum
from jaxgeo.harmonics.real_basis import real_from_complex

Packed = Inexact[Array, "*batch coefficient channel"]
Matrices = Complex[Array, "*batch degree m n channel"]


def matrix_shape(degree: int, orders: int) -> tuple[int, int]:
    """(rows, columns) of the matrix of one degree under the azimuthal limit `orders`."""
    return 2 * degree + 1, 2 * min(degree, orders - 1) + 1


def num_coefficients(bandlimit: int, orders: int | None = None) -> int:
    """Length of the packed axis; L (4 L^2 - 1) / 3 without azimuthal limit."""
    return sum(degree_sizes(bandlimit, check_orders(bandlimit, orders)))


def packed_sizes(count: int) -> list[tuple[int, int]]:
    """Every (bandlimit L, azimuthal limit N) with so many coefficients, N (4 N^2 - 1) / 3 + (2 N - 1) (L^2 - N^2).

    Mostly one or none; of up to 5000 coefficients 25, 361, 970, 1764 and 3600 have two.
    """
    found, orders = [], 1
    while (most := orders * (4 * orders**2 - 1) // 3) <= count:
        beyond, remainder = divmod(count - most, 2 * orders - 1)
        bandlimit = math.isqrt(beyond + orders**2)
        if not remainder and bandlimit**2 == beyond + orders**2:
            found.append((bandlimit, orders))
        orders += 1
    return found


def degree_sizes(bandlimit: int, orders: int) -> list[int]:
    """Number of coefficients of each degree."""
    return [rows * columns for rows, columns in (matrix_shape(l, orders) for l in range(bandlimit))]


def check_orders(bandlimit: int, orders: int | None) -> int:
    """The azimuthal limit, the bandlimit by default.

    Raises:
        ConfigError: bandlimit or limit are impossible.
    """
    check_bandlimit(bandlimit)
    orders = bandlimit if orders is None else orders
    check_bandlimit(orders, "the azimuthal limit")
    if not 1 <= orders <= bandlimit:
        raise ConfigError(f"orders |n| < N need 1 <= N <= bandlimit, got N = {orders} and bandlimit {bandlimit}")
    return orders


@functools.lru_cache(maxsize=64)
def packed_indices(
    bandlimit: int, orders: int
) -> tuple[Int[np.ndarray, " coefficient"], Int[np.ndarray, " coefficient"], Int[np.ndarray, " coefficient"]]:
    """Degree, row order and column order along the packed axis; kept, and read-only."""
    indices: list[list[np.ndarray]] = [[], [], []]
    for l in range(bandlimit):
        k = min(l, orders - 1)
        rows, columns = np.meshgrid(np.arange(-l, l + 1), np.arange(-k, k + 1), indexing="ij")
        for kept, values in zip(indices, (np.full(rows.size, l), rows.ravel(), columns.ravel()), strict=True):
            kept.append(values)
    degree, row, column = (np.concatenate(values) for values in indices)
    for values in (degree, row, column):
        values.flags.writeable = False
    return degree, row, column


def split_degrees(
    spectrum: Packed, bandlimit: int, orders: int | None = None
) -> list[Inexact[Array, "*batch _ _ channel"]]:
    """The matrices of all degrees; their derivative joins them again, without a padded copy for each.

    Raises:
        InputError: the packed axis has another length.
    """
    orders = check_orders(bandlimit, orders)
    check_packed(spectrum, bandlimit, orders)
    batch, channels = spectrum.shape[:-2], spectrum.shape[-1]
    pieces = jax.lax.split(spectrum, degree_sizes(bandlimit, orders), spectrum.ndim - 2)
    return [piece.reshape(*batch, *matrix_shape(l, orders), channels) for l, piece in enumerate(pieces)]


def join_degrees(matrices: Sequence[Inexact[Array, "*batch _ _ channel"]]) -> Packed:
    """Packed coefficients from the matrices of degrees 0, 1, 2, ..."""
    return jnp.concatenate([m.reshape(*m.shape[:-3], m.shape[-3] * m.shape[-2], m.shape[-1]) for m in matrices], -2)


def change_so3_bandlimit(
    spectrum: Packed, bandlimit: int, new_bandlimit: int, *, orders: int | None = None
) -> Inexact[Array, "*batch new_coefficient channel"]:
    """Degrees are cut off (an ideal low pass) or filled with zeros, at one azimuthal limit below both bandlimits.

    Without `orders` the spectrum has all of them, before and after.

    Raises:
        InputError: the packed axis has another length than `bandlimit` and `orders` say.
        ConfigError: the azimuthal limit exceeds a bandlimit.
    """
    check_packed(spectrum, bandlimit, check_orders(bandlimit, orders))
    more = num_coefficients(new_bandlimit, orders) - spectrum.shape[-2]
    config = [*[(0, 0, 0)] * (spectrum.ndim - 2), (0, more, 0), (0, 0, 0)]
    return jax.lax.pad(spectrum, jnp.zeros((), spectrum.dtype), config)


@functools.partial(jax.jit, static_argnames=("bandlimit", "orders"))
def packed_to_matrices(spectrum: Packed, bandlimit: int, orders: int | None = None) -> Matrices:
    """Complex matrices, zero where |m| > l or |n| > l, from packed coefficients of a real or complex signal."""
    orders = check_orders(bandlimit, orders)
    dtype = np.result_type(spectrum.dtype, np.complex64)
    dense = []
    for l, matrix in enumerate(split_degrees(spectrum, bandlimit, orders)):
        k = min(l, orders - 1)
        left, right = (real_from_complex(degree).astype(dtype) for degree in (l, k))
        values = einsum("rm,...rsc,sn->...mnc", left, matrix.astype(dtype), right.conj())
        margins = [(bandlimit - 1 - l, bandlimit - 1 - l), (orders - 1 - k, orders - 1 - k), (0, 0)]
        dense.append(jnp.pad(values, [(0, 0)] * (values.ndim - 3) + margins))
    return jnp.stack(dense, -4)


@functools.partial(jax.jit, static_argnames="real")
def matrices_to_packed(matrices: Matrices, *, real: bool = True) -> Packed:
    """Packed coefficients from complex matrices; for a real signal the part that breaks its symmetry is dropped.

    Raises:
        InputError: the axes (degree, m, n) are not of lengths (L, 2 L - 1, 2 N - 1).
    """
    bandlimit, num_m, num_n = matrices.shape[-4:-1]
    orders = (num_n + 1) // 2
    if num_m != 2 * bandlimit - 1 or num_n % 2 == 0 or orders > bandlimit:
        raise InputError(
            f"matrices have axes (*batch, degree, m, n, channel) with (degree, m, n) = (L, 2 L - 1, 2 N - 1), N <= L, "
            f"got {matrices.shape}"
        )
    packed = []
    for l in range(bandlimit):
        k = min(l, orders - 1)
        left, right = (real_from_complex(degree).astype(matrices.dtype) for degree in (l, k))
        inner = matrices[..., l, bandlimit - 1 - l : bandlimit + l, orders - 1 - k : orders + k, :]
        packed.append(einsum("rm,...mnc,sn->...rsc", left.conj(), inner, right))
    values = join_degrees(packed)
    return values.real if real else values


def check_packed(spectrum: Packed, bandlimit: int, orders: int) -> None:
    """Refuse another number of coefficients.

    Raises:
        InputError: with the number that is needed.
    """
    check_array("the array of coefficients", spectrum)
    needed = sum(degree_sizes(bandlimit, orders))
    if spectrum.ndim < 2 or spectrum.shape[-2] != needed:
        raise InputError(
            f"packed coefficients have axes (*batch, coefficient, channel) with {needed} coefficients for bandlimit "
            f"{bandlimit} and orders |n| < {orders}, got {spectrum.shape}"
        )
