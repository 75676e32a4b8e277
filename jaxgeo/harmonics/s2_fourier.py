r"""The Fourier step along parallels of real signals, and its plain transpose; longitude first, channels last.

Short transforms are products with real tables: XLA's Fourier transform on the CPU wants the longitudes last, and the
copies to there and back cost more than the product. Three foldings make it small: with $\psi_k = 2 \pi (k + 1/2) / n$,
half a step off, even and odd orders see the sum and the difference of opposite meridians; of those the cosines and
sines see the sum and the difference of meridians mirrored at $\pi / 2$. A quarter of the flops remain. Without opposite
meridians (n odd) the mirror stands in the middle of the parallel, and half of the flops remain. The moved origin is a
phase of each order, which commutes with the Legendre step: `turn` can wait until the coefficients are copied anyway.

Orders are in classes: even and odd ones where n is even and tables are used, else all in one class; and in blocks of a
class, those of the Legendre step. A spectrum is a tuple over the classes of tuples over the blocks of pairs (real part,
imaginary part), arrays with the order first.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo.harmonics.precision import matmul, rounded

Pair = tuple[Array, Array]
Spectrum = tuple[tuple[Pair, ...], ...]
# Anonymous axes (order, folded) or (folded, order): the classes differ in their numbers of orders.
Tables = tuple[tuple[Float[Array, "_ _"], Float[Array, "_ _"]], ...]
MANY_COLUMNS = 1024  # from here on one product per block is quicker than one that is then copied block by block
LONGEST_PRODUCT = 640  # longitudes; above, a fast Fourier transform is quicker in spite of its copies


def order_classes(num_orders: int, num_longitudes: int) -> list[np.ndarray]:
    """The orders 0 <= m < num_orders of each class."""
    step = 2 if num_longitudes % 2 == 0 and num_longitudes <= LONGEST_PRODUCT and num_orders > 1 else 1
    return [np.arange(first, num_orders, step) for first in range(step)]


def fourier_tables(num_orders: int, num_longitudes: int, dtype: np.dtype) -> tuple[Tables, Tables]:
    """Cosines and negative sines of each class at the folded meridians; empty where the transform is a fast one.

    Returns:
        Tables (order, folded) of `fourier` and their transposes (folded, order), of `fourier_transpose`.
    """
    if num_longitudes > LONGEST_PRODUCT:
        return (), ()
    tables, turned = [], []
    classes = order_classes(num_orders, num_longitudes)
    span = num_longitudes // len(classes)
    angles = 2 * np.pi * (np.arange((span + 1) // 2) - _origin(num_longitudes)) / num_longitudes
    weights = np.ones(len(angles))
    if span % 2:
        weights[-1] = 0.5  # its own mirror image, which the folding counts twice
    for number, orders in enumerate(classes):
        phases = np.outer(orders, angles)
        pair = np.cos(phases), -np.sin(phases)
        if span % 2:
            pair[1 - number][:, -1] = 0.0  # of the antisymmetric one, zero but for rounding
        tables.append(tuple(rounded(table * weights[None], dtype) for table in pair))
        turned.append(tuple(rounded(np.ascontiguousarray(table.T), dtype) for table in pair))
    return tuple(tables), tuple(turned)


def _origin(num_longitudes: int) -> float:
    """Position of the tables' origin, in steps of longitude."""
    return -0.5 if num_longitudes % 2 == 0 else (num_longitudes - 1) / 2


def fold(signal: Float[Array, "*ring_and_more lon channel"], num_classes: int) -> list[Array]:
    """Sums and differences of meridians in the order in which `fourier` takes them, from signals as they come."""
    if num_classes == 1:
        return [_mirror(signal, 1), _mirror(signal, -1)]
    half = signal.shape[-2] // 2
    first, second = signal[..., :half, :], signal[..., half:, :]
    total, difference = first + second, first - second
    return [_mirror(total, 1), _mirror(total, -1), _mirror(difference, -1), _mirror(difference, 1)]


def fourier(tables: Tables, folded: list[Array], cuts: list[list[int]]) -> Spectrum:
    """sum_k signal[k] exp(-i m psi_k) with the tables' origin of longitude, from arrays (folded, parity, ring, column).

    Args:
        tables: the first ones of `fourier_tables`.
        folded: from `fold`, longitude first.
        cuts: per class the numbers of orders in its blocks.
    """
    # Plain matrices behind a barrier: XLA would otherwise choose a layout of the folded signal that suits its
    # reading and not the product, and copy it once more.
    matrices = [jax.lax.optimization_barrier(part.reshape(len(part), -1)) for part in folded]
    out = []
    for number, pair in enumerate(tables):
        parts = zip(pair, matrices[2 * number : 2 * number + 2], strict=True)
        blocks = (_by_blocks(table, part, cuts[number]) for table, part in parts)
        shape = folded[0].shape[1:]
        out.append(
            tuple((re.reshape(len(re), *shape), im.reshape(len(im), *shape)) for re, im in zip(*blocks, strict=True))
        )
    return tuple(out)


