"""Products of spherical harmonic coefficients by Clebsch-Gordan coupling, without a grid, and what goes around them.

A *fragment* holds all real coefficients of one degree l, (*batch, 2l+1, channel), in the basis of
`harmonics.real_basis`; a signal is a tuple of fragments, one per degree from 0. Under a rotation each fragment is
multiplied by its real Wigner matrix, and every function here commutes with that exactly.
"""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import Tracer
from jaxtyping import Array, Complex, DTypeLike, Float

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.harmonics.clebsch_gordan import real_clebsch_gordan, selection
from jaxgeo.harmonics.layout import dense_bandlimit
from jaxgeo.harmonics.precision import einsum, rounded, table_dtype
from jaxgeo.harmonics.real_basis import real_from_complex

Fragment = Float[Array, "*batch _ _"]
Fragments = tuple[Fragment, ...]
PAIRS = ("channelwise", "full")
_MOST_BLOCKS = 3  # of degrees; more save padding and cost compilation


class CoefficientProductPlan(eqx.Module):
    """Coupling of all pairs of degrees below a bandlimit; made by `plan_coefficient_product`."""

    couplings: tuple[tuple[Float[Array, "_ _ _"], ...], ...]  # by blocks of l1 and l2: (l1 l2, m1 m2, m3 of every l3)
    blocks: tuple[tuple[int, int], ...] = eqx.field(static=True)  # first degree and one past the last
    bandlimit: int = eqx.field(static=True)
    pairs: str = eqx.field(static=True)


