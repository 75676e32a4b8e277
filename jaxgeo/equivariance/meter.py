r"""A meter of equivariance: how far f(R x) is from R f(x), for any function between spherical signals.

The error of one rotation is $\lVert f(R x) - R f(x) \rVert / \lVert f(x) \rVert$ over all examples and channels,
in the norm of the output's domain and within its band. What the output has outside of the band, where no rotation is
defined, is not seen there and stands beside it as `out_of_band`. Signals are rotated exactly, through their
coefficients; a signal is cut to its domain's band first. Linear maps that are equivariant by construction show the
rounding of their arithmetic, and nonlinearities the aliases that their grid folds back.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Inexact, PRNGKeyArray

from jaxgeo.equivariance.domain_names import resolve
from jaxgeo.equivariance.domains import Domain, s2_signal, so3_signal
from jaxgeo.errors import ConfigError, check_real, check_whole
from jaxgeo.grids.latlon import GridName, latlon_grid, oversampled_bandlimit
from jaxgeo.grids.rotations import axis_angle
from jaxgeo.harmonics.s2 import plan_s2_transform
from jaxgeo.harmonics.so3 import plan_so3_transform

Function = Callable[[Any], Any]

_AFFINE_TOLERANCE = 1e-4
DEFAULT_ANGLES_DEG = (1.0, 10.0, 45.0, 90.0, 135.0, 180.0)


class Measurement(NamedTuple):
    """Relative errors of equivariance by the angle of the rotation."""

    angles_deg: Float[np.ndarray, " angle"]
    errors: Float[np.ndarray, "angle draw"]  # one for each drawn axis
    out_of_band: Float[np.ndarray, "angle draw"]  # part of the output that its domain's band does not hold, in norm

    @property
    def mean(self) -> float:
        """Mean over angles and axes."""
        return float(self.errors.mean())

    @property
    def worst(self) -> float:
        """Largest error of all."""
        return float(self.errors.max())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: mean and largest error, overall and for each angle, and the largest part out of band.

        JSON has no word for what is not finite: such a number is None, and then `reason` says why.
        """
        summary = {
            "mean": self.mean,
            "worst": self.worst,
            "angles_deg": [float(angle) for angle in self.angles_deg],
            "mean_by_angle": [float(error) for error in self.errors.mean(-1)],
            "worst_by_angle": [float(error) for error in self.errors.max(-1)],
            "out_of_band": float(self.out_of_band.max()),
        }
        return plain(summary, self.errors, self.out_of_band)


def rotations_by_angle(
    key: PRNGKeyArray, angles_deg: Sequence[float | int], draws: int, dtype: DTypeLike = jnp.float32
) -> Float[Array, "angle draw 3 3"]:
    """Rotations by given angles about axes drawn evenly from the sphere.

    Raises:
        ConfigError: no angle, an angle that is no finite number, or draws that are no whole number from 1.
    """
    check_whole("draws for each angle", draws)
    if not len(angles_deg):
        raise ConfigError("a measurement needs at least one angle, got none")
    for angle in angles_deg:
        check_real("each angle, in degrees,", angle)
    angles = jnp.radians(jnp.asarray(angles_deg, dtype))
    axes = jax.random.normal(key, (len(angles), draws, 3), dtype)
    return axis_angle(axes, jnp.broadcast_to(angles[:, None], axes.shape[:-1]))


def measure(
    function: Function,
    values: Any,
    source: Domain | str,
    target: Domain | str,
    *,
    key: PRNGKeyArray,
    angles_deg: Sequence[float | int] = DEFAULT_ANGLES_DEG,
    draws: int = 4,
) -> Measurement:
    """Error of equivariance of a function for each angle of rotation.

    Args:
        function: pure, of one array; compiled once. Close over plans, parameters and fixed random keys.
        values: an array of the source, with batch axes: the examples on which the function is measured.
        source: domain of the function's argument, or its name.
        target: domain of its result.
        key: draws the axes.
        angles_deg: angles of the rotations.
        draws: axes for each angle.

    Raises:
        ConfigError: an unknown domain, or angles or draws that `rotations_by_angle` refuses.
        InputError: an array is none of its domain.
    """
    known: dict[tuple, Domain] = {}
    source = resolve(source, values, known)
    spectrum = spectrum_of(source, values)
    matrices = rotations_by_angle(key, angles_deg, draws, spectrum.real.dtype)
    result = eqx.filter_jit(lambda source, spectrum: function(source.values(spectrum)))(source, spectrum)
    target = resolve(target, result, known)

    @eqx.filter_jit
    def error(matrix: Array, source: Domain, target: Domain, spectrum: Array, expected: Array) -> Array:
        result = function(source.values(turned(source, spectrum, matrix)))
        found = target.spectrum(result)
        outside = relative_error(target.values(found), result)
        return jnp.stack([relative_error(found, turned(target, expected, matrix)), outside])

    arguments = source, target, spectrum, spectrum_of(target, result)
    # One rotation after the other: a batch of them would multiply the memory of a model.
    found = [[np.asarray(error(matrix, *arguments), float) for matrix in row] for row in matrices]
    return Measurement(np.asarray(angles_deg, float), *np.moveaxis(np.array(found), -1, 0))


@eqx.filter_jit
def drawn(domain: Domain, key: PRNGKeyArray, batch: tuple[int, ...] = (), channels: int = 1) -> Inexact[Array, "..."]:
    """`domain.draw`, compiled."""
    return domain.draw(key, batch, channels)


