r"""One transition of Hamiltonian Monte Carlo of fixed length, whose change of energy survives float32.

Energies of networks are large: with 50,000 examples and some hundred thousand weights, a likelihood of about $10^4$
nats, a prior and a kinetic energy of about $10^5$ each. A sum in float32 knows them to a hundredth or worse, and the
acceptance needs their difference to better than that. So differences are taken first and summed then: example by
example of the likelihood, coordinate by coordinate of the prior, $\tfrac12 (x' - x)(x' + x)$, and of the kinetic energy
likewise.

References:
    Neal, "MCMC using Hamiltonian dynamics", arXiv:1206.1901 (leapfrog, equations 2.28 to 2.30).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

LogLikelihoods = Callable[[Array], Array]
"""Of a whitened position: log-probabilities of the examples, in nats, or any pieces whose sum is the log density."""

Total = Callable[[Array], Array]
"""The sum of all entries; where the examples are spread over devices, of those of all devices."""

DIVERGENCE = 1000.0
"""rise of the energy, in nats, from which on a trajectory counts as divergent, as in Stan and NumPyro"""


def half_square_change(new: Float[Array, "*shape"], old: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """(new^2 - old^2) / 2 without the digits that a difference of squares loses."""
    return 0.5 * (new - old) * (new + old)


def energy_change(
    new_pieces: Float[Array, " piece"],
    old_pieces: Float[Array, " piece"],
    positions: tuple[Float[Array, " dim"], Float[Array, " dim"]] | None,
    momenta: tuple[Float[Array, " dim"], Float[Array, " dim"]],
    inverse_mass: Float[Array, " dim"],
    total: Total = jnp.sum,
) -> Float[Array, ""]:
    """Rise of the total energy in nats: new minus old, summed as differences.

    Args:
        new_pieces: of the log density, such as log-probabilities of the examples.
        old_pieces: the same where the trajectory began.
        positions: (new, old), where the density has a standard normal prior beside its pieces.
        momenta: (new, old).
        inverse_mass: diagonal.
        total: sums the pieces.
    """
    change = jnp.sum(inverse_mass * half_square_change(*momenta)) - total(new_pieces - old_pieces)
    return change if positions is None else change + jnp.sum(half_square_change(*positions))


def leapfrog(
    gradient_of: Callable[[Array], Array],
    position: Float[Array, " dim"],
    momentum: Float[Array, " dim"],
    gradient: Float[Array, " dim"],
    step_size: Float[Array, ""],
    steps: Int[Array, ""],
    inverse_mass: Float[Array, " dim"],
) -> tuple[Float[Array, " dim"], Float[Array, " dim"], Float[Array, " dim"]]:
    """(position, momentum, gradient) after so many steps; reversible, and volumes are kept.

    Args:
        gradient_of: gradient of the potential energy.
        position: where it starts.
        momentum: with which.
        gradient: of the potential energy there.
        step_size: of time.
        steps: their number.
        inverse_mass: diagonal.
    """

    def step(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        position, momentum, gradient = carry
        momentum = momentum - 0.5 * step_size * gradient
        position = position + step_size * inverse_mass * momentum
        gradient = gradient_of(position)
        return position, momentum - 0.5 * step_size * gradient, gradient

    return jax.lax.fori_loop(0, steps, step, (position, momentum, gradient))


def transition(
    log_likelihoods: LogLikelihoods,
    gaussian_prior: bool,
    constant: float,
    gradient_of: Callable[[Array], Array],
    key: PRNGKeyArray,
    position: Float[Array, " dim"],
    gradient: Float[Array, " dim"],
    potential_energy: Float[Array, ""],
    step_size: Float[Array, ""],
    steps: Int[Array, ""],
    inverse_mass: Float[Array, " dim"],
    total: Total = jnp.sum,
    always: Bool[Array, ""] | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """One transition of one chain.

    Args:
        log_likelihoods: pieces of the log density, without the prior where `gaussian_prior` says so.
        gaussian_prior: whether the log density has -|position|^2 / 2 beside the pieces.
        constant: rest of the potential energy, which only its record takes notice of.
        gradient_of: gradient of the potential energy, all of it.
        key: of momentum and acceptance; the next key comes back.
        position: whitened.
        gradient: of the potential energy there.
        potential_energy: there, for the record.
        step_size: of time.
        steps: of the leapfrog.
        inverse_mass: diagonal.
        total: sums the pieces.
        always: the chain goes to the trajectory's end whatever its energy, if only that is finite.

    Returns:
        What the chain carries on: `key_data`, `position`, `gradient`, `potential_energy`; and what is recorded:
        `potential_energy`, `energy`, `acceptance`, `diverging`, `num_leapfrogs`.
    """
    next_key, momentum_key, accept_key = jax.random.split(key, 3)
    momentum = jax.random.normal(momentum_key, position.shape, position.dtype) * jax.lax.rsqrt(inverse_mass)
    end, last, end_gradient = leapfrog(gradient_of, position, momentum, gradient, step_size, steps, inverse_mass)

    pieces = log_likelihoods(end)
    change = energy_change(
        pieces, log_likelihoods(position), (end, position) if gaussian_prior else None, (last, momentum), inverse_mass,
        total,
    )  # fmt: skip
    potential_end = constant - total(pieces)
    if gaussian_prior:
        potential_end = potential_end + 0.5 * jnp.sum(end**2)
    change = jnp.where(jnp.isnan(change), jnp.inf, change)
    accepted: Bool[Array, ""] = -jnp.log(jax.random.uniform(accept_key, (), position.dtype)) > change
    if always is not None:
        accepted = accepted | (always & jnp.isfinite(change))

    def chosen(new: Array, old: Array) -> Array:
        return jnp.where(accepted, new, old)

    potential = chosen(potential_end, potential_energy)
    # The kinetic energy of where the chain now is, as the total of the transition's end.
    kinetic = 0.5 * jnp.sum(inverse_mass * chosen(last, momentum) ** 2)
    moved = {
        "key_data": jax.random.key_data(next_key),
        "position": chosen(end, position),
        "gradient": chosen(end_gradient, gradient),
        "potential_energy": potential,
    }
    row = {
        "potential_energy": potential,
        "energy": potential + kinetic,
        "acceptance": jnp.exp(-jnp.maximum(change, 0.0)),
        "diverging": change > DIVERGENCE,
        "num_leapfrogs": jnp.asarray(steps, jnp.int32),
    }
    return moved, row
