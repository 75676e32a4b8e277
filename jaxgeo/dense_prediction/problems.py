"""Examples of a run: inputs, targets and weights of every pixel, on the sphere or in the plane of a fisheye picture."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Shaped

from jaxgeo.data.depth_scaling import DepthScaling, depth_statistics, scale_depths
from jaxgeo.data.earth import UNLABELLED, load_earth, region_folds
from jaxgeo.data.fisheye_scenes import FisheyeScenesConfig, fisheye_scenes
from jaxgeo.data.splits import split
from jaxgeo.data.woodscape import open_woodscape
from jaxgeo.data.woodscape_classes import Version
from jaxgeo.dense_prediction.config import DenseConfig
from jaxgeo.errors import InputError
from jaxgeo.grids import stencils
from jaxgeo.grids.cameras import FisheyeCamera
from jaxgeo.grids.fisheye_projection import image_to_directions, pixel_grid
from jaxgeo.grids.healpix_symmetries import symmetry_permutations
from jaxgeo.grids.resample import fisheye_to_healpix

_MIDDLE, _SPREAD = 127.5, 64.0  # of 8-bit colours
_CAMERAS = 4  # pictures of a scene
_IN_MEMORY = 200  # examples; pictures beyond are read, or drawn, each time


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
    depth: Any  # (row, col), metres
    camera: Any


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
        weights = np.asarray(pixel_solid_angles(picture.camera))
        return Example(standardised(picture.image), self.targets(picture), weights)

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
        stencil = fisheye_to_healpix(picture.camera, self.nside, self.faces)
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


class Problem(NamedTuple):
    """What a run learns from and is judged by."""

    train: Examples
    validation: Examples | None  # to stop by, and to choose the best parameters; None where nothing is chosen
    test: Examples  # looked at once, at the end
    class_names: tuple[str, ...]  # none of depth
    class_weights: np.ndarray | None  # in the loss
    scaling: DepthScaling | None  # of depths: networks predict scaled ones
    means: np.ndarray  # what was taken from raw inputs, by channel
    scales: np.ndarray  # what they were then divided by
    pictures: Pictures | None  # the test pictures, where examples on the sphere are made of pictures

    @property
    def channels(self) -> int:
        """Of the inputs."""
        return len(self.means)

    @property
    def outputs_of_segmentation(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def make_problem(config: DenseConfig) -> Problem:
    """The examples that a configuration asks for.

    Raises:
        ConfigError: the data's folder is not named, or holds nothing of the kind.
        InputError: a published folder without its images.
        CorruptFileError: damaged files.
    """
    return _earth(config) if config.data.source == "earth" else _pictures(config)


def standardised(image: Shaped[np.ndarray, "row col 3"]) -> Float32[np.ndarray, "row col 3"]:
    """Colours of about unit size around 0."""
    return ((np.asarray(image, np.float32) - np.float32(_MIDDLE)) / np.float32(_SPREAD)).astype(np.float32)


@jax.jit
def pixel_solid_angles(camera: FisheyeCamera) -> jax.Array:
    """Solid angle of every pixel of a picture, in steradians; 0 where the camera does not see: (row, col)."""
    u, v = (jnp.asarray(part, jnp.float32) for part in pixel_grid(camera.image_shape))

    def direction(u: jax.Array, v: jax.Array) -> jax.Array:
        return image_to_directions(camera, u, v)[0]

    along = [jax.jvp(direction, (u, v), (step_u, 1 - step_u))[1] for step_u in (jnp.ones_like(u), jnp.zeros_like(u))]
    _, seen = image_to_directions(camera, u, v)
    area = jnp.linalg.norm(jnp.cross(*along), axis=-1)
    return jnp.where(seen & jnp.isfinite(area), area, 0)


def _earth(config: DenseConfig) -> Problem:
    earth = load_earth()
    if earth.nside != config.data.nside:
        raise InputError(f"the Earth's map has nside {earth.nside}, asked for was data.nside {config.data.nside}")
    folds = region_folds(earth.labels, config.data.folds, config.data.seed)
    train, test = folds[config.data.fold]
    chosen = folds[(config.data.fold + 1) % config.data.folds][1]
    if config.fit.patience:
        train = train & ~chosen
    area = np.float32(4 * np.pi / len(earth.labels))
    masks = train, chosen, test
    parts = [Example(earth.images, earth.labels, mask.astype(np.float32) * area) for mask in masks]
    permutations = symmetry_permutations(earth.nside)
    count = len(permutations) if config.data.symmetries else 1
    weights = _class_weights(earth.labels[train], len(earth.class_names), config.fit.balance)
    return Problem(
        Turned(parts[0], permutations[:count]),
        Turned(parts[1], permutations[:1]) if config.fit.patience else None,
        Turned(parts[2], permutations[:1]),
        earth.class_names,
        weights,
        None,
        earth.means,
        earth.scales,
        None,
    )


def _pictures(config: DenseConfig) -> Problem:
    data, depth = config.data, config.data.task == "depth"
    source, names, given = _open(config)
    train_numbers, test_numbers = _parts(config, source)
    held = max(1, len(train_numbers) // 8) if config.fit.patience else 0
    numbers = train_numbers[held:], train_numbers[:held], test_numbers
    train, validation, test = (Pictures(source, part, depth) for part in numbers)
    scaling = weights = None
    if depth:
        some = [train.targets(train.picture(index)) for index in range(min(len(train), _IN_MEMORY))]
        scaling = DepthScaling("log", "standardise", depth_statistics(iter(some), "log"), limit=1000.0)
    elif given is not None:
        weights = np.asarray(given, np.float32)
    else:
        some = [train.targets(train.picture(index)).reshape(-1) for index in range(min(len(train), _IN_MEMORY))]
        weights = _class_weights(np.concatenate(some), len(names), config.fit.balance)
    made: list[Examples] = [train, validation, test]
    if config.network.kind == "heal_swin":
        made = [Spheres(part, data.nside, tuple(range(data.faces))) for part in (train, validation, test)]
    for number, part in enumerate(made):
        made[number] = _kept(part) if len(part) <= _IN_MEMORY else part
    middle, spread = np.full(3, _MIDDLE), np.full(3, _SPREAD)
    chosen = made[1] if held else None
    return Problem(made[0], chosen, made[2], () if depth else names, weights, scaling, middle, spread, test)


def _open(config: DenseConfig) -> tuple[Any, tuple[str, ...], tuple[float, ...] | None]:
    """Pictures, names of classes, and published weights of classes where there are."""
    data = config.data
    if data.source == "scenes":
        scenes = FisheyeScenesConfig(image_shape=(data.image_rows, data.image_columns))
        first = 1000 * data.seed
        seeds = range(first, first + _scenes_of(data.train_examples) + _scenes_of(data.test_examples))
        found = fisheye_scenes(scenes, tuple(seeds))
        return found, found.table.names, found.table.weights
    part = "depth" if data.task == "depth" else "labels"
    version = cast(Version, data.source)
    opened = open_woodscape(version, parts=("image", part, "calibration"))
    return opened, opened.table.names, opened.table.weights


def _parts(config: DenseConfig, source: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of the pictures to train on and to be judged by."""
    data = config.data
    if data.source == "scenes":  # no street is in both
        first = _CAMERAS * _scenes_of(data.train_examples)
        return tuple(range(data.train_examples)), tuple(range(first, first + data.test_examples))
    names = list(source.names)
    parts = split(names)
    place = {name: number for number, name in enumerate(names)}
    train, test = ([place[name] for name in part] for part in (parts.train, parts.validation))
    return tuple(train[: data.train_examples]), tuple(test[: data.test_examples])


