"""White coefficients for tests, in the layouts of the library."""

import jax.numpy as jnp
import numpy as np

from jaxgeo.harmonics import layout


def dense_coefficients(seed, bandlimit, *, batch=(), channels=1, real=True):
    """Standard normal coefficients (*batch, degree, order, channel) in complex128, zero where |m| > l."""
    draws = np.random.default_rng(seed)
    order = np.arange(1 - bandlimit, bandlimit)
    values = draws.normal(size=(*batch, bandlimit, 2 * bandlimit - 1, channels, 2)) @ [1, 1j]
    values *= (np.abs(order) <= np.arange(bandlimit)[:, None])[..., None]
    if real:
        mirrored = values[..., ::-1, :].conj() * ((-1.0) ** order)[:, None]
        values = (values + mirrored) / np.sqrt(2)
    return values


def native_coefficients(seed, bandlimit, *, batch=(), channels=1, real=True, dtype=jnp.float64):
    """The same in the native layout; zeros where no coefficient stands."""
    dense = dense_coefficients(seed, bandlimit, batch=batch, channels=channels, real=real)
    return layout.dense_to_native(jnp.asarray(dense), real=real).astype(dtype)
