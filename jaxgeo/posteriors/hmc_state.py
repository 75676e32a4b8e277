"""What an HMC run is told, what it carries from one transition to the next, and what it leaves behind."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxgeo.errors import ConfigError, InputError, check_fields, check_real, check_whole
from jaxgeo.training.processes import to_host

Kernel = Literal["hmc", "nuts"]

_MOST_LEAPFROGS = 2**24
"""Whole numbers up to there are exact in float32, in which a trajectory's number of leapfrogs is found."""

_DEEPEST_TREE = 20
"""A million gradients for one transition; the usual depth is 10."""

_GRADIENTS_AGREE = 0.05
"""Largest difference of two gradients of one potential energy over one more than their norm. Programs that sum in
another order differ by far less, also where an accelerator rounds the factors of products; other examples of the same
distribution by a tenth and more, since the gradient of a likelihood where a chain is comes from the chance in its
examples."""


@dataclasses.dataclass(frozen=True)
class HmcConfig:
    """How to sample; lengths and step sizes are in whitened units (prior standard deviations)."""

    num_chains: int = 4
    num_warmup: int = 60
    """transitions that adapt the step size (and the mass), not kept"""
    num_burn_in: int = 0
    """of these the first so many adapt nothing: whole trajectories at `step_size`, all accepted, so that a chain far
    from where the mass is gets there; as Izmailov et al. (arXiv:2104.14421 and its program) burn in. 'hmc' only"""
    num_draws: int = 100
    """draws kept of each chain"""
    thinning: int = 1
    """transitions for each draw that is kept"""
    kernel: Kernel = "hmc"
    trajectory_length: float = math.pi / 2
    """time of one HMC trajectory once warm; a quarter period of a Gaussian direction of unit scale"""
    jitter: float = 0.3
    """each HMC trajectory is longer or shorter by up to this share, the same for all chains; without it a direction
    whose half period the length happens to be keeps its amplitude for ever"""
    warmup_leapfrogs: int = 64
    """gradient evaluations of each HMC transition while the step size adapts, so that its cost is bounded"""
    max_leapfrogs: int = 512
    """a trajectory that needs more is cut short"""
    max_tree_depth: int = 10
    """NUTS doubles a trajectory at most so often; 20 at most"""
    step_size: float = 0.01
    """where the adaptation starts; the step size itself where there is no warm-up"""
    target_acceptance: float = 0.7
    """what the step size aims at, as the harmonic mean over the chains; the arithmetic mean comes out higher"""
    adapt_mass: bool = False
    """learn a diagonal mass matrix from all chains; worth it where the posterior is far narrower than the prior"""
    chains_at_once: int | None = None
    """chains of a device that go through a transition together, the others after them; None: all. Memory is that of
    so many, and on a processor a few small chains in turn can be quicker than all at once"""
    likelihood_batches: int = 1
    """equal parts of the training examples whose likelihoods and gradients are summed in turn: the memory of one part,
    still the gradient of all"""

    def __post_init__(self) -> None:
        """Refuse settings that no run can have."""
        leapfrogs = 1, _MOST_LEAPFROGS
        check_fields(
            self, num_chains=1, num_warmup=0, num_draws=1, thinning=1, warmup_leapfrogs=leapfrogs,
            max_leapfrogs=leapfrogs, max_tree_depth=(1, _DEEPEST_TREE), chains_at_once=1, likelihood_batches=1,
        )  # fmt: skip
        check_whole("num_burn_in of HMC, a part of num_warmup,", self.num_burn_in, 0, self.num_warmup)
        if self.num_burn_in and self.kernel != "hmc":
            raise ConfigError(
                f"burning in means to accept the ends of whole trajectories, which NUTS does not have; got num_burn_in "
                f"{self.num_burn_in} with kernel {self.kernel!r}, take kernel 'hmc' or num_burn_in 0"
            )
        check_real("trajectory_length of HMC", self.trajectory_length, above=0.0)
        check_real("step_size of HMC", self.step_size, above=0.0)
        if not 0.0 <= self.jitter < 1.0:
            raise ConfigError(f"jitter must be at least 0 and below 1, got {self.jitter}")
        if not 0.0 < self.target_acceptance < 1.0:
            raise ConfigError(
                f"target_acceptance must lie between 0 and 1, both excluded, got {self.target_acceptance}"
            )

    @property
    def num_transitions(self) -> int:
        """Transitions of a whole run, warm-up included."""
        return self.num_warmup + self.num_draws * self.thinning


