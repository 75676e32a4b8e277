r"""Axisymmetric (zonal) filters: one factor per degree, mixed over channels; equivariant under every rotation.

A spherical convolution with a kernel that depends on the distance alone multiplies $f_{lm}$ by $h_l$. Spectra that vary
smoothly with the degree belong to kernels localised in space.

References:
    Driscoll and Healy, "Computing Fourier Transforms and Convolutions on the 2-Sphere", Adv. Appl. Math. 15 (1994),
    theorem 1.
    Esteves, Allen-Blanchette, Makadia, Daniilidis, "Learning SO(3) Equivariant Representations with Spherical CNNs",
    arXiv:1711.06721, section 5.1 (spectra interpolated between anchors).
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Inexact

from jaxgeo.errors import ConfigError, check_fields
from jaxgeo.harmonics import layout
from jaxgeo.harmonics.healpix import HealpixTransform, healpix_analysis, healpix_synthesis
from jaxgeo.harmonics.layout import Native
from jaxgeo.harmonics.precision import einsum


@dataclasses.dataclass(frozen=True)
class ZonalConfig:
    """Sizes of a zonal filter.

    Raises:
        ConfigError: no feature, or less than two anchors.
    """

    features: int
    anchors: int | None = None
    """degrees at which the spectrum is learned, evenly spread and interpolated linearly; None: at every degree"""
    real: bool = True
    """coefficients are those of real signals"""
    use_bias: bool = False
    """add a constant to each channel (of spin 0)"""

    def __post_init__(self) -> None:
        check_fields(self, features=1, anchors=2)  # a spectrum is interpolated between two anchors or more


def interpolation_matrix(bandlimit: int, anchors: int) -> Float[np.ndarray, "degree anchor"]:
    """Linear interpolation from values at evenly spread degrees, 0 and bandlimit - 1 among them, to all degrees."""
    places = np.linspace(0, bandlimit - 1, anchors)
    columns = [np.interp(np.arange(bandlimit), places, row) for row in np.eye(anchors)]
    return np.stack(columns, axis=1)


def apply_spectrum(
    spectrum: Float[Array, "degree in out"], coefficients: Native, *, real: bool = True
) -> Float[Array, "*batch 2 order parity half_degree out"]:
    r"""$\sum_i h_l^{io} f^i_{lm}$ for native coefficients, spectra by degree l = 0..L-1.

    Raises:
        InputError: the coefficients are not native ones.
        ConfigError: the spectrum has another number of degrees than the coefficients.
    """
    bandlimit = layout.native_bandlimit(coefficients, real=real)
    if spectrum.shape[0] != bandlimit:
        raise ConfigError(f"coefficients of bandlimit {bandlimit} need as many factors, got {spectrum.shape[0]}")
    padded = jnp.pad(spectrum, [(0, bandlimit % 2), (0, 0), (0, 0)])
    by_parity = jnp.swapaxes(padded.reshape(-1, 2, *spectrum.shape[1:]), 0, 1)  # parity of l, l // 2, in, out
    # The parity axis is that of l - m: the same at even orders, the other at odd ones.
    first = int(layout.orders(bandlimit, real=real)[0]) % 2
    out = jnp.zeros((*coefficients.shape[:-1], spectrum.shape[-1]), coefficients.dtype)
    for start in range(min(2, coefficients.shape[-4])):
        factors = by_parity if (start + first) % 2 == 0 else by_parity[::-1]
        mixed = einsum("...mpdi,pdio->...mpdo", coefficients[..., start::2, :, :, :], factors)
        out = out.at[..., start::2, :, :, :].set(mixed)
    return out


class ZonalConv(nn.Module):
    """Zonal filter of native coefficients, learned in the spectrum.

    Parameters: `spectrum` (degree or anchor, in, out), normal with variance 1 / in, which keeps power, and with a
    bias `bias` (out,), the constant added to the signal.
    """

    config: ZonalConfig

    @nn.compact
    def __call__(self, coefficients: Native) -> Float[Array, "*batch 2 order parity half_degree out"]:
        """Filtered coefficients; computed in their dtype.

        Raises:
            InputError: the coefficients are not native ones.
            ConfigError: there are more anchors than degrees.
        """
        config = self.config
        bandlimit = layout.native_bandlimit(coefficients, real=config.real)
        rows, channels = config.anchors or bandlimit, coefficients.shape[-1]
        initial = nn.initializers.normal(1 / math.sqrt(channels))
        spectrum = self.param("spectrum", initial, (rows, channels, config.features), jnp.float32)
        spectrum = spectrum.astype(coefficients.dtype)
        if config.anchors is not None:
            if config.anchors > bandlimit:
                raise ConfigError(
                    f"a spectrum is interpolated between at most one anchor per degree, here {bandlimit}, got "
                    f"{config.anchors}; None learns every degree"
                )
            matrix = interpolation_matrix(bandlimit, config.anchors).astype(coefficients.dtype)
            spectrum = einsum("la,aio->lio", matrix, spectrum)
        filtered = apply_spectrum(spectrum, coefficients, real=config.real)
        if config.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (config.features,), jnp.float32).astype(filtered.dtype)
            zero = 0 if config.real else bandlimit - 1
            # Y_00 = 1 / sqrt(4 pi).
            filtered = filtered.at[..., 0, zero, 0, 0, :].add(math.sqrt(4 * math.pi) * bias)
        return filtered


class HealpixZonalConv(nn.Module):
    """Zonal filter of HEALPix maps, through their coefficients below the plan's bandlimit."""

    config: ZonalConfig
    iterations: int = 3
    """of the analysis' refinement"""

    @nn.compact
    def __call__(
        self, plan: HealpixTransform, maps: Inexact[Array, "*batch pixel in"]
    ) -> Inexact[Array, "*batch pixel out"]:
        """Filtered maps, in the plan's order of pixels.

        Raises:
            ConfigError: plan and config disagree on whether signals are real, or a bias is asked for spin.
        """
        if plan.real != self.config.real:
            raise ConfigError(f"the plan has real={plan.real} but the config real={self.config.real}; make them one")
        if plan.spin and self.config.use_bias:
            raise ConfigError(f"a field of spin {plan.spin} has no constant part, so it takes no bias")
        filtered = ZonalConv(self.config, name="filter")(healpix_analysis(plan, maps, self.iterations))
        return healpix_synthesis(plan, filtered)
