"""Ensembles of ResNet-FRN on CIFAR-10: settings, families, training that goes on where it stopped, predictions.

The parts of `benchmarks.papers.cifar_posteriors`, whose text says what is trained and why.
"""

import dataclasses
import functools
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.scale_programs import kept_bytes
from jaxgeo import files
from jaxgeo.config_files import check_same_settings, from_dict, to_dict
from jaxgeo.data.cifar import TRAINING_IMAGES, Source, load_cifar10, rows_at, standardise
from jaxgeo.data.cifar_hmc import load_hmc
from jaxgeo.errors import ConfigError, CorruptFileError, InputError, check_whole
from jaxgeo.layers.dropout import RowDropout, Unit, WeightDropout
from jaxgeo.layers.unit_choice import UnitChoice, init_pair
from jaxgeo.models.resnet import ResNet, ResNetConfig, init_resnet
from jaxgeo.posteriors import deep_ensemble, drop_connect, mc_dropout, non_parametric_dropout
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint, pure_apply
from jaxgeo.posteriors.stochastic_ensemble import Divergence
from jaxgeo.progress import Callback
from jaxgeo.training.ensemble import Objective, TrainingConfig, block_size, steps_per_epoch
from jaxgeo.training.long_runs import train_ensemble
from jaxgeo.training.meshes import spread

FamilyName = Literal["deep_ensemble", "mc_dropout", "drop_connect", "non_parametric_dropout"]
STEM, HEAD = "stem", "head"
_GROWING = ("members", "draws", "families", "test_images", "members_per_block")  # may differ when a folder goes on
_CHECKPOINT_S = 60.0
PREDICTED_AT_ONCE = 500


@dataclasses.dataclass(frozen=True)
class CifarConfig:
    """One run; the defaults are the published sizes, with the fewest members that give errors worth stating."""

    source: Source = "binary"
    images: int = TRAINING_IMAGES
    test_images: int = 5000
    """at most; of those that have HMC probabilities"""
    depth: int = 20
    width: int = 16
    families: tuple[FamilyName, ...] = get_args(FamilyName)
    members: int = 8
    draws: int = 20
    """of each member of a stochastic family"""
    epochs: int = 300
    batch_size: int = 64
    learning_rate: float = 0.1
    prior: Literal["precision", "variance"] = "precision"
    prior_value: float = 5.0
    dropout_rate: float = 0.1
    dropout_unit: Unit = "row"
    """of MC dropout: an input channel at one tap of a kernel, or at all its taps"""
    divergence: Divergence = "exact"
    """factor of the squares of what is dropped: that of the family, or that of the published programs"""
    members_per_block: int = 1
    """vmapped together; convolutions of several members at once are slower on a CPU than one after another, and for
    accelerators `members_at_once` chooses"""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what the parts would refuse late or not at all."""
        for name in ("images", "test_images", "members", "draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_whole("seed", self.seed, 0, 2**32 - 1)  # of JAX's keys
        unknown = sorted(set(self.families) - set(get_args(FamilyName)))
        if unknown or not self.families or len(set(self.families)) < len(self.families):
            raise ConfigError(f"families are some of {get_args(FamilyName)}, each once, got {self.families}")
        if self.prior not in ("precision", "variance"):
            raise ConfigError(f"prior must be 'precision' or 'variance', got {self.prior!r}")
        if not (math.isfinite(self.prior_value) and self.prior_value > 0):
            raise ConfigError(f"the prior's {self.prior} must be positive and finite, got {self.prior_value}")
        # Impossible settings of the parts, said before any data are read.
        steps_per_epoch(self.training, self.images)
        ResNetConfig(depth=self.depth, features=self.width)

    @property
    def training(self) -> TrainingConfig:
        """Optimiser and schedule as published."""
        return TrainingConfig(
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate, schedule="step",
            warmup_fraction=0.0, optimizer="sgd", nesterov=True, members_per_block=self.members_per_block,
        )  # fmt: skip

    @property
    def prior_scale(self) -> float:
        """Standard deviation of every parameter before the data."""
        return math.sqrt(1 / self.prior_value if self.prior == "precision" else self.prior_value)


SIZES = {
    "full": CifarConfig(),
    "reduced": CifarConfig(source="jpeg", images=10_000, depth=8, width=8, members=4, draws=5, epochs=4),
}


class Problem(NamedTuple):
    """Standardised images, what they are held against, and the log joint that all families share."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    reference: np.ndarray  # (image, class) probabilities of HMC
    test_pixels: np.ndarray  # the test images as bytes, uint8
    init: Callable[[Array], Any]
    log_joint: LogJoint


