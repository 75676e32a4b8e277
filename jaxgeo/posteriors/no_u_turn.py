r"""One transition of NumPyro's NUTS, by energies that are measured from where it begins.

What a trajectory is judged by are differences of energy, of a nat or less; the energies themselves are those of all
examples and of all weights, $10^5$ nats, of which float32 does not know the hundredths. So NumPyro is given, in place
of the potential energy, its rise since the start of the transition, summed as differences example by example and
coordinate by coordinate, and in place of the kinetic energy its excess over $d/2$, its mean: every summand has
the mean 0, and sums stay of the order of $\sqrt d$.

References:
    Hoffman and Gelman, "The No-U-Turn Sampler", arXiv:1111.4246; Betancourt, "A conceptual introduction to Hamiltonian
    Monte Carlo", arXiv:1701.02434 (multinomial sampling along the trajectory, as NumPyro has it).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from jaxgeo.posteriors.trajectory import LogLikelihoods, half_square_change

Shared = Callable[[Any], Any]
"""Of a tree of sums over a device's own examples: the same over the examples of all devices."""


def rise_of_potential(
    log_likelihoods: LogLikelihoods, gaussian_prior: bool, start: Float[Array, " dim"], shared: Shared = lambda own: own
) -> Callable[[Array], Array]:
    """The potential energy of a position less that of `start`, in nats, with its gradient.

    Args:
        log_likelihoods: pieces of the log density, of a device's own examples.
        gaussian_prior: whether the log density has -|position|^2 / 2 beside the pieces.
        start: a whitened position.
        shared: sums over the devices.
    """
    pieces_there = log_likelihoods(start)

    def value_and_gradient(position: Array) -> tuple[Array, Array]:
        own = jax.value_and_grad(lambda x: -jnp.sum(log_likelihoods(x) - pieces_there))(position)
        value, gradient = shared(own)
        if not gaussian_prior:
            return value, gradient
        return value + jnp.sum(half_square_change(position, start)), gradient + position

    # Value and gradient are summed over the devices outright, which the derivative of such a sum would not be.
    @jax.custom_vjp
    def rise(position: Array) -> Array:
        return value_and_gradient(position)[0]

    rise.defvjp(value_and_gradient, lambda gradient, cotangent: (cotangent * gradient,))
    return rise


def kinetic_excess(inverse_mass: Float[Array, " dim"], momentum: Float[Array, " dim"]) -> Float[Array, ""]:
    """Kinetic energy less d/2, its mean over momenta, in nats."""
    return jnp.sum(0.5 * (inverse_mass * momentum**2 - 1.0))


def transition(
    log_likelihoods: LogLikelihoods,
    gaussian_prior: bool,
    constant: float,
    max_tree_depth: int,
    key_data: UInt32[Array, " word"],
    position: Float[Array, " dim"],
    gradient: Float[Array, " dim"],
    step_size: Float[Array, ""],
    inverse_mass: Float[Array, " dim"],
    shared: Shared = lambda own: own,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """One transition of one chain; NumPyro's own adaptation stays off.

    Args:
        log_likelihoods: pieces of the log density, without the prior where `gaussian_prior` says so.
        gaussian_prior: whether the log density has -|position|^2 / 2 beside the pieces.
        constant: rest of the potential energy, which only its record takes notice of.
        max_tree_depth: a trajectory has at most 2^max_tree_depth - 1 steps.
        key_data: of all that is drawn; the next key's comes back.
        position: whitened.
        gradient: of the potential energy there.
        step_size: of time.
        inverse_mass: diagonal.
        shared: sums over the devices.

    Returns:
        What the chain carries on: `key_data`, `position`, `gradient`, `potential_energy`; and what is recorded:
        `potential_energy`, `energy`, `acceptance`, `diverging`, `num_leapfrogs`.
    """
    rise = rise_of_potential(log_likelihoods, gaussian_prior, position, shared)
    init_kernel, sample_kernel = hmc(potential_fn=rise, kinetic_fn=kinetic_excess, algo="NUTS")
    state = init_kernel(
        ParamInfo(position, jnp.zeros_like(step_size), gradient),
        num_warmup=0,
        step_size=step_size,  # pyright: ignore[reportArgumentType] -- a traced number
        inverse_mass_matrix=inverse_mass,
        adapt_step_size=False,
        adapt_mass_matrix=False,
        rng_key=jax.random.wrap_key_data(key_data),
        max_tree_depth=max_tree_depth,
    )
    state = sample_kernel(state)
    # Anew and whole: a sum of rises would gather the rounding of a whole chain.
    potential = constant - shared(jnp.sum(log_likelihoods(state.z)))
    if gaussian_prior:
        potential = potential + 0.5 * jnp.sum(state.z**2)
    kinetic = state.energy - state.potential_energy + 0.5 * position.size
    moved = {
        "key_data": jax.random.key_data(state.rng_key),
        "position": state.z,
        "gradient": state.z_grad,
        "potential_energy": potential,
    }
    row = {
        "potential_energy": potential,
        "energy": potential + kinetic,
        "acceptance": state.accept_prob,
        "diverging": state.diverging,
        "num_leapfrogs": jnp.asarray(state.num_steps, jnp.int32),
    }
    return moved, row
