r"""The Fourier step along parallels of real signals, and its plain transpose; longitude first, channels last.

Short transforms are products with real tables: XLA's Fourier transform on the CPU wants the longitudes last, and the
copies to there and back cost more than the product. Three foldings make it small: with $\psi_k = 2 \pi (k + 1/2) / n$,
half a step off, even and odd orders see the sum and the difference of opposite meridians; of those the cosines and
sines see the sum and the difference of meridians mirrored at $\pi / 2$. A quarter of the flops remain. Without opposite
meridians (n odd) the mirror stands in the middle of the parallel, and half of the flops remain. The moved origin is a
phase of each order.

Orders are in classes: even and odd ones where n is even and tables are used, else all in one class. A spectrum is a
tuple over the classes of pairs (real part, imaginary part), arrays with the order first.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Spectrum = tuple[tuple[Array, Array], ...]
# Anonymous axes: the classes differ in their numbers of orders.
Tables = tuple[tuple[Float[Array, "_order _folded"], Float[Array, "_order _folded"]], ...]
LONGEST_PRODUCT = 640  # longitudes; above, a fast Fourier transform is quicker in spite of its copies


def order_classes(num_orders: int, num_longitudes: int) -> list[np.ndarray]:
    """The orders 0 <= m < num_orders of each class."""
    step = 2 if num_longitudes % 2 == 0 and num_longitudes <= LONGEST_PRODUCT and num_orders > 1 else 1
    return [np.arange(first, num_orders, step) for first in range(step)]


def fourier_tables(num_orders: int, num_longitudes: int, dtype: np.dtype) -> Tables:
    """Cosines and negative sines of each class at the folded meridians; empty where the transform is a fast one."""
    if num_longitudes > LONGEST_PRODUCT:
        return ()
    tables = []
    classes = order_classes(num_orders, num_longitudes)
    span = num_longitudes // len(classes)
    angles = 2 * np.pi * (np.arange((span + 1) // 2) - _origin(num_longitudes)) / num_longitudes
    weights = np.ones(len(angles))
    if span % 2:
        weights[-1] = 0.5  # its own mirror image, which the folding counts twice
    for number, orders in enumerate(classes):
        phases = np.outer(orders, angles)
        pair = np.cos(phases) * weights[None], -np.sin(phases) * weights[None]
        if span % 2:
            pair[1 - number][:, -1] = 0.0  # of the antisymmetric one, zero but for rounding
        tables.append(tuple(jnp.asarray(table, dtype) for table in pair))
    return tuple(tables)


def _origin(num_longitudes: int) -> float:
    """Position of the tables' origin, in steps of longitude."""
    return -0.5 if num_longitudes % 2 == 0 else (num_longitudes - 1) / 2


def fourier(tables: Tables, signal: Float[Array, "lon parity ring channel"], num_orders: int) -> Spectrum:
    """sum_k signal[k] exp(-i m phi_k) for 0 <= m < num_orders and phi_k = 2 pi k / longitudes."""
    if not tables:
        values = jnp.moveaxis(jnp.fft.rfft(jnp.moveaxis(signal, 0, -1))[..., :num_orders], -1, 0)
        return ((values.real, values.imag),)
    out = []
    # Plain matrices behind a barrier: XLA would otherwise choose a layout of the folded signal that suits its
    # reading and not the product, and copy it once more.
    folded = [jax.lax.optimization_barrier(part.reshape(len(part), -1)) for part in _fold(signal, len(tables))]
    for number, (pair, orders) in enumerate(zip(tables, order_classes(num_orders, len(signal)), strict=True)):
        parts = (table @ part for table, part in zip(pair, folded[2 * number : 2 * number + 2], strict=True))
        real, imaginary = (part.reshape(len(part), *signal.shape[1:]) for part in parts)
        cosine, sine = _phases(orders, len(signal), real.dtype, real.ndim)
        out.append((cosine * real + sine * imaginary, cosine * imaginary - sine * real))
    return tuple(out)


def fourier_transpose(
    tables: Tables, spectrum: Spectrum, num_longitudes: int
) -> Float[Array, "lon parity ring channel"]:
    """The plain transpose of `fourier`: Re sum_m (re_m + i im_m) exp(i m phi_k)."""
    if not tables:
        ((real, imaginary),) = spectrum
        # irfft counts the orders m > 0 twice, for -m.
        half = np.where(np.arange(len(real)) > 0, 0.5, 1.0).astype(real.dtype)
        values = jax.lax.complex(real, imaginary) * half.reshape(-1, *(1,) * (real.ndim - 1))
        return jnp.moveaxis(jnp.fft.irfft(jnp.moveaxis(values, 0, -1), num_longitudes, norm="forward"), -1, 0)
    folded = []
    classes = order_classes(sum(len(real) for real, _ in spectrum), num_longitudes)
    for pair, orders, (real, imaginary) in zip(tables, classes, spectrum, strict=True):
        cosine, sine = _phases(orders, num_longitudes, real.dtype, real.ndim)
        parts = cosine * real - sine * imaginary, cosine * imaginary + sine * real
        for table, part in zip(pair, parts, strict=True):
            values = jax.lax.optimization_barrier(table.T @ part.reshape(len(part), -1))
            folded.append(values.reshape(table.shape[1], *part.shape[1:]))
    return _unfold(folded, num_longitudes)


def _phases(orders: np.ndarray, num_longitudes: int, dtype: np.dtype, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of m times the longitude of the tables' origin."""
    # A multiple of half a step: whole turns are taken off in integers.
    half_steps = round(2 * _origin(num_longitudes)) * orders % (2 * num_longitudes)
    angle = (np.pi * half_steps / num_longitudes).reshape(-1, *(1,) * (ndim - 1))
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


def _fold(signal: Array, num_classes: int) -> list[Array]:
    if num_classes == 1:
        return _mirror(signal, 1) + _mirror(signal, -1)
    half = len(signal) // 2
    total, difference = signal[:half] + signal[half:], signal[:half] - signal[half:]
    return _mirror(total, 1) + _mirror(total, -1) + _mirror(difference, -1) + _mirror(difference, 1)


def _mirror(signal: Array, sign: int) -> list[Array]:
    kept = (len(signal) + 1) // 2
    mirrored = signal[::-1][:kept]
    return [signal[:kept] + mirrored if sign > 0 else signal[:kept] - mirrored]


def _unfold(folded: list[Array], num_longitudes: int) -> Array:
    """The transpose of `_fold`."""
    if len(folded) == 2:
        return _unmirror(folded[0], folded[1], num_longitudes)
    half = num_longitudes // 2
    even = _unmirror(folded[0], folded[1], half)
    odd = _unmirror(folded[3], folded[2], half)
    return jnp.concatenate([even + odd, even - odd])


def _unmirror(symmetric: Array, antisymmetric: Array, length: int) -> Array:
    if length % 2:
        # The folding counts the middle twice; here it would be once.
        twice = np.where(np.arange(len(symmetric)) < length // 2, 1.0, 2.0).astype(symmetric.dtype)
        symmetric = symmetric * twice.reshape(-1, *(1,) * (symmetric.ndim - 1))
    total, difference = symmetric + antisymmetric, symmetric - antisymmetric
    return jnp.concatenate([total, difference[: length // 2][::-1]])