class Family(NamedTuple):
    """How one family is trained, and how networks are drawn from one member."""

    title: str
    number: int  # of its keys, whatever other families there are
    objective: Objective
    init: Callable[[Array], Any]
    draw: Callable[[Array, Any], Any]  # (key, stack of one member) -> stacked networks
    draws: int


def make_problem(config: CifarConfig, root: Path | None = None) -> Problem:
    """Data and network of a run.

    Raises:
        JaxgeoError: a file is missing or damaged, or the test images are others than the reference's.
    """
    data = load_cifar10(config.source, root, num_train=config.images)
    probabilities, labels, places = load_hmc(root)
    shared = np.flatnonzero(np.isin(places, data.test_index))[: config.test_images]
    if not shared.size:
        raise InputError(f"none of the test images of source {config.source} has HMC probabilities")
    rows = rows_at(places[shared], data.test_index)
    if not np.array_equal(data.test_labels[rows], labels[shared]):
        raise CorruptFileError(
            f"the HMC probabilities are of other images than those of source {config.source}: "
            f"{int((data.test_labels[rows] != labels[shared]).sum())} of {shared.size} labels differ"
        )
    network = ResNetConfig(depth=config.depth, features=config.width)
    example = jax.ShapeDtypeStruct((1, *data.train_images.shape[1:]), jnp.float32)
    joint = LogJoint(pure_apply(ResNet(network), example), GaussianPrior(config.prior_scale, fan_in=False))
    return Problem(
        standardise(data.train_images), data.train_labels, standardise(data.test_images[rows]), labels[shared],
        probabilities[shared], data.test_images[rows], functools.partial(init_resnet, config=network), joint,
    )  # fmt: skip


def families(config: CifarConfig, problem: Problem) -> dict[str, Family]:
    """The families asked for, by name."""
    joint, count, draws = problem.log_joint, config.images, config.draws
    # As published: neither pixels nor what the head sees are dropped; DropConnect drops weights of the first layer too.
    rows = RowDropout(rate=config.dropout_rate, unit=config.dropout_unit, fixed=(STEM, HEAD))
    weights = WeightDropout(rate=config.dropout_rate, fixed=(HEAD,))
    choice = UnitChoice(fixed=(HEAD,))
    made = {
        "deep_ensemble": Family(
            "deep ensemble", 0, deep_ensemble.objective(joint, count), problem.init, lambda key, member: member, 1
        ),
        "mc_dropout": Family(
            "MC dropout", 1, mc_dropout.objective(joint, rows, count, config.divergence), problem.init,
            lambda key, member: mc_dropout.draws_of_members(key, member, rows, draws), draws,
        ),
        "drop_connect": Family(
            "DropConnect", 2, drop_connect.objective(joint, weights, count, config.divergence), problem.init,
            lambda key, member: drop_connect.draws_of_members(key, member, weights, draws), draws,
        ),
        "non_parametric_dropout": Family(
            "non-parametric dropout", 3, non_parametric_dropout.objective(joint, count, choice),
            init_pair(problem.init),
            lambda key, member: non_parametric_dropout.draws_of_members(key, member, draws, choice), draws,
        ),
    }  # fmt: skip
    return {name: made[name] for name in config.families}


def member_keys(config: CifarConfig, family: Family, members: Sequence[int]) -> Array:
    """The seed of each member: a function of the run's seed, the family and the member's number alone."""
    base = jax.random.fold_in(jax.random.key(config.seed), 2 * family.number)
    return jax.vmap(functools.partial(jax.random.fold_in, base))(jnp.asarray(members))


