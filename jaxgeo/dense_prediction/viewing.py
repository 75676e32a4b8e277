"""Where the pixels of a picture look, and the way to the sphere and back: of fisheye pictures and of panoramas."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from jaxgeo.data.stanford_panoramas import Panorama
from jaxgeo.grids import healpix
from jaxgeo.grids.cameras import FisheyeCamera
from jaxgeo.grids.directions import angle_vectors
from jaxgeo.grids.fisheye_projection import image_to_directions, pixel_grid
from jaxgeo.grids.resample import (
    face_pixels,
    fisheye_to_healpix,
    healpix_to_fisheye,
    panorama_angles,
    plan_healpix_to_panorama,
    plan_panorama_to_healpix,
)
from jaxgeo.grids.stencils import Stencil
from jaxgeo.modes import Mode

# Panoramas of a set are mostly of one size, and their tables are large: that of 2048 rows has 300 MB on the way back.
_planned_to_sphere = functools.lru_cache(maxsize=2)(plan_panorama_to_healpix)
_planned_to_picture = functools.lru_cache(maxsize=1)(plan_healpix_to_panorama)


@dataclasses.dataclass(frozen=True)
class View:
    """Which part of the sphere, how fine, and by which way; the last two are of fisheye pictures alone."""

    nside: int
    base_pixels: tuple[int, ...] = tuple(range(12))
    sampling: Mode = "correct"
    rotate_pole: bool = False


def to_sphere(picture: Any, view: View) -> Stencil:
    """Table from a picture's pixels (row, column) to those of some faces (pixel,), NESTED.

    In float64 where it is as published: colours are then truncated to bytes, which shows every rounding.
    """
    if isinstance(picture, Panorama):
        return _planned_to_sphere(picture.image.shape[:2], view.nside, view.base_pixels)
    options: dict[str, Any] = {"rotate_pole": view.rotate_pole, "mode": view.sampling}
    if view.sampling == "correct":
        return fisheye_to_healpix(picture.camera, view.nside, view.base_pixels, **options)
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, fisheye_to_healpix(picture.camera, view.nside, view.base_pixels, **options))


def to_picture(picture: Any, view: View) -> Stencil:
    """Table from the pixels of some faces (pixel,), NESTED, to those of a picture (row, column)."""
    if isinstance(picture, Panorama):
        return _planned_to_picture(view.nside, picture.image.shape[:2], view.base_pixels)
    return healpix_to_fisheye(
        picture.camera, view.nside, view.base_pixels, rotate_pole=view.rotate_pole, mode=view.sampling
    )


def solid_angles(picture: Any) -> Float32[np.ndarray, "row column"]:
    """Of every pixel of a picture, in steradians; 0 where a camera does not see."""
    if isinstance(picture, Panorama):
        rows, columns = picture.image.shape[:2]
        # Differences of cosines of the rows' edges: they sum to 2, so that the areas sum to the sphere's.
        heights = -np.diff(np.cos(np.linspace(0, np.pi, rows + 1)))
        return np.repeat(heights[:, None] * (2 * np.pi / columns), columns, axis=1).astype(np.float32)
    return np.asarray(pixel_solid_angles(picture.camera), np.float32)


def directions(picture: Any, rotate_pole: bool = False) -> Float32[np.ndarray, "row column 3"]:
    """Unit vectors along which the pixels of a picture look, in the frame of `sphere_directions`."""
    if isinstance(picture, Panorama):
        return np.asarray(angle_vectors(*map(jnp.asarray, panorama_angles(picture.image.shape[:2]))), np.float32)
    return np.asarray(_camera_directions(picture.camera, rotate_pole), np.float32)


@functools.lru_cache(maxsize=2)
def sphere_directions(nside: int, base_pixels: tuple[int, ...]) -> Float32[np.ndarray, "pixel 3"]:
    """Unit vectors to the pixels of some faces, NESTED."""
    return np.asarray(healpix.pixel_vectors(nside, face_pixels(nside, base_pixels), "nested"), np.float32)


@jax.jit
def pixel_solid_angles(camera: FisheyeCamera) -> jax.Array:
    """Solid angle of every pixel of a picture, in steradians; 0 where the camera does not see: (row, column)."""
    u, v = (jnp.asarray(part, jnp.float32) for part in pixel_grid(camera.image_shape))

    def direction(u: jax.Array, v: jax.Array) -> jax.Array:
        return image_to_directions(camera, u, v)[0]

    along = [jax.jvp(direction, (u, v), (step_u, 1 - step_u))[1] for step_u in (jnp.ones_like(u), jnp.zeros_like(u))]
    _, seen = image_to_directions(camera, u, v)
    area = jnp.linalg.norm(jnp.cross(*along), axis=-1)
    return jnp.where(seen & jnp.isfinite(area), area, 0)


@functools.partial(jax.jit, static_argnames="rotate_pole")
def _camera_directions(camera: FisheyeCamera, rotate_pole: bool) -> jax.Array:
    places = (jnp.asarray(part, jnp.float32) for part in pixel_grid(camera.image_shape))
    return image_to_directions(camera, *places, rotate_pole)[0]
