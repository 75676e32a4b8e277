r"""Spectra of localised kernels: sums over a kernel's points of its values times Wigner functions, in the real basis.

The spectrum of a kernel k on points R_p is $y^l = \sum_p k_p D^l(R_p)$, a real matrix for each degree in the real basis
of `harmonics.so3_layout`. A kernel on the sphere has the column of order 0 only, and one that leads from SO(3) to the
sphere a weighted sum of rows. Kernels have axes (point, in, out).

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
from jaxgeo.harmonics.precision import einsum, rounded, table_dtype
from jaxgeo.harmonics.real_basis import real_from_complex
from jaxgeo.harmonics.so3_waves import SO3Waves
from jaxgeo.harmonics.wigner import wigner_d_columns


class SphereKernel(eqx.Module):
    """Table of a kernel whose spectrum is one vector for each degree."""

    table: Float[Array, "coefficient point"]  # coefficients l^2 + l + m, real basis
    bandlimit: int = eqx.field(static=True)

    @property
    def num_points(self) -> int:
        """Number of values of the kernel."""
        return self.table.shape[1]


class SO3Kernel(eqx.Module):
    """Tables of a kernel on SO(3): its points by rings of equal beta, as Fourier sums and then Wigner functions."""

    members: Int[Array, "ring member"]  # points of each ring; filled up with point 0, whose waves are then zero
    waves: Float[Array, "ring wave member"]  # products of cosines and sines of m alpha and n gamma
    rings: SO3Waves  # Wigner functions at the rings and at their mirror images
    num_points: int = eqx.field(static=True)
    bandlimit: int = eqx.field(static=True)


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
    points: Float[np.ndarray, "point angle"], bandlimit: int, *, dtype: DTypeLike = jnp.float32
) -> SphereKernel:
    """A kernel on the sphere: D^l_m0 at points (beta, alpha).

    Raises:
        ConfigError: impossible points or dtype.
    """
    precision = table_dtype(dtype)
    beta, alpha = check_points(points, 2).T
    degree, order = _places(bandlimit)
    m = np.arange(bandlimit)
    columns = wigner_d_columns(bandlimit, m, np.zeros_like(m), beta)[np.abs(order), degree]
    phase = np.abs(order)[:, None] * alpha[None]
    wave = np.where((order < 0)[:, None], np.sin(phase), np.cos(phase))
    factor = np.where(order == 0, 1.0, np.sqrt(2.0)) * (-1.0) ** np.abs(order)
    return SphereKernel(rounded(factor[:, None] * wave * columns, precision), bandlimit)


def plan_projection_kernel(
    points: Float[np.ndarray, "point angle"], bandlimit: int, *, even_only: bool, dtype: DTypeLike = jnp.float32
) -> SphereKernel:
    r"""A kernel from SO(3) to the sphere: $\sum_n c_n D^l_{nk}$ at points (beta, alpha, gamma).

    A real signal on SO(3) gives a real one on the sphere if $c_{-n} = (-1)^n \overline{c_n}$: ones for even n, i for
    odd n. The published program sums with ones and drops the imaginary part, which is the same as dropping odd n.

    Args:
        points: rows (beta, alpha, gamma).
        bandlimit: degrees l < bandlimit.
        even_only: leave odd n out, as the published program does.
        dtype: of the table.

    Raises:
        ConfigError: impossible points or dtype.
    """
    precision = table_dtype(dtype)
    points = check_points(points, 3)
    orders = np.arange(1 - bandlimit, bandlimit)
    n, k = (grid.ravel() for grid in np.meshgrid(orders, orders, indexing="ij"))
    weights = np.where(orders % 2 == 0, 1.0, 0.0 if even_only else -1j)  # conjugates of c_n
    rows = np.zeros((len(points), bandlimit, 2 * bandlimit - 1), complex)
    for beta in np.unique(points[:, 0]):
        ring = np.flatnonzero(points[:, 0] == beta)
        d = wigner_d_columns(bandlimit, n, k, np.array([beta]))[..., 0].reshape(len(orders), len(orders), bandlimit)
        left = weights[None] * np.exp(-1j * orders[None] * points[ring, 1][:, None])
        right = np.exp(-1j * orders[None] * points[ring, 2][:, None])
        rows[ring] = np.einsum("pn,nkl->plk", left, d, optimize=True) * right[:, None]
    blocks = []
    for l in range(bandlimit):
        inner = rows[:, l, bandlimit - 1 - l : bandlimit + l]
        blocks.append(np.real(inner @ real_from_complex(l).T).T)
    return SphereKernel(rounded(np.concatenate(blocks), precision), bandlimit)


def plan_so3_kernel(
    points: Float[np.ndarray, "point angle"], bandlimit: int, *, dtype: DTypeLike = jnp.float32
) -> SO3Kernel:
    """A kernel on SO(3): all of D^l at points (beta, alpha, gamma).

    Points that share their beta cost one Wigner function and a Fourier sum.

    Raises:
        ConfigError: impossible points or dtype.
    """
    precision = table_dtype(dtype)
    points = check_points(points, 3)
    beta, ring_of = np.unique(points[:, 0], return_inverse=True)
    counts = np.bincount(ring_of)
    order = np.argsort(ring_of, kind="stable")
    members = np.zeros((len(beta), counts.max()), np.int32)
    present = np.arange(counts.max())[None] < counts[:, None]
    members[present] = order
    m = np.arange(bandlimit)
    alpha, gamma = (m[:, None, None] * points[members, axis][None] for axis in (1, 2))
    waves = np.einsum(
        "mrp,nrp->rmnp",
        np.concatenate([np.cos(alpha), np.sin(alpha)]) * present[None],
        np.concatenate([np.cos(gamma), np.sin(gamma)]),
    )
    return SO3Kernel(
        members=jax.device_put(members),
        waves=rounded(waves.reshape(len(beta), -1, counts.max()), precision),
        rings=so3_waves.plan_so3_waves(np.concatenate([beta, np.pi - beta[::-1]]), bandlimit, dtype=dtype),
        num_points=len(points),
        bandlimit=bandlimit,
    )


def spectrum(
    plan: SphereKernel | SO3Kernel, kernel: Float[Array, "point in out"]
) -> Float[Array, "coefficient in out"]:
    """Spectrum of a kernel: for each degree a vector (`harmonics.convolution`) or a packed matrix (`so3_layout`)."""
    if isinstance(plan, SphereKernel):
        return einsum("cp,pio->cio", plan.table, kernel)
    flat = kernel.reshape(len(kernel), -1)
    sums = einsum("rwp,rpc->wrc", plan.waves, flat[plan.members])
    # The mirror images of the rings take part through the reversal of their order only.
    sums = jnp.concatenate([sums, jnp.zeros_like(sums)], 1)
    waves = sums.reshape(2 * plan.bandlimit, 2 * plan.bandlimit, *sums.shape[1:])
    return so3_waves.project_waves(plan.rings, waves).reshape(-1, *kernel.shape[1:])


def _places(bandlimit: int) -> tuple[np.ndarray, np.ndarray]:
    degree = np.repeat(np.arange(bandlimit), 2 * np.arange(bandlimit) + 1)
    return degree, np.arange(bandlimit**2) - degree * (degree + 1)
