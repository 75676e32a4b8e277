"""White dense coefficients for tests."""

import numpy as np


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
