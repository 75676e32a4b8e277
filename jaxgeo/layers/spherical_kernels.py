r"""Spectra of localised kernels: sums over a kernel's points of its values times Wigner functions, in the real basis.

The spectrum of a kernel k on points R_p is $y^l = \sum_p k_p D^l(R_p)$, a real matrix for each degree in the real basis
of `harmonics.so3_layout`. A kernel on the sphere has the column of order 0 only, and one that leads from SO(3) to the
sphere a weighted sum of rows. Under an azimuthal limit N only orders below N of rows and columns are left, those that
the product of spectra uses (`harmonics.convolution.kernel_sizes`). Kernels have axes (point, in, out).

References:
    Cohen, Geiger, Koehler, Welling, "Spherical CNNs", arXiv:1801.10130, section 5 and appendix on local kernels.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int

from jaxgeo.errors import ConfigError
from jaxgeo.harmonics import so3_waves
from jaxgeo.harmonics.layout import l_major_indices
from jaxgeo.harmonics.precision import einsum, rounded, table_dtype
from jaxgeo.harmonics.real_basis import real_from_complex
from jaxgeo.harmonics.so3_layout import check_orders, packed_indices
from jaxgeo.harmonics.so3_waves import SO3Waves
from jaxgeo.harmonics.wigner import wigner_d_columns


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
    waves: Float[Array, "ring wave member"]  # products of cosines and sines of m alpha and n gamma
    rings: SO3Waves  # Wigner functions at the rings and at their mirror images
    kept: Int[Array, " coefficient"] | None  # rows |m| < orders of the packed spectrum; None: all
    num_points: int = eqx.field(static=True)
    bandlimit: int = eqx.field(static=True)
    orders: int = eqx.field(static=True)


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
    order = np.argsort(ring_of, kind="stable")
    members = np.zeros((len(beta), counts.max()), np.int32)
    present = np.arange(counts.max())[None] < counts[:, None]
    members[present] = order
    m = np.arange(orders)
    alpha, gamma = (m[:, None, None] * points[members, axis][None] for axis in (1, 2))
    waves = np.einsum(
        "mrp,nrp->rmnp",
        np.concatenate([np.cos(alpha), np.sin(alpha)]) * present[None],
        np.concatenate([np.cos(gamma), np.sin(gamma)]),
    )
    return SO3Kernel(
        members=jax.device_put(members),
        waves=rounded(waves.reshape(len(beta), -1, counts.max()), precision),
        rings=so3_waves.plan_so3_waves(
            np.concatenate([beta, np.pi - beta[::-1]]), bandlimit, orders=orders, num_m=orders, dtype=dtype
        ),
        kept=None if orders == bandlimit else rounded(_inner_rows(bandlimit, orders), np.int32),
        num_points=len(points),
        bandlimit=bandlimit,
        orders=orders,
    )


def spectrum(
    plan: SphereKernel | SO3Kernel, kernel: Float[Array, "point in out"]
) -> Float[Array, "coefficient in out"]:
    """Spectrum of a kernel: for each degree a vector or a matrix, row by row (`harmonics.convolution.kernel_sizes`)."""
    if isinstance(plan, SphereKernel):
        return einsum("cp,pio->cio", plan.table, kernel)
    flat = kernel.reshape(len(kernel), -1)
    sums = einsum("rwp,rpc->wrc", plan.waves, flat[plan.members])
    # The mirror images of the rings take part through the reversal of their order only.
    sums = jnp.concatenate([sums, jnp.zeros_like(sums)], 1)
    waves = sums.reshape(2 * plan.orders, 2 * plan.orders, *sums.shape[1:])
    packed = so3_waves.project_waves(plan.rings, waves)
    return (packed if plan.kept is None else packed[plan.kept]).reshape(-1, *kernel.shape[1:])


def _inner_rows(bandlimit: int, orders: int) -> np.ndarray:
    """Places of the rows |m| < orders along the packed axis."""
    return np.flatnonzero(np.abs(packed_indices(bandlimit, orders)[1]) < orders)
