"""The Fourier step of the SO(3) transform: between samples and sums over alpha and gamma.

The sums are matrix products: at the sizes of spherical networks these cost less than the transpositions that an FFT
needs. Angles are counted from half a step before the first sample: cosines then see the sum, sines the difference, of
samples that mirror at pi, and even and odd orders part by samples that mirror at pi / 2, for a quarter of the products.
The Wigner step takes the half steps back, a phase of each order.

Products are quick; moving the data takes most of the time. Each pass between two products folds or unfolds one angle
and brings it where the next product wants it. One column and many are better served in different orders.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from jaxgeo.harmonics.precision import einsum, matmul
from jaxgeo.harmonics.so3_tables import PARTS, even, parted

Sums = Float[Array, "2 2 m 2 2 n column beta"]  # cosine or sine, parity and half of the order, over alpha; over gamma
_OneKind = Float[Array, "m n beta"]
SumsByKind = tuple[_OneKind, _OneKind, _OneKind, _OneKind]  # cc, cs, sc, ss: of one column, which saves copies
Parts = Float[Array, "m n beta 4 column"]  # see `so3_tables.PARTS`
FourierTable = Float[Array, "2 _order _half"]  # cosines, sines; even orders first


def fourier_table(orders: int, samples: int) -> Float[np.ndarray, "2 order half"]:
    """Cosines and sines at the first half of the samples, from half a step before the first."""
    steps = parted(0, even(orders))[:, None] * (2 * np.arange(samples // 2)[None] + 1) % (2 * samples)
    phase = np.pi / samples * steps
    return np.stack([np.cos(phase), np.sin(phase)])


def joined(sums: Sums | SumsByKind) -> Sums:
    """Sums of all kinds in one array."""
    if not isinstance(sums, tuple):
        return sums
    num_m, num_n, num_beta = sums[0].shape
    cc, cs, sc, ss = (kind.reshape(2, num_m // 2, 2, num_n // 2, 1, num_beta) for kind in sums)
    return jnp.stack([jnp.stack([cc, cs], 2), jnp.stack([sc, ss], 2)])


def parts_of(cc: Array, cs: Array, sc: Array, ss: Array) -> Parts | Float[Array, "m n 4 beta"]:
    """Sums with exp(-i (m alpha + n gamma)), and at -n with beta in reverse, from those with cosines and sines, each
    of axes (m, n, beta, column), or (m, n, beta) of one column."""
    return jnp.stack([cc - ss, -sc - cs, (cc + ss)[:, :, ::-1], (cs - sc)[:, :, ::-1]], cc.ndim - 1)


def sums(
    alpha: FourierTable,
    gamma: FourierTable,
    x: Float[Array, "beta alpha gamma column"],
    weights: Float[Array, " beta"] | None = None,
) -> Parts | SumsByKind:
    """Sums over alpha and gamma of samples, times a weight for each beta."""
    if x.shape[-1] == 1:
        x = x if weights is None else x * weights[:, None, None, None]
        return _sums_of_one_column(alpha, gamma, x[..., 0])
    num_beta, _, num_gamma, columns = x.shape
    num_m, num_n = alpha.shape[1], gamma.shape[1]
    waves, more_waves = quarter_waves(alpha), quarter_waves(gamma)
    y = matmul(waves, _folded(x.swapaxes(0, 1)).reshape(*waves.shape[::2], -1))
    # This transposition stands alone: as part of another operation XLA's takes several times longer. Without a layout
    # of its own it is two passes: a copy in the order before, and one into the order after.
    y = y.reshape(2, num_m, num_beta, num_gamma, columns).transpose(1, 0, 3, 2, 4)
    y = with_layout_constraint(y, Layout(major_to_minor=tuple(range(y.ndim))))

    def over_gamma(step: Array, y: Array, parts: Array) -> Array:
        z = jax.lax.dynamic_slice_in_dim(y, 2 * step, 2)
        z = z if weights is None else z * weights[None, None, None, :, None]
        z = _folded(z.reshape(4, num_gamma, -1).swapaxes(0, 1)).reshape(4, more_waves.shape[2], 4, -1)
        z = _batched_dot(more_waves, z.transpose(2, 0, 1, 3)).reshape(2, 2, 2, num_n, num_beta, columns)
        z = parts_of(z[:, 0, 0], z[:, 0, 1], z[:, 1, 0], z[:, 1, 1])
        return jax.lax.dynamic_update_slice(
            parts, z.reshape(2, *parts.shape[1:]), (2 * step,) + (0,) * (parts.ndim - 1)
        )

    # Two orders at a time, which stay in the cache. Their parts take their place where they are as large.
    shape = num_m, num_n, num_beta, PARTS, columns
    if math.prod(shape) == y.size:
        return jax.lax.fori_loop(0, num_m // 2, lambda step, y: over_gamma(step, y, y), y).reshape(shape)
    return jax.lax.fori_loop(0, num_m // 2, lambda step, out: over_gamma(step, y, out), jax.lax.empty(shape, x.dtype))


def samples(
    alpha: FourierTable, gamma: FourierTable, sums: Sums | SumsByKind, weights: Float[Array, " beta"] | None = None
) -> Float[Array, "beta alpha gamma column"]:
    """From sums to samples, the transpose of `sums`, then times a weight for each beta."""
    if isinstance(sums, tuple):
        x = _samples_of_one_column(alpha, gamma, sums)
        return x if weights is None else x * weights[:, None, None, None]
    _, _, num_m, _, _, num_n, columns, num_beta = sums.shape
    half, num_gamma = alpha.shape[2], 2 * gamma.shape[2]
    waves, more_waves = turned_quarter_waves(alpha), turned_quarter_waves(gamma)
    y = matmul(waves, sums.reshape(4, num_m, -1)).reshape(2, 2, -1, 4, num_n, columns, num_beta)

    def over_gamma(step: Array, x: Array) -> Array:
        z = jax.lax.dynamic_index_in_dim(y, step, 2, keepdims=False).swapaxes(-1, -2)
        z = z if weights is None else z * weights[None, None, None, None, :, None]
        even, odd = z[0, 0] + z[0, 1], z[0, 0] - z[0, 1]
        sine_odd, sine_even = z[1, 1] + z[1, 0], z[1, 1] - z[1, 0]
        z = jnp.stack([even + sine_odd, odd + sine_even, odd - sine_even, even - sine_odd])
        z = _batched_dot(more_waves, z.reshape(4, 4, num_n, -1)).reshape(4, 2, 2, -1, num_beta * columns)
        z = _unfolded(z, num_gamma).reshape(4, num_gamma, num_beta, columns).transpose(0, 2, 1, 3)
        # Backwards: a middle sample mirrors onto itself, and the first image is its value.
        for image, place in ((3, 2 * half - 1 - step), (2, half + step), (1, half - 1 - step), (0, step)):
            x = jax.lax.dynamic_update_slice(x, z[image, :, None], (0, place, 0, 0))
        return x

    # The four samples that mirror at pi and pi / 2 at a time, which stay in the cache. There columns come to stand last
    # for nothing; a transposition of the whole array takes longer than the products.
    shape = num_beta, 2 * half, num_gamma, columns
    return jax.lax.fori_loop(0, y.shape[2], over_gamma, jax.lax.empty(shape, y.dtype))


def _sums_of_one_column(alpha: FourierTable, gamma: FourierTable, x: Float[Array, "beta alpha gamma"]) -> SumsByKind:
    """Products with transposed factors put beta last, and nothing needs to be moved."""
    quarters, num_n = [], gamma.shape[1]
    for waves, half in zip(alpha, _mirrored(x, 1), strict=True):
        for more_waves, quarter in zip(gamma, _mirrored(half, 2), strict=True):
            y = einsum("ng,xg->nx", more_waves, quarter.reshape(-1, quarter.shape[2]))
            z = einsum("ma,xa->mx", waves, y.reshape(-1, quarter.shape[1]))
            quarters.append(z.reshape(len(z), num_n, -1))
    cc, cs, sc, ss = quarters
    return cc, cs, sc, ss


def _samples_of_one_column(
    alpha: FourierTable, gamma: FourierTable, sums: SumsByKind
) -> Float[Array, "beta alpha gamma 1"]:
    num_m, _, num_beta = sums[0].shape
    num_alpha, num_gamma = 2 * alpha.shape[2], 2 * gamma.shape[2]
    halves = []
    for i, table in enumerate(quarter_waves(alpha).reshape(2, 2, num_m // 2, -1)):
        kinds = zip(sums[2 * i : 2 * i + 2], gamma, strict=True)
        y = _unmirrored(*(_batched_dot(waves.T, kind) for kind, waves in kinds), axis=1)
        parts = zip(table, y.reshape(2, num_m // 2, num_gamma, num_beta), strict=True)
        y = [_batched_dot(waves.T, part.transpose(2, 0, 1)) for waves, part in parts]
        halves.append(_unmirrored(*(y[::-1] if i else y), axis=1, samples=num_alpha // 2))
    return _unmirrored(*halves, axis=1)[..., None]


def _folded(x: Array) -> Float[Array, "2 2 quarter ..."]:
    """Sums and differences of samples that mirror at pi and pi / 2, along the first axis: as cosines or sines, of even
    or of odd orders, meet them."""
    cosine, sine = (_mirrored(half, 0) for half in _mirrored(x, 0))
    return jnp.stack([jnp.stack(cosine), jnp.stack(sine[::-1])])


def _unfolded(x: Float[Array, "image 2 2 quarter column"], samples: int) -> Float[Array, "image sample column"]:
    """The transpose of `_folded`, of several images along their second axis."""
    cosine, sine = (x[:, 0, 0], x[:, 0, 1]), (x[:, 1, 1], x[:, 1, 0])
    first = _unmirrored(cosine[0] + sine[0], cosine[1] + sine[1], axis=1, samples=samples // 2)
    second = _unmirrored(cosine[0] - sine[0], cosine[1] - sine[1], axis=1, samples=samples // 2)
    return jnp.concatenate([first, jnp.flip(second, 1)], 1)


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


def quarter_waves(waves: FourierTable) -> Float[Array, "4 order quarter"]:
    """The first quarter of the samples, apart for cosines of even and odd orders, then sines."""
    return waves[:, :, : -(-waves.shape[2] // 2)].reshape(4, waves.shape[1] // 2, -1)


def turned_quarter_waves(waves: FourierTable) -> Float[Array, "4 quarter order"]:
    """The same with the last two axes exchanged, before a product and not in it: XLA's quick products take no factor
    that they would have to turn."""
    return jax.lax.optimization_barrier(quarter_waves(waves).swapaxes(1, 2))


def _batched_dot(matrix: Array, x: Array) -> Array:
    return matmul(jnp.broadcast_to(matrix[None], (len(x), *matrix.shape)), x)