def members_at_once(
    config: CifarConfig, problem: Problem, made: dict[str, Family], devices: Sequence[Any] | None = None
) -> int:
    """Members that may be vmapped together: on a CPU one; on accelerators as many as half of one's memory holds.

    Each member holds what JAX keeps of a step for its gradients, the most of any family. The other half is for the
    images, the members and what XLA adds. With several devices a block is at most one device's share.
    """
    devices = jax.devices() if devices is None else devices
    memory = None if devices[0].platform == "cpu" else devices[0].memory_stats()
    if not memory:
        return 1
    key, batch = jax.random.key(0), config.batch_size
    images = jax.ShapeDtypeStruct((batch, *problem.train_images.shape[1:]), problem.train_images.dtype)
    labels = jax.ShapeDtypeStruct((batch,), problem.train_labels.dtype)
    most = max(
        kept_bytes(family.objective, jax.eval_shape(family.init, key), key, images, labels) for family in made.values()
    )
    share = -(-config.members // len(devices))
    return max(1, min(share, memory["bytes_limit"] // 2 // most))


def open_run(folder: Path, config: CifarConfig) -> None:
    """Make the folder, or check that what lies there is of the same settings (but for what may grow)."""
    path = files.make_folder(folder) / "config.json"
    if not path.exists():
        files.write_json_atomically(path, to_dict(config))
        return
    check_same_settings(folder, from_dict(CifarConfig, files.read_json(path)), config, _GROWING)


def train(folder: Path, family: Family, config: CifarConfig, problem: Problem, bar: Callback) -> list[Path]:
    """Files of all members; those that are missing are trained together, spread over the devices.

    A signal breaks it off within seconds, in the middle of an epoch too, and loses nothing.
    """
    paths = [folder / f"member-{number:03d}.safetensors" for number in range(config.members)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    if not missing:
        return paths
    files.make_folder(folder)
    halfway = folder / f"checkpoints-{missing[0]}-{missing[-1]}"
    bar(0, config.epochs, {})
    params, _ = train_ensemble(
        halfway, member_keys(config, family, missing), family.init, family.objective, jnp.asarray(problem.train_images),
        jnp.asarray(problem.train_labels), config.training, epochs_per_checkpoint=1, at_least_s=_CHECKPOINT_S,
        mesh=spread("member", len(missing) // block_size(len(missing), config.training)), progress=bar,
    )  # fmt: skip
    for row, number in enumerate(missing):
        files.save_tree(paths[number], jax.tree.map(lambda leaf, row=row: leaf[row], params))
    shutil.rmtree(halfway)
    return paths


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(apply: Callable[[Any, Any], Array], params: Any, images: Array) -> Array:
    return jax.nn.log_softmax(apply(params, images))


def predict(apply: Callable[[Any, Any], Array], draws: Any, images: np.ndarray) -> np.ndarray:
    """Log-probabilities (draw, image, class) of stacked networks, float32; draw after draw, so that memory is flat."""
    count = jax.tree.leaves(draws)[0].shape[0]
    batches = [images[i : i + PREDICTED_AT_ONCE] for i in range(0, len(images), PREDICTED_AT_ONCE)]
    networks = (jax.tree.map(lambda leaf, row=row: leaf[row], draws) for row in range(count))
    return np.stack([np.concatenate([_log_probs(apply, network, batch) for batch in batches]) for network in networks])


def networks_of(path: Path, number: int, family: Family, config: CifarConfig) -> Any:
    """Stacked networks of the member in a file: the same for all images that they are to predict."""
    base = jax.random.fold_in(jax.random.key(config.seed), 2 * family.number + 1)
    member = jax.tree.map(lambda leaf: leaf[None], files.load_tree(path))
    return family.draw(jax.random.fold_in(base, number), member)


def predictions(paths: list[Path], family: Family, config: CifarConfig, problem: Problem, bar: Callback) -> np.ndarray:
    """Log-probabilities (member x draw, image, class); kept beside each member."""
    found = []
    for number, path in enumerate(paths):
        kept, wanted = path.with_name(f"predictions-{number:03d}.safetensors"), [family.draws, len(problem.test_images)]
        if kept.exists() and files.load_note(kept)["draws and images"] == wanted:
            found.append(files.load_arrays(kept)["log_probs"])
        else:
            draws = networks_of(path, number, family, config)
            found.append(predict(problem.log_joint.apply, draws, problem.test_images))
            files.save_arrays(kept, {"log_probs": found[-1]}, {"draws and images": wanted})
        bar(number + 1, len(paths), {})
    return np.concatenate(found)