class HmcState(NamedTuple):
    """Everything that the next transition depends on: save `_asdict()`, resume from `HmcState(**arrays)`."""

    iteration: Int[Array, ""]  # transitions done
    key_data: UInt32[Array, "chain word"]
    position: Float[Array, "chain dim"]
    gradient: Float[Array, "chain dim"]  # of the potential energy
    potential_energy: Float[Array, " chain"]
    step_size: Float[Array, ""]  # one for all chains
    averaging: Float[Array, "5"]  # dual averaging: log step, its mean, mean gradient, count, centre
    inverse_mass: Float[Array, " dim"]
    welford_mean: Float[Array, " dim"]
    welford_m2: Float[Array, " dim"]
    welford_count: Int[Array, ""]


def check_state(state: HmcState, config: HmcConfig, dim: int, dtype: Any) -> None:
    """Refuse a state of another run than the plan's: of other chains, another network or other precision.

    Args:
        state: arrays, perhaps as they came from a file.
        config: of the plan.
        dim: number of parameters.
        dtype: of the whitened parameters.

    Raises:
        InputError: a field has another shape, or the positions another dtype, than a state of this plan.
    """
    chain, scalar = (config.num_chains,), ()
    wanted = {
        "iteration": scalar, "key_data": chain, "position": (*chain, dim), "gradient": (*chain, dim),
        "potential_energy": chain, "step_size": scalar, "averaging": (5,), "inverse_mass": (dim,),
        "welford_mean": (dim,), "welford_m2": (dim,), "welford_count": scalar,
    }  # fmt: skip
    for name, shape in wanted.items():
        found = tuple(np.shape(getattr(state, name)))
        found = found[:1] if name == "key_data" else found  # then as many words as its generator has
        if found != shape:
            raise InputError(
                f"the state is of another run: {name} of {config.num_chains} chains of {dim} parameters has the shape "
                f"{shape}, got {found}; continue it with the plan that it was made with"
            )
    if state.position.dtype != dtype:
        raise InputError(
            f"the state is of another run: its positions are {state.position.dtype}, but the network's parameters are "
            f"{dtype}; continue it in the precision that it was made with (jax_enable_x64)"
        )


def check_gradient(gradient: Float[Array, "chain dim"], anew: Float[Array, "chain dim"]) -> None:
    """Refuse a state whose gradients are not those of the log joint and the data that it is to go on with.

    Args:
        gradient: of the potential energy, as the state has it.
        anew: the same at the state's positions, from what is given.

    Raises:
        InputError: they differ by more than rounding.
    """
    apart, size = to_host(_difference_and_size(gradient, anew))
    other = ~(apart <= _GRADIENTS_AGREE * (1.0 + size))  # NaN too
    if other.any():
        first = int(np.argmax(other))
        raise InputError(
            f"the state is of other data or another log joint: where chain {first} is, the gradient of the potential "
            f"energy has the norm {size[first]:.4g} in the state, and that of the data, prior and likelihood given "
            f"differs by {apart[first]:.4g}; continue it with those that it was made with, or begin anew with "
            f"init(..., start=draws(state.position))"
        )


@jax.jit
def _difference_and_size(one: Array, other: Array) -> tuple[Array, Array]:
    return jnp.linalg.norm(other - one, axis=-1), jnp.linalg.norm(one, axis=-1)


class HmcTrace(NamedTuple):
    """What a stretch of transitions left behind, as NumPy arrays; only `position` is thinned and without warm-up."""

    position: Float[np.ndarray, "chain draw dim"]  # whitened
    potential_energy: Float[np.ndarray, "chain transition"]
    energy: Float[np.ndarray, "chain transition"]
    acceptance: Float[np.ndarray, "chain transition"]
    diverging: Bool[np.ndarray, "chain transition"]
    num_leapfrogs: Int[np.ndarray, "chain transition"]
    step_size: Float[np.ndarray, "chain transition"]
