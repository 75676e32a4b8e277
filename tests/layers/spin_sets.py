"""Sets of spin-weighted signals for tests, in NumPy: dense complex arrays (*batch, spin, degree, order, channel)."""

import jax.numpy as jnp
import numpy as np

from jaxgeo.harmonics import layout, wigner


def random_dense(seed, spins, bandlimit, channels, batch=()):
    """White coefficients; at spin 0 those of real signals."""
    rng = np.random.default_rng(seed)
    shape = (*batch, len(spins), bandlimit, 2 * bandlimit - 1, channels)
    dense = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    degree = np.arange(bandlimit)[:, None]
    order = np.arange(1 - bandlimit, bandlimit)[None]
    for i, spin in enumerate(spins):
        dense[..., i, :, :, :] *= ((np.abs(order) <= degree) & (abs(spin) <= degree))[..., None]
        if spin == 0:
            dense[..., i, :, :, :] = real_part(dense[..., i, :, :, :])
    return dense


def conjugate(dense, spin=0):
    """Coefficients, of spin -s, of the conjugate signal."""
    order = np.arange(dense.shape[-2]) - dense.shape[-2] // 2
    return ((-1.0) ** (spin + order))[:, None] * dense[..., ::-1, :].conj()


def real_part(dense):
    """Coefficients of the real part of a signal of spin 0."""
    return (dense + conjugate(dense)) / 2


def rotate(dense, matrix):
    """Every spin turns with the same D^l."""
    out, bandlimit = np.zeros_like(dense), dense.shape[-3]
    for l in range(bandlimit):
        inner = slice(bandlimit - 1 - l, bandlimit + l)
        turn = wigner.wigner_D_of_rotations(l, np.asarray(matrix))
        out[..., l, inner, :] = np.einsum("mn,...nc->...mc", turn, dense[..., l, inner, :])
    return out


def to_spectra(dense, dtype=jnp.float64):
    """As the layers take them."""
    return layout.dense_to_native(jnp.asarray(dense), real=False).astype(dtype)


def to_dense(spectra):
    """What the layers give."""
    return np.asarray(layout.native_to_dense(spectra, real=False))
