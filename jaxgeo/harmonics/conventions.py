r"""Other people's conventions by name: angles, Wigner matrices, harmonics and coefficients.

Here, as in textbooks of quantum mechanics: $R = R_z(\alpha) R_y(\beta) R_z(\gamma)$ acts on column vectors,
$D^l_{mn} = e^{-im\alpha} d^l_{mn}(\beta) e^{-in\gamma}$, harmonics are orthonormal with the Condon-Shortley phase.

- "quantum": this library, Sakurai, Varshalovich, SymPy.
- "s2cnn": lie_learn, S2CNN and its descendants: the complex conjugate of D. Their spectrum on the sphere is
  $f_{lm} / \sqrt{4 \pi (2l+1)}$; on SO(3) it is the same as here.
- "real": orthonormal real harmonics without Condon-Shortley sign, orders -l ... l (`real_basis`): (y, z, x) for l = 1.
- "e3nn": the polar axis is called y, $R = R_y(\alpha) R_x(\beta) R_y(\gamma)$, degree 1 is (x, y, z). With its vectors
  v = `E3NN_AXES` @ (x, y, z) it is the real convention: same numbers, same angles.
- "scipy": `sph_harm_y(l, m, theta, phi)` is the harmonic used here, and `Rotation.from_euler("ZYZ", (alpha, beta,
  gamma))`, in capitals, the rotation. In small letters the axes stand still and the angles come in reverse order.
- "healpy": `rotate_alm(alm, psi, theta, phi)` is (gamma, beta, alpha): its psi is applied first.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from jaxgeo.errors import InputError, check_one_of
from jaxgeo.harmonics import layout, wigner
from jaxgeo.harmonics.layout import Dense
from jaxgeo.harmonics.precision import complex_dtype
from jaxgeo.harmonics.real_basis import E3NN_AXES, real_from_complex

WignerConvention = Literal["quantum", "s2cnn", "real", "e3nn"]
AngleConvention = Literal["quantum", "s2cnn", "real", "e3nn", "scipy", "scipy_fixed_axes", "healpy"]
HarmonicsConvention = Literal["quantum", "scipy", "healpy", "s2cnn", "real", "e3nn"]

_REVERSED = ("scipy_fixed_axes", "healpy")


def wigner_D_as(
    convention: WignerConvention,
    degree: int,
    alpha: Float[np.ndarray, "*batch"] | float,
    beta: Float[np.ndarray, "*batch"] | float,
    gamma: Float[np.ndarray, "*batch"] | float,
) -> Inexact[np.ndarray, "*batch m n"]:
    """The matrix that a convention calls D^l(alpha, beta, gamma), its angles being those of `euler_angles_as`.

    "quantum" and "s2cnn" are complex, "real" and "e3nn" real.

    Raises:
        ConfigError: an unknown convention.
    """
    check_one_of("the convention", convention, WignerConvention)
    if convention in ("real", "e3nn"):
        return wigner.wigner_D_real(degree, alpha, beta, gamma)
    matrix = wigner.wigner_D(degree, alpha, beta, gamma)
    return matrix.conj() if convention == "s2cnn" else matrix


def euler_angles_as(
    convention: AngleConvention, matrices: Float[np.ndarray, "*batch 3 3"]
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Angles of rotation matrices in the order in which a convention writes them.

    Matrices act on (x, y, z) in the convention's own axes: for "e3nn" the angles are those of Y-X-Y.

    Raises:
        ConfigError: an unknown convention.
    """
    check_one_of("the convention", convention, AngleConvention)
    if convention == "e3nn":
        matrices = E3NN_AXES.T @ matrices @ E3NN_AXES
    alpha, beta, gamma = wigner.euler_angles(matrices)
    return (gamma, beta, alpha) if convention in _REVERSED else (alpha, beta, gamma)


