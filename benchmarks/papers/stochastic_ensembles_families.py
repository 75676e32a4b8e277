"""The toy's settings, its problem, and its four families; what is compared is told in `stochastic_ensembles`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgeo.data.half_disc import half_disc
from jaxgeo.errors import ConfigError, check_one_of, check_whole
from jaxgeo.layers.dropout import RowDropout, WeightDropout
from jaxgeo.layers.unit_choice import init_pair
from jaxgeo.models.mlp import Activation, Mlp, MlpConfig
from jaxgeo.posteriors import deep_ensemble, drop_connect, mc_dropout, non_parametric_dropout
from jaxgeo.posteriors.hmc_state import HmcConfig
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint, pure_apply
from jaxgeo.posteriors.stochastic_ensemble import Divergence, check_divergence
from jaxgeo.training.ensemble import Objective, TrainingConfig, steps_per_epoch

Dropped = Literal["everything", "published"]
# The rows of hidden_0 are the two coordinates, which are never dropped.
_KEPT_ROWS = {"everything": ("hidden_0",), "published": ("hidden_0", "hidden_1")}
_MOST_GROUPS = 64  # of members, for the jackknife


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """One run; the defaults are the published sizes, with a reference of eight chains."""

    activation: Activation = "relu"
    train_points: int = 2000
    domain_points: int = 2000
    members: int = 1024
    epochs: int = 500
    batch_size: int = 100
    learning_rate: float = 1e-2
    dropout_rate: float = 0.1
    chains: int = 8
    warmup: int = 200
    draws: int = 200
    thinning: int = 1
    max_leapfrogs: int = 1024
    divergence: Divergence = "exact"
    """factor of the squares of what is dropped: that of the family, or that of the published programs"""
    dropped: Dropped = "everything"
    """units of both hidden layers and all weights; or, as published, units of the second and its weights and biases"""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that nothing can be made of; the parts refuse the rest."""
        if self.members < 2 or self.chains < 2 or self.draws < 4:
            raise ConfigError(
                f"errors need at least 2 members, 2 chains and 4 draws of each, got {self.members}, {self.chains} and "
                f"{self.draws}"
            )
        if self.member_groups < 2:
            raise ConfigError(
                f"errors need the members in 2 to {_MOST_GROUPS} equal groups, and {self.members} has no divisor "
                f"there; {self.members - 1} and {self.members + 1} members have"
            )
        check_whole("train_points", self.train_points)
        check_whole("domain_points", self.domain_points)
        check_whole("seed", self.seed, 0, 2**32 - 1)  # of JAX's keys
        check_one_of("dropped", self.dropped, Dropped)
        check_divergence(self.divergence)
        # Built here, so that what they refuse is refused before anything is written.
        MlpConfig(activation=self.activation)
        steps_per_epoch(self.training, self.train_points)
        _ = self.rows, self.weights, self.hmc

    @property
    def member_groups(self) -> int:
        """Equal groups of members for the jackknife: the largest divisor up to 64, and 1 where there is only that."""
        return max(number for number in range(1, _MOST_GROUPS + 1) if self.members % number == 0)

    @property
    def rows(self) -> RowDropout:
        """What MC dropout drops; a unit of a hidden layer is a row of the kernel that reads it."""
        return RowDropout(rate=self.dropout_rate, fixed=_KEPT_ROWS[self.dropped])

    @property
    def weights(self) -> WeightDropout:
        """What DropConnect drops."""
        if self.dropped == "everything":
            return WeightDropout(rate=self.dropout_rate)
        return WeightDropout(rate=self.dropout_rate, fixed=("hidden_0", "output"), extra=("bias",))

    @property
    def training(self) -> TrainingConfig:
        """Of every family's members."""
        return TrainingConfig(
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate, schedule="step",
            warmup_fraction=0.0, members_per_block=16,
        )  # fmt: skip

    @property
    def hmc(self) -> HmcConfig:
        """Of the reference."""
        return HmcConfig(
            num_chains=self.chains, num_warmup=self.warmup, num_draws=self.draws, thinning=self.thinning,
            warmup_leapfrogs=128, max_leapfrogs=self.max_leapfrogs, step_size=1e-3, chains_at_once=1,
        )  # fmt: skip


class Family(NamedTuple):
    """How one family is trained, and how networks are drawn from its members."""

    title: str
    objective: Objective
    init: Callable[[Array], Any]
    draw: Callable[[Array, Any], Any]  # (key, stacked members) -> as many stacked networks


class Problem(NamedTuple):
    """The points, and the log joint that all share."""

    points: np.ndarray
    labels: np.ndarray
    apply: Callable[[Any, Any], Array]
    init: Callable[[Array], Any]
    log_joint: LogJoint


def make_problem(config: ToyConfig) -> Problem:
    points, labels = half_disc(config.train_points, config.seed)
    model, example = Mlp(MlpConfig(activation=config.activation)), jnp.asarray(points[:1])
    apply = pure_apply(model, example)
    init = functools.partial(_init, model)
    return Problem(points, labels, apply, init, LogJoint(apply, GaussianPrior(1.0, fan_in=False)))


def _init(model: Mlp, key: Array) -> Any:
    return model.init(key, jnp.zeros((1, model.config.channels)))["params"]


def families(config: ToyConfig, problem: Problem) -> dict[str, Family]:
    """The four families by name, one draw for each member."""
    joint, count = problem.log_joint, config.train_points
    rows, weights = config.rows, config.weights
    return {
        "deep_ensemble": Family(
            "deep ensemble", deep_ensemble.objective(joint, count), problem.init, lambda key, members: members
        ),
        "mc_dropout": Family(
            "MC dropout",
            mc_dropout.objective(joint, rows, count, config.divergence),
            problem.init,
            lambda key, members: mc_dropout.draws_of_members(key, members, rows, 1),
        ),
        "drop_connect": Family(
            "DropConnect",
            drop_connect.objective(joint, weights, count, config.divergence),
            problem.init,
            lambda key, members: drop_connect.draws_of_members(key, members, weights, 1),
        ),
        "non_parametric_dropout": Family(
            "non-parametric dropout",
            non_parametric_dropout.objective(joint, count),
            init_pair(problem.init),
            lambda key, members: non_parametric_dropout.draws_of_members(key, members, 1),
        ),
    }
