"""NUTS by rises of energy: NumPyro's own chain in float64, and changes that float32 does not lose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from jaxgeo.posteriors.no_u_turn import kinetic_excess, rise_of_potential, transition


@pytest.mark.parametrize("gaussian_prior", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_transition_is_that_of_numpyro_on_whole_energies(seed, gaussian_prior):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        design, targets = jnp.asarray(rng.normal(size=(30, 5))), jnp.asarray(rng.normal(size=30))
        inverse_mass = jnp.asarray(rng.uniform(0.5, 2.0, size=5))
        position, step_size, key = jnp.asarray(rng.normal(size=5)), jnp.asarray(0.02), jax.random.key(seed)

        def log_likelihoods(x):
            return -0.5 * (design @ x - targets) ** 2

        def potential(x):
            return 3.0 - jnp.sum(log_likelihoods(x)) + (0.5 * jnp.sum(x**2) if gaussian_prior else 0.0)

        moved, row = transition(
            log_likelihoods, gaussian_prior, 3.0, 6, jax.random.key_data(key), position, jax.grad(potential)(position),
            step_size, inverse_mass,
        )  # fmt: skip
        init, sample = hmc(potential_fn=potential, algo="NUTS")
        state = init(
            ParamInfo(position, potential(position), jax.grad(potential)(position)),
            num_warmup=0, step_size=step_size, inverse_mass_matrix=inverse_mass, adapt_step_size=False,
            adapt_mass_matrix=False, rng_key=key, max_tree_depth=6,
        )  # fmt: skip
        state = sample(state)
        # 63 steps in float64 at most, of energies of some 30 nats.
        close = dict(rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(moved["position"], state.z, **close)
        np.testing.assert_allclose(moved["gradient"], state.z_grad, **close)
        np.testing.assert_allclose(moved["potential_energy"], state.potential_energy, **close)
        np.testing.assert_allclose(row["energy"], state.energy, **close)
        np.testing.assert_allclose(row["acceptance"], state.accept_prob, **close)
        assert int(row["num_leapfrogs"]) == int(state.num_steps) > 2
        assert np.any(np.asarray(state.z) != np.asarray(position))


@pytest.mark.parametrize("seed", range(3))
def test_rises_of_large_energies_are_known_to_a_hundredth(seed):
    rng = np.random.default_rng(seed)
    dim, examples = 250_000, 50_000
    start, momentum = rng.normal(size=(2, dim)).astype(np.float32)
    end, last = (x + 0.002 * rng.normal(size=dim).astype(np.float32) for x in (start, momentum))

    def pieces(x):
        return -(x.reshape(examples, -1)[:, 0] ** 2)

    def energies(position, momentum):
        """Potential and kinetic, in float64."""
        position, momentum = position.astype(float), momentum.astype(float)
        return 0.5 * np.sum(position**2) - np.sum(pieces(position)), 0.5 * np.sum(momentum**2)

    exact = np.subtract(energies(end, last), energies(start, momentum))
    start, momentum, end, last = map(jnp.asarray, (start, momentum, end, last))
    rise = rise_of_potential(pieces, True, start)
    ones = jnp.ones(dim)
    excesses = kinetic_excess(ones, last), kinetic_excess(ones, momentum)
    assert abs(float(rise(end)) - exact[0]) < 0.002
    assert abs(float(excesses[0]) - float(excesses[1]) - exact[1]) < 0.002
    # Whole, both are beyond 100,000 nats, whose last digit is 0.008.
    assert min(energies(np.asarray(start), np.asarray(momentum))) > 1e5
    value, gradient = jax.value_and_grad(rise)(end)
    assert float(value) == float(rise(end))
    whole = jax.grad(lambda x: 0.5 * jnp.sum(x**2) - jnp.sum(pieces(x)))(end)
    np.testing.assert_allclose(gradient, whole, rtol=1e-6, atol=1e-6)  # float32
