"""The members of the CIFAR-10 study on corrupted test images, and on images that are none of CIFAR-10.

A part of `benchmarks.papers.cifar_posteriors`. The networks are those that predict the clean test images: the same
members, the same draws. Corruptions are the fifteen of `jaxgeo.data.corruptions` at five severities, made anew from a
seed (so not the published CIFAR-10-C files; that module says where they differ). Images from outside are the test
images of SVHN in colour, and of FashionMNIST in three equal channels with a black border of two pixels.

Each family's scores on each corruption and severity are a file of the folder, `<family>/shifts/`, and so is each
detection of images from outside: what is there and was made from as many members, draws and images is read.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, UInt8

from benchmarks.papers.cifar_ensembles import CifarConfig, Family, Problem, networks_of, predict
from jaxgeo import files
from jaxgeo.data.cifar import standardise
from jaxgeo.data.corruptions import CORRUPTIONS, SEVERITIES, Corruption, corrupt
from jaxgeo.data.digits import available_sources, load_digits, stratified_indices
from jaxgeo.data.root import data_root
from jaxgeo.data.svhn import FOLDER, TEST_FILE, read_svhn
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.metrics import calibration
from jaxgeo.metrics.information import entropy
from jaxgeo.metrics.ood import detect
from jaxgeo.metrics.predictive import Predictive, leave_one_out, summarize
from jaxgeo.metrics.scores import is_correct, surprisal
from jaxgeo.metrics.standard_error import Measure, jackknife_error
from jaxgeo.metrics.uncertainty import mutual_information, predictive_entropy
from jaxgeo.progress import Progress

Outside = Literal["svhn", "fashion_mnist"]
OUTSIDE: dict[Outside, str] = {"svhn": "SVHN", "fashion_mnist": "FashionMNIST"}
MEASURES = {
    "accuracy": "accuracy", "negative_log_likelihood": "NLL, nats", "calibration_error_equal_width": "ECE, 15 bins",
    "predictive_entropy": "predictive entropy, nats", "mutual_information": "mutual information, nats",
}  # fmt: skip
SCORES = {"entropy": predictive_entropy, "mutual_information": mutual_information}
"""by which images from outside are told from test images"""
_BINS = 15
_BORDER = 2  # pixels around 28 x 28


@dataclasses.dataclass(frozen=True)
class ShiftConfig:
    """What is scored once the members are there; nothing of it changes how they are trained."""

    corruptions: tuple[Corruption, ...] = CORRUPTIONS
    severities: tuple[int, ...] = SEVERITIES
    outside: tuple[Outside, ...] = get_args(Outside)
    images: int | None = None
    """of the test images, of all classes alike, and of each outside set; None: all test images and as many others"""
    seed: int = 0
    """of the corruptions and of the choice of images"""

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        for name, known in (("corruptions", CORRUPTIONS), ("severities", SEVERITIES), ("outside", get_args(Outside))):
            given = getattr(self, name)
            unknown = [value for value in given if value not in known]
            if unknown or len(set(given)) < len(given):
                raise ConfigError(f"{name} are some of {', '.join(map(str, known))}, each once, got {given}")
        if self.corruptions and not self.severities:
            raise ConfigError("corruptions need at least one severity of 1 to 5, got none")
        if self.images is not None and self.images < 2:
            raise ConfigError(f"shifted images must be at least 2, so that they have errors, got {self.images}")

    @property
    def sets(self) -> int:
        """How many sets of images are predicted."""
        return len(self.corruptions) * len(self.severities) + len(self.outside)


class Jackknifed(NamedTuple):
    """The `MEASURES` of one set, and without each member and each image, so that averages of sets have errors too."""

    value: Float[np.ndarray, " measure"]
    without_member: Float[np.ndarray, "member measure"]
    without_image: Float[np.ndarray, "image measure"]

    def measures(self) -> dict[str, Measure]:
        """By name, with both errors; that of members is None where there is one."""
        by_member = jackknife_error(jnp.asarray(self.without_member)) if len(self.without_member) > 1 else None
        by_image = jackknife_error(jnp.asarray(self.without_image))
        return {
            name: Measure(float(self.value[i]), None if by_member is None else float(by_member[i]), float(by_image[i]))
            for i, name in enumerate(MEASURES)
        }


def available_outside(root: Path | None = None) -> tuple[Outside, ...]:
    """The sets from outside whose files are there."""
    folder = data_root(root)
    there = {
        "svhn": folder is not None and (folder / FOLDER / TEST_FILE).is_file(),
        "fashion_mnist": "fashion_mnist" in available_sources(root),
    }
    return tuple(name for name in OUTSIDE if there[name])


def load_outside(name: Outside, count: int, seed: int, root: Path | None = None) -> UInt8[np.ndarray, "n 32 32 3"]:
    """At most `count` test images of a set from outside, drawn by the seed.

    Raises:
        JaxgeoError: no folder of data, or a file is missing or damaged.
    """
    if name == "svhn":
        folder = data_root(root)
        if folder is None:
            raise InputError(f"SVHN is read from {FOLDER}/{TEST_FILE} in a folder that JAXGEO_DATA names; set it")
        images, _ = read_svhn(folder / FOLDER / TEST_FILE)
    else:
        border = ((0, 0), (_BORDER, _BORDER), (_BORDER, _BORDER))
        grey = np.pad(np.rint(255 * load_digits(name, root).test_images).astype(np.uint8), border)
        images = np.repeat(grey[..., None], 3, axis=-1)
    return images[np.sort(np.random.default_rng(seed).permutation(len(images))[:count])]


def chosen_images(labels: Integer[np.ndarray, " image"], shifts: ShiftConfig) -> Integer[np.ndarray, " chosen"]:
    """Rows of the test images that are corrupted, in order: all, or each class by its share."""
    if shifts.images is None or shifts.images >= len(labels):
        return np.arange(len(labels))
    return np.sort(stratified_indices(labels, shifts.images, np.random.default_rng(shifts.seed)))


def _per_image(predictive: Predictive, labels: Array) -> Float[Array, "image mean"]:
    log_p = predictive.log_mean
    total = entropy(log_p)
    return jnp.stack(
        [is_correct(log_p, labels), surprisal(log_p, labels), total, total - predictive.expected_entropy], axis=-1
    )


def _in_order(means: Float[Array, "*some mean"], calibration_error: Float[Array, "*some"]) -> Float[Array, "*some m"]:
    """As `MEASURES` are named."""
    return jnp.concatenate([means[..., :2], calibration_error[..., None], means[..., 2:]], axis=-1)


def _measures(predictive: Predictive, labels: Array) -> Float[Array, " measure"]:
    top = calibration.top_class(predictive.log_mean, labels)
    error = calibration.binned_calibration_error(*top, _BINS, "equal_width")
    return _in_order(jnp.mean(_per_image(predictive, labels), axis=0), error)


@functools.partial(jax.jit, static_argnames="members")
def _jackknifed(log_probs: Array, labels: Array, members: int) -> tuple[Array, Array, Array]:
    predictive, count = summarize(log_probs), labels.shape[0]
    value = _measures(predictive, labels)
    without_member = jnp.zeros((0, *value.shape))
    if members > 1:
        without_member = jax.vmap(_measures, (0, None))(leave_one_out(log_probs, members), labels)
    each = _per_image(predictive, labels)
    means = (jnp.sum(each, axis=0, keepdims=True) - each) / (count - 1)
    top = calibration.top_class(predictive.log_mean, labels)
    return value, without_member, _in_order(means, calibration.leave_one_image_out(*top, _BINS, "equal_width"))


def jackknifed(
    log_probs: Float[np.ndarray, "draw image class"], labels: Integer[np.ndarray, " image"], members: int
) -> Jackknifed:
    """All measures of one set, from the draws of all members, member slowest."""
    return Jackknifed(*jax.device_get(_jackknifed(jnp.asarray(log_probs), jnp.asarray(labels), members)))


def average(sets: Sequence[Jackknifed]) -> dict[str, Measure]:
    """Measures averaged over sets of the same members and images, whose errors they share."""
    return Jackknifed(*(np.mean(np.stack(parts), axis=0) for parts in zip(*sets, strict=True))).measures()


class Shifts(NamedTuple):
    """What was found."""

    severity: dict[str, dict[int, dict[str, Measure]]]
    """by family and severity (0: the same images, clean): measures averaged over the corruptions"""
    corruption: dict[str, dict[str, dict[int, dict[str, Measure]]]]
    """by family, corruption and severity"""
    outside: dict[str, dict[str, dict[str, Any]]]
    """by family, set from outside and score: AUROC and false positive rate at 95 % found, with their errors"""

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON of all numbers."""

        def plain(found: Any) -> Any:
            if isinstance(found, Measure):
                return found.to_dict()
            return {str(key): plain(value) for key, value in found.items()}

        return {"severity": plain(self.severity), "corruption": plain(self.corruption), "outside": plain(self.outside)}


