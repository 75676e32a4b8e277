"""Microcanonical Langevin: the volume that a turn shrinks, reversal, the order of a step, and the posterior itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from linear_gaussian import JOINT, LIKE, assert_standard_normal, exact_posterior, regression, whitened

from jaxgeo.errors import ConfigError
from jaxgeo.posteriors import microcanonical as mc
from jaxgeo.posteriors.log_joint import LogJoint


def unit(seed, dim):
    vector = np.random.default_rng(seed).normal(size=dim)
    return vector / np.linalg.norm(vector)


def tangents(direction):
    """Orthonormal columns that span what is orthogonal to a unit vector."""
    return np.linalg.svd(direction[None])[2][1:].T


@jax.jit
def turn_and_jacobian(u, g, time):
    jacobian = jax.jacfwd(lambda v: mc.turn(v / jnp.linalg.norm(v), g, time)[0])(u)
    return *mc.turn(u, g, time), jacobian


@given(seed=st.integers(0, 2**31 - 1), dim=st.sampled_from([2, 5]), time=st.floats(0.05, 3.0))
def test_a_turn_shrinks_the_volume_of_directions_by_the_exponential_of_the_kinetic_energy(seed, dim, time):
    with jax.enable_x64(True):
        u = unit(seed, dim)
        turned, rise, jacobian = turn_and_jacobian(
            jnp.asarray(u), jnp.asarray(3.0 * unit(seed + 1, dim)), jnp.asarray(time)
        )
        shrunk = np.linalg.det(tangents(np.asarray(turned)).T @ np.asarray(jacobian) @ tangents(u))
        np.testing.assert_allclose(np.log(abs(shrunk)), -float(rise), atol=1e-9)  # float64


def test_a_turn_solves_its_differential_equation():
    u, g = unit(0, 4), 2.0 * unit(1, 4)
    path = scipy.integrate.solve_ivp(lambda _, v: (g - v * (v @ g)) / 3.0, (0.0, 1.7), u, rtol=1e-10, atol=1e-12)
    with jax.enable_x64(True):
        turned, rise = mc.turn(jnp.asarray(u), jnp.asarray(g), jnp.asarray(1.7))
        np.testing.assert_allclose(turned, path.y[:, -1], atol=1e-8)  # the solver's own tolerance, grown
        # The kinetic energy rises by g.u, integrated over the time.
        work = scipy.integrate.simpson(g @ path.y, x=path.t)
        np.testing.assert_allclose(rise, work, rtol=1e-3)  # Simpson's rule on the solver's coarse grid


def test_a_very_steep_gradient_turns_the_direction_onto_itself():
    u, g = jnp.asarray(unit(0, 4), jnp.float32), jnp.asarray([0.0, 0.0, 1e6, 0.0])
    turned, rise = mc.turn(u, g, jnp.asarray(1.0))
    np.testing.assert_allclose(turned, [0, 0, 1, 0], atol=1e-6)  # float32
    np.testing.assert_allclose(rise, 1e6, rtol=1e-4)  # log cosh of a third of 1e6, three times: cosh itself overflows


def quartic(position):
    return -0.5 * jnp.sum(position**2 * jnp.arange(1.0, position.size + 1)) - 0.1 * jnp.sum(position**4)


def point(seed, dim=5):
    position = jnp.asarray(np.random.default_rng(seed).normal(size=dim))
    return mc.Point(position, jnp.asarray(unit(seed + 9, dim)), *jax.value_and_grad(quartic)(position))


def test_a_step_backwards_returns_and_its_energy_error_is_of_third_order():
    with jax.enable_x64(True):
        start, gradients = point(3), jax.value_and_grad(quartic)
        there, error = mc.leapfrog(gradients, start, jnp.asarray(0.3))
        back, other = mc.leapfrog(gradients, there._replace(direction=-there.direction), jnp.asarray(0.3))
        np.testing.assert_allclose(back.position, start.position, atol=1e-13)  # float64
        np.testing.assert_allclose(back.direction, -start.direction, atol=1e-13)
        np.testing.assert_allclose(other, -error, atol=1e-12)
        errors = [float(mc.leapfrog(gradients, start, jnp.asarray(size))[1]) for size in (2e-3, 1e-3)]
        assert abs(errors[0] / errors[1] - 8) < 0.1  # up to the next order, a few thousandths of the step


def test_noise_shortens_the_mean_direction_by_the_time_over_the_length():
    u = jnp.asarray(unit(0, 50), jnp.float32)
    noise = jax.random.normal(jax.random.key(0), (4000, 50))
    many = jax.vmap(lambda z: mc.refresh(z, u, jnp.asarray(0.5), jnp.asarray(2.0)))(noise)
    np.testing.assert_allclose(jnp.linalg.norm(many, axis=1), 1.0, atol=1e-5)  # float32
    # Up to 1 / d = 0.02 of the normalisation, and 5 standard errors of 0.002.
    np.testing.assert_allclose(jnp.mean(many @ u), np.exp(-0.25), atol=0.03)


def test_chains_end_in_the_posterior_of_linear_regression_and_keep_the_energy_variance():
    x, y = regression()
    config = mc.MicrocanonicalConfig(num_chains=400, num_tuning=1600, num_draws=1, thinning=400)
    starts = jax.tree.map(lambda leaf: jnp.zeros((400, *leaf.shape)), LIKE)
    draws, trace = mc.sample_chains(jax.random.key(0), starts, JOINT, x, y, config)
    last = jax.tree.map(lambda leaf: leaf[:, -1], draws)
    # Independent chains, so the standard errors hold; without acceptance the steps leave a bias of their own.
    assert_standard_normal(whitened(last, *exact_posterior(x, y)), bias=0.05)
    assert int(jnp.max(trace.lost)) == 0
    # A step comes from the 200 squared errors of a block, correlated and with heavy tails: nine chains of ten have 0.4
    # to 3.5 of what was wanted, and the median of the 400, of four keys, 1.05 to 1.14 of it.
    np.testing.assert_allclose(np.median(trace.energy_variance), config.energy_variance, rtol=0.35)


def test_the_length_of_a_wide_gaussian_is_that_of_damped_oscillators():
    # Nothing is learnt from inputs of zero: the posterior is the prior, a standard normal of 100 whitened dimensions.
    joint, zeros = LogJoint(lambda params, inputs: inputs @ params["kernel"]), jnp.zeros((1, 20))
    starts = {"kernel": jax.random.normal(jax.random.key(1), (6, 20, 5)) / np.sqrt(20)}
    data = zeros, jnp.zeros(1, jnp.int32)
    found = {}
    for variance in (1e-6, 5e-4):
        config = mc.MicrocanonicalConfig(
            num_chains=6, num_tuning=1600, num_draws=1, thinning=1, energy_variance=variance
        )
        _, trace = mc.sample_chains(jax.random.key(0), starts, joint, *data, config)
        # In units of sqrt(d): of the step the mean, as all chains have nearly the same.
        found[variance] = np.asarray(trace.decoherence_length) / 10, float(jnp.mean(trace.step_size)) / 10
    # In time t / sqrt(d) each parameter obeys x'' + g x' + x = noise, where g = sqrt(d) / L: its autocorrelation
    # integrates to 2 g, over both sides. The first guess is L = sqrt(d), so g = 1, and 0.4 of 2 is 0.8.
    lengths, step = found[1e-6]
    assert step < 0.25  # which leaves 2 % of discretisation
    # A variance of ten means of 100 parameters is known to 5 %, and 6 chains to 2 %; the first guess to 2 % more.
    np.testing.assert_allclose(np.mean(lengths), 0.8, rtol=0.1)
    # Of longer steps the same with that oscillator's own steps: half of the noise, half a kick, drift, and back.
    lengths, step = found[5e-4]
    np.testing.assert_allclose(np.mean(lengths), 0.4 * step * correlation_time(step), rtol=0.1)


def correlation_time(h):
    """Integrated autocorrelation time, in steps, of the position of an oscillator at unit friction."""
    noise, kick, drift = np.diag([1, np.exp(-h / 2)]), np.array([[1, 0], [-h / 2, 1]]), np.array([[1, h], [0, 1]])
    there = kick @ drift @ kick
    whole, fresh = noise @ there @ noise, np.diag([0, -np.expm1(-h)])
    added = noise @ there @ fresh @ there.T @ noise + fresh
    stationary = scipy.linalg.solve_discrete_lyapunov(whole, added)
    tail = np.linalg.solve(np.eye(2) - whole, whole @ stationary)
    return 1 + 2 * tail[0, 0] / stationary[0, 0]


def test_a_step_into_nothing_is_taken_back():
    def wall(position):
        inside = jnp.sum(position**2) < 1.0
        return jnp.where(inside, 0.0, -jnp.inf), jnp.zeros_like(position)

    start = mc.Point(jnp.full(3, 0.1), jnp.asarray([1.0, 0.0, 0.0]), jnp.asarray(0.0), jnp.zeros(3))
    moved, error, fine = mc.step(jax.random.key(0), wall, start, jnp.asarray(9.0), jnp.asarray(1.0))
    assert not fine
    assert error == 0.0
    np.testing.assert_array_equal(moved.position, start.position)
    np.testing.assert_array_equal(moved.direction, -start.direction)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_chains=0), "num_chains must be a whole number of at least 1, got 0"),
        (dict(num_tuning=0), "step_size and decoherence_length must both be given"),
        (dict(energy_variance=0.0), "energy_variance must be a finite number above 0"),
        (dict(chains_at_once=0), "chains_at_once must be a whole number of at least 1 or None, got 0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        mc.MicrocanonicalConfig(**changes)


def test_one_parameter_has_no_direction():
    with pytest.raises(ConfigError, match="at least 2 dimensions, got 1 parameter"):
        mc.sample_chain(jax.random.key(0), {"kernel": jnp.zeros((1, 1))}, JOINT, jnp.zeros((2, 1)), jnp.zeros((2, 1)),
                        mc.MicrocanonicalConfig())  # fmt: skip
