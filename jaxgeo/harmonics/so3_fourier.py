"""The Fourier step of the SO(3) transform: between samples and sums over alpha and gamma.

The sums are matrix products: at the sizes of spherical networks these cost less than the transpositions that an FFT
needs. Angles are counted from half a step before the first sample: cosines then see the sum, sines the difference, of
samples that mirror at pi, for half of the products. The Wigner step takes the half steps back, a phase of each order.

Where this saves more than it costs, even and odd orders over alpha part too, by samples that mirror at pi / 2. Products
are quick; moving the data takes most of the time, so that one column and many are better served in different orders.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

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
    num_beta, _, num_gamma, columns = x.shape
    num_m, num_n = alpha.shape[1], gamma.shape[1]
    quarters = []
    for i, half in enumerate(_mirrored(x.reshape(*x.shape[:2], -1), 1)):
        parts = zip(_quarter(alpha[i]), _ordered(i, *_mirrored(half, 1)), strict=True)
        y = [_batched_dot(waves, z).reshape(num_beta, -1, num_gamma, columns) for waves, z in parts]
        y = jnp.stack([z.transpose(1, 2, 0, 3) for z in y], 1).reshape(-1, num_gamma, num_beta * columns)[:num_m]
        for waves, z in zip(gamma, _mirrored(y, 1), strict=True):
            quarters.append(_batched_dot(waves, z).reshape(num_m, num_n, num_beta, columns))
    return tuple(quarters)


def samples(
    alpha: FourierTable, gamma: FourierTable, quarters: Quarters, weights: Float[Array, " beta"] | None = None
) -> Float[Array, "beta alpha gamma column"]:
    """The transpose of `sums`, then times a weight for each beta."""
    if quarters[0].shape[-1] == 1:
        x = _samples_of_one_column(alpha, gamma, quarters)
        return x if weights is None else x * weights[:, None, None, None]
    num_m, num_n, num_beta, columns = quarters[0].shape
    num_alpha, num_gamma = 2 * alpha.shape[2], 2 * gamma.shape[2]
    halves = []
    for j, waves in enumerate(gamma):
        y = [_dot(table.T, z.reshape(num_m, -1)) for table, z in zip(alpha, quarters[j::2], strict=True)]
        halves.append(_batched_dot(waves.T, _unmirrored(*y, axis=0).reshape(num_alpha, num_n, -1)))
    x = _unmirrored(*halves, axis=1).reshape(num_alpha, num_gamma, num_beta, columns)
    if weights is not None:
        x = x * weights[None, None, :, None]
    return x.transpose(2, 0, 1, 3)


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


def _samples_of_one_column(
    alpha: FourierTable, gamma: FourierTable, quarters: Quarters
) -> Float[Array, "beta alpha gamma 1"]:
    num_m, _, num_beta, _ = quarters[0].shape
    num_alpha, num_gamma = 2 * alpha.shape[2], 2 * gamma.shape[2]
    halves = []
    for i in range(2):
        y = [_batched_dot(waves.T, z[..., 0]) for waves, z in zip(gamma, quarters[2 * i : 2 * i + 2], strict=True)]
        parts = zip(_quarter(alpha[i]), _parities(_unmirrored(*y, axis=1).reshape(num_m, -1)), strict=True)
        y = [_batched_dot(waves.T, z.reshape(-1, num_gamma, num_beta).transpose(2, 0, 1)) for waves, z in parts]
        halves.append(_unmirrored(*_ordered(i, y[0], y[1]), axis=1, samples=num_alpha // 2))
    return _unmirrored(*halves, axis=1)[..., None]


def _mirrored(x: Array, axis: int) -> tuple[Array, Array]:
    """Sum and difference of the first half of the samples and the second in reverse; a middle one counts once."""
    middle = -(-x.shape[axis] // 2)
    first, second = jnp.split(x, [middle], axis)
    second = jnp.flip(second, axis)
    if x.shape[axis] % 2:
        second = jnp.pad(second, [(0, int(k == axis)) for k in range(x.ndim)])
    return first + second, first - second


def _unmirrored(even: Array, odd: Array, *, axis: int, samples: int | None = None) -> Array:
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
