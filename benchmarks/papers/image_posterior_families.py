"""What `image_posteriors` compares: its settings, its problem, and every family as networks drawn from a key."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.papers.image_posterior_sets import coarse, load_source, outside_sets
from jaxgeo.errors import ConfigError, check_real, check_whole
from jaxgeo.layers.dropout import RowDropout, WeightDropout
from jaxgeo.models.mlp import Activation, Mlp, MlpConfig
from jaxgeo.posteriors import deep_ensemble, drop_connect, mc_dropout, mean_field, non_parametric_dropout
from jaxgeo.posteriors.base import Apply, Posterior, num_stacked, sample_many
from jaxgeo.posteriors.hmc_state import HmcConfig
from jaxgeo.posteriors.kronecker import kronecker_laplace
from jaxgeo.posteriors.langevin import LangevinConfig, langevin
from jaxgeo.posteriors.langevin_step import Stiffness, choose_step, stiffness
from jaxgeo.posteriors.laplace import diagonal_laplace, full_laplace, last_layer_laplace
from jaxgeo.posteriors.linearised import linearise
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint, pure_apply
from jaxgeo.posteriors.microcanonical import MicrocanonicalConfig, microcanonical
from jaxgeo.posteriors.swag import SwagConfig, swag
from jaxgeo.training.ensemble import EnsembleState, Objective, TrainingConfig, fit, make_optimizer, steps_per_epoch

INPUT_LAYER = "hidden_0"  # its rows are pixels, which are never dropped
CLASSES = 10
_FULL = 5000  # weights up to which the whole precision is taken, which then fills 100 MB


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """One run."""

    source: Literal["fashion_mnist", "sklearn"] = "fashion_mnist"
    images: int = 3000
    test_images: int = 1000
    """of the source, and of each other set"""
    width: int = 40
    """units of each of two hidden layers"""
    activation: Activation = "tanh"
    prior_scale: float = 1.5
    """of kernels, divided by the root of their inputs; biases have 1"""
    members: int = 16
    """of the deep ensemble and of those of MC dropout, DropConnect and non-parametric dropout"""
    draws: int = 8
    """of each such member"""
    gaussian_members: int = 4
    """of mean-field families and of SWAG"""
    gaussian_draws: int = 32
    """of each of those; both Laplace approximations have as many as the four together"""
    epochs: int = 60
    batch_size: int = 100
    learning_rate: float = 3e-3
    dropout_rate: float = 0.1
    snapshots: int = 20
    """of SWAG, one each epoch"""
    snapshot_rate: float = 0.01
    cycles: int = 8
    """of each of four chains of SGLD and SGHMC"""
    cycle_epochs: int = 50
    inflation: float = 1.0
    """share by which SGLD and SGHMC may spread too widely in the worst direction, from which their step follows"""
    friction: float = 0.1
    walkers: int = 8
    """microcanonical chains, each begun at a trained member"""
    walker_draws: int = 16
    walker_steps: int = 200
    """between two draws of a microcanonical chain; it is tuned over ten times as many"""
    chains: int = 4
    """of HMC"""
    warmup: int = 60
    hmc_draws: int = 100
    max_leapfrogs: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that nothing can be made of; the parts refuse the rest."""
        if min(self.members, self.gaussian_members, self.walkers, self.chains) < 2 or self.hmc_draws < 4:
            raise ConfigError(
                f"errors need at least 2 members of every kind, 2 walkers, 2 chains and 4 draws of HMC, got members "
                f"{self.members}, gaussian_members {self.gaussian_members}, walkers {self.walkers}, chains "
                f"{self.chains}, hmc_draws {self.hmc_draws}"
            )
        check_real("inflation", self.inflation, above=0.0)
        check_whole("seed", self.seed, 0, 2**32 - 1)  # of JAX's keys
        for name in ("draws", "gaussian_draws", "cycle_epochs", "images", "test_images", "walker_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        # Built here, so that what they refuse is refused before anything is written.
        WeightDropout(rate=self.dropout_rate)
        MlpConfig(1, (self.width, self.width), CLASSES, self.activation)
        GaussianPrior(self.prior_scale)
        steps_per_epoch(self.training, self.images)
        _ = self.hmc, self.swag, self.microcanonical, self.langevin(None), self.langevin(self.friction)

    @property
    def training(self) -> TrainingConfig:
        """Of everything that is optimised."""
        return TrainingConfig(epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate)

    @property
    def hmc(self) -> HmcConfig:
        """Of the reference."""
        return HmcConfig(
            num_chains=self.chains, num_warmup=self.warmup, num_draws=self.hmc_draws, warmup_leapfrogs=64,
            max_leapfrogs=self.max_leapfrogs, step_size=3e-3, chains_at_once=1,
        )  # fmt: skip

    @property
    def swag(self) -> SwagConfig:
        """Snapshots, one each epoch."""
        return SwagConfig(
            num_snapshots=self.snapshots, rank=self.snapshots, steps_between=max(1, self.images // self.batch_size),
            learning_rate=self.snapshot_rate, batch_size=self.batch_size,
        )  # fmt: skip

    @property
    def microcanonical(self) -> MicrocanonicalConfig:
        """Chains begun at trained members."""
        return MicrocanonicalConfig(
            num_chains=self.walkers, num_tuning=10 * self.walker_steps, num_draws=self.walker_draws,
            thinning=self.walker_steps, chains_at_once=1,
        )  # fmt: skip

    def langevin(self, friction: float | None) -> LangevinConfig:
        """SGLD without, SGHMC with friction; four draws in the last fifth of each cycle. The step is to be chosen."""
        steps = self.cycle_epochs * max(1, self.images // self.batch_size)
        return LangevinConfig(
            num_chains=4, num_cycles=self.cycles, steps_per_cycle=steps, draws_per_cycle=4,
            steps_between=max(1, steps // 20), friction=friction, batch_size=self.batch_size,
        )  # fmt: skip


QUICK = ImageConfig(
    images=500, test_images=300, width=20, members=4, gaussian_members=2, gaussian_draws=8, draws=4, epochs=100,
    snapshots=5, cycles=2, cycle_epochs=20, walkers=2, walker_draws=10, walker_steps=50, chains=4, warmup=30,
    hmc_draws=30, max_leapfrogs=256,
)  # fmt: skip


class Problem(NamedTuple):
    """Images as standardised vectors of pixels, and the log joint that all share."""

    inputs: np.ndarray  # (image, pixel), float32
    labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    outside: dict[str, np.ndarray]  # images of other distributions, by name
    init: Callable[[Array], Any]
    log_joint: LogJoint


class Family(NamedTuple):
    """From a key to networks, stacked: `Posterior.init`, then `Posterior.sample`."""

    title: str
    groups: int
    """equal groups of consecutive networks that belong together, for the jackknife"""
    networks: Callable[[Array], Any]
    apply: Apply | None = None
    """predictions of one of the networks, where they are not parameters of the log joint's network"""


def make_problem(config: ImageConfig, root: Path | None = None) -> Problem:
    """Images and network of a run.

    Outside are other sets (`outside_sets`), and the test images with their pixels in one fixed random order: the same
    histogram, nothing to see.

    Raises:
        JaxgeoError: the images are not there, damaged, or fewer than asked for.
    """
    data = load_source(config.source, root, config.seed, config.images, config.test_images)
    inputs, test_inputs = coarse(data.train_images), coarse(data.test_images)
    mean, scale = inputs.mean(), inputs.std()
    others = outside_sets(config.source, round(inputs.shape[1] ** 0.5), root, config.seed, config.test_images)
    inputs, test_inputs = (inputs - mean) / scale, (test_inputs - mean) / scale
    order = np.random.default_rng(config.seed).permutation(inputs.shape[1])
    outside = {name: (images - mean) / scale for name, images in others.items()}
    outside["permuted pixels"] = test_inputs[:, order]
    model = Mlp(MlpConfig(inputs.shape[1], (config.width, config.width), CLASSES, config.activation))
    apply = pure_apply(model, jnp.asarray(inputs[:1]))
    joint = LogJoint(apply, GaussianPrior(config.prior_scale, bias_scale=1.0))
    init = functools.partial(_init, model)
    return Problem(inputs, data.train_labels, test_inputs, data.test_labels, outside, init, joint)


def _init(model: Mlp, key: Array) -> Any:
    return model.init(key, jnp.zeros((1, model.config.channels)))["params"]


def trainer(objective: Objective, config: ImageConfig, problem: Problem) -> Callable[[Array, Any], Any]:
    """The `train` of a posterior: all stacked members to a minimum of the objective."""
    inputs, labels = jnp.asarray(problem.inputs), jnp.asarray(problem.labels)
    settings = config.training
    optimizer = make_optimizer(settings, len(problem.labels))

    def train(key: Array, members: Any) -> Any:
        keys = jax.random.split(key, num_stacked(members))
        state = EnsembleState(members, jax.vmap(optimizer.init)(members), jnp.zeros((), jnp.int32), keys)
        return fit(state, objective, inputs, labels, settings)[0].params

    return train


def networks_of_each(posterior: Posterior, num: int) -> Callable[[Array], Any]:
    """`num` draws of each member of a posterior whose state is a stack of members, member slowest.

    A stack of one member is a state too, so that the contract is enough: no family is asked for its own.
    """

    def networks(key: Array) -> Any:
        init_key, draw_key = jax.random.split(key)
        state = posterior.init(init_key)

        def of_member(key: Array, index: Array) -> Any:
            return sample_many(posterior, key, jax.tree.map(lambda leaf: leaf[index][None], state), num)

        members = num_stacked(state)
        draws = jax.jit(jax.vmap(of_member))(jax.random.split(draw_key, members), jnp.arange(members))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), draws)

    return networks


def measured_stiffness(config: ImageConfig, problem: Problem, key: Array) -> Stiffness:
    """Curvature and noise of the gradients at one trained network, on the training images."""
    mode_key, key = jax.random.split(key)
    train = trainer(deep_ensemble.objective(problem.log_joint, len(problem.labels)), config, problem)
    modes = deep_ensemble.deep_ensemble(problem.init, 1, train).init(mode_key)
    mode, inputs = jax.tree.map(lambda leaf: leaf[0], modes), jnp.asarray(problem.inputs)
    return stiffness(key, problem.log_joint, mode, inputs, jnp.asarray(problem.labels), config.batch_size)


def stepped(config: ImageConfig, friction: float | None, found: Stiffness) -> LangevinConfig:
    """`ImageConfig.langevin` with the step that the stiffness allows."""
    settings = config.langevin(friction)
    return dataclasses.replace(settings, step_size=choose_step(found, settings, config.inflation))


def families(config: ImageConfig, problem: Problem, found: Stiffness) -> dict[str, Family]:
    """Every family by name, each on the same log joint."""
    joint, count, init = problem.log_joint, len(problem.labels), problem.init
    inputs, labels = jnp.asarray(problem.inputs), jnp.asarray(problem.labels)
    weights = WeightDropout(rate=config.dropout_rate)
    many = config.members

    def train(objective: Objective) -> Callable[[Array, Any], Any]:
        return trainer(objective, config, problem)

    to_maximum = train(deep_ensemble.objective(joint, count))

    def chains(friction: float | None) -> Callable[[Array], Any]:
        return networks_of_each(langevin(init, joint, inputs, labels, stepped(config, friction, found)), 1)

    rows = RowDropout(rate=config.dropout_rate, fixed=(INPUT_LAYER,))
    return {
        "deep_ensemble": Family(
            "deep ensemble", many, networks_of_each(deep_ensemble.deep_ensemble(init, many, to_maximum), 1)
        ),
        "mc_dropout": Family(
            "MC dropout", many,
            networks_of_each(
                mc_dropout.mc_dropout(init, rows, many, train(mc_dropout.objective(joint, rows, count))), config.draws
            ),
        ),
        "drop_connect": Family(
            "DropConnect", many,
            networks_of_each(
                drop_connect.drop_connect(init, weights, many, train(drop_connect.objective(joint, weights, count))),
                config.draws,
            ),
        ),
        "non_parametric_dropout": Family(
            "non-parametric dropout", many,
            networks_of_each(
                non_parametric_dropout.non_parametric_dropout(
                    init, many, train(non_parametric_dropout.objective(joint, count))
                ),
                config.draws,
            ),
        ),
        **_gaussian_families(config, problem, to_maximum, train),
        "sgld": Family("cyclical SGLD", 4, chains(None)),
        "sghmc": Family("cyclical SGHMC", 4, chains(config.friction)),
        "microcanonical": Family(
            "microcanonical Langevin", config.walkers,
            networks_of_each(
                microcanonical(init, joint, inputs, labels, config.microcanonical, to_maximum), 1
            ),
        ),
    }  # fmt: skip


def _gaussian_families(
    config: ImageConfig,
    problem: Problem,
    to_maximum: Callable[[Array, Any], Any],
    train: Callable[[Objective], Callable[[Array, Any], Any]],
) -> dict[str, Family]:
    """Laplace's approximations around one mode, drawn from or linearised; mean-field VI and SWAG."""
    joint, count, init = problem.log_joint, len(problem.labels), problem.init
    inputs, labels = jnp.asarray(problem.inputs), jnp.asarray(problem.labels)
    few, num = config.gaussian_members, config.gaussian_members * config.gaussian_draws

    def laplace(build: Callable[..., Posterior], linearised: bool) -> Callable[[Array], Any]:
        def networks(key: Array) -> Any:
            mode_key, init_key, draw_key = jax.random.split(key, 3)
            modes = deep_ensemble.deep_ensemble(init, 1, to_maximum).init(mode_key)
            posterior = build(joint, jax.tree.map(lambda leaf: leaf[0], modes), inputs, labels)
            draws = sample_many(posterior, draw_key, posterior.init(init_key), num)
            repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, num, axis=0), modes)
            return {"mode": repeated, "draw": draws} if linearised else draws

        return networks

    def tangent(network: Any, inputs: Any) -> Array:
        return linearise(joint.apply, network["mode"])(network["draw"], inputs)

    found = {
        "last_layer_laplace": Family("Laplace, last layer", num, laplace(last_layer_laplace, False)),
        "diagonal_laplace": Family("Laplace, diagonal", num, laplace(diagonal_laplace, False)),
    }
    linear = {"diagonal": diagonal_laplace, "Kronecker": kronecker_laplace, "full": full_laplace}
    if sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)))) > _FULL:
        del linear["full"]
    for name, build in linear.items():
        family = Family(f"Laplace, {name}, linearised", num, laplace(build, True), tangent)
        found[f"linearised_{name.lower()}_laplace"] = family
    mean_fields = mean_field.mean_field(init, few, train(mean_field.objective(joint, count)))
    swags = swag(init, joint, inputs, labels, config.swag, few, to_maximum)
    found["mean_field"] = Family("mean-field VI", few, networks_of_each(mean_fields, config.gaussian_draws))
    found["swag"] = Family("SWAG", few, networks_of_each(swags, config.gaussian_draws))
    return found
