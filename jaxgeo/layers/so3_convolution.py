r"""Convolutions of spherical signals in the spectral domain: S2 -> SO(3), SO(3) -> SO(3), SO(3) -> S2, and shortcuts.

Coefficients go in and come out: packed real matrices on SO(3) (`harmonics.so3_layout`), native ones on the sphere
(`harmonics.layout`). The products are those of `harmonics.convolution` and commute with every rotation of the signal;
between two layers only the nonlinearity needs a grid. Kernels are values on a list of points (`layers.kernel_points`)
or the spectrum itself.

A plan's mode says what happens where the output's bandlimit exceeds the input's: `correct` leaves the new degrees zero,
`faithful` fills them with what the published program's analysis puts there. Under an azimuthal limit N signals on SO(3)
keep orders |n| < N: fewer directions are told apart at a point, at N / L of the cost. Rotations of the signal leave n
alone, so that layers stay equivariant.

References:
    Cohen, Geiger, Koehler, Welling, "Spherical CNNs", arXiv:1801.10130.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from jaxgeo.errors import ConfigError, InputError, check_one_of, check_whole
from jaxgeo.grids.latlon import check_bandlimit
from jaxgeo.harmonics import convolution, so3_layout
from jaxgeo.harmonics.layout import Native, native_bandlimit
from jaxgeo.harmonics.precision import einsum, table_dtype
from jaxgeo.harmonics.so3_layout import Packed
from jaxgeo.layers import spherical_kernels
from jaxgeo.layers.spherical_kernels import SO3Kernel, SphereKernel
from jaxgeo.modes import Mode

Features = Float[Array, "*batch coefficient feature"]
Points = Float[np.ndarray, "point angle"] | None


class ConvolutionPlan(eqx.Module):
    """Tables and sizes of one convolution; build it with `plan_s2_convolution` and its like."""

    kernel: SphereKernel | SO3Kernel | None  # None: the spectrum itself is learned
    bandlimit: int = eqx.field(static=True)  # degrees l < bandlimit of input and output coefficients
    orders: int = eqx.field(static=True)  # azimuthal limit of signals on SO(3): orders |n| < orders
    gain: float = eqx.field(static=True)  # of a kernel with one input channel; fan-in is divided out by the layer
    dtype: np.dtype = eqx.field(static=True)


def plan_s2_convolution(
    points: Points,
    bandlimit_in: int,
    bandlimit_out: int,
    *,
    mode: Mode = "correct",
    orders: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> ConvolutionPlan:
    """From the sphere to SO(3).

    Args:
        points: rows (beta, alpha) where the kernel has its values; None to learn the spectrum itself.
        bandlimit_in: of the input's grid.
        bandlimit_out: of the output's grid.
        mode: both are the same here; the published program refuses to raise the bandlimit.
        orders: azimuthal limit of the output; none by default, and none above its bandlimit.
        dtype: of tables and coefficients.

    Raises:
        ConfigError: impossible bandlimits, orders, points or dtype.
    """
    check_one_of("mode", mode, Mode)
    bandlimit = _common_bandlimit(bandlimit_in, bandlimit_out)
    if mode == "faithful" and bandlimit_out > bandlimit_in:
        raise ConfigError(
            f"the published convolution from the sphere cannot raise the bandlimit, got {bandlimit_in} to "
            f"{bandlimit_out}; use mode='correct'"
        )
    limit = _limit(bandlimit, orders)
    kernel = None if points is None else spherical_kernels.plan_s2_kernel(points, bandlimit, orders=limit, dtype=dtype)
    # The original scales kernels by (b_out^4 / b_in^2)^(-1/2) and their spectrum by 2 b_out.
    gain = 2.0 * bandlimit_in / bandlimit_out
    return _plan(kernel, bandlimit, limit, gain, dtype)


def plan_so3_convolution(
    points: Points,
    bandlimit_in: int,
    bandlimit_out: int,
    *,
    mode: Mode = "correct",
    orders: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> ConvolutionPlan:
    """From SO(3) to SO(3); points are rows (beta, alpha, gamma), `orders` is the azimuthal limit of input and output.

    Raises:
        ConfigError: impossible bandlimits, orders, points or dtype.
    """
    check_one_of("mode", mode, Mode)
    bandlimit = _common_bandlimit(bandlimit_in, bandlimit_out, raised=mode == "faithful")
    limit = _limit(bandlimit, orders)
    kernel = None if points is None else spherical_kernels.plan_so3_kernel(points, bandlimit, orders=limit, dtype=dtype)
    return _plan(kernel, bandlimit, limit, (bandlimit_in / bandlimit_out) ** 1.5, dtype)


def plan_so3_to_s2(
    points: Points,
    bandlimit_in: int,
    bandlimit_out: int,
    *,
    mode: Mode = "correct",
    orders: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> ConvolutionPlan:
    """From SO(3) to the sphere: a convolution whose orders n are summed; points are rows (beta, alpha, gamma).

    `orders` is the azimuthal limit of the input.

    `correct` sums all orders n (odd ones as sines, see `spherical_kernels.plan_projection_kernel`), `faithful` even
    ones only: the published program takes the real part of a sum in which odd orders are imaginary.

    Raises:
        ConfigError: impossible bandlimits, orders, points or dtype.
    """
    check_one_of("mode", mode, Mode)
    bandlimit = _common_bandlimit(bandlimit_in, bandlimit_out, raised=mode == "faithful")
    limit, kernel = _limit(bandlimit, orders), None
    if points is not None:
        kernel = spherical_kernels.plan_projection_kernel(
            points, bandlimit, even_only=mode == "faithful", orders=limit, dtype=dtype
        )
    return _plan(kernel, bandlimit, limit, (bandlimit_in / bandlimit_out) ** 1.5, dtype)


def plan_so3_shortcut(
    bandlimit_in: int,
    bandlimit_out: int,
    *,
    mode: Mode = "correct",
    orders: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> ConvolutionPlan:
    """Of a convolution with one point at the identity, a mixing of channels; `orders` as of `plan_so3_convolution`.

    Raises:
        ConfigError: impossible bandlimits, orders or dtype.
    """
    check_one_of("mode", mode, Mode)
    bandlimit = _common_bandlimit(bandlimit_in, bandlimit_out, raised=mode == "faithful")
    return _plan(None, bandlimit, _limit(bandlimit, orders), (bandlimit_in / bandlimit_out) ** 1.5, dtype)


class S2Convolution(nn.Module):
    """Convolution of signals on the sphere with kernels on the sphere; the result lives on SO(3).

    Parameters: `kernel` (point, in, out), or (coefficient, in, out) where the plan has no points, and `bias` (out,).
    The kernel's spectrum is taken from the collection `spectra` where that is given, and put there where it is mutable.
    """

    features: int

    @nn.compact
    def __call__(self, plan: ConvolutionPlan, coefficients: Native) -> Features:
        """Packed coefficients of the plan's bandlimit and azimuthal limit from native ones of the same bandlimit.

        Raises:
            InputError: coefficients of another layout or bandlimit.
        """
        given = native_bandlimit(coefficients)
        if given != plan.bandlimit:
            raise InputError(
                f"the convolution needs native coefficients of its plan's bandlimit {plan.bandlimit}, the smaller one "
                f"of input and output, got {coefficients.shape} of bandlimit {given}; analyse the signal by a "
                f"transform planned with bandlimit={plan.bandlimit} on the same grid"
            )
        x = convolution.sphere_spectrum(coefficients)
        y = _spectrum(self, plan, x.shape[-1], sphere=True)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), plan.dtype)
        return add_constant(convolution.convolve_sphere(x, y, orders=plan.orders), bias)


class SO3Convolution(nn.Module):
    """Convolution of signals on SO(3) with kernels on SO(3).

    Parameters: `kernel` (point, in, out), or (coefficient, in, out) where the plan has no points, and `bias` (out,).
    The kernel's spectrum is taken from the collection `spectra` where that is given, and put there where it is mutable.
    """

    features: int

    @nn.compact
    def __call__(self, plan: ConvolutionPlan, coefficients: Packed) -> Features:
        """Packed coefficients of the plan's bandlimit and azimuthal limit from packed ones of the same."""
        y = _spectrum(self, plan, coefficients.shape[-1], prepare=_contraction_matrices)
        x = so3_layout.split_degrees(coefficients, plan.bandlimit, plan.orders)
        z = [_product(x_l, y_l, self.features) for x_l, y_l in zip(x, y, strict=True)]
        bias = self.param("bias", nn.initializers.zeros, (self.features,), plan.dtype)
        return add_constant(jnp.concatenate(z, -2), bias)


