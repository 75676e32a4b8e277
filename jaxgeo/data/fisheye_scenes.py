"""Synthetic streets seen by four fisheye cameras, with exact depth and a class for every pixel; also on the sphere.

For training and checking segmentation and depth where no published set may be used: a street from a seed
(`jaxgeo.data.scene_layout`), a car that stands on it, and the cameras of that car, mounted and bent as those of
WoodScape: front, rear, and below both mirrors. Examples come as those of `jaxgeo.data.woodscape`. The same scene is
also rendered at the centres of HEALPix pixels directly, as the truth beside a fisheye image that was resampled.

Classes are those of `jaxgeo.data.scene_classes`. Equal seeds and configurations give equal bits on one machine; a
compiler for other processors may round differently.

References:
    Yogamani et al., "WoodScape: A multi-task, multi-camera fisheye dataset for autonomous driving", ICCV 2019,
    arXiv:1905.01489: the cameras' model and places. The numbers are made up close to its.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8

from jaxgeo.data.scene_classes import SCENE_CLASSES
from jaxgeo.data.scene_layout import SceneConfig, draw_scene
from jaxgeo.data.scene_rendering import render
from jaxgeo.data.woodscape import CameraName, FisheyeExample
from jaxgeo.data.woodscape_classes import ClassTable
from jaxgeo.errors import ConfigError, check_fields
from jaxgeo.grids import rotations
from jaxgeo.grids.cameras import REFERENCE_AXES, FisheyeCamera, extrinsic_rotation
from jaxgeo.grids.fisheye_projection import directions_to_image, pixel_rays
from jaxgeo.grids.resample import ALL_BASE_PIXELS, BasePixels, healpix_rays

_COEFFICIENTS = (332.0, -20.0, 43.0, -6.5)  # pixels per radian, ..., for images of 966 x 1280
_DIAGONAL = math.hypot(966, 1280)
# Where the cameras stand in the vehicle frame (metres), and how far they look down (degrees).
_MOUNTS: dict[str, tuple[tuple[float, float, float], float]] = {
    "FV": ((3.78, 0.0, 0.68), 6.0),
    "RV": ((-1.03, 0.0, 0.92), 20.0),
    "MVL": ((1.95, 1.1, 1.02), 36.0),
    "MVR": ((1.95, -1.1, 1.02), 36.0),
}
_LARGEST_SEED = 2**32


@dataclasses.dataclass(frozen=True)
class FisheyeScenesConfig:
    """Which images are made of each scene.

    Raises:
        ConfigError: no rows or columns, unknown, repeated or no cameras, a chunk without rays.
    """

    image_shape: tuple[int, int] = (240, 320)  # rows, columns
    cameras: tuple[CameraName, ...] = ("FV", "RV", "MVL", "MVR")
    scene: SceneConfig = dataclasses.field(default_factory=SceneConfig)
    shadows: bool = True
    chunk: int = 8192  # rays at once: bounds memory

    def __post_init__(self):
        check_fields(self, chunk=1)
        _check_shape(self.image_shape)
        if not self.cameras or len(set(self.cameras)) < len(self.cameras):
            raise ConfigError(f"cameras are some of {', '.join(get_args(CameraName))}, each once, got {self.cameras}")


class HealpixExample(NamedTuple):
    """What a camera's place sees of the whole sphere, on some HEALPix faces, each in NESTED order."""

    name: str
    camera_name: str
    image: UInt8[np.ndarray, "pixel 3"]
    labels: UInt8[np.ndarray, " pixel"]
    depth: Float32[np.ndarray, " pixel"]  # metres from the camera; infinite in the sky
    on_image: Bool[np.ndarray, " pixel"]  # whether the camera's image shows the direction
    camera: FisheyeCamera


