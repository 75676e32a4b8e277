"""What HMC samples: a density of whitened vectors, and what moves all chains by it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from jaxgeo.posteriors import no_u_turn, trajectory
from jaxgeo.posteriors.hmc_devices import CHAIN, EVERYWHERE, Devices, spread_energy
from jaxgeo.posteriors.hmc_state import HmcConfig
from jaxgeo.training.ensemble import Params

LogDensity = Callable[[Any, Any, Any], Array]
"""`log_density(params, inputs, targets)`, in nats"""


class Target(NamedTuple):
    """What is sampled: its density, and the pieces in which a change of it is summed (`trajectory.transition`)."""

    log_density: LogDensity
    log_likelihoods: LogDensity
    gaussian_prior: bool
    constant: float
    check_data: Callable[[Any, Any], None]
    """(inputs, targets): raises `InputError`; of any other density than a `LogJoint` nothing is known to check"""
    parts: tuple[LogDensity, Callable[[Any], Array]] | None = None
    """log likelihood, a sum over examples, and log prior; None where the density is not known to be such a sum"""


class Whitened(NamedTuple):
    """Parameter trees as vectors, each entry in units of the scale of its leaf."""

    origin: Array
    flatten: Callable[[Params], Array]
    unflatten: Callable[[Array], Params]

    def of(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """A function of parameters as one of positions."""
        return lambda position, *data: function(self.unflatten(position), *data)


def whiten(like: Params, scales: Params) -> Whitened:
    """Trees like this one, of which only shapes and dtypes are used, as vectors in units of the scales."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    origin, unravel = ravel_pytree(zeros)
    whitener = ravel_pytree(jax.tree.map(lambda leaf, s: jnp.full(leaf.shape, s, leaf.dtype), zeros, scales))[0]
    return Whitened(
        origin, lambda params: ravel_pytree(params)[0] / whitener, lambda position: unravel(position * whitener)
    )


def of_all_chains(
    target: Target, whitened: Whitened, config: HmcConfig, devices: Devices
) -> tuple[Callable[..., Any], Callable[..., tuple[Array, Array]]]:
    """What moves all chains by one trajectory, and their potential energies with gradients."""
    spread = spread_energy(*map(whitened.of, target.parts)) if target.parts and devices.shares > 1 else None

    def potential(inputs: Any, targets: Any) -> Callable[[Array], Array]:
        energy = spread
        if energy is not None:
            return lambda position: energy(position, inputs, targets)
        return lambda position: -whitened.of(target.log_density)(position, inputs, targets)

    def pieces(inputs: Any, targets: Any) -> Callable[[Array], Array]:
        return lambda position: whitened.of(target.log_likelihoods)(position, inputs, targets)

    def value_and_gradient(position: Array, inputs: Any, targets: Any) -> tuple[Array, Array]:
        return jax.value_and_grad(potential(inputs, targets))(position)

    def move_by_hmc(
        key_data: Array, position: Array, gradient: Array, potential_energy: Array, step_size: Array, leapfrogs: Array,
        inverse_mass: Array, always: Array, inputs: Any, targets: Any,
    ) -> Any:  # fmt: skip
        return trajectory.transition(
            pieces(inputs, targets), target.gaussian_prior, target.constant, jax.grad(potential(inputs, targets)),
            jax.random.wrap_key_data(key_data), position, gradient, potential_energy, step_size, leapfrogs,
            inverse_mass, devices.total, always if config.num_burn_in else None,
        )  # fmt: skip

    def move_by_nuts(
        key_data: Array, position: Array, gradient: Array, potential_energy: Array, step_size: Array, leapfrogs: Array,
        inverse_mass: Array, always: Array, inputs: Any, targets: Any,
    ) -> Any:  # fmt: skip
        del potential_energy, leapfrogs, always
        return no_u_turn.transition(
            pieces(inputs, targets), target.gaussian_prior, target.constant, config.max_tree_depth, key_data, position,
            gradient, step_size, inverse_mass, devices.shared,
        )  # fmt: skip

    data = devices.examples, devices.examples
    move = devices.over_chains(
        move_by_hmc if config.kernel == "hmc" else move_by_nuts,
        (CHAIN, CHAIN, CHAIN, CHAIN, EVERYWHERE, EVERYWHERE, EVERYWHERE, EVERYWHERE, *data),
        config.chains_at_once,
    )
    return move, devices.over_chains(value_and_gradient, (CHAIN, *data), config.chains_at_once)