class SO3Shortcut(nn.Module):
    """Channels are mixed, degrees beyond the plan's bandlimit are gone: a residual connection between unequal layers.

    Parameters: `kernel` (in, out) and `bias` (out,).
    """

    features: int

    @nn.compact
    def __call__(self, plan: ConvolutionPlan, coefficients: Packed) -> Features:
        """Packed coefficients of the plan's bandlimit and azimuthal limit from packed ones of the same."""
        check_whole("features", self.features)
        fan_in = coefficients.shape[-1]
        kernel = self.param("kernel", _uniform, (fan_in, self.features), plan.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), plan.dtype)
        so3_layout.check_packed(coefficients, plan.bandlimit, plan.orders)
        mixed = einsum("...ci,io->...co", coefficients, kernel * (plan.gain / math.sqrt(fan_in)))
        return add_constant(mixed, bias)


class SO3ToS2(nn.Module):
    """Convolution of signals on SO(3) whose result lives on the sphere.

    Parameters: `kernel` (point, in, out), or (coefficient, in, out) where the plan has no points, and `bias` (out,).
    The kernel's spectrum is taken from the collection `spectra` where that is given, and put there where it is mutable.
    """

    features: int

    @nn.compact
    def __call__(
        self, plan: ConvolutionPlan, coefficients: Packed
    ) -> Float[Array, "*batch 2 order parity half_degree feature"]:
        """Native coefficients of the plan's bandlimit from packed ones of the same and of its azimuthal limit."""
        y = _spectrum(self, plan, coefficients.shape[-1], sphere=True, spread=False)
        x = so3_layout.split_degrees(coefficients, plan.bandlimit, plan.orders)
        vectors = jax.lax.split(y, convolution.kernel_sizes(plan.bandlimit, plan.orders, sphere=True), 0)
        z = [einsum("...mki,kio->...mo", x_l, y_l) for x_l, y_l in zip(x, vectors, strict=True)]
        bias = self.param("bias", nn.initializers.zeros, (self.features,), plan.dtype)
        return convolution.sphere_coefficients(add_constant(jnp.concatenate(z, -2), bias))


