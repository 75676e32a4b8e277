"""Planar images on the sphere in the way that the published spherical digits were made, errors included.

The picture lies on a plane around the south pole and is seen from (almost) the north pole. The sampler weighs the
pixels before and after a point with distances that sum to 2 in each direction, so that a constant image of 1 becomes 4;
the result is spread over 0..255 image by image, which hides that, and truncated. `jaxgeo.data.spherical_digits` has the
correct form beside this one.

References:
    Gerken et al., "Equivariance versus Augmentation for Spherical Images", arXiv:2202.03990, and its program.
    Cohen, Geiger, Koehler, Welling, "Spherical CNNs", arXiv:1801.10130, whose program it follows.
    Arvo, "Fast Random Rotation Matrices", Graphics Gems III (1992): the rotations.
"""

import math

import numpy as np
from jaxtyping import Float, UInt8

from jaxgeo.errors import InputError

# Height of the eye where the sphere lies between 0 and 2 and the picture at 0; at 2 the north pole had no image.
_EYE = 2 + 1e-3
_HALF_WIDTH = 1.5  # of the picture on the plane, which touches the sphere at the south pole
PUBLISHED_RADIUS = 2 * math.atan(_HALF_WIDTH / 2)
"""Radians from the centre of the picture to the middle of its sides: 73.7 degrees."""


def published_rotation(numbers: Float[np.ndarray, " 3"], deflection: float = 1.0) -> Float[np.ndarray, "3 3"]:
    """The rotation of three numbers in [0, 1], uniform in SO(3) where these are and the deflection is 1.

    Args:
        numbers: of the turn about the pole, the direction in which the pole moves, and how far.
        deflection: from 0 (a fixed half turn, not the identity) to 1 (everywhere).
    """
    turn, direction, height = numbers[0] * deflection * 2 * np.pi, numbers[1] * 2 * np.pi, numbers[2] * 2 * deflection
    axis = np.array([np.sin(direction) * np.sqrt(height), np.cos(direction) * np.sqrt(height), np.sqrt(2 - height)])
    about_pole = np.array(
        [[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]], dtype=np.float64
    )
    return (np.outer(axis, axis) - np.eye(3)) @ about_pole


def published_picture_coordinates(
    vectors: Float[np.ndarray, "*point 3"],
) -> tuple[Float[np.ndarray, "*point"], Float[np.ndarray, "*point"]]:
    """Where unit vectors are seen on the picture: 0 to 1 along its rows and columns, other values outside of it."""
    height = vectors[..., 2] + 1
    stretch = 1 - height / (height - _EYE)
    down, right = vectors[..., 0] * stretch, vectors[..., 1] * stretch
    return (down + _HALF_WIDTH) / (2 * _HALF_WIDTH), (right + _HALF_WIDTH) / (2 * _HALF_WIDTH)


def published_samples(
    images: Float[np.ndarray, "*image row column"],
    rows: Float[np.ndarray, "*point"],
    columns: Float[np.ndarray, "*point"],
) -> Float[np.ndarray, "..."]:
    """Images (*image, *point) at picture coordinates in [0, 1], by the published sampler: four times too large.

    The pixels one before and one after the truncated coordinate are weighed by the distances to each other's side,
    which sum to 2; pixels outside count as 0.
    """
    height, width = images.shape[-2:]
    x, y = rows * height, columns * width
    ix, iy = np.trunc(x).astype(np.int64), np.trunc(y).astype(np.int64)

    def at(i, j):
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        return images[..., np.clip(i, 0, height - 1), np.clip(j, 0, width - 1)] * inside

    before_x, after_x, before_y, after_y = x - (ix - 1), ix + 1 - x, y - (iy - 1), iy + 1 - y
    first = after_x * at(ix - 1, iy - 1) + before_x * at(ix + 1, iy - 1)
    second = after_x * at(ix - 1, iy + 1) + before_x * at(ix + 1, iy + 1)
    return after_y * first + before_y * second


def published_quantised(samples: Float[np.ndarray, "*image lat lon"]) -> UInt8[np.ndarray, "*image lat lon"]:
    """Each image spread over 0..255 by its own smallest and largest value, and truncated.

    Raises:
        InputError: a constant image, which has no range to spread, or a value that is not finite.
    """
    if not np.isfinite(samples).all():
        raise InputError(
            f"{int((~np.isfinite(samples)).sum())} of {samples.size} samples are not finite and have no place in "
            f"0..255; mend the images first"
        )
    low, high = samples.min(axis=(-2, -1), keepdims=True), samples.max(axis=(-2, -1), keepdims=True)
    if (high <= low).any():
        raise InputError(
            f"{int((high <= low).sum())} of {high.size} images are constant on the sphere and cannot be spread over "
            f"0..255 as published; leave them out, or take mode='correct', which does not spread"
        )
    return ((samples - low) / (high - low) * 255).astype(np.uint8)
