"""Products of spherical harmonic coefficients by Clebsch-Gordan coupling, without a grid, and what goes around them.

A *fragment* holds all real coefficients of one degree l, (*batch, 2l+1, channel), in the basis of
`harmonics.real_basis`; a signal is a tuple of fragments, one per degree from 0. Under a rotation each fragment is
multiplied by its real Wigner matrix, and every function here commutes with that exactly.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Complex, DTypeLike, Float

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.harmonics.clebsch_gordan import real_clebsch_gordan, selection
from jaxgeo.harmonics.precision import einsum, rounded, table_dtype
from jaxgeo.harmonics.real_basis import real_from_complex

Fragment = Float[Array, "*batch _ _"]
Fragments = tuple[Fragment, ...]
PAIRS = ("channelwise", "full")


class CoefficientProductPlan(eqx.Module):
    """Coupling of all pairs of degrees below a bandlimit; made by `plan_coefficient_product`."""

    couplings: tuple[Float[Array, "_ _"], ...]  # one per pair (l1, l2): (m1 m2, all m3 of all l3 one after the other)
    degrees: tuple[tuple[int, int, tuple[int, ...]], ...] = eqx.field(static=True)  # (l1, l2, degrees that come out)
    bandlimit: int = eqx.field(static=True)
    pairs: str = eqx.field(static=True)


def plan_coefficient_product(
    bandlimit: int, pairs: str = "channelwise", *, dtype: DTypeLike = jnp.float32
) -> CoefficientProductPlan:
    """Tables of `coefficient_product`: one constant matrix per pair of degrees gives all degrees of the result.

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
    couplings, degrees = [], []
    for l1 in range(bandlimit):
        for l2 in range(bandlimit):
            out = tuple(l3 for l3 in selection(l1, l2) if l3 < bandlimit)
            if not out:
                continue
            # Scaled so that unit variance in gives unit variance out.
            tables = [
                np.sqrt(2 * l3 + 1) * real_clebsch_gordan(l1, l2, l3, "e3nn").reshape(-1, 2 * l3 + 1) for l3 in out
            ]
            couplings.append(rounded(np.concatenate(tables, axis=1), precision))
            degrees.append((l1, l2, out))
    return CoefficientProductPlan(tuple(couplings), tuple(degrees), bandlimit, pairs)


def coefficient_product(plan: CoefficientProductPlan, x: Fragments, y: Fragments) -> Fragments:
    """All couplings of two signals; the channels of degree l3 are those of its pairs (l1, l2), one after the other.

    Raises:
        InputError: signals of another bandlimit.
    """
    if not len(x) == len(y) == plan.bandlimit:
        raise InputError(f"planned for {plan.bandlimit} degrees, got signals of {len(x)} and {len(y)}")
    out: list[list[Array]] = [[] for _ in range(plan.bandlimit)]
    for (l1, l2, degrees), coupling in zip(plan.degrees, plan.couplings, strict=True):
        if plan.pairs == "full":
            outer = einsum("...ac,...bd->...abcd", x[l1], y[l2])
        else:
            outer = x[l1][..., :, None, :] * y[l2][..., None, :, :]
        outer = outer.reshape(*x[l1].shape[:-2], coupling.shape[0], -1)
        coupled = einsum("pk,...pc->...kc", coupling, outer)
        start = 0
        for l3 in degrees:
            out[l3].append(coupled[..., start : start + 2 * l3 + 1, :])
            start += 2 * l3 + 1
    return tuple(jnp.concatenate(parts, axis=-1) for parts in out)


def real_fragments(dense: Complex[Array, "*batch degree order channel"]) -> Fragments:
    """Fragments of a real signal from its complex coefficients, order m at place m + L - 1.

    They are its coefficients in real orthonormal harmonics: sums of squares are kept.
    """
    bandlimit = dense.shape[-3]
    fragments = []
    for degree in range(bandlimit):
        block = dense[..., degree, bandlimit - 1 - degree : bandlimit + degree, :]
        change = real_from_complex(degree).conj().astype(dense.dtype)
        mixed = einsum("rm,...mc->...rc", change, block)
        fragments.append(jnp.real(mixed))
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