def add_constant(
    coefficients: Float[Array, "*batch coefficient channel"], constant: Float[Array, " channel"]
) -> Float[Array, "*batch coefficient channel"]:
    """Coefficients of a signal plus a constant: degree 0, the first coefficient, is the mean."""
    return coefficients.at[..., 0, :].add(jnp.broadcast_to(constant, coefficients[..., 0, :].shape))


def _spectrum(
    module: nn.Module,
    plan: ConvolutionPlan,
    fan_in: int,
    *,
    sphere: bool = False,
    spread: bool = True,
    prepare: Callable[[Array, ConvolutionPlan], Any] = lambda spectrum, plan: spectrum,
) -> Any:
    """The kernel's spectrum (coefficient, in, out), prepared: from the collection `spectra`, or else the parameters."""
    if module.has_variable("spectra", "kernel") and not module.is_mutable_collection("spectra"):
        kept = module.get_variable("spectra", "kernel")
        if not module.has_variable("params", "kernel"):
            return kept
        return _constant(kept, module.get_variable("params", "kernel"))
    features = getattr(module, "features")  # noqa: B009 -- `nn.Module` declares no such field
    check_whole("features", features)
    if plan.kernel is None:
        sizes = convolution.kernel_sizes(plan.bandlimit, plan.orders, sphere=sphere)
        kernel = module.param("kernel", nn.initializers.normal(1.0), (sum(sizes), fan_in, features), plan.dtype)
        # Keeps the variance of the input's signal, which all columns of the output's matrices share.
        columns = np.array(convolution.kernel_sizes(plan.bandlimit, plan.orders, sphere=True)) if spread else 1
        scale = np.repeat(1 / np.sqrt(columns * fan_in * np.ones(plan.bandlimit)), sizes)
        spectrum = kernel * scale.astype(plan.dtype)[:, None, None]
    else:
        points = plan.kernel.num_points
        kernel = module.param("kernel", _uniform, (points, fan_in, features), plan.dtype)
        spectrum = spherical_kernels.spectrum(plan.kernel, kernel * (plan.gain / math.sqrt(points * fan_in)))
    spectrum = prepare(spectrum, plan)
    if module.is_mutable_collection("spectra") and not module.is_initializing():
        module.put_variable("spectra", "kernel", spectrum)
    return spectrum


