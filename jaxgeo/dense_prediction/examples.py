"""Examples in the plane of their pictures and on the sphere: inputs, targets and weights of every pixel."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Shaped

from jaxgeo.data.earth import UNLABELLED
from jaxgeo.dense_prediction import viewing
from jaxgeo.grids import stencils

MIDDLE, SPREAD = 127.5, 64.0  # of 8-bit colours


class Example(NamedTuple):
    """One map or picture."""

    inputs: Float32[np.ndarray, "*pixel channel"]
    targets: Shaped[np.ndarray, "*pixel"]  # int32 classes, 255 unknown; or float32 depths in metres, infinite unknown
    weights: Float32[np.ndarray, "*pixel"]  # area of the pixel, 0 where it does not count


@runtime_checkable
class Examples(Protocol):
    """Examples by number, each made when it is asked for."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int) -> Example:
        """One of them."""
        ...


@runtime_checkable
class Picture(Protocol):
    """What published folders and the drawn scenes give."""

    image: Any  # uint8 (row, col, 3)
    labels: Any  # (row, col)
    depth: Any  # (row, col), metres from the camera


@dataclasses.dataclass(frozen=True)
class Remembered:
    """Pictures that take longer to make than to keep: each is made once."""

    source: Any  # pictures by number
    _made: dict[int, Picture] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> Picture:
        if number not in self._made:
            self._made[number] = self.source[number]
        return self._made[number]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Examples in the plane, made of pictures; `Spheres` has the same on the sphere."""

    source: Any  # pictures by number
    numbers: tuple[int, ...]  # of the source
    depth: bool

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Example:
        picture = self.picture(index)
        return Example(standardised(picture.image), self.targets(picture), viewing.solid_angles(picture))

    def picture(self, index: int) -> Picture:
        """The picture of an example."""
        return self.source[self.numbers[index]]

    def targets(self, picture: Picture) -> np.ndarray:
        """Of the picture's own pixels."""
        return np.asarray(picture.depth, np.float32) if self.depth else np.asarray(picture.labels, np.int32)


@dataclasses.dataclass(frozen=True)
class Spheres:
    """Examples on faces of the sphere, resampled from pictures: images bilinear, classes and depths the nearest."""

    pictures: Pictures
    nside: int
    faces: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Example:
        picture = self.pictures.picture(index)
        stencil = viewing.to_sphere(picture, self.nside, self.faces)
        colors = jnp.asarray(np.moveaxis(standardised(picture.image), -1, 0))
        inputs = np.asarray(stencils.interpolate(stencil, colors)).T.astype(np.float32)
        targets = jnp.asarray(self.pictures.targets(picture))
        targets = np.asarray(stencils.take_nearest(stencil, targets, np.inf if self.pictures.depth else UNLABELLED))
        seen = np.asarray(stencil.nearest) >= 0
        return Example(inputs, targets, seen.astype(np.float32) * np.float32(4 * np.pi / (12 * self.nside**2)))


@dataclasses.dataclass(frozen=True)
class Turned:
    """One map, turned and mirrored by the symmetries of the tessellation."""

    example: Example
    permutations: np.ndarray

    def __len__(self) -> int:
        return len(self.permutations)

    def __getitem__(self, index: int) -> Example:
        rows = self.permutations[index]
        return Example(*(part[rows] for part in self.example))


@dataclasses.dataclass(frozen=True)
class Kept:
    """Examples in memory."""

    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def standardised(image: Shaped[np.ndarray, "row col 3"]) -> Float32[np.ndarray, "row col 3"]:
    """Colours of about unit size around 0."""
    return ((np.asarray(image, np.float32) - np.float32(MIDDLE)) / np.float32(SPREAD)).astype(np.float32)
