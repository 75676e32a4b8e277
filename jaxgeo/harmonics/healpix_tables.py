r"""Tables of the transform on HEALPix maps: where the eight mirror images of a pixel lie, and what each ring needs.

Every ring has 4 q pixels, q = min(i, nside) on the i-th ring from the pole. The mirrors phi -> -phi, phi -> pi - phi
and theta -> pi - theta map a map's pixels onto themselves, so that an eighth of the sphere, taken with eight
combinations of signs, decides everything: even and odd degrees minus orders, even and odd orders, cosines and sines
separate before the first product. A ring's Fourier sums then have q points instead of 4 q; as matrix products they
cost less than the Legendre step, no ring needs a length that FFTs like, and orders beyond the ring's length come out
aliased as the plain sum gives them.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float, Int

from jaxgeo.harmonics.wigner import wigner_d_columns

MAX_CAP_GROUPS, LEAST_CAP_GROUP = 4, 16  # rings of similar length share a product, padded to the longest


@dataclasses.dataclass(frozen=True)
class RingGroup:
    """Rings of the northern half, equator included, that one batched product serves."""

    rings: Int[np.ndarray, " ring"]  # counted from the pole, 1 ... 2 nside
    points: int  # of a quarter of the longest ring
    shifted: bool  # the first pixel lies half a step behind phi = 0
    shared: bool  # all rings have the same length


def ring_groups(nside: int) -> list[RingGroup]:
    """Groups from the pole to the equator: caps by length, then the belt's shifted and unshifted rings."""
    cap = np.arange(1, nside)
    # On small maps the number of products costs more than their padding.
    count = max(1, min(MAX_CAP_GROUPS, nside // LEAST_CAP_GROUP))
    edges = [round(nside * part / count) for part in range(count + 1)]
    groups = []
    for low, high in itertools.pairwise(edges):
        rings = cap[(cap > low) & (cap <= high)]
        if len(rings):
            groups.append(RingGroup(rings, int(rings.max()), True, False))
    belt = np.arange(nside, 2 * nside + 1)
    groups.append(RingGroup(belt[::2], nside, True, True))
    groups.append(RingGroup(belt[1::2], nside + 1, False, True))
    return groups


def colatitudes(nside: int, rings: Int[np.ndarray, " ring"]) -> Float[np.ndarray, " ring"]:
    """Colatitudes of rings of the northern half, in radians."""
    # Through 1 - cos = 2 sin^2(theta / 2) in the cap: arccos would lose half of the digits at the pole.
    cap = 2 * np.arcsin(np.minimum(rings, nside) / (np.sqrt(6) * nside))
    belt = np.pi / 2 - np.arcsin(np.minimum(2 * nside - rings, nside) / (1.5 * nside))
    return np.where(rings < nside, cap, belt)


def mirror_pixels(
    nside: int, group: RingGroup
) -> tuple[Int[np.ndarray, "8 point ring"], Float[np.ndarray, "point ring"]]:
    """RING pixels of the eight mirror images of a group's points, and the share of a point that is its own image.

    Images in the order north then south; of each phi, pi - phi, pi + phi, -phi. Padded points have share zero.
    """
    rings = group.rings[None, :]
    quarter = np.minimum(rings, nside)
    point = np.arange(group.points)[:, None]
    last = 4 * quarter - (1 if group.shifted else 0)
    half = last - 2 * quarter
    images = np.stack([point + 0 * quarter, half - point, 2 * quarter + point, last - point]) % (4 * quarter)[None]
    first = np.where(rings <= nside, 2 * rings * (rings - 1), 2 * nside * (nside - 1) + 4 * nside * (rings - nside))
    south_first = 12 * nside**2 - first - 4 * quarter
    pixels = np.concatenate([first[None] + images, south_first[None] + images])
    share = np.ones((group.points, len(group.rings)))
    if group.shifted:
        inside = point < quarter
        share, pixels = np.where(inside, share, 0.0), np.where(inside[None], pixels, 0)
    else:
        share[[0, -1]] = 0.5
    share[:, group.rings == 2 * nside] *= 0.5
    return pixels, share


def fourier_table(nside: int, group: RingGroup, num_orders: int) -> Float[np.ndarray, "2 2 ... half_order point"]:
    """cos m phi and -sin m phi at a quarter of each ring, for even and odd orders m < num_orders (an even number).

    Without the ring axis where all rings of the group have the same points.
    """
    rings = group.rings[:1] if group.shared else group.rings
    quarter = np.minimum(rings, nside)[:, None, None]
    order = np.arange(num_orders).reshape(-1, 2).T[:, None, :, None]
    steps = 2 * np.arange(group.points)[None, None, :] + (1 if group.shifted else 0)
    inside = steps < 2 * quarter + (0 if group.shifted else 1)
    # Reduced as integers: the angle itself would lose digits as m grows.
    angle = (order * steps[None]) % (8 * quarter) * (np.pi / (4 * quarter))
    table = np.stack([np.cos(angle), -np.sin(angle)]) * inside[None, None]
    return table[:, :, 0] if group.shared else table


def legendre_block(
    bandlimit: int, spin: int, orders: Int[np.ndarray, " order"], theta: Float[np.ndarray, " ring"]
) -> Float[np.ndarray, "order 2 half_degree side_ring"]:
    r"""Colatitude parts of the harmonics by order, parity of l - m, and l // 2 from the first order's on.

    Spin 0: $\lambda_{lm}(\theta)$. Otherwise both sides $(\lambda^{s}_{lm} \pm \lambda^{-s}_{lm}) / 2$, one after the
    other on the last axis; the first keeps under theta -> pi - theta the parity of l - m, the second has the opposite
    one.
    """
    norm = (-1) ** spin * np.sqrt((2 * np.arange(bandlimit) + 1) / (4 * np.pi))[None, :, None]
    sides = [norm * wigner_d_columns(bandlimit, orders, np.full_like(orders, -spin), theta)]
    if spin:
        other = norm * wigner_d_columns(bandlimit, orders, np.full_like(orders, spin), theta)
        sides = [(sides[0] + other) / 2, (sides[0] - other) / 2]
    dense = np.pad(np.concatenate(sides, axis=-1), [(0, 0), (0, bandlimit % 2), (0, 0)])
    table = dense.reshape(len(orders), -1, 2, dense.shape[-1]).swapaxes(1, 2)
    table[orders % 2 == 1] = table[orders % 2 == 1, ::-1].copy()
    return table[:, :, int(orders[0]) // 2 :]


def ring_weights(nside: int) -> Float[np.ndarray, " ring"]:
    """Relative weights of the rings 1 ... 2 nside, nearest to 1, that integrate zonal degrees below 4 nside exactly."""
    rings = np.arange(1, 2 * nside + 1)
    z = np.cos(colatitudes(nside, rings))
    share = np.where(rings == 2 * nside, 0.5, 1.0) * 8 * np.minimum(rings, nside) / (12 * nside**2)
    # Only even degrees: odd ones vanish by symmetry. An ill-conditioned square system: the smallest correction is
    # wanted.
    previous, legendre = np.zeros_like(z), np.ones_like(z)
    rows = []
    for l in range(4 * nside - 1):
        if l % 2 == 0:
            rows.append(legendre * share * np.sqrt(2 * l + 1))
        previous, legendre = legendre, ((2 * l + 1) * z * legendre - l * previous) / (l + 1)
    matrix = np.stack(rows)
    target = np.zeros(len(rows))
    target[0] = 1.0
    correction = np.linalg.lstsq(matrix, target - matrix.sum(1), rcond=1e-13)[0]
    return 1 + correction