class _Networks:
    """Drawn when first needed, then kept on the host: the full size has half a gigabyte of them."""

    def __init__(self, made: Mapping[str, Family], members: Mapping[str, list[Path]], config: CifarConfig) -> None:
        self._made, self._members, self._config = made, members, config
        self._drawn: dict[str, list[Any]] = {}

    def predict(self, name: str, problem: Problem, images: np.ndarray) -> np.ndarray:
        """Log-probabilities (member x draw, image, class) of all networks of a family."""
        if name not in self._drawn:
            family = self._made[name]
            self._drawn[name] = [
                jax.device_get(networks_of(path, number, family, self._config))
                for number, path in enumerate(self._members[name])
            ]
        return np.concatenate([predict(problem.log_joint.apply, draws, images) for draws in self._drawn[name]])


def score_shifts(
    folder: Path, made: Mapping[str, Family], members: Mapping[str, list[Path]], predicted: Mapping[str, np.ndarray],
    config: CifarConfig, problem: Problem, shifts: ShiftConfig, progress: Progress, root: Path | None = None,
) -> Shifts:  # fmt: skip
    """Scores of every family on every set; what is finished is read.

    Args:
        folder: of the run.
        made: families by name.
        members: files of each family's members.
        predicted: log-probabilities (member x draw, image, class) of the clean test images.
        config: of the run.
        problem: with the test images as bytes.
        shifts: what is to be scored.
        progress: one bar for each kind of shift.
        root: folder of the sets from outside; by default the environment variable JAXGEO_DATA.
    """
    rows = chosen_images(problem.test_labels, shifts)
    networks = _Networks(made, members, config)
    for name in made:
        files.make_folder(folder / name / "shifts")
    return Shifts(
        *_corrupted(folder, made, predicted, config, problem, shifts, rows, networks, progress),
        _from_outside(folder, made, predicted, config, problem, shifts, len(rows), networks, progress, root),
    )


