"""Transforms and layers of the S2CNN family written down term by term in NumPy: slow, complex, without the library.

Spectra are lists over the degree l of arrays [m, n, ...] (SO(3)) and [m, ...] (sphere), orders from -l to l, in the
family's normalisation. Signals have their channel last.
"""

import numpy as np


def turn(l, axis_angle):
    """exp(-i angle J_y) by the eigenvectors of J_y."""
    m = np.arange(-l, l)
    raising = np.diag(np.sqrt(l * (l + 1) - m * (m + 1)), -1)  # rows and columns -l..l, takes m to m + 1
    values, vectors = np.linalg.eigh((raising - raising.T) / 2j)
    return ((vectors * np.exp(-1j * axis_angle * values)[None]) @ vectors.conj().T).real


def wigner(l, alpha, beta, gamma):
    """<m| exp(-i alpha J_z) exp(-i beta J_y) exp(-i gamma J_z) |n>."""
    m = np.arange(-l, l + 1)
    return np.exp(-1j * m * alpha)[:, None] * turn(l, beta) * np.exp(-1j * m * gamma)[None]


def soft_angles(bandlimit):
    return (np.arange(2 * bandlimit) + 0.5) * np.pi / (2 * bandlimit), np.arange(2 * bandlimit) * np.pi / bandlimit


def soft_weights(bandlimit):
    """Quadrature over cos(beta) on the SOFT grid; they sum to 2."""
    beta, _ = soft_angles(bandlimit)
    odd = 2 * np.arange(bandlimit) + 1
    return 2 / bandlimit * np.sin(beta) * (np.sin(odd[None] * beta[:, None]) / odd[None]).sum(1)


def so3_forward(signal, num_degrees):
    """F^l_mn of a signal [beta, alpha, gamma, channel]; orders beyond the grid are zero, degrees alias."""
    b = signal.shape[0] // 2
    beta, _ = soft_angles(b)
    weights = soft_weights(b) / 2 / (2 * b) ** 2
    fourier = np.fft.fft2(signal, axes=(1, 2))
    spectrum = []
    for l in range(num_degrees):
        m = np.arange(-l, l + 1)
        kept = abs(m) < b
        block = np.zeros((2 * l + 1, 2 * l + 1, signal.shape[-1]), complex)
        for j in range(2 * b):
            slices = np.where((kept[:, None] & kept[None])[..., None], fourier[j][m % (2 * b)][:, m % (2 * b)], 0)
            block += weights[j] * turn(l, beta[j])[..., None] * slices
        spectrum.append(block)
    return spectrum


def so3_inverse(spectrum, bandlimit):
    """The real part of sum (2l + 1) F conj(D) on the SOFT grid of a bandlimit; degrees beyond it are left out."""
    beta, alpha = soft_angles(bandlimit)
    signal = 0
    for l, block in enumerate(spectrum[:bandlimit]):
        phase = np.exp(1j * np.arange(-l, l + 1)[:, None] * alpha[None])
        d = np.stack([turn(l, angle) for angle in beta])
        signal = signal + (2 * l + 1) * np.einsum("mnc,bmn,ma,ng->bagc", block, d, phase, phase, optimize=True)
    return signal.real


def s2_forward(signal, num_degrees):
    b = signal.shape[0] // 2
    beta, _ = soft_angles(b)
    weights = soft_weights(b) / 2 / (2 * b)
    fourier = np.fft.fft(signal, axis=1)
    spectrum = []
    for l in range(num_degrees):
        m = np.arange(-l, l + 1)
        d = np.stack([turn(l, angle)[:, l] for angle in beta])
        spectrum.append(np.einsum("b,bm,bmc->mc", weights, d, fourier[:, m % (2 * b)]))
    return spectrum


def s2_inverse(spectrum, bandlimit):
    beta, alpha = soft_angles(bandlimit)
    signal = 0
    for l, block in enumerate(spectrum[:bandlimit]):
        phase = np.exp(1j * np.arange(-l, l + 1)[:, None] * alpha[None])
        d = np.stack([turn(l, angle)[:, l] for angle in beta])
        signal = signal + (2 * l + 1) * np.einsum("mc,bm,ma->bac", block, d, phase)
    return signal.real


def so3_kernel(kernel, points, num_degrees):
    """Sum over points of kernel (in, out, point) times the conjugate of the family's D: [m, n, in, out]."""
    return [
        np.einsum("pmn,iop->mnio", np.stack([wigner(l, a, b, g) for b, a, g in points]), kernel)
        for l in range(num_degrees)
    ]


def s2_kernel(kernel, points, num_degrees, factor):
    full = so3_kernel(kernel, np.concatenate([points, np.zeros((len(points), 1))], 1), num_degrees)
    return [factor * block[:, l] for l, block in enumerate(full)]


def s2_convolution(x, y):
    return [np.einsum("mi,nio->mno", x_l, y_l.conj()) for x_l, y_l in zip(x, y, strict=True)]


def so3_convolution(x, y):
    return [np.einsum("mki,nkio->mno", x_l, y_l.conj()) for x_l, y_l in zip(x, y, strict=True)]


def sum_orders(z):
    return [block.sum(1) for block in z]


def rotate_so3(spectrum, alpha, beta, gamma):
    """Spectrum of f(Q^-1 R)."""
    return [np.einsum("mk,knc->mnc", wigner(l, alpha, beta, gamma), block) for l, block in enumerate(spectrum)]


def rotate_s2(spectrum, alpha, beta, gamma):
    return [np.einsum("mk,kc->mc", wigner(l, alpha, beta, gamma), block) for l, block in enumerate(spectrum)]
