r"""The Legendre step: from Fourier coefficients on rings to harmonic coefficients, and its plain transpose.

With lambda_lm(theta) = Y_lm(theta, 0), real and lambda_lm(pi - theta) = (-1)^(l-m) lambda_lm(theta), the sum and the
difference of mirrored rings meet the even and the odd l - m alone: half the table and half the flops. The orders are
cut into blocks, each with the degrees that its first order has, so that the empty triangle l < m is neither stored
nor multiplied.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo.harmonics.wigner import wigner_d_columns

# Anonymous axes: blocks differ in their numbers of orders and degrees.
Blocks = tuple[Float[Array, "_order _parity _degree _ring"], ...]
_MAX_BLOCKS = 8


def harmonic_columns(
    bandlimit: int, orders: np.ndarray, spin: int, colatitudes: np.ndarray
) -> Float[np.ndarray, "order degree ring"]:
    r"""$_s\lambda_{lm}(\theta)$, the spin-s harmonic at longitude 0; rows are l = 0..L-1, zero where l < |m| or |s|."""
    columns = wigner_d_columns(bandlimit, orders, np.full_like(orders, -spin), colatitudes)
    norm = (-1.0) ** spin * np.sqrt((2 * np.arange(bandlimit) + 1) / (4 * np.pi))
    return columns * norm[None, :, None]


def order_blocks(num_orders: int) -> list[range]:
    """The orders in equal blocks."""
    width = max(1, -(-num_orders // _MAX_BLOCKS))
    return [range(start, min(start + width, num_orders)) for start in range(0, num_orders, width)]


def legendre_blocks(
    bandlimit: int, num_orders: int, colatitudes: Float[np.ndarray, " ring"], dtype: np.dtype, *, spin: int = 0
) -> Blocks:
    """Tables lambda_lm(theta) for 0 <= m < num_orders, by blocks, in the native order of degrees.

    Spin 0 needs northern rings only and has a parity axis of 2, that of l - m; another spin has one of 1, and both
    parities stand one after the other on the degree axis.
    """
    blocks = []
    for block in order_blocks(num_orders):
        m = np.array(block)
        columns = harmonic_columns(bandlimit, m, spin, colatitudes)
        columns = np.pad(columns, [(0, 0), (0, bandlimit % 2), (0, 0)])
        by_parity = columns.reshape(len(m), -1, 2, len(colatitudes)).swapaxes(1, 2)
        by_parity[m % 2 == 1] = by_parity[m % 2 == 1, ::-1].copy()
        used = by_parity[:, :, block[0] // 2 :]
        if spin:
            used = used.reshape(len(m), 1, -1, len(colatitudes))
        blocks.append(jnp.asarray(np.ascontiguousarray(used), dtype))
    return tuple(blocks)


def contract_rings(
    blocks: Blocks, rings: Float[Array, "2 order parity ring channel"]
) -> Float[Array, "2 order 2 degree channel"]:
    """Native coefficients sum_r lambda_lm(theta_r) rings[m, r]; for spin 0 `rings` are sums and differences."""
    out, start, num_degrees = [], 0, _num_half_degrees(blocks)
    for block in blocks:
        stop = start + block.shape[0]
        product = jnp.einsum("mpkr,zmprc->zmpkc", block, rings[:, start:stop])
        product = product.reshape(*product.shape[:2], 2, -1, product.shape[-1])
        missing = num_degrees - product.shape[3]
        out.append(jnp.pad(product, [(0, 0), (0, 0), (0, 0), (missing, 0), (0, 0)]))
        start = stop
    return jnp.concatenate(out, 1)


def expand_degrees(
    blocks: Blocks, coefficients: Float[Array, "2 order 2 degree channel"]
) -> Float[Array, "2 order parity ring channel"]:
    """The plain transpose of `contract_rings`: Fourier coefficients on rings, for spin 0 their even and odd parts."""
    out, start = [], 0
    for block in blocks:
        stop = start + block.shape[0]
        used = block.shape[1] * block.shape[2] // 2
        values = coefficients[:, start:stop, :, coefficients.shape[3] - used :]
        values = values.reshape(2, *block.shape[:3], values.shape[-1])
        out.append(jnp.einsum("mpkr,zmpkc->zmprc", block, values))
        start = stop
    return jnp.concatenate(out, 1)


def _num_half_degrees(blocks: Blocks) -> int:
    return blocks[0].shape[1] * blocks[0].shape[2] // 2
