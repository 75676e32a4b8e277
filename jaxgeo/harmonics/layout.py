r"""Where the coefficient of degree l and order m stands: the native layout and three others.

- native: real `(*batch, 2, order, parity, degree, channel)`; axis 2 is real and imaginary part, parity is (l - m) mod 2
  and the last but one axis is l // 2. Real signals keep orders m = 0..L-1, complex ones m = -(L-1)..L-1. It is what the
  Legendre step reads and writes, so the transforms copy nothing; degrees of one l // 2 stand at one index for all m.
- dense: complex `(*batch, degree, order, channel)`, l = 0..L-1 and m = -(L-1)..L-1.
- healpy: complex `(*batch, coefficient, channel)`, m >= 0 only, index m (2 L - 1 - m) / 2 + l.
- l-major: complex `(*batch, coefficient, channel)`, index l^2 + l + m.

Places of the native and dense layout without a coefficient (l < |m| or l >= L) hold zeros; functions ignore what stands
there. Real signals have f_{l,-m} = (-1)^m conj(f_lm).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, DTypeLike, Float, Int

from jaxgeo.errors import InputError, check_whole
from jaxgeo.harmonics.precision import check_array, check_dtype, from_complex, to_complex

Native = Float[Array, "*batch 2 native_order parity half_degree channel"]
Dense = Complex[Array, "*batch degree order channel"]
Packed = Complex[Array, "*batch coefficient channel"]


def num_half_degrees(bandlimit: int) -> int:
    """Length of the native degree axis."""
    return (bandlimit + 1) // 2


def orders(bandlimit: int, *, real: bool = True) -> Int[np.ndarray, " order"]:
    """Order m along the native order axis."""
    return np.arange(0 if real else 1 - bandlimit, bandlimit)


def native_shape(bandlimit: int, *, real: bool = True) -> tuple[int, int, int, int]:
    """(2, order, parity, degree) of native coefficients."""
    return 2, bandlimit if real else 2 * bandlimit - 1, 2, num_half_degrees(bandlimit)


def native_degrees(bandlimit: int, *, real: bool = True) -> Int[np.ndarray, "order parity degree"]:
    """Degree l at every native place, whether or not a coefficient stands there."""
    m = orders(bandlimit, real=real)[:, None, None]
    parity = np.arange(2)[None, :, None]
    return 2 * np.arange(num_half_degrees(bandlimit))[None, None, :] + (m + parity) % 2


def native_mask(bandlimit: int, *, spin: int = 0, real: bool = True) -> Bool[np.ndarray, "order parity degree"]:
    """True where a coefficient stands: max(|m|, |spin|) <= l < L."""
    degree = native_degrees(bandlimit, real=real)
    lowest = np.maximum(np.abs(orders(bandlimit, real=real)), abs(spin))
    return (degree >= lowest[:, None, None]) & (degree < bandlimit)


def native_bandlimit(coefficients: Native, *, real: bool = True) -> int:
    """Bandlimit L of native coefficients.

    Raises:
        InputError: the axes are not those of native coefficients of a real (complex) signal.
    """
    check_array("the array of coefficients", coefficients)
    shape = coefficients.shape[-5:-1]
    rows = shape[1] if len(shape) == 4 else 0
    bandlimit = rows if real else (rows + 1) // 2
    if bandlimit < 1 or shape != native_shape(bandlimit, real=real):
        raise InputError(
            f"native coefficients of a {'real' if real else 'complex'} signal have axes (2, order, parity, degree, "
            f"channel) of sizes (2, {'L' if real else '2 L - 1'}, 2, (L + 1) // 2, channels), got "
            f"{coefficients.shape}; `real` says which kind they are"
        )
    return bandlimit


@functools.partial(jax.jit, static_argnames="real")
def native_to_dense(coefficients: Native, *, real: bool = True) -> Dense:
    """Dense from native; the negative orders of a real signal are filled in by its symmetry."""
    bandlimit = native_bandlimit(coefficients, real=real)
    m = orders(bandlimit, real=real)
    mask = native_mask(bandlimit, real=real)[..., None]
    # Real signals: the imaginary part at m = 0 is no coefficient.
    kept = np.stack([mask, mask & ((m != 0) | (not real))[:, None, None, None]])
    values = jnp.where(leading(kept, coefficients.ndim), coefficients, 0)
    values = _swap_parities(values, m)
    values = jnp.swapaxes(values, -3, -2)
    values = values.reshape(*values.shape[:-3], 2 * values.shape[-3], values.shape[-1])[..., :bandlimit, :]
    values = jnp.moveaxis(to_complex(values, -4), -3, -2)
    if not real:
        return values
    sign = leading(((-1.0) ** m[:0:-1])[:, None].astype(values.real.dtype), values.ndim)
    return jnp.concatenate([sign * values[..., :0:-1, :].conj(), values], -2)


@functools.partial(jax.jit, static_argnames="real")
def dense_to_native(dense: Dense, *, real: bool = True) -> Native:
    """Native from dense; for a real signal the orders m >= 0 are read and the negative ones are not looked at."""
    bandlimit = dense_bandlimit(dense)
    m = orders(bandlimit, real=real)
    values = from_complex(jnp.moveaxis(dense[..., -len(m) :, :], -2, -3), -4)
    half = num_half_degrees(bandlimit)
    values = jnp.pad(values, [(0, 0)] * (values.ndim - 2) + [(0, 2 * half - bandlimit), (0, 0)])
    values = jnp.swapaxes(values.reshape(*values.shape[:-2], half, 2, values.shape[-1]), -3, -2)
    mask = native_mask(bandlimit, real=real)[..., None]
    kept = np.stack([mask, mask & ((m != 0) | (not real))[:, None, None, None]])
    values = _swap_parities(values, m)
    return jnp.where(leading(kept, values.ndim), values, 0)


@jax.jit
def native_to_healpy(coefficients: Native) -> Packed:
    """healpy's packed order from native coefficients of a real signal."""
    bandlimit = native_bandlimit(coefficients, real=True)
    degree, order = healpy_indices(bandlimit)
    values = to_complex(coefficients, -5)[..., order, (degree - order) % 2, degree // 2, :]
    return jnp.where(leading((order == 0)[:, None], values.ndim), values.real, values)


@jax.jit
def healpy_to_native(packed: Packed) -> Native:
    """Native coefficients of a real signal from healpy's packed order.

    Raises:
        InputError: the number of coefficients is not L (L + 1) / 2.
    """
    count = _packed_length(packed)
    bandlimit = int((np.sqrt(8 * count + 1) - 1) / 2)
    if bandlimit * (bandlimit + 1) // 2 != count or bandlimit == 0:
        raise InputError(f"packed coefficients number L (L + 1) / 2 (1, 3, 6, 10, ...), got {count}")
    degree, order = healpy_indices(bandlimit)
    shape = native_shape(bandlimit)[1:]
    places = np.zeros(shape, int)
    places[order, (degree - order) % 2, degree // 2] = np.arange(count)
    values = from_complex(packed[..., places, :], -5)
    mask = native_mask(bandlimit)[..., None]
    kept = np.stack([mask, mask & (np.arange(bandlimit) != 0)[:, None, None, None]])
    return jnp.where(leading(kept, values.ndim), values, 0)


def healpy_indices(bandlimit: int) -> tuple[Int[np.ndarray, " coefficient"], Int[np.ndarray, " coefficient"]]:
    """Degree l and order m along healpy's packed axis."""
    order, degree = np.triu_indices(bandlimit)
    return degree, order


@jax.jit
def dense_to_l_major(dense: Dense) -> Packed:
    """Coefficients (l, m) at l^2 + l + m from dense ones."""
    bandlimit = dense_bandlimit(dense)
    degree, order = l_major_indices(bandlimit)
    return dense[..., degree, order + bandlimit - 1, :]


@jax.jit
def l_major_to_dense(packed: Packed) -> Dense:
    """Dense coefficients from those at l^2 + l + m.

    Raises:
        InputError: the number of coefficients is no square.
    """
    count = _packed_length(packed)
    bandlimit = round(np.sqrt(count))
    if bandlimit**2 != count or bandlimit == 0:
        raise InputError(f"l-major coefficients number L^2 (1, 4, 9, 16, ...), got {count}")
    degree = np.arange(bandlimit)[:, None]
    order = np.arange(1 - bandlimit, bandlimit)[None, :]
    inside = np.abs(order) <= degree
    places = np.where(inside, degree**2 + degree + order, 0)
    values = packed[..., places, :]
    return jnp.where(leading(inside[..., None], values.ndim), values, 0)


def l_major_indices(bandlimit: int) -> tuple[Int[np.ndarray, " coefficient"], Int[np.ndarray, " coefficient"]]:
    """Degree l and order m along the l-major axis."""
    degree = np.repeat(np.arange(bandlimit), 2 * np.arange(bandlimit) + 1)
    return degree, np.arange(bandlimit**2) - degree**2 - degree


@functools.partial(jax.jit, static_argnames=("bandlimit", "real"))
def change_bandlimit(
    coefficients: Native, bandlimit: int, *, real: bool = True
) -> Float[Array, "*batch 2 new_order parity new_half_degree channel"]:
    """Native coefficients of another bandlimit: degrees are cut off (an ideal low pass) or filled with zeros."""
    old = native_bandlimit(coefficients, real=real)
    check_whole("the new bandlimit", bandlimit, error=InputError)
    if bandlimit == old:
        return coefficients
    more = bandlimit - old
    degree_change = num_half_degrees(bandlimit) - num_half_degrees(old)
    unchanged = [(0, 0, 0)] * (coefficients.ndim - 4)
    config = [*unchanged, (0 if real else more, more, 0), (0, 0, 0), (0, degree_change, 0), (0, 0, 0)]
    values = jax.lax.pad(coefficients, jnp.zeros((), coefficients.dtype), config)
    if more > 0 or bandlimit % 2 == 0:
        return values
    # An odd bandlimit ends at an even degree: its odd neighbour l = L stands at the same l // 2.
    return jnp.where(leading(native_mask(bandlimit, real=real)[..., None], values.ndim), values, 0)


@functools.partial(jax.jit, static_argnames="bandlimit")
def change_dense_bandlimit(dense: Dense, bandlimit: int) -> Complex[Array, "*batch new_degree new_order channel"]:
    """Dense coefficients of another bandlimit: degrees are cut off or filled with zeros."""
    check_whole("the new bandlimit", bandlimit, error=InputError)
    more = bandlimit - dense_bandlimit(dense)
    config = [*[(0, 0, 0)] * (dense.ndim - 3), (0, more, 0), (more, more, 0), (0, 0, 0)]
    return jax.lax.pad(dense, jnp.zeros((), dense.dtype), config)


def check_native(coefficients: Array, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Refuse native coefficients of another bandlimit or precision than a plan's.

    Args:
        coefficients: (*batch, *shape, channel).
        shape: (2, order, parity, degree) of the plan's.
        dtype: of the plan's.

    Raises:
        InputError: with both.
    """
    check_dtype("the array of coefficients", coefficients, dtype)
    if coefficients.ndim < 5 or coefficients.shape[-5:-1] != shape:
        raise InputError(
            f"native coefficients have axes (*batch, 2, order, parity, degree, channel), here "
            f"(2, order, parity, degree) = {shape}, got {coefficients.shape}"
        )


def check_dense(dense: Dense, bandlimit: int, dtype: DTypeLike) -> None:
    """Refuse dense coefficients of another bandlimit or precision than a plan's.

    Raises:
        InputError: with both.
    """
    check_dtype("the array of dense coefficients", dense, dtype, is_complex=True)
    if (found := dense_bandlimit(dense)) != bandlimit:
        raise InputError(f"the plan needs dense coefficients of bandlimit {bandlimit}, got {found}: {dense.shape}")


def dense_bandlimit(dense: Dense) -> int:
    """Bandlimit L of dense coefficients.

    Raises:
        InputError: no complex array, or the axes are not those of dense coefficients.
    """
    check_array("the array of dense coefficients", dense, is_complex=True)
    bandlimit = dense.shape[-3] if dense.ndim > 2 else 0
    if bandlimit < 1 or dense.shape[-2] != 2 * bandlimit - 1:
        raise InputError(f"dense coefficients have L degrees and 2 L - 1 orders on axes -3 and -2, got {dense.shape}")
    return bandlimit


def _packed_length(packed: Packed) -> int:
    check_array("the array of coefficients", packed, is_complex=True)
    if packed.ndim < 2:
        raise InputError(f"packed coefficients have axes (*batch, coefficient, channel), got {packed.shape}")
    return packed.shape[-2]


def _swap_parities(values: Array, m: np.ndarray) -> Array:
    """Exchange parity of l - m and parity of l: the same for even m, swapped for odd m."""
    odd = leading((m % 2 == 1)[:, None, None, None], values.ndim)
    return jnp.where(odd, values[..., ::-1, :, :], values)


def leading(array: np.ndarray, ndim: int) -> np.ndarray:
    """The array with axes of length 1 before its own, to broadcast against one of `ndim` axes."""
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)
