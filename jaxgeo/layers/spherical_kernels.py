r"""Spectra of localised kernels: sums over a kernel's points of its values times Wigner functions, in the real basis.

The spectrum of a kernel k on points R_p is $y^l = \sum_p k_p D^l(R_p)$, a real matrix for each degree in the real basis
of `harmonics.so3_layout`. A kernel on the sphere has the column of order 0 only, and one that leads from SO(3) to the
sphere a weighted sum of rows. Under an azimuthal limit N only orders below N of rows and columns are left, those that
the product of spectra uses (`harmonics.convolution.kernel_sizes`). Kernels have axes (point, in, out).

References:
    Cohen, Geiger, Koehler, Welling, "Spherical CNNs", arXiv:1801.10130, section 5 and appendix on local kernels.
"""

import functools
import math
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int

from jaxgeo.errors import ConfigError
from jaxgeo.harmonics.convolution import kernel_sizes
from jaxgeo.harmonics.layout import l_major_indices
from jaxgeo.harmonics.linear_map import linear_map
from jaxgeo.harmonics.precision import einsum, rounded, table_dtype
from jaxgeo.harmonics.real_basis import real_from_complex
from jaxgeo.harmonics.so3_layout import check_orders, packed_indices
from jaxgeo.harmonics.wigner import wigner_d_columns

RINGS = 4  # that one pass takes together


class SphereKernel(eqx.Module):
    """Table of a kernel whose spectrum is one vector for each degree."""

    table: Float[Array, "coefficient point"]  # degree after degree, orders in ascending order, real basis
    bandlimit: int = eqx.field(static=True)
    orders: int = eqx.field(static=True)  # azimuthal limit: orders |m| < orders

    @property
    def num_points(self) -> int:
        """Number of values of the kernel."""
        return self.table.shape[1]


class SO3Kernel(eqx.Module):
    """Tables of a kernel on SO(3): its points by rings of equal beta, as Fourier sums and then Wigner functions."""

    members: Int[Array, "ring member"]  # points of each ring; filled up with point 0, whose waves are then zero
    places: Int[Array, " point"]  # of each point among the members, ring after ring
    waves: Float[Array, "ring n k member"]  # of n alpha and k gamma: cosines of orders from 0, sines of negative ones
    tilts: Float[Array, "chunk twice_ring coefficient"]  # what sums at (n, k), then at (-n, -k), count in a coefficient
    bandlimit: int = eqx.field(static=True)
    orders: int = eqx.field(static=True)

    @property
    def num_points(self) -> int:
        """Number of values of the kernel."""
        return len(self.places)


