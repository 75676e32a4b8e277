"""What a run learns from and is judged by: the examples of each source, split, weighted and scaled."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from jaxgeo.data import stanford_panoramas
from jaxgeo.data.depth_scaling import DepthScaling, depth_statistics, published_statistics, scale_depths
from jaxgeo.data.earth import EarthClimate, load_earth, region_folds
from jaxgeo.data.fisheye_scenes import FisheyeScenes, FisheyeScenesConfig, fisheye_scenes
from jaxgeo.data.splits import split, training_subset
from jaxgeo.data.woodscape import open_woodscape
from jaxgeo.data.woodscape_classes import Version
from jaxgeo.dense_prediction.config import SCENES_SHAPE, DataConfig, DenseConfig
from jaxgeo.dense_prediction.examples import (
    COLORS,
    Example,
    Examples,
    Kept,
    Pictures,
    Remembered,
    Spheres,
    Turned,
)
from jaxgeo.dense_prediction.viewing import View
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.grids.healpix_symmetries import partial_turns, symmetry_permutations
from jaxgeo.modes import Mode

_CAMERAS = 4  # pictures of a scene
_COLORS = 3  # channels of a picture
_IN_MEMORY = 200  # examples; pictures beyond are read, or drawn, each time
_PIXELS_IN_MEMORY = 2**25  # of drawn pictures, which take 8 bytes each


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
    class_colors: tuple[tuple[int, int, int], ...] | None = None  # red, green, blue; None where the source has none
    void: int | None = None  # class of all that is of no other; None where the source has no such class
    mean_depth: float | None = None  # metres: the constant prediction that relative errors compare with
    scores: Mode = "correct"  # conventions of the scores
    equal_pixels: bool = False  # in the loss: all pixels that count alike, whatever their areas

    @property
    def channels(self) -> int:
        """Of the inputs."""
        return len(self.means)


class Form(NamedTuple):
    """What a network has to know of a problem, and what is known before any example is made."""

    class_names: tuple[str, ...]  # none of depth
    channels: int  # of the inputs
    image_shape: tuple[int, int] | None  # of the pictures that a flat network learns from; None on the sphere


def form_of(config: DenseConfig) -> Form:
    """The form of the problem that a configuration asks for: files are listed, one is read at most, nothing is drawn.

    Raises:
        ConfigError, InputError, CorruptFileError: as `make_problem`, of what is looked at here.
    """
    data = config.data
    if data.source == "earth":
        earth = _load_earth(config)
        return Form(earth.class_names, len(earth.means), None)
    source = _OPEN.get(data.source, _woodscape)(config)
    shape = None
    if config.network.kind == "swin":
        shape = data.image_shape or source.pictures[0].image.shape[:2]
    return Form(() if data.task == "depth" else source.class_names, _COLORS, shape)


class Meaning(NamedTuple):
    """What raw inputs and outputs stand for; this too is known before any example is made."""

    class_names: tuple[str, ...]  # none of depth
    class_colors: tuple[tuple[int, int, int], ...] | None  # red, green, blue; None where the source has none
    means: np.ndarray  # what is taken from raw inputs, by channel
    scales: np.ndarray  # what they are then divided by


def meaning_of(config: DenseConfig) -> Meaning:
    """The meaning of inputs and outputs of the problem that a configuration asks for; errors as of `form_of`."""
    if config.data.source == "earth":
        earth = _load_earth(config)
        return Meaning(earth.class_names, None, earth.means, earth.scales)
    source, colors = _OPEN.get(config.data.source, _woodscape)(config), COLORS[config.data.inputs]
    names = () if config.data.task == "depth" else source.class_names
    return Meaning(names, source.class_colors, np.full(_COLORS, colors.middle), np.full(_COLORS, colors.spread))


def make_problem(config: DenseConfig) -> Problem:
    """The examples that a configuration asks for.

    Raises:
        ConfigError: the data's folder is not named, or holds nothing of the kind; or nothing is left to learn from.
        InputError: a published folder without its images, or pictures to learn from without any label.
        CorruptFileError: damaged files.
    """
    return _earth(config) if config.data.source == "earth" else _pictures(config)


def _load_earth(config: DenseConfig) -> EarthClimate:
    earth = load_earth()
    if earth.nside != config.data.nside:
        raise InputError(f"the Earth's map has nside {earth.nside}, asked for was data.nside {config.data.nside}")
    return earth


def _earth(config: DenseConfig) -> Problem:
    earth = _load_earth(config)
    folds = region_folds(earth.labels, config.data.folds, config.data.seed)
    train, test = folds[config.data.fold]
    chosen = folds[(config.data.fold + 1) % config.data.folds][1]
    held_back = config.fit.chooses and config.fit.validate_by == "held_back"
    if held_back:
        train = train & ~chosen
    if not train.any():
        raise ConfigError(
            f"nothing is left to learn from: of data.folds {config.data.folds} one is to judge by and one to choose by "
            f"(fit.patience, fit.keep_best); take 3 folds or more"
        )
    area = np.float32(4 * np.pi / len(earth.labels))
    masks = train, chosen, test
    parts = [Example(earth.images, earth.labels, mask.astype(np.float32) * area) for mask in masks]
    permutations = symmetry_permutations(earth.nside)
    if config.data.mirrors == "equator":
        permutations = permutations[np.arange(len(permutations)) % 8 < 4]
    turns = partial_turns(earth.nside, config.data.turns)
    count = len(permutations) if config.data.symmetries else 1
    weights = _class_weights(earth.labels[train], len(earth.class_names), config.fit.balance)
    chooses, judges = (Turned(part, permutations[:1], turns[:1]) for part in parts[1:])
    return Problem(
        Turned(parts[0], permutations[:count], turns),
        chooses if held_back else judges if config.fit.chooses else None,
        judges,
        earth.class_names,
        weights,
        None,
        earth.means,
        earth.scales,
        None,
        scores=config.fit.scores,
    )


class _Source(NamedTuple):
    """Pictures by number, and what is known of their classes."""

    pictures: Any
    names: tuple[str, ...]  # of the pictures
    class_names: tuple[str, ...]
    class_weights: tuple[float, ...] | None  # as published
    class_colors: tuple[tuple[int, int, int], ...] | None
    train: tuple[str, ...]  # some of the names
    test: tuple[str, ...]
    void: int | None = None  # class of all that is of no other


def _pictures(config: DenseConfig) -> Problem:
    data, depth = config.data, config.data.task == "depth"
    source = _OPEN.get(data.source, _woodscape)(config)
    names = source.train[: data.train_examples]
    held = max(1, len(names) // 8) if config.fit.chooses and config.fit.validate_by == "held_back" else 0
    learnt = names[held:]
    if not learnt:
        raise ConfigError(
            f"nothing is left to learn from: of {len(names)} training pictures {held} is to choose by (fit.patience, "
            f"fit.keep_best); take data.train_examples 2 or more"
        )
    if data.subset < 1:
        # Of what is left to learn from: every subset is stopped and judged by the same pictures.
        learnt = training_subset(learnt, data.subset, data.subset_seed, data.split)
    place = {name: number for number, name in enumerate(source.names)}
    colors, void = COLORS[data.inputs], data.unseen == "void"
    train, validation, test = (
        Pictures(source.pictures, tuple(place[name] for name in part), depth, colors, void)
        for part in (learnt, names[:held], source.test[: data.test_examples])
    )
    scaling = weights = mean_depth = None
    if depth:
        scaling, mean_depth = _depth_scaling(config, train)
    elif source.class_weights is not None:
        weights = np.asarray(source.class_weights, np.float32)
    else:
        some = [train.targets(train.picture(index)).reshape(-1) for index in range(min(len(train), _IN_MEMORY))]
        weights = _class_weights(np.concatenate(some), len(source.class_names), config.fit.balance)
    made: list[Examples] = [train, validation, test]
    if config.network.kind == "heal_swin":
        made = [Spheres(part, view_of(data), source.void if void else None) for part in (train, validation, test)]
    for number, part in enumerate(made):
        made[number] = _kept(part) if len(part) <= _IN_MEMORY else part
    chosen = made[1] if held else made[2] if config.fit.chooses else None
    return Problem(
        made[0],
        chosen,
        made[2],
        () if depth else source.class_names,
        weights,
        scaling,
        np.full(_COLORS, colors.middle),
        np.full(_COLORS, colors.spread),
        test,
        source.class_colors,
        None if depth else source.void,
        mean_depth,
        config.fit.scores,
        config.fit.pixels == "equal",
    )


def view_of(data: DataConfig) -> View:
    """The part of the sphere that a configuration's examples lie on, and the way there from pictures."""
    return View(data.nside, data.used_base_pixels, data.sampling, data.rotate_pole)