def rotation_as(
    convention: AngleConvention,
    first: Float[np.ndarray, "*batch"] | float,
    second: Float[np.ndarray, "*batch"] | float,
    third: Float[np.ndarray, "*batch"] | float,
) -> Float[np.ndarray, "*batch 3 3"]:
    """Rotation matrices from the three angles as a convention writes them; the inverse of `euler_angles_as`.

    Raises:
        ConfigError: an unknown convention.
    """
    check_one_of("the convention", convention, AngleConvention)
    angles = (third, second, first) if convention in _REVERSED else (first, second, third)
    # Degree 1 of the real basis is (y, z, x), the order in which e3nn's axes are named.
    in_e3nn_axes = wigner.wigner_D_real(1, *angles)
    return in_e3nn_axes if convention == "e3nn" else E3NN_AXES.T @ in_e3nn_axes @ E3NN_AXES


def harmonics_as(
    convention: HarmonicsConvention,
    degree: int,
    vectors: Float[np.ndarray, "*point 3"],
) -> Inexact[np.ndarray, "*point order"]:
    r"""The functions of degree l, orders -l ... l, whose coefficients a convention's spectrum holds.

    For "s2cnn" that is $\sqrt{4 \pi (2l+1)} Y_{lm}$. "e3nn" reads the vectors in its own axes ("integral"
    normalisation). Vectors have length 1.

    Raises:
        ConfigError: an unknown convention.
    """
    check_one_of("the convention", convention, HarmonicsConvention)
    if convention == "e3nn":
        vectors = vectors @ E3NN_AXES
    colatitude = np.arctan2(np.hypot(vectors[..., 0], vectors[..., 1]), vectors[..., 2])
    values = wigner.spherical_harmonics(degree, colatitude, np.arctan2(vectors[..., 1], vectors[..., 0]))
    if convention in ("real", "e3nn"):
        return np.real(values @ real_from_complex(degree).T)
    return values * np.sqrt(4 * np.pi * (2 * degree + 1)) if convention == "s2cnn" else values


def to_s2cnn_s2(dense: Dense) -> Complex[Array, "coefficient *batch channel"]:
    """S2CNN's spectrum on the sphere: (l, m) along the first axis, l-major, divided by sqrt(4 pi (2l+1)).

    Raises:
        InputError: the coefficients are not dense ones.
    """
    degree, _ = layout.l_major_indices(layout.dense_bandlimit(dense))
    packed = layout.dense_to_l_major(dense)
    scale = np.sqrt(4 * np.pi * (2 * degree + 1)).astype(packed.real.dtype)
    return jnp.moveaxis(packed / layout.leading(scale[:, None], packed.ndim), -2, 0)


def from_s2cnn_s2(spectrum: Complex[Array, "coefficient *batch channel"]) -> Dense:
    """Dense coefficients from S2CNN's spectrum on the sphere.

    Raises:
        InputError: the number of coefficients is no square.
    """
    dense = layout.l_major_to_dense(jnp.moveaxis(spectrum, 0, -2))
    scale = np.sqrt(4 * np.pi * (2 * np.arange(dense.shape[-3]) + 1)).astype(dense.real.dtype)
    return dense * layout.leading(scale[:, None, None], dense.ndim)


def to_s2cnn_so3(
    matrices: Complex[Array, "*batch degree m n channel"],
) -> Complex[Array, "coefficient *batch channel"]:
    """S2CNN's spectrum on SO(3): (l, m, n) along the first axis, l-major; the numbers are the same.

    Raises:
        InputError: the axes (degree, m, n) are not of lengths (L, 2 L - 1, 2 L - 1).
    """
    bandlimit = matrices.shape[-4] if matrices.ndim > 3 else 0
    if bandlimit < 1 or matrices.shape[-3:-1] != (2 * bandlimit - 1, 2 * bandlimit - 1):
        raise InputError(
            f"matrices have axes (*batch, degree, m, n, channel) with (degree, m, n) = (L, 2 L - 1, 2 L - 1), got "
            f"{matrices.shape}; pad an azimuthal limit with zeros"
        )
    return jnp.moveaxis(matrices[(..., *_so3_places(matrices.shape[-4]), slice(None))], -2, 0)