def check_points(points: Float[np.ndarray, "point angle"], angles: int) -> Float[np.ndarray, "point angle"]:
    """Points as a float64 array, if they are any and finite.

    Raises:
        ConfigError: no points, another number of angles, or not finite.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != angles or not len(points) or not np.isfinite(points).all():
        raise ConfigError(
            f"kernel points are a list of at least one row of {angles} finite angles (beta, alpha"
            f"{', gamma' if angles == 3 else ''}), got shape {points.shape}"
        )
    return points


def plan_s2_kernel(
    points: Float[np.ndarray, "point angle"],
    bandlimit: int,
    *,
    orders: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> SphereKernel:
    """A kernel on the sphere: D^l_m0 at points (beta, alpha), orders |m| < `orders`.

    Raises:
        ConfigError: impossible points, orders or dtype.
    """
    precision = table_dtype(dtype)
    orders = check_orders(bandlimit, orders)
    beta, alpha = check_points(points, 2).T
    degree, order = l_major_indices(bandlimit)
    degree, order = degree[np.abs(order) < orders], order[np.abs(order) < orders]
    m = np.arange(orders)
    columns = wigner_d_columns(bandlimit, m, np.zeros_like(m), beta)[np.abs(order), degree]
    phase = np.abs(order)[:, None] * alpha[None]
    wave = np.where((order < 0)[:, None], np.sin(phase), np.cos(phase))
    factor = np.where(order == 0, 1.0, np.sqrt(2.0)) * (-1.0) ** np.abs(order)
    return SphereKernel(rounded(factor[:, None] * wave * columns, precision), bandlimit, orders)


def plan_projection_kernel(
    points: Float[np.ndarray, "point angle"],
    bandlimit: int,
    *,
    even_only: bool,
    orders: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> SphereKernel:
    r"""A kernel from SO(3) to the sphere: $\sum_n c_n D^l_{nk}$ at points (beta, alpha, gamma).

    A real signal on SO(3) gives a real one on the sphere if $c_{-n} = (-1)^n \overline{c_n}$: ones for even n, i for
    odd n. The published program sums with ones and drops the imaginary part, which is the same as dropping odd n.

    Args:
        points: rows (beta, alpha, gamma).
        bandlimit: degrees l < bandlimit.
        even_only: leave odd n out, as the published program does.
        orders: azimuthal limit of n and k; the bandlimit by default.
        dtype: of the table.

    Raises:
        ConfigError: impossible points, orders or dtype.
    """
    precision = table_dtype(dtype)
    limit = check_orders(bandlimit, orders)
    points = check_points(points, 3)
    order = np.arange(1 - limit, limit)
    n, k = (grid.ravel() for grid in np.meshgrid(order, order, indexing="ij"))
    weights = np.where(order % 2 == 0, 1.0, 0.0 if even_only else -1j)  # conjugates of c_n
    rows = np.zeros((len(points), bandlimit, 2 * limit - 1), complex)
    for beta in np.unique(points[:, 0]):
        ring = np.flatnonzero(points[:, 0] == beta)
        d = wigner_d_columns(bandlimit, n, k, np.array([beta]))[..., 0].reshape(len(order), len(order), bandlimit)
        left = weights[None] * np.exp(-1j * order[None] * points[ring, 1][:, None])
        right = np.exp(-1j * order[None] * points[ring, 2][:, None])
        rows[ring] = np.einsum("pn,nkl->plk", left, d, optimize=True) * right[:, None]
    blocks = []
    for l in range(bandlimit):
        k = min(l, limit - 1)
        inner = rows[:, l, limit - 1 - k : limit + k]
        blocks.append(np.real(inner @ real_from_complex(k).T).T)
    return SphereKernel(rounded(np.concatenate(blocks), precision), bandlimit, limit)


def plan_so3_kernel(
    points: Float[np.ndarray, "point angle"],
    bandlimit: int,
    *,
    orders: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> SO3Kernel:
    """A kernel on SO(3): D^l at points (beta, alpha, gamma), orders |m|, |n| < `orders`.

    Points that share their beta cost one Wigner function and a Fourier sum.

    Raises:
        ConfigError: impossible points, orders or dtype.
    """
    precision = table_dtype(dtype)
    orders = check_orders(bandlimit, orders)
    points = check_points(points, 3)
    beta, ring_of = np.unique(points[:, 0], return_inverse=True)
    counts = np.bincount(ring_of)
    # Rings beyond one chunk are filled up to whole ones, without points.
    chunks = math.ceil(len(beta) / RINGS)
    rings = len(beta) if chunks == 1 else chunks * RINGS
    order = np.argsort(ring_of, kind="stable")
    members, present = np.zeros((rings, counts.max()), np.int32), np.zeros((rings, counts.max()), bool)
    present[: len(beta)] = np.arange(counts.max())[None] < counts[:, None]
    members[present] = order
    places = np.empty(len(points), np.int32)
    places[order] = np.flatnonzero(present)
    alpha, gamma = (_waves(orders, points[members, axis]) for axis in (1, 2))
    tilts = np.zeros((2, rings, sum(kernel_sizes(bandlimit, orders))))
    tilts[:, : len(beta)] = _tilts(bandlimit, orders, beta)
    return SO3Kernel(
        members=jax.device_put(members),
        places=jax.device_put(places),
        waves=rounded(np.einsum("nrp,krp->rnkp", alpha * present, gamma), precision),
        tilts=rounded(
            tilts.reshape(2, chunks, -1, tilts.shape[-1]).swapaxes(0, 1).reshape(chunks, -1, tilts.shape[-1]), precision
        ),
        bandlimit=bandlimit,
        orders=orders,
    )


def spectrum(
    plan: SphereKernel | SO3Kernel, kernel: Float[Array, "point in out"]
) -> Float[Array, "coefficient in out"]:
    """Spectrum of a kernel: for each degree a vector or a matrix, row by row (`harmonics.convolution.kernel_sizes`)."""
    if isinstance(plan, SphereKernel):
        return einsum("cp,pio->cio", plan.table, kernel)
    return linear_map(_so3_spectrum, _so3_values, plan, kernel.reshape(len(kernel), -1)).reshape(-1, *kernel.shape[1:])


def _so3_spectrum(plan: SO3Kernel, kernel: Float[Array, "point channel"]) -> Float[Array, "coefficient channel"]:
    sums = einsum("rnkp,rpc->rnkc", plan.waves, kernel[plan.members])
    sums = sums.reshape(len(plan.tilts), -1, *sums.shape[1:])
    if len(sums) == 1:
        return _tilted(plan, plan.tilts[0], sums[0])
    zero = jnp.zeros((plan.tilts.shape[-1], kernel.shape[1]), kernel.dtype)
    return jax.lax.scan(lambda total, chunk: (total + _tilted(plan, *chunk), None), zero, (plan.tilts, sums))[0]


def _so3_values(plan: SO3Kernel, spectrum: Float[Array, "coefficient channel"]) -> Float[Array, "point channel"]:
    """The transpose of `_so3_spectrum`."""
    if len(plan.tilts) == 1:
        sums = _untilted(plan, plan.tilts[0], spectrum)
    else:
        sums = jax.lax.map(lambda tilts: _untilted(plan, tilts, spectrum), plan.tilts)
    sums = sums.reshape(len(plan.members), *sums.shape[-3:])
    return einsum("rnkp,rnkc->rpc", plan.waves, sums).reshape(-1, spectrum.shape[1])[plan.places]


def _tilted(
    plan: SO3Kernel, tilts: Float[Array, "twice_ring coefficient"], sums: Float[Array, "ring n k channel"]
) -> Float[Array, "coefficient channel"]:
    """Coefficients from the sums of a chunk of rings, degree after degree in one pass over its matrix.

    A product of matrices would have its few rings as the inner size, and its result in another order.
    """
    degrees = []
    for corner, tilt in zip(_corners(plan), _by_degree(plan, tilts), strict=True):
        inner = sums[:, corner : sums.shape[1] - corner, corner : sums.shape[2] - corner]
        terms = zip(tilt, [*inner, *inner[:, ::-1, ::-1]], strict=True)
        degrees.append(functools.reduce(operator.add, (weight[..., None] * values for weight, values in terms)))
    return jnp.concatenate([values.reshape(-1, values.shape[-1]) for values in degrees])


def _untilted(
    plan: SO3Kernel, tilts: Float[Array, "twice_ring coefficient"], spectrum: Float[Array, "coefficient channel"]
) -> Float[Array, "ring n k channel"]:
    """The transpose of `_tilted`, one degree after the other added in place."""
    degrees = jax.lax.split(spectrum, kernel_sizes(plan.bandlimit, plan.orders), 0)
    width = 2 * plan.orders - 1
    total = jnp.zeros((len(tilts), width, width, spectrum.shape[1]), spectrum.dtype)
    for corner, tilt, values in zip(_corners(plan), _by_degree(plan, tilts), degrees, strict=True):
        terms = tilt[..., None] * values.reshape(1, *tilt.shape[1:], values.shape[1])
        start = (0, corner, corner, 0)
        stop = (len(tilt), corner + tilt.shape[1], corner + tilt.shape[2], values.shape[1])
        total = jax.lax.dynamic_update_slice(total, jax.lax.slice(total, start, stop) + terms, start)
    same, opposite = jnp.split(total, 2)
    return same + opposite[:, ::-1, ::-1]


def _corners(plan: SO3Kernel) -> list[int]:
    """Where the matrix of each degree begins in that of all orders."""
    return [plan.orders - 1 - min(l, plan.orders - 1) for l in range(plan.bandlimit)]


def _by_degree(plan: SO3Kernel, tilts: Float[Array, "twice_ring coefficient"]) -> list[Array]:
    """Tilts (twice_ring, n, k) of each degree."""
    widths = kernel_sizes(plan.bandlimit, plan.orders, sphere=True)
    pieces = jax.lax.split(tilts, kernel_sizes(plan.bandlimit, plan.orders), 1)
    return [piece.reshape(-1, width, width) for piece, width in zip(pieces, widths, strict=True)]


def _waves(orders: int, angles: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "order *points"]:
    """Cosines of n times the angles for n >= 0, sines of |n| times them for n < 0."""
    n = np.arange(1 - orders, orders).reshape(-1, *(1,) * angles.ndim)
    return np.where(n < 0, np.sin(-n * angles), np.cos(n * angles))


def _tilts(bandlimit: int, orders: int, beta: Float[np.ndarray, " ring"]) -> Float[np.ndarray, "2 ring coefficient"]:
    r"""What sums over a ring's points at (n, k) and at (-n, -k) count in a coefficient.

    In the real basis $D^l(\alpha, \beta, \gamma) = Z(\alpha) d(\beta) Z(\gamma)$. Z mixes an order n with -n, by
    cosine and sine; d turns about y, and mixes cosines (n >= 0) with cosines and sines with sines only:
    $(-1)^{n+k} d^l_{nk} \pm (-1)^n d^l_{n,-k}$.
    """
    degree, n, k = (indices[_inner(bandlimit, orders)] for indices in packed_indices(bandlimit, orders))
    m = np.arange(orders)
    rows, columns = (grid.ravel() for grid in np.meshgrid(m, m, indexing="ij"))
    at = np.abs(n) * orders + np.abs(k), degree
    direct = wigner_d_columns(bandlimit, rows, columns, beta)[at].T * (-1.0) ** (n + k)
    mirrored = wigner_d_columns(bandlimit, rows, -columns, beta)[at].T * (-1.0) ** n
    both = (n != 0) & (k != 0)
    single = np.where((n == 0) & (k == 0), 1.0, np.sqrt(2.0))
    cosines = np.where(both, direct + mirrored, single * direct)
    sines = np.where(both, direct - mirrored, 0.0)
    return np.stack([np.where(k < 0, -cosines, cosines), np.where(n > 0, -sines, sines)])


def _inner(bandlimit: int, orders: int) -> np.ndarray:
    """Places of the rows |m| < orders along the packed axis."""
    return np.flatnonzero(np.abs(packed_indices(bandlimit, orders)[1]) < orders)