def _source(family: Family, config: CifarConfig, problem: Problem, shifts: ShiftConfig, images: int) -> dict[str, int]:
    """What a kept score was made from; other settings are those of the folder."""
    return {
        "members": config.members, "draws": family.draws, "test images": len(problem.test_images), "images": images,
        "seed": shifts.seed,
    }  # fmt: skip


def _kept(path: Path, source: dict[str, int]) -> Jackknifed | None:
    if not path.exists():
        return None
    arrays, note = files.load_arrays_and_note(path)
    return Jackknifed(*(arrays[name] for name in Jackknifed._fields)) if note == source else None


def _corrupted(
    folder: Path, made: Mapping[str, Family], predicted: Mapping[str, np.ndarray], config: CifarConfig,
    problem: Problem, shifts: ShiftConfig, rows: np.ndarray, networks: _Networks, progress: Progress,
) -> tuple[Any, Any]:  # fmt: skip
    if not shifts.corruptions:
        return {}, {}
    labels = problem.test_labels[rows]
    clean = {name: jackknifed(predicted[name][:, rows], labels, config.members) for name in made}
    found: dict[str, dict[tuple[str, int], Jackknifed]] = {name: {} for name in made}
    cases: list[tuple[Corruption, int]] = [
        (corruption, severity) for corruption in shifts.corruptions for severity in shifts.severities
    ]
    bar = progress.bar("corrupted test images", "sets")
    for number, (corruption, severity) in enumerate(cases):
        images = None
        for name, family in made.items():
            path = folder / name / "shifts" / f"{corruption}-{severity}.safetensors"
            source = _source(family, config, problem, shifts, len(rows))
            kept = _kept(path, source)
            if kept is None:
                if images is None:
                    images = standardise(corrupt(problem.test_pixels[rows], corruption, severity, shifts.seed))
                kept = jackknifed(networks.predict(name, problem, images), labels, config.members)
                files.save_arrays(path, kept._asdict(), source)
            found[name][corruption, severity] = kept
        bar(number + 1, len(cases), {})
    by_severity = {
        name: {0: clean[name].measures()}
        | {s: average([sets[c, s] for c in shifts.corruptions]) for s in shifts.severities}
        for name, sets in found.items()
    }
    by_corruption = {
        name: {c: {s: sets[c, s].measures() for s in shifts.severities} for c in shifts.corruptions}
        for name, sets in found.items()
    }
    return by_severity, by_corruption


def _from_outside(
    folder: Path, made: Mapping[str, Family], predicted: Mapping[str, np.ndarray], config: CifarConfig,
    problem: Problem, shifts: ShiftConfig, count: int, networks: _Networks, progress: Progress, root: Path | None,
) -> dict[str, dict[str, dict[str, Any]]]:  # fmt: skip
    if not shifts.outside:
        return {}
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in made}
    bar = progress.bar("images from outside", "sets")
    for number, outside in enumerate(shifts.outside):
        images = None
        for name, family in made.items():
            path = folder / name / "shifts" / f"outside-{outside}.json"
            source = _source(family, config, problem, shifts, count)
            kept = files.read_json(path) if path.exists() else {}
            if kept.get("source") != source:
                if images is None:
                    images = standardise(load_outside(outside, count, shifts.seed, root))
                kept = {"source": source, "images": len(images)}
                log_probs = jnp.asarray(networks.predict(name, problem, images))
                for score, function in SCORES.items():
                    detection = detect(
                        jax.random.key(shifts.seed), jnp.asarray(predicted[name]), log_probs, function,
                        groups=config.members,
                    )  # fmt: skip
                    kept[score] = {field: measure.to_dict() for field, measure in detection._asdict().items()}
                files.write_json_atomically(path, kept)
            found[name][outside] = {
                score: {field: Measure(**measure) for field, measure in kept[score].items()} for score in SCORES
            }
        bar(number + 1, len(shifts.outside), {})
    return found
