"""The Fourier step along parallels of real signals, and its plain transpose, with channels last.

Coefficients of orders m = 0, 1, ... are real arrays with real and imaginary part on the first axis.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo.harmonics.precision import from_complex


def fourier(
    signal: Float[Array, "parity ring lon channel"], num_orders: int
) -> Float[Array, "2 order parity ring channel"]:
    """sum_k signal[k] exp(-i m phi_k), m < num_orders, for phi_k = 2 pi k / longitudes."""
    spectrum = jnp.fft.rfft(signal, axis=2)[:, :, :num_orders]
    return from_complex(jnp.moveaxis(spectrum, 2, 0), 0)


def fourier_transpose(
    spectrum: Float[Array, "2 order parity ring channel"], num_longitudes: int
) -> Float[Array, "parity ring lon channel"]:
    """The plain transpose of `fourier`: Re sum_m (re_m + i im_m) exp(i m phi_k)."""
    # irfft counts the orders m > 0 twice, for -m.
    spectrum = spectrum * jnp.where(jnp.arange(spectrum.shape[1]) > 0, 0.5, 1.0).astype(spectrum.dtype).reshape(
        1, -1, 1, 1, 1
    )
    values = jnp.moveaxis(jax.lax.complex(spectrum[0], spectrum[1]), 0, 2)
    return jnp.fft.irfft(values, num_longitudes, axis=2, norm="forward")