def _depth_scaling(config: DenseConfig, train: Pictures) -> tuple[DepthScaling, float]:
    """How depths are scaled, and their mean in metres."""
    depth = config.depth
    if depth.statistics == "published":
        masked = depth.background == "missing"
        statistics, metres = published_statistics(depth.transform, masked), published_statistics("none", masked)
    else:
        some = [train.targets(train.picture(index)) for index in range(min(len(train), _IN_MEMORY))]
        statistics, metres = depth_statistics(iter(some), depth.transform, depth.mode), depth_statistics(iter(some))
    limit = math.inf if depth.limit is None else depth.limit
    return DepthScaling(depth.transform, depth.normalisation, statistics, limit, depth.mode), metres.mean


def _scenes(config: DenseConfig) -> _Source:
    data = config.data
    shape = data.image_shape or SCENES_SHAPE
    scenes = FisheyeScenesConfig(image_shape=shape)
    first = 1000 * data.seed
    for_training = _scenes_of(data.train_examples)
    seeds = range(first, first + for_training + _scenes_of(data.test_examples))
    found = fisheye_scenes(scenes, tuple(seeds))
    pictures = _remembered(found) if len(found) * shape[0] * shape[1] <= _PIXELS_IN_MEMORY else found
    train, test = found.names[: _CAMERAS * for_training], found.names[_CAMERAS * for_training :]  # no street is in both
    table = found.table
    return _Source(pictures, found.names, table.names, table.weights, table.colors, train, test, table.void)


