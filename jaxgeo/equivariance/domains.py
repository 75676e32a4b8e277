"""Where an array lives and what a rotation does to it: exactly, through the coefficients of its signal.

A domain takes an array to its spectrum, in which a rotation is a unitary matrix per degree and the Euclidean norm that
of the signal up to a constant; and back. `domain_names` tells domains from a word and the shape of an array.
"""

import abc
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Inexact, PRNGKeyArray

from jaxgeo.errors import check_one_of
from jaxgeo.harmonics import conventions, convolution, healpix, layout, rotation, s2, so3, so3_layout
from jaxgeo.harmonics.precision import complex_dtype

SphereLayout = Literal["native", "dense", "sphere_spectrum"]

_HEALPIX_ITERATIONS = 5  # with degrees below 2 nside the analysis is then good to 1e-6


class Domain(eqx.Module):
    """A space of arrays on which SO(3) acts from the left."""

    @abc.abstractmethod
    def spectrum(self, values: Any) -> Inexact[Array, "..."]:
        """The array's signal in a basis in which `turn` is unitary; what the band does not hold is dropped."""

    @abc.abstractmethod
    def values(self, spectrum: Inexact[Array, "..."]) -> Any:
        """The array with a given spectrum."""

    @abc.abstractmethod
    def turn(self, spectrum: Inexact[Array, "..."], matrix: Float[Array, "3 3"]) -> Inexact[Array, "..."]:
        """The spectrum of the rotated signal."""

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray, batch: tuple[int, ...], channels: int) -> Any:
        """An array whose spectrum is white: independent coefficients of unit variance."""

    def rotate(self, values: Any, matrix: Float[Array, "3 3"]) -> Any:
        """The array of the rotated signal."""
        return self.values(self.turn(self.spectrum(values), matrix))


