"""Planar images laid onto the sphere: inverse stereographic projection to NESTED HEALPix maps.

The image is a piecewise bilinear surface on the plane that touches the sphere at the north pole; the inverse
stereographic projection (from the south pole, conformal, so that strokes keep their shape) lays it onto the sphere,
and a rotation carries the pole to where the image's centre shall be. Rows run along +x and columns along +y: turned
by R_z(longitude) R_y(colatitude) the image stands upright and unmirrored, seen from outside.

A map holds averages over pixel areas: HEALPix pixels have equal areas and so have their children, therefore a
pixel is the plain mean of the surface at the centres of its `supersampling`^2 children.
"""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids import healpix

DEFAULT_RADIUS_DEG = 65.0  # the corners reach 84 degrees; a pixel of an 8 x 8 digit spans 13 to 18 degrees
_POINTS_AT_ONCE = 2**20  # directions in flight: about 50 MB of float32 temporaries


class StereographicPlan(eqx.Module):
    """Where the children of all pixels lie, and how large the image is."""

    vectors: Float[Array, "pixel child 3"]  # unit vectors of the children's centres, NESTED
    nside: int = eqx.field(static=True)
    image_shape: tuple[int, int] = eqx.field(static=True)  # rows, columns
    radius: float = eqx.field(static=True)  # radians from the centre to the middle of a side of the longer dimension


def plan_stereographic(
    nside: int, image_shape: tuple[int, int], radius_deg: float = DEFAULT_RADIUS_DEG, supersampling: int = 4
) -> StereographicPlan:
    """Plan for images of one shape (rows, columns).

    Args:
        nside: of the maps.
        image_shape: rows and columns; image pixels are square.
        radius_deg: angle between the image's centre and the middle of a side (of the farther ones where oblong).
        supersampling: children per pixel side, a power of two; 1 samples pixel centres only.

    Raises:
        ConfigError: nside or supersampling is no power of two, or a size or the radius is impossible.
    """
    healpix.check_nside(nside)
    if supersampling < 1 or supersampling & (supersampling - 1):
        raise ConfigError(
            f"supersampling must be a power of two, so that the samples are HEALPix pixels, got {supersampling}"
        )
    if nside * supersampling > healpix.MAX_NSIDE_INT32:
        raise ConfigError(
            f"nside {nside} with supersampling {supersampling} needs {12 * (nside * supersampling) ** 2} samples; "
            f"keep their product at most {healpix.MAX_NSIDE_INT32}"
        )
    if min(image_shape) < 1:
        raise ConfigError(f"an image needs at least one row and one column, got shape {image_shape}")
    if not 0 < radius_deg < 180:
        raise ConfigError(
            f"radius_deg must lie between 0 and 180, because the far pole is at infinity on the plane, got {radius_deg}"
        )
    vectors = _symmetric_vectors(nside * supersampling).reshape(12 * nside**2, supersampling**2, 3)
    if abs(vectors.mean()) > 1e-9 or np.abs((vectors**2).sum(-1) - 1).max() > 1e-12:
        raise AssertionError("the children's centres must be unit vectors that balance")  # pragma: no cover
    rows, columns = image_shape
    return StereographicPlan(jnp.asarray(vectors), nside, (rows, columns), math.radians(radius_deg))


def _symmetric_vectors(nside: int) -> np.ndarray:
    """Pixel centres (12 nside^2, 3) in float64, symmetric under quarter turns about the axis to the last bit."""
    face_pixels = nside**2
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        pix = np.concatenate([np.arange(face_pixels) + face * face_pixels for face in (0, 4, 8)])
        first = np.asarray(healpix.pixel_vectors(nside, jnp.asarray(pix), "nested")).reshape(3, 1, face_pixels, 3)
    quarters = [first]
    for _ in range(3):
        last = quarters[-1]
        quarters.append(np.stack([-last[..., 1], last[..., 0], last[..., 2]], axis=-1))
    return np.concatenate(quarters, axis=1).reshape(12 * face_pixels, 3)


