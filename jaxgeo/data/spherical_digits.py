"""Digits and garments on the sphere, with a class for every pixel: for segmentation and classification.

One or several images lie on a square canvas, and the canvas on the sphere by stereographic projection, around the
south pole or wherever a rotation carries that. Class 0 is background, class d + 1 a pixel of class d brighter than a
threshold. The images themselves come from `jaxgeo.data.digits`: scikit-learn's bundled ones, or the IDX files of MNIST
and FashionMNIST under their published names.

Two modes. `correct`: sampled by interpolation that keeps a constant constant, freed of what is above the bandlimit, on
the grid of the transforms (SOFT), in [0, 1]; turning the image and turning the signal are then the same to the
accuracy of the finer grid. `faithful`: as published (`jaxgeo.data.published_projection`), on the Driscoll-Healy grid,
values 0..255.

References:
    Gerken et al., "Equivariance versus Augmentation for Spherical Images", arXiv:2202.03990.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, UInt8

from jaxgeo.data import published_projection as published
from jaxgeo.data.digits import Source, load_digits
from jaxgeo.data.root import StrPath
from jaxgeo.errors import ConfigError, InputError, check_fields, check_whole
from jaxgeo.grids import rotations
from jaxgeo.grids.latlon import LatLonGrid, driscoll_healy_grid, pixel_vectors, soft_grid
from jaxgeo.grids.projection import sample_image
from jaxgeo.harmonics.s2 import S2Transform, analysis, plan_s2_transform, synthesis
from jaxgeo.modes import Mode

NUM_CLASSES = 11  # background and ten kinds
BACKGROUND = 0
CANVAS_FACTOR = 60 / 28  # of an image's size, where several share the canvas
_CHUNK = 64  # images in flight


@dataclasses.dataclass(frozen=True)
class SphericalDigitsConfig:
    """How images are laid on the sphere.

    Raises:
        ConfigError: no whole number from 1, an unknown mode, or a threshold that is none of 0..254.
    """

    bandlimit: int = 50  # 2 bandlimit x 2 bandlimit pixels
    num_digits: int = 1  # images on one canvas
    canvas_size: int | None = None  # pixels; by default the image's size for one, 60/28 of it for several
    rotated: bool = False  # by Haar-random rotations, or not at all
    images_per_rotation: int = 1  # consecutive images that share a rotation; the published sets have 500
    threshold: int = 150  # of 255: pixels above it are foreground
    mode: Mode = "correct"
    oversampling: int = 3  # `correct`: of the finer grid that is freed of high degrees; 1 samples the grid alone

    def __post_init__(self) -> None:
        check_fields(
            self, bandlimit=1, num_digits=1, images_per_rotation=1, oversampling=1, canvas_size=1, threshold=(0, 254)
        )

    @property
    def grid(self) -> LatLonGrid:
        """Where the pixels lie."""
        return (soft_grid if self.mode == "correct" else driscoll_healy_grid)(self.bandlimit)


class SphericalDigits(NamedTuple):
    """Spherical images with the classes of their pixels, on the host."""

    images: Float[np.ndarray, "image lat lon"]  # float32: in [0, 1] but for ringing (`correct`), or 0..255 (`faithful`)
    masks: UInt8[np.ndarray, "image lat lon"]  # 0 background, 1 + class elsewhere
    labels: Int[np.ndarray, "image digit"]  # classes 0 ... 9 of the images on the canvas


def spherical_digits(
    images: Float[np.ndarray, "source row column"],
    labels: Int[np.ndarray, " label"],
    count: int,
    config: SphericalDigitsConfig,
    seed: int = 0,
) -> SphericalDigits:
    """`count` spherical images from planar ones.

    Canvases of one image take each source image once before any a second time, so that a set larger than the source is
    the source and its augmentation by further rotations. Equal arguments give equal arrays, and the first n images of a
    larger set are those of the set of n.

    Args:
        images: square, in [0, 1].
        labels: class of each.
        count: how many to make.
        config: the kind of set.
        seed: of choice, arrangement and rotation, each with its own stream: rotated and unrotated sets of one seed hold
            the same canvases.

    Raises:
        ConfigError: a canvas smaller than the images, or a negative seed.
        InputError: no images, images that are not square or not as many as labels; a count that is no whole number from
            1; brightness that is not finite or beyond [0, 1]; labels that are not integers of 0 ... 9.
    """
    images, labels = np.asarray(images, np.float32), np.asarray(labels)
    check_whole("the number of spherical images", count, error=InputError)
    check_whole("the seed", seed, 0)
    if images.ndim != 3 or not images.size or images.shape[1] != images.shape[2] or len(images) != len(labels):
        raise InputError(
            f"square images (source, size, size) with one label each are needed, got images {images.shape} and "
            f"labels {labels.shape}"
        )
    _check_values(images, labels)
    choice_seed, place_seed, rotation_seed = np.random.SeedSequence(seed).spawn(3)
    chosen = _choose(len(images), count, config.num_digits, np.random.default_rng(choice_seed))
    size = canvas_size(config, images.shape[1])
    corners = arrange(count, config.num_digits, images.shape[1], size, np.random.default_rng(place_seed))
    turns = _rotations(count, config, np.random.default_rng(rotation_seed))
    lay = lay_correct if config.mode == "correct" else _lay_faithful
    laid = lay(images, np.asarray(labels), chosen, corners, turns, size, config)
    pixels, masks = (np.concatenate(part) for part in zip(*laid, strict=True))
    return SphericalDigits(pixels, masks, np.asarray(labels, np.int32)[chosen])


def load_spherical_digits(
    source: Source,
    config: SphericalDigitsConfig,
    num_train: int,
    num_test: int,
    *,
    seed: int = 0,
    rotated_test: bool | None = None,
    root: StrPath | None = None,
) -> tuple[SphericalDigits, SphericalDigits]:
    """A training and a test set from the published training and test images of a source.

    Args:
        source: "sklearn", "mnist" or "fashion_mnist".
        config: of the training set, and of the test set but for `rotated_test`.
        num_train: training images to make, from all training images of the source.
        num_test: test images to make, from all of its test images.
        seed: of everything; training and test set have streams of their own.
        rotated_test: whether the test set is rotated; by default as the training set.
        root: folder of the IDX files; by default the environment variable JAXGEO_DATA.

    Raises:
        ConfigError, InputError, CorruptFileError: as `load_digits` and `spherical_digits`.
    """
    check_whole("the seed", seed, 0)
    planar = load_digits(source, root)
    test_config = config if rotated_test is None else dataclasses.replace(config, rotated=rotated_test)
    train_seed, test_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    train = spherical_digits(planar.train_images, planar.train_labels, num_train, config, train_seed)
    return train, spherical_digits(planar.test_images, planar.test_labels, num_test, test_config, test_seed)


def canvas_size(config: SphericalDigitsConfig, image_size: int) -> int:
    """Rows (= columns) of the canvas for images of a size.

    Raises:
        ConfigError: the canvas is smaller than an image.
    """
    default = image_size if config.num_digits == 1 else round(CANVAS_FACTOR * image_size)
    size = default if config.canvas_size is None else config.canvas_size
    if size < image_size:
        raise ConfigError(
            f"a canvas of {size} x {size} pixels cannot hold images of {image_size} x {image_size}; take at least "
            f"{image_size}"
        )
    return size


def _check_values(images: np.ndarray, labels: np.ndarray) -> None:
    low, high = images.min(), images.max()  # NaN where there is one
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"brightness must be finite and lie in [0, 1], since the threshold is a share of it, got values from "
            f"{low:g} to {high:g}; divide bytes by 255"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= NUM_CLASSES - 1:
        raise InputError(
            f"labels must be a vector of integers from 0 to {NUM_CLASSES - 2}, since a mask's class is the label plus "
            f"one, got shape {labels.shape} of {labels.dtype} with values from {labels.min()} to {labels.max()}"
        )


def _choose(num_source: int, count: int, digits: int, rng: np.random.Generator) -> Int[np.ndarray, "image digit"]:
    if digits == 1:
        passes = -(-count // num_source)
        return np.concatenate([rng.permutation(num_source) for _ in range(passes)])[:count, None]
    return rng.integers(0, num_source, (count, digits))


def arrange(
    count: int, digits: int, image_size: int, size: int, rng: np.random.Generator
) -> Int[np.ndarray, "image digit 2"]:
    """Upper left corners of the images on their canvases: in the middle, or near the places of a regular lattice."""
    room = size - image_size
    if digits == 1:
        return np.full((count, 1, 2), room // 2)
    side = math.ceil(math.sqrt(digits))
    # Places in random order, and from each a step inwards of at most a quarter of what lies between two of them. One
    # array of random numbers, row by row, so that the first canvases do not depend on how many there are.
    numbers = rng.uniform(size=(count, side**2 + 2 * digits))
    places = np.argsort(numbers[:, : side**2], axis=1)[:, :digits]
    lattice = np.stack([places // side, places % side], axis=-1) / (side - 1)
    steps = numbers[:, side**2 :].reshape(count, digits, 2) * room / (4 * (side - 1))
    return np.rint(lattice * room + np.where(lattice > 0.5, -steps, steps)).astype(np.int64)


def _rotations(count: int, config: SphericalDigitsConfig, rng: np.random.Generator) -> Float[np.ndarray, "image 3 3"]:
    different = -(-count // config.images_per_rotation)
    if not config.rotated:
        turns = np.broadcast_to(np.eye(3), (different, 3, 3))
    elif config.mode == "correct":
        quaternions = rng.normal(size=(different, 4)).astype(np.float32)
        turns = np.asarray(rotations.from_quaternions(jnp.asarray(quaternions)))
    else:
        # The published rotation turns the grid, which is the inverse rotation of the image.
        turns = np.stack([published.published_rotation(row).T for row in rng.uniform(size=(different, 3))])
    return np.repeat(turns, config.images_per_rotation, axis=0)[:count]


def _canvases(images: np.ndarray, corners: np.ndarray, size: int) -> np.ndarray:
    """Each image alone on a canvas of its own (image, digit, size, size)."""
    canvases = np.zeros((*images.shape[:2], size, size), np.float32)
    side = np.arange(images.shape[-1])
    rows, columns = (corners[..., axis, None] + side for axis in (0, 1))
    first, second = np.ogrid[: images.shape[0], : images.shape[1]]
    canvases[first[..., None, None], second[..., None, None], rows[..., :, None], columns[..., None, :]] = images
    return canvases


def lay_correct(
    images: Float[np.ndarray, "source row column"],
    labels: Integer[np.ndarray, " source"],
    chosen: Int[np.ndarray, "image digit"],
    corners: Int[np.ndarray, "image digit 2"],
    turns: Float[np.ndarray, "image 3 3"],
    size: int,
    config: SphericalDigitsConfig,
) -> Iterator[tuple[Float[np.ndarray, "some lat lon"], UInt8[np.ndarray, "some lat lon"]]]:
    """Pictures on the sphere with their masks, some at a time.

    Args:
        images: brightness in [0, 1], as many rows as columns.
        labels: of the images.
        chosen: which of them lie on each canvas.
        corners: upper left ones on the canvas, as `arrange` makes them.
        turns: rotation of each picture.
        size: of the canvas.
        config: in mode `correct`.
    """
    fine = soft_grid(config.bandlimit * config.oversampling)
    # The picture is laid at the north pole by the sampler; its mirror image at the south is the published place.
    mirror = np.array([1, 1, -1])
    fine_vectors, vectors = (jnp.asarray(pixel_vectors(grid), jnp.float32) for grid in (fine, config.grid))
    plans = None
    if config.oversampling > 1:
        plans = plan_s2_transform(fine, config.bandlimit), plan_s2_transform(config.grid)
    for start in range(0, len(chosen), _CHUNK):
        rows = np.arange(start, start + _CHUNK) % len(chosen)  # the last chunk is filled up: one shape, one program
        canvases = _canvases(images[chosen[rows]], corners[rows], size)
        found, mask = _project(
            jnp.asarray(canvases),
            jnp.asarray(labels[chosen[rows]], jnp.int32),
            jnp.asarray(turns[rows] * mirror[None, None], jnp.float32),
            fine_vectors,
            vectors,
            plans,
            config.threshold / 255,
        )
        kept = min(_CHUNK, len(chosen) - start)
        yield np.asarray(found)[:kept], np.asarray(mask)[:kept]


@functools.partial(jax.jit, static_argnames="threshold")
def _project(
    canvases: Float[Array, "image digit size size"],
    labels: Int[Array, "image digit"],
    turns: Float[Array, "image 3 3"],
    fine_vectors: Float[Array, "fine_lat fine_lon 3"],
    vectors: Float[Array, "lat lon 3"],
    plans: tuple[S2Transform, S2Transform] | None,
    threshold: float,
) -> tuple[Float[Array, "image lat lon"], UInt8[Array, "image lat lon"]]:
    def surfaces(canvas, turn, points):
        # R^T v: the direction that the rotation carries to v.
        directions = jnp.einsum("...i,ij->...j", points, turn, precision=jax.lax.Precision.HIGHEST)
        return jax.vmap(lambda one: sample_image(one, directions, published.PUBLISHED_RADIUS))(canvas)

    def one(example):
        canvas, label, turn = example
        brightness = surfaces(canvas, turn, vectors)
        brightest = jnp.max(brightness, axis=0)
        kind = label[jnp.argmax(brightness, axis=0)] + 1
        mask = jnp.where(brightest > threshold, kind, BACKGROUND).astype(jnp.uint8)
        return (brightest if plans is None else jnp.max(surfaces(canvas, turn, fine_vectors), axis=0)), mask

    images, masks = jax.lax.map(one, (canvases, labels, turns), batch_size=8)
    if plans is not None:
        down, up = plans
        # Images as channels: the transforms are fastest with many.
        columns = jnp.moveaxis(images, 0, -1)
        images = jnp.moveaxis(synthesis(up, analysis(down, columns)), -1, 0)
    return images, masks


def _lay_faithful(images, labels, chosen, corners, turns, size, config) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    vectors = pixel_vectors(config.grid)
    for row, (turn, corner) in enumerate(zip(turns, corners, strict=True)):
        seen = published.published_picture_coordinates(vectors @ turn)
        alone = _canvases(images[chosen[row]][None], corner[None], size)[0].astype(np.float64) * 255
        # The released program lays a single image; several share a canvas here, the brightest above the others.
        pixels = published.published_quantised(published.published_samples(alone.max(0), *seen))
        kind = labels[chosen[row]][np.argmax(published.published_samples(alone, *seen), axis=0)] + 1
        mask = np.where(pixels > config.threshold, kind, BACKGROUND)
        yield pixels[None].astype(np.float32), mask[None].astype(np.uint8)
