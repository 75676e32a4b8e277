r"""Nonlinearities of sets of spin-weighted signals: to samples, act on moduli, and back to coefficients.

The phase of a signal of spin s != 0 depends on the frame of the point, so that only its modulus may be acted on:
$z \mapsto \mathrm{ReLU}(|z| + b)\, z / |z|$. Signals of spin 0 are real, and any function of their values will do.

The result is not band-limited, and what the grid cannot tell apart folds back as an alias that does not turn with the
signal. An oversampled grid lowers that error; an oversampling of 1 is the paper's form.

References:
    Esteves, Makadia, Daniilidis, "Spin-Weighted Spherical CNNs", arXiv:2006.10731.
    Worrall, Garbin, Turmukhambetov, Brostow, "Harmonic Networks", arXiv:1612.04642 (the nonlinearity of moduli).
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Complex, DTypeLike, Float, Inexact

from jaxgeo.grids.latlon import GridName, latlon_grid, oversampled_bandlimit
from jaxgeo.harmonics.s2 import S2Transform, analysis, plan_s2_transform, synthesis
from jaxgeo.layers.spin_weighted_convolution import Spectra, check_spectra, check_spins, from_scalars, to_scalars

# One entry for each spin: float at spin 0, complex elsewhere.
Signals = tuple[Inexact[Array, "*batch lat lon channel"], ...]


class SpinNonlinearityPlan(eqx.Module):
    """Transforms of every spin before and after a nonlinearity; build it with `plan_spin_nonlinearity`."""

    to_samples: tuple[S2Transform, ...]
    to_coefficients: tuple[S2Transform, ...]
    spins: tuple[int, ...] = eqx.field(static=True)

    @property
    def bandlimit(self) -> int:
        """Of the coefficients that come in."""
        return self.to_samples[0].bandlimit

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.to_samples[0].dtype


def plan_spin_nonlinearity(
    bandlimit: int,
    spins: Sequence[int],
    next_bandlimit: int | None = None,
    *,
    oversampling: float = 1.0,
    grid: GridName = "gauss_legendre",
    dtype: DTypeLike = jnp.float32,
) -> SpinNonlinearityPlan:
    """Tables for `samples` and `coefficients`.

    Args:
        bandlimit: of the coefficients that come in.
        spins: of the set.
        next_bandlimit: of those that go out, `bandlimit` by default; less is an ideal low pass.
        oversampling: factor on the grid's bandlimit, the larger of the two, rounded up; at least 1.
        grid: "gauss_legendre" takes half as many parallels as the others.
        dtype: of tables and coefficients.

    Raises:
        ConfigError: impossible sizes, spins or dtype, an oversampling below 1, an unknown grid.
    """
    next_bandlimit = bandlimit if next_bandlimit is None else next_bandlimit
    check_spins(min(bandlimit, next_bandlimit), spins)
    points = latlon_grid(grid, oversampled_bandlimit(max(bandlimit, next_bandlimit), oversampling))

    def transforms(degrees: int) -> tuple[S2Transform, ...]:
        return tuple(plan_s2_transform(points, degrees, spin=spin, real=spin == 0, dtype=dtype) for spin in spins)

    to_samples = transforms(bandlimit)
    same = next_bandlimit == bandlimit
    return SpinNonlinearityPlan(to_samples, to_samples if same else transforms(next_bandlimit), tuple(spins))


def samples(plan: SpinNonlinearityPlan, coefficients: Spectra) -> Signals:
    """The signals of each spin on the plan's grid: float at spin 0, complex elsewhere.

    Raises:
        InputError: coefficients of another shape or dtype than the plan's.
    """
    check_spectra(coefficients, plan.bandlimit, plan.spins, plan.dtype)
    signals = []
    for i, transform in enumerate(plan.to_samples):
        one = coefficients[..., i, :, :, :, :, :]
        signals.append(synthesis(transform, to_scalars(one) if transform.real else one))
    return tuple(signals)


def coefficients(
    plan: SpinNonlinearityPlan, signals: Signals
) -> Float[Array, "*batch spin 2 next_order parity next_half_degree channel"]:
    """Coefficients, at the next bandlimit, of signals on the plan's grid.

    Raises:
        InputError: signals of another shape or dtype than the plan's.
    """
    spectra = []
    for transform, signal in zip(plan.to_coefficients, signals, strict=True):
        one = analysis(transform, signal)
        spectra.append(from_scalars(one) if transform.real else jnp.expand_dims(one, -6))
    return jnp.concatenate(spectra, -6)


def magnitude_relu(
    signal: Complex[Array, "*batch channel"], bias: Float[Array, " channel"], *, epsilon: float = 1e-3
) -> Complex[Array, "*batch channel"]:
    r"""$\mathrm{ReLU}(|z| + b)\, z / |z|$: the phase is kept; b = 0 is the identity, b < 0 a threshold.

    Args:
        signal: of a spin other than 0.
        bias: b.
        epsilon: $|z|$ stands for $\sqrt{|z|^2 + \epsilon^2}$, so that the function has a derivative at zero, where for
            b > 0 the phase would jump.
    """
    modulus = jnp.sqrt(signal.real**2 + signal.imag**2 + epsilon**2)
    gain = jax.nn.relu(modulus + bias.reshape((1,) * (signal.ndim - 1) + (-1,))) / modulus
    return jax.lax.complex(signal.real * gain, signal.imag * gain)


class SpinNonlinearity(nn.Module):
    """`magnitude_relu` at every spin but 0, and at spin 0 a leaky ReLU of the signal plus a bias.

    Parameters: `bias` (spin, channel), zero at first, as in the paper.
    """

    negative_slope: float = 0.01
    """of the leaky ReLU; 0 is the plain one"""

    @nn.compact
    def __call__(
        self, plan: SpinNonlinearityPlan, spectra: Spectra
    ) -> Float[Array, "*batch spin 2 next_order parity next_half_degree channel"]:
        """Coefficients at the plan's next bandlimit.

        Raises:
            InputError: coefficients of another shape or dtype than the plan's.
        """
        bias = self.param("bias", nn.initializers.zeros, (len(plan.spins), spectra.shape[-1]), plan.dtype)
        acted = []
        for i, (spin, signal) in enumerate(zip(plan.spins, samples(plan, spectra), strict=True)):
            if spin:
                acted.append(magnitude_relu(signal, bias[i]))
            else:
                shifted = signal + bias[i].reshape((1,) * (signal.ndim - 1) + (-1,))
                acted.append(jax.nn.leaky_relu(shifted, self.negative_slope))
        return coefficients(plan, tuple(acted))
