"""Fisheye images and equirectangular panoramas on the HEALPix sphere, and back: stencils between plane and sphere.

`plan_*` checks its arguments, works in float64 and returns the table; the functions below them without checks are pure
and compiled, for use inside `jit`, `grad` and `vmap`, and differentiable by the camera. Tables are applied by
`jaxgeo.grids.stencils`: `interpolate` for images, `take_nearest` for labels, `interpolate_depth` for depth.

Maps hold some of the twelve faces, one after the other, each in NESTED order: a fisheye camera whose pole is the
optical axis sees little more than the first eight. Panoramas have their rows from the zenith to the nadir and show the
sphere from inside: the middle looks along longitude 0, and longitude falls to the right, since in a right-handed frame
it grows to the left.

Two ways are kept where the published program differs. Mode "correct" interpolates on all of the image, up to its outer
edge, takes labels from the pixel that holds the direction, and marks what the camera does not see. Mode "faithful" has
pixels from floor and ceil of a place, so that a sample with one whole coordinate is 0, counts pixels outside as fill in
every mean, takes labels from the pixel of the largest bilinear weight, and does not know where the camera's polynomial
ends.

References:
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", CVPR 2024, arXiv:2307.07313, and its program.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgeo.errors import ConfigError, check_one_of
from jaxgeo.grids import healpix, rotations
from jaxgeo.grids.cameras import FisheyeCamera, check_camera, pole_rotation
from jaxgeo.grids.fisheye_projection import (
    Alignment,
    Angle,
    directions_to_image,
    image_to_angles,
    pixel_grid,
)
from jaxgeo.grids.healpix_interpolation import interpolation_weights
from jaxgeo.grids.stencils import Stencil, check_stencil
from jaxgeo.modes import Mode

BasePixels = tuple[int, ...]
ALL_BASE_PIXELS: BasePixels = tuple(range(12))


def plan_fisheye_to_healpix(
    camera: FisheyeCamera,
    nside: int,
    base_pixels: BasePixels = ALL_BASE_PIXELS,
    *,
    rotate_pole: bool = False,
    max_theta: float | int | None = None,
    mode: Mode = "correct",
) -> Stencil:
    """Table from images (*batch, row, column) of a camera to maps (*batch, pixel).

    Args:
        camera: a single one, made of numbers.
        nside: of the map.
        base_pixels: of the map, in this order, 0 to 11; upstream has the first eight.
        rotate_pole: whether the map's pole is the rotated one (`jaxgeo.grids.cameras`); else it is the optical axis.
        max_theta: largest angle to the optical axis, in radians; by default as far as the polynomial grows.
        mode: see the module.

    Raises:
        ConfigError: the camera's polynomial does not grow up to `max_theta` (by default: up to the image's farthest
            pixel), with the largest angle that works; impossible nside, faces or mode.
    """
    check_camera(camera, max_theta)
    limit = math.pi if max_theta is None else max_theta
    return _planned(
        lambda known: fisheye_to_healpix(
            known, nside, base_pixels, rotate_pole=rotate_pole, max_theta=limit, mode=mode
        ),
        camera,
    )


def plan_healpix_to_fisheye(
    camera: FisheyeCamera,
    nside: int,
    base_pixels: BasePixels = ALL_BASE_PIXELS,
    *,
    shape: tuple[int, int] | None = None,
    alignment: Alignment = "areas",
    rotate_pole: bool = False,
    max_theta: float | int | None = None,
    mode: Mode = "correct",
) -> Stencil:
    """Table from maps (*batch, pixel) to images (*batch, row, column) of a camera.

    Args:
        camera: a single one, made of numbers.
        nside: of the map.
        base_pixels: of the map, in its order.
        shape: rows and columns of the image; the camera's by default.
        alignment: of an image of another shape (`jaxgeo.grids.fisheye_projection.pixel_grid`).
        rotate_pole: whether the map's pole is the rotated one.
        max_theta: largest angle to the optical axis, in radians; by default as far as the polynomial grows.
        mode: see the module.

    Raises:
        ConfigError: as `plan_fisheye_to_healpix`; impossible shape or alignment.
    """
    check_camera(camera, max_theta)
    limit = math.pi if max_theta is None else max_theta
    return _planned(
        lambda known: healpix_to_fisheye(
            known,
            nside,
            base_pixels,
            shape=shape,
            alignment=alignment,
            rotate_pole=rotate_pole,
            max_theta=limit,
            mode=mode,
        ),
        camera,
    )


def plan_panorama_to_healpix(shape: tuple[int, int], nside: int, base_pixels: BasePixels = ALL_BASE_PIXELS) -> Stencil:
    """Table from panoramas (*batch, row, column) to maps (*batch, pixel).

    Raises:
        ConfigError: impossible shape, nside or faces.
    """
    return _planned(lambda: panorama_stencil(*face_angles(nside, base_pixels), shape))


def plan_healpix_to_panorama(nside: int, shape: tuple[int, int], base_pixels: BasePixels = ALL_BASE_PIXELS) -> Stencil:
    """Table from maps (*batch, pixel) to panoramas (*batch, row, column).

    Raises:
        ConfigError: impossible shape, nside or faces.
    """
    return _planned(lambda: healpix_stencil(*panorama_angles(shape), nside, base_pixels))


@functools.partial(jax.jit, static_argnames=("nside", "base_pixels", "rotate_pole", "mode"))
def fisheye_to_healpix(
    camera: FisheyeCamera,
    nside: int,
    base_pixels: BasePixels = ALL_BASE_PIXELS,
    *,
    rotate_pole: bool = False,
    max_theta: Angle = math.pi,
    mode: Mode = "correct",
) -> Stencil:
    """`plan_fisheye_to_healpix` without checks: its weights are differentiable by the camera."""
    vectors = healpix.pixel_vectors(nside, face_pixels(nside, base_pixels), "nested")
    u, v, valid = directions_to_image(camera, vectors, rotate_pole, max_theta)
    return image_stencil(u, v, camera.image_shape, valid, mode)


@functools.partial(jax.jit, static_argnames=("nside", "base_pixels", "shape", "alignment", "rotate_pole", "mode"))
def healpix_to_fisheye(
    camera: FisheyeCamera,
    nside: int,
    base_pixels: BasePixels = ALL_BASE_PIXELS,
    *,
    shape: tuple[int, int] | None = None,
    alignment: Alignment = "areas",
    rotate_pole: bool = False,
    max_theta: Angle = math.pi,
    mode: Mode = "correct",
) -> Stencil:
    """`plan_healpix_to_fisheye` without checks: its weights are differentiable by the camera."""
    u, v = (jnp.asarray(places) for places in pixel_grid(camera.image_shape, shape, alignment))
    theta, phi, valid = image_to_angles(camera, u, v, rotate_pole, max_theta, mode)
    return healpix_stencil(theta, phi, nside, base_pixels, valid, mode)


def face_pixels(nside: int, base_pixels: BasePixels = ALL_BASE_PIXELS) -> Int[np.ndarray, " pixel"]:
    """NESTED numbers of the pixels of some faces, one face after the other."""
    _check_map(nside, base_pixels)
    return (np.asarray(base_pixels, np.int32)[:, None] * nside**2 + np.arange(nside**2, dtype=np.int32)).reshape(-1)


def face_angles(
    nside: int, base_pixels: BasePixels = ALL_BASE_PIXELS
) -> tuple[Float[Array, " pixel"], Float[Array, " pixel"]]:
    """Colatitudes and longitudes of the pixel centres of some faces."""
    return healpix.pixel_centers(nside, face_pixels(nside, base_pixels), "nested")


def healpix_rays(
    camera: FisheyeCamera,
    nside: int,
    base_pixels: BasePixels = ALL_BASE_PIXELS,
    *,
    rotate_pole: bool = False,
    mode: Mode = "correct",
) -> Float[Array, "pixel 3"]:
    """Unit vectors, in the camera frame, of the pixel centres of some faces: for `fisheye_projection.point_cloud`.

    Mode "faithful" does not turn them, also where the map's pole is the rotated one, as published.
    """
    check_one_of("mode", mode, Mode)
    vectors = healpix.pixel_vectors(nside, face_pixels(nside, base_pixels), "nested")
    if not rotate_pole or mode == "faithful":
        return vectors
    return rotations.rotate(jnp.broadcast_to(pole_rotation(camera), (*vectors.shape, 3)), vectors)


@functools.partial(jax.jit, static_argnames=("image_shape", "mode"))
def image_stencil(
    u: Float[Array, "*point"],
    v: Float[Array, "*point"],
    image_shape: tuple[int, int],
    valid: Bool[Array, "*point"] | None = None,
    mode: Mode = "correct",
) -> Stencil:
    """Stencil of places on an image: bilinear between pixel centres, level from the outermost ones to the edge.

    Args:
        u: along the columns, whole at pixel centres.
        v: along the rows.
        image_shape: rows and columns.
        valid: places that have no pixel where False; not looked at in mode "faithful".
        mode: "faithful" takes floor and ceil, so that a whole coordinate has weights 0, and knows no edge.
    """
    check_one_of("mode", mode, Mode)
    rows, columns = image_shape
    if mode == "correct":
        seen = (u >= -0.5) & (u <= columns - 0.5) & (v >= -0.5) & (v <= rows - 0.5)
        seen = seen if valid is None else seen & valid
        u, v = jnp.clip(u, 0, columns - 1), jnp.clip(v, 0, rows - 1)
        left, top = jnp.floor(u), jnp.floor(v)
        right, bottom = jnp.minimum(left + 1, columns - 1), jnp.minimum(top + 1, rows - 1)
        across, down = (1 - (u - left), u - left), (1 - (v - top), v - top)
    else:
        seen = jnp.ones(u.shape, bool)
        # Far outside all is the same, and large numbers have no integers.
        u, v = jnp.clip(u, -2, columns + 1), jnp.clip(v, -2, rows + 1)
        left, top, right, bottom = jnp.floor(u), jnp.floor(v), jnp.ceil(u), jnp.ceil(v)
        across, down = (right - u, u - left), (bottom - v, v - top)

    def pixel(row, column):
        inside = seen & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return jnp.where(inside, row.astype(jnp.int32) * columns + column.astype(jnp.int32), -1)

    corners = [pixel(row, column) for row in (top, bottom) for column in (left, right)]
    weights = [one * other for one in down for other in across]
    nearest = pixel(jnp.round(v), jnp.round(u))
    return Stencil(jnp.stack(corners, -1), jnp.stack(weights, -1), nearest, image_shape, mode)


@functools.partial(jax.jit, static_argnames=("nside", "base_pixels", "mode"))
def healpix_stencil(
    theta: Float[Array, "*point"],
    phi: Float[Array, "*point"],
    nside: int,
    base_pixels: BasePixels = ALL_BASE_PIXELS,
    valid: Bool[Array, "*point"] | None = None,
    mode: Mode = "correct",
) -> Stencil:
    """Stencil of directions on a map of some faces: HEALPix bilinear weights (`interpolation_weights`).

    Args:
        theta: colatitude, radians.
        phi: longitude, radians.
        nside: of the map.
        base_pixels: of the map, in its order.
        valid: directions that have no pixel where False; not looked at in mode "faithful".
        mode: labels come from the pixel that holds the direction ("correct") or from that of the largest weight.
    """
    check_one_of("mode", mode, Mode)
    _check_map(nside, base_pixels)
    place = np.full(12, -1, np.int32)
    place[list(base_pixels)] = np.arange(len(base_pixels))

    def local(pixel):
        pixel = pixel.astype(jnp.int32)
        slot = jnp.asarray(place)[pixel >> (2 * (int(nside).bit_length() - 1))]
        return jnp.where(slot < 0, -1, slot * nside**2 + (pixel & (nside**2 - 1)))

    pixels, weights = interpolation_weights(nside, theta, phi, "nested")
    pixels = local(pixels)
    if mode == "correct":
        nearest = local(healpix.angles_to_pixels(nside, theta, phi, "nested"))
        if valid is not None:
            pixels, nearest = jnp.where(valid[..., None], pixels, -1), jnp.where(valid, nearest, -1)
    else:
        nearest = jnp.take_along_axis(pixels, jnp.argmax(weights, axis=-1)[..., None], axis=-1)[..., 0]
    return Stencil(pixels, weights, nearest, (len(base_pixels) * nside**2,), mode)


def panorama_angles(shape: tuple[int, int]) -> tuple[Float[np.ndarray, "row column"], Float[np.ndarray, "row column"]]:
    """Colatitudes and longitudes in [0, 2 pi) of the pixel centres of a panorama (float64); see the module."""
    rows, columns = _checked_shape(shape)
    theta = (np.arange(rows) + 0.5) * np.pi / rows
    phi = np.mod(2 * np.pi * (0.5 - (np.arange(columns) + 0.5) / columns), 2 * np.pi)
    theta, phi = np.meshgrid(theta, phi, indexing="ij")
    return theta, phi


@functools.partial(jax.jit, static_argnames="shape")
def panorama_stencil(theta: Float[Array, "*point"], phi: Float[Array, "*point"], shape: tuple[int, int]) -> Stencil:
    """Stencil of directions on a panorama: bilinear in the angles, around the sphere and over the poles.

    Between the outermost row and its pole the next row is the same row on the other side of the pole.
    """
    rows, columns = _checked_shape(shape)
    row = theta * (rows / math.pi) - 0.5
    top = jnp.clip(jnp.floor(row), -1, rows - 1)
    down = jnp.clip(row - top, 0, 1)
    turns = jnp.mod(0.5 - phi / (2 * math.pi), 1)
    pixels, weights = [], []
    for place, share in ((top, 1 - down), (top + 1, down)):
        over = (place < 0) | (place >= rows)
        column = jnp.mod(turns + jnp.where(over, 0.5, 0.0), 1) * columns - 0.5
        left = jnp.floor(column)
        across = column - left
        first = jnp.clip(place, 0, rows - 1).astype(jnp.int32) * columns
        left = left.astype(jnp.int32) % columns
        pixels += [first + left, first + (left + 1) % columns]
        weights += [share * (1 - across), share * across]
    nearest_row = jnp.clip(jnp.floor(row + 0.5), 0, rows - 1).astype(jnp.int32)
    nearest_column = jnp.floor(turns * columns).astype(jnp.int32) % columns
    return Stencil(
        jnp.stack(pixels, -1), jnp.stack(weights, -1), nearest_row * columns + nearest_column, shape, "correct"
    )


def _planned(build: Callable[..., Stencil], *cameras: FisheyeCamera) -> Stencil:
    """The table, computed in float64 and then in the default float."""
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        known = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), camera) for camera in cameras)
        exact = jax.tree.map(np.asarray, build(*known))
    check_stencil(exact)
    real = jnp.result_type(float)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, real if leaf.dtype.kind == "f" else jnp.int32), exact)


def _checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    if len(shape) != 2 or min(shape) < 1:
        raise ConfigError(f"a panorama needs at least one row and one column, got shape {shape}")
    return shape


def _check_map(nside: int, base_pixels: BasePixels) -> None:
    healpix.check_nside(nside)
    if nside > healpix.MAX_NSIDE_INT32:
        raise ConfigError(
            f"stencils hold 32-bit pixel numbers, for nside at most {healpix.MAX_NSIDE_INT32}, got {nside}"
        )
    if not base_pixels or len(set(base_pixels)) < len(base_pixels) or not set(base_pixels) <= set(ALL_BASE_PIXELS):
        raise ConfigError(f"base_pixels must be some of the faces 0 to 11, none of them twice, got {base_pixels}")
