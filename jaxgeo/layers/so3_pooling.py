"""Changes of resolution of signals on SO(3), in the spectral domain: pooling, upsampling, integration."""

from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.harmonics.precision import check_array
from jaxgeo.harmonics.so3_layout import Packed, change_so3_bandlimit, packed_sizes

Changed = Float[Array, "*batch changed channel"]


def bandlimit_pooling(coefficients: Packed, bandlimit: int, pooled: int, *, orders: int | None = None) -> Changed:
    """Degrees l >= pooled are cut off: an ideal low pass, which commutes with rotations as no maximum over pixels does.

    Args:
        coefficients: of the bandlimit.
        bandlimit: degrees l < bandlimit before.
        pooled: degrees l < pooled after.
        orders: azimuthal limit, before and after; none by default.

    Raises:
        ConfigError: the pooled bandlimit is higher, or lower than the azimuthal limit.
        InputError: the coefficients are not of the bandlimit and the limit.
    """
    if pooled > bandlimit:
        raise ConfigError(
            f"pooling lowers the bandlimit, got {bandlimit} to {pooled}; `bandlimit_upsampling` raises it"
        )
    return change_so3_bandlimit(coefficients, bandlimit, pooled, orders=orders)


def bandlimit_upsampling(coefficients: Packed, bandlimit: int, raised: int, *, orders: int | None = None) -> Changed:
    """Degrees up to l < raised are added as zeros: the same signal, to be sampled on a finer grid.

    Args:
        coefficients: of the bandlimit.
        bandlimit: degrees l < bandlimit before.
        raised: degrees l < raised after.
        orders: azimuthal limit, before and after; none by default.

    Raises:
        ConfigError: the raised bandlimit is lower, or the bandlimit than the azimuthal limit.
        InputError: the coefficients are not of the bandlimit and the limit.
    """
    if raised < bandlimit:
        raise ConfigError(
            f"upsampling raises the bandlimit, got {bandlimit} to {raised}; `bandlimit_pooling` lowers it"
        )
    return change_so3_bandlimit(coefficients, bandlimit, raised, orders=orders)


def integrate(coefficients: Packed) -> Float[Array, "*batch channel"]:
    """Mean of each channel over SO(3) in the Haar measure: invariant features.

    Raises:
        InputError: no packed coefficients of any bandlimit and azimuthal limit.
    """
    check_array("the array of coefficients", coefficients)
    if coefficients.ndim < 2 or not packed_sizes(coefficients.shape[-2]):
        raise InputError(
            f"packed coefficients have axes (*batch, coefficient, channel) with the number of coefficients of a "
            f"bandlimit (1, 10, 35, 84, ... without an azimuthal limit), got {coefficients.shape}"
        )
    return coefficients[..., 0, :]