@functools.lru_cache(maxsize=1)
def _remembered(scenes: FisheyeScenes) -> Remembered:
    """The same pictures for every network that learns from them in one process."""
    return Remembered(scenes)


def _woodscape(config: DenseConfig) -> _Source:
    part = "depth" if config.data.task == "depth" else "labels"
    data = config.data
    found = open_woodscape(
        cast(Version, data.source),
        parts=("image", part, "calibration"),
        cameras=data.cameras,
        keep_background=config.depth.background == "kept",
        image_shape=data.image_shape,
    )
    parts = split(found.names, mode=data.split)
    table = found.table
    return _Source(
        found, found.names, table.names, table.weights, table.colors, parts.train, parts.validation, table.void
    )


def _stanford(config: DenseConfig) -> _Source:
    part = "depth" if config.data.task == "depth" else "semantic"
    areas = stanford_panoramas.AREA_FOLDS[config.data.fold]
    found = stanford_panoramas.open_panoramas(areas=areas[0] + areas[1], parts=(part,))
    # In a seeded order: the first names, as they stand in the folder, are all of one building.
    train, test = (
        split([name for name in found.names if name.split("/")[0] in part], share=1.0).train for part in areas
    )
    return _Source(found, found.names, stanford_panoramas.CLASS_NAMES, None, None, train, test)


_OPEN: dict[str, Callable[[DenseConfig], _Source]] = {"scenes": _scenes, "stanford": _stanford}


def _scenes_of(pictures: int) -> int:
    """Streets that have so many pictures."""
    return -(-pictures // _CAMERAS)


def _kept(examples: Examples) -> Kept:
    return Kept(tuple(examples[index] for index in range(len(examples))))


def _class_weights(labels: np.ndarray, num_classes: int, power: float) -> np.ndarray:
    """Inverse shares to a power, of mean 1 over the pixels; a class that does not occur has weight 0."""
    counts = np.bincount(labels[labels < num_classes], minlength=num_classes)[:num_classes].astype(np.float64)
    if not counts.any():
        raise InputError(f"none of the {labels.size} pixels to learn from has a label; other pictures are needed")
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0)
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)


def scaled_targets(problem: Problem, targets: np.ndarray) -> np.ndarray:
    """What the loss compares with: classes as they are, depths scaled."""
    return targets if problem.scaling is None else np.asarray(scale_depths(problem.scaling, targets), np.float32)


def batch_of(problem: Problem, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(inputs, scaled targets, weights) of some training examples, stacked."""
    examples = [problem.train[int(row)] for row in rows]
    inputs, targets, weights = (np.stack(parts) for parts in zip(*examples, strict=True))
    if problem.equal_pixels:
        weights = (weights > 0).astype(np.float32)
    # Weights of mean one keep losses of all resolutions alike.
    mean = weights.mean()
    return inputs, scaled_targets(problem, targets), (weights / (mean if mean > 0 else 1)).astype(np.float32)


Predict = Callable[[np.ndarray], np.ndarray]
"""Inputs (*pixel, channel) of one example to outputs (*pixel, output)."""
