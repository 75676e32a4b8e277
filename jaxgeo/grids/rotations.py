"""Rotations of the sphere as 3 x 3 matrices that act on column vectors: right-handed, angles in radians."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgeo.errors import InputError, check_whole_tuple

_ROUNDING = 1e-5  # of the entries of R R^T: a few products of rotations in float32


def from_quaternions(quaternions: Float[Array, "*batch 4"]) -> Float[Array, "*batch 3 3"]:
    """Rotation matrices of non-zero quaternions (w, x, y, z) of any length; q and -q are the same rotation.

    The Euler-Rodrigues formula. A zero quaternion is no rotation: refused where it is known, NaN under `jax.jit`.

    Raises:
        InputError: a known quaternion is zero or not finite.
    """
    _check_lengths("quaternions", quaternions)
    w, x, y, z = jnp.moveaxis(quaternions / jnp.linalg.norm(quaternions, axis=-1, keepdims=True), -1, 0)
    return _matrix(
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


def haar_rotations(key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> Float[Array, "*batch 3 3"]:
    """Rotations drawn uniformly (Haar measure) from SO(3), in the default float.

    A normalised Gaussian quaternion is uniform on the 3-sphere, which covers SO(3) twice and evenly.

    Raises:
        ConfigError: the shape is no tuple of whole numbers.

    References:
        Shoemake, "Uniform Random Rotations", Graphics Gems III (1992).
    """
    check_whole_tuple("the shape", shape, 0)
    return from_quaternions(jax.random.normal(key, (*shape, 4)))


def axis_angle(axis: Float[Array, "*batch 3"], angle: Float[Array, "*batch"]) -> Float[Array, "*batch 3 3"]:
    """Rotations by an angle about non-zero axes of any length, counter-clockwise seen from the tip of the axis.

    Raises:
        InputError: a known axis is zero or not finite.
    """
    _check_lengths("axes", axis)
    unit = axis / jnp.linalg.norm(axis, axis=-1, keepdims=True)
    # The half angle keeps 1 - cos of small angles exact, where the usual formula of Rodrigues cancels.
    half = angle[..., None] / 2
    return from_quaternions(jnp.concatenate([jnp.cos(half), jnp.sin(half) * unit], axis=-1))


def about_z(angle: Float[Array, "*batch"]) -> Float[Array, "*batch 3 3"]:
    """Rotations about the polar axis: longitudes grow by the angle."""
    cosine, sine, zero, one = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle), jnp.ones_like(angle)
    return _matrix((cosine, -sine, zero), (sine, cosine, zero), (zero, zero, one))


def about_y(angle: Float[Array, "*batch"]) -> Float[Array, "*batch 3 3"]:
    """Rotations about the y axis: the pole moves by the angle along the meridian of longitude 0."""
    cosine, sine, zero, one = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle), jnp.ones_like(angle)
    return _matrix((cosine, zero, sine), (zero, one, zero), (-sine, zero, cosine))


def from_euler_zyz(
    alpha: Float[Array, "*batch"], beta: Float[Array, "*batch"], gamma: Float[Array, "*batch"]
) -> Float[Array, "*batch 3 3"]:
    """R = R_z(alpha) R_y(beta) R_z(gamma): the pole goes to colatitude beta and longitude alpha."""
    return about_z(alpha) @ about_y(beta) @ about_z(gamma)


def to_euler_zyz(
    rotations: Float[Array, "*batch 3 3"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"], Float[Array, "*batch"]]:
    """(alpha, beta, gamma) with alpha, gamma in (-pi, pi], beta in [0, pi] and R_z(alpha) R_y(beta) R_z(gamma) = R.

    Where the pole stays or is turned over (sin beta = 0) only one angle is determined; gamma is 0 there.

    Raises:
        InputError: see `check_rotations`.
    """
    check_rotations(rotations)
    sine = jnp.hypot(rotations[..., 0, 2], rotations[..., 1, 2])
    beta = jnp.arctan2(sine, rotations[..., 2, 2])
    # Below the rounding of the entries alpha and gamma would be noise, each alone and also their sum.
    lock = sine < 4 * jnp.finfo(rotations.dtype).eps
    alpha = jnp.where(
        lock,
        jnp.arctan2(-rotations[..., 0, 1], rotations[..., 1, 1]),
        jnp.arctan2(rotations[..., 1, 2], rotations[..., 0, 2]),
    )
    # From R_z(-alpha) R, which is R_y(beta) R_z(gamma): near the lock gamma then makes good what rounding did to alpha.
    sine, cosine = jnp.sin(alpha)[..., None], jnp.cos(alpha)[..., None]
    turned = cosine * rotations[..., 1, :2] - sine * rotations[..., 0, :2]
    gamma = jnp.where(lock, 0, jnp.arctan2(turned[..., 0], turned[..., 1]))
    return alpha, beta, gamma


def check_rotations(rotations: Float[Array, "..."]) -> None:
    """Refuse what is no rotation; values only where they are known, not under `jax.jit`.

    Raises:
        InputError: the last two axes are not 3 x 3, or a matrix is not orthogonal to 1e-5 or has determinant -1.
    """
    if rotations.shape[-2:] != (3, 3):
        raise InputError(f"rotations are matrices of shape (..., 3, 3), got {rotations.shape}")
    if isinstance(rotations, Tracer) or not rotations.size:
        return
    matrices = np.asarray(rotations, np.float64)
    error = np.abs(matrices @ np.swapaxes(matrices, -1, -2) - np.eye(3)).max()
    if not error <= _ROUNDING:
        raise InputError(
            f"rotations are orthogonal, R R^T = 1 up to {_ROUNDING:g}, got an error of {error:.1e}; from_quaternions, "
            "axis_angle and from_euler_zyz make rotations of other things"
        )
    if (np.linalg.det(matrices) < 0).any():
        raise InputError("rotations have determinant 1, got one of determinant -1, which is a reflection")


def _check_lengths(what: str, vectors: Float[Array, "*batch _"]) -> None:
    if not isinstance(vectors, Tracer):
        values = np.asarray(vectors)
        if not (np.isfinite(values) & (values != 0).any(-1, keepdims=True)).all():
            raise InputError(f"{what} of rotations are finite and not zero, got some that are not")


def inverse(rotations: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 3 3"]:
    """Inverse rotations, the transposed matrices."""
    return jnp.swapaxes(rotations, -1, -2)


def rotate(rotations: Float[Array, "*batch 3 3"], vectors: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Each vector turned by its rotation."""
    return jnp.einsum("...ij,...j->...i", rotations, vectors, precision=jax.lax.Precision.HIGHEST)


def angle_between(first: Float[Array, "*batch 3 3"], second: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch"]:
    """Angle in [0, pi] of the rotation that takes the first to the second: the geodesic distance on SO(3).

    From the sine (the antisymmetric part of the relative rotation) and the cosine (its trace) together, so that neither
    small angles nor those near a half turn lose digits.
    """
    relative = jnp.einsum("...ji,...jk->...ik", first, second, precision=jax.lax.Precision.HIGHEST)
    twice_sine_axis = jnp.stack(
        [relative[..., i, j] - relative[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))], axis=-1
    )
    twice_cosine = jnp.trace(relative, axis1=-2, axis2=-1) - 1
    return jnp.arctan2(jnp.linalg.norm(twice_sine_axis, axis=-1), twice_cosine)


def _matrix(*rows: tuple[Float[Array, "*batch"], ...]) -> Float[Array, "*batch 3 3"]:
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
