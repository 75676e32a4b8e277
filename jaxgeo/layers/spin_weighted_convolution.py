r"""Convolution of sets of spin-weighted signals on the sphere: filters with a direction, without leaving the sphere.

The value of a signal of spin s takes a phase of s times the angle by which the local frame turns; its coefficients turn
with the same $D^l$ as those of spin 0. Whatever mixes spins and channels degree by degree therefore commutes with
rotations: $g^t_{lm} = \sum_s k^{st}_l f^s_{lm}$. From spin 0 to spin 0 this is a zonal filter; through other spins it
tells directions, and with complex spectra mirror images, apart.

A set of signals is one real array of coefficients, `Spectra`: for each spin native coefficients of a complex signal
(`harmonics.layout`). Its signals of spin 0 are real, which is kept: of what the product gives at spin 0 the real part
is taken, and the imaginary part of a spectrum from spin 0 to spin 0 has no effect.

References:
    Esteves, Makadia, Daniilidis, "Spin-Weighted Spherical CNNs", arXiv:2006.10731.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.harmonics import layout
from jaxgeo.harmonics.layout import Native
from jaxgeo.harmonics.precision import check_dtype, einsum, rounded, table_dtype
from jaxgeo.layers.zonal import interpolation_matrix

Spectra = Float[Array, "*batch spin 2 order parity half_degree channel"]


class SpinConvolutionPlan(eqx.Module):
    """Tables and sizes of one convolution; build it with `plan_spin_convolution`."""

    interpolation: Float[Array, "degree row"]  # from learned rows to degrees
    mask: Float[Array, "degree spin_in spin_out"]  # 1 where both spins have the degree
    bandlimit: int = eqx.field(static=True)  # degrees l < bandlimit
    spins_in: tuple[int, ...] = eqx.field(static=True)
    spins_out: tuple[int, ...] = eqx.field(static=True)

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.mask.dtype


def plan_spin_convolution(
    bandlimit: int,
    spins_in: Sequence[int],
    spins_out: Sequence[int],
    *,
    anchors: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> SpinConvolutionPlan:
    """Tables of a convolution.

    Args:
        bandlimit: degrees l < bandlimit of what comes in and goes out.
        spins_in: spin weights of the signals that come in, distinct.
        spins_out: of those that go out.
        anchors: evenly spread degrees at which spectra are learned, interpolated linearly between them: few of them
            make smooth spectra, which are filters localised in space. None learns every degree.
        dtype: of tables and coefficients.

    Raises:
        ConfigError: repeated spins or none, a bandlimit that has no degree for one of them, anchors below 2 or above
            the bandlimit, or an impossible dtype.
    """
    for spins in (spins_in, spins_out):
        check_spins(bandlimit, spins)
    if anchors is not None and not 2 <= anchors <= bandlimit:
        raise ConfigError(
            f"spectra are interpolated between at least two anchors and at most one per degree, here {bandlimit}, got "
            f"{anchors}; None learns every degree"
        )
    precision = table_dtype(dtype)
    matrix = np.eye(bandlimit) if anchors is None else interpolation_matrix(bandlimit, anchors)
    lowest = np.maximum(np.abs(spins_in)[:, None], np.abs(spins_out)[None, :])
    mask = np.arange(bandlimit)[:, None, None] >= lowest[None]
    return SpinConvolutionPlan(
        interpolation=rounded(matrix, precision),
        mask=rounded(mask, precision),
        bandlimit=bandlimit,
        spins_in=tuple(spins_in),
        spins_out=tuple(spins_out),
    )


class SpinConvolution(nn.Module):
    """Convolution that mixes spins and channels degree by degree.

    Parameters: `kernel` (2, row, spin_in, spin_out, in, out), real and imaginary part of the spectra at the anchors (or
    at all degrees). They are drawn so that the power of white signals is kept; at spin 0, where the real part is taken,
    they are larger by the square root of two.
    """

    features: int

    @nn.compact
    def __call__(
        self, plan: SpinConvolutionPlan, coefficients: Spectra
    ) -> Float[Array, "*batch spin_out 2 order parity half_degree feature"]:
        """Coefficients of the plan's `spins_out`.

        Raises:
            InputError: coefficients of another shape or dtype than the plan's.
        """
        rows = plan.interpolation.shape[1]
        shape = (2, rows, len(plan.spins_in), len(plan.spins_out), coefficients.shape[-1], self.features)
        deviations = np.where(np.asarray(plan.spins_out) == 0, 1.0, np.sqrt(0.5))
        deviations /= np.sqrt(len(plan.spins_in) * coefficients.shape[-1])

        def draw(key: PRNGKeyArray) -> Array:
            scale = jnp.asarray(deviations, plan.dtype)[None, None, None, :, None, None]
            return scale * jax.random.normal(key, shape, plan.dtype)

        return convolve_spins(plan, self.param("kernel", draw), coefficients)


def convolve_spins(
    plan: SpinConvolutionPlan, kernel: Float[Array, "2 row spin_in spin_out in out"], coefficients: Spectra
) -> Float[Array, "*batch spin_out 2 order parity half_degree out"]:
    r"""$\sum_{si} k^{st}_{l,io} f^{si}_{lm}$, at spin 0 the coefficients of the real part of this signal.

    Args:
        plan: from `plan_spin_convolution`.
        kernel: real and imaginary part of k at the plan's rows.
        coefficients: of the plan's `spins_in`.

    Raises:
        InputError: coefficients of another shape or dtype than the plan's.
    """
    check_spectra(coefficients, plan.bandlimit, plan.spins_in, plan.dtype)
    spectrum = einsum("lr,crstio->clstio", plan.interpolation, kernel) * plan.mask[None, ..., None, None]
    odd = plan.bandlimit % 2
    spectrum = jnp.pad(spectrum, [(0, 0), (0, odd), (0, 0), (0, 0), (0, 0), (0, 0)])
    real, imaginary = spectrum.reshape(2, -1, 2, *spectrum.shape[2:])  # degree l // 2, parity of l, spins, channels
    # The product of complex numbers as one of real matrices: rows (spin, part, in), columns (spin, part, out).
    matrix = jnp.stack([jnp.stack([real, imaginary], 4), jnp.stack([-imaginary, real], 4)], 3)
    product = einsum("...scmpdi,dpscteio->...tempdo", _swap_parities(coefficients), matrix)
    return _real_at_spin_zero(_swap_parities(product), plan.spins_out)


def from_scalars(coefficients: Native) -> Spectra:
    """The set with the one spin 0, from native coefficients of real signals: negative orders are filled in."""
    layout.native_bandlimit(coefficients, real=True)
    mirrored = _conjugate(jnp.flip(coefficients[..., 1:, :, :, :], -4), first_order=1 - coefficients.shape[-4])
    return jnp.expand_dims(jnp.concatenate([mirrored, coefficients], -4), -6)


def to_scalars(coefficients: Float[Array, "*batch 2 order parity half_degree channel"]) -> Native:
    """Native coefficients of the real signals of spin 0, from one entry of a set: orders m >= 0."""
    bandlimit = layout.native_bandlimit(coefficients, real=False)
    return coefficients[..., bandlimit - 1 :, :, :, :]


def check_spins(bandlimit: int, spins: Sequence[int]) -> None:
    """Refuse spins that no set of signals can have.

    Raises:
        ConfigError: repeated spins or none, or a bandlimit that has no degree for one of them.
    """
    if not spins or len(set(spins)) < len(spins):
        raise ConfigError(f"a set of signals has at least one spin, and each once, got {tuple(spins)}")
    highest = max(abs(spin) for spin in spins)
    if bandlimit <= highest:
        raise ConfigError(
            f"degrees begin at |spin|, so spins {tuple(spins)} need a bandlimit above {highest}, got {bandlimit}"
        )


def check_spectra(coefficients: Spectra, bandlimit: int, spins: Sequence[int], dtype: DTypeLike) -> None:
    """Refuse coefficients of another set.

    Raises:
        InputError: not as many spins, another bandlimit or another dtype.
    """
    check_dtype("the array of coefficients", coefficients, dtype)
    expected = (len(spins), *layout.native_shape(bandlimit, real=False))
    if coefficients.shape[-6:-1] != expected:
        raise InputError(
            f"coefficients of spins {tuple(spins)} and bandlimit {bandlimit} have axes (*batch, spin, 2, order, "
            f"parity, half degree, channel) with sizes {expected} before the channels, got {coefficients.shape}"
        )


def _swap_parities(coefficients: Array) -> Array:
    """Exchange parity of l - m for parity of l along the parity axis, or back."""
    order = layout.orders((coefficients.shape[-4] + 1) // 2, real=False)
    odd = (order % 2 == 1).reshape((1,) * (coefficients.ndim - 4) + (-1, 1, 1, 1))
    return jnp.where(odd, jnp.flip(coefficients, -3), coefficients)


def _real_at_spin_zero(coefficients: Array, spins: tuple[int, ...]) -> Array:
    if 0 not in spins:
        return coefficients
    at = spins.index(0)
    scalars = coefficients[..., at, :, :, :, :, :]
    mirrored = _conjugate(jnp.flip(scalars, -4), first_order=-(scalars.shape[-4] // 2))
    return coefficients.at[..., at, :, :, :, :, :].set((scalars + mirrored) / 2)


def _conjugate(coefficients: Array, *, first_order: int) -> Array:
    """(-1)^m conj(f_lm) for native coefficients whose orders begin at `first_order`."""
    signs = (-1.0) ** np.abs(first_order + np.arange(coefficients.shape[-4]))
    factors = (np.array([1.0, -1.0])[:, None] * signs[None]).astype(coefficients.dtype)
    return coefficients * factors.reshape((1,) * (coefficients.ndim - 5) + (2, -1, 1, 1, 1))
