"""The Fourier step of the SO(3) transform: between samples and sums over alpha and gamma.

The sums are matrix products: at the sizes of spherical networks these cost less than the transpositions that an FFT
needs. Angles are counted from half a step before the first sample: cosines then see the sum, sines the difference, of
samples that mirror at pi, for half of the products. The Wigner step takes the half steps back, a phase of each order.

A few parallels at a time go through the whole step: their arrays stay in the cache, and moving data costs more here
than multiplying it.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

CHUNK_BYTES = 2**19  # of samples that are transformed at a time
LEAST_COLUMNS = 16  # of a product

T = TypeVar("T")

Quarters = tuple[Array, ...]  # sums with cos cos, cos sin, sin cos, sin sin, each (m, n, beta, column)
FourierTable = Float[Array, "2 _order _half"]  # cosines, sines


def fourier_table(orders: int, samples: int) -> Float[np.ndarray, "2 order half"]:
    """Cosines and sines at the first half of the samples, from half a step before the first."""
    steps = np.arange(orders)[:, None] * (2 * np.arange(samples // 2)[None] + 1) % (2 * samples)
    phase = np.pi / samples * steps
    return np.stack([np.cos(phase), np.sin(phase)])


def half_step_phases(num_m: int, num_n: int, num_alpha: int, num_gamma: int) -> Float[np.ndarray, "4 m n"]:
    """Cosines and sines of the phase of half a step in both angles at (m, n), then at (m, -n)."""
    m, n = np.pi / num_alpha * np.arange(num_m)[:, None], np.pi / num_gamma * np.arange(num_n)[None]
    return np.stack([np.cos(m + n), np.sin(m + n), np.cos(m - n), np.sin(m - n)])


def sums(alpha: FourierTable, gamma: FourierTable, x: Float[Array, "beta alpha gamma column"]) -> Quarters:
    """Sums over alpha and gamma."""
    if x.shape[-1] == 1:
        return _sums_of_one_column(alpha, gamma, x[..., 0])
    num_beta, *_, columns = x.shape
    num_m, num_n = alpha.shape[1], gamma.shape[1]

    def transform(first: Array, rings: int, quarters: Quarters) -> Quarters:
        part = jax.lax.dynamic_slice_in_dim(x, first, rings, 0)
        result = []
        for i, half in enumerate(_mirrored(part.reshape(*part.shape[:2], -1), 1)):
            y = [_batched_dot(*pair) for pair in zip(_quarter(alpha[i]), _ordered(i, *_mirrored(half, 1)), strict=True)]
            y = [z.reshape(rings, -1, x.shape[2], columns).transpose(1, 2, 0, 3) for z in y]
            y = jnp.stack(y, 1).reshape(-1, x.shape[2], rings * columns)[:num_m]
            result += [_batched_dot(*pair) for pair in zip(gamma, _mirrored(y, 1), strict=True)]
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(quarter, z.reshape(num_m, num_n, rings, columns), first, 2)
            for quarter, z in zip(quarters, result, strict=True)
        )

    shape = num_m, num_n, num_beta, columns
    return _in_chunks(transform, x, tuple(jnp.zeros(shape, x.dtype) for _ in range(4)))


def samples(
    alpha: FourierTable, gamma: FourierTable, quarters: Quarters, weights: Float[Array, " beta"] | None = None
) -> Float[Array, "beta alpha gamma column"]:
    """The transpose of `sums`, then times a weight for each beta."""
    num_m, _, num_beta, columns = quarters[0].shape
    num_alpha, num_gamma = 2 * alpha.shape[2], 2 * gamma.shape[2]

    def transform(first: Array, rings: int, result: Array) -> Array:
        halves = []
        for i in range(2):
            half = []
            for more_waves, quarter in zip(gamma, quarters[2 * i : 2 * i + 2], strict=True):
                z = jax.lax.dynamic_slice_in_dim(quarter, first, rings, 2)
                half.append(_batched_dot(more_waves.T, z.reshape(*z.shape[:2], -1)))
            y = _parities(_unmirrored(*half, 1).reshape(num_m, -1))
            y = [_dot(waves.T, z) for waves, z in zip(_quarter(alpha[i]), y, strict=True)]
            halves.append(_unmirrored(*_ordered(i, *y), 0, num_alpha // 2))
        part = _unmirrored(*halves, 0).reshape(num_alpha, num_gamma, rings, columns).transpose(2, 0, 1, 3)
        if weights is not None:
            part = part * jax.lax.dynamic_slice_in_dim(weights, first, rings)[:, None, None, None]
        return jax.lax.dynamic_update_slice_in_dim(result, part, first, 0)

    x = jnp.zeros((num_beta, num_alpha, num_gamma, columns), quarters[0].dtype)
    return _in_chunks(transform, x, x)


def _in_chunks(transform: Callable[[Array, int, T], T], x: Array, result: T) -> T:
    """`transform(first, rings, result)` puts the transform of so many parallels of `x` in its place."""
    num_beta, columns = len(x), x.shape[-1]
    rings = max(CHUNK_BYTES * num_beta // x.nbytes, -(-LEAST_COLUMNS // columns), 1)
    if rings * 2 >= num_beta:
        return transform(jnp.zeros((), np.int32), num_beta, result)

    def step(k: Array, result: T) -> T:
        # The last chunk may repeat some parallels of the one before.
        return transform(jnp.minimum(k * rings, num_beta - rings), rings, result)

    return jax.lax.fori_loop(0, -(-num_beta // rings), step, result)


def _sums_of_one_column(alpha: FourierTable, gamma: FourierTable, x: Float[Array, "beta alpha gamma"]) -> Quarters:
    """Products with transposed factors put beta last, and nothing needs to be moved."""
    quarters, num_n = [], gamma.shape[1]
    for table, half in zip(alpha, _mirrored(x, 1), strict=True):
        waves = jnp.broadcast_to(table[None], (num_n, *table.shape))
        for more_waves, quarter in zip(gamma, _mirrored(half, 2), strict=True):
            y = _einsum("ng,xg->nx", more_waves, quarter.reshape(-1, quarter.shape[2]))
            z = _einsum("nma,nba->nmb", waves, y.reshape(num_n, *quarter.shape[:2]))
            quarters.append(jnp.swapaxes(z, 0, 1)[..., None])
    return tuple(quarters)


def _mirrored(x: Array, axis: int) -> tuple[Array, Array]:
    """Sum and difference of the first half of the samples and the second in reverse; a middle one counts once."""
    middle = -(-x.shape[axis] // 2)
    first, second = jnp.split(x, [middle], axis)
    second = jnp.flip(second, axis)
    if x.shape[axis] % 2:
        second = jnp.pad(second, [(0, int(k == axis)) for k in range(x.ndim)])
    return first + second, first - second


def _unmirrored(even: Array, odd: Array, axis: int, samples: int | None = None) -> Array:
    """The transpose of `_mirrored`; twice as many samples as those of `even` unless told."""
    second = even - odd if samples is None else jax.lax.slice_in_dim(even - odd, 0, samples - even.shape[axis], 1, axis)
    return jnp.concatenate([even + odd, jnp.flip(second, axis)], axis)


def _quarter(waves: Float[Array, "order half"]) -> tuple[Array, Array]:
    """Waves of even and of odd orders at the first quarter of the samples: half of them mirror at pi / 2."""
    return _parities(waves[:, : -(-waves.shape[1] // 2)])


def _parities(x: Array) -> tuple[Array, Array]:
    """Rows of even and of odd orders, as many."""
    x = jnp.pad(x, ((0, len(x) % 2), (0, 0))) if len(x) % 2 else x
    return x[::2], x[1::2]


def _ordered(i: int, first: Array, second: Array) -> tuple[Array, Array]:
    """Even orders go with sums where they are of cosines, with differences where they are of sines, and vice versa."""
    return (second, first) if i else (first, second)


def _dot(matrix: Array, x: Array) -> Array:
    return jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST)


def _einsum(expression: str, *operands: Array) -> Array:
    return jnp.einsum(expression, *operands, precision=jax.lax.Precision.HIGHEST)


def _batched_dot(matrix: Array, x: Array) -> Array:
    return _dot(jnp.broadcast_to(matrix[None], (len(x), *matrix.shape)), x)