def from_s2cnn_so3(
    spectrum: Complex[Array, "coefficient *batch channel"],
) -> Complex[Array, "*batch degree m n channel"]:
    """Matrices F^l_mn, padded with zeros, from S2CNN's spectrum on SO(3).

    Raises:
        InputError: the number of coefficients is not b (4 b^2 - 1) / 3.
    """
    count = spectrum.shape[0]
    bandlimit = round((3 * count / 4) ** (1 / 3))
    if bandlimit < 1 or bandlimit * (4 * bandlimit**2 - 1) // 3 != count:
        raise InputError(f"spectra on SO(3) number b (4 b^2 - 1) / 3 (1, 10, 35, 84, ...), got {count}")
    shape = bandlimit, 2 * bandlimit - 1, 2 * bandlimit - 1
    places = np.zeros(shape, int)
    places[_so3_places(bandlimit)] = np.arange(1, count + 1)
    spectrum = jnp.moveaxis(jnp.pad(spectrum, [(1, 0)] + [(0, 0)] * (spectrum.ndim - 1)), 0, -2)
    return spectrum[..., places, :]


def to_real(dense: Dense) -> Float[Array, "*batch degree order channel"]:
    """Coefficients of a real signal in the real basis, at the same places; orders m >= 0 of the dense are read.

    Raises:
        InputError: the coefficients are not dense ones.
    """
    bandlimit = layout.dense_bandlimit(dense)
    m = np.arange(1, bandlimit)
    scale = layout.leading((np.sqrt(2) * (-1.0) ** m)[:, None].astype(dense.real.dtype), dense.ndim)
    positive = dense[..., bandlimit:, :] * scale
    middle = dense[..., bandlimit - 1 : bandlimit, :].real
    return jnp.concatenate([-positive[..., ::-1, :].imag, middle, positive.real], -2)


def from_real(real: Float[Array, "*batch degree order channel"]) -> Dense:
    """Dense coefficients of a real signal, of all orders, from those in the real basis."""
    bandlimit = real.shape[-3]
    m = np.arange(1, bandlimit)
    scale = layout.leading((np.sqrt(0.5) * (-1.0) ** m)[:, None].astype(real.dtype), real.ndim)
    cosine, sine = real[..., bandlimit:, :], real[..., : bandlimit - 1, :][..., ::-1, :]
    positive = (cosine - 1j * sine) * scale
    sign = layout.leading(((-1.0) ** m)[:, None].astype(real.dtype), real.ndim)
    middle = real[..., bandlimit - 1 : bandlimit, :].astype(positive.dtype)
    return jnp.concatenate([(sign * positive.conj())[..., ::-1, :], middle, positive], -2)


def to_e3nn(dense: Dense) -> Float[Array, "*batch channel coefficient"]:
    """Coefficients of a real signal as the array of `e3nn_jax.s2_irreps(bandlimit - 1)`, channels before them."""
    degree, order = layout.l_major_indices(dense.shape[-3])
    return jnp.swapaxes(to_real(dense)[..., degree, order + dense.shape[-3] - 1, :], -1, -2)


def from_e3nn(array: Float[Array, "*batch channel coefficient"]) -> Dense:
    """Dense coefficients of a real signal from the array of an e3nn representation 0e + 1o + 2e + ....

    Raises:
        InputError: the number of coefficients is no square.
    """
    packed = jnp.swapaxes(array, -1, -2)
    return from_real(layout.l_major_to_dense(packed.astype(complex_dtype(array.dtype))).real)


def _so3_places(bandlimit: int) -> tuple[np.ndarray, ...]:
    """(degree, m + L - 1, n + L - 1) along the l-major axis."""
    m = np.abs(np.arange(1 - bandlimit, bandlimit))
    degree = np.arange(bandlimit)[:, None, None]
    return np.nonzero((m[:, None] <= degree) & (m[None, :] <= degree))