@jax.custom_jvp
def _constant(spectrum: Any, kernel: Array) -> Any:
    """The spectrum; derivatives by the kernel that it was once computed from are refused instead of being zero."""
    return spectrum


def _constant_jvp(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    zero: Any = jax.custom_derivatives.SymbolicZero
    spectrum_tangent, kernel_tangent = tangents
    if not isinstance(kernel_tangent, zero):
        raise InputError(
            "derivatives by kernels whose spectra are given in the collection `spectra` would be zero; train without "
            "this collection and compute it anew for prediction"
        )
    filled = jax.tree.map(
        lambda t: jnp.zeros(t.shape, t.dtype) if isinstance(t, zero) else t,
        spectrum_tangent,
        is_leaf=lambda t: isinstance(t, zero),
    )
    return primals[0], filled


_constant.defjvp(_constant_jvp, symbolic_zeros=True)


def _contraction_matrices(spectrum: Array, plan: ConvolutionPlan) -> tuple[Array, ...]:
    """For each degree one matrix, rows (column of the signal, in) and columns (column of the output, out)."""
    fan_in, features = spectrum.shape[1:]
    degrees = jax.lax.split(spectrum, convolution.kernel_sizes(plan.bandlimit, plan.orders), 0)
    widths = convolution.kernel_sizes(plan.bandlimit, plan.orders, sphere=True)
    matrices = (y.reshape(n, n, fan_in, features) for y, n in zip(degrees, widths, strict=True))
    return tuple(y.transpose(1, 2, 0, 3).reshape(len(y) * fan_in, -1) for y in matrices)


def _product(x: Array, matrix: Array, features: int) -> Array:
    """z_mn = sum over k of x_mk y_nk of one degree, flat: one matrix product for all input channels at once."""
    rows = x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
    product = einsum("...mk,kn->...mn", rows, matrix)
    return product.reshape(*x.shape[:-3], x.shape[-3] * matrix.shape[1] // features, features)


def _uniform(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


def _plan(
    kernel: SphereKernel | SO3Kernel | None, bandlimit: int, orders: int, gain: float, dtype: DTypeLike
) -> ConvolutionPlan:
    return ConvolutionPlan(kernel, bandlimit, orders, gain, table_dtype(dtype))


def _limit(bandlimit: int, orders: Any) -> int:
    if orders is None:
        return bandlimit
    check_bandlimit(orders, "the azimuthal limit")
    return min(bandlimit, orders)


def _common_bandlimit(bandlimit_in: Any, bandlimit_out: Any, *, raised: bool = False) -> int:
    check_bandlimit(bandlimit_in, "the input's bandlimit")
    check_bandlimit(bandlimit_out, "the output's bandlimit")
    return bandlimit_out if raised else min(bandlimit_in, bandlimit_out)
