"""Which floating point type a plan's tables and the arrays that it acts on have."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike

from jaxgeo.errors import ConfigError, InputError


def table_dtype(dtype: DTypeLike) -> np.dtype:
    """float32 or float64 as a NumPy type.

    Raises:
        ConfigError: another type, or float64 while JAX is held to 32 bits.
    """
    try:
        chosen = np.dtype(dtype)
    except TypeError:
        raise ConfigError(f"tables are float32 or float64, got {dtype!r}, which is no type") from None
    if chosen not in (np.float32, np.float64):
        raise ConfigError(f"tables are float32 or float64, because sums over rings need the digits, got {chosen}")
    if chosen == np.float64 and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise ConfigError(
            "float64 tables were asked for while JAX is held to 32 bits; build and use the plan "
            "inside `with jax.enable_x64(True):`, or ask for dtype=jnp.float32"
        )
    return chosen


def rounded(values: np.ndarray, dtype: DTypeLike) -> Array:
    """A table as a JAX array, rounded by NumPy: `jnp.asarray` compiles a program for each new shape, 20 ms each."""
    return jax.device_put(np.asarray(values, dtype))


def einsum(subscripts: str, *operands: Array | np.ndarray) -> Array:
    """`jnp.einsum` with all digits of its type: an accelerator's default rounds the factors to ten bits."""
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)


def matmul(first: Array | np.ndarray, second: Array | np.ndarray) -> Array:
    """`jnp.matmul`, likewise."""
    return jnp.matmul(first, second, precision=jax.lax.Precision.HIGHEST)


def check_array(what: str, array: Any, *, is_complex: bool = False) -> None:
    """Refuse a list or a number in place of an array, and reals in place of complex numbers.

    Raises:
        InputError: with what came.
    """
    if not isinstance(array, jax.Array | np.ndarray):
        raise InputError(f"{what} must be an array, got {type(array).__name__}; jax.numpy.asarray makes one")
    if is_complex and not np.issubdtype(array.dtype, np.complexfloating):
        raise InputError(f"{what} must be complex, got {array.dtype}")


def check_dtype(what: str, array: Array, plan_dtype: DTypeLike, *, is_complex: bool = False) -> None:
    """Refuse an array whose precision is not the plan's: a silent cast loses digits or doubles the time.

    Raises:
        InputError: no array, or it has another type than the plan's float, or its complex type where `is_complex`.
    """
    check_array(what, array)
    needed = np.dtype(plan_dtype)
    if is_complex:
        needed = np.result_type(needed, np.complex64)
    if array.dtype != needed:
        raise InputError(
            f"{what} has dtype {array.dtype} but the plan needs {needed}; cast the array, "
            f"or build the plan with the dtype and the `real` that fit it"
        )


def complex_dtype(dtype: DTypeLike) -> np.dtype:
    """The complex type of a float type."""
    return np.result_type(np.dtype(dtype), np.complex64)


def to_complex(parts: Array, axis: int) -> Array:
    """Complex array from real and imaginary parts that are stacked along `axis`."""
    real, imaginary = jnp.moveaxis(parts, axis, 0)
    return jax.lax.complex(real, imaginary)


def from_complex(array: Array, axis: int) -> Array:
    """Real and imaginary part stacked along a new `axis`."""
    return jnp.stack([array.real, array.imag], axis)
