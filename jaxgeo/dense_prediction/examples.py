"""Examples in the plane of their pictures and on the sphere: inputs, targets and weights of every pixel."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int, Shaped

from jaxgeo.data.earth import UNLABELLED
from jaxgeo.dense_prediction import viewing
from jaxgeo.grids import stencils

_TINY = np.float32(1e-12)  # steradians of a pixel that counts as one, but has no area


class Colors(NamedTuple):
    """What is taken from 8-bit colours, and what they are then divided by."""

    middle: float
    spread: float


COLORS = {"standardised": Colors(127.5, 64.0), "raw": Colors(0.0, 1.0)}


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
    colors: Colors = COLORS["standardised"]
    all_count: bool = False  # pixels without a direction too

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Example:
        picture = self.picture(index)
        areas = viewing.solid_angles(picture)
        inputs = scaled(np.asarray(picture.image), self.colors)
        return Example(inputs, self.targets(picture), np.maximum(areas, _TINY) if self.all_count else areas)

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
    view: viewing.View
    void: int | None = None  # class of what the camera does not see, which then counts; None: it does not

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Example:
        pictures = self.pictures
        picture = pictures.picture(index)
        stencil = viewing.to_sphere(picture, self.view)
        fill = np.inf if pictures.depth else UNLABELLED if self.void is None else self.void
        targets = np.asarray(stencils.take_nearest(stencil, jnp.asarray(pictures.targets(picture)), fill))
        counts = np.asarray(stencil.nearest) >= 0
        if pictures.all_count:
            counts = np.ones_like(counts)
        area = np.float32(4 * np.pi / (12 * self.view.nside**2))
        return Example(self._inputs(stencil, np.asarray(picture.image)), targets, counts.astype(np.float32) * area)

    def _inputs(self, stencil: stencils.Stencil, image: np.ndarray) -> np.ndarray:
        colors = self.pictures.colors
        if stencil.mode == "correct":
            planes = jnp.asarray(np.moveaxis(scaled(image, colors), -1, 0))
            return np.asarray(stencils.interpolate(stencil, planes)).T.astype(np.float32)
        with jax.enable_x64(True):
            planes = jnp.asarray(np.moveaxis(image, -1, 0).astype(np.float64))
            sampled = np.asarray(stencils.to_uint8(stencils.interpolate(stencil, planes), "faithful"))
        return scaled(sampled.T, colors)


@dataclasses.dataclass(frozen=True)
class Turned:
    """One map, turned and mirrored by the symmetries of the tessellation, and then turned a little further."""

    example: Example
    permutations: Int[np.ndarray, "symmetry pixel"]
    turns: Int[np.ndarray, "turn pixel"]

    def __len__(self) -> int:
        return len(self.permutations) * len(self.turns)

    def __getitem__(self, index: int) -> Example:
        turn, symmetry = divmod(index, len(self.permutations))
        rows = self.permutations[symmetry][self.turns[turn]]
        return Example(*(part[rows] for part in self.example))


@dataclasses.dataclass(frozen=True)
class Kept:
    """Examples in memory."""

    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def scaled(image: Shaped[np.ndarray, "*pixel 3"], colors: Colors) -> Float32[np.ndarray, "*pixel 3"]:
    """8-bit colours as inputs of a network."""
    return ((np.asarray(image, np.float32) - np.float32(colors.middle)) / np.float32(colors.spread)).astype(np.float32)
