"""The plan of the S2 transforms: which grid, which coefficients, and the tables that these two give."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from jaxgeo.errors import ConfigError, check_whole
from jaxgeo.grids.latlon import LatLonGrid, check_bandlimit
from jaxgeo.harmonics import layout, s2_fourier, s2_legendre
from jaxgeo.harmonics.precision import rounded, table_dtype


class S2Transform(eqx.Module):
    """Tables of the transforms between one grid and one bandlimit; build it with `plan_s2_transform`."""

    fourier: s2_fourier.Tables  # cosines and sines at the folded meridians
    turned_fourier: s2_fourier.Tables  # their transposes, for synthesis
    blocks: s2_legendre.Blocks  # harmonics at longitude 0 on northern rings, times their weights (spin 0), or on all
    turned: s2_legendre.Blocks  # without weights, the last two axes exchanged: products along the last axis are quicker
    weights: Float[Array, " ring"]  # of analysis: quadrature times the longitudes' step, at the rings of `blocks`
    bandlimit: int = eqx.field(static=True)  # degrees l < bandlimit in the coefficients
    spin: int = eqx.field(static=True)
    real: bool = eqx.field(static=True)  # real signals keep orders m >= 0
    grid_shape: tuple[int, int] = eqx.field(static=True)  # (latitudes, longitudes)
    has_pole: bool = eqx.field(static=True)  # the first ring is the north pole, and has no mirror image on the grid
    num_orders: int = eqx.field(static=True)  # orders |m| < num_orders are transformed, the others are zero
    num_degrees: int = eqx.field(static=True)  # likewise degrees

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.weights.dtype

    @property
    def signal_axes(self) -> int:
        """Number of axes of one signal inside the transform: (lat, lon, channel), real and imaginary part before."""
        return 3 if self.real else 4

    @property
    def coefficient_shape(self) -> tuple[int, int, int, int]:
        """(2, order, parity, degree) of the native coefficients."""
        return layout.native_shape(self.bandlimit, real=self.real)


def plan_s2_transform(
    grid: LatLonGrid,
    bandlimit: int | None = None,
    *,
    spin: int = 0,
    real: bool = True,
    dtype: DTypeLike = jnp.float32,
    aliased: bool = False,
) -> S2Transform:
    """Tables for `analysis` and `synthesis`.

    Args:
        grid: SOFT, Driscoll-Healy, Gauss-Legendre, or another whose rings mirror at the equator (but for a north pole).
        bandlimit: degrees l < bandlimit in the coefficients, the grid's own by default. Below the grid's, analysis
            truncates; above it, analysis fills with zeros and synthesis leaves out what the grid cannot hold.
        spin: spin weight s; coefficients begin at degree |s|.
        real: real signals and orders m >= 0; a signal of spin s is complex.
        dtype: of tables, signals and coefficients. Tables are computed in float64 and rounded once.
        aliased: where the bandlimit exceeds the grid's, transform the higher degrees too, at the orders that the grid
            holds: analysis then sees aliases there, and synthesis samples all degrees.

    Raises:
        ConfigError: no grid, impossible bandlimit, spin or dtype, or the grid's rings do not mirror.
    """
    precision = table_dtype(dtype)
    if not isinstance(grid, LatLonGrid):
        raise ConfigError(f"the transform needs a grid, such as soft_grid(8), got {grid!r}")
    bandlimit = grid.bandlimit if bandlimit is None else bandlimit
    check_bandlimit(bandlimit)
    check_whole("the spin", spin, None)
    if spin and real:
        raise ConfigError(f"a signal of spin {spin} is complex; plan it with real=False")
    if abs(spin) >= bandlimit:
        raise ConfigError(
            f"degrees begin at |spin|, so spin {spin} needs a bandlimit above {abs(spin)}, got {bandlimit}"
        )
    if grid.first_longitude != 0:
        raise ConfigError(
            f"longitudes must begin at 0, got {grid.first_longitude}; multiply by exp(-i m phi_0) instead"
        )
    has_pole = bool(grid.colatitudes[0] == 0)
    colatitudes, weights = np.asarray(grid.colatitudes), np.asarray(grid.weights) * 2 * np.pi / grid.num_longitudes
    if has_pole:
        colatitudes, weights = np.append(colatitudes, np.pi), np.append(weights, 0.0)
    if not np.abs(colatitudes + colatitudes[::-1] - np.pi).max() <= 1e-12:
        raise ConfigError("the transform folds north onto south and needs rings that mirror at the equator")
    held = min(bandlimit, grid.bandlimit)
    degrees = bandlimit if aliased else held
    if not spin:
        colatitudes = colatitudes[: (len(colatitudes) + 1) // 2]
    classes = s2_fourier.order_classes(held, grid.num_longitudes)
    weights = weights[: len(colatitudes)]
    # With a spin the tables see the rings of negative orders mirrored: weights stay apart.
    on_tables = np.ones_like(weights) if spin else weights
    blocks, turned = s2_legendre.legendre_blocks(degrees, classes, colatitudes, on_tables, precision, spin=spin)
    fourier, turned_fourier = s2_fourier.fourier_tables(held, grid.num_longitudes, precision)
    return S2Transform(
        fourier=fourier,
        turned_fourier=turned_fourier,
        blocks=blocks,
        turned=turned,
        weights=rounded(weights, precision),
        bandlimit=int(bandlimit),
        spin=int(spin),
        real=real,
        grid_shape=grid.shape,
        has_pole=has_pole,
        num_orders=held,
        num_degrees=degrees,
    )
