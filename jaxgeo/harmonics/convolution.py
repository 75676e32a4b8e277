r"""Spectral products of spherical convolutions, in the real basis, where a real signal costs a quarter of the products.

Signals on the sphere enter as sphere spectra, packed `(*batch, coefficient, channel)` with real order m of degree l at
$l^2 + l + m$ and the value $x^l_m = f_{lm} / \sqrt{4 \pi (2l+1)}$: the column n = 0 of the SO(3) spectrum of
$R \mapsto f(R e_z)$. Signals on SO(3) enter as packed spectra (`so3_layout`). With probability measures on both spaces

- sphere to rotations: $(f \star \psi)(R) = \int f(x) \psi(R^{-1} x) dx$ has $z^l_{mn} = x^l_m \overline{y^l_n}$;
- rotations to rotations: $(f \star \psi)(R) = \int f(Q) \psi(R^{-1} Q) dQ$ has $z^l_{mn} = \sum_k x^l_{mk}
  \overline{y^l_{nk}}$;
- rotations to sphere: the same, with the orders n summed to one value.

Products are summed over input channels. Each commutes with every rotation from the left, $(Q f)(x) = f(Q^{-1} x)$.
These functions are the products as they are written above, for spectra at hand. The layers (`layers.so3_convolution`)
take the products apart, so that what depends on the kernel alone is computed once and kept, and are tested against
them.

References:
    Cohen, Geiger, Koehler and Welling, "Spherical CNNs", arXiv:1801.10130.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo.errors import InputError, check_one_of
from jaxgeo.harmonics import layout
from jaxgeo.harmonics.layout import Native
from jaxgeo.harmonics.precision import einsum
from jaxgeo.harmonics.so3_layout import check_orders, join_degrees, split_degrees
from jaxgeo.modes import Mode

Spectrum = Float[Array, "*batch coefficient channel"]
Kernel = Float[Array, "kernel_coefficient kernel_in out"]
Result = Float[Array, "*batch out_coefficient out"]


def sphere_spectrum(coefficients: Native) -> Spectrum:
    """Sphere spectrum of native coefficients (`layout`) of a real signal."""
    bandlimit = layout.native_bandlimit(coefficients)
    part, order, parity, half, factor = _native_places(bandlimit)
    values = coefficients[..., part, order, parity, half, :]
    return values * factor.astype(values.dtype).reshape(*(1,) * (values.ndim - 2), -1, 1)


def sphere_coefficients(spectrum: Spectrum) -> Native:
    """Native coefficients of the real signal that has a sphere spectrum.

    Raises:
        InputError: the number of coefficients is no square.
    """
    bandlimit = math.isqrt(spectrum.shape[-2])
    if bandlimit**2 != spectrum.shape[-2] or bandlimit == 0:
        raise InputError(f"a sphere spectrum has L^2 (1, 4, 9, 16, ...) coefficients, got {spectrum.shape[-2]}")
    *places, factor = _native_places(bandlimit)
    shape = layout.native_shape(bandlimit)
    source, scale = np.zeros(shape, int), np.zeros(shape)
    source[tuple(places)] = np.arange(bandlimit**2)
    scale[tuple(places)] = 1 / factor
    values = spectrum[..., source, :]
    return values * scale.astype(values.dtype).reshape(*(1,) * (spectrum.ndim - 2), *shape, 1)


def kernel_sizes(bandlimit: int, orders: int | None = None, *, sphere: bool = False) -> list[int]:
    """Number of kernel coefficients of each degree: 2k+1 orders n on the sphere, (2k+1)^2 orders (n, k) on SO(3).

    k = min(l, N-1) under the azimuthal limit N of input and output.
    """
    orders = check_orders(bandlimit, orders)
    widths = [2 * min(l, orders - 1) + 1 for l in range(bandlimit)]
    return widths if sphere else [width**2 for width in widths]


def convolve_sphere(spectrum: Spectrum, kernel: Kernel, *, orders: int | None = None) -> Result:
    """Packed spectrum on SO(3) of a signal on the sphere convolved with a kernel on the sphere.

    Args:
        spectrum: sphere spectrum of the signal.
        kernel: sphere spectrum of the kernel, with the orders |n| < N of each degree only.
        orders: azimuthal limit N of the output; none by default.

    Raises:
        InputError: numbers of coefficients or channels do not fit.
    """
    bandlimit = math.isqrt(spectrum.shape[-2])
    signals = _split(spectrum, [2 * l + 1 for l in range(bandlimit)], "a sphere spectrum")
    kernels = _kernels(kernel, spectrum, kernel_sizes(bandlimit, orders, sphere=True))
    return join_degrees([einsum("...mi,nio->...mno", x, y) for x, y in zip(signals, kernels, strict=True)])


def convolve_rotations(spectrum: Spectrum, kernel: Kernel, bandlimit: int, *, orders: int | None = None) -> Result:
    """Packed spectrum of a signal on SO(3) convolved with a kernel on SO(3).

    Args:
        spectrum: packed spectrum of the signal.
        kernel: packed spectrum of the kernel, with the orders |n|, |k| < N of each degree only.
        bandlimit: of signal, kernel and output.
        orders: azimuthal limit N of signal and output; none by default.

    Raises:
        InputError: numbers of coefficients or channels do not fit.
    """
    signals = split_degrees(spectrum, bandlimit, orders)
    kernels = _square(_kernels(kernel, spectrum, kernel_sizes(bandlimit, orders)))
    return join_degrees([einsum("...mki,nkio->...mno", x, y) for x, y in zip(signals, kernels, strict=True)])


def convolve_to_sphere(
    spectrum: Spectrum,
    kernel: Kernel,
    bandlimit: int,
    *,
    orders: int | None = None,
    mode: Mode = "correct",
) -> Result:
    """Sphere spectrum of a signal on SO(3) convolved with a kernel on SO(3) and summed over the orders n.

    The sum is taken over the kernel first, which leaves the product of a vector.

    Args:
        spectrum: packed spectrum of the signal.
        kernel: packed spectrum of the kernel.
        bandlimit: of signal, kernel and output.
        orders: azimuthal limit N of signal and kernel; none by default.
        mode: the factor of order n in the sum. A real signal needs factors with c_{-n} = (-1)^n conj(c_n): "correct"
            has 1 for even n and i for odd n. The published networks have ones, and keep the real part of the signal on
            the sphere: that is "faithful", 1 for even and 0 for odd n, so that half of the kernel is without effect.

    Raises:
        InputError: numbers of coefficients or channels do not fit.
        ConfigError: an unknown mode.
    """
    check_one_of("mode", mode, Mode)
    signals = split_degrees(spectrum, bandlimit, orders)
    kernels = _square(_kernels(kernel, spectrum, kernel_sizes(bandlimit, orders)))
    weights = [_order_weights((y.shape[0] - 1) // 2, mode, y.dtype) for y in kernels]
    summed = [einsum("n,nkio->kio", v, y) for v, y in zip(weights, kernels, strict=True)]
    return jnp.concatenate([einsum("...mki,kio->...mo", x, y) for x, y in zip(signals, summed, strict=True)], -2)


def sum_orders(
    spectrum: Spectrum,
    bandlimit: int,
    *,
    orders: int | None = None,
    mode: Mode = "correct",
) -> Float[Array, "*batch out_coefficient channel"]:
    """Sphere spectrum of a packed spectrum on SO(3) whose orders n are summed as in `convolve_to_sphere`.

    Raises:
        InputError: the number of coefficients does not fit.
        ConfigError: an unknown mode.
    """
    check_one_of("mode", mode, Mode)
    matrices = split_degrees(spectrum, bandlimit, orders)
    weights = [_order_weights((x.shape[-2] - 1) // 2, mode, x.dtype) for x in matrices]
    return jnp.concatenate([einsum("...mnc,n->...mc", x, v) for x, v in zip(matrices, weights, strict=True)], -2)


def _order_weights(limit: int, mode: Mode, dtype: np.dtype) -> np.ndarray:
    """The factors in the real basis: cosines of even orders, sines of odd ones."""
    n = np.arange(-limit, limit + 1)
    even = np.where(n == 0, 1.0, np.where((n > 0) & (n % 2 == 0), np.sqrt(2.0), 0.0))
    odd = np.where((n < 0) & (n % 2 == 1), np.sqrt(2.0), 0.0)
    return (even if mode == "faithful" else even + odd).astype(dtype)


def _native_places(bandlimit: int) -> tuple[np.ndarray, ...]:
    """Index arrays (part, order, parity, half degree) into the native layout, and factors, along a sphere spectrum."""
    degree, order = layout.l_major_indices(bandlimit)
    m = np.abs(order)
    # Real coefficients are (-1)^m sqrt2 Re f_lm at m > 0 and minus the same of Im f_lm at -m.
    real = np.where(order == 0, 1.0, np.sqrt(2.0) * (-1.0) ** m * np.where(order < 0, -1.0, 1.0))
    factor = real / np.sqrt(4 * np.pi * (2 * degree + 1))
    return (order < 0).astype(int), m, (degree - m) % 2, degree // 2, factor


def _kernels(kernel: Kernel, spectrum: Array, sizes: list[int]) -> list[Array]:
    if kernel.shape[-2] != spectrum.shape[-1]:
        raise InputError(
            f"the kernel takes {kernel.shape[-2]} input channels (its axis -2), the signal has {spectrum.shape[-1]}"
        )
    return _split(kernel, sizes, "this kernel", axis=0)


def _split(array: Array, sizes: list[int], what: str, axis: int = -2) -> list[Array]:
    axis %= array.ndim
    if array.shape[axis] != sum(sizes):
        raise InputError(f"{what} has {sum(sizes)} coefficients on axis {axis}, got {array.shape}")
    return list(jax.lax.split(array, sizes, axis))


def _square(kernels: list[Array]) -> list[Array]:
    return [y.reshape(math.isqrt(len(y)), math.isqrt(len(y)), *y.shape[1:]) for y in kernels]
