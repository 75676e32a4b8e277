"""Burning in: whole trajectories that are all accepted, at the step size as it is given, before anything adapts."""

import dataclasses

import jax
import numpy as np
import pytest
from linear_gaussian import JOINT, LIKE, assert_standard_normal, exact_posterior, regression, whitened

from jaxgeo.errors import ConfigError
from jaxgeo.posteriors.hmc import HmcConfig, plan_hmc

KEY = jax.random.key(0)
CONFIG = HmcConfig(
    num_chains=3, num_warmup=6, num_burn_in=4, num_draws=2, step_size=0.06, trajectory_length=0.5, warmup_leapfrogs=2
)


def run(config):
    data = regression()
    sampler = plan_hmc(JOINT, LIKE, config)
    state = sampler.init(KEY, *data)
    states = [state]
    for _ in range(config.num_transitions):
        state, _ = sampler.run(state, *data, 1)
        states.append(state)
    return states, sampler.run(states[0], *data)[1]


def test_every_end_is_accepted_and_nothing_adapts_until_the_burn_in_is_over():
    states, trace = run(CONFIG)
    # Whole trajectories of jittered length, then those of the adaptation, then whole ones again.
    assert (trace.num_leapfrogs[:, :4] >= 4).all()
    assert (trace.num_leapfrogs[:, 4:6] == 2).all()
    np.testing.assert_allclose(trace.step_size[:, :4] * trace.num_leapfrogs[:, :4], 0.5, rtol=0.31)  # the jitter
    assert (trace.acceptance[:, :4] < 0.9).any()  # of those some would be refused with a word in it
    for i in range(4):
        assert (states[i].position != states[i + 1].position).any(axis=-1).all()
        assert states[i + 1].step_size == np.float32(0.06)
        np.testing.assert_array_equal(states[i + 1].averaging, states[0].averaging)
    assert states[5].step_size != states[4].step_size


def test_the_dynamics_are_those_without_burn_in_but_for_what_is_accepted():
    # One transition from the same state and key, at the same step size: the end is the same where it is accepted.
    sure = dataclasses.replace(CONFIG, num_chains=16, num_warmup=1, num_burn_in=1, num_draws=1, step_size=0.075)
    one, trace = run(sure)
    other, _ = run(dataclasses.replace(sure, num_warmup=0, num_burn_in=0))
    moved = (np.asarray(other[1].position) != np.asarray(other[0].position)).any(axis=-1)
    assert moved.any()
    # The same arithmetic in two programs: float32.
    np.testing.assert_allclose(one[1].position[moved], other[1].position[moved], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(one[1].key_data, other[1].key_data)
    assert moved[trace.acceptance[:, 0] == 1.0].all()


def test_draws_after_a_burn_in_are_of_the_posterior():
    data = regression()
    config = HmcConfig(
        num_chains=500, num_warmup=30, num_burn_in=15, num_draws=1, thinning=5, step_size=0.05, max_leapfrogs=64,
        warmup_leapfrogs=16,
    )  # fmt: skip
    sampler = plan_hmc(JOINT, LIKE, config)
    _, trace = sampler.run(sampler.init(KEY, *data), *data)
    # Independent chains.
    assert_standard_normal(whitened(sampler.draws(trace.position[:, 0]), *exact_posterior(*data)))


def test_an_impossible_burn_in_is_refused():
    with pytest.raises(ConfigError, match="num_burn_in of HMC, a part of num_warmup, must"):
        dataclasses.replace(CONFIG, num_burn_in=7)
    with pytest.raises(ConfigError, match="which NUTS does not have; got num_burn_in 4"):
        dataclasses.replace(CONFIG, kernel="nuts")