@eqx.filter_jit
def spectrum_of(domain: Domain, values: Any) -> Inexact[Array, "..."]:
    """`domain.spectrum`, compiled; the domain's tables are arguments of the program."""
    return domain.spectrum(values)


@eqx.filter_jit
def turned(domain: Domain, spectrum: Inexact[Array, "..."], matrix: Float[Array, "3 3"]) -> Inexact[Array, "..."]:
    """`domain.turn`, compiled; in the precision of the spectrum, as a function may return another than it takes."""
    return domain.turn(spectrum, matrix.astype(spectrum.real.dtype))


@eqx.filter_jit
def values_of(domain: Domain, spectrum: Inexact[Array, "..."]) -> Any:
    """`domain.values`, compiled."""
    return domain.values(spectrum)


def plain(summary: dict[str, Any], *errors: Float[np.ndarray, "angle draw"]) -> dict[str, Any]:
    """A summary of errors as JSON can write it: None for numbers that are not finite, and the `reason` for them."""
    unknown = sum(int((~np.isfinite(each)).sum()) for each in errors)
    if not unknown:
        return summary
    known = jax.tree.map(lambda number: number if np.isfinite(number) else None, summary)
    count = sum(each.size for each in errors)
    return known | {"reason": f"{unknown} of {count} errors are not finite, nor is what the function returned there"}


def relative_error(values: Any, expected: Any) -> Float[Array, ""]:
    """|values - expected| / |expected| over all entries of arrays or trees of arrays; 0 where both vanish."""
    scale = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(expected)]))
    # Squares of values below 1e-23 vanish in float32; what is not finite must not pass for perfect.
    scale = jnp.where(scale > 0, scale, 1)
    difference = _norm(jax.tree.map(lambda x, y: (x - y) / scale, values, expected))
    size = _norm(jax.tree.map(lambda x: x / scale, expected))
    return jnp.where(difference == 0, 0, difference / jnp.where(size > 0, size, 1))


def is_affine(function: Function, values: Any) -> bool:
    """Whether f(x + y) + f(0) = f(x) + f(y), for x the given array and y the same with its entries in reverse.

    Args:
        function: of one array.
        values: an array on which the function is not trivial.
    """
    act = jax.jit(function)
    return is_equal(*affine_sums(lambda change: act(jax.tree.map(change, values))))


def affine_sums(result_of: Callable[[Function], Any]) -> tuple[Any, Any]:
    """f(x + y) + f(0) and f(x) + f(y), equal for affine f; y is x with its entries in reverse.

    Args:
        result_of: takes a change of arrays and gives f, or a tree of functions, of the changed x.
    """
    whole, zero = result_of(lambda x: x + jnp.flip(x)), result_of(jnp.zeros_like)
    first, second = result_of(lambda x: x), result_of(jnp.flip)
    return jax.tree.map(jnp.add, whole, zero), jax.tree.map(jnp.add, first, second)


def is_equal(values: Any, expected: Any) -> bool:
    """Whether the relative error is far below what a nonlinearity does; rounding is far below that."""
    return bool(relative_error(values, expected) < _AFFINE_TOLERANCE)


def measure_oversampling(
    activation: Function,
    bandlimit: int,
    factors: Sequence[float | int] = (1, 2, 4, 8),
    *,
    key: PRNGKeyArray,
    space: Literal["s2", "so3"] = "s2",
    grid: GridName = "soft",
    angles_deg: Sequence[float | int] = DEFAULT_ANGLES_DEG,
    draws: int = 4,
    examples: int = 4,
    dtype: DTypeLike = jnp.float32,
) -> dict[float | int, Measurement]:
    """Error of a point-wise nonlinearity against the oversampling of its grid: white coefficients in, coefficients out.

    The signal is sampled on a grid of factor x bandlimit, acted on, and analysed at its own bandlimit. For a rectifier
    the error falls by about the factor to the power -3.

    Args:
        activation: acts on samples, such as `jax.nn.relu`.
        bandlimit: of the coefficients.
        factors: of oversampling; 1 is the plain form.
        key: draws signals and axes; the same ones for all factors.
        space: signals on the sphere or on SO(3).
        grid: kind of grid; on SO(3) "soft" or "gauss_legendre".
        angles_deg: angles of the rotations.
        draws: axes for each angle.
        examples: number of signals.
        dtype: of everything.

    Raises:
        ConfigError: an impossible grid, space or factor.
    """
    signals, axes = jax.random.split(key)
    measurements = {}
    for factor in factors:
        size = oversampled_bandlimit(bandlimit, factor)
        if space == "s2":
            domain = s2_signal(plan_s2_transform(latlon_grid(grid, size), bandlimit, dtype=dtype))
        elif space == "so3" and grid in ("soft", "gauss_legendre"):
            domain = so3_signal(plan_so3_transform(bandlimit, grid_bandlimit=size, latitudes=grid, dtype=dtype))
        else:
            raise ConfigError(
                f"oversampling is measured on 's2' or 'so3' (there on two grids), got {space!r}, {grid!r}"
            )
        values = drawn(domain, signals, (), examples)
        measurements[factor] = measure(activation, values, domain, domain, key=axes, angles_deg=angles_deg, draws=draws)
    return measurements


def _norm(values: Any) -> Array:
    return jnp.sqrt(sum(jnp.sum(x.real**2 + x.imag**2) for x in jax.tree.leaves(values)))