def _by_blocks(table: Array, values: Array, counts: list[int]) -> list[Array]:
    stops = np.cumsum(counts)[:-1]
    if values.shape[1] < MANY_COLUMNS:
        return jnp.split(matmul(table, values), stops)
    return [matmul(rows, values) for rows in jnp.split(table, stops)]


def fourier_transpose(
    turned: Tables, spectrum: tuple[Pair, ...], num_longitudes: int
) -> Float[Array, "lon parity ring channel"]:
    """The plain transpose of `fold` and `fourier`: Re sum_m (re_m + i im_m) exp(i m psi_k), unfolded.

    Args:
        turned: the second ones of `fourier_tables`.
        spectrum: one pair per class.
        num_longitudes: of the signal.
    """
    folded = []
    for pair, parts in zip(turned, spectrum, strict=True):
        for table, part in zip(pair, parts, strict=True):
            values = jax.lax.optimization_barrier(matmul(table, part.reshape(len(part), -1)))
            folded.append(values.reshape(len(table), *part.shape[1:]))
    return _unfold(folded, num_longitudes)


def fast_fourier(signal: Float[Array, "lon parity ring channel"], num_orders: int, cuts: list[list[int]]) -> Spectrum:
    """sum_k signal[k] exp(-i m phi_k) for 0 <= m < num_orders and phi_k = 2 pi k / longitudes."""
    values = jnp.moveaxis(jnp.fft.rfft(jnp.moveaxis(signal, 0, -1))[..., :num_orders], -1, 0)
    stops = np.cumsum(cuts[0])[:-1]
    return (tuple(zip(jnp.split(values.real, stops), jnp.split(values.imag, stops), strict=True)),)


def fast_fourier_transpose(spectrum: tuple[Pair, ...], num_longitudes: int) -> Float[Array, "lon parity ring channel"]:
    """The plain transpose of `fast_fourier`."""
    ((real, imaginary),) = spectrum
    # irfft counts the orders m > 0 twice, for -m.
    half = np.where(np.arange(len(real)) > 0, 0.5, 1.0).astype(real.dtype)
    values = jax.lax.complex(real, imaginary) * half.reshape(-1, *(1,) * (real.ndim - 1))
    return jnp.moveaxis(jnp.fft.irfft(jnp.moveaxis(values, 0, -1), num_longitudes, norm="forward"), -1, 0)


def origin_phases(num_orders: int, num_longitudes: int) -> list[np.ndarray]:
    """Per class m times the longitude of the tables' origin, in [0, 2 pi); empty where the transform is a fast one."""
    if num_longitudes > LONGEST_PRODUCT:
        return []
    # A multiple of half a step: whole turns are taken off in integers.
    half_steps = round(2 * _origin(num_longitudes))
    classes = order_classes(num_orders, num_longitudes)
    return [np.pi / num_longitudes * (half_steps * orders % (2 * num_longitudes)) for orders in classes]


def turn(pair: Pair, phases: np.ndarray) -> Pair:
    """Real and imaginary part of exp(-i phase) times a pair; orders are the first axis. Turn back by -phases."""
    real, imaginary = pair
    angle = phases.reshape(-1, *(1,) * (real.ndim - 1))
    cosine, sine = jnp.asarray(np.cos(angle), real.dtype), jnp.asarray(np.sin(angle), real.dtype)
    return cosine * real + sine * imaginary, cosine * imaginary - sine * real


def _mirror(signal: Array, sign: int) -> Array:
    kept = (signal.shape[-2] + 1) // 2
    first, mirrored = signal[..., :kept, :], signal[..., ::-1, :][..., :kept, :]
    return first + mirrored if sign > 0 else first - mirrored


def _unfold(folded: list[Array], num_longitudes: int) -> Array:
    """The transpose of `fold`, longitude first: one concatenation, since one of others would be copied once more."""
    if len(folded) == 2:
        return jnp.concatenate(_unmirror(folded[0], folded[1], num_longitudes))
    half = num_longitudes // 2
    even = _unmirror(folded[0], folded[1], half)
    odd = _unmirror(folded[3], folded[2], half)
    pairs = list(zip(even, odd, strict=True))
    return jnp.concatenate([e + o for e, o in pairs] + [e - o for e, o in pairs])


def _unmirror(symmetric: Array, antisymmetric: Array, length: int) -> list[Array]:
    return [symmetric + antisymmetric, (symmetric - antisymmetric)[: length // 2][::-1]]