def _scenes_of(pictures: int) -> int:
    """Streets that have so many pictures."""
    return -(-pictures // _CAMERAS)


def _kept(examples: Examples) -> Kept:
    return Kept(tuple(examples[index] for index in range(len(examples))))


def _class_weights(labels: np.ndarray, num_classes: int, power: float) -> np.ndarray:
    """Inverse shares to a power, of mean 1 over the pixels; a class that does not occur has weight 0."""
    counts = np.bincount(labels[labels < num_classes], minlength=num_classes)[:num_classes].astype(np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0)
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)


def scaled_targets(problem: Problem, targets: np.ndarray) -> np.ndarray:
    """What the loss compares with: classes as they are, depths scaled."""
    return targets if problem.scaling is None else np.asarray(scale_depths(problem.scaling, targets), np.float32)


def batch_of(problem: Problem, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(inputs, scaled targets, weights) of some training examples, stacked."""
    examples = [problem.train[int(row)] for row in rows]
    inputs, targets, weights = (np.stack(parts) for parts in zip(*examples, strict=True))
    # Weights of mean one keep losses of all resolutions alike.
    mean = weights.mean()
    return inputs, scaled_targets(problem, targets), (weights / (mean if mean > 0 else 1)).astype(np.float32)


Predict = Callable[[np.ndarray], np.ndarray]
"""Inputs (*pixel, channel) of one example to outputs (*pixel, output)."""
