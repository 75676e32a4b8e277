"""Where a fisheye camera sees a direction, and which direction a place on its image comes from.

The frames are those of `jaxgeo.grids.cameras`. Places are real numbers in pixels: u along the columns and v along the
rows, whole at pixel centres, so that the image covers -0.5 <= u <= width - 0.5. All functions are pure, compiled,
differentiable by the camera and by the places, and take stacked cameras through `jax.vmap`. They work in the default
float; a camera read from its calibration is in float64, which counts where `jax.enable_x64` is on.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxgeo.errors import ConfigError, check_one_of
from jaxgeo.grids import rotations
from jaxgeo.grids.cameras import FisheyeCamera, extrinsic_rotation, pole_rotation
from jaxgeo.grids.directions import angle_vectors, vector_angles
from jaxgeo.grids.fisheye_polynomial import angle_of_radius, largest_angle, radius_of_angle
from jaxgeo.modes import Mode

Alignment = Literal["areas", "corners", "origin"]
Origin = Literal["camera", "vehicle"]
Angle = float | int | Float[Array, ""]

_TABLE_SIZE = 100  # radii of the published inverse


@functools.partial(jax.jit, static_argnames="rotate_pole")
def directions_to_image(
    camera: FisheyeCamera, directions: Float[Array, "*point 3"], rotate_pole: bool = False, max_theta: Angle = math.pi
) -> tuple[Float[Array, "*point"], Float[Array, "*point"], Bool[Array, "*point"]]:
    """(u, v, valid) of directions: where they are seen, and whether.

    Valid: the angle to the optical axis is at most `max_theta` and within the range where the polynomial grows, and the
    place lies on the image. u and v follow the polynomial everywhere, valid or not.

    Args:
        camera: a single one; the rest by `jax.vmap`.
        directions: non-zero vectors of any length, in the sphere frame.
        rotate_pole: whether the pole of that frame is the rotated one; else it is the camera frame.
        max_theta: largest angle to the optical axis, in radians.
    """
    if rotate_pole:
        directions = rotations.rotate(_for_each(pole_rotation(camera), directions), directions)
    x, y, z = jnp.moveaxis(directions, -1, 0)
    flat = x**2 + y**2
    off_axis = flat > 0
    sine = jnp.sqrt(jnp.where(off_axis, flat, 1))
    theta = jnp.arctan2(jnp.where(off_axis, sine, 0), z)
    rho = radius_of_angle(camera.coefficients, theta)
    # On the axis rho / sin(theta) is k1, which keeps the derivatives by x and y; straight behind, phi counts as 0.
    stretch = jnp.where(off_axis, rho / sine, jnp.where(z > 0, camera.coefficients[0] / jnp.where(z > 0, z, 1), 0))
    return _placed(camera, theta, stretch * x + jnp.where(off_axis | (z > 0), 0, rho), stretch * y, max_theta)


@functools.partial(jax.jit, static_argnames="rotate_pole")
def angles_to_image(
    camera: FisheyeCamera,
    theta: Float[Array, "*point"],
    phi: Float[Array, "*point"],
    rotate_pole: bool = False,
    max_theta: Angle = math.pi,
) -> tuple[Float[Array, "*point"], Float[Array, "*point"], Bool[Array, "*point"]]:
    """`directions_to_image` of colatitudes and longitudes in the sphere frame."""
    if rotate_pole:
        return directions_to_image(camera, angle_vectors(theta, phi), True, max_theta)
    rho = radius_of_angle(camera.coefficients, theta)
    return _placed(camera, theta, rho * jnp.cos(phi), rho * jnp.sin(phi), max_theta)


@functools.partial(jax.jit, static_argnames=("rotate_pole", "mode"))
def image_to_directions(
    camera: FisheyeCamera,
    u: Float[Array, "*point"],
    v: Float[Array, "*point"],
    rotate_pole: bool = False,
    max_theta: Angle = math.pi,
    mode: Mode = "correct",
) -> tuple[Float[Array, "*point 3"], Bool[Array, "*point"]]:
    """(unit vectors in the sphere frame, valid) of places on the image plane.

    Valid: the radius is at most that of `max_theta` and of the angle up to which the polynomial grows. What lies beyond
    has that largest angle. Places off the image have directions too.

    Args:
        camera: a single one; the rest by `jax.vmap`.
        u: along the columns, pixels.
        v: along the rows, pixels.
        rotate_pole: whether the pole of the sphere is the rotated one.
        max_theta: largest angle to the optical axis, in radians.
        mode: "correct" solves for each angle; "faithful" interpolates linearly between 100 radii up to the largest one
            given, as published, and is off by some 1e-5 rad.
    """
    x, y, radius, theta, valid = _unprojected(camera, u, v, max_theta, mode)
    off_axis = radius > 0
    # sin(theta) / rho is 1 / k1 on the axis: derivatives by u and v stay right there.
    stretch = jnp.where(off_axis, jnp.sin(theta) / jnp.where(off_axis, radius, 1), 1 / camera.coefficients[0])
    directions = jnp.stack([stretch * x, stretch * y, jnp.cos(theta)], axis=-1)
    if rotate_pole:
        directions = rotations.rotate(_for_each(rotations.inverse(pole_rotation(camera)), directions), directions)
    return directions, valid


@functools.partial(jax.jit, static_argnames=("rotate_pole", "mode"))
def image_to_angles(
    camera: FisheyeCamera,
    u: Float[Array, "*point"],
    v: Float[Array, "*point"],
    rotate_pole: bool = False,
    max_theta: Angle = math.pi,
    mode: Mode = "correct",
) -> tuple[Float[Array, "*point"], Float[Array, "*point"], Bool[Array, "*point"]]:
    """(theta, phi in [0, 2 pi), valid) of places on the image plane; the rest as in `image_to_directions`."""
    if rotate_pole:
        directions, valid = image_to_directions(camera, u, v, True, max_theta, mode)
        return *vector_angles(directions), valid
    x, y, _, theta, valid = _unprojected(camera, u, v, max_theta, mode)
    _, phi = vector_angles(jnp.stack([x, y, jnp.zeros_like(x)], axis=-1))
    return theta, phi, valid


def pixel_grid(
    image_shape: tuple[int, int], shape: tuple[int, int] | None = None, alignment: Alignment = "areas"
) -> tuple[Float[np.ndarray, "row column"], Float[np.ndarray, "row column"]]:
    """(u, v), in pixels of the camera's image, of the pixel centres of an image of another shape (float64).

    Args:
        image_shape: rows and columns of the camera.
        shape: rows and columns of the resized image; the camera's by default, for which all alignments agree.
        alignment: what the two images share: "areas" the outer edges, as resizing programs have it; "corners" the
            centres of the corner pixels (published for images and masks); "origin" the centre of the first pixel, all
            others scaled (published for depth).

    Raises:
        ConfigError: an unknown alignment, or an image without rows or columns.
    """
    check_one_of("alignment", alignment, Alignment)
    places = []
    for count, size in zip(shape or image_shape, image_shape, strict=True):
        if count < 1:
            raise ConfigError(f"an image needs at least one row and one column, got shape {shape}")
        index = np.arange(count, dtype=np.float64)
        if alignment == "corners":
            places.append(np.linspace(0, size - 1, count))
        else:
            places.append(index * size / count if alignment == "origin" else (index + 0.5) * size / count - 0.5)
    v, u = np.meshgrid(*places, indexing="ij")
    return u, v


def pixel_rays(
    camera: FisheyeCamera,
    shape: tuple[int, int] | None = None,
    *,
    rotate_pole: bool = False,
    max_theta: Angle = math.pi,
    alignment: Alignment = "areas",
    mode: Mode = "correct",
) -> tuple[Float[Array, "row column 3"], Bool[Array, "row column"]]:
    """(unit vectors in the sphere frame, valid) of all pixels of an image, of the camera's shape or resized.

    See `pixel_grid` for the alignment and `image_to_directions` for the rest.
    """
    u, v = pixel_grid(camera.image_shape, shape, alignment)
    return image_to_directions(camera, u, v, rotate_pole, max_theta, mode)


@functools.partial(jax.jit, static_argnames="origin")
def point_cloud(
    camera: FisheyeCamera,
    rays: Float[Array, "*point 3"],
    depth: Float[Array, "*point"],
    origin: Origin = "camera",
) -> Float[Array, "*point 3"]:
    """Points, along the vehicle's axes, of distances along rays; at infinity (inf, inf, inf) where not finite.

    Args:
        camera: its extrinsics are used.
        rays: unit vectors in the camera frame.
        depth: distance from the camera along the ray, metres.
        origin: "camera" leaves the points where the camera is the origin, as published; "vehicle" adds its translation.

    Raises:
        ConfigError: an unknown origin.
    """
    check_one_of("origin", origin, Origin)
    known = jnp.isfinite(depth)
    local = rays * jnp.where(known, depth, 0)[..., None]
    points = rotations.rotate(_for_each(extrinsic_rotation(camera), local), local)
    if origin == "vehicle":
        points += jnp.broadcast_to(jnp.asarray(camera.translation), points.shape)
    return jnp.where(known[..., None], points, jnp.inf)


def _placed(
    camera: FisheyeCamera, theta: Array, right: Array, down: Array, max_theta: Angle
) -> tuple[Array, Array, Array]:
    """Places and validity of points right of and below the optical axis."""
    rows, columns = camera.image_shape
    u = right + camera.center_offset[0] + (columns / 2 - 0.5)
    v = jnp.asarray(camera.aspect) * down + camera.center_offset[1] + (rows / 2 - 0.5)
    on_image = (u >= -0.5) & (u <= columns - 0.5) & (v >= -0.5) & (v <= rows - 0.5)
    return u, v, on_image & (theta <= jnp.minimum(largest_angle(camera.coefficients), max_theta))


def _unprojected(
    camera: FisheyeCamera, u: Array, v: Array, max_theta: Angle, mode: Mode
) -> tuple[Array, Array, Array, Array, Array]:
    """(right, down, radius, theta, valid) of places."""
    check_one_of("mode", mode, Mode)
    rows, columns = camera.image_shape
    x = u - camera.center_offset[0] - (columns / 2 - 0.5)
    y = (v - camera.center_offset[1] - (rows / 2 - 0.5)) / camera.aspect
    squared = x**2 + y**2
    radius = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
    limit = jnp.minimum(largest_angle(camera.coefficients), max_theta)
    valid = radius <= radius_of_angle(camera.coefficients, limit)
    if mode == "faithful":
        table = jnp.max(radius) * np.linspace(0, 1, _TABLE_SIZE)
        return x, y, radius, jnp.interp(radius, table, angle_of_radius(camera.coefficients, table, limit)), valid
    return x, y, radius, angle_of_radius(camera.coefficients, radius, limit), valid


def _for_each(rotation: Array, vectors: Array) -> Array:
    return jnp.broadcast_to(rotation, (*vectors.shape[:-1], 3, 3))