def plan_coefficient_product(
    bandlimit: int, pairs: str = "channelwise", *, dtype: DTypeLike = jnp.float32
) -> CoefficientProductPlan:
    """Tables of `coefficient_product`, of the order of bandlimit^6 numbers.

    Args:
        bandlimit: degrees l < bandlimit come in and out; higher ones of the product are dropped.
        pairs: "channelwise" multiplies channel c with channel c; "full" every channel with every other, so that
            channels grow with the square.
        dtype: of the tables.

    Raises:
        ConfigError: a bandlimit below 1, unknown pairs, or float64 without `jax.enable_x64(True)`.
    """
    if bandlimit < 1:
        raise ConfigError(f"a bandlimit is at least 1, got {bandlimit}")
    if pairs not in PAIRS:
        raise ConfigError(f'pairs are "channelwise" or "full", got {pairs!r}')
    precision = table_dtype(dtype)
    cuts = np.linspace(0, bandlimit, max(1, min(_MOST_BLOCKS, bandlimit // 2)) + 1).round().astype(int).tolist()
    blocks = tuple(itertools.pairwise(cuts))
    couplings = tuple(tuple(rounded(_couplings(bandlimit, x, y), precision) for y in blocks) for x in blocks)
    return CoefficientProductPlan(couplings, blocks, bandlimit, pairs)


@jax.jit
def coefficient_product(plan: CoefficientProductPlan, x: Fragments, y: Fragments) -> Fragments:
    """All couplings of two signals; the channels of degree l3 are those of its pairs (l1, l2), one after the other.

    Raises:
        InputError: signals of another bandlimit.
    """
    if not len(x) == len(y) == plan.bandlimit:
        raise InputError(f"planned for {plan.bandlimit} degrees, got signals of {len(x)} and {len(y)}")
    batch, channels = x[0].shape[:-2], x[0].shape[-1] * (y[0].shape[-1] if plan.pairs == "full" else 1)
    # A product for each pair of degrees would be L^2 products, and minutes of compilation: neighbouring degrees are
    # padded to one length and multiplied together.
    left, right = _padded(plan, x), _padded(plan, y)
    coupled = []
    for tables, a in zip(plan.couplings, left, strict=True):
        for table, b in zip(tables, right, strict=True):
            a_all, b_all = a[:, None, :, None], b[None, :, None, :]  # l1 l2 m1 m2, example, channel
            if plan.pairs == "full":
                a_all, b_all = a_all[..., :, None], b_all[..., None, :]
            outer = a_all * b_all
            coupled.append(einsum("pmn,pmk->pkn", outer.reshape(*table.shape[:2], math.prod(outer.shape[4:])), table))
    # Split, not sliced: the transpose of slices is a sum of arrays of the full size.
    by_degree = jnp.split(jnp.concatenate(coupled), [l3**2 for l3 in range(1, plan.bandlimit)], axis=1)
    result = []
    for l3, (whole, places) in enumerate(zip(by_degree, _places(plan), strict=True)):  # (l1 l2, m3, example channel)
        found = jnp.take(whole, places, axis=0, unique_indices=True, mode="clip")
        found = found.reshape(len(places), 2 * l3 + 1, math.prod(batch), channels)
        result.append(jnp.transpose(found, (2, 1, 0, 3)).reshape(*batch, 2 * l3 + 1, len(places) * channels))
    return tuple(result)


def real_fragments(dense: Complex[Array, "*batch degree order channel"]) -> Fragments:
    """Fragments of a real signal from its complex coefficients, order m at place m + L - 1.

    They are its coefficients in real orthonormal harmonics: sums of squares are kept. Those of a complex signal have a
    part that breaks the symmetry f_{l,-m} = (-1)^m conj(f_lm) and is dropped: refused where values are known and the
    part is more than rounding (the root of the last digit, of the whole), not seen under `jax.jit`.

    Raises:
        InputError: no dense coefficients, or known ones of a signal that is not real.
    """
    bandlimit = dense_bandlimit(dense)
    fragments, dropped, kept = [], [], []
    for degree in range(bandlimit):
        block = dense[..., degree, bandlimit - 1 - degree : bandlimit + degree, :]
        change = real_from_complex(degree).conj().astype(dense.dtype)
        mixed = einsum("rm,...mc->...rc", change, block)
        fragments.append(jnp.real(mixed))
        if not isinstance(mixed, Tracer):
            dropped.append(np.linalg.norm(np.imag(mixed)))
            kept.append(np.linalg.norm(np.real(mixed)))
    if np.linalg.norm(dropped) > np.sqrt(np.finfo(dense.dtype).eps) * np.linalg.norm(kept):
        raise InputError(
            f"fragments are those of real signals, f_l,-m = (-1)^m conj(f_lm), got coefficients of which a "
            f"part of norm {np.linalg.norm(dropped):.1e} breaks this and one of {np.linalg.norm(kept):.1e} does not; "
            f"take real and imaginary part of a complex signal as two channels"
        )
    return tuple(fragments)


def normalize_fragments(fragments: Fragments, epsilon: float = 1e-6) -> Fragments:
    """Each fragment over the root mean square of its components: bounded products, whatever the depth.

    Kondor, Lin and Trivedi divide by a running mean of the norm over the training set; the norm of the signal itself
    needs no state and is invariant too.
    """
    return tuple(x * jax.lax.rsqrt(jnp.mean(x**2, axis=(-2, -1), keepdims=True) + epsilon) for x in fragments)


def invariants(fragments: Fragments) -> Float[Array, "*batch feature"]:
    """What no rotation changes: all channels of degree 0, and the mean power of every other channel."""
    powers = [jnp.mean(x**2, axis=-2) for x in fragments[1:]]
    return jnp.concatenate([fragments[0][..., 0, :], *powers], axis=-1)


class DegreeMixing(nn.Module):
    """Every degree's channels by a matrix of its own: the general linear map that commutes with rotations."""

    features: int

    @nn.compact
    def __call__(self, fragments: Fragments) -> Fragments:
        """Mix; (channel in, channel out) weights `degree_l`, no bias, in the dtype of the fragments."""
        mixed = []
        for degree, x in enumerate(fragments):
            shape = (x.shape[-1], self.features)
            kernel = self.param(f"degree_{degree}", nn.initializers.lecun_normal(), shape, jnp.float32).astype(x.dtype)
            mixed.append(einsum("...rc,cd->...rd", x, kernel))
        return tuple(mixed)


def _couplings(bandlimit: int, first: tuple[int, int], second: tuple[int, int]) -> np.ndarray:
    """(l1 l2, m1 m2, m3 of every l3) of two blocks of degrees; lower degrees have zeros at the end of their m."""
    rows = [2 * stop - 1 for _, stop in (first, second)]
    table = np.zeros((first[1] - first[0], second[1] - second[0], *rows, bandlimit**2))
    for i, l1 in enumerate(range(*first)):
        for j, l2 in enumerate(range(*second)):
            for l3 in selection(l1, l2):
                if l3 < bandlimit:
                    # Scaled so that unit variance in gives unit variance out.
                    coupling = np.sqrt(2 * l3 + 1) * real_clebsch_gordan(l1, l2, l3, "e3nn")
                    table[i, j, : 2 * l1 + 1, : 2 * l2 + 1, l3**2 : (l3 + 1) ** 2] = coupling
    return table.reshape(-1, rows[0] * rows[1], bandlimit**2)


def _padded(plan: CoefficientProductPlan, fragments: Fragments) -> list[Float[Array, "degree m example channel"]]:
    """Blocks of degrees, orders first: products are then over all examples and channels at once."""
    padded = []
    for start, stop in plan.blocks:
        block = [x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:]) for x in fragments[start:stop]]
        rows = 2 * stop - 1
        padded.append(
            jnp.stack([jnp.pad(jnp.moveaxis(x, 1, 0), ((0, rows - x.shape[1]), (0, 0), (0, 0))) for x in block])
        )
    return padded


def _places(plan: CoefficientProductPlan) -> list[np.ndarray]:
    """For each degree l3 its pairs (l1, l2), sorted: where they stand among the pairs of all blocks."""
    blocks = [range(*block) for block in plan.blocks]
    order = [pair for first in blocks for second in blocks for pair in itertools.product(first, second)]
    place = {pair: i for i, pair in enumerate(order)}
    return [np.array([place[pair] for pair in sorted(order) if l3 in selection(*pair)]) for l3 in range(plan.bandlimit)]