class Invariant(Domain):
    """Numbers that do not change: class scores of a whole image, integrals, power spectra."""

    shape: tuple[int, ...] = eqx.field(static=True, default=())  # axes before the channels, for draws

    def spectrum(self, values: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """The array itself."""
        return values

    def values(self, spectrum: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """The array itself."""
        return spectrum

    def turn(self, spectrum: Inexact[Array, "..."], matrix: Float[Array, "3 3"]) -> Inexact[Array, "..."]:
        """The array itself."""
        return spectrum

    def draw(self, key: PRNGKeyArray, batch: tuple[int, ...], channels: int) -> Inexact[Array, "..."]:
        """Standard normal numbers."""
        return jax.random.normal(key, (*batch, *self.shape, channels))


class _Sphere(Domain):
    """Signals on the sphere; spectra are dense coefficients, which turn alike for every spin."""

    turns: rotation.RotationPlan
    real: bool = eqx.field(static=True)

    def turn(self, spectrum: Inexact[Array, "..."], matrix: Float[Array, "3 3"]) -> Inexact[Array, "..."]:
        """Wigner matrices times dense coefficients."""
        return rotation.rotate_coefficients(self.turns, spectrum, matrix)

    def draw(self, key: PRNGKeyArray, batch: tuple[int, ...], channels: int) -> Any:
        """White coefficients of a real or complex signal."""
        bandlimit = self.turns.bandlimit
        inside = np.abs(np.arange(1 - bandlimit, bandlimit)) <= np.arange(bandlimit)[:, None]
        shape = (2, *batch, *inside.shape, channels)
        first, second = jax.random.normal(key, shape, self.turns.dtype)
        mask = inside[:, :, None].reshape(*[1] * len(batch), *inside.shape, 1)
        spectrum = conventions.from_real(first * mask)
        if not self.real:
            spectrum = (spectrum + 1j * conventions.from_real(second * mask)) / np.sqrt(2).astype(self.turns.dtype)
        return self.values(spectrum)


class S2Signal(_Sphere):
    """Signals (*batch, lat, lon, channel) on a grid of parallels and meridians."""

    transform: s2.S2Transform

    def spectrum(self, values: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """Dense coefficients by quadrature."""
        return s2.to_dense(self.transform, s2.analysis(self.transform, values))

    def values(self, spectrum: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """Samples on the grid."""
        return s2.synthesis(self.transform, s2.from_dense(self.transform, spectrum))


class HealpixMap(_Sphere):
    """Maps (*batch, pixel, channel); analysis is iterated quadrature, so that rotations are exact to its error."""

    transform: healpix.HealpixTransform
    iterations: int = eqx.field(static=True, default=_HEALPIX_ITERATIONS)

    def spectrum(self, values: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """Dense coefficients by iterated quadrature."""
        native = healpix.healpix_analysis(self.transform, values, self.iterations)
        return layout.native_to_dense(native, real=self.real)

    def values(self, spectrum: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """Samples at the pixels' centres."""
        return healpix.healpix_synthesis(self.transform, layout.dense_to_native(spectrum, real=self.real))


class SphereCoefficients(_Sphere):
    """Coefficients of signals on the sphere in a layout of `to_dense` and `from_dense`."""

    to_dense: Callable = eqx.field(static=True)
    from_dense: Callable = eqx.field(static=True)

    def spectrum(self, values: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """The same coefficients, dense."""
        return self.to_dense(values)

    def values(self, spectrum: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """The same coefficients in this domain's layout."""
        return self.from_dense(spectrum)


class FragmentCoefficients(_Sphere):
    """Coefficients by degree, as Clebsch-Gordan networks keep them: real arrays (*batch, 2l+1, channel), l = 0 ... L-1.

    The degrees may have different numbers of channels; in spectra the fewer ones are filled up with zeros.
    """

    channels: tuple[int, ...] = eqx.field(static=True)  # of each degree

    def spectrum(self, values: tuple[Array, ...]) -> Inexact[Array, "..."]:
        """The same coefficients, dense."""
        bandlimit, most = len(self.channels), max(self.channels)
        rows = []
        for degree, x in enumerate(values):
            margin = bandlimit - 1 - degree
            widths = [(0, 0)] * (x.ndim - 2) + [(margin, margin), (0, most - x.shape[-1])]
            rows.append(jnp.pad(x, widths))
        return conventions.from_real(jnp.stack(rows, axis=-3))

    def values(self, spectrum: Inexact[Array, "..."]) -> tuple[Array, ...]:
        """The same coefficients, by degree."""
        real, middle = conventions.to_real(spectrum), len(self.channels) - 1
        return tuple(
            real[..., degree, middle - degree : middle + degree + 1, :width]
            for degree, width in enumerate(self.channels)
        )


class _Rotations(Domain):
    """Signals on SO(3); spectra are matrices F^l_mn times sqrt(2l + 1)."""

    turns: rotation.RotationPlan
    orders: int = eqx.field(static=True)
    real: bool = eqx.field(static=True)

    def turn(self, spectrum: Inexact[Array, "..."], matrix: Float[Array, "3 3"]) -> Inexact[Array, "..."]:
        """Wigner matrices times the matrices of coefficients, from the left."""
        return rotation.rotate_so3_coefficients(self.turns, spectrum, matrix)

    def draw(self, key: PRNGKeyArray, batch: tuple[int, ...], channels: int) -> Inexact[Array, "..."]:
        """White packed coefficients F^l_mn."""
        count = so3_layout.num_coefficients(self.turns.bandlimit, self.orders)
        dtype = self.turns.dtype if self.real else complex_dtype(self.turns.dtype)
        return self.values(self._from_packed(jax.random.normal(key, (*batch, count, channels), dtype)))

    def _from_packed(self, packed: Array) -> Array:
        matrices = so3_layout.packed_to_matrices(packed, self.turns.bandlimit, self.orders)
        return matrices * self._sizes(matrices)

    def _to_packed(self, spectrum: Array) -> Array:
        return so3_layout.matrices_to_packed(spectrum / self._sizes(spectrum), real=self.real)

    def _sizes(self, matrices: Array) -> np.ndarray:
        sizes = np.sqrt(2 * np.arange(self.turns.bandlimit) + 1).astype(self.turns.dtype)
        return sizes.reshape(*[1] * (matrices.ndim - 4), -1, 1, 1, 1)


class SO3Signal(_Rotations):
    """Signals (*batch, beta, alpha, gamma, channel) on a grid of Euler angles."""

    transform: so3.SO3Transform

    def spectrum(self, values: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """Matrices by quadrature."""
        return self._from_packed(so3.so3_analysis(self.transform, values))

    def values(self, spectrum: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """Samples on the grid."""
        return so3.so3_synthesis(self.transform, self._to_packed(spectrum))


class SO3Coefficients(_Rotations):
    """Packed coefficients of signals on SO(3)."""

    def spectrum(self, values: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """The same coefficients as matrices."""
        return self._from_packed(values)

    def values(self, spectrum: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """The same coefficients, packed."""
        return self._to_packed(spectrum)


def s2_signal(transform: s2.S2Transform) -> S2Signal:
    """The domain of signals that a transform analyses; of spin s too, whose values turn with the frame of the point."""
    turns = rotation.plan_rotation(transform.bandlimit, dtype=transform.dtype)
    return S2Signal(turns, transform.real, transform)


def so3_signal(transform: so3.SO3Transform) -> SO3Signal:
    """The domain of signals that a transform on SO(3) analyses."""
    turns = rotation.plan_rotation(transform.bandlimit, dtype=transform.dtype)
    return SO3Signal(turns, transform.orders, transform.real, transform)


def healpix_map(transform: healpix.HealpixTransform, iterations: int = _HEALPIX_ITERATIONS) -> HealpixMap:
    """The domain of maps that a transform analyses, of any spin; see `s2_signal`."""
    turns = rotation.plan_rotation(transform.bandlimit, dtype=transform.dtype)
    return HealpixMap(turns, transform.real, transform, iterations)


def sphere_coefficients(
    bandlimit: int, name: SphereLayout, *, real: bool = True, dtype: DTypeLike
) -> SphereCoefficients:
    """The domain of coefficients in one of three layouts; sphere spectra are of real signals.

    Raises:
        ConfigError: an impossible bandlimit or dtype, or a layout that such signals do not have.
    """
    check_one_of("the layout of coefficients", name, [known for known, kind in _LAYOUTS if kind == real])
    turns = rotation.plan_rotation(bandlimit, dtype=dtype)
    return SphereCoefficients(turns, real, *_LAYOUTS[name, real])


def fragment_coefficients(channels: tuple[int, ...], *, dtype: DTypeLike) -> FragmentCoefficients:
    """The domain of coefficients by degree, with given numbers of channels."""
    return FragmentCoefficients(rotation.plan_rotation(len(channels), dtype=dtype), True, channels)


def so3_coefficients(
    bandlimit: int, orders: int | None = None, *, real: bool = True, dtype: DTypeLike
) -> SO3Coefficients:
    """The domain of packed coefficients."""
    orders = so3_layout.check_orders(bandlimit, orders)
    return SO3Coefficients(rotation.plan_rotation(bandlimit, dtype=dtype), orders, real)


def _native_to_dense(values: Array) -> Array:
    return layout.native_to_dense(values, real=True)


def _dense_to_native(values: Array) -> Array:
    return layout.dense_to_native(values, real=True)


def _complex_native_to_dense(values: Array) -> Array:
    return layout.native_to_dense(values, real=False)


def _dense_to_complex_native(values: Array) -> Array:
    return layout.dense_to_native(values, real=False)


def _spectrum_to_dense(values: Array) -> Array:
    return layout.native_to_dense(convolution.sphere_coefficients(values))


def _dense_to_spectrum(values: Array) -> Array:
    return convolution.sphere_spectrum(layout.dense_to_native(values))


def _same(values: Array) -> Array:
    return values


_LAYOUTS = {
    ("native", True): (_native_to_dense, _dense_to_native),
    ("native", False): (_complex_native_to_dense, _dense_to_complex_native),
    ("dense", True): (_same, _same),
    ("dense", False): (_same, _same),
    ("sphere_spectrum", True): (_spectrum_to_dense, _dense_to_spectrum),
}
