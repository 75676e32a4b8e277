"""Fisheye cameras: what is known of one, where it stands, and how far its polynomial reaches.

Frames. Camera: z along the optical axis, x to the right of the image, y down; theta is the angle to the optical axis
and phi turns from x to y. Vehicle: that of the calibration (WoodScape: x ahead, y left, z up); the camera's quaternion
takes camera vectors to it. Sphere: the camera frame or, with `rotate_pole`, the frame whose pole looks along a
horizontal axis of the vehicle (ahead for the camera in front), so that the spheres of all cameras have their pole on
the horizon.

`jaxgeo.grids.fisheye_projection` goes from directions to the image and back.

References:
    Yogamani et al., "WoodScape: A multi-task, multi-camera fisheye dataset for autonomous driving", ICCV 2019,
    arXiv:1905.01489.
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", CVPR 2024, arXiv:2307.07313: the pole's rotation.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo.errors import ConfigError
from jaxgeo.grids import rotations
from jaxgeo.grids.directions import vector_angles
from jaxgeo.grids.fisheye_polynomial import largest_angle, radius_of_angle

Real = jax.Array | np.ndarray

REFERENCE_AXES = {  # axis of the vehicle (x ahead, y left) towards which a camera looks, by its name
    "FV": (1.0, 0.0, 0.0),
    "RV": (-1.0, 0.0, 0.0),
    "MVL": (0.0, 1.0, 0.0),
    "MVR": (0.0, -1.0, 0.0),
}
_MODEL = "radial_poly"
_ROUNDING = 1e-12  # relative, of angles and radii in float64


class FisheyeCamera(eqx.Module):
    """A camera with rho(theta) = k1 theta + k2 theta^2 + ..., u = rho cos(phi) + ..., v = aspect rho sin(phi) + ..."""

    coefficients: Float[Real, " order"]  # k1, k2, ... in pixels per radian, per radian^2, ...
    aspect: Float[Real, ""]  # stretches v
    center_offset: Float[Real, " 2"]  # of the optical axis from the middle of the image, along u and v, in pixels
    quaternion: Float[Real, " 4"]  # (x, y, z, w): camera frame to vehicle frame
    translation: Float[Real, " 3"]  # of the camera in the vehicle frame, metres
    reference_axis: Float[Real, " 3"]  # unit vector in the vehicle frame, where the rotated pole lies
    image_shape: tuple[int, int] = eqx.field(static=True)  # rows, columns

    @property
    def height(self) -> int:
        """Rows of the image."""
        return self.image_shape[0]

    @property
    def width(self) -> int:
        """Columns of the image."""
        return self.image_shape[1]


def stack_cameras(cameras: Sequence[FisheyeCamera]) -> FisheyeCamera:
    """One camera with a leading axis, for `jax.vmap`.

    Raises:
        ConfigError: no camera, or cameras that differ in image shape or in the number of coefficients.
    """
    kinds = {(camera.image_shape, np.shape(camera.coefficients)) for camera in cameras}
    if len(kinds) != 1:
        raise ConfigError(
            f"cameras are stacked where they have one image shape and one number of coefficients, got {len(kinds)} "
            f"kinds {sorted(kinds)}; stack each kind by itself"
        )
    return jax.tree.map(lambda *leaves: np.stack(leaves), *cameras)


def resize_camera(camera: FisheyeCamera, image_shape: tuple[int, int]) -> FisheyeCamera:
    """The camera of the same picture at another size, both of the same outer edges; every direction keeps its place.

    With s the scale of the columns and t that of the rows, k1, k2, ... are multiplied by s, the aspect ratio by t / s,
    and the offsets of the optical axis by s and t.

    Args:
        camera: of the picture as it is.
        image_shape: rows and columns of the resized picture.

    Raises:
        ConfigError: no row or no column.
    """
    if min(image_shape) < 1:
        raise ConfigError(f"an image needs at least one row and one column, got shape {image_shape}")
    down, right = (new / old for new, old in zip(image_shape, camera.image_shape, strict=True))
    aspect = camera.aspect * (down / right)
    return dataclasses.replace(
        camera,
        coefficients=camera.coefficients * right,
        aspect=aspect if isinstance(aspect, jax.Array) else np.asarray(aspect),  # NumPy makes numbers of 0-d arrays
        center_offset=camera.center_offset * np.array([right, down]),
        image_shape=image_shape,
    )


def read_calibration(
    calibration: Mapping[str, Any], reference_axis: Sequence[float | int] | None = None
) -> FisheyeCamera:
    """The camera of a calibration in WoodScape's format, its numbers in float64.

    Args:
        calibration: `intrinsic` with model "radial_poly", poly_order, k1 ... k<poly_order>, aspect_ratio, cx_offset,
            cy_offset, width and height; `extrinsic` with quaternion (x, y, z, w), which is normalised, and
            translation; `name`. Other keys are not looked at.
        reference_axis: direction in the vehicle frame where the rotated pole lies; by default that of the name, which
            is FV, RV, MVL or MVR. Needed for cameras of other names.

    Raises:
        ConfigError: a key is missing, the model is another one, or a value is of a wrong kind or impossible.
    """
    if not isinstance(calibration, Mapping):
        raise ConfigError(
            f"a calibration is the mapping that its JSON file holds, got {type(calibration).__name__}; of a file give "
            f"json.loads(path.read_text())"
        )
    intrinsic, extrinsic = (_part(calibration, name) for name in ("intrinsic", "extrinsic"))
    model = _value(intrinsic, "intrinsic", "model")
    if model != _MODEL:
        raise ConfigError(f"the camera model must be {_MODEL!r}, whose radius is a polynomial in theta, got {model!r}")
    order = _whole(intrinsic, "poly_order")
    if reference_axis is None:
        name = _value(calibration, "the calibration", "name")
        if not isinstance(name, str) or name not in REFERENCE_AXES:
            raise ConfigError(
                f"the axis that a camera looks along is known for the names {', '.join(REFERENCE_AXES)}, got {name!r}; "
                f"pass reference_axis for another camera"
            )
        reference_axis = REFERENCE_AXES[name]
    aspect = _number(intrinsic, "intrinsic", "aspect_ratio")
    if aspect <= 0:
        raise ConfigError(f"aspect_ratio of intrinsic must be positive, got {aspect}")
    return FisheyeCamera(
        coefficients=np.array([_number(intrinsic, "intrinsic", f"k{n}") for n in range(1, order + 1)]),
        aspect=np.array(aspect),
        center_offset=np.array([_number(intrinsic, "intrinsic", key) for key in ("cx_offset", "cy_offset")]),
        quaternion=_unit(_vector(_value(extrinsic, "extrinsic", "quaternion"), "quaternion", 4), "quaternion"),
        translation=_vector(_value(extrinsic, "extrinsic", "translation"), "translation", 3),
        reference_axis=_unit(_vector(reference_axis, "reference_axis", 3), "reference_axis"),
        image_shape=(_whole(intrinsic, "height"), _whole(intrinsic, "width")),
    )


def check_camera(camera: FisheyeCamera, max_theta: float | int | None = None) -> None:
    """Refuse a camera that has no inverse where one is needed; needs numbers, so not inside `jit` or `vmap`.

    Args:
        camera: a single one.
        max_theta: angle to the optical axis, in radians, up to which its polynomial must grow; by default as far as the
            image's farthest pixel.

    Raises:
        ConfigError: with the largest valid angle; also for numbers that no camera has.
    """
    camera = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), camera)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(camera)):
        raise ConfigError("every number of a camera must be finite, got NaN or infinity in its calibration")
    if not camera.aspect > 0 or not np.any(camera.quaternion) or min(camera.image_shape) < 1:
        raise ConfigError(
            f"a camera needs a positive aspect ratio, a quaternion that is not zero and at least one pixel, got aspect "
            f"{camera.aspect}, quaternion {camera.quaternion} and shape {camera.image_shape}"
        )
    with jax.enable_x64(True):
        limit = float(largest_angle(camera.coefficients))
        reach = float(radius_of_angle(camera.coefficients, np.asarray(limit)))
    polynomial = f"the polynomial with coefficients {np.round(camera.coefficients, 4).tolist()}"
    at_most = f"{_floor(limit)} rad ({np.degrees(limit):.2f} degrees)"
    if limit == 0:
        raise ConfigError(f"{polynomial} does not grow at theta = 0, so that no angle is valid; k1 must be positive")
    if max_theta is not None:
        if not 0 < max_theta <= math.pi:
            raise ConfigError(f"max_theta is an angle in radians above 0 and at most pi, got {max_theta}")
        if max_theta > limit * (1 + _ROUNDING):
            raise ConfigError(
                f"{polynomial} grows only up to theta = {at_most}, so that it has no inverse up to the needed "
                f"{max_theta:.6g} rad ({np.degrees(max_theta):.2f} degrees); ask for at most max_theta={_floor(limit)}"
            )
        return
    farthest = float(np.max(_corner_radii(camera)))
    if farthest > reach * (1 + _ROUNDING):
        raise ConfigError(
            f"{polynomial} grows only up to theta = {at_most}, where its radius is {reach:.2f} pixels, but the "
            f"farthest pixel of the image lies at {farthest:.2f}; with max_theta={_floor(limit)} or less the pixels "
            f"beyond it are marked invalid instead"
        )


def pole_rotation(camera: FisheyeCamera) -> Float[Array, "3 3"]:
    """Rotation that takes vectors of the frame with rotated pole to the camera frame: Rz(phi) Ry(theta).

    (theta, phi) is the direction of the vehicle's reference axis in the camera frame.
    """
    axis = rotations.rotate(rotations.inverse(extrinsic_rotation(camera)), jnp.asarray(camera.reference_axis))
    theta, phi = vector_angles(axis)
    return jnp.matmul(rotations.about_z(phi), rotations.about_y(theta), precision=jax.lax.Precision.HIGHEST)


def extrinsic_rotation(camera: FisheyeCamera) -> Float[Array, "3 3"]:
    """Rotation that takes vectors of the camera frame to the vehicle frame."""
    return rotations.from_quaternions(jnp.roll(jnp.asarray(camera.quaternion), 1, axis=-1))


def _part(calibration: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = _value(calibration, "the calibration", name)
    if not isinstance(part, Mapping):
        raise ConfigError(f"{name} of a calibration must hold named values, got {type(part).__name__}")
    return part


def _value(part: Mapping[str, Any], where: str, key: str) -> Any:
    if key not in part:
        raise ConfigError(
            f"{where} has no {key!r}, which the camera needs; there are {', '.join(map(str, part)) or 'no keys'}"
        )
    return part[key]


def _number(part: Mapping[str, Any], where: str, key: str) -> float:
    value = _value(part, where, key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{key} of {where} must be a finite number, got {value!r}")
    return float(value)


def _whole(part: Mapping[str, Any], key: str) -> int:
    """A count of at least 1; published files write some as 1280.0."""
    value = _number(part, "intrinsic", key)
    if value < 1 or value != int(value):
        raise ConfigError(f"{key} of intrinsic must be a whole number of at least 1, got {value!r}")
    return int(value)


def _vector(values: Any, name: str, length: int) -> np.ndarray:
    try:
        vector = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        vector = np.zeros(0)
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise ConfigError(f"{name} must be {length} finite numbers, got {values!r}")
    return vector


def _unit(vector: np.ndarray, name: str) -> np.ndarray:
    length = np.linalg.norm(vector)
    if length == 0:
        raise ConfigError(f"{name} has length 0 and no direction; it needs a number that is not 0")
    return vector / length


def _corner_radii(camera: FisheyeCamera) -> np.ndarray:
    """Distances of the centres of the corner pixels from the optical axis."""
    rows, columns = camera.image_shape
    u, v = np.meshgrid([0, columns - 1], [0, rows - 1])
    x = u - camera.center_offset[0] - (columns / 2 - 0.5)
    return np.hypot(x, (v - camera.center_offset[1] - (rows / 2 - 0.5)) / camera.aspect)


def _floor(angle: float) -> float:
    """Rounded down, so that the angle that a message names is accepted."""
    return math.floor(angle * (1 + _ROUNDING) * 1e6) / 1e6