@dataclasses.dataclass(frozen=True)
class _SceneExamples:
    """Every camera of every seed, one after the other, made when asked for."""

    config: FisheyeScenesConfig
    seeds: tuple[int, ...]

    @property
    def table(self) -> ClassTable:
        """The classes of the labels."""
        return SCENE_CLASSES

    @property
    def names(self) -> tuple[str, ...]:
        """Seed and camera of each example, such as `00007_FV`."""
        return tuple(f"{seed:05d}_{camera}" for seed in self.seeds for camera in self.config.cameras)

    def __len__(self) -> int:
        return len(self.seeds) * len(self.config.cameras)

    def _find(self, index: int) -> tuple[str, str, FisheyeCamera, int]:
        """(name, camera's name, camera, seed) of an example."""
        number = range(len(self))[index]  # IndexError beyond the end, and places from the end
        seed, place = divmod(number, len(self.config.cameras))
        name = self.config.cameras[place]
        return f"{self.seeds[seed]:05d}_{name}", name, scene_camera(name, self.config.image_shape), self.seeds[seed]

    def _render(
        self, seed: int, camera: FisheyeCamera, rays: Array, shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(image, labels, depth) on the host."""
        scene = draw_scene(jax.random.key(seed, impl="threefry2x32"), self.config.scene)
        # Flat rays: images and maps of as many pixels share a compiled program.
        rendering = render(scene, *camera_rays(camera, rays.reshape(-1, 3)), self.config.chunk, self.config.shadows)
        image = np.rint(255 * np.asarray(rendering.color)).astype(np.uint8).reshape(*shape, 3)
        labels = np.asarray(rendering.semantic).astype(np.uint8).reshape(shape)
        return image, labels, np.asarray(rendering.depth, np.float32).reshape(shape)


class FisheyeScenes(_SceneExamples):
    """Fisheye images; made by `fisheye_scenes`."""

    def __getitem__(self, index: int) -> FisheyeExample:
        name, camera_name, camera, seed = self._find(index)
        rays, _ = _image_rays(camera)
        return FisheyeExample(name, camera_name, *self._render(seed, camera, rays, camera.image_shape), camera)

    def __iter__(self) -> Iterator[FisheyeExample]:
        return (self[index] for index in range(len(self)))


@dataclasses.dataclass(frozen=True)
class HealpixScenes(_SceneExamples):
    """Maps on HEALPix faces; made by `healpix_scenes`."""

    nside: int
    base_pixels: BasePixels
    rotate_pole: bool

    def __getitem__(self, index: int) -> HealpixExample:
        name, camera_name, camera, seed = self._find(index)
        rays, on_image = _map_rays(camera, self.nside, self.base_pixels, self.rotate_pole)
        rendered = self._render(seed, camera, rays, rays.shape[:1])
        return HealpixExample(name, camera_name, *rendered, np.asarray(on_image), camera)

    def __iter__(self) -> Iterator[HealpixExample]:
        return (self[index] for index in range(len(self)))


def fisheye_scenes(config: FisheyeScenesConfig, seeds: Sequence[int]) -> FisheyeScenes:
    """Images of the scenes of some seeds by all cameras of the configuration, each made when it is asked for.

    Args:
        config: of scenes and images.
        seeds: one scene each; disjoint seeds make disjoint sets, for training and testing.

    Raises:
        ConfigError: no seeds, or some that are not whole numbers from 0 to 2^32 - 1.
    """
    return FisheyeScenes(config, _checked_seeds(seeds))


def healpix_scenes(
    config: FisheyeScenesConfig,
    seeds: Sequence[int],
    nside: int,
    base_pixels: BasePixels = ALL_BASE_PIXELS,
    *,
    rotate_pole: bool = False,
) -> HealpixScenes:
    """The same scenes as `fisheye_scenes`, with rays cast at the centres of HEALPix pixels around each camera.

    Args:
        config: of scenes and images; the shape of the images only counts for `on_image`.
        seeds: one scene each.
        nside: of the maps.
        base_pixels: of the maps, in this order.
        rotate_pole: whether the pole is the rotated one (`jaxgeo.grids.cameras`); else it is the optical axis.

    Raises:
        ConfigError: as `fisheye_scenes`; impossible nside or faces.
    """
    made = HealpixScenes(config, _checked_seeds(seeds), nside, tuple(base_pixels), rotate_pole)
    healpix_rays(scene_camera("FV", config.image_shape), nside, made.base_pixels)  # refuses what is no map
    return made


def scene_camera(name: CameraName, image_shape: tuple[int, int]) -> FisheyeCamera:
    """One of the car's cameras for an image of any shape: its diagonal always spans the same angle, some 224 degrees.

    Raises:
        ConfigError: unknown name, or no rows or columns.
    """
    if name not in _MOUNTS:
        raise ConfigError(f"there are the cameras {', '.join(_MOUNTS)}, got {name!r}")
    _check_shape(image_shape)
    place, down = _MOUNTS[name]
    ahead = np.asarray(REFERENCE_AXES[name])
    return FisheyeCamera(
        coefficients=np.asarray(_COEFFICIENTS) * math.hypot(*image_shape) / _DIAGONAL,
        aspect=np.array(1.0),
        center_offset=np.zeros(2),
        quaternion=_mounting(ahead, math.radians(down)),
        translation=np.asarray(place),
        reference_axis=ahead,
        image_shape=(image_shape[0], image_shape[1]),
    )


@jax.jit
def camera_rays(
    camera: FisheyeCamera, rays: Float[Array, "*ray 3"]
) -> tuple[Float[Array, "*ray 3"], Float[Array, "*ray 3"]]:
    """(origins, directions) in the vehicle frame of unit vectors in the camera frame."""
    turned = rotations.rotate(jnp.broadcast_to(extrinsic_rotation(camera), (*rays.shape, 3)), rays)
    place = jnp.asarray(camera.translation, turned.dtype).reshape((1,) * (turned.ndim - 1) + (3,))
    return jnp.broadcast_to(place, turned.shape), turned


@jax.jit
def _image_rays(camera: FisheyeCamera) -> tuple[Array, Array]:
    return pixel_rays(camera)


@functools.partial(jax.jit, static_argnames=("nside", "base_pixels", "rotate_pole"))
def _map_rays(camera: FisheyeCamera, nside: int, base_pixels: BasePixels, rotate_pole: bool) -> tuple[Array, Array]:
    """(rays in the camera frame, whether they meet the image)."""
    rays = healpix_rays(camera, nside, base_pixels, rotate_pole=rotate_pole)
    return rays, directions_to_image(camera, rays)[2]


def _mounting(ahead: np.ndarray, down: float) -> np.ndarray:
    """Quaternion (x, y, z, w) of a level camera that looks along a horizontal axis, and down by an angle.

    Its optical axis is the sum of cos(down) ahead and -sin(down) up; its x axis is the horizontal to the right of it.
    """
    heading = math.atan2(ahead[1], ahead[0])
    # Camera axes of one that looks along x of the vehicle: x = -y, y = -z, z = x; then tilted, then turned about z.
    tilt, turning = down / 2, heading / 2
    first = np.array([0.5, -0.5, 0.5, -0.5])
    second = np.array([math.cos(tilt), 0, math.sin(tilt), 0])
    third = np.array([math.cos(turning), 0, 0, math.sin(turning)])
    return np.roll(_product(third, _product(second, first)), -1)


def _product(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Of quaternions (w, x, y, z)."""
    vector = p[0] * q[1:] + q[0] * p[1:] + np.cross(p[1:], q[1:])
    return np.concatenate([[p[0] * q[0] - p[1:] @ q[1:]], vector])


def _check_shape(shape: tuple[int, int]) -> None:
    if len(shape) != 2 or any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1 for n in shape):
        raise ConfigError(f"the shape of an image is at least one row and one column, got {shape}")


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    seeds = tuple(seeds)
    good = all(not isinstance(s, bool) and isinstance(s, (int, np.integer)) and 0 <= s < _LARGEST_SEED for s in seeds)
    if not seeds or not good:
        raise ConfigError(f"seeds are one or more whole numbers from 0 to 2^32 - 1, one for each scene, got {seeds}")
    return tuple(int(seed) for seed in seeds)
