r"""Spherical harmonic transforms of real and complex signals, of spin 0 and s, on grids of parallels and meridians.

$f_{lm} = \int f \, \overline{{}_sY_{lm}} \, d\Omega$ with orthonormal harmonics of Condon-Shortley phase, which is the
convention of healpy, ducc0 and scipy; ${}_sY_{lm}(\theta, \phi) = (-1)^s \sqrt{(2l+1)/4\pi}\, d^l_{m,-s}(\theta)
e^{im\phi}$. Analysis is exact for signals of degrees below the grid's bandlimit, by the grid's quadrature.

Coefficients are in the native layout of `jaxgeo.harmonics.layout`; `to_dense` and `from_dense` convert. All maps are
differentiable both ways by hand-written transposes, which cost one transform each, and take any leading batch axes.

References:
    Driscoll and Healy, "Computing Fourier Transforms and Convolutions on the 2-Sphere", Adv. Appl. Math. 15 (1994).
    Goldberg et al., "Spin-s Spherical Harmonics and edth", J. Math. Phys. 8 (1967).
"""

from jaxtyping import Array, Inexact

from jaxgeo.errors import InputError
from jaxgeo.harmonics import layout, s2_maps
from jaxgeo.harmonics.layout import Dense, Native
from jaxgeo.harmonics.linear_map import linear_map
from jaxgeo.harmonics.precision import check_dtype, from_complex, to_complex
from jaxgeo.harmonics.s2_plan import S2Transform, plan_s2_transform

__all__ = ["S2Transform", "analysis", "from_dense", "plan_s2_transform", "synthesis", "to_dense"]


def analysis(plan: S2Transform, signal: Inexact[Array, "*batch lat lon channel"]) -> Native:
    """Coefficients of a signal, by quadrature: exact where its degrees are below the grid's bandlimit.

    Args:
        plan: from `plan_s2_transform`.
        signal: float (complex where `plan.real` is False) of the plan's precision.

    Raises:
        InputError: the signal has another shape or dtype than the plan.
    """
    check_dtype("the signal", signal, plan.dtype, is_complex=not plan.real)
    if signal.ndim < 3 or signal.shape[-3:-1] != plan.grid_shape:
        raise InputError(
            f"signals have axes (*batch, lat, lon, channel) with (lat, lon) = {plan.grid_shape}, got {signal.shape}"
        )
    if plan.real:
        return linear_map(s2_maps.analysis, s2_maps.analysis_transpose, plan, signal)
    return linear_map(s2_maps.analysis, s2_maps.analysis_transpose, plan, from_complex(signal, -4))


def synthesis(plan: S2Transform, coefficients: Native) -> Inexact[Array, "*batch lat lon channel"]:
    """The signal with given native coefficients; complex where `plan.real` is False.

    Raises:
        InputError: the coefficients have another shape or dtype than the plan.
    """
    layout.check_native(coefficients, plan.coefficient_shape, plan.dtype)
    values = linear_map(s2_maps.synthesis, s2_maps.synthesis_transpose, plan, coefficients)
    return values if plan.real else to_complex(values, -4)


def to_dense(plan: S2Transform, coefficients: Native) -> Dense:
    """Complex coefficients (*batch, degree, order, channel), l = 0..L-1 and m = -(L-1)..L-1, from native ones.

    Raises:
        InputError: the coefficients have another shape or dtype than the plan.
    """
    layout.check_native(coefficients, plan.coefficient_shape, plan.dtype)
    return layout.native_to_dense(coefficients, real=plan.real)


def from_dense(plan: S2Transform, dense: Dense) -> Native:
    """Native coefficients from dense ones; for a real signal only the orders m >= 0 are read.

    Raises:
        InputError: the coefficients have another bandlimit or precision than the plan.
    """
    layout.check_dense(dense, plan.bandlimit, plan.dtype)
    return layout.dense_to_native(dense, real=plan.real)