@functools.partial(jax.jit, static_argnames="radius")
def sample_image(
    image: Float[Array, "row column"], directions: Float[Array, "*point 3"], radius: float
) -> Float[Array, "*point"]:
    """The image's surface, centred on the north pole, in directions of unit length.

    Bilinear between the centres of image pixels, constant from the outermost centres to the image's border, zero
    beyond it.

    Args:
        image: any values; the result has the type of image and directions together.
        directions: unit vectors.
        radius: radians from the pole to the middle of the longer dimension's sides.
    """
    rows, columns = image.shape
    # On the plane a point at colatitude theta lies 2 tan(theta / 2) from the centre; unit: one image pixel.
    scale = max(rows, columns) / (2 * math.tan(radius / 2))
    toward = 1 + directions[..., 2]
    finite = toward > 1e-12
    stretch = scale / jnp.where(finite, toward, 1)
    down, right = directions[..., 0] * stretch, directions[..., 1] * stretch
    inside = finite & (jnp.abs(down) <= rows / 2) & (jnp.abs(right) <= columns / 2)
    row = jnp.clip(down + (rows - 1) / 2, 0, rows - 1)
    column = jnp.clip(right + (columns - 1) / 2, 0, columns - 1)
    top, left = jnp.floor(row), jnp.floor(column)
    row_part, column_part = row - top, column - left
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)
    bottom, far = jnp.minimum(top + 1, rows - 1), jnp.minimum(left + 1, columns - 1)
    pixels = image.reshape(-1)

    def at(i, j):
        return pixels.at[i * columns + j].get(mode="promise_in_bounds")

    upper = (1 - column_part) * at(top, left) + column_part * at(top, far)
    lower = (1 - column_part) * at(bottom, left) + column_part * at(bottom, far)
    return jnp.where(inside, (1 - row_part) * upper + row_part * lower, 0)


@eqx.filter_jit
def project(
    plan: StereographicPlan,
    images: Float[Array, "*batch row column"],
    rotations: Float[Array, "... 3 3"],
    chunk: int | None = None,
) -> Float[Array, "*batch pixel"]:
    """NESTED maps of images whose centres the rotations carry from the north pole; zero outside the image.

    Args:
        plan: from `plan_stereographic`.
        images: in the plan's shape.
        rotations: one per image, matrices on column vectors (`jaxgeo.grids.rotations`).
        chunk: images worked on at a time (memory grows with it, the result does not depend on it); by default as
            many as keep the temporaries near 50 MB.

    Raises:
        ConfigError: a chunk of no image.
        InputError: the images are not of the plan's shape, or images and rotations are not equally many.
    """
    if images.shape[-2:] != plan.image_shape:
        raise InputError(f"the plan is for images of shape {plan.image_shape}, got {images.shape[-2:]}; plan anew")
    batch = images.shape[:-2]
    if rotations.shape != (*batch, 3, 3):
        raise InputError(
            f"each image needs its own rotation: {batch} images need rotations of shape {(*batch, 3, 3)}, "
            f"got {rotations.shape}"
        )
    if chunk is None:
        chunk = max(1, _POINTS_AT_ONCE // (plan.vectors.shape[0] * plan.vectors.shape[1]))
    if chunk < 1:
        raise ConfigError(f"chunk must be at least 1 image, got {chunk}")

    def one(image_and_rotation):
        image, rotation = image_and_rotation
        # R^T v: the direction that the rotation carries to v, where the image still lies at the pole.
        directions = jnp.einsum("pci,ij->pcj", plan.vectors, rotation, precision=jax.lax.Precision.HIGHEST)
        return jnp.mean(sample_image(image, directions, plan.radius), axis=-1)

    flat = (images.reshape(-1, *plan.image_shape), rotations.reshape(-1, 3, 3))
    maps = jax.lax.map(one, flat, batch_size=chunk)
    return maps.reshape(*batch, plan.vectors.shape[0])
