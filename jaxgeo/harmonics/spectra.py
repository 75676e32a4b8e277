r"""What of a spectrum does not depend on the orientation of the signal, and convolutions as products of spectra.

All functions take dense coefficients (`layout`), complex (*batch, degree, order, channel).

References:
    Kakarala, "The Bispectrum as a Source of Phase-Sensitive Invariants for Fourier Descriptors", JMIV 44 (2012).
    Driscoll and Healy, "Computing Fourier Transforms and Convolutions on the 2-Sphere", Adv. Appl. Math. 15 (1994).
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, DTypeLike, Float, Int

from jaxgeo.errors import ConfigError, InputError, check_whole
from jaxgeo.grids.latlon import check_bandlimit
from jaxgeo.harmonics import layout
from jaxgeo.harmonics.clebsch_gordan import clebsch_gordan
from jaxgeo.harmonics.layout import Dense
from jaxgeo.harmonics.precision import check_dtype, rounded, table_dtype


def power_spectrum(coefficients: Dense) -> Float[Array, "*batch degree channel"]:
    r"""$C_l = \tfrac1{2l+1} \sum_m |f_{lm}|^2$ (healpy's `alm2cl`): the mean square of a degree's coefficients.

    The square of the signal, integrated over the sphere, is $\sum_l (2l+1) C_l$.

    Raises:
        InputError: the coefficients are not dense ones.
    """
    layout.dense_bandlimit(coefficients)
    squares = jnp.sum(coefficients.real**2 + coefficients.imag**2, axis=-2)
    return squares / _degree_sizes(coefficients, squares.ndim)


def cross_spectrum(first: Dense, second: Dense) -> Complex[Array, "*batch degree channel"]:
    r"""$\tfrac1{2l+1} \sum_m f_{lm} \overline{g_{lm}}$; real for two real signals but for rounding.

    Raises:
        InputError: the coefficients are not dense ones of one bandlimit.
    """
    _check_pair(first, second)
    sums = jnp.sum(first * second.conj(), axis=-2)
    return sums / _degree_sizes(first, sums.ndim)


def so3_power_spectrum(matrices: Complex[Array, "*batch degree m n channel"]) -> Float[Array, "*batch degree channel"]:
    r"""$(2l+1) \sum_{mn} |F^l_{mn}|^2$: what each degree gives to the mean square of a function on SO(3).

    Invariant under rotations from the left and from the right.

    Raises:
        InputError: the axes (degree, m, n) are not of lengths (L, 2 L - 1, 2 N - 1) with N <= L.
    """
    bandlimit = matrices.shape[-4] if matrices.ndim > 3 else 0
    num_m, num_n = matrices.shape[-3:-1] if bandlimit else (0, 0)
    if bandlimit < 1 or num_m != 2 * bandlimit - 1 or num_n % 2 == 0 or num_n > num_m:
        raise InputError(
            f"matrices have axes (*batch, degree, m, n, channel) with (degree, m, n) = (L, 2 L - 1, 2 N - 1), N <= L, "
            f"got {matrices.shape}"
        )
    squares = jnp.sum(matrices.real**2 + matrices.imag**2, axis=(-3, -2))
    return squares * _degree_sizes(matrices[..., 0, :], squares.ndim)


class BispectrumPlan(eqx.Module):
    """All products that a bispectrum sums, one after the other: places of three coefficients and a Clebsch-Gordan."""

    weights: Float[Array, " product"]
    first: Int[Array, " product"]  # place degree * (2 L - 1) + order + L - 1
    second: Int[Array, " product"]
    third: Int[Array, " product"]
    segments: Int[Array, " product"]  # number of the triple, ascending
    triples: tuple[tuple[int, int, int], ...] = eqx.field(static=True)
    bandlimit: int = eqx.field(static=True)


def plan_bispectrum(
    bandlimit: int, triples: Sequence[tuple[int, int, int]] | None = None, *, dtype: DTypeLike = jnp.float32
) -> BispectrumPlan:
    """Plan for some triples of degrees (l1, l2, l3), by default all with l1 <= l2 and |l1 - l2| <= l3 <= l1 + l2.

    The number of products grows with the fifth power of the bandlimit (16: 0.2 million); choose triples beyond that.

    Raises:
        ConfigError: a triple is none of whole numbers, violates the triangle inequality or has a degree outside the
            bandlimit, or that is no positive whole number.
    """
    precision = table_dtype(dtype)
    check_bandlimit(bandlimit)
    if triples is None:
        pairs = [(l1, l2) for l1 in range(bandlimit) for l2 in range(l1, bandlimit)]
        triples = [(l1, l2, l3) for l1, l2 in pairs for l3 in range(l2 - l1, min(l1 + l2 + 1, bandlimit))]
    width, parts = 2 * bandlimit - 1, []
    for number, (l1, l2, l3) in enumerate(triples):
        for degree in (l1, l2, l3):
            check_whole("each degree of a triple", degree, 0)
        if not (abs(l1 - l2) <= l3 <= l1 + l2 and max(l1, l2, l3) < bandlimit):
            raise ConfigError(
                f"a triple of degrees needs |l1 - l2| <= l3 <= l1 + l2 and degrees below the bandlimit {bandlimit}, "
                f"got {(l1, l2, l3)}"
            )
        table = clebsch_gordan(l1, l2, l3)
        i, j, k = np.nonzero(table)
        places = (degree * width + at + bandlimit - 1 - degree for degree, at in ((l1, i), (l2, j), (l3, k)))
        parts.append((table[i, j, k], *places, np.full(len(i), number)))
    if not parts:
        raise ConfigError(f"a bispectrum needs at least one triple of degrees, got {triples!r}")
    weights, *places = (np.concatenate(column) for column in zip(*parts, strict=True))
    first, second, third, segments = (rounded(place, np.int32) for place in places)
    return BispectrumPlan(
        rounded(weights, precision),
        first,
        second,
        third,
        segments,
        tuple((l1, l2, l3) for l1, l2, l3 in triples),
        bandlimit,
    )


def bispectrum(plan: BispectrumPlan, coefficients: Dense) -> Complex[Array, "*batch triple channel"]:
    r"""$b_{l_1 l_2 l_3} = \sum \langle l_1 m_1 l_2 m_2 | l_3 m_3 \rangle f_{l_1 m_1} f_{l_2 m_2}
    \overline{f_{l_3 m_3}}$.

    Invariant under rotations. Unlike the power spectrum it keeps the relative phases of degrees: in general it
    determines the signal up to a rotation. Triples stand in the order of `plan.triples`.

    Raises:
        InputError: shape or precision do not fit the plan.
    """
    check_dtype("the array of coefficients", coefficients, plan.weights.dtype, is_complex=True)
    if coefficients.shape[-3:-1] != (plan.bandlimit, 2 * plan.bandlimit - 1):
        raise InputError(
            f"the bispectrum was planned for bandlimit {plan.bandlimit}, axes (*batch, degree, order, channel) with "
            f"(degree, order) = ({plan.bandlimit}, {2 * plan.bandlimit - 1}), got {coefficients.shape}"
        )
    flat = coefficients.reshape(*coefficients.shape[:-3], math.prod(coefficients.shape[-3:-1]), coefficients.shape[-1])
    flat = jnp.moveaxis(flat, -2, 0)
    weights = plan.weights.reshape(-1, *[1] * (flat.ndim - 1))
    products = weights * flat[plan.first] * flat[plan.second] * flat[plan.third].conj()
    sums = jax.ops.segment_sum(products, plan.segments, len(plan.triples), indices_are_sorted=True)
    return jnp.moveaxis(sums, 0, -2)


def convolve_zonal(coefficients: Dense, zonal: Float[Array, "degree #channel"]) -> Dense:
    r"""Convolution with a filter that depends on the angle to the pole only: $\sqrt{4\pi / (2l+1)}\, f_{lm} h_{l0}$.

    Equal to $\int f(y) h(x \cdot y)\, dy$ for $h(\cos\theta) = \sum_l h_{l0} Y_{l0}(\theta)$. Commutes with rotations.

    Args:
        coefficients: of the signal.
        zonal: h_l0, one filter per channel or one for all.

    Raises:
        InputError: the coefficients are not dense ones, or the filter has other degrees or channels.
    """
    bandlimit = layout.dense_bandlimit(coefficients)
    if zonal.shape not in ((bandlimit, 1), (bandlimit, coefficients.shape[-1])):
        raise InputError(
            f"a zonal filter has axes (degree, channel) of lengths {bandlimit} and {coefficients.shape[-1]} (or 1, one "
            f"for all), got {zonal.shape}"
        )
    degree = np.arange(bandlimit)
    scale = np.sqrt(4 * np.pi / (2 * degree + 1)).astype(zonal.dtype)
    factors = (zonal * scale[:, None])[:, None, :]
    return coefficients * factors.reshape(*[1] * (coefficients.ndim - 3), *factors.shape)


def correlate(signal: Dense, template: Dense) -> Complex[Array, "*batch degree m n channel"]:
    r"""Match with a template in every orientation: $c(R) = \int f(x) \overline{h(R^{-1} x)}\, dx$ on SO(3).

    $F^l_{mn} = f_{lm} \overline{h_{ln}} / (2l+1)$. Rotating the signal rotates c from the left, rotating the template
    from the right.

    Raises:
        InputError: the coefficients are not dense ones of one bandlimit.
    """
    _check_pair(signal, template)
    products = signal[..., :, None, :] * template[..., None, :, :].conj()
    return products / _degree_sizes(signal, products.ndim - 2)[..., None, None, :]


def _check_pair(first: Array, second: Array) -> None:
    if layout.dense_bandlimit(first) != layout.dense_bandlimit(second):
        raise InputError(
            f"both signals need one bandlimit, got {first.shape[-3]} and {second.shape[-3]} degrees; "
            "`layout.change_dense_bandlimit` cuts degrees off or fills them with zeros"
        )


def _degree_sizes(coefficients: Array, ndim: int) -> np.ndarray:
    """2l + 1 along the last but one of `ndim` axes."""
    sizes = 2 * np.arange(coefficients.shape[-3]) + 1
    return sizes.astype(coefficients.real.dtype).reshape(*[1] * (ndim - 2), -1, 1)
