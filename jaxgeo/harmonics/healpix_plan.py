"""Tables of the transforms of HEALPix maps: see `jaxgeo.harmonics.healpix`."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from jaxgeo.errors import ConfigError
from jaxgeo.grids.healpix import Order, check_nside, check_order, nest_to_ring
from jaxgeo.grids.latlon import check_bandlimit
from jaxgeo.harmonics import healpix_steps as steps
from jaxgeo.harmonics import healpix_tables as tables
from jaxgeo.harmonics import layout
from jaxgeo.harmonics.precision import rounded, table_dtype

_MAX_BLOCKS, _LEAST_BLOCK = 4, 32  # of orders
_NEGLIGIBLE = 1e-3  # in units of the last digit: harmonics of high order vanish near the poles


class HealpixTransform(eqx.Module):
    """Tables of the transforms between the maps of one nside and one bandlimit; see `plan_healpix_transform`."""

    mirrors: steps.Mirrors
    share: Float[Array, " point"]  # 1, 1/2 or 1/4 where a point is its own mirror image, 0 where it pads a row
    weights: Float[Array, " point"]  # share times the area that a pixel stands for in analysis
    fourier: steps.Fourier
    legendre: steps.Legendre
    turned_fourier: steps.Fourier  # the last two axes exchanged: products along the last axis are quicker
    turned_legendre: steps.Legendre
    nside: int = eqx.field(static=True)
    bandlimit: int = eqx.field(static=True)  # degrees l < bandlimit
    spin: int = eqx.field(static=True)
    real: bool = eqx.field(static=True)
    order: Order = eqx.field(static=True)
    group_rings: tuple[int, ...] = eqx.field(static=True)

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.weights.dtype

    @property
    def coefficient_shape(self) -> tuple[int, int, int, int]:
        """(2, order, parity, degree) of the native coefficients."""
        return layout.native_shape(self.bandlimit, real=self.real)


def plan_healpix_transform(
    nside: int,
    bandlimit: int | None = None,
    *,
    spin: int = 0,
    real: bool | None = None,
    order: Order = "ring",
    use_ring_weights: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> HealpixTransform:
    """Tables of the transforms of HEALPix maps.

    Args:
        nside: a power of two.
        bandlimit: degrees l < bandlimit, by default 2 nside; quadrature is poor above, useless from 4 nside on.
        spin: of the field; a spin other than 0 needs complex maps Q + i U.
        real: whether maps are real; by default they are where the spin is 0.
        order: of the maps' pixels.
        use_ring_weights: quadrature weights by ring that integrate zonal degrees below 4 nside exactly.
        dtype: float32 or float64, of tables, maps and coefficients.

    Raises:
        ConfigError: an impossible nside, bandlimit, spin, order or dtype.
    """
    check_nside(nside)
    check_order(order)
    precision = table_dtype(dtype)
    bandlimit = 2 * nside if bandlimit is None else bandlimit
    real = spin == 0 if real is None else real
    check_bandlimit(bandlimit)
    if real and spin:
        raise ConfigError(f"a field of spin {spin} is complex, because it turns with the frame; ask for real=False")
    if abs(spin) >= bandlimit:
        raise ConfigError(f"spin {spin} has no degrees below the bandlimit {bandlimit}; degrees begin at |spin|")
    groups = tables.ring_groups(nside)
    rings = np.concatenate([group.rings for group in groups])
    legendre, significant = _legendre_tables(nside, bandlimit, spin, groups, rings, precision)
    fourier = [tables.fourier_table(nside, group, limit) for group, limit in zip(groups, significant, strict=True)]
    mirrors, share, weights = _mirrors(nside, order, groups, use_ring_weights)
    return HealpixTransform(
        mirrors=mirrors,
        share=rounded(share, precision),
        weights=rounded(weights, precision),
        fourier=tuple(rounded(table, precision) for table in fourier),
        legendre=tuple(rounded(table, precision) for table in legendre),
        turned_fourier=tuple(rounded(table.swapaxes(-1, -2), precision) for table in fourier),
        turned_legendre=tuple(rounded(table.swapaxes(-1, -2), precision) for table in legendre),
        nside=nside,
        bandlimit=bandlimit,
        spin=spin,
        real=real,
        order=order,
        group_rings=tuple(len(group.rings) for group in groups),
    )


def _legendre_tables(
    nside: int, bandlimit: int, spin: int, groups: list[tables.RingGroup], rings: np.ndarray, precision: np.dtype
) -> tuple[list[np.ndarray], list[int]]:
    """Tables by blocks of orders, and for each group of rings the number of orders that it contributes to."""
    theta = tables.colatitudes(nside, rings)
    count = max(1, min(_MAX_BLOCKS, bandlimit // _LEAST_BLOCK))
    width = 2 * -(-bandlimit // (2 * count))
    starts = list(range(0, bandlimit, width))
    edges = [*starts, bandlimit + bandlimit % 2]
    ends = np.cumsum([len(group.rings) for group in groups])
    legendre, limits = [], [edges[1]] * len(groups)
    tiny = _NEGLIGIBLE * np.finfo(precision).eps
    for low, high in itertools.pairwise(edges):
        block = tables.legendre_block(bandlimit, spin, np.arange(low, min(high, bandlimit)), theta)
        block = np.pad(block, [(0, high - low - len(block)), (0, 0), (0, 0), (0, 0)])
        sides = block.reshape(*block.shape[:3], -1, len(rings))
        peak = np.abs(sides).max((0, 1, 2, 3))
        first = next(i for i in range(len(groups)) if low == 0 or i >= len(groups) - 2 or peak[: ends[i]].max() > tiny)
        for i in range(first, len(groups)):
            limits[i] = high
        kept = sides[..., (ends[first - 1] if first else 0) :]
        kept = kept.reshape(-1, 2, *kept.shape[1:3], kept.shape[3] * kept.shape[4]).swapaxes(0, 1)
        legendre.append(kept)
    return legendre, limits


def _mirrors(
    nside: int, order: Order, groups: list[tables.RingGroup], use_ring_weights: bool
) -> tuple[steps.Mirrors, np.ndarray, np.ndarray]:
    """Places of mirror images, their shares, and the shares times the pixels' areas, by point."""
    found = [tables.mirror_pixels(nside, group) for group in groups]
    # Rings of different lengths stand one after the other, as their products want them.
    turned = [(a, b) if group.shared else (a.swapaxes(1, 2), b.T) for group, (a, b) in zip(groups, found, strict=True)]
    pixels = np.concatenate([pixel.reshape(8, -1) for pixel, _ in turned], axis=1)
    share = np.concatenate([part.reshape(-1) for _, part in turned])
    if order == "nested":
        with jax.ensure_compile_time_eval():
            ring_of_nested = np.asarray(nest_to_ring(nside, jnp.arange(12 * nside**2, dtype=jnp.int32)))
        nested_of_ring = np.empty_like(ring_of_nested)
        nested_of_ring[ring_of_nested] = np.arange(12 * nside**2)
        pixels = nested_of_ring[pixels]
    real_points = np.flatnonzero(np.broadcast_to(share > 0, pixels.shape))
    scatter = np.full(12 * nside**2, -1, np.int64)
    scatter[pixels.reshape(-1)[real_points]] = real_points
    per_ring = tables.ring_weights(nside) if use_ring_weights else np.ones(2 * nside)
    of_rings = [per_ring[group.rings - 1] for group in groups]
    spread = zip(groups, of_rings, strict=True)
    of_point = np.concatenate([(np.tile if group.shared else np.repeat)(each, group.points) for group, each in spread])
    weights = share * of_point * (4 * np.pi / (12 * nside**2))
    return steps.Mirrors(rounded(pixels, np.int32), rounded(scatter, np.int32)), share, weights
